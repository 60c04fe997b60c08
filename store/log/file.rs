//! The journal on files: the handle, and what its threads share.
//!
//! Three threads. The *log* thread composes groups, writes, syncs, feeds the sink, acknowledges.
//! The *janitor* makes segments ahead and frees old ones. The *refuser* answers batches that were
//! not accepted, so that a refusal neither runs inside `append` nor waits for a stalled disk; it
//! lives as long as the handle.
//!
//! Invariants
//! - The one lock guards memory only: it is held over no I/O and no callback.
//! - Once health is `Poisoned` no write and no sync is begun any more.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, ThreadId};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use orlop_saga::halfway::Halfway;
use orlop_saga::id::{Lsn, StoreId};
use parking_lot::{Condvar, Mutex};

use super::janitor::Janitor;
use super::opened::{self, OpenedLog};
use super::queue::{Queue, Waiting};
use super::segment::Segment;
use super::writer::Writer;
use super::{
    Acknowledge, AppendError, Batch, DurableSink, Lane, Log, LogError, LogHealth, LogOptions,
    LogStats, LsnRange, OpenLogError, Purpose, StartLogError,
};
use crate::disk::Disk;

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not asked for.
    No,
    /// Write what was accepted, then end.
    Drain,
    /// Finish what is being written, then end.
    Abandon,
}

/// The segment after the one that is written to.
#[derive(Debug)]
pub(super) enum Next {
    /// The janitor makes it, or will.
    Wanted,
    /// The same, out of the reserve.
    WantedFromReserve,
    /// It can be taken.
    Ready(Box<Segment>),
    /// There was no space for it.
    NoSpace,
}

/// The file kept for the day the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserve {
    /// None is configured.
    Off,
    /// The janitor makes it, or will.
    Wanted,
    /// It is there.
    Ready,
    /// There was no space for it.
    NoSpace,
}

/// A segment that is not written to any more.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// The lsn at which the next segment takes over.
    pub(super) end: Lsn,
}

/// A request to free segments.
#[derive(Debug)]
pub(super) struct Forget {
    pub(super) before: Lsn,
    pub(super) reply: Sender<Result<(), LogError>>,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) halfway: Halfway,
    pub(super) poisoned: bool,
    /// There was no space for a segment or the reserve, and none was found since.
    pub(super) full: bool,
    pub(super) stop: Stop,
    pub(super) next: Next,
    pub(super) reserve: Reserve,
    /// Oldest first.
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) forgets: VecDeque<Forget>,
    /// How the log thread ended.
    pub(super) outcome: Option<Result<(), LogError>>,
}

impl State {
    fn health(&self) -> LogHealth {
        if self.poisoned {
            LogHealth::Poisoned
        } else if self.stop != Stop::No {
            LogHealth::Closed
        } else if self.full {
            LogHealth::Full
        } else {
            LogHealth::Healthy
        }
    }
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) store: StoreId,
    pub(super) state: Mutex<State>,
    /// The log thread waits here for batches.
    pub(super) work: Condvar,
    /// Whether there is something for it to look at; it may look without the lock.
    pub(super) called: AtomicBool,
    /// The log thread waits here for a segment.
    pub(super) prepared: Condvar,
    /// The janitor waits here.
    pub(super) chores: Condvar,
    pub(super) watermark: AtomicU64,
    /// Of the log thread; others only look.
    pub(super) stats: Mutex<LogStats>,
}

impl Shared {
    /// Stops everything after a failure of the disk; idempotent.
    pub(super) fn poison(&self, operation: &str, error: &dyn fmt::Display) {
        self.state.lock().poisoned = true;
        tracing::error!(dir = %self.dir.display(), operation, %error, "the log is poisoned");
        self.called.store(true, Ordering::Release);
        self.work.notify_all();
        self.prepared.notify_all();
        self.chores.notify_all();
    }
}

/// Answers a batch. A panic in the answer is the receiver's and ends with it.
pub(super) fn answer(ack: Box<dyn Acknowledge>, result: Result<LsnRange, AppendError>) {
    let answered = catch_unwind(AssertUnwindSafe(|| ack.acknowledged(result)));
    if answered.is_err() {
        tracing::error!("an acknowledgement panicked");
    }
}

type Refusal = (Box<dyn Acknowledge>, AppendError);

#[derive(Debug, Default)]
struct Threads {
    log: Option<JoinHandle<()>>,
    janitor: Option<JoinHandle<()>>,
    refuser: Option<JoinHandle<()>>,
}

/// The journal on files.
///
/// # Disk full
/// The next segment is made ahead. If there is no space for it, or for the reserve, health is
/// `Full`: [`Purpose::New`] is refused, whether it comes or waits, while [`Purpose::Settle`] goes
/// on in what is left of the segment and then in the reserve, which becomes a segment by a rename
/// and needs no space. When that is used up too, `Settle` is refused as well. A freed segment or a
/// refused append makes the janitor try again; there is no timer. On file systems that copy on
/// write, where overwriting takes space, running out of it in the middle of a write poisons.
///
/// # Dropping
/// Waits for the group being written, unless dropped on the log's own thread.
pub struct FileLog {
    shared: Arc<Shared>,
    refusals: Option<Sender<Refusal>>,
    /// Held while a closer waits for the threads; nothing else ever waits for it.
    threads: Mutex<Threads>,
    own: Option<ThreadId>,
}

impl FileLog {
    /// Creates a log in a folder that has none, and the folder if need be. A folder in which
    /// creating was cut off before has none.
    ///
    /// Keep a second opener out first: the log itself does not lock the folder.
    ///
    /// # Errors
    /// [`OpenLogError`]: there is no log, or the one that was there is as it was.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        store: StoreId,
    ) -> Result<OpenedLog, OpenLogError> {
        opened::create(disk, dir, options, store, Lsn::new(1))
    }

    /// The same for a log that goes on behind what is kept elsewhere: its first record will be
    /// `lsn`.
    ///
    /// # Errors
    /// [`OpenLogError`]: there is no log; files that it left are removed by the next attempt.
    pub fn create_at(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        store: StoreId,
        lsn: Lsn,
    ) -> Result<OpenedLog, OpenLogError> {
        opened::create(disk, dir, options, store, lsn)
    }

    /// Opens the log in a folder. What it answers is durable, whatever the page cache held.
    ///
    /// Keep a second opener out first: the log itself does not lock the folder.
    ///
    /// # Errors
    /// [`OpenLogError`]: no record was lost or changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        store: StoreId,
    ) -> Result<OpenedLog, OpenLogError> {
        opened::open(disk, dir, options, store)
    }

    pub(super) fn start(
        opened: OpenedLog,
        sink: Box<dyn DurableSink>,
    ) -> Result<Self, StartLogError> {
        let last = opened.last_lsn();
        let sequence = opened.active.head.sequence;
        let sealed = opened.kept.iter().map(|kept| Sealed {
            path: kept.path.clone(),
            bytes: kept.head.bytes,
            end: kept.end,
        });
        let state = State {
            queue: Queue::default(),
            halfway: Halfway::new(),
            poisoned: false,
            full: false,
            stop: Stop::No,
            next: Next::Wanted,
            reserve: match opened.options.reserve_bytes {
                0 => Reserve::Off,
                _ => Reserve::Wanted,
            },
            sealed: sealed.collect(),
            forgets: VecDeque::new(),
            outcome: None,
        };
        let shared = Arc::new(Shared {
            disk: opened.disk,
            dir: opened.dir,
            options: opened.options,
            store: opened.store,
            state: Mutex::new(state),
            work: Condvar::new(),
            called: AtomicBool::new(false),
            prepared: Condvar::new(),
            chores: Condvar::new(),
            watermark: AtomicU64::new(last.get()),
            stats: Mutex::default(),
        });
        let (refusals, receiver) = unbounded();
        let mut log = Self {
            shared: Arc::clone(&shared),
            refusals: Some(refusals),
            threads: Mutex::default(),
            own: None,
        };
        // What was spawned before a failure ends when `log` is dropped.
        let threads = log.threads.get_mut();
        threads.refuser = Some(spawn("orlop-log-refuse", move || refuse(&receiver))?);
        let janitor = Janitor::new(Arc::clone(&shared), sequence + 1);
        threads.janitor = Some(spawn("orlop-log-janitor", move || janitor.run())?);
        let writer = Writer::new(shared, opened.active, opened.next, sink);
        let handle = spawn("orlop-log", move || writer.run())?;
        log.own = Some(handle.thread().id());
        threads.log = Some(handle);
        Ok(log)
    }

    fn stop(&self, stop: Stop) {
        let mut state = self.shared.state.lock();
        if state.stop == Stop::No {
            state.stop = stop;
        }
        drop(state);
        self.shared.called.store(true, Ordering::Release);
        self.shared.work.notify_all();
        self.shared.prepared.notify_all();
        self.shared.chores.notify_all();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartLogError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(StartLogError::Thread)
}

fn refuse(refusals: &Receiver<Refusal>) {
    for (ack, error) in refusals {
        answer(ack, Err(error));
    }
}

/// Waits for a thread, unless it is this one.
fn join(handle: Option<JoinHandle<()>>) {
    if let Some(handle) = handle.filter(|handle| handle.thread().id() != thread::current().id())
        && handle.join().is_err()
    {
        tracing::error!("a thread of the log panicked");
    }
}

impl Log for FileLog {
    fn append(&self, lane: Lane, purpose: Purpose, batch: Batch, ack: Box<dyn Acknowledge>) {
        let mut half = None;
        let mut state = self.shared.state.lock();
        let verdict = match (state.health(), purpose) {
            (LogHealth::Poisoned, _) => Err(AppendError::Poisoned),
            (LogHealth::Closed, _) => Err(AppendError::Closed),
            (LogHealth::Full, Purpose::New) => {
                retry_space(&mut state);
                self.shared.chores.notify_one();
                Err(AppendError::Full)
            }
            (LogHealth::Full, Purpose::Settle) | (LogHealth::Healthy, _) => {
                let (value, max) = (state.queue.bytes(), self.shared.options.backlog_bytes_max);
                half = state.halfway.level(value, max).then_some((value, max));
                state
                    .queue
                    .admit(&self.shared.options, lane, purpose, &batch)
            }
        };
        let refused = match verdict {
            Ok(()) => {
                let waiting = Waiting {
                    purpose,
                    batch,
                    ack,
                };
                state.queue.push(lane, waiting);
                None
            }
            Err(error) => Some((ack, error)),
        };
        drop(state);
        if let Some((value, max)) = half {
            let limit = "store.log.backlog_bytes_max";
            tracing::warn!(limit, value, max, "half of a limit is reached");
        }
        match refused {
            None => {
                self.shared.called.store(true, Ordering::Release);
                self.shared.work.notify_one();
            }
            Some(refusal) => {
                // The refuser lives as long as the handle: this cannot fail.
                if let Some(refusals) = &self.refusals {
                    let _ = refusals.send(refusal);
                }
            }
        }
    }

    fn stats(&self) -> LogStats {
        *self.shared.stats.lock()
    }

    fn watermark(&self) -> Lsn {
        Lsn::new(self.shared.watermark.load(Ordering::Acquire))
    }

    fn health(&self) -> LogHealth {
        self.shared.state.lock().health()
    }

    fn forget_before(&self, lsn: Lsn) -> Result<(), LogError> {
        let (reply, answer) = bounded(1);
        let mut state = self.shared.state.lock();
        match state.health() {
            LogHealth::Poisoned => return Err(LogError::Poisoned),
            LogHealth::Closed => return Err(LogError::Closed),
            LogHealth::Full | LogHealth::Healthy => {}
        }
        state.forgets.push_back(Forget { before: lsn, reply });
        drop(state);
        self.shared.chores.notify_one();
        answer.recv().unwrap_or(Err(LogError::Closed))
    }

    fn close(&self) -> Result<(), LogError> {
        if self.own == Some(thread::current().id()) {
            return Err(LogError::OwnThread);
        }
        self.stop(Stop::Drain);
        let mut threads = self.threads.lock();
        join(threads.log.take());
        join(threads.janitor.take());
        drop(threads);
        let outcome = self.shared.state.lock().outcome.clone();
        outcome.unwrap_or(Err(LogError::Poisoned))
    }
}

/// Makes the janitor look for space again.
pub(super) fn retry_space(state: &mut State) {
    if matches!(state.next, Next::NoSpace) {
        state.next = Next::Wanted;
    }
    if state.reserve == Reserve::NoSpace {
        state.reserve = Reserve::Wanted;
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.stop(Stop::Abandon);
        let threads = self.threads.get_mut();
        join(threads.log.take());
        join(threads.janitor.take());
        self.refusals = None;
        join(threads.refuser.take());
    }
}

impl fmt::Debug for FileLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLog")
            .field("dir", &self.shared.dir)
            .field("watermark", &self.watermark())
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
