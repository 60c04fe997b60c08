//! Steps: what one step of a saga has durably done, and what may happen to it next.
//!
//! Pure: no I/O, no clock, no device.
//!
//! Invariants
//! - `Launched` with no attempt running means *in doubt*: it may have run, its output is gone.
//! - A settled step is never launched again; an undone one stays undone.
//! - A completion or undo of an older fence is refused.

use serde::{Deserialize, Serialize};

use crate::canonical::Payload;
use crate::effect::IllegalEvent;
use crate::id::Fence;
use crate::outcome::Failure;

/// How a step ended, for good. A step in doubt has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOutcome {
    /// It is done; the canonical bytes of its output.
    Done(Payload),
    /// It failed and had no effect: there is nothing to undo.
    FailedNoEffect(Failure),
}

/// What an undo finds: its step is done, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prior {
    /// The step is done, with this output.
    Done(Payload),
    /// The step may have happened.
    InDoubt,
}

/// What happened to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepEvent {
    /// Another attempt is about to be started.
    Launched(Fence),
    /// The attempt of this fence ended.
    Settled(Fence, StepOutcome),
    /// An attempt to undo it is about to be started.
    UndoLaunched(Fence),
    /// The undo of this fence is done.
    Undone(Fence),
}

/// Where a step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// An attempt was started, or was about to be.
    Launched {
        /// The newest attempt.
        fence: Fence,
    },
    /// It ended.
    Settled {
        /// The attempt that settled it.
        fence: Fence,
        /// How.
        outcome: StepOutcome,
    },
    /// Its undo was started, or was about to be.
    Undoing {
        /// The newest attempt of the undo.
        fence: Fence,
        /// What the undo finds.
        prior: Prior,
    },
    /// Its effect is gone.
    Undone {
        /// The attempt that undid it.
        fence: Fence,
    },
}

impl Step {
    /// The newest attempt, of the step or of its undo.
    pub fn fence(&self) -> Fence {
        match self {
            Self::Launched { fence }
            | Self::Settled { fence, .. }
            | Self::Undoing { fence, .. }
            | Self::Undone { fence } => *fence,
        }
    }

    /// Whether an undo, if one is recorded, still has to run.
    pub fn wants_undo(&self) -> bool {
        match self {
            Self::Launched { .. } | Self::Undoing { .. } => true,
            Self::Settled { outcome, .. } => match outcome {
                StepOutcome::Done(_) => true,
                StepOutcome::FailedNoEffect(_) => false,
            },
            Self::Undone { .. } => false,
        }
    }

    /// What an undo that starts now finds.
    pub fn prior(&self) -> Option<Prior> {
        match self {
            Self::Launched { .. } => Some(Prior::InDoubt),
            Self::Settled { outcome, .. } => match outcome {
                StepOutcome::Done(output) => Some(Prior::Done(output.clone())),
                StepOutcome::FailedNoEffect(_) => None,
            },
            Self::Undoing { prior, .. } => Some(prior.clone()),
            Self::Undone { .. } => None,
        }
    }

    /// The next state.
    ///
    /// # Errors
    /// [`IllegalEvent`]: the state does not allow the event; it is unchanged.
    pub fn apply(&self, event: StepEvent) -> Result<Self, IllegalEvent> {
        let illegal = IllegalEvent {
            state: self.word(),
            event: event.word(),
        };
        let next = match (self, event) {
            // A relaunch needs a newer fence: a late completion must not settle the wrong run.
            (Self::Launched { fence: old }, StepEvent::Launched(fence)) => {
                (*old < fence).then_some(Self::Launched { fence })
            }
            (Self::Launched { fence: ran }, StepEvent::Settled(fence, outcome)) => {
                (*ran == fence).then_some(Self::Settled { fence, outcome })
            }
            (
                Self::Launched { .. } | Self::Settled { .. } | Self::Undoing { .. },
                StepEvent::UndoLaunched(fence),
            ) => match self.prior() {
                Some(prior) if self.fence() < fence => Some(Self::Undoing { fence, prior }),
                Some(_) | None => None,
            },
            (Self::Undoing { fence: ran, .. }, StepEvent::Undone(fence)) => {
                (*ran == fence).then_some(Self::Undone { fence })
            }
            (Self::Launched { .. }, StepEvent::Undone(_))
            | (
                Self::Settled { .. },
                StepEvent::Launched(_) | StepEvent::Settled(..) | StepEvent::Undone(_),
            )
            | (Self::Undoing { .. }, StepEvent::Launched(_) | StepEvent::Settled(..))
            | (
                Self::Undone { .. },
                StepEvent::Launched(_)
                | StepEvent::Settled(..)
                | StepEvent::UndoLaunched(_)
                | StepEvent::Undone(_),
            ) => None,
        };
        next.ok_or(illegal)
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Launched { .. } => "launched",
            Self::Settled { .. } => "settled",
            Self::Undoing { .. } => "undoing",
            Self::Undone { .. } => "undone",
        }
    }
}

impl StepEvent {
    fn word(&self) -> &'static str {
        match self {
            Self::Launched(_) => "launched",
            Self::Settled(..) => "settled",
            Self::UndoLaunched(_) => "undo-launched",
            Self::Undone(_) => "undone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Attempt, Incarnation};

    fn fence(incarnation: u64, attempt: u32) -> Fence {
        Fence::new(Incarnation::new(incarnation), Attempt::new(attempt))
    }

    fn done() -> StepOutcome {
        StepOutcome::Done(Payload::new(&b"out"[..]))
    }

    #[test]
    fn late_completion_of_an_older_launch_is_refused() {
        let step = Step::Launched { fence: fence(2, 2) };
        assert_eq!(
            step.apply(StepEvent::Settled(fence(1, 1), done())),
            Err(IllegalEvent {
                state: "launched",
                event: "settled"
            })
        );
    }

    #[test]
    fn late_completion_after_the_undo_is_refused() {
        let step = Step::Launched { fence: fence(1, 1) };
        let step = step.apply(StepEvent::UndoLaunched(fence(1, 2))).unwrap();
        assert_eq!(
            step.apply(StepEvent::Settled(fence(1, 1), done())),
            Err(IllegalEvent {
                state: "undoing",
                event: "settled"
            })
        );
        let step = step.apply(StepEvent::Undone(fence(1, 2))).unwrap();
        assert_eq!(
            step.apply(StepEvent::Settled(fence(1, 1), done())),
            Err(IllegalEvent {
                state: "undone",
                event: "settled"
            })
        );
    }

    #[test]
    fn a_step_without_effect_is_not_undone() {
        let step = Step::Launched { fence: fence(1, 1) }
            .apply(StepEvent::Settled(
                fence(1, 1),
                StepOutcome::FailedNoEffect(Failure::permanent("refused")),
            ))
            .unwrap();
        assert!(!step.wants_undo());
        assert_eq!(
            step.apply(StepEvent::UndoLaunched(fence(1, 2))),
            Err(IllegalEvent {
                state: "settled",
                event: "undo-launched"
            })
        );
    }

    #[test]
    fn an_undo_of_a_launched_step_finds_it_in_doubt_also_on_its_second_attempt() {
        let step = Step::Launched { fence: fence(1, 1) };
        let step = step.apply(StepEvent::UndoLaunched(fence(1, 2))).unwrap();
        let step = step.apply(StepEvent::UndoLaunched(fence(2, 3))).unwrap();
        assert_eq!(step.prior(), Some(Prior::InDoubt));
    }
}
