//! What an operator does to a saga: giving it up, giving a step its output, trying a step again.
//!
//! Invariants
//! - Only what does not move by itself is changed from outside: a saga that is held.
//! - What an operator decided carries a fence above every attempt, so that none of them can
//!   overrule it.

use super::{CallKind, Delivery, Heir, Phase, SagaState};
use crate::canonical::Payload;
use crate::effect::IllegalEvent;
use crate::id::{Fence, StepIndex};
use crate::step::{Step, StepEvent, StepOutcome};
use crate::time::WallMillis;

impl SagaState {
    /// Whether a call that failed after the pivot can be tried again: nothing was told after its
    /// failure, so that what its code did about it was to end.
    pub fn can_reopen(&self, index: StepIndex) -> bool {
        let failed = match self.call(index).map(|call| &call.kind) {
            Some(CallKind::Step {
                step: Step::Settled { outcome, .. },
                child: None,
                ..
            }) => match outcome {
                StepOutcome::FailedNoEffect(_) => true,
                StepOutcome::Done(_) => false,
            },
            Some(
                CallKind::Step { .. }
                | CallKind::Sleep { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. }
                | CallKind::Signal { .. },
            )
            | None => false,
        };
        let running = matches!(self.phase, Phase::Running) && self.pivoted;
        failed
            && running
            && self.hold.is_some()
            && self.deliveries.last() == Some(&Delivery::Call(index))
    }

    pub(super) fn abandoned(
        &mut self,
        note: &str,
        at: WallMillis,
        heir: Option<Heir>,
    ) -> Result<(), IllegalEvent> {
        let known = heir.is_none_or(|heir| self.call(heir.before).is_some());
        self.check(!self.ended() && known, "abandoned")?;
        self.phase = Phase::Abandoned {
            note: note.to_owned(),
            at,
            heir,
        };
        self.hold = None;
        Ok(())
    }

    /// A step that did not end has the output that an operator gave it.
    pub(super) fn skipped(
        &mut self,
        index: StepIndex,
        fence: Fence,
        output: &Payload,
        note: &str,
    ) -> Result<(), IllegalEvent> {
        let held = matches!(self.phase, Phase::Running) && self.hold.is_some();
        self.check(held && self.child(index).is_none(), "skipped")?;
        if self.can_reopen(index) {
            self.reopened(index, fence)?;
        } else {
            self.step(index, StepEvent::Launched(fence))?;
        }
        self.step(
            index,
            StepEvent::Settled(fence, StepOutcome::Done(output.clone())),
        )?;
        self.payload_bytes += output.len() as u64;
        self.deliveries.push(Delivery::Call(index));
        self.noted(index, note);
        Ok(())
    }

    /// An undo that did not end counts as done, because an operator says so.
    pub(super) fn undo_skipped(
        &mut self,
        index: StepIndex,
        fence: Fence,
        note: &str,
    ) -> Result<(), IllegalEvent> {
        let held = matches!(self.phase, Phase::Unwinding { .. }) && self.hold.is_some();
        let own = self.next_undo() == Some(index) && self.child(index).is_none();
        self.check(held && own, "undo-skipped")?;
        self.step(index, StepEvent::UndoLaunched(fence))?;
        self.step(index, StepEvent::Undone(fence))?;
        self.noted(index, note);
        Ok(())
    }

    /// A step that failed is to be tried again: its failure is untold.
    pub(super) fn reopened(&mut self, index: StepIndex, fence: Fence) -> Result<(), IllegalEvent> {
        self.check(self.can_reopen(index), "reopened")?;
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Step { step, runs, .. }) = call.map(|call| &mut call.kind)
            && step.fence() < fence
        {
            *step = Step::Launched { fence };
            *runs = 0;
            self.deliveries.pop();
            return Ok(());
        }
        self.check(false, "reopened")
    }

    fn noted(&mut self, index: StepIndex, words: &str) {
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Step { trail, .. }) = call.map(|call| &mut call.kind) {
            trail.note = Some(words.to_owned());
        }
    }
}
