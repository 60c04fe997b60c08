//! Children: sagas that another saga started and waits for.
//!
//! Invariants
//! - A child that ended stays in the fold until its parent has ended: only then is it known that
//!   it will not be recalled.
//! - Only what an adopted child did is undone for its parent, by the child's own undos.

use serde::{Deserialize, Serialize};

use super::{CallKind, Cause, Phase, SagaState};
use crate::id::{SagaId, StepIndex};
use crate::step::Step;

/// How what a child did is taken back when its parent unwinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bond {
    /// By the child's own undos: it has no pivot.
    Adopted,
    /// By an undo of the parent's, or not at all: the child may pivot.
    Apart,
}

/// Whose child a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The saga that started it.
    pub saga: SagaId,
    /// By which call.
    pub step: StepIndex,
    /// How many sagas are above it; at least 1.
    pub depth: u32,
    /// How it is taken back.
    pub bond: Bond,
}

impl SagaState {
    /// The bond of the child that was started by the call at `index`.
    pub fn child(&self, index: StepIndex) -> Option<Bond> {
        match &self.call(index)?.kind {
            CallKind::Step { child, .. } => *child,
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => None,
        }
    }

    /// How many children it started.
    pub fn children(&self) -> usize {
        let is_child = |kind: &CallKind| match kind {
            CallKind::Step { child, .. } => child.is_some(),
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => false,
        };
        let calls = self.calls.iter();
        calls.filter(|call| is_child(&call.kind)).count()
    }

    /// How many of its children have not ended.
    pub fn open_children(&self) -> usize {
        let open = |kind: &CallKind| match kind {
            CallKind::Step { child, step, .. } => {
                child.is_some() && matches!(step, Step::Launched { .. })
            }
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => false,
        };
        let calls = self.calls.iter();
        calls.filter(|call| open(&call.kind)).count()
    }

    /// How many sagas are above it.
    pub fn depth(&self) -> u32 {
        self.start.parent.map_or(0, |parent| parent.depth)
    }

    /// Whether its end is final: nobody will recall it.
    pub fn released(&self) -> bool {
        self.ended() && (self.start.parent.is_none() || self.released)
    }

    /// Whether an unwinding of this cause may start: before the pivot, or, of a child that was
    /// adopted, after its end.
    pub(super) fn may_unwind(&self, cause: &Cause) -> bool {
        let recalled = matches!(cause, Cause::Recalled);
        let adopted = self
            .start
            .parent
            .is_some_and(|parent| parent.bond == Bond::Adopted);
        match &self.phase {
            Phase::Running => !recalled && self.hold.is_none() && !self.pivoted,
            Phase::Completed { .. } => recalled && adopted && !self.pivoted && !self.released,
            Phase::Unwinding { .. }
            | Phase::Compensated { .. }
            | Phase::CompletedInBlob { .. }
            | Phase::Abandoned { .. } => false,
        }
    }
}
