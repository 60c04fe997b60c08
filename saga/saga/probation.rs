//! Probation: a saga that is played alone after recovery crashed, and what is counted of it.
//!
//! Invariants
//! - Only what was about to be played when the process died is charged with its death: whose turn
//!   had come in that opening, as a record of it says.
//! - A close, an acquittal or an operator forgets what was counted.

use super::{Hold, PauseReason, SagaEvent, SagaState};
use crate::effect::IllegalEvent;

impl SagaEvent {
    /// Whether it says that a saga's turn to be played alone has come: for the first time, or once
    /// more in a later opening.
    pub(crate) const fn begins_turn(&self) -> bool {
        matches!(
            self,
            Self::Probed | Self::Held(Hold::Paused(PauseReason::Probation { .. }))
        )
    }
}

impl SagaState {
    /// How many times the process died while it was played alone, if it is to be played so.
    pub fn probation(&self) -> Option<u32> {
        match &self.hold {
            Some(Hold::Paused(PauseReason::Probation { crashes })) => Some(*crashes),
            Some(
                Hold::Paused(
                    PauseReason::Definition(_)
                    | PauseReason::Nondeterminism(_)
                    | PauseReason::Panicked(_)
                    | PauseReason::AtStart
                    | PauseReason::Operator(_)
                    | PauseReason::Suspect { .. },
                )
                | Hold::Stuck(_),
            )
            | None => None,
        }
    }

    pub(super) fn probed(&mut self, running: bool) -> Result<(), IllegalEvent> {
        self.check(running, "probed")?;
        self.hold = Some(Hold::Paused(PauseReason::Probation { crashes: 0 }));
        Ok(())
    }

    /// Unlike an operator's word it leaves what is counted of the steps.
    pub(super) fn acquitted(&mut self) -> Result<(), IllegalEvent> {
        self.check(self.probation().is_some(), "acquitted")?;
        self.hold = None;
        Ok(())
    }

    /// The process ended without a close: whoever was played alone is charged with it.
    pub(super) fn charge_crash(&mut self) {
        if let Some(crashes) = self.probation() {
            let crashes = crashes.saturating_add(1);
            self.hold = Some(Hold::Paused(PauseReason::Probation { crashes }));
        }
    }

    /// The store was closed while it was on probation: it killed nobody.
    pub(super) fn forgive(&mut self) {
        if self.probation().is_some() {
            self.hold = None;
        }
    }
}
