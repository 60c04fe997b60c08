//! Writing a backup of a store that is open.

use std::path::{Path, PathBuf};

use orlop_saga::id::{StoreId, TenantId};
use orlop_saga::time::WallMillis;

use super::BackupError;
use super::manifest::{self, Backup, MANIFEST, MANIFEST_NEW, blobs_of, keep};
use crate::audit;
use crate::blob::{BlobHold, blob_path, read_blob};
use crate::disk::Disk;
use crate::projector::{Exported, Projector, ProjectorError};
use crate::tables::export::read_export;

/// What a backup is written from.
pub(crate) struct Writing<'a> {
    pub(crate) disk: &'a dyn Disk,
    /// The store's folder.
    pub(crate) folder: &'a Path,
    pub(crate) store: StoreId,
    pub(crate) projector: &'a Projector,
    pub(crate) at: WallMillis,
    /// No blob goes away for as long.
    pub(crate) hold: BlobHold,
}

impl Writing<'_> {
    /// Writes it into `into`, a new folder or an empty one.
    pub(crate) fn run(self, into: &Path) -> Result<Backup, BackupError> {
        begin(self.disk, into, MANIFEST_NEW)?;
        let exported = self.export(into)?;
        let (blobs, blob_bytes) = self.copy_blobs(&exported.file, into)?;
        let backup = Backup {
            store: self.store,
            lsn: exported.lsn,
            incarnation: exported.incarnation,
            at: self.at,
            export_bytes: exported.bytes,
            blobs,
            blob_bytes,
        };
        drop(self.hold);
        // It does not stop data from being backed up that the trail is damaged: it is not read back.
        audit::copy(self.disk, self.folder, self.disk, into)?;
        let new = into.join(MANIFEST_NEW);
        let name = into.join(MANIFEST);
        let file = self
            .disk
            .open(&new)
            .map_err(BackupError::io("open", &new))?;
        file.write_all_at(0, &backup.seal()?)
            .and_then(|()| file.sync_data())
            .and_then(|()| self.disk.rename(&new, &name))
            .and_then(|()| self.disk.sync_dir(into))
            .map_err(BackupError::io("write", &name))?;
        manifest::verify(self.disk, into)
    }

    fn export(&self, into: &Path) -> Result<Exported, BackupError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let answer = move |result| {
            // The receiver is below, and waits.
            let _ = sender.send(result);
        };
        self.projector.backup(into.to_path_buf(), Box::new(answer));
        let exported = receiver.recv().unwrap_or(Err(ProjectorError::Closed))?;
        Ok(exported)
    }

    /// Copies the blobs that the export names; answers how many there are, and their bytes.
    fn copy_blobs(&self, export: &Path, into: &Path) -> Result<(u64, u64), BackupError> {
        copy_blobs(self.disk, self.folder, export, self.store, self.disk, into)
    }
}

/// Makes sure that a folder is there and empty, and marks it as begun, durably.
pub(super) fn begin(disk: &dyn Disk, folder: &Path, mark: &str) -> Result<(), BackupError> {
    if disk
        .exists(folder)
        .map_err(BackupError::io("look", folder))?
    {
        let found = disk.list(folder).map_err(BackupError::io("list", folder))?;
        if let Some(entry) = found.first().and_then(|path| path.file_name()) {
            return Err(BackupError::NotEmpty {
                path: folder.to_path_buf(),
                entry: entry.to_string_lossy().into_owned(),
            });
        }
    } else {
        disk.create_dir(folder)
            .map_err(BackupError::io("create", folder))?;
    }
    let mark = folder.join(mark);
    let begin = || {
        disk.create(&mark)?.sync_data()?;
        disk.sync_dir(folder)?;
        folder.parent().map_or(Ok(()), |parent| {
            let here = Path::new(".");
            disk.sync_dir(if parent.as_os_str().is_empty() {
                here
            } else {
                parent
            })
        })
    };
    begin().map_err(BackupError::io("begin", &mark))
}

/// Copies the blobs that an export names from one folder to another, durably; answers how many
/// rows name one, and their bytes.
pub(super) fn copy_blobs(
    from_disk: &dyn Disk,
    from: &Path,
    export: &Path,
    store: StoreId,
    disk: &dyn Disk,
    into: &Path,
) -> Result<(u64, u64), BackupError> {
    let mut copy = BlobCopy {
        disk,
        into,
        folder: None,
    };
    let (mut blobs, mut blob_bytes) = (0_u64, 0_u64);
    let mut failed: Option<BackupError> = None;
    let read = read_export(from_disk, export, store, &mut |changes| {
        for blob in blobs_of(&changes) {
            let (tenant, blob) = match blob {
                Ok(blob) => blob,
                Err(error) => return Err(keep(&mut failed, error)),
            };
            let copied = match read_blob(from_disk, from, tenant, blob) {
                Ok(bytes) => {
                    let name = blob_path(into, tenant, blob.digest);
                    copy.write(tenant, &name, bytes.as_bytes())
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = copied {
                return Err(keep(&mut failed, error));
            }
            blobs = blobs.saturating_add(1);
            blob_bytes = blob_bytes.saturating_add(blob.bytes);
        }
        Ok(())
    });
    read.map_err(|error| failed.take().unwrap_or(error.into()))?;
    copy.end()?;
    Ok((blobs, blob_bytes))
}

/// Blobs on their way into a folder.
struct BlobCopy<'a> {
    disk: &'a dyn Disk,
    into: &'a Path,
    /// The folder of the tenant that was written to last.
    folder: Option<(TenantId, PathBuf)>,
}

impl BlobCopy<'_> {
    fn write(&mut self, tenant: TenantId, name: &Path, bytes: &[u8]) -> Result<(), BackupError> {
        if self.folder.as_ref().is_none_or(|(of, _)| *of != tenant) {
            self.end()?;
            let folder = name.parent().map(Path::to_path_buf).unwrap_or_default();
            let blobs = folder.parent().map(Path::to_path_buf).unwrap_or_default();
            for (parent, dir) in [(self.into, &blobs), (&blobs, &folder)] {
                let made = match self.disk.exists(dir) {
                    Ok(true) => Ok(()),
                    Ok(false) => self.disk.create_dir(dir),
                    Err(error) => Err(error),
                };
                made.and_then(|()| self.disk.sync_dir(parent))
                    .map_err(BackupError::io("create", dir))?;
            }
            self.folder = Some((tenant, folder));
        }
        let write = || {
            // Another outcome names it too.
            if self.disk.exists(name)? {
                return Ok(());
            }
            let file = self.disk.create(name)?;
            file.write_all_at(0, bytes)?;
            file.sync_data()
        };
        write().map_err(BackupError::io("write", name))
    }

    /// Makes the names durable that were written last.
    fn end(&mut self) -> Result<(), BackupError> {
        match self.folder.take() {
            Some((_, folder)) => self
                .disk
                .sync_dir(&folder)
                .map_err(BackupError::io("sync", &folder)),
            None => Ok(()),
        }
    }
}
