//! Deadlines of sagas.
//!
//! A deadline is journaled as wall time and read against the wall clock once in an engine: when
//! the saga is started or found at open. From then on it is measured with the monotonic clock, so
//! that a wall clock that jumps moves it only if it jumps while the store is closed.

use std::sync::Arc;

use orlop_saga::saga::{Phase, SagaEvent};

use super::Message;
use super::run::Run;
use crate::core::Core;

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
}
