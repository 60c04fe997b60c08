//! Tables on sled: one tree, one writing thread, and the care that sled needs.
//!
//! A physical key is `0` (the meta row), `1` and the row's key, or `2`, the row's key, a
//! generation and an index (a chunk of a long value). The meta row is the sentinel: the store's
//! id, the applied mark and the [`RowSum`], changed in the same batch as the rows.
//!
//! Invariants
//! - No error or panic of sled passes this module: each call runs guarded, and the first failure
//!   poisons. A host built with `panic = "abort"` is not protected by that: it opens only trees
//!   that are byte for byte what a close left, and has all others rebuilt.
//! - sled's own flush is not trusted: its files are synced here, through a descriptor that is
//!   open from before the first write, so that no failed write-back goes unreported.
//! - No batch is over 256 KiB and no value over 4 KiB.
//! - A long value is complete before the row that names it; chunks that no row names are swept
//!   at open.

mod closed;
mod files;
mod folder;
mod meta;
mod nudge;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_saga::id::{Lsn, StoreId};

pub use self::folder::SledHome;
pub(crate) use self::folder::current_tree;

use self::files::SledFiles;
use self::meta::Meta;
use self::nudge::nudged;
use crate::tables::row::{Envelope, checksum};
use crate::tables::{Change, RowSum, Tables, TablesError, TablesSize, Visit};

const META_KEY: &[u8] = &[0];
const ROW: u8 = 1;
const CHUNK: u8 = 2;

/// Most bytes of one batch: the window within which sled's recovery was found sound.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a value in a page, its envelope included.
const PAGE_VALUE_BYTES_MAX: usize = 4096;
/// Bytes of a value beside its envelope.
const CHUNK_BYTES: usize = PAGE_VALUE_BYTES_MAX - 32;
/// sled's worker threads may hold the file's lock a little longer than the tree lives.
const LOCK_TRIES_MAX: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// How long a flush may take before it is seen to that sled has not forgotten it.
const FLUSH_PAUSE: Duration = Duration::from_secs(2);

/// How sled is used.
#[derive(Clone, Copy, Debug)]
pub struct SledOptions {
    /// Bytes of sled's page cache. 1 MiB to 64 GiB.
    pub cache_bytes: u64,
    /// Bytes of the longest key.
    pub key_bytes_max: u64,
    /// Bytes of the longest value.
    pub value_bytes_max: u64,
    /// How many damaged trees are kept aside.
    pub quarantined_max: u32,
    /// Below so many bytes of files, how many of them are live does not matter; above, rows move
    /// to a fresh tree once less than a quarter is. 64 MiB.
    pub bloated_bytes_min: u64,
    /// Whether a panic ends the process. Then trees that were not closed in good order, or were
    /// changed since, are rebuilt without sled ever opening them, and closing one reads it whole.
    /// Default: what this crate was built with.
    pub panics_abort: bool,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            key_bytes_max: 1024,
            value_bytes_max: 64 << 20,
            quarantined_max: 2,
            bloated_bytes_min: 64 << 20,
            panics_abort: cfg!(panic = "abort"),
        }
    }
}

/// One sled tree in a folder of its own.
pub struct SledTables {
    db: Option<sled::Db>,
    path: PathBuf,
    files: SledFiles,
    options: SledOptions,
    meta: Meta,
    poisoned: bool,
    /// The most bytes that one batch ever had.
    #[cfg(test)]
    batch_bytes: usize,
}

impl fmt::Debug for SledTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledTables")
            .field("files", &self.files)
            .field("meta", &self.meta)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl SledTables {
    /// Creates an empty tree in a new folder and makes it durable.
    ///
    /// # Errors
    /// [`TablesError`]: there is no tree to use; the folder may exist.
    pub fn create(path: &Path, options: SledOptions, store: StoreId) -> Result<Self, TablesError> {
        closed::forget(path)?;
        std::fs::create_dir(path).map_err(|e| TablesError::io("create folder", &e))?;
        let mut tables = Self::start(path, options, Meta::empty(store))?;
        let meta = tables.meta;
        tables.commit(sled::Batch::default(), meta)?;
        tables.sync()?;
        Ok(tables)
    }

    /// Opens a tree and reads every row of it.
    ///
    /// # Errors
    /// [`TablesError::Damaged`]: it is not what was written, or of another store.
    /// [`TablesError::Io`]: it could not be read.
    pub fn open(path: &Path, options: SledOptions, store: StoreId) -> Result<Self, TablesError> {
        if !path.join("db").is_file() {
            return Err(TablesError::damaged("the tree has no file `db`"));
        }
        if options.panics_abort {
            closed::check(path)?;
        }
        closed::forget(path)?;
        files::remove_generating(path)?;
        let mut tables = Self::start(path, options, Meta::empty(store))?;
        tables.meta = tables.read_meta(store)?;
        verify::verify(&mut tables)?;
        Ok(tables)
    }

    /// Opens sled, guarded.
    fn start(path: &Path, options: SledOptions, meta: Meta) -> Result<Self, TablesError> {
        let mut tries: u32 = 0;
        let db = loop {
            let config = sled::Config::new()
                .path(path)
                .cache_capacity(options.cache_bytes)
                .flush_every_ms(None);
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => break db,
                Ok(Err(sled::Error::Io(e)))
                    if tries < LOCK_TRIES_MAX && e.to_string().contains("acquire lock") =>
                {
                    tries = tries.saturating_add(1);
                    std::thread::sleep(LOCK_PAUSE);
                }
                Ok(Err(e)) => return Err(fault("open", &e)),
                Err(_) => return Err(TablesError::damaged("sled panicked while opening")),
            }
        };
        Ok(Self {
            db: Some(db),
            path: path.to_path_buf(),
            files: SledFiles::open(path)?,
            options,
            meta,
            poisoned: false,
            #[cfg(test)]
            batch_bytes: 0,
        })
    }

    fn read_meta(&mut self, store: StoreId) -> Result<Meta, TablesError> {
        let raw = self
            .guarded(|db| db.get(META_KEY).map_err(|e| fault("get", &e)))?
            .ok_or_else(|| TablesError::damaged("the tree opened without its sentinel"))?;
        let meta = Meta::read(&raw)?;
        if meta.store == store {
            Ok(meta)
        } else {
            Err(TablesError::damaged(format!(
                "the tree is of store {}",
                meta.store
            )))
        }
    }

    /// Runs one use of sled. Whatever fails in it, by error or by panic, poisons.
    fn guarded<T>(
        &mut self,
        call: impl FnOnce(&sled::Db) -> Result<T, TablesError>,
    ) -> Result<T, TablesError> {
        if self.poisoned {
            return Err(TablesError::Poisoned);
        }
        let db = self.db.as_ref().ok_or(TablesError::Closed)?;
        let result = catch_unwind(AssertUnwindSafe(|| call(db)))
            .unwrap_or_else(|_| Err(TablesError::damaged("sled panicked")));
        self.poisoned = result.is_err();
        result
    }

    /// Applies one batch together with the meta row.
    fn commit(&mut self, mut batch: sled::Batch, meta: Meta) -> Result<(), TablesError> {
        batch.insert(META_KEY, meta.write());
        self.guarded(|db| db.apply_batch(batch).map_err(|e| fault("apply", &e)))?;
        self.meta = meta;
        Ok(())
    }

    fn check_sizes(&self, changes: &[Change]) -> Result<(), TablesError> {
        for change in changes {
            let key_bytes = change.key().len() as u64;
            let value_bytes = change.value().map_or(0, <[u8]>::len) as u64;
            for (bytes, bytes_max) in [
                (key_bytes, self.options.key_bytes_max),
                (value_bytes, self.options.value_bytes_max),
            ] {
                if bytes > bytes_max {
                    return Err(TablesError::TooLarge { bytes, bytes_max });
                }
            }
        }
        Ok(())
    }

    /// What the row of `key` holds now: checksum, length, and its chunks if it has any.
    fn old_row(&mut self, key: &[u8]) -> Result<Option<OldRow>, TablesError> {
        let key = row_key(key);
        self.guarded(|db| {
            let Some(raw) = db.get(&key).map_err(|e| fault("get", &e))? else {
                return Ok(None);
            };
            let envelope = Envelope::read(&raw)?;
            let chunks = match envelope {
                Envelope::Inline { .. } => None,
                Envelope::Chunked {
                    generation, chunks, ..
                } => Some((generation, chunks)),
            };
            Ok(Some(OldRow {
                checksum: envelope.checksum(),
                value_bytes: envelope.value_bytes(),
                chunks,
            }))
        })
    }

    /// Adds one row's change to the group. Commits of full groups on the way keep the old mark.
    fn change_row(
        &mut self,
        group: &mut Group,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), TablesError> {
        let old = self.old_row(key)?;
        let old_chunks = old.as_ref().and_then(|old| old.chunks);
        let mut sum = group.sum;
        if let Some(old) = &old {
            sum = sum.without(key, old.value_bytes, old.checksum);
        }
        if let Some(value) = value {
            let envelope = self.envelope(group, key, value, old_chunks)?;
            sum = sum.with(key, value.len() as u64, envelope.checksum());
            self.room(group, key.len().saturating_add(PAGE_VALUE_BYTES_MAX))?;
            group.put(row_key(key), envelope.write());
        } else {
            self.room(group, key.len())?;
            group.remove(row_key(key));
        }
        // The row and the sum change in the same batch: no commit may come between.
        group.sum = sum;
        if let Some((generation, chunks)) = old_chunks {
            for index in 0..chunks {
                self.room(group, key.len().saturating_add(16))?;
                group.remove(chunk_key(key, generation, index));
            }
        }
        Ok(())
    }

    /// The envelope of a value; the chunks of a long one go into the group first.
    fn envelope<'v>(
        &mut self,
        group: &mut Group,
        key: &[u8],
        value: &'v [u8],
        old_chunks: Option<(u64, u32)>,
    ) -> Result<Envelope<'v>, TablesError> {
        let checksum = checksum(key, value);
        if value.len() <= CHUNK_BYTES {
            return Ok(Envelope::Inline { checksum, value });
        }
        // Another generation than the one in use: a crash between must leave the old row whole.
        let generation = old_chunks.map_or(1, |(generation, _)| generation.wrapping_add(1));
        let mut chunks: u32 = 0;
        for piece in value.chunks(CHUNK_BYTES) {
            self.room(group, key.len().saturating_add(PAGE_VALUE_BYTES_MAX))?;
            group.put(chunk_key(key, generation, chunks), piece.to_vec());
            chunks = chunks.saturating_add(1);
        }
        Ok(Envelope::Chunked {
            checksum,
            generation,
            length: value.len() as u64,
            chunks,
        })
    }

    #[cfg(test)]
    fn measure(&mut self, group: &Group) {
        self.batch_bytes = self.batch_bytes.max(group.bytes);
    }

    /// Commits the group first if `bytes` more would take it over a batch's bound.
    fn room(&mut self, group: &mut Group, bytes: usize) -> Result<(), TablesError> {
        let full = group.bytes.saturating_add(bytes).saturating_add(1024) > BATCH_BYTES_MAX;
        if full && group.bytes > 0 {
            #[cfg(test)]
            self.measure(group);
            group.bytes = 0;
            let batch = std::mem::take(&mut group.batch);
            let meta = Meta {
                sum: group.sum,
                ..self.meta
            };
            self.commit(batch, meta)?;
        }
        Ok(())
    }
}

struct OldRow {
    checksum: u64,
    value_bytes: u64,
    chunks: Option<(u64, u32)>,
}

/// The batch being composed, and the sum of the rows once it is applied.
struct Group {
    batch: sled::Batch,
    bytes: usize,
    sum: RowSum,
}

impl Group {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes = self
            .bytes
            .saturating_add(key.len())
            .saturating_add(value.len());
        self.batch.insert(key, value);
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(key.len());
        self.batch.remove(key);
    }
}

impl Tables for SledTables {
    fn applied(&self) -> Lsn {
        self.meta.applied
    }

    fn sum(&self) -> RowSum {
        self.meta.sum
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.guarded(|db| {
            let raw = db.get(row_key(key)).map_err(|e| fault("get", &e))?;
            raw.map(|raw| load(db, key, &raw)).transpose()
        })
    }

    fn scan(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TablesError> {
        let prefix = row_key(prefix);
        let start = after.map_or_else(
            || prefix.clone(),
            |after| prefix.clone().max(row_key(after)),
        );
        let after = after.map(row_key);
        self.guarded(|db| {
            for item in db.range(start..) {
                let (physical, raw) = item.map_err(|e| fault("scan", &e))?;
                if !physical.starts_with(&prefix) {
                    break;
                }
                if after.as_deref() == Some(&*physical) {
                    continue;
                }
                let key = physical.get(1..).unwrap_or_default();
                let value = load(db, key, &raw)?;
                if visit(key, &value) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn apply(&mut self, changes: &[Change], applied: Lsn) -> Result<(), TablesError> {
        self.check_sizes(changes)?;
        let last: BTreeMap<&[u8], Option<&[u8]>> = changes
            .iter()
            .map(|change| (change.key(), change.value()))
            .collect();
        let mut group = Group {
            batch: sled::Batch::default(),
            bytes: 0,
            sum: self.meta.sum,
        };
        for (key, value) in last {
            self.change_row(&mut group, key, value)?;
        }
        #[cfg(test)]
        self.measure(&group);
        let meta = Meta {
            applied: applied.max(self.meta.applied),
            sum: group.sum,
            ..self.meta
        };
        self.commit(group.batch, meta)
    }

    fn sync(&mut self) -> Result<(), TablesError> {
        self.guarded(|db| {
            let again = db.clone();
            let nudge = move || drop(catch_unwind(AssertUnwindSafe(|| again.flush())));
            let flushed = nudged(FLUSH_PAUSE, nudge, || db.flush());
            flushed.map(drop).map_err(|e| fault("flush", &e))
        })?;
        let result = self.files.sync();
        self.poisoned = result.is_err();
        result
    }

    fn size(&mut self) -> Result<TablesSize, TablesError> {
        let file_bytes = self.guarded(|db| db.size_on_disk().map_err(|e| fault("measure", &e)))?;
        Ok(TablesSize {
            file_bytes,
            live_bytes: self.meta.sum.bytes,
        })
    }

    fn close(mut self: Box<Self>) -> Result<(), TablesError> {
        self.release()?;
        if self.options.panics_abort && !self.poisoned {
            closed::record(&self.path)?;
        }
        Ok(())
    }
}

impl SledTables {
    /// Drops the tree; its own drop syncs, and panics when that fails.
    fn release(&mut self) -> Result<(), TablesError> {
        let db = self.db.take();
        catch_unwind(AssertUnwindSafe(|| drop(db)))
            .map_err(|_| TablesError::damaged("sled panicked while closing"))
    }
}

impl Drop for SledTables {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "tables closed by drop");
        }
    }
}

/// The value of a row, its checksum compared.
fn load(db: &sled::Db, key: &[u8], raw: &[u8]) -> Result<Vec<u8>, TablesError> {
    let envelope = Envelope::read(raw)?;
    let value = match envelope {
        Envelope::Inline { value, .. } => value.to_vec(),
        Envelope::Chunked {
            generation, chunks, ..
        } => {
            let mut value = Vec::new();
            for index in 0..chunks {
                let piece = db
                    .get(chunk_key(key, generation, index))
                    .map_err(|e| fault("get", &e))?
                    .ok_or_else(|| TablesError::damaged("a row lacks one of its chunks"))?;
                value.extend_from_slice(&piece);
            }
            value
        }
    };
    if checksum(key, &value) == envelope.checksum() {
        Ok(value)
    } else {
        Err(TablesError::damaged("a row does not match its checksum"))
    }
}

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut physical = Vec::with_capacity(key.len().saturating_add(1));
    physical.push(ROW);
    physical.extend_from_slice(key);
    physical
}

fn chunk_key(key: &[u8], generation: u64, index: u32) -> Vec<u8> {
    let mut physical = Vec::with_capacity(key.len().saturating_add(13));
    physical.push(CHUNK);
    physical.extend_from_slice(key);
    physical.extend_from_slice(&generation.to_be_bytes());
    physical.extend_from_slice(&index.to_be_bytes());
    physical
}

/// Which of our errors an error of sled is.
fn fault(operation: &'static str, error: &sled::Error) -> TablesError {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        sled::Error::Io(e) if !matches!(e.kind(), InvalidData | NotFound | UnexpectedEof) => {
            TablesError::io(operation, e)
        }
        sled::Error::Io(_)
        | sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => TablesError::damaged(format!("{operation}: {error}")),
    }
}

#[cfg(test)]
mod tests;
