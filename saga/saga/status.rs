//! Status: where a saga is, as whoever operates it sees it, and what an abandoned one left behind.

use serde::{Deserialize, Serialize};

use super::{CallKind, Hold, PauseReason, Phase, SagaState};
use crate::effect::CodeRef;
use crate::id::StepIndex;
use crate::path::StepPath;
use crate::step::{Prior, Step, StepOutcome};

/// Where a saga is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SagaStatus {
    /// It goes forward, sleeps or waits.
    Running,
    /// What it did is being undone.
    Unwinding,
    /// It does not move until an operator resumes it.
    Paused(PauseReason),
    /// It does not move: attempts are used up, or nobody can tell what happened.
    Stuck(String),
    /// An operator gave it up: what it did remains.
    Abandoned,
    /// It ended well.
    Completed,
    /// Everything it did is undone.
    Compensated,
}

/// A [`SagaStatus`] without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusKind {
    /// [`SagaStatus::Running`].
    Running,
    /// [`SagaStatus::Unwinding`].
    Unwinding,
    /// [`SagaStatus::Paused`].
    Paused,
    /// [`SagaStatus::Stuck`].
    Stuck,
    /// [`SagaStatus::Abandoned`].
    Abandoned,
    /// [`SagaStatus::Completed`].
    Completed,
    /// [`SagaStatus::Compensated`].
    Compensated,
}

impl StatusKind {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All of them; each one's place is [`index`](Self::index).
    pub const ALL: [Self; Self::COUNT] = [
        Self::Running,
        Self::Unwinding,
        Self::Paused,
        Self::Stuck,
        Self::Abandoned,
        Self::Completed,
        Self::Compensated,
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name, in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unwinding => "unwinding",
            Self::Paused => "paused",
            Self::Stuck => "stuck",
            Self::Abandoned => "abandoned",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }
}

impl SagaStatus {
    /// Which one, without its reason.
    pub fn kind(&self) -> StatusKind {
        match self {
            Self::Running => StatusKind::Running,
            Self::Unwinding => StatusKind::Unwinding,
            Self::Paused(_) => StatusKind::Paused,
            Self::Stuck(_) => StatusKind::Stuck,
            Self::Abandoned => StatusKind::Abandoned,
            Self::Completed => StatusKind::Completed,
            Self::Compensated => StatusKind::Compensated,
        }
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        match self {
            Self::Running | Self::Unwinding | Self::Paused(_) | Self::Stuck(_) => false,
            Self::Abandoned | Self::Completed | Self::Compensated => true,
        }
    }
}

/// What is known of an effect that nobody takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Remains {
    /// It happened.
    Done,
    /// It may have happened.
    InDoubt,
    /// Its undo was begun, and nobody knows how far it came.
    HalfUndone,
}

/// A step whose effect may remain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residue {
    /// Which call.
    pub step: StepIndex,
    /// Where in the saga.
    pub path: StepPath,
    /// The computation, or the saga if it is a child.
    pub code: CodeRef,
    /// What is known.
    pub remains: Remains,
}

impl SagaState {
    /// Which status it has, without the reason.
    pub fn status_kind(&self) -> StatusKind {
        match (&self.phase, &self.hold) {
            (Phase::Completed { .. } | Phase::CompletedInBlob { .. }, _) => StatusKind::Completed,
            (Phase::Compensated { .. }, _) => StatusKind::Compensated,
            (Phase::Abandoned { .. }, _) => StatusKind::Abandoned,
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Paused(_))) => StatusKind::Paused,
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Stuck(_))) => StatusKind::Stuck,
            (Phase::Running, None) => StatusKind::Running,
            (Phase::Unwinding { .. }, None) => StatusKind::Unwinding,
        }
    }

    /// Where it is.
    pub fn status(&self) -> SagaStatus {
        match (&self.phase, &self.hold) {
            (Phase::Completed { .. } | Phase::CompletedInBlob { .. }, _) => SagaStatus::Completed,
            (Phase::Compensated { .. }, _) => SagaStatus::Compensated,
            (Phase::Abandoned { .. }, _) => SagaStatus::Abandoned,
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Paused(reason))) => {
                SagaStatus::Paused(reason.clone())
            }
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Stuck(reason))) => {
                SagaStatus::Stuck(reason.clone())
            }
            (Phase::Running, None) => SagaStatus::Running,
            (Phase::Unwinding { .. }, None) => SagaStatus::Unwinding,
        }
    }

    /// Every step whose effect may remain if nothing more is done about this saga, in the order of
    /// their intents. What a fork undoes in its stead is none of it.
    pub fn residue(&self) -> Vec<Residue> {
        let calls = (0_u32..).zip(&self.calls);
        let inherited = |index: u32| self.heir().is_some_and(|heir| index < heir.before.get());
        let left = calls.filter_map(|(index, call)| {
            let CallKind::Step { code, step, .. } = &call.kind else {
                return None;
            };
            let remains = match step {
                Step::Launched { .. } => Remains::InDoubt,
                Step::Settled { outcome, .. } => match outcome {
                    StepOutcome::Done(_) if inherited(index) => return None,
                    StepOutcome::Done(_) => Remains::Done,
                    StepOutcome::FailedNoEffect(_) => return None,
                },
                Step::Undoing { prior, .. } => match prior {
                    Prior::Done(_) | Prior::InDoubt => Remains::HalfUndone,
                },
                Step::Undone { .. } => return None,
            };
            Some(Residue {
                step: StepIndex::new(index),
                path: call.path.clone(),
                code: code.clone(),
                remains,
            })
        });
        left.collect()
    }
}
