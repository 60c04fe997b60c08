//! Deadlines of sagas, and the timers that they and sleeps are waited for with.
//!
//! A deadline is journaled as wall time and read against the wall clock once in an engine: when
//! the saga is started or found at open. From then on it is measured with the monotonic clock, so
//! that a wall clock that jumps moves it only if it jumps while the store is closed.

use std::sync::Arc;
use std::time::Duration;

use orlop_saga::saga::{Phase, SagaEvent};

use super::Message;
use super::run::Run;
use crate::core::Core;
use crate::timers::Alarm;

impl Run {
    /// Sets the timer of its deadline, if it has one that has not passed.
    pub(super) fn watch_deadline(&mut self, core: &Arc<Core>) {
        let Some(deadline) = self.state.start().deadline else {
            return;
        };
        let left = deadline.since(core.clock.wall());
        self.due_at = Some(core.clock.monotonic().after(left));
        self.check_deadline(core);
    }

    /// Records that its deadline has passed, or waits on.
    pub(super) fn check_deadline(&mut self, core: &Arc<Core>) {
        let open = matches!(self.state.phase(), Phase::Running)
            && self.state.deadline_passed().is_none()
            && !self.state.cancel_requested();
        let Some(due_at) = self.due_at.filter(|_| open) else {
            return;
        };
        let left = due_at.since(core.clock.monotonic());
        if !left.is_zero() {
            let alarm = Self::alarm(core, left, Message::Deadline { saga: self.id });
            self.due_alarm = Some(alarm);
            return;
        }
        let at = core.clock.wall();
        if !self.record(SagaEvent::DeadlinePassed { at }) {
            return;
        }
        if self.state.doom().is_some() {
            // Unwinding needs nothing of what holds it.
            self.resume(core);
        } else {
            let started = &self.state.start().code;
            tracing::warn!(saga = %self.id, %started, "the deadline passed after the pivot");
        }
    }

    pub(super) fn remind(core: &Arc<Core>, wait: Duration, message: Message) {
        core.executor
            .runtime
            .after(wait, Self::telling(core, message));
    }

    /// The same as long as the alarm is kept: for waits that may be much longer than the saga.
    pub(super) fn alarm(core: &Arc<Core>, wait: Duration, message: Message) -> Alarm {
        let timers = core.executor.runtime.timers();
        timers.alarm(wait, Self::telling(core, message))
    }

    fn telling(core: &Arc<Core>, message: Message) -> impl FnOnce() + Send + use<> {
        let teller = Arc::downgrade(core);
        move || {
            if let Some(core) = teller.upgrade() {
                core.driver.tell(message);
            }
        }
    }

    /// It waits for nothing any more: what is kept of it leaves no timers behind.
    pub(super) fn disarm(&mut self) {
        self.asleep.clear();
        self.due_alarm = None;
    }
}
