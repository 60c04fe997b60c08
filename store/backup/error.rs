//! Why there is no backup, and why none was restored.

use std::io;
use std::path::PathBuf;

use crate::audit::TrailError;
use crate::blob::BlobError;
use crate::log::OpenLogError;
use crate::projection::RowError;
use crate::projector::ProjectorError;
use crate::sealed::UnsealError;
use crate::tables::export::ExportError;

/// Why a backup was not written or is not one. The store that it is of is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The folder has something in it. Nothing was written. Give an empty or a new one.
    #[error("{path} has {entry} in it; nothing was written; give an empty folder or a new one")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        entry: String,
    },
    /// The folder has no `BACKUP`: it is no backup, or one that did not end. Remove it and back up
    /// again.
    #[error("{path} has no BACKUP: it is no backup, or one that did not end")]
    Unfinished {
        /// The folder.
        path: PathBuf,
    },
    /// `BACKUP` is not what was written, or was written by a newer version.
    #[error("BACKUP of {path} cannot be used: {source}")]
    Manifest {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: UnsealError,
    },
    /// What belongs to the backup does not say what `BACKUP` says. Use another backup.
    #[error("{file} is not what BACKUP says: {reason}")]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The export cannot be read. Use another backup.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A row of the export is not understood. Use a newer version of this library.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A blob is missing or damaged. Use another backup.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The projector did not write the export: nothing of the backup may be used.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    /// The audit trail cannot be copied. What was written is no backup; remove it and back up again.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// The disk refused. What was written is no backup; remove it and back up again.
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
    /// The system gave no thread to write it with. Nothing was written.
    #[error("no thread could be started")]
    Thread {
        /// What it said.
        source: io::Error,
    },
    /// Called in a forked child, or the store is closed. Nothing was written.
    #[error("the store is closed here")]
    Closed,
}

impl BackupError {
    pub(super) fn io(
        operation: &'static str,
        file: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io {
            operation,
            file,
            source,
        }
    }
}

/// Why a backup did not become a store. What was written is no store and never opens as one;
/// remove it and restore again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The backup cannot be used, or the new folder not.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The journal was not made.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// The system gave no random bytes for the id of a clone. Nothing was written.
    #[error("no random bytes: {reason}")]
    Random {
        /// What it said.
        reason: String,
    },
}

impl From<ExportError> for RestoreError {
    fn from(error: ExportError) -> Self {
        Self::Backup(error.into())
    }
}
