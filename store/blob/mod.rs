//! Blobs: outcomes too long for a record, in digest-named files per tenant.
//!
//! `blobs/TENANT/DIGEST` has the canonical bytes of an output and nothing else; its name says what
//! they must be. The record, the row and the export carry a
//! [`BlobRef`] instead. A blob that cannot be written is no failure:
//! the output then goes into the record like any other.
//!
//! Invariants
//! - A blob and its name are durable before the record that names it is appended.
//! - A blob is unlinked only after a checkpoint, when no row names it, nothing on its way to the
//!   journal does, and every export kept ended after the last row that named it was removed: what
//!   the tables can be rebuilt from names no blob that is gone.
//! - Files that nothing names are what a crash left before the record: swept at open.
//! - After the disk failed other than by being full, no blob is written any more.

mod files;
mod keeper;
mod ledger;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use orlop_saga::blob::BlobRef;
use orlop_saga::id::TenantId;

pub(crate) use self::files::sweep_leftovers;
pub use self::files::{blob_path, read_blob};
pub(crate) use self::keeper::{Carried, Keeper};
pub(crate) use self::ledger::Ledger;

/// Bounds of blobs.
#[derive(Clone, Copy, Debug)]
pub struct BlobOptions {
    /// Outputs of at least so many bytes are kept in blobs; 4 KiB to 1 GiB. Default 64 KiB.
    pub bytes_min: u64,
    /// Bytes of blobs that one tenant may have, those waiting to be unlinked included, before its
    /// new work is refused. What runs already may exceed it by its outcomes. Default 4 GiB.
    pub tenant_bytes_max: u64,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self {
            bytes_min: 64 << 10,
            tenant_bytes_max: 4 << 30,
        }
    }
}

/// Why the bytes of a blob were not read. The row that names it is sound, and nothing else is
/// affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The file is missing or has other bytes. Restore it from a backup.
    #[error("blob {blob} at {file} is damaged: {reason}")]
    Damaged {
        /// What was looked for.
        blob: BlobRef,
        /// Where.
        file: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The disk refused. Ask again.
    #[error("{operation} failed on {file}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file or folder.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Keeps every blob where it is, for whoever copies a store that is open. Dropping it lets blobs
/// be unlinked again, at the next checkpoint.
#[derive(Debug)]
#[must_use = "blobs may be unlinked again once it is dropped"]
pub struct BlobHold(Arc<Ledger>);

impl BlobHold {
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Self {
        ledger.hold();
        Self(Arc::clone(ledger))
    }

    /// Bytes of one tenant's blobs.
    pub fn bytes_of(&self, tenant: TenantId) -> u64 {
        self.0.bytes_of(tenant)
    }
}

impl Drop for BlobHold {
    fn drop(&mut self) {
        self.0.let_go();
    }
}
