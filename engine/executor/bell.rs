//! The bell: rings for the waiting room when the time of somebody in it has come, and not before.
//!
//! Invariants
//! - At most one timer counts, and it is the one for the earliest time that was asked for.
//! - A timer that is ahead of the clock is set again: the room is rung for once.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use orlop_admission::Alarm;
use orlop_saga::time::{Clock, Monotonic};
use parking_lot::Mutex;

use super::Executor;
use crate::runtime::OwnRuntime;

/// The least that a timer which rang too early is set for again.
const EARLY: Duration = Duration::from_millis(1);

/// See the module.
pub(crate) struct Bell {
    runtime: Arc<OwnRuntime>,
    clock: Arc<dyn Clock>,
    executor: OnceLock<Weak<Executor>>,
    armed: Mutex<Armed>,
}

/// When the bell is to ring. Of the timers that were set for it the last one counts.
#[derive(Default)]
struct Armed {
    at: Option<Monotonic>,
    timer: u64,
}

impl Bell {
    pub(crate) fn new(runtime: Arc<OwnRuntime>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            clock,
            executor: OnceLock::new(),
            armed: Mutex::default(),
        })
    }

    /// Rings for the room of `executor`; to be called once, before anything waits.
    pub(crate) fn attach(&self, executor: &Arc<Executor>) {
        let _first = self.executor.set(Arc::downgrade(executor));
    }

    fn set(self: &Arc<Self>, wait: Duration, timer: u64) {
        let bell = Arc::downgrade(self);
        self.runtime.after(wait, move || {
            if let Some(bell) = bell.upgrade() {
                bell.timer_rang(timer);
            }
        });
    }

    fn timer_rang(self: &Arc<Self>, timer: u64) {
        let mut armed = self.armed.lock();
        let Some(at) = armed.at.filter(|_| armed.timer == timer) else {
            return;
        };
        let left = at.since(self.clock.monotonic());
        if !left.is_zero() {
            drop(armed);
            self.set(left.max(EARLY), timer);
            return;
        }
        armed.at = None;
        drop(armed);
        if let Some(executor) = self.executor.get().and_then(Weak::upgrade) {
            executor.room.ring();
        }
    }
}

/// The bell, as the waiting room knows it.
pub(crate) struct Rope(pub(crate) Arc<Bell>);

impl Alarm for Rope {
    fn earlier(&self, next: Monotonic) {
        let bell = &self.0;
        let mut armed = bell.armed.lock();
        // Two who ask at once may come in the other order.
        if armed.at.is_some_and(|at| at <= next) {
            return;
        }
        armed.at = Some(next);
        armed.timer = armed.timer.wrapping_add(1);
        let timer = armed.timer;
        drop(armed);
        bell.set(next.since(bell.clock.monotonic()), timer);
    }
}
