//! Stores from outside an engine: checking closed ones, checking backups, and making stores of them.

use std::path::Path;
use std::sync::Arc;

use orlop_saga::audit::{AuditEntry, ChainHead};
use orlop_saga::id::{Incarnation, StoreId};
use orlop_saga::time::Clock;
use orlop_store::audit::{self, Verified, VerifyError};
use orlop_store::backup::{self, Backup, BackupError, Restore, RestoreError, Restored};
use orlop_store::check::{CheckError, CheckOptions, Report};
use orlop_store::disk::{FileDisk, ReadOnlyDisk};
use orlop_store::log::LogOptions;

use crate::clock::SystemClock;

/// How a store is made of a backup.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions {
    /// Bounds of the journal that is made: those that the store will be opened with.
    pub log: LogOptions,
    /// The outside refuses older fences, so those of a restored store begin above whatever the
    /// original used after the backup was taken. By default that is told by the wall clock, in
    /// milliseconds: no store is opened that often. Where the clock may be behind that of an
    /// earlier restore of the same store, give an incarnation that was certainly never reached.
    pub incarnation_min: Option<Incarnation>,
}

impl RestoreOptions {
    fn plan(self) -> Restore {
        Restore {
            from_disk: Arc::new(ReadOnlyDisk),
            disk: Arc::new(FileDisk),
            log: self.log,
            now: SystemClock::default().wall(),
            incarnation_min: self.incarnation_min,
        }
    }
}

/// Makes the store of a backup again, in a folder that is new or empty, in the newest format.
///
/// It keeps its id, so the outside knows its work: never open the original again. What the original
/// did after the backup is asked about: from now on every `External` computation of the store is
/// reconciled before its first run. New sagas have ids that the original cannot have given.
/// Blocks.
///
/// # Errors
/// [`RestoreError`]: there is no store in `into`, and none opens there.
pub fn restore(
    from: impl AsRef<Path>,
    into: impl AsRef<Path>,
    options: RestoreOptions,
) -> Result<Restored, RestoreError> {
    options.plan().restore(from.as_ref(), into.as_ref())
}

/// Makes another store of a backup, with an id of its own, in a folder that is new or empty, in the
/// newest format. The original may go on.
///
/// Outcomes and tenants are copied. Unfinished `Pure` effects run here too. Unfinished `External`
/// effects and all unfinished sagas are stuck, with a reason that names the original: under the new
/// id the outside would take them for other work, and the original goes on with them. Deadlines and
/// wishes to cancel stay with it. An operator
/// who has one tried again here has it done a second time. Blocks.
///
/// # Errors
/// [`RestoreError`]: there is no store in `into`, and none opens there.
pub fn clone_store(
    from: impl AsRef<Path>,
    into: impl AsRef<Path>,
    options: RestoreOptions,
) -> Result<Restored, RestoreError> {
    options.plan().clone_store(from.as_ref(), into.as_ref())
}

/// Reads all of a backup, changing nothing: every checksum, and every blob that a row names.
/// Blocks.
///
/// # Errors
/// [`BackupError`]: it cannot be restored.
pub fn verify_backup(folder: impl AsRef<Path>) -> Result<Backup, BackupError> {
    backup::verify(&ReadOnlyDisk, folder.as_ref())
}

/// Reads the audit trail of a closed store, or of a backup, changing nothing; `seen` gets every
/// entry with its number, from 1. Blocks.
///
/// - `exported`: a [head](crate::Engine::audit_head) that was kept elsewhere: nothing up to it was
///   changed or removed if this answers.
///
/// # Errors
/// [`VerifyError`]: it is not what was written, or not all of it.
pub fn verify_audit(
    folder: impl AsRef<Path>,
    store: StoreId,
    exported: Option<ChainHead>,
    mut seen: impl FnMut(u64, &AuditEntry),
) -> Result<Verified, VerifyError> {
    audit::verify(&ReadOnlyDisk, folder.as_ref(), store, exported, &mut seen)
}

/// Reads everything in the folder of a closed store and compares it, changing nothing: every frame,
/// record, checkpoint, export, row and blob. The tables are copied to the system's folder for
/// temporary files, since opening them writes. Blocks.
///
/// A store that is open is checked by a [backup](crate::Engine::backup), which is read back.
///
/// # Errors
/// [`CheckError`]: it was not looked at. That something is wrong is no error but a finding.
pub fn check(folder: impl AsRef<Path>) -> Result<Report, CheckError> {
    let options = CheckOptions {
        scratch: std::env::temp_dir(),
        findings_max: 1000,
        now: SystemClock::default().wall(),
    };
    orlop_store::check::check(folder.as_ref(), &options)
}
