//! The inbox: what waits for the projector. Nobody who puts something in waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orlop_saga::budget::Books;
use orlop_saga::effect::EffectId;
use orlop_saga::id::{Lsn, SagaId};
use orlop_saga::saga::SagaState;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::log::Batch;
use crate::projection::Retained;
use crate::projector::job::Exported;
use crate::projector::{Answer, ProjectorError};
use crate::tables::TablesError;

/// How long batches gather, and from how many bytes on no longer. An outcome stays in memory
/// until it is in the tables.
const GATHER: Duration = Duration::from_millis(5);
const GATHERED_BYTES_MAX: u64 = 64 << 10;

/// Something that is answered.
pub(super) enum Request {
    Outcome {
        id: EffectId,
        answer: Answer<Option<Retained>>,
    },
    Saga {
        id: SagaId,
        answer: Answer<Option<SagaState>>,
    },
    /// Budgets and the ledger, with everything that was acknowledged before.
    Books {
        answer: Answer<Books, ProjectorError>,
    },
    Checkpoint {
        export: bool,
        answer: Answer<Lsn, ProjectorError>,
    },
    /// An export into a folder of somebody else.
    Backup {
        folder: PathBuf,
        answer: Answer<Exported, ProjectorError>,
    },
}

impl Request {
    /// Whether only rows are read for it.
    pub(super) fn is_lookup(&self) -> bool {
        match self {
            Self::Outcome { .. } | Self::Saga { .. } => true,
            Self::Books { .. } | Self::Checkpoint { .. } | Self::Backup { .. } => false,
        }
    }

    /// Answers that nobody will answer.
    pub(super) fn refuse(self, error: TablesError) {
        match self {
            Self::Outcome { answer, .. } => answer(Err(error)),
            Self::Saga { answer, .. } => answer(Err(error)),
            Self::Books { answer } => answer(Err(refusal(error))),
            Self::Checkpoint { answer, .. } => answer(Err(refusal(error))),
            Self::Backup { answer, .. } => answer(Err(refusal(error))),
        }
    }
}

fn refusal(error: TablesError) -> ProjectorError {
    match error {
        TablesError::Closed => ProjectorError::Closed,
        TablesError::Io { .. }
        | TablesError::Damaged { .. }
        | TablesError::Poisoned
        | TablesError::Blob { .. }
        | TablesError::TooLarge { .. } => ProjectorError::Tables(error),
    }
}

/// How the thread is to end.
pub(super) struct Stop {
    pub(super) checkpoint: bool,
    pub(super) answers: Vec<Answer<(), ProjectorError>>,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    batches: VecDeque<(Lsn, Batch)>,
    stop: Option<Stop>,
    /// Whether the thread lets batches gather.
    gathering: bool,
    /// The thread has ended: nothing put in now would be taken out.
    ended: bool,
    failure: Option<ProjectorError>,
}

/// What waits for the projector.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
    backlog_bytes: AtomicU64,
    applied: AtomicU64,
    /// From how many bytes on nothing gathers any longer: far below where new work is refused.
    gathered_bytes: u64,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("backlog_bytes", &self.backlog_bytes)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

/// What was taken out at once.
pub(super) struct Taken {
    pub(super) requests: VecDeque<Request>,
    pub(super) batches: Vec<(Lsn, Batch)>,
    pub(super) stop: Option<Stop>,
}

impl Inbox {
    pub(super) fn new(backlog_bytes_max: u64) -> Self {
        Self {
            gathered_bytes: (backlog_bytes_max / 4).min(GATHERED_BYTES_MAX),
            ..Self::default()
        }
    }

    pub(super) fn ask(&self, request: Request) {
        let mut state = self.state.lock();
        if state.ended {
            drop(state);
            request.refuse(TablesError::Closed);
            return;
        }
        state.requests.push_back(request);
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn hand_over(&self, first: Lsn, batch: &Batch) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        self.backlog_bytes
            .fetch_add(batch.byte_len(), Ordering::Relaxed);
        // The journal has it, and nobody would ever take it out. Counted all the same: what was
        // not projected stays in the caller's memory, which has a bound too.
        if state.failure.is_some() {
            return;
        }
        state.batches.push_back((first, batch.clone()));
        // Who gathers is woken by enough, or by time.
        let enough = self.backlog_bytes.load(Ordering::Relaxed) >= self.gathered_bytes;
        let wake = !state.gathering || enough;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    pub(super) fn stop(&self, checkpoint: bool, answer: Answer<(), ProjectorError>) {
        let mut state = self.state.lock();
        if state.ended {
            drop(state);
            answer(Ok(()));
            return;
        }
        let stop = state.stop.get_or_insert_with(|| Stop {
            checkpoint,
            answers: Vec::new(),
        });
        stop.checkpoint &= checkpoint;
        stop.answers.push(answer);
        drop(state);
        self.wake.notify_one();
    }

    /// Lets batches gather for a moment, if nobody waits for an answer: what they change in the
    /// tables is applied at once then, and whoever is told of an outcome does not share the
    /// processor with that.
    fn gather(&self, state: &mut MutexGuard<'_, State>) {
        let until = Instant::now() + GATHER;
        state.gathering = true;
        while !state.batches.is_empty()
            && state.requests.is_empty()
            && state.stop.is_none()
            && self.backlog_bytes.load(Ordering::Relaxed) < self.gathered_bytes
            && !self.wake.wait_until(state, until).timed_out()
        {}
        state.gathering = false;
    }

    /// Takes out requests first, then batches of up to `bytes_max` bytes, at least one; waits for
    /// `pause` (for ever if there is none) while there is nothing at all.
    pub(super) fn take(&self, bytes_max: u64, pause: Option<Duration>) -> Taken {
        let mut state = self.state.lock();
        if state.requests.is_empty() && state.batches.is_empty() && state.stop.is_none() {
            match pause {
                Some(pause) if pause.is_zero() => {}
                Some(pause) => {
                    self.wake.wait_for(&mut state, pause);
                }
                None => self.wake.wait(&mut state),
            }
        }
        if pause.is_none_or(|pause| !pause.is_zero()) {
            self.gather(&mut state);
        }
        let requests = std::mem::take(&mut state.requests);
        let mut batches = Vec::new();
        let mut bytes: u64 = 0;
        while bytes < bytes_max
            && let Some((first, batch)) = state.batches.pop_front()
        {
            bytes = bytes.saturating_add(batch.byte_len());
            batches.push((first, batch));
        }
        // What was durable before the stop is projected before it.
        let stop = if state.batches.is_empty() {
            state.stop.take()
        } else {
            None
        };
        Taken {
            requests,
            batches,
            stop,
        }
    }

    /// Takes out every batch that waits.
    pub(super) fn take_batches(&self) -> Vec<(Lsn, Batch)> {
        self.state.lock().batches.drain(..).collect()
    }

    /// Counts bytes as projected up to `applied`.
    pub(super) fn projected(&self, bytes: u64, applied: Lsn) {
        self.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.applied.store(applied.get(), Ordering::Release);
    }

    /// Says why nothing more is projected, and lets go of what waits. It stays counted.
    pub(super) fn fail(&self, error: ProjectorError) {
        let mut state = self.state.lock();
        state.failure.get_or_insert(error);
        let batches = std::mem::take(&mut state.batches);
        drop(state);
        drop(batches);
    }

    /// Nothing is taken out any more: whoever waits or comes is told so.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let requests = std::mem::take(&mut state.requests);
        let stop = state.stop.take();
        let failure = state.failure.clone();
        state.batches.clear();
        drop(state);
        for request in requests {
            request.refuse(TablesError::Closed);
        }
        for answer in stop.into_iter().flat_map(|stop| stop.answers) {
            answer(failure.clone().map_or(Ok(()), Err));
        }
    }

    pub(super) fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn applied(&self) -> Lsn {
        Lsn::new(self.applied.load(Ordering::Acquire))
    }

    pub(super) fn failure(&self) -> Option<ProjectorError> {
        self.state.lock().failure.clone()
    }
}
