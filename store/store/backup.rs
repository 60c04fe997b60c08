//! Backing up a store that is open.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::Store;
use crate::backup::{Backup, BackupError, Writing};
use crate::folder::check_process;

impl Store {
    /// Writes a backup of everything that was acknowledged before the call, and perhaps more, into
    /// a new or empty folder; reads it back; and answers what it has. Blocks for as long as the
    /// disk takes, while the store goes on with its work.
    ///
    /// # Errors
    /// [`BackupError`]: there is no backup in `into`.
    pub fn backup(&self, into: &Path) -> Result<Backup, BackupError> {
        let inner = &*self.inner;
        if check_process(inner.pid).is_err() || inner.closing.load(Ordering::Acquire) {
            return Err(BackupError::Closed);
        }
        let writing = Writing {
            disk: &*inner.disk,
            folder: &inner.folder,
            store: inner.id,
            projector: &inner.projector,
            at: inner.clock.wall(),
            hold: self.hold_blobs(),
        };
        writing.run(into)
    }
}
