//! Exports: all rows and the fold at one lsn in one file, from which fresh tables can be filled.
//!
//! Layout: `orlopEXP`, version (4, little-endian), store id (16), then frames: length of the body
//! (4), kind (1), body, checksum (16). A frame of kind 1 has changes, to be applied in order; the
//! last one, of kind 2, the lsn, the sum of the rows and the fold.
//!
//! Invariants
//! - Each checksum covers the one before: no frame is believed out of place or without those
//!   before it, and no file without its last.
//! - An export has its name only when it has been synced and read back.

use std::io;
use std::path::{Path, PathBuf};

use orlop_saga::compat::{BodyError, Format, Persisted, RowChange, push, take};
use orlop_saga::id::{Lsn, StoreId};
use orlop_saga::live::Live;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile};
use crate::projection;
use crate::tables::{Change, RowSum};

const MAGIC: &[u8; 8] = b"orlopEXP";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 28;
const CHANGES: u8 = 1;
const END: u8 = 2;
const CHECKSUM_BYTES: u64 = 16;
/// No frame is larger: a length beyond is damage, not a reason to allocate.
const FRAME_BYTES_MAX: u32 = 1 << 30;

/// Why an export was not written or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The disk refused. There is no such export; older ones are as they were.
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
    /// The file is not what was written. Nothing of it may be believed. Use another export or a
    /// backup.
    #[error("{file} is damaged at {offset}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A newer version of the library wrote it. Open the store with that version.
    #[error("{file} has version {version}, this library reads up to {version_max}")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest that is read here.
        version_max: u32,
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
    /// Whoever was given the rows could not take them.
    #[error("the rows of an export were not taken: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// One frame would be too large. There is no such export.
    #[error("a frame of {bytes} bytes is over {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most a frame may have.
        bytes_max: u64,
    },
}

/// What an export stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportEnd {
    /// Everything up to here is in it.
    pub lsn: Lsn,
    /// The number of its rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sum of their checksums.
    pub checksums: u64,
    /// The fold of everything unfinished at that lsn.
    pub live: Live,
}

impl Persisted for ExportEnd {
    fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        let Self {
            lsn,
            rows,
            bytes: row_bytes,
            checksums,
            live,
        } = self;
        push(&(lsn, rows, row_bytes, checksums), bytes)?;
        live.push_v1(bytes)
    }

    fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        let ((lsn, rows, row_bytes, checksums), rest) = take(bytes)?;
        let (live, rest) = Live::take_v1(rest)?;
        let end = Self {
            lsn,
            rows,
            bytes: row_bytes,
            checksums,
            live,
        };
        Ok((end, rest))
    }

    fn push_v2(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        let Self {
            lsn,
            rows,
            bytes: row_bytes,
            checksums,
            live,
        } = self;
        push(&(lsn, rows, row_bytes, checksums), bytes)?;
        live.push_v2(bytes)
    }

    fn take_v2(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        let ((lsn, rows, row_bytes, checksums), rest) = take(bytes)?;
        let (live, rest) = Live::take_v2(rest)?;
        let end = Self {
            lsn,
            rows,
            bytes: row_bytes,
            checksums,
            live,
        };
        Ok((end, rest))
    }
}

impl ExportEnd {
    /// The sum of the rows once every change is applied.
    pub fn sum(&self) -> RowSum {
        RowSum {
            rows: self.rows,
            bytes: self.bytes,
            checksums: self.checksums,
        }
    }
}

/// An export being written under a temporary name.
#[derive(Debug)]
pub struct ExportWriter {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    chain: [u8; 16],
    format: Format,
}

impl ExportWriter {
    /// Starts an export in `path`, replacing what was left of another one there.
    ///
    /// # Errors
    /// [`ExportError::Io`]: nothing was started.
    pub fn create(
        disk: &dyn Disk,
        path: PathBuf,
        store: StoreId,
        format: Format,
    ) -> Result<Self, ExportError> {
        let failed = |operation, source| ExportError::Io {
            operation,
            file: path.clone(),
            source,
        };
        if disk.exists(&path).map_err(|e| failed("look", e))? {
            disk.remove(&path).map_err(|e| failed("remove", e))?;
        }
        let file = disk.create(&path).map_err(|e| failed("create", e))?;
        let mut head = Vec::with_capacity(28);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(store.as_bytes());
        file.write_all_at(0, &head)
            .map_err(|e| failed("write", e))?;
        Ok(Self {
            file,
            path,
            offset: HEAD_BYTES,
            chain: first_16(&blake3::hash(&head)),
            format,
        })
    }

    /// Bytes written so far.
    pub fn byte_len(&self) -> u64 {
        self.offset
    }

    /// Adds changes; empty ones add nothing.
    ///
    /// # Errors
    /// [`ExportError`]: the export cannot be used.
    pub fn changes(&mut self, changes: &[Change]) -> Result<(), ExportError> {
        if changes.is_empty() {
            return Ok(());
        }
        let rows: Vec<RowChange> = changes
            .iter()
            .map(|change| (change.key().to_vec(), change.value().map(<[u8]>::to_vec)))
            .collect();
        self.frame(CHANGES, &rows)
    }

    /// Ends the export, syncs it, reads it back and gives it its name.
    ///
    /// # Errors
    /// [`ExportError`]: there is no export of that name, or, if only the folder's sync failed,
    /// there may be one.
    pub fn finish(
        mut self,
        disk: &dyn Disk,
        name: &Path,
        store: StoreId,
        end: &ExportEnd,
    ) -> Result<(), ExportError> {
        self.frame(END, end)?;
        let failed = |operation, file: &Path, source| ExportError::Io {
            operation,
            file: file.to_path_buf(),
            source,
        };
        self.file
            .sync_data()
            .map_err(|e| failed("sync", &self.path, e))?;
        let read = read_export(disk, &self.path, store, &mut |_| Ok(()))?;
        // As far as the format can say it: an older one leaves counts out.
        let said = |end: &ExportEnd| projection::encode(self.format, end).ok();
        if said(&read) != said(end) {
            return Err(ExportError::Damaged {
                file: self.path,
                offset: self.offset,
            });
        }
        disk.rename(&self.path, name)
            .map_err(|e| failed("rename", name, e))?;
        if let Some(folder) = name.parent() {
            disk.sync_dir(folder).map_err(|e| {
                // A name that the disk may not have must not stand for those before it, which go
                // once there is another, and the journal with them.
                let _ = disk.remove(name);
                failed("sync", folder, e)
            })?;
        }
        Ok(())
    }

    fn frame<T: Persisted>(&mut self, kind: u8, value: &T) -> Result<(), ExportError> {
        let body = projection::encode(self.format, value).map_err(|e| ExportError::Refused {
            reason: e.to_string(),
        })?;
        let too_large = || ExportError::TooLarge {
            bytes: body.len() as u64,
            bytes_max: FRAME_BYTES_MAX.into(),
        };
        let length = u32::try_from(body.len()).map_err(|_| too_large())?;
        if length > FRAME_BYTES_MAX {
            return Err(too_large());
        }
        self.chain = link(&self.chain, kind, &body);
        let mut frame = Vec::with_capacity(body.len().saturating_add(21));
        frame.extend_from_slice(&length.to_le_bytes());
        frame.push(kind);
        frame.extend_from_slice(&body);
        frame.extend_from_slice(&self.chain);
        self.file
            .write_all_at(self.offset, &frame)
            .map_err(|source| ExportError::Io {
                operation: "write",
                file: self.path.clone(),
                source,
            })?;
        self.offset = self.offset.saturating_add(frame.len() as u64);
        Ok(())
    }
}

/// Reads an export, handing over its changes in order; all of it is sound only once it is all
/// read.
///
/// # Errors
/// [`ExportError`]: what was handed over may not be used.
pub fn read_export(
    disk: &dyn Disk,
    path: &Path,
    store: StoreId,
    take: &mut dyn FnMut(Vec<Change>) -> Result<(), ExportError>,
) -> Result<ExportEnd, ExportError> {
    let mut reader = Reader::open(disk, path)?;
    let head = reader.take(HEAD_BYTES)?;
    let damaged = |offset| ExportError::Damaged {
        file: path.to_path_buf(),
        offset,
    };
    let parts = head.strip_prefix(MAGIC).and_then(|rest| {
        let (version, rest) = rest.split_first_chunk::<4>()?;
        Some((u32::from_le_bytes(*version), rest.first_chunk::<16>()?))
    });
    let (version, id) = parts.ok_or_else(|| damaged(0))?;
    if version > VERSION {
        return Err(ExportError::Newer {
            file: path.to_path_buf(),
            version,
            version_max: VERSION,
        });
    }
    let mut chain = first_16(&blake3::hash(&head));
    loop {
        let at = reader.offset;
        let (kind, body) = reader.frame(&mut chain)?;
        match kind {
            CHANGES => {
                let rows: Vec<RowChange> = projection::decode(&body).map_err(|_| damaged(at))?;
                take(rows.into_iter().map(change).collect())?;
            }
            END => {
                let end: ExportEnd = projection::decode(&body).map_err(|_| damaged(at))?;
                if !reader.is_at_end() {
                    return Err(damaged(reader.offset));
                }
                // Only now is the head known to be what was written.
                let found = StoreId::new(*id);
                if found != store {
                    return Err(ExportError::OtherStore {
                        file: path.to_path_buf(),
                        found,
                        expected: store,
                    });
                }
                return Ok(end);
            }
            _ => return Err(damaged(at)),
        }
    }
}

fn change((key, value): (Vec<u8>, Option<Vec<u8>>)) -> Change {
    match value {
        Some(value) => Change::Put { key, value },
        None => Change::Remove { key },
    }
}

struct Reader<'a> {
    file: Box<dyn DiskFile>,
    path: &'a Path,
    offset: u64,
    length: u64,
}

impl<'a> Reader<'a> {
    fn open(disk: &dyn Disk, path: &'a Path) -> Result<Self, ExportError> {
        let failed = |operation, source| ExportError::Io {
            operation,
            file: path.to_path_buf(),
            source,
        };
        let file = disk.open(path).map_err(|e| failed("open", e))?;
        let length = file.len().map_err(|e| failed("measure", e))?;
        Ok(Self {
            file,
            path,
            offset: 0,
            length,
        })
    }

    fn is_at_end(&self) -> bool {
        self.offset == self.length
    }

    fn damaged(&self) -> ExportError {
        ExportError::Damaged {
            file: self.path.to_path_buf(),
            offset: self.offset,
        }
    }

    /// The next `bytes` bytes, all of them.
    fn take(&mut self, bytes: u64) -> Result<Vec<u8>, ExportError> {
        if self.length.saturating_sub(self.offset) < bytes {
            return Err(self.damaged());
        }
        let size = usize::try_from(bytes).map_err(|_| self.damaged())?;
        let mut buffer = vec![0; size];
        self.file
            .read_exact_at(self.offset, &mut buffer)
            .map_err(|source| ExportError::Io {
                operation: "read",
                file: self.path.to_path_buf(),
                source,
            })?;
        self.offset = self.offset.saturating_add(bytes);
        Ok(buffer)
    }

    fn frame(&mut self, chain: &mut [u8; 16]) -> Result<(u8, Vec<u8>), ExportError> {
        let at = self.offset;
        let head = self.take(5)?;
        let (length, kind) = head
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| Some((u32::from_le_bytes(*length), *rest.first()?)))
            .ok_or_else(|| self.damaged())?;
        let body = self.take(length.into())?;
        let checksum = self.take(CHECKSUM_BYTES)?;
        *chain = link(chain, kind, &body);
        if checksum == *chain {
            Ok((kind, body))
        } else {
            Err(ExportError::Damaged {
                file: self.path.to_path_buf(),
                offset: at,
            })
        }
    }
}

/// The checksum of a frame after the one whose checksum is `chain`.
fn link(chain: &[u8; 16], kind: u8, body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(chain);
    hasher.update(&[kind]);
    hasher.update(body);
    first_16(&hasher.finalize())
}

fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(hash.as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
    first
}

#[cfg(test)]
mod tests;
