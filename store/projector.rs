//! The projector: the one thread that owns the tables and brings them after the journal.
//!
//! The log's own thread hands over each durable batch and goes on; nothing here ever makes it
//! wait. What is bounded is what may be appended: while more than the bound waits to be
//! projected, the store refuses new work, and at twice the bound everything
//! ([`AppendRefused::Backlogged`](crate::store::AppendRefused)).
//!
//! Invariants
//! - Records are folded and applied in lsn order; the fold and the tables stand at the same lsn
//!   whenever a checkpoint is written.
//! - A key is announced as found in the tables only after its row is there and the key is among
//!   the retained ones.
//! - Retention never removes the outcome of a later run of a key.
//! - After the first failure nothing is applied or checkpointed any more; the journal has it all.
//! - With nothing to do the thread sleeps until it is woken or the next outcome expires.

mod blobs;
mod fold;
mod inbox;
mod job;
mod retention;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use orlop_saga::budget::Books;
use orlop_saga::compat::Format;
use orlop_saga::effect::EffectId;
use orlop_saga::id::{Lsn, SagaId, StoreId, TenantId};
use orlop_saga::key::Key;
use orlop_saga::live::{FoldError, Live};
use orlop_saga::record::RecordError;
use orlop_saga::saga::SagaState;
use orlop_saga::time::Clock;
use parking_lot::Mutex;

use crate::blob::{BlobOptions, Keeper};
use crate::checkpoint::CheckpointError;
use crate::disk::Disk;
use crate::folder::Folder;
use crate::log::{Batch, DurableSink, Log};
use crate::projection::{Retained, RowError};
use crate::retained::RetainedKeys;
use crate::tables::export::ExportError;
use crate::tables::{Tables, TablesError, TablesHome};

pub(crate) use self::blobs::DeadBlobs;
pub(crate) use self::fold::Applier;
use self::inbox::{Inbox, Request};
pub(crate) use self::job::{Exported, export_path, list as exports, restore};
pub use self::retention::RetentionClock;
use self::worker::Worker;

/// Who is told which keys can from now on be found in the tables.
pub trait Projected: Send + Sync {
    /// The outcomes of `keys` are in the tables, which have everything up to `lsn`. Called on
    /// the projector's thread: what blocks here delays every lookup.
    fn projected(&self, keys: &[(TenantId, Key)], lsn: Lsn);
}

/// Told nothing: for stores that are only read, and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Projected for Unobserved {
    fn projected(&self, _keys: &[(TenantId, Key)], _lsn: Lsn) {}
}

/// Called once with an answer, on the projector's thread.
pub type Answer<T, E = TablesError> = Box<dyn FnOnce(Result<T, E>) + Send>;

/// Why the projector stopped, or why there is no checkpoint. The journal has everything; reopen
/// the store.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectorError {
    /// The tables failed. Nothing more is applied to them.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// A durable record does not fold: it is not of this engine's making. Nothing of it was
    /// applied.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// A durable record is not understood. Nothing of it was applied.
    #[error("record {lsn}: {source}")]
    Record {
        /// Where.
        lsn: Lsn,
        /// Why.
        source: RecordError,
    },
    /// A row was not encoded or not understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// No checkpoint was written; those before are as they were.
    #[error(transparent)]
    Checkpoint(Arc<CheckpointError>),
    /// No export was written; those before are as they were.
    #[error(transparent)]
    Export(Arc<ExportError>),
    /// The projector panicked: one of our own invariants is broken. Please report it.
    #[error("the projector panicked")]
    Panicked,
    /// The store is closed. Nothing was done.
    #[error("the store is closed")]
    Closed,
}

impl From<CheckpointError> for ProjectorError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Arc::new(error))
    }
}

impl From<ExportError> for ProjectorError {
    fn from(error: ExportError) -> Self {
        Self::Export(Arc::new(error))
    }
}

/// Bounds of the projector.
#[derive(Clone, Copy, Debug)]
pub struct ProjectorOptions {
    /// Bytes of records that may wait to be projected before new work is refused.
    pub backlog_bytes_max: u64,
    /// Bytes of changes that are applied at once. At most 256 KiB.
    pub group_bytes_max: u64,
    /// A checkpoint is written after so many bytes of journal.
    pub checkpoint_bytes: u64,
    /// An export is written after so many bytes of journal, or after as many as the last export
    /// has, whichever is more.
    pub export_bytes_min: u64,
    /// How many exports are kept, and the journal since the oldest of them.
    pub exports_kept: u32,
    /// Rows that one pass of retention removes before it lets other work go first.
    pub expired_rows_max: u32,
    /// The shortest time between two passes of retention, in milliseconds.
    pub retention_pause_ms: u64,
    /// Bounds of the blobs that long outcomes are kept in.
    pub blobs: BlobOptions,
}

impl Default for ProjectorOptions {
    fn default() -> Self {
        Self {
            backlog_bytes_max: 64 << 20,
            group_bytes_max: 192 << 10,
            checkpoint_bytes: 16 << 20,
            export_bytes_min: 64 << 20,
            exports_kept: 1,
            expired_rows_max: 256,
            retention_pause_ms: 1_000,
            blobs: BlobOptions::default(),
        }
    }
}

/// What the projector starts from.
pub(crate) struct Start {
    pub(crate) store: StoreId,
    pub(crate) format: Format,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) home: Box<dyn TablesHome>,
    pub(crate) tables: Box<dyn Tables>,
    pub(crate) live: Live,
    pub(crate) checkpointed: Option<Lsn>,
    pub(crate) replayed_bytes: u64,
    pub(crate) unexported_bytes: u64,
    pub(crate) export_bytes: u64,
    pub(crate) retained: Arc<RetainedKeys>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) dead: DeadBlobs,
    pub(crate) projected: Arc<dyn Projected>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) retention: RetentionClock,
    pub(crate) options: ProjectorOptions,
    /// Held until the thread has ended: the folder stays locked for as long.
    pub(crate) hold: Option<Arc<Folder>>,
}

/// The other side of the projector's thread.
#[derive(Debug)]
pub(crate) struct Projector {
    inbox: Arc<Inbox>,
    log: Arc<OnceLock<Weak<dyn Log>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Projector {
    /// Starts the thread.
    pub(crate) fn start(start: Start) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::new(start.options.backlog_bytes_max));
        let log = Arc::new(OnceLock::new());
        let (worker_inbox, worker_log) = (inbox.clone(), log.clone());
        let thread = std::thread::Builder::new()
            .name("orlop-projector".into())
            .spawn(move || Worker::run(start, &worker_inbox, worker_log))?;
        Ok(Self {
            inbox,
            log,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What the log is to be started with.
    pub(crate) fn sink(&self) -> Box<dyn DurableSink> {
        Box::new(Sink(self.inbox.clone()))
    }

    /// Names the log whose segments may be freed.
    pub(crate) fn attach(&self, log: &Arc<dyn Log>) {
        // Attached once, by the store that started it.
        let _ = self.log.set(Arc::downgrade(log));
    }

    pub(crate) fn lookup(&self, id: EffectId, answer: Answer<Option<Retained>>) {
        self.inbox.ask(Request::Outcome { id, answer });
    }

    pub(crate) fn lookup_saga(&self, id: SagaId, answer: Answer<Option<SagaState>>) {
        self.inbox.ask(Request::Saga { id, answer });
    }

    pub(crate) fn books(&self, answer: Answer<Books, ProjectorError>) {
        self.inbox.ask(Request::Books { answer });
    }

    pub(crate) fn checkpoint(&self, export: bool, answer: Answer<Lsn, ProjectorError>) {
        self.inbox.ask(Request::Checkpoint { export, answer });
    }

    pub(crate) fn backup(&self, folder: PathBuf, answer: Answer<Exported, ProjectorError>) {
        self.inbox.ask(Request::Backup { folder, answer });
    }

    /// Bytes of records that wait to be projected.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        self.inbox.backlog_bytes()
    }

    /// The last record projected.
    pub(crate) fn applied(&self) -> Lsn {
        self.inbox.applied()
    }

    /// Why the projector stopped, if it did.
    pub(crate) fn failure(&self) -> Option<ProjectorError> {
        self.inbox.failure()
    }

    /// Has what is durable projected, a last checkpoint written and the tables closed; waits.
    pub(crate) fn close(&self) -> Result<(), ProjectorError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let answer = move |result| {
            // The receiver is below, and waits.
            let _ = sender.send(result);
        };
        self.inbox.stop(true, Box::new(answer));
        let result = receiver.recv().unwrap_or(Err(ProjectorError::Panicked));
        self.join();
        result
    }

    /// Has the tables closed as they are; waits, unless called by the thread itself.
    pub(crate) fn abandon(&self) {
        self.inbox.stop(false, Box::new(|_| {}));
        self.join();
    }

    /// Waits for the thread to end.
    fn join(&self) {
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread was caught in it and reported as its failure.
            let _ = thread.join();
        }
    }
}

/// What the log calls.
struct Sink(Arc<Inbox>);

impl DurableSink for Sink {
    fn durable(&mut self, first: Lsn, batch: &Batch) {
        self.0.hand_over(first, batch);
    }
}
