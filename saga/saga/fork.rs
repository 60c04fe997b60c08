//! Forks: a new saga that begins with what another one has done up to a step.
//!
//! Invariants
//! - What is inherited was told to the original's code before the step, in the same order: the
//!   fork's code, told it again, comes to the same step.
//! - An inherited step keeps the remote key that its effect was made under.
//! - Only one of two sagas undoes a step: the fork inherits undos only from an original that is
//!   abandoned with it.

use serde::{Deserialize, Serialize};

use super::{Call, CallKind, Delivery, Phase, SagaState, Signal};
use crate::effect::IllegalEvent;
use crate::id::{Epoch, SagaId, StepIndex};
use crate::path::StepPath;
use crate::step::{Step, StepOutcome};

/// The saga and epoch that a step's remote key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The saga that ran it.
    pub saga: SagaId,
    /// The epoch that it ran in.
    pub epoch: Epoch,
}

/// What a fork begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inheritance {
    /// The original.
    pub from: SagaId,
    /// The step that the fork runs anew, with all that follows.
    pub at: StepPath,
    /// The epoch of what runs anew.
    pub epoch: Epoch,
    /// Whether the point of no return was passed before.
    pub pivoted: bool,
    /// The calls before the step that had ended.
    pub calls: Vec<Call>,
    /// What the code was told of them.
    pub deliveries: Vec<Delivery>,
    /// The signals that the original was sent.
    pub signals: Vec<Signal>,
}

/// The fork that undoes what an abandoned saga did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heir {
    /// The fork.
    pub saga: SagaId,
    /// The call that the fork ran anew: it inherited every step before it that was done.
    pub before: StepIndex,
}

/// Why there can be no fork. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoFork {
    /// The saga has no step of this path. Look at its history for one.
    #[error("it has no step {path}")]
    NoSuchStep {
        /// Which was asked for.
        path: StepPath,
    },
    /// A step before it was undone, or its undo was begun: there is nothing to inherit. Start the
    /// saga again instead.
    #[error("step {path} before it is undone, or its undo was begun")]
    Undone {
        /// Which one.
        path: StepPath,
    },
    /// A call before it is a saga of its own, which has one parent. Fork from a step before it.
    #[error("{path} before it is a child saga")]
    Child {
        /// Which one.
        path: StepPath,
    },
}

impl SagaState {
    /// What a fork from the step at `at` begins with; `own` is this saga's id. With `undos`, the
    /// fork takes over how the inherited steps are undone, and this saga has to be abandoned.
    ///
    /// # Errors
    /// [`NoFork`]: it cannot be forked there.
    pub fn fork(&self, own: SagaId, at: &StepPath, undos: bool) -> Result<Inheritance, NoFork> {
        let missing = || NoFork::NoSuchStep { path: at.clone() };
        let point = self.find(at).ok_or_else(missing)?;
        if !matches!(
            self.call(point).map(|call| &call.kind),
            Some(CallKind::Step { .. })
        ) {
            return Err(missing());
        }
        let mut kept = Vec::new();
        let mut calls = Vec::new();
        for (index, call) in (0_u32..point.get()).zip(&self.calls) {
            if let Some(call) = self.inherited(own, StepIndex::new(index), call, undos)? {
                kept.push(StepIndex::new(index));
                calls.push(call);
            }
        }
        let position = |index: StepIndex| {
            let position = kept.iter().position(|kept| *kept == index)?;
            u32::try_from(position).ok().map(StepIndex::new)
        };
        let pivoted = self.pivoted_before(point);
        let deliveries = self.deliveries.iter().filter_map(|told| match told {
            Delivery::Call(index) => position(*index).map(Delivery::Call),
            Delivery::Pivot => pivoted.then_some(Delivery::Pivot),
        });
        let signals = self.signals.iter().map(|signal| Signal {
            taken_by: signal.taken_by.and_then(position),
            ..signal.clone()
        });
        Ok(Inheritance {
            from: own,
            at: at.clone(),
            epoch: self.epoch().next(),
            pivoted,
            deliveries: deliveries.collect(),
            signals: signals.collect(),
            calls,
        })
    }

    /// The call as a fork has it, if it had ended.
    fn inherited(
        &self,
        own: SagaId,
        index: StepIndex,
        call: &Call,
        undos: bool,
    ) -> Result<Option<Call>, NoFork> {
        let path = || call.path.clone();
        let kind = match &call.kind {
            CallKind::Step { child: Some(_), .. } => return Err(NoFork::Child { path: path() }),
            CallKind::Step {
                code,
                fingerprint,
                undo,
                step,
                runs,
                child: None,
                trail,
            } => {
                let failed = match step {
                    Step::Launched { .. } => return Ok(None),
                    Step::Undoing { .. } | Step::Undone { .. } => {
                        return Err(NoFork::Undone { path: path() });
                    }
                    Step::Settled { outcome, .. } => match outcome {
                        StepOutcome::Done(_) => false,
                        StepOutcome::FailedNoEffect(_) => true,
                    },
                };
                let mut trail = trail.clone();
                trail.origin = Some(self.origin(own, index));
                CallKind::Step {
                    code: code.clone(),
                    fingerprint: *fingerprint,
                    undo: undo.clone().filter(|_| undos && !failed),
                    step: step.clone(),
                    runs: *runs,
                    child: None,
                    trail,
                }
            }
            CallKind::Sleep { over: false, .. } | CallKind::Signal { over: false, .. } => {
                return Ok(None);
            }
            kind @ (CallKind::Sleep { .. }
            | CallKind::Signal { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }) => kind.clone(),
        };
        Ok(Some(Call { path: path(), kind }))
    }

    /// Whether the pivot was passed before the step was called: nothing runs while it is passed,
    /// so a step that was told before it was called before it.
    fn pivoted_before(&self, point: StepIndex) -> bool {
        let told = |what: Delivery| self.deliveries.iter().position(|told| *told == what);
        match (told(Delivery::Pivot), told(Delivery::Call(point))) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(pivot), Some(step)) => pivot < step,
        }
    }

    /// What the remote key of the call at `index` is made of; `own` is this saga's id.
    pub fn origin(&self, own: SagaId, index: StepIndex) -> Origin {
        let inherited = match self.call(index).map(|call| &call.kind) {
            Some(CallKind::Step { trail, .. }) => trail.origin,
            Some(
                CallKind::Sleep { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. }
                | CallKind::Signal { .. },
            )
            | None => None,
        };
        inherited.unwrap_or(Origin {
            saga: own,
            epoch: self.epoch(),
        })
    }

    /// The epoch of what it runs itself.
    pub fn epoch(&self) -> Epoch {
        self.fork_of
            .as_ref()
            .map_or_else(Epoch::default, |fork| fork.epoch)
    }

    /// The saga that it was forked from, and at which step.
    pub fn forked_from(&self) -> Option<(SagaId, &StepPath)> {
        self.fork_of.as_ref().map(|fork| (fork.from, &fork.at))
    }

    /// The fork that undoes what this one did, if it was abandoned for one.
    pub fn heir(&self) -> Option<Heir> {
        match &self.phase {
            Phase::Abandoned { heir, .. } => *heir,
            Phase::Running
            | Phase::Unwinding { .. }
            | Phase::Completed { .. }
            | Phase::CompletedInBlob { .. }
            | Phase::Compensated { .. } => None,
        }
    }

    /// It begins with what another saga did.
    pub(super) fn forked(&mut self, inherits: &Inheritance) -> Result<(), IllegalEvent> {
        let untouched = matches!(self.phase, Phase::Running)
            && self.fork_of.is_none()
            && self.calls.is_empty()
            && self.signals.is_empty()
            && !self.pivoted;
        self.check(untouched, "forked")?;
        self.fork_of = Some(ForkOf {
            from: inherits.from,
            at: inherits.at.clone(),
            epoch: inherits.epoch,
        });
        self.pivoted = inherits.pivoted;
        self.calls.clone_from(&inherits.calls);
        self.deliveries.clone_from(&inherits.deliveries);
        self.signals.clone_from(&inherits.signals);
        self.payload_bytes += inherits.payload_bytes();
        Ok(())
    }
}

/// Where a fork comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForkOf {
    from: SagaId,
    at: StepPath,
    epoch: Epoch,
}

impl Inheritance {
    /// How many bytes the outputs, undo arguments and signals have together.
    pub fn payload_bytes(&self) -> u64 {
        let of_call = |call: &Call| match &call.kind {
            CallKind::Step { undo, step, .. } => {
                let output = match step {
                    Step::Settled {
                        outcome: StepOutcome::Done(output),
                        ..
                    } => output.len(),
                    Step::Settled { .. }
                    | Step::Launched { .. }
                    | Step::Undoing { .. }
                    | Step::Undone { .. } => 0,
                };
                output + undo.as_ref().map_or(0, |undo| undo.argument.len())
            }
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => 0,
        };
        let calls: usize = self.calls.iter().map(of_call).sum();
        let signals = self.signals.iter().map(|signal| signal.payload.len());
        (calls + signals.sum::<usize>()) as u64
    }
}
