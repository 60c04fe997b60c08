//! Endings: completion, unwinding, and what holds a saga on the way.

use std::sync::Arc;

use orlop_saga::id::StepIndex;
use orlop_saga::outcome::Failure;
use orlop_saga::saga::{Bond, CallKind, Cause, Hold, PauseReason, Phase, SagaEvent};
use orlop_saga::step::Step;

use super::Message;
use super::run::{Deed, Run};
use crate::core::Core;
use crate::host::Late;
use crate::registry::UndoEntry;

impl Run {
    /// Ends what can be ended: completes, starts to unwind, undoes the next step.
    pub(super) fn conclude(&mut self, core: &Arc<Core>) {
        if self.state.hold().is_some() || core.has_ended() {
            return;
        }
        if matches!(self.state.phase(), Phase::Running) {
            self.conclude_forward(core);
        }
        if matches!(self.state.phase(), Phase::Unwinding { .. }) && self.state.hold().is_none() {
            self.unwind(core);
        }
    }

    fn conclude_forward(&mut self, core: &Arc<Core>) {
        if let Some(cause) = self.state.doom() {
            self.bury();
            self.start_unwinding(core, cause);
            return;
        }
        let result = self
            .player
            .as_ref()
            .and_then(|playing| playing.result.clone());
        match result {
            None => {}
            Some(Ok(output)) => {
                // No saga completes over a step that has not ended; and one that was not called
                // again never would.
                if !self.all_called() || self.state.open_steps() > 0 {
                    return;
                }
                let at = core.retention.ended_at();
                if self.record(SagaEvent::Completed { output, at }) {
                    self.finish();
                }
            }
            // A replay that fails before it made the calls that are recorded is no failure.
            Some(Err(_)) if !self.all_called() => {}
            Some(Err(error)) if self.state.pivoted() => {
                self.hold(Hold::Stuck(format!("it failed after its pivot: {error}")));
            }
            Some(Err(error)) => {
                self.start_unwinding(core, Cause::Failed(Failure::permanent(error)));
            }
        }
    }

    /// Whether the function made every call that is recorded; if not, it is parked.
    fn all_called(&mut self) -> bool {
        let Some(playing) = &self.player else {
            return false;
        };
        let calls = self.state.calls();
        let missing = (0_u32..)
            .zip(calls)
            .find(|(index, _)| !playing.called.contains(&StepIndex::new(*index)));
        let Some((_, call)) = missing else {
            return true;
        };
        let path = call.path.clone();
        self.diverged(format!(
            "it ended without calling {path}, which is recorded"
        ));
        false
    }

    /// Unwinds once nothing of the saga runs any more.
    fn start_unwinding(&mut self, core: &Arc<Core>, cause: Cause) {
        let steps_over = self.stand_down();
        let children_over = self.stand_down_children(core);
        if steps_over && children_over && self.record(SagaEvent::UnwindingStarted { cause }) {
            self.bury();
        }
    }

    fn unwind(&mut self, core: &Arc<Core>) {
        if !self.active.is_empty() || !self.children.is_empty() {
            return;
        }
        if let Some(index) = self.state.next_undo() {
            self.undo(core, index);
            return;
        }
        let at = core.retention.ended_at();
        if self.record(SagaEvent::Compensated { at }) {
            self.finish();
        }
    }

    fn undo(&mut self, core: &Arc<Core>, index: StepIndex) {
        if self.state.child(index) == Some(Bond::Adopted) {
            self.recall(core, index);
            return;
        }
        let entry = match self.undo_entry(core, index) {
            Ok(entry) => entry,
            Err(why) => {
                self.hold(Hold::Paused(PauseReason::Definition(why)));
                return;
            }
        };
        if !self.settled_by_now(core, index) {
            return;
        }
        self.start_undo(core, index, entry);
    }

    fn undo_entry(&self, core: &Core, index: StepIndex) -> Result<Arc<UndoEntry>, String> {
        let kind = self.state.call(index).map(|call| &call.kind);
        let Some(CallKind::Step {
            undo: Some(undo), ..
        }) = kind
        else {
            return Err("no undo is recorded".to_owned());
        };
        match core.registry.undo(&undo.code.name) {
            Some(entry) if entry.reference == undo.code => Ok(entry),
            Some(entry) => Err(format!(
                "the undo {} is needed, registered is {}",
                undo.code, entry.reference
            )),
            None => Err(format!("the undo {} is not registered", undo.code)),
        }
    }

    /// Whether a late attempt of a step in doubt can have no effect any more. The undo of a step
    /// that settles by time waits that long first.
    fn settled_by_now(&mut self, core: &Arc<Core>, index: StepIndex) -> bool {
        let Some(CallKind::Step { code, step, .. }) = self.state.call(index).map(|call| &call.kind)
        else {
            return true;
        };
        if !matches!(step, Step::Launched { .. }) {
            return true;
        }
        let Some(entry) = core.registry.code(&code.name) else {
            let why =
                format!("{code} is in doubt and not registered, so nobody knows when it is over");
            self.hold(Hold::Paused(PauseReason::Definition(why)));
            return false;
        };
        let late = entry.late;
        let Some(Late::Settles(bound)) = late else {
            return true;
        };
        let now = core.clock.monotonic();
        let at = *self
            .undo_at
            .entry(index)
            .or_insert_with(|| now.after(bound));
        if at > now {
            Self::remind(core, at.since(now), Message::Nudge { saga: self.id });
        }
        at <= now
    }

    pub(super) fn finish(&mut self) {
        self.bury();
        self.disarm();
        match self.state.settlement(self.id) {
            Some(settlement) => self.then(Deed::Finish(Arc::new(settlement))),
            // A child, which may be recalled.
            None => self.then(Deed::Reported),
        }
    }
}
