//! Backups: a store at one moment, in a folder of its own, and stores made from one.
//!
//! | name | what |
//! | --- | --- |
//! | `BACKUP` | sealed: whose it is and what belongs to it; written last |
//! | `BACKUP.new` | a backup that has not ended |
//! | `export-LSN` | all rows and the fold at one lsn |
//! | `blobs/TENANT/DIGEST` | the blobs that the rows name |
//!
//! An export says everything that a store is, so no segment of the journal is needed and none is
//! pinned: writers go on, and rows that change behind the copy follow it. A restored store begins a
//! new journal at the lsn after the export's.
//!
//! Invariants
//! - A backup has the name `BACKUP` only when everything else of it is synced and was read back;
//!   until then it is neither restored nor opened.
//! - A backup never opens as a store: it has no `FORMAT`. A restore that did not end has none
//!   either, and `RESTORE.new` instead.
//! - A restored store is above every fence and saga id that the original may have used since, and
//!   asks the outside before it changes it; a clone has another id, and parks what the original
//!   goes on with.

mod error;
mod manifest;
mod restore;
mod write;

pub use self::error::{BackupError, RestoreError};
pub use self::manifest::{Backup, read as read_manifest, verify};
pub use self::restore::{Restore, Restored};
pub(crate) use self::write::Writing;
