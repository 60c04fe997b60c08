//! The store: journal, tables and checkpoints behind one handle.
//!
//! Invariants
//! - What [`Recovered`] says is durable, the raised incarnation included.
//! - A batch is acknowledged only when it is durable in the journal; the tables follow.
//! - Closing is ordered (refuse, drain, checkpoint, unlock) and happens once; dropping without
//!   closing loses nothing that was acknowledged.

mod backup;
mod opening;
mod options;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orlop_saga::budget::Books;
use orlop_saga::compat::Format;
use orlop_saga::effect::EffectId;
use orlop_saga::event::Event;
use orlop_saga::halfway::Halfway;
use orlop_saga::id::{Incarnation, Lsn, SagaId, StoreId, TenantId};
use orlop_saga::key::Key;
use orlop_saga::live::{FoldError, Live};
use orlop_saga::record::{self, RecordError};
use orlop_saga::saga::SagaState;
use orlop_saga::time::Clock;
use parking_lot::{Condvar, Mutex};

use self::opening::Opening;
pub use self::options::StoreOptions;
use self::options::check_projector;
use crate::audit::{Trail, TrailError, TrailOptions};
use crate::blob::{BlobError, BlobHold, Carried, Keeper};
use crate::disk::{Disk, FileDisk};
use crate::folder::{Folder, FolderError, Forked, check_process};
use crate::log::{
    Acknowledge, AppendError, Batch, FileLog, Lane, Log, LogHealth, LogStats, OpenLogError, Opened,
    Purpose, StartLogError,
};
use crate::projection::Retained;
use crate::projector::{Answer, Projected, Projector, ProjectorError, ProjectorOptions};
use crate::recovery::RecoveryError;
use crate::retained::RetainedKeys;
use crate::tables::{SledHome, TablesError, TablesHome};

/// Why a store was not opened. Nothing that was durable is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of bounds. Nothing was touched. Correct the option.
    #[error("store option {option} is {value}, must be from {least} to {most}")]
    Options {
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// The journal does not start.
    #[error(transparent)]
    Start(#[from] StartLogError),
    /// The state cannot be recovered.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The tables cannot be scanned.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The folders of blobs cannot be searched for what nothing names. Correct the cause.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The new incarnation is not durable, so nothing may be launched under it. Open again.
    #[error("the incarnation was not raised: {0}")]
    Incarnation(#[source] AppendError),
    /// The journal answered for the new incarnation in a way that does not fold.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// An event was not encoded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The system gave no thread, or no random bytes.
    #[error("{operation} failed")]
    System {
        /// What was attempted.
        operation: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// What was found at open, and is durable.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The store's id.
    pub store_id: StoreId,
    /// What it is written in.
    pub format: Format,
    /// The incarnation from here on, durably raised.
    pub incarnation: Incarnation,
    /// The fold of everything unfinished, at the end of the journal.
    pub live: Live,
    /// Whether the tables were rebuilt.
    pub tables_rebuilt: bool,
    /// Why, if they were.
    pub rebuilt_because: Option<String>,
    /// Records folded since the last checkpoint.
    pub replayed_records: u64,
    /// How long opening took.
    pub took: Duration,
}

/// Why nothing was appended. The acknowledgement is dropped uncalled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendRefused {
    /// The tables are too far behind the journal. Append again once they have caught up.
    #[error("{bytes} bytes wait for the tables already, {bytes_max} may")]
    Backlogged {
        /// Bytes that wait.
        bytes: u64,
        /// The most that may for a batch of this purpose.
        bytes_max: u64,
    },
    /// The store is closed. Open it again.
    #[error("the store is closed")]
    Closed,
    /// This is a forked child. Open another store.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// An event was not encoded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl AppendRefused {
    /// Whether the same append may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Backlogged { .. } => true,
            Self::Closed | Self::Forked(_) | Self::Record(_) => false,
        }
    }
}

/// Why a store did not close cleanly. What was acknowledged is durable all the same.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Closing goes on in the background; the folder stays locked. Call again to wait again.
    #[error("the store was not closed within {deadline_ms} ms")]
    DeadlinePassed {
        /// How long was waited.
        deadline_ms: u64,
    },
    /// The journal had failed, or failed while it was drained.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// The projector had failed, or the last checkpoint was not written; the next open replays
    /// more of the journal.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    /// This is a forked child: nothing was done.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The system gave no thread to close with. Nothing was done; call again.
    #[error("no thread could be started to close the store")]
    Thread,
}

/// How a store is.
#[derive(Clone, Debug)]
pub struct StoreHealth {
    /// The journal.
    pub log: LogHealth,
    /// What the journal has written since it was opened.
    pub journal: LogStats,
    /// Why the tables do not follow any more, if they do not: appends are still durable, but
    /// outcomes are not found after the engine lets go of them. Reopen the store.
    pub projector: Option<ProjectorError>,
    /// Bytes of records that wait for the tables.
    pub backlog_bytes: u64,
    /// Everything up to here is durable.
    pub watermark: Lsn,
    /// Everything up to here is in the tables.
    pub projected: Lsn,
    /// Keys with an outcome that is kept.
    pub retained_keys: u64,
    /// Bytes of memory in which they are told from unknown ones.
    pub retained_bytes: u64,
}

/// What a store is built from. It is read in every format and written in the newest.
#[derive(Debug)]
pub struct Parts {
    /// The store's id.
    pub store: StoreId,
    /// The journal, opened.
    pub log: Box<dyn Opened>,
    /// The tables.
    pub home: Box<dyn TablesHome>,
    /// Where checkpoints and exports are kept.
    pub disk: Arc<dyn Disk>,
    /// In which folder of it; it must exist.
    pub folder: PathBuf,
}

/// An open store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: StoreId,
    format: Format,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    pid: u32,
    log: Arc<dyn Log>,
    projector: Projector,
    keeper: Arc<Keeper>,
    retained: Arc<RetainedKeys>,
    backlog_bytes_max: u64,
    halfway: Halfway,
    closing: AtomicBool,
    closed: Mutex<Option<Result<(), CloseError>>>,
    all_closed: Condvar,
    /// The lock outlives the threads: given back last, whether closed or dropped.
    hold: Mutex<Option<Arc<Folder>>>,
}

impl Store {
    /// Opens the store in a folder.
    ///
    /// # Errors
    /// [`OpenError`]: it is not open, and the folder is unlocked again.
    pub fn open(
        path: &Path,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
        projected: Arc<dyn Projected>,
    ) -> Result<(Self, Recovered), OpenError> {
        options.check()?;
        let folder = Folder::open(path, options.create, clock.wall())?;
        let store = folder.store();
        let disk: Arc<dyn Disk> = Arc::new(FileDisk);
        let log = if folder.is_fresh() {
            let log = FileLog::create(disk.clone(), &folder.log(), options.log, store)?;
            folder.finish()?;
            log
        } else {
            FileLog::open(disk.clone(), &folder.log(), options.log, store)?
        };
        let parts = Parts {
            store,
            log: Box::new(log),
            home: Box::new(SledHome::new(folder.tables(), options.sled, store)),
            disk,
            folder: folder.path().to_path_buf(),
        };
        let opening = Opening {
            parts,
            format: folder.format(),
            upgrade: options.upgrade,
            options: options.projector,
            clock,
            projected,
            hold: Some(Arc::new(folder)),
        };
        opening.run()
    }

    /// Builds a store from parts: another journal, other tables, simulated ones. The caller
    /// keeps other openers out.
    ///
    /// # Errors
    /// [`OpenError`]: it is not open.
    pub fn open_with(
        parts: Parts,
        options: ProjectorOptions,
        clock: Arc<dyn Clock>,
        projected: Arc<dyn Projected>,
    ) -> Result<(Self, Recovered), OpenError> {
        check_projector(&options)?;
        let opening = Opening {
            parts,
            // Whoever brings a journal of its own has moved on with this version.
            format: Format::NEWEST,
            upgrade: false,
            options,
            clock,
            projected,
            hold: None,
        };
        opening.run()
    }

    /// What it is written in.
    pub fn format(&self) -> Format {
        self.inner.format
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.inner.id
    }

    /// Appends events as one atomic batch. `ack` is called as [`Log::append`] says.
    ///
    /// # Errors
    /// [`AppendRefused`]: nothing was appended and `ack` is not called.
    pub fn append(
        &self,
        lane: Lane,
        purpose: Purpose,
        events: &[Event],
        ack: Box<dyn Acknowledge>,
    ) -> Result<(), AppendRefused> {
        self.check_room(purpose)?;
        let mut batch = Batch::new();
        for event in events {
            batch.push(&record::encode(self.inner.format, event)?);
        }
        self.inner.log.append(lane, purpose, batch, ack);
        Ok(())
    }

    /// The same for a tenant, on its lane: outputs of [`BlobOptions::bytes_min`](crate::blob::BlobOptions) and more are
    /// durable in blobs before their record is appended. An event with such an output is the last
    /// of its effect or saga; what is appended after it may come to be before it.
    ///
    /// # Errors
    /// [`AppendRefused`]: nothing was appended and `ack` is not called.
    pub fn append_of(
        &self,
        tenant: TenantId,
        purpose: Purpose,
        events: &[Event],
        ack: Box<dyn Acknowledge>,
    ) -> Result<(), AppendRefused> {
        let lane = Lane(tenant.slot());
        if !self.inner.keeper.wants(events) {
            return self.append(lane, purpose, events, ack);
        }
        self.check_room(purpose)?;
        let carried = Carried {
            tenant,
            lane,
            purpose,
            events: events.to_vec(),
            ack,
        };
        let refused = self.inner.keeper.carry(carried);
        refused.map_err(|_| AppendRefused::Closed)
    }

    /// Whether the tables and the blobs are near enough behind the journal.
    fn check_room(&self, purpose: Purpose) -> Result<(), AppendRefused> {
        let inner = &*self.inner;
        check_process(inner.pid)?;
        if inner.closing.load(Ordering::Acquire) {
            return Err(AppendRefused::Closed);
        }
        let waiting = inner.keeper.waiting_bytes();
        let bytes = inner.projector.backlog_bytes().saturating_add(waiting);
        let bytes_max = match purpose {
            Purpose::New => inner.backlog_bytes_max,
            Purpose::Settle => inner.backlog_bytes_max.saturating_mul(2),
        };
        if inner.halfway.level(bytes, inner.backlog_bytes_max) {
            let (limit, max) = ("store.projector.backlog_bytes_max", inner.backlog_bytes_max);
            tracing::warn!(limit, value = bytes, max, "half of a limit is reached");
        }
        if bytes > bytes_max {
            return Err(AppendRefused::Backlogged { bytes, bytes_max });
        }
        Ok(())
    }

    /// Bytes of one tenant's blobs, those that only wait to be unlinked included, and how many it
    /// may have before its new work is to be refused.
    pub fn blob_bytes(&self, tenant: TenantId) -> (u64, u64) {
        let keeper = &self.inner.keeper;
        (
            keeper.ledger.bytes_of(tenant),
            keeper.options().tenant_bytes_max,
        )
    }

    /// Bytes of the rows of one tenant's outcomes in the tables: those that are past their retention
    /// and not removed yet included, those on their way there not. From memory.
    pub fn outcome_bytes(&self, tenant: TenantId) -> u64 {
        self.inner.retained.bytes_of(tenant)
    }

    /// Opens the audit trail of this store. One at a time; whoever has it lets go of it before the
    /// store is closed, or the folder stays locked until then.
    ///
    /// # Errors
    /// [`TrailError`]: it is not open.
    pub fn open_trail(&self, options: TrailOptions) -> Result<Trail, TrailError> {
        let inner = &*self.inner;
        let trail = Trail::open(Arc::clone(&inner.disk), &inner.folder, inner.id, options)?;
        Ok(trail.holding(inner.hold.lock().clone()))
    }

    /// Everything up to here is durable.
    pub fn watermark(&self) -> Lsn {
        self.inner.log.watermark()
    }

    /// Keeps every blob where it is while somebody copies the store.
    pub fn hold_blobs(&self) -> BlobHold {
        BlobHold::new(&self.inner.keeper.ledger)
    }

    /// Whether a key may have an outcome in the tables; "no" is certain once its outcome was
    /// announced by [`Projected`] or recovered. From memory.
    pub fn maybe_retained(&self, tenant: TenantId, key: Key) -> bool {
        self.inner.retained.maybe(EffectId { tenant, key })
    }

    /// Looks for the outcome of a key, within its retention. `answer` is called on the
    /// projector's thread, or at once if the store is closed.
    pub fn lookup(&self, tenant: TenantId, key: Key, answer: Answer<Option<Retained>>) {
        if check_process(self.inner.pid).is_err() {
            answer(Err(TablesError::Closed));
            return;
        }
        self.inner
            .projector
            .lookup(EffectId { tenant, key }, answer);
    }

    /// Looks for the history of a saga that ended. `answer` as in [`lookup`](Self::lookup).
    pub fn lookup_saga(&self, saga: SagaId, answer: Answer<Option<SagaState>>) {
        if check_process(self.inner.pid).is_err() {
            answer(Err(TablesError::Closed));
            return;
        }
        self.inner.projector.lookup_saga(saga, answer);
    }

    /// Budgets and the ledger, with everything that was acknowledged before the call. `answer` as in
    /// [`lookup`](Self::lookup).
    pub fn books(&self, answer: Answer<Books, ProjectorError>) {
        if check_process(self.inner.pid).is_err() {
            answer(Err(ProjectorError::Closed));
            return;
        }
        self.inner.projector.books(answer);
    }

    /// Removes what has expired, makes the tables durable and writes a checkpoint; answers its
    /// lsn, which is not below that of anything acknowledged before the call.
    pub fn checkpoint(&self, answer: Answer<Lsn, ProjectorError>) {
        self.ask_checkpoint(false, answer);
    }

    /// The same, and an export before it, so that the journal up to there can be freed.
    pub fn export(&self, answer: Answer<Lsn, ProjectorError>) {
        self.ask_checkpoint(true, answer);
    }

    fn ask_checkpoint(&self, export: bool, answer: Answer<Lsn, ProjectorError>) {
        if check_process(self.inner.pid).is_err() {
            answer(Err(ProjectorError::Closed));
            return;
        }
        self.inner.projector.checkpoint(export, answer);
    }

    /// Whether the journal takes appends.
    pub fn log_health(&self) -> LogHealth {
        self.inner.log.health()
    }

    /// How the store is.
    pub fn health(&self) -> StoreHealth {
        let inner = &*self.inner;
        StoreHealth {
            log: inner.log.health(),
            journal: inner.log.stats(),
            projector: inner.projector.failure(),
            backlog_bytes: inner.projector.backlog_bytes(),
            watermark: inner.log.watermark(),
            projected: inner.projector.applied(),
            retained_keys: inner.retained.len() as u64,
            retained_bytes: inner.retained.byte_len(),
        }
    }

    /// Closes the store: appends are refused, what was accepted becomes durable, the tables
    /// follow, a checkpoint is written and the folder unlocked. Blocks for at most `deadline`.
    /// May be called again, from anywhere; every call says how the one closing ended.
    ///
    /// # Errors
    /// [`CloseError`]: what did not go as it should.
    pub fn close(&self, deadline: Duration) -> Result<(), CloseError> {
        check_process(self.inner.pid)?;
        if !self.inner.closing.swap(true, Ordering::AcqRel) {
            let inner = self.inner.clone();
            let spawned = std::thread::Builder::new()
                .name("orlop-close".into())
                .spawn(move || inner.close_all());
            if spawned.is_err() {
                self.inner.closing.store(false, Ordering::Release);
                return Err(CloseError::Thread);
            }
        }
        let mut closed = self.inner.closed.lock();
        let waiting = |closed: &mut Option<Result<(), CloseError>>| closed.is_none();
        self.inner
            .all_closed
            .wait_while_for(&mut closed, waiting, deadline);
        closed.clone().unwrap_or_else(|| {
            Err(CloseError::DeadlinePassed {
                deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            })
        })
    }
}

impl Inner {
    fn close_all(&self) {
        // Outcomes on their way to a blob are still to be recorded.
        self.keeper.drain();
        let drained = self.log.close().map_err(CloseError::from);
        let projected = self.projector.close().map_err(CloseError::from);
        self.keeper.stop();
        drop(self.hold.lock().take());
        *self.closed.lock() = Some(drained.and(projected));
        self.all_closed.notify_all();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if check_process(self.pid).is_err() {
            // The threads are the parent's: waiting for them here would never end.
            std::mem::forget(self.log.clone());
            return;
        }
        self.projector.abandon();
        self.keeper.stop();
    }
}

#[cfg(test)]
mod tests;
