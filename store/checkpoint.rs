//! Checkpoints: the fold of everything unfinished, so that nothing unfinished pins the journal.
//!
//! A checkpoint is the sealed file `checkpoint-LSN`; the two newest are kept. It is written only
//! once the tables have everything up to its lsn durably, so it also says what they must have.
//!
//! Invariants
//! - A checkpoint has its name only when it is whole and synced.
//! - The one before the newest is kept, and the journal from it on.

use std::io;
use std::path::{Path, PathBuf};

use orlop_saga::compat::{BodyError, Format, Persisted, push, take};
use orlop_saga::id::{Lsn, StoreId};
use orlop_saga::live::Live;
use orlop_saga::time::WallMillis;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::log::is_no_space;
use crate::projection;
use crate::sealed::{self, UnsealError};

const PREFIX: &str = "checkpoint-";
const NEW: &str = "checkpoint.new";
const KIND: sealed::Kind = sealed::Kind {
    magic: *b"orlopCHK",
    version: 1,
};
/// How many checkpoints are kept.
const KEPT: usize = 2;

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose it is.
    pub store: StoreId,
    /// When it was written.
    pub at: WallMillis,
    /// Bytes of the journal since the newest export: however often a store is reopened, the next
    /// one comes due.
    pub unexported_bytes: u64,
    /// The fold; its lsn is the checkpoint's, and the tables had everything up to it.
    pub live: Live,
}

impl Persisted for Checkpoint {
    fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        let Self {
            store,
            at,
            unexported_bytes,
            live,
        } = self;
        push(&(store, at, unexported_bytes), bytes)?;
        live.push_v1(bytes)
    }

    fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        let ((store, at, unexported_bytes), rest) = take(bytes)?;
        let (live, rest) = Live::take_v1(rest)?;
        let checkpoint = Self {
            store,
            at,
            unexported_bytes,
            live,
        };
        Ok((checkpoint, rest))
    }

    fn push_v2(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        let Self {
            store,
            at,
            unexported_bytes,
            live,
        } = self;
        push(&(store, at, unexported_bytes), bytes)?;
        live.push_v2(bytes)
    }

    fn take_v2(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        let ((store, at, unexported_bytes), rest) = take(bytes)?;
        let (live, rest) = Live::take_v2(rest)?;
        let checkpoint = Self {
            store,
            at,
            unexported_bytes,
            live,
        };
        Ok((checkpoint, rest))
    }
}

/// Why a checkpoint was not written, or none could be looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The disk refused. Older checkpoints are as they were.
    #[error("{operation} failed on {file}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The encoder refused. Nothing was written.
    #[error("the fold cannot be encoded: {reason}")]
    Encode {
        /// What it said.
        reason: String,
    },
    /// A newer version of the library wrote it. Open the store with that version.
    #[error("{file}: {source}")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version and ours.
        source: UnsealError,
    },
    /// It is of another store. Check which folder was mounted.
    #[error("{file} is of store {found}, not of {expected}")]
    OtherStore {
        /// The file.
        file: PathBuf,
        /// Whose it is.
        found: StoreId,
        /// Whose it should be.
        expected: StoreId,
    },
}

impl CheckpointError {
    /// Whether there was no space for it: then nothing else is wrong, and another may be written
    /// later.
    pub(crate) fn is_no_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_no_space(source),
            Self::Encode { .. } | Self::Newer { .. } | Self::OtherStore { .. } => false,
        }
    }
}

/// What was found of the checkpoints in a folder.
#[derive(Debug)]
pub struct Found {
    /// The newest that is sound.
    pub newest: Option<Checkpoint>,
    /// Files that are damaged.
    pub damaged: Vec<PathBuf>,
}

/// Looks for the newest sound checkpoint in `folder`.
///
/// # Errors
/// [`CheckpointError`]: a file could not be read, or may not be.
pub fn find(disk: &dyn Disk, folder: &Path, store: StoreId) -> Result<Found, CheckpointError> {
    let mut found = Found {
        newest: None,
        damaged: Vec::new(),
    };
    for (_, file) in list(disk, folder)?.into_iter().rev() {
        let bytes = read_file(disk, &file).map_err(|source| CheckpointError::Io {
            operation: "read",
            file: file.clone(),
            source,
        })?;
        let body = match sealed::unseal(KIND, &bytes) {
            Ok(body) => body,
            Err(source @ UnsealError::Newer { .. }) => {
                return Err(CheckpointError::Newer { file, source });
            }
            Err(UnsealError::Foreign | UnsealError::Damaged) => {
                found.damaged.push(file);
                continue;
            }
        };
        let Ok(checkpoint) = projection::decode::<Checkpoint>(body) else {
            found.damaged.push(file);
            continue;
        };
        if checkpoint.store != store {
            return Err(CheckpointError::OtherStore {
                file,
                found: checkpoint.store,
                expected: store,
            });
        }
        found.newest = Some(checkpoint);
        break;
    }
    Ok(found)
}

/// Writes a checkpoint in a format and forgets those beyond the two newest.
///
/// # Errors
/// [`CheckpointError`]: there may be such a checkpoint only if the folder's sync failed.
pub fn write(
    disk: &dyn Disk,
    folder: &Path,
    checkpoint: &Checkpoint,
    format: Format,
) -> Result<(), CheckpointError> {
    let body = projection::encode(format, checkpoint).map_err(|e| CheckpointError::Encode {
        reason: e.to_string(),
    })?;
    let name = format!("{PREFIX}{:016x}", checkpoint.live.lsn().get());
    write_atomic(disk, folder, NEW, &name, &sealed::seal(KIND, &body))?;
    let mut kept = list(disk, folder)?;
    while kept.len() > KEPT {
        let (_, file) = kept.remove(0);
        disk.remove(&file).map_err(|source| CheckpointError::Io {
            operation: "remove",
            file,
            source,
        })?;
    }
    Ok(())
}

/// What one checkpoint says, or what is wrong with it.
pub(crate) fn read(disk: &dyn Disk, file: &Path, store: StoreId) -> Result<Checkpoint, String> {
    let bytes = read_file(disk, file).map_err(|error| format!("it cannot be read: {error}"))?;
    let body = sealed::unseal(KIND, &bytes).map_err(|error| error.to_string())?;
    let checkpoint: Checkpoint = projection::decode(body).map_err(|error| error.to_string())?;
    if checkpoint.store == store {
        Ok(checkpoint)
    } else {
        Err(format!("it is of store {}", checkpoint.store))
    }
}

/// The lsn of the oldest checkpoint kept: the journal after it is still needed.
///
/// # Errors
/// [`CheckpointError::Io`]: unknown.
pub fn oldest(disk: &dyn Disk, folder: &Path) -> Result<Option<Lsn>, CheckpointError> {
    Ok(list(disk, folder)?.first().map(|(lsn, _)| *lsn))
}

/// Removes files found damaged, so that they do not count as kept.
///
/// # Errors
/// [`CheckpointError::Io`]: a file is still there.
pub fn remove(disk: &dyn Disk, files: Vec<PathBuf>) -> Result<(), CheckpointError> {
    for file in files {
        disk.remove(&file).map_err(|source| CheckpointError::Io {
            operation: "remove",
            file,
            source,
        })?;
    }
    Ok(())
}

/// The checkpoints in a folder by lsn, oldest first.
pub(crate) fn list(disk: &dyn Disk, folder: &Path) -> Result<Vec<(Lsn, PathBuf)>, CheckpointError> {
    let paths = disk.list(folder).map_err(|source| CheckpointError::Io {
        operation: "list",
        file: folder.to_path_buf(),
        source,
    })?;
    let mut checkpoints: Vec<(Lsn, PathBuf)> = paths
        .into_iter()
        .filter_map(|path| {
            let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            let lsn = u64::from_str_radix(digits, 16).ok()?;
            Some((Lsn::new(lsn), path))
        })
        .collect();
    checkpoints.sort();
    Ok(checkpoints)
}

/// Writes a whole file under a temporary name, syncs it, and gives it its own.
fn write_atomic(
    disk: &dyn Disk,
    folder: &Path,
    temporary: &str,
    name: &str,
    bytes: &[u8],
) -> Result<(), CheckpointError> {
    let new = folder.join(temporary);
    let file = folder.join(name);
    let write = || {
        if disk.exists(&new)? {
            disk.remove(&new)?;
        }
        let open = disk.create(&new)?;
        open.write_all_at(0, bytes)?;
        open.sync_data()?;
        disk.rename(&new, &file)
    };
    let failed = |source| CheckpointError::Io {
        operation: "write",
        file: file.clone(),
        source,
    };
    write().map_err(|error| {
        if is_no_space(&error) {
            // What it took is given back; if that fails, the next one begins with it.
            let _ = disk.remove(&new);
        }
        failed(error)
    })?;
    // It has its name, durably or not: that is no mere lack of space.
    disk.sync_dir(folder)
        .map_err(|error| failed(io::Error::other(error)))
}

/// All bytes of a file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
