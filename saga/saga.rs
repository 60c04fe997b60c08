//! Sagas: what one run of a saga has durably done, and what may happen to it next.
//!
//! Pure: no I/O, no clock, no device. The driver runs this fold forward, recovery runs it again.
//!
//! Invariants
//! - A path is called once.
//! - Undo runs newest intent first: the fold refuses any other order.
//! - No saga completes over a step that has not ended, and none is compensated while a recorded
//!   undo has not run.
//! - After the pivot nothing is undone and no cancel is accepted.

mod apply;
mod call;
mod child;
mod event;
mod fork;
mod operator;
mod output;
mod probation;
mod signal;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::call::{Call, CallKind, Delivery, Phase, Trail};
pub use self::child::{Bond, Parent};
pub use self::event::{CallIntent, Cause, Hold, PauseReason, SagaEvent, SagaStart, UndoIntent};
pub use self::fork::{Heir, Inheritance, NoFork, Origin};
pub use self::signal::{Signal, SignalId};
pub use self::status::{Remains, Residue, SagaStatus, StatusKind};
use crate::amount::BusyNanos;
use crate::effect::Settlement;
use crate::id::{Fence, Incarnation, SagaId, StepIndex};
use crate::outcome::{Failure, Outcome};
use crate::path::StepPath;
use crate::step::Step;
use crate::time::WallMillis;

/// One run of a saga, as its events left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaState {
    pub(crate) start: Box<SagaStart>,
    pub(crate) phase: Phase,
    pub(crate) hold: Option<Hold>,
    pub(crate) pivoted: bool,
    pub(crate) cancel_requested: bool,
    pub(crate) calls: Vec<Call>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) cost: BusyNanos,
    pub(crate) payload_bytes: u64,
    pub(crate) deadline_passed: Option<WallMillis>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) released: bool,
    pub(crate) fork_of: Option<fork::ForkOf>,
}

impl SagaState {
    /// The state after [`SagaEvent::Started`].
    pub fn new(start: Box<SagaStart>) -> Self {
        Self {
            payload_bytes: start.input.len() as u64,
            hold: start.paused.then_some(Hold::Paused(PauseReason::AtStart)),
            start,
            phase: Phase::Running,
            pivoted: false,
            cancel_requested: false,
            calls: Vec::new(),
            deliveries: Vec::new(),
            cost: BusyNanos::default(),
            deadline_passed: None,
            signals: Vec::new(),
            released: false,
            fork_of: None,
        }
    }

    /// How it was started.
    pub fn start(&self) -> &SagaStart {
        &self.start
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Why it does not move, if it does not.
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Whether it can only go forward.
    pub fn pivoted(&self) -> bool {
        self.pivoted
    }

    /// Whether somebody asked for it to be cancelled.
    pub fn cancel_requested(&self) -> bool {
        self.cancel_requested
    }

    /// When its deadline was seen to have passed, if it has.
    pub fn deadline_passed(&self) -> Option<WallMillis> {
        self.deadline_passed
    }

    /// Why it has to unwind, if it has to and does not yet.
    pub fn doom(&self) -> Option<Cause> {
        match &self.phase {
            Phase::Running if self.pivoted => None,
            // A cancel leaves no room for a deadline, so the deadline came first.
            Phase::Running if self.deadline_passed.is_some() => Some(Cause::Expired),
            Phase::Running => self.cancel_requested.then_some(Cause::Cancelled),
            Phase::Unwinding { .. }
            | Phase::Completed { .. }
            | Phase::CompletedInBlob { .. }
            | Phase::Compensated { .. }
            | Phase::Abandoned { .. } => None,
        }
    }

    /// Whether a signal can still reach its code.
    pub fn hears_signals(&self) -> bool {
        matches!(self.phase, Phase::Running) && self.doom().is_none()
    }

    /// Its calls, in the order of their intents.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// What its code was told, in order.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    /// The cost of all its attempts that ended.
    pub fn cost(&self) -> BusyNanos {
        self.cost
    }

    /// How many bytes its input, outputs, undo arguments and signals have together.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// One call.
    pub fn call(&self, index: StepIndex) -> Option<&Call> {
        self.calls.get(index.get() as usize)
    }

    /// The call at a path.
    pub fn find(&self, path: &StepPath) -> Option<StepIndex> {
        let position = self.calls.iter().position(|call| call.path == *path)?;
        u32::try_from(position).ok().map(StepIndex::new)
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        match self.phase {
            Phase::Running | Phase::Unwinding { .. } => false,
            Phase::Completed { .. }
            | Phase::CompletedInBlob { .. }
            | Phase::Compensated { .. }
            | Phase::Abandoned { .. } => true,
        }
    }

    /// The step whose undo has to run next: the newest intent that may have had an effect.
    pub fn next_undo(&self) -> Option<StepIndex> {
        let position = self.calls.iter().rposition(|call| match &call.kind {
            CallKind::Step {
                undo, step, child, ..
            } => (undo.is_some() || *child == Some(Bond::Adopted)) && step.wants_undo(),
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => false,
        })?;
        u32::try_from(position).ok().map(StepIndex::new)
    }

    /// How many steps have not ended.
    pub fn open_steps(&self) -> usize {
        let open = |call: &&Call| match &call.kind {
            CallKind::Step { step, .. } => match step {
                Step::Launched { .. } => true,
                Step::Settled { .. } | Step::Undoing { .. } | Step::Undone { .. } => false,
            },
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => false,
        };
        self.calls.iter().filter(open).count()
    }

    /// Whether a step, a sleep or a wait has not ended.
    pub fn has_open_call(&self) -> bool {
        let waits = |call: &Call| match &call.kind {
            CallKind::Sleep { over, .. } | CallKind::Signal { over, .. } => !over,
            CallKind::Step { .. } | CallKind::Now { .. } | CallKind::Random { .. } => false,
        };
        self.open_steps() > 0 || self.calls.iter().any(waits)
    }

    /// The store was closed in good order: an attempt that this interrupted was no crash's doing.
    pub(crate) fn closed(&mut self, incarnation: Incarnation) {
        self.forgive();
        for call in &mut self.calls {
            // Only what this engine started can have been interrupted by its close.
            if let CallKind::Step {
                step: Step::Launched { fence } | Step::Undoing { fence, .. },
                runs,
                trail,
                ..
            } = &mut call.kind
                && fence.incarnation == incarnation
                // A question that was interrupted is none of the runs.
                && !trail.asking
            {
                *runs = runs.saturating_sub(1);
            }
        }
    }

    /// The process ended without a close: what was under way was lost with it. `played`: its turn
    /// to be played alone had come in that opening.
    pub(crate) fn crashed(&mut self, incarnation: Incarnation, played: bool) {
        if played {
            self.charge_crash();
        }
        for call in &mut self.calls {
            if let CallKind::Step {
                step: Step::Launched { fence },
                trail,
                ..
            } = &mut call.kind
                && fence.incarnation == incarnation
            {
                let lost = if trail.asking {
                    &mut trail.lost_asks
                } else {
                    &mut trail.lost_runs
                };
                *lost = lost.saturating_add(1);
            }
        }
    }

    /// Whether what it says of its own calls is consistent, as every fold of events is; if not,
    /// why.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check_consistent(&self) -> Result<(), &'static str> {
        let mut paths = BTreeSet::new();
        if !self.calls.iter().all(|call| paths.insert(&call.path)) {
            return Err("two calls have one path");
        }
        let mut told = BTreeSet::new();
        for delivery in &self.deliveries {
            match delivery {
                Delivery::Call(index) if self.call(*index).is_none() => {
                    return Err("a delivery is of a call that was not made");
                }
                Delivery::Call(index) if self.took_nothing(*index) => {
                    return Err("a wait is over that took no signal");
                }
                Delivery::Call(index) if !told.insert(*index) => {
                    return Err("a call was delivered twice");
                }
                Delivery::Call(_) => {}
                Delivery::Pivot if !self.pivoted => return Err("a pivot that was not passed"),
                Delivery::Pivot => {}
            }
        }
        Ok(())
    }

    /// How it ended, once it has; a child may still be recalled.
    pub fn outcome(&self) -> Option<(Outcome, WallMillis)> {
        let (outcome, at) = match &self.phase {
            Phase::Running | Phase::Unwinding { .. } => return None,
            Phase::Completed { output, at } => (Outcome::Done(output.clone()), *at),
            Phase::Abandoned { note, at, .. } => {
                let failure = Failure::permanent(format!("abandoned: {note}"));
                (Outcome::Failed(failure), *at)
            }
            Phase::CompletedInBlob { output, at } => (Outcome::Blob(*output), *at),
            Phase::Compensated { cause, at } => {
                let failure = match cause {
                    Cause::Failed(failure) => Failure::permanent(failure),
                    Cause::Cancelled => Failure::permanent("cancelled"),
                    Cause::Expired => Failure::permanent("its deadline passed"),
                    Cause::Recalled => Failure::permanent("its parent unwound"),
                };
                (Outcome::Failed(failure), *at)
            }
        };
        Some((outcome, at))
    }

    /// The outcome under the saga's key, once it has ended for good.
    pub fn settlement(&self, saga: SagaId) -> Option<Settlement> {
        let (outcome, at) = self.outcome().filter(|_| self.released())?;
        let retention = std::time::Duration::from_millis(self.start.retention_ms);
        Some(Settlement {
            fingerprint: self.start.fingerprint,
            code: self.start.code.clone(),
            saga: Some(saga),
            fence: Fence::default(),
            outcome,
            cost: self.cost,
            audit: self.start.audit,
            at,
            expires_at: at.after(retention),
        })
    }

    #[cfg(test)]
    pub(crate) fn truncate_calls(&mut self, calls: usize) {
        self.calls.truncate(calls);
    }
}
