//! The gate: where every attempt of a swept saga waits until the sweep lets it through, one at a
//! time, or crashes instead.

use std::sync::Arc;

use orlop_saga::outcome::Failure;
use orlop_store::log::SimLogDisk;
use parking_lot::Mutex;

use super::clock::SimClock;
use super::machine::Machine;
use crate::executor::turnstile::{Launch, Turnstile};
use crate::executor::{Action, Ended, Owner};

/// See the module.
pub(crate) struct Gate {
    clock: SimClock,
    /// Where every attempt has its record before it arrives.
    journal: SimLogDisk,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// The power is off, or an attempt ended that nobody is to hear of.
    crashed: bool,
    /// The first attempt that arrived before its record was durable.
    unrecorded: Option<String>,
}

/// What an attempt is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Run,
    Ask,
    Undo,
}

/// An attempt at the gate.
pub(crate) struct Waiting {
    pub(crate) kind: Kind,
    /// The step's path, or the name of a plain effect.
    pub(crate) path: String,
    pub(crate) launch: Launch,
}

/// What becomes of an attempt that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Once,
    Twice,
    /// It runs, and then the process is dead.
    Last,
}

impl Waiting {
    pub(crate) fn label(&self) -> String {
        let kind = match self.kind {
            Kind::Run => "run",
            Kind::Ask => "ask",
            Kind::Undo => "undo",
        };
        format!("{kind} {}", self.path)
    }

    fn of(launch: Launch) -> Self {
        let (kind, name) = match &launch.action {
            Action::Run { code, .. } => (Kind::Run, &code.reference.name),
            Action::Reconcile { code, .. } | Action::Sweep { code } => {
                (Kind::Ask, &code.reference.name)
            }
            Action::Undo { entry, .. } => (Kind::Undo, &entry.reference.name),
        };
        let path = launch
            .attempt
            .step
            .as_ref()
            .map_or_else(|| name.to_string(), |(_, path)| path.to_string());
        Self { kind, path, launch }
    }
}

impl Gate {
    pub(crate) fn new(clock: SimClock, journal: SimLogDisk) -> Arc<Self> {
        Arc::new(Self {
            clock,
            journal,
            state: Mutex::default(),
        })
    }

    /// Whether the process is dead.
    pub(crate) fn has_crashed(&self) -> bool {
        self.state.lock().crashed
    }

    /// An attempt that arrived before its record was durable.
    pub(crate) fn unrecorded(&self) -> Option<String> {
        self.state.lock().unrecorded.clone()
    }

    /// Whether a crash at this instant would leave the attempt's record.
    fn is_recorded(&self, waiting: &Waiting) -> bool {
        let attempt = &waiting.launch.attempt;
        let Some((saga, _)) = &attempt.step else {
            return true;
        };
        match waiting.kind {
            Kind::Run | Kind::Undo => {
                let past = Machine::durable(&self.journal);
                past.has(*saga, &waiting.path, attempt.fence)
            }
            // A question changes nothing.
            Kind::Ask => true,
        }
    }

    /// From now on nothing that the process does counts.
    pub(crate) fn crash(&self) {
        self.state.lock().crashed = true;
        self.clock.wake();
    }

    /// The next attempt: any of those that wait, by the draw, so that every order of attempts
    /// that run side by side has its seed.
    pub(crate) fn next(&self, draw: u64) -> Option<Waiting> {
        let mut state = self.state.lock();
        state.waiting.sort_by(|a, b| {
            let key = |waiting: &Waiting| {
                // Sagas of one family may use the same path.
                let saga = waiting.launch.attempt.step.as_ref().map(|(saga, _)| *saga);
                (waiting.path.clone(), waiting.kind.clone(), saga)
            };
            key(a).cmp(&key(b))
        });
        let count = state.waiting.len() as u64;
        let index = usize::try_from(draw.checked_rem(count)?).ok()?;
        Some(state.waiting.remove(index))
    }

    /// Lets an attempt through.
    pub(crate) fn pass(self: &Arc<Self>, waiting: Waiting, passage: Passage) {
        let launch = waiting.launch;
        let mut tap = Tap {
            gate: Arc::clone(self),
            owner: Arc::clone(&launch.owner),
            again: Mutex::new(None),
            last: passage == Passage::Last,
        };
        let first = match passage {
            Passage::Once | Passage::Last => launch,
            Passage::Twice => {
                let copy = launch.again();
                tap.again = Mutex::new(Some(launch));
                copy
            }
        };
        first.go(Arc::new(tap));
    }

    /// Has an attempt wait again.
    pub(crate) fn put_back(&self, waiting: Waiting) {
        self.state.lock().waiting.push(waiting);
    }

    /// Gives up everything that waits: the process ends.
    pub(crate) fn clear(&self) {
        loop {
            let waiting = std::mem::take(&mut self.state.lock().waiting);
            // A permit that is given back may bring the next one here.
            if waiting.is_empty() {
                return;
            }
        }
    }

    /// Has an attempt fail for good, without having run.
    pub(crate) fn fail(waiting: Waiting, reason: &str) {
        waiting.launch.fail(Failure::permanent(reason));
    }
}

impl Turnstile for Gate {
    fn arrive(&self, launch: Launch) {
        // Kept also when the process is dead: whoever drops an attempt gives its permit to the
        // next one, which a dead process does not.
        let waiting = Waiting::of(launch);
        let early = !self.has_crashed() && !self.is_recorded(&waiting);
        let mut state = self.state.lock();
        // What a power cut takes along while this looks is no finding.
        if early && !state.crashed {
            state.unrecorded.get_or_insert_with(|| waiting.label());
        }
        state.waiting.push(waiting);
    }
}

/// Who hears of an attempt that was let through.
struct Tap {
    gate: Arc<Gate>,
    owner: Arc<dyn Owner>,
    again: Mutex<Option<Launch>>,
    last: bool,
}

impl Owner for Tap {
    fn ended(self: Arc<Self>, ended: Ended) {
        let again = self.again.lock().take();
        if let Some(launch) = again {
            launch.go(self);
        } else if self.last {
            self.gate.crash();
        } else {
            Arc::clone(&self.owner).ended(ended);
        }
    }
}
