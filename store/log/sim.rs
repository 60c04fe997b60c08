//! The journal in memory, for tests: the same contract, and a power switch that counts groups.
//!
//! Invariants
//! - A group is durable before the sink and the acknowledgements hear of it.
//! - Once the power is off nothing is made durable and nobody is answered any more.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle, ThreadId};

use fastrand::Rng;
use orlop_saga::id::Lsn;
use parking_lot::{Condvar, Mutex};

use super::file::answer;
use super::queue::{Queue, Waiting};
use super::{
    Acknowledge, AppendError, Batch, DurableSink, Lane, Log, LogError, LogHealth, LogOptions,
    LsnRange, Opened, Purpose, Replay, ReplayLogError, StartLogError,
};

/// A batch on the simulated disk.
#[derive(Clone, Debug)]
struct Stored {
    first: Lsn,
    batch: Batch,
}

impl Stored {
    const fn end(&self) -> Lsn {
        Lsn::new(self.first.get() + self.batch.len() as u64)
    }
}

#[derive(Debug, Default)]
struct Image {
    /// Durable batches; those below the oldest kept are freed.
    durable: Vec<Stored>,
    /// Written when the power went or a sync failed: a prefix of them may survive.
    unsynced: Vec<Stored>,
    /// The lsn of the next record, if no record is kept.
    next: u64,
    groups: u64,
    power_off_at: Option<u64>,
    sync_fails_at: Option<u64>,
    full: bool,
    /// Who waits to hear that the power is gone.
    told: Option<Told>,
}

/// What is called when the power is gone.
struct Told(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl Image {
    fn next(&self) -> Lsn {
        let kept = self.durable.last().map(Stored::end);
        kept.unwrap_or(Lsn::new(self.next.max(1)))
    }
}

/// What survives a simulated log. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimLogDisk(Arc<Mutex<Image>>);

impl SimLogDisk {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many groups were made durable since this image was made.
    pub fn groups(&self) -> u64 {
        self.0.lock().groups
    }

    /// How many batches are kept and durable.
    pub fn batches(&self) -> u64 {
        self.0.lock().durable.len() as u64
    }

    /// Lets `groups` more groups become durable and be answered. The one after is written and not
    /// synced, and neither it nor anything later is answered.
    pub fn power_off_after(&self, groups: u64) {
        let mut image = self.0.lock();
        image.power_off_at = Some(image.groups + groups);
    }

    /// Has `told` hear it when a group meets the power off: from then on nobody is answered, which
    /// nobody who waits for an answer could otherwise know.
    pub fn tell_power_off(&self, told: Sender<()>) {
        self.on_power_off(move || {
            // Whoever wanted to know may have left.
            let _ = told.send(());
        });
    }

    /// The same, for `told` to be called on the log's own thread.
    pub fn on_power_off(&self, told: impl FnOnce() + Send + 'static) {
        self.0.lock().told = Some(Told(Box::new(told)));
    }

    /// Lets `groups` more groups become durable. The sync of the one after fails,
    /// once.
    pub fn fail_sync_after(&self, groups: u64) {
        let mut image = self.0.lock();
        image.sync_fails_at = Some(image.groups + groups);
    }

    /// Fills or frees the disk: full, it takes [`Purpose::Settle`] only.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// An image of its own, with power, as a crash now may leave it: everything durable, and of
    /// what was written and not synced a prefix of whole batches drawn from `seed`.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let unsynced = self.0.lock().unsynced.len() as u64;
        self.crash_keeping(Rng::with_seed(seed).u64(..=unsynced))
    }

    /// The same with the oldest `kept` of the batches that were written and not synced.
    #[must_use]
    pub fn crash_keeping(&self, kept: u64) -> Self {
        let image = self.0.lock();
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let durable = image.durable.iter().chain(image.unsynced.iter().take(kept));
        Self::of(durable.cloned().collect(), image.next())
    }

    /// An image of its own that holds exactly the oldest `batches` durable batches: what a crash
    /// right after them would have left.
    #[must_use]
    pub fn crash_at(&self, batches: u64) -> Self {
        let image = self.0.lock();
        let kept = usize::try_from(batches).unwrap_or(usize::MAX);
        let durable = image.durable.iter().take(kept).cloned().collect();
        let next = image
            .durable
            .first()
            .map_or(image.next(), |oldest| oldest.first);
        Self::of(durable, next)
    }

    fn of(durable: Vec<Stored>, next: Lsn) -> Self {
        Self(Arc::new(Mutex::new(Image {
            durable,
            next: next.get(),
            ..Image::default()
        })))
    }

    /// Opens the log. As with the real one, only one may be open at a time. A planned fault stays
    /// planned; where the power is off it stays off, only the image of a crash has power again.
    ///
    /// What a failed sync left is kept here, as the real log would find it in the cache and make
    /// it durable; use [`crash`](Self::crash) to lose it.
    pub fn open(&self, options: LogOptions) -> SimOpenedLog {
        let mut image = self.0.lock();
        let unsynced = std::mem::take(&mut image.unsynced);
        image.durable.extend(unsynced);
        drop(image);
        SimOpenedLog {
            disk: self.clone(),
            options,
        }
    }
}

/// A [`SimLog`] that was opened and does not run yet.
#[derive(Debug)]
pub struct SimOpenedLog {
    disk: SimLogDisk,
    options: LogOptions,
}

impl SimOpenedLog {
    /// Starts a log with a thread of its own.
    ///
    /// # Errors
    /// [`StartLogError`]: nothing runs.
    pub fn start(self, sink: Box<dyn DurableSink>) -> Result<SimLog, StartLogError> {
        let mut log = self.start_manual(sink);
        let shared = Arc::clone(&log.shared);
        let handle = thread::Builder::new()
            .name("orlop-log-sim".to_owned())
            .spawn(move || shared.run())
            .map_err(StartLogError::Thread)?;
        log.own = Some(handle.thread().id());
        log.thread = Some(handle);
        Ok(log)
    }

    /// Starts a log without a thread: it goes on when [`SimLog::step`] or `close` is called.
    pub fn start_manual(self, sink: Box<dyn DurableSink>) -> SimLog {
        let shared = Arc::new(Shared {
            disk: self.disk,
            options: self.options,
            state: Mutex::default(),
            running: Mutex::new(sink),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        SimLog {
            shared,
            thread: None,
            own: None,
        }
    }
}

impl Opened for SimOpenedLog {
    fn first_lsn(&self) -> Lsn {
        let image = self.disk.0.lock();
        image
            .durable
            .first()
            .map_or(image.next(), |oldest| oldest.first)
    }

    fn last_lsn(&self) -> Lsn {
        Lsn::new(self.disk.0.lock().next().get() - 1)
    }

    fn replay(&self, from: Lsn, replay: &mut dyn Replay) -> Result<(), ReplayLogError> {
        let from = from.max(Lsn::new(1));
        let first = self.first_lsn();
        if from < first {
            return Err(ReplayLogError::Forgotten { from, first });
        }
        let stored = self.disk.0.lock().durable.clone();
        for batch in stored {
            let mut lsn = batch.first;
            for record in batch.batch.iter() {
                if lsn >= from {
                    replay.record(lsn, record)?;
                }
                lsn = lsn.next();
            }
        }
        Ok(())
    }

    fn start(self: Box<Self>, sink: Box<dyn DurableSink>) -> Result<Arc<dyn Log>, StartLogError> {
        Ok(Arc::new(SimOpenedLog::start(*self, sink)?))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    Drain,
    Abandon,
}

#[derive(Default)]
struct State {
    queue: Queue,
    refusals: Vec<(Box<dyn Acknowledge>, AppendError)>,
    /// Acknowledgements that the power took with it.
    lost: Vec<Waiting>,
    poisoned: bool,
    power_off: bool,
    stop: Stop,
    /// The thread is between two groups and has nothing to do, or there is none.
    drained: bool,
}

struct Shared {
    disk: SimLogDisk,
    options: LogOptions,
    state: Mutex<State>,
    /// The sink, and at the same time the right to make a step.
    running: Mutex<Box<dyn DurableSink>>,
    work: Condvar,
    ended: Condvar,
}

/// How the sync of a group went.
enum Synced {
    Yes(Lsn),
    Failed,
    PowerOff,
}

impl Shared {
    fn run(&self) {
        loop {
            while self.step() {}
            let mut state = self.state.lock();
            let idle = state.refusals.is_empty() && (state.power_off || state.queue.is_empty());
            if idle {
                if state.stop == Stop::Abandon {
                    return;
                }
                state.drained = true;
                self.ended.notify_all();
                self.work.wait(&mut state);
                state.drained = false;
            }
        }
    }

    /// Delivers refusals and makes one group durable. Whether there was anything to do.
    fn step(&self) -> bool {
        let mut sink = self.running.lock();
        let full = self.disk.0.lock().full;
        let mut state = self.state.lock();
        let refusals = std::mem::take(&mut state.refusals);
        let mut refused: Vec<(Box<dyn Acknowledge>, AppendError)> = refusals;
        let mut members = Vec::new();
        let (poisoned, stop) = (state.poisoned, state.stop);
        if !state.power_off {
            if poisoned || stop == Stop::Abandon {
                let error = if poisoned {
                    AppendError::Poisoned
                } else {
                    AppendError::Closed
                };
                let waiting = state.queue.drain();
                refused.extend(waiting.into_iter().map(|one| (one.ack, error.clone())));
            } else {
                let bytes_max = self.options.group_bytes_max;
                let group = state.queue.compose(bytes_max, !full);
                let late = group.refused.into_iter();
                refused.extend(late.map(|one| (one.ack, AppendError::Full)));
                members = group.members;
            }
        }
        drop(state);
        let busy = !refused.is_empty() || !members.is_empty();
        for (ack, error) in refused {
            answer(ack, Err(error));
        }
        if !members.is_empty() {
            self.group(members, sink.as_mut());
        }
        busy
    }

    fn group(&self, members: Vec<Waiting>, sink: &mut dyn DurableSink) {
        match self.disk.write(&members) {
            Synced::Yes(first) => {
                let mut ranges = Vec::with_capacity(members.len());
                let mut at = first;
                for member in &members {
                    sink.durable(at, &member.batch);
                    let end = Lsn::new(at.get() + u64::from(member.batch.len()));
                    ranges.push(LsnRange {
                        first: at,
                        last: Lsn::new(end.get() - 1),
                    });
                    at = end;
                }
                for (member, range) in members.into_iter().zip(ranges) {
                    answer(member.ack, Ok(range));
                }
            }
            Synced::Failed => {
                self.state.lock().poisoned = true;
                for member in members {
                    answer(member.ack, Err(AppendError::Unresolved));
                }
            }
            Synced::PowerOff => {
                let mut state = self.state.lock();
                state.power_off = true;
                state.lost.extend(members);
            }
        }
    }
}

impl SimLogDisk {
    fn write(&self, members: &[Waiting]) -> Synced {
        let mut image = self.0.lock();
        let first = image.next();
        let mut at = first;
        let mut stored = Vec::with_capacity(members.len());
        for member in members {
            stored.push(Stored {
                first: at,
                batch: member.batch.clone(),
            });
            at = Lsn::new(at.get() + u64::from(member.batch.len()));
        }
        let power_off = image
            .power_off_at
            .is_some_and(|limit| image.groups >= limit);
        let fails = image
            .sync_fails_at
            .is_some_and(|limit| image.groups >= limit);
        if power_off || fails {
            image.unsynced.extend(stored);
            let told = image.told.take_if(|_| power_off);
            drop(image);
            if let Some(Told(tell)) = told {
                tell();
            }
            return if power_off {
                Synced::PowerOff
            } else {
                Synced::Failed
            };
        }
        image.durable.extend(stored);
        image.groups += 1;
        Synced::Yes(first)
    }
}

/// The journal in memory. See [`SimLogDisk`] for its crashes and faults.
///
/// Refusals are delivered by the same thread, or the same call of [`step`](SimLog::step), that
/// writes. With the power off, `append` swallows what it is given, `close` answers
/// [`LogError::Poisoned`], and dropping the log drops the acknowledgements it owes.
pub struct SimLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    own: Option<ThreadId>,
}

impl SimLog {
    /// Delivers refusals and writes one group, on the calling thread. Whether there was anything
    /// to do.
    pub fn step(&self) -> bool {
        self.shared.step()
    }
}

impl Log for SimLog {
    fn append(&self, lane: Lane, purpose: Purpose, batch: Batch, ack: Box<dyn Acknowledge>) {
        let full = self.shared.disk.0.lock().full;
        let mut state = self.shared.state.lock();
        let verdict = if state.poisoned {
            Err(AppendError::Poisoned)
        } else if state.stop != Stop::No {
            Err(AppendError::Closed)
        } else if full && purpose == Purpose::New {
            Err(AppendError::Full)
        } else {
            state
                .queue
                .admit(&self.shared.options, lane, purpose, &batch)
        };
        let waiting = Waiting {
            purpose,
            batch,
            ack,
        };
        match verdict {
            _ if state.power_off => state.lost.push(waiting),
            Ok(()) => state.queue.push(lane, waiting),
            Err(error) => state.refusals.push((waiting.ack, error)),
        }
        drop(state);
        self.shared.work.notify_one();
    }

    fn watermark(&self) -> Lsn {
        Lsn::new(self.shared.disk.0.lock().next().get() - 1)
    }

    fn health(&self) -> LogHealth {
        let full = self.shared.disk.0.lock().full;
        let state = self.shared.state.lock();
        if state.poisoned {
            LogHealth::Poisoned
        } else if state.stop != Stop::No {
            LogHealth::Closed
        } else if full {
            LogHealth::Full
        } else {
            LogHealth::Healthy
        }
    }

    fn forget_before(&self, lsn: Lsn) -> Result<(), LogError> {
        match self.health() {
            LogHealth::Poisoned => return Err(LogError::Poisoned),
            LogHealth::Closed => return Err(LogError::Closed),
            LogHealth::Healthy | LogHealth::Full => {}
        }
        let mut image = self.shared.disk.0.lock();
        image.next = image.next().get();
        image.durable.retain(|stored| stored.end() > lsn);
        Ok(())
    }

    fn close(&self) -> Result<(), LogError> {
        if self.own == Some(thread::current().id()) {
            return Err(LogError::OwnThread);
        }
        let mut state = self.shared.state.lock();
        if state.stop == Stop::No {
            state.stop = Stop::Drain;
        }
        if self.thread.is_some() {
            self.shared.work.notify_one();
            while !(state.drained && (state.power_off || state.queue.is_empty())) {
                self.shared.ended.wait(&mut state);
            }
        } else {
            drop(state);
            while self.shared.step() {}
            state = self.shared.state.lock();
        }
        if state.poisoned || state.power_off {
            Err(LogError::Poisoned)
        } else {
            Ok(())
        }
    }
}

impl Drop for SimLog {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.stop = Stop::Abandon;
        drop(state);
        self.shared.work.notify_one();
        match self.thread.take() {
            Some(thread) if self.own != Some(thread::current().id()) => {
                let _ = thread.join();
            }
            Some(_) => {}
            None => while self.shared.step() {},
        }
    }
}

impl fmt::Debug for SimLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLog")
            .field("watermark", &self.watermark())
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
