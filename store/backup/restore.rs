//! Making a store from a backup: the same store again, or another one that begins where it was.

use std::path::Path;
use std::sync::Arc;

use orlop_saga::compat::Format;
use orlop_saga::id::{Incarnation, SagaId, StoreId};
use orlop_saga::live::Live;
use orlop_saga::time::WallMillis;

use super::manifest::{self, Backup, keep};
use super::write::{begin, copy_blobs};
use super::{BackupError, RestoreError};
use crate::audit;
use crate::disk::Disk;
use crate::folder::{FORMAT, FORMAT_NEW, LOG, format_bytes};
use crate::log::{FileLog, LogOptions};
use crate::projector::export_path;
use crate::tables::export::{ExportEnd, ExportWriter, read_export};

/// Marks a folder in which a restore has not ended.
pub(crate) const MARK: &str = "RESTORE.new";
const EXPORT_NEW: &str = "export.new";

/// A backup that is to become a store, in the newest format.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Where the backup is read.
    pub from_disk: Arc<dyn Disk>,
    /// Where the store is written.
    pub disk: Arc<dyn Disk>,
    /// Bounds of the journal that is made.
    pub log: LogOptions,
    /// The time now. Fences and saga ids of the restored store begin above it, so that they are
    /// above all that the original used since the backup: it must not be behind the clock of an
    /// earlier restore of the same store. Where it may be, give `incarnation_min`.
    pub now: WallMillis,
    /// An incarnation that the original is known not to have reached, if the clock cannot be
    /// trusted to say one.
    pub incarnation_min: Option<Incarnation>,
}

/// A store that was made from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its id: that of the backup, or a new one.
    pub store: StoreId,
    /// The backup.
    pub backup: Backup,
    /// It is opened above this incarnation.
    pub incarnation: Incarnation,
}

impl Restore {
    /// Makes the store of the backup `from` again in the folder `into`, which is new or empty. It
    /// keeps its id: of it and the original, open only one from now on.
    ///
    /// # Errors
    /// [`RestoreError`]: there is no store in `into`, and none opens there.
    pub fn restore(&self, from: &Path, into: &Path) -> Result<Restored, RestoreError> {
        let backup = manifest::read(&*self.from_disk, from)?;
        self.make(&backup, from, into, backup.store, |live, beyond| {
            live.restore(beyond.0, beyond.1);
        })
    }

    /// Makes another store out of the backup `from` in the folder `into`, which is new or empty. It
    /// has an id of its own, under which the outside knows nothing of what the original did: what
    /// was unfinished and changes the outside, every unfinished saga included, waits for an
    /// operator.
    ///
    /// # Errors
    /// [`RestoreError`]: there is no store in `into`, and none opens there.
    pub fn clone_store(&self, from: &Path, into: &Path) -> Result<Restored, RestoreError> {
        let backup = manifest::read(&*self.from_disk, from)?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| RestoreError::Random {
            reason: e.to_string(),
        })?;
        self.make(&backup, from, into, StoreId::new(id), |live, _| {
            live.part_from(backup.store);
        })
    }

    fn make(
        &self,
        backup: &Backup,
        from: &Path,
        into: &Path,
        store: StoreId,
        recast: impl FnOnce(&mut Live, (Incarnation, SagaId)),
    ) -> Result<Restored, RestoreError> {
        let disk = &*self.disk;
        begin(disk, into, MARK)?;
        let made = FileLog::create_at(
            Arc::clone(&self.disk),
            &into.join(LOG),
            self.log,
            store,
            backup.lsn.next(),
        )?;
        drop(made);
        let export = export_path(from, backup.lsn);
        let blobs = copy_blobs(&*self.from_disk, from, &export, backup.store, disk, into)?;
        if store == backup.store {
            // A clone is another store: its trail is its own.
            audit::copy(&*self.from_disk, from, disk, into).map_err(BackupError::from)?;
        }
        let beyond = self.beyond(backup);
        let recast = |live: &mut Live| recast(live, beyond);
        let end = self.copy_export(backup, blobs, from, (into, store), recast)?;
        let name = into.join(FORMAT);
        let new = into.join(FORMAT_NEW);
        let write = || {
            let file = disk.create(&new)?;
            file.write_all_at(0, &format_bytes(store))?;
            file.sync_data()?;
            disk.rename(&new, &name)?;
            disk.sync_dir(into)?;
            // From here on it is a store; the mark means nothing any more.
            disk.remove(&into.join(MARK))
        };
        write().map_err(BackupError::io("write", &name))?;
        Ok(Restored {
            store,
            backup: *backup,
            incarnation: end.live.incarnation(),
        })
    }

    /// What the original cannot have reached since the backup. An opening takes longer than a
    /// millisecond, and a store starts less than a million sagas in one.
    fn beyond(&self, backup: &Backup) -> (Incarnation, SagaId) {
        let now = self.now.get().max(backup.at.get());
        let incarnation = self.incarnation_min.unwrap_or_default().get().max(now);
        (Incarnation::new(incarnation), SagaId::new(now << 20))
    }

    /// Copies the export under the id of the new store, with its fold recast; refuses one that is
    /// not of this backup.
    fn copy_export(
        &self,
        backup: &Backup,
        (blobs, blob_bytes): (u64, u64),
        from: &Path,
        (into, store): (&Path, StoreId),
        recast: impl FnOnce(&mut Live),
    ) -> Result<ExportEnd, RestoreError> {
        let disk = &*self.disk;
        let new = into.join(EXPORT_NEW);
        let mut writer = ExportWriter::create(disk, new, store, Format::NEWEST)?;
        let mut failed: Option<BackupError> = None;
        let read = read_export(
            &*self.from_disk,
            &export_path(from, backup.lsn),
            backup.store,
            &mut |changes| {
                let written = writer.changes(&changes);
                written.map_err(|error| keep(&mut failed, error.into()))
            },
        );
        let mut end = read.map_err(|error| failed.take().unwrap_or(error.into()))?;
        backup
            .matches(&end, blobs, blob_bytes)
            .map_err(|reason| BackupError::Mismatch {
                file: export_path(from, backup.lsn),
                reason: reason.into(),
            })?;
        recast(&mut end.live);
        writer.finish(disk, &export_path(into, backup.lsn), store, &end)?;
        Ok(end)
    }
}
