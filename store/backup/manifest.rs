//! The file `BACKUP`: what belongs to a backup, and whether it is all there.

use std::path::Path;

use orlop_saga::id::{Incarnation, Lsn, StoreId, TenantId};
use orlop_saga::time::WallMillis;
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::blob::read_blob;
use crate::checkpoint::read_file;
use crate::disk::Disk;
use crate::projection::{self, BLOBS};
use crate::projector::export_path;
use crate::sealed::{self, UnsealError};
use crate::tables::Change;
use crate::tables::export::{ExportEnd, ExportError, read_export};

pub(super) const MANIFEST: &str = "BACKUP";
pub(super) const MANIFEST_NEW: &str = "BACKUP.new";
const KIND: sealed::Kind = sealed::Kind {
    magic: *b"orlopBAK",
    version: 1,
};

/// What a backup says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The store that it is of.
    pub store: StoreId,
    /// Everything up to here is in it.
    pub lsn: Lsn,
    /// The incarnation of the store when it was taken.
    pub incarnation: Incarnation,
    /// When it was taken.
    pub at: WallMillis,
    /// Bytes of its export.
    pub export_bytes: u64,
    /// How many blobs belong to it.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
}

impl Backup {
    pub(super) fn seal(&self) -> Result<Vec<u8>, BackupError> {
        let body = postcard::to_stdvec(self).map_err(|e| BackupError::Mismatch {
            file: MANIFEST.into(),
            reason: e.to_string(),
        })?;
        Ok(sealed::seal(KIND, &body))
    }
}

/// What the backup in `folder` says of itself.
///
/// # Errors
/// [`BackupError`]: it is none, or cannot be read.
pub fn read(disk: &dyn Disk, folder: &Path) -> Result<Backup, BackupError> {
    let file = folder.join(MANIFEST);
    if !disk.exists(&file).map_err(BackupError::io("look", &file))? {
        return Err(BackupError::Unfinished {
            path: folder.to_path_buf(),
        });
    }
    let refused = |source| BackupError::Manifest {
        path: folder.to_path_buf(),
        source,
    };
    let bytes = read_file(disk, &file).map_err(BackupError::io("read", &file))?;
    let body = sealed::unseal(KIND, &bytes).map_err(refused)?;
    match postcard::take_from_bytes(body) {
        Ok((backup, [])) => Ok(backup),
        Ok((_, [_, ..])) | Err(_) => Err(refused(UnsealError::Damaged)),
    }
}

/// Reads all of the backup in `folder`: every checksum, every blob that a row names.
///
/// # Errors
/// [`BackupError`]: it cannot be restored.
pub fn verify(disk: &dyn Disk, folder: &Path) -> Result<Backup, BackupError> {
    let backup = read(disk, folder)?;
    let file = export_path(folder, backup.lsn);
    let (mut blobs, mut blob_bytes) = (0_u64, 0_u64);
    let mut failed: Option<BackupError> = None;
    let end = read_export(disk, &file, backup.store, &mut |changes| {
        for blob in blobs_of(&changes) {
            let (tenant, blob) = match blob {
                Ok(blob) => blob,
                Err(error) => return Err(keep(&mut failed, error)),
            };
            if let Err(error) = read_blob(disk, folder, tenant, blob) {
                return Err(keep(&mut failed, error.into()));
            }
            blobs = blobs.saturating_add(1);
            blob_bytes = blob_bytes.saturating_add(blob.bytes);
        }
        Ok(())
    });
    let end = end.map_err(|error| failed.take().unwrap_or(error.into()))?;
    backup
        .matches(&end, blobs, blob_bytes)
        .map_err(|reason| BackupError::Mismatch {
            file,
            reason: reason.into(),
        })?;
    Ok(backup)
}

impl Backup {
    pub(super) fn matches(
        &self,
        end: &ExportEnd,
        blobs: u64,
        blob_bytes: u64,
    ) -> Result<(), &'static str> {
        if end.lsn != self.lsn || end.live.lsn() != self.lsn {
            return Err("it ends at another lsn");
        }
        if end.live.incarnation() != self.incarnation {
            return Err("it is of another incarnation");
        }
        if (blobs, blob_bytes) != (self.blobs, self.blob_bytes) {
            return Err("its rows name other blobs");
        }
        Ok(())
    }
}

/// Keeps the error that stopped a reader, whose own error cannot carry it.
pub(super) fn keep(failed: &mut Option<BackupError>, error: BackupError) -> ExportError {
    let reason = error.to_string();
    *failed = Some(error);
    ExportError::Refused { reason }
}

type Named = (TenantId, orlop_saga::blob::BlobRef);

/// The blobs that rows name which are put.
pub(super) fn blobs_of(changes: &[Change]) -> impl Iterator<Item = Result<Named, BackupError>> {
    changes.iter().filter_map(|change| match change {
        Change::Put { key, value } if key.first() == Some(&BLOBS) => {
            Some(projection::decode_blob(key, value).map_err(BackupError::from))
        }
        Change::Put { .. } | Change::Remove { .. } => None,
    })
}
