//! The witness: hears what an engine says, in the process that the engine runs in, and puts it on
//! the tape before anything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::judge::Problem;
use super::life::{Ack, Hear};
use super::outside::{Entry, Outside};
use super::tape::{self, Event};
use super::told::Told;

/// See the module.
pub(crate) struct Witness {
    heard: Mutex<(Told, Vec<Problem>)>,
    /// What the disk excuses, in words.
    excused: Mutex<Vec<String>>,
    /// Whether the disk fails, which excuses that something has no outcome.
    faults: AtomicBool,
}

impl Witness {
    /// One that has heard `told` before.
    pub(crate) fn new(told: Told) -> Self {
        Self {
            heard: Mutex::new((told, Vec::new())),
            excused: Mutex::default(),
            faults: AtomicBool::new(false),
        }
    }

    /// Whether the disk fails from now on.
    pub(crate) fn excuse(&self, faults: bool) {
        self.faults.store(faults, Ordering::Release);
    }

    pub(crate) fn told(&self) -> Told {
        self.heard.lock().0.clone()
    }

    /// Something failed, and the disk excuses it.
    pub(crate) fn excused(&self, what: String) {
        self.excused.lock().push(what);
    }

    /// Everything that the disk excused.
    pub(crate) fn excuses(&self) -> Vec<String> {
        self.excused.lock().clone()
    }

    pub(crate) fn object(&self, problem: Problem) {
        self.heard.lock().1.push(problem);
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.heard.lock().1.clone()
    }
}

impl Hear for Witness {
    fn hear(&self, ack: Ack) {
        let faults = self.faults.load(Ordering::Acquire);
        let (told, problems) = &mut *self.heard.lock();
        problems.extend(told.hear(&ack, faults));
        match &ack {
            Ack::Unsettled { item, error } if faults => {
                self.excused(format!("item {item}: {error}"));
            }
            Ack::Failed(error) if faults => self.excused(error.clone()),
            Ack::Phase(_)
            | Ack::Opened { .. }
            | Ack::Begun(_)
            | Ack::Accepted(_)
            | Ack::Done { .. }
            | Ack::Unsettled { .. }
            | Ack::Unknown(_)
            | Ack::Failed(_) => {}
        }
        tape::note(Event::Said(ack));
    }
}

/// An outside in which `entries` have happened, and whose every change goes to the tape.
pub(crate) fn outside(seed: u64, entries: &[Entry]) -> Arc<Outside> {
    let outside = Outside::new(seed, entries);
    outside.observe(|entry| tape::note(Event::Outside(entry.clone())));
    Arc::new(outside)
}
