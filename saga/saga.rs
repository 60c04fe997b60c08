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

mod call;
mod event;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::call::{Call, CallKind, Delivery, Phase};
pub use self::event::{CallIntent, Cause, Hold, PauseReason, SagaEvent, SagaStart, UndoIntent};
use crate::amount::BusyNanos;
use crate::effect::{IllegalEvent, Settlement};
use crate::id::{Fence, Incarnation, SagaId, StepIndex};
use crate::outcome::{Failure, Outcome};
use crate::path::StepPath;
use crate::step::{Step, StepEvent, StepOutcome};
use crate::time::WallMillis;

/// One run of a saga, as its events left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaState {
    start: Box<SagaStart>,
    phase: Phase,
    hold: Option<Hold>,
    pivoted: bool,
    cancel_requested: bool,
    calls: Vec<Call>,
    deliveries: Vec<Delivery>,
    cost: BusyNanos,
    payload_bytes: u64,
}

impl SagaState {
    /// The state after [`SagaEvent::Started`].
    pub fn new(start: Box<SagaStart>) -> Self {
        Self {
            payload_bytes: start.input.len() as u64,
            start,
            phase: Phase::Running,
            hold: None,
            pivoted: false,
            cancel_requested: false,
            calls: Vec::new(),
            deliveries: Vec::new(),
            cost: BusyNanos::default(),
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

    /// How many bytes its input, outputs and undo arguments have together.
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
            Phase::Completed { .. } | Phase::Compensated { .. } => true,
        }
    }

    /// The step whose undo has to run next: the newest intent that may have had an effect.
    pub fn next_undo(&self) -> Option<StepIndex> {
        let position = self.calls.iter().rposition(|call| match &call.kind {
            CallKind::Step { undo, step, .. } => undo.is_some() && step.wants_undo(),
            CallKind::Sleep { .. } | CallKind::Now { .. } | CallKind::Random { .. } => false,
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
            CallKind::Sleep { .. } | CallKind::Now { .. } | CallKind::Random { .. } => false,
        };
        self.calls.iter().filter(open).count()
    }

    /// Whether a step or a sleep has not ended.
    pub fn has_open_call(&self) -> bool {
        let asleep = |call: &Call| matches!(call.kind, CallKind::Sleep { over: false, .. });
        self.open_steps() > 0 || self.calls.iter().any(asleep)
    }

    /// The store was closed in good order: an attempt that this interrupted was no crash's doing.
    pub(crate) fn closed(&mut self, incarnation: Incarnation) {
        for call in &mut self.calls {
            // Only what this engine started can have been interrupted by its close.
            if let CallKind::Step {
                step: Step::Launched { fence } | Step::Undoing { fence, .. },
                runs,
                ..
            } = &mut call.kind
                && fence.incarnation == incarnation
            {
                *runs = runs.saturating_sub(1);
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

    /// The outcome under the saga's key, once it has ended.
    pub fn settlement(&self, saga: SagaId) -> Option<Settlement> {
        let (outcome, at) = match &self.phase {
            Phase::Running | Phase::Unwinding { .. } => return None,
            Phase::Completed { output, at } => (Outcome::Done(output.clone()), *at),
            Phase::Compensated { cause, at } => {
                let failure = match cause {
                    Cause::Failed(failure) => Failure::permanent(failure),
                    Cause::Cancelled => Failure::permanent("cancelled"),
                };
                (Outcome::Failed(failure), *at)
            }
        };
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

    /// Moves to the next state.
    ///
    /// # Errors
    /// [`IllegalEvent`]: the state does not allow the event; it is unchanged.
    pub fn apply(&mut self, event: &SagaEvent) -> Result<(), IllegalEvent> {
        let running = matches!(self.phase, Phase::Running) && self.hold.is_none();
        let unwinding = matches!(self.phase, Phase::Unwinding { .. }) && self.hold.is_none();
        match event {
            SagaEvent::Started(_) => Err(self.illegal("started")),
            SagaEvent::Called { path, intent } => self.called(running, path, intent),
            SagaEvent::Relaunched { step, fence, asks } => {
                self.check(matches!(self.phase, Phase::Running), "relaunched")?;
                self.step(*step, StepEvent::Launched(*fence))?;
                if !asks {
                    self.count_run(*step, false);
                }
                Ok(())
            }
            SagaEvent::Settled {
                step,
                fence,
                outcome,
                cost,
            } => {
                // Also while paused: an attempt that was running ends all the same.
                self.check(matches!(self.phase, Phase::Running), "settled")?;
                self.step(*step, StepEvent::Settled(*fence, outcome.clone()))?;
                if let StepOutcome::Done(output) = outcome {
                    self.payload_bytes += output.len() as u64;
                }
                self.deliveries.push(Delivery::Call(*step));
                self.cost = self.cost.saturating_add(*cost);
                Ok(())
            }
            SagaEvent::Woke { step } => self.woke(running, *step),
            SagaEvent::Pivoted => {
                let allowed =
                    running && !self.pivoted && !self.cancel_requested && self.open_steps() == 0;
                self.check(allowed, "pivoted")?;
                self.pivoted = true;
                self.deliveries.push(Delivery::Pivot);
                Ok(())
            }
            SagaEvent::CancelRequested => {
                self.check(!self.ended() && !self.pivoted, "cancelled")?;
                self.cancel_requested = true;
                Ok(())
            }
            SagaEvent::UnwindingStarted { cause } => {
                self.check(running && !self.pivoted, "unwound")?;
                self.phase = Phase::Unwinding {
                    cause: cause.clone(),
                };
                Ok(())
            }
            SagaEvent::UndoLaunched { step, fence } => {
                self.check(
                    unwinding && self.next_undo() == Some(*step),
                    "undo-launched",
                )?;
                let first = !self.undoing(*step);
                self.step(*step, StepEvent::UndoLaunched(*fence))?;
                self.count_run(*step, first);
                Ok(())
            }
            SagaEvent::Undone { step, fence, cost } => {
                self.check(matches!(self.phase, Phase::Unwinding { .. }), "undone")?;
                self.step(*step, StepEvent::Undone(*fence))?;
                self.cost = self.cost.saturating_add(*cost);
                Ok(())
            }
            SagaEvent::Held(hold) => {
                self.check(!self.ended() && self.hold.is_none(), "held")?;
                self.hold = Some(hold.clone());
                Ok(())
            }
            SagaEvent::Resumed => {
                self.check(self.hold.is_some(), "resumed")?;
                self.hold = None;
                for call in &mut self.calls {
                    if let CallKind::Step { runs, .. } = &mut call.kind {
                        *runs = 0;
                    }
                }
                Ok(())
            }
            SagaEvent::Completed { output, at } => {
                self.check(
                    running && !self.cancel_requested && self.open_steps() == 0,
                    "completed",
                )?;
                self.phase = Phase::Completed {
                    output: output.clone(),
                    at: *at,
                };
                Ok(())
            }
            SagaEvent::Compensated { at } => self.compensated(unwinding, *at),
        }
    }

    fn called(
        &mut self,
        running: bool,
        path: &StepPath,
        intent: &CallIntent,
    ) -> Result<(), IllegalEvent> {
        self.check(
            running && !self.cancel_requested && self.find(path).is_none(),
            "called",
        )?;
        let kind = match intent {
            CallIntent::Step {
                code,
                fingerprint,
                fence,
                undo,
            } => {
                self.check(undo.is_none() || !self.pivoted, "called with an undo")?;
                if let Some(undo) = undo {
                    self.payload_bytes += undo.argument.len() as u64;
                }
                CallKind::Step {
                    code: code.clone(),
                    fingerprint: *fingerprint,
                    undo: undo.clone(),
                    step: Step::Launched { fence: *fence },
                    runs: 1,
                }
            }
            CallIntent::Sleep { until } => CallKind::Sleep {
                until: *until,
                over: false,
            },
            CallIntent::Now { at } => CallKind::Now { at: *at },
            CallIntent::Random { value } => CallKind::Random { value: *value },
        };
        self.calls.push(Call {
            path: path.clone(),
            kind,
        });
        Ok(())
    }

    fn woke(&mut self, running: bool, index: StepIndex) -> Result<(), IllegalEvent> {
        let illegal = self.illegal("woken");
        let call = self.calls.get_mut(index.get() as usize);
        match call.map(|call| &mut call.kind) {
            Some(CallKind::Sleep { over, .. }) if running && !*over => {
                *over = true;
                self.deliveries.push(Delivery::Call(index));
                Ok(())
            }
            Some(
                CallKind::Sleep { .. }
                | CallKind::Step { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. },
            )
            | None => Err(illegal),
        }
    }

    fn compensated(&mut self, unwinding: bool, at: WallMillis) -> Result<(), IllegalEvent> {
        self.check(unwinding && self.next_undo().is_none(), "compensated")?;
        if let Phase::Unwinding { cause } = &self.phase {
            self.phase = Phase::Compensated {
                cause: cause.clone(),
                at,
            };
        }
        Ok(())
    }

    fn step(&mut self, index: StepIndex, event: StepEvent) -> Result<(), IllegalEvent> {
        let illegal = self.illegal("moved at a call that is no step");
        match self
            .calls
            .get_mut(index.get() as usize)
            .map(|call| &mut call.kind)
        {
            Some(CallKind::Step { step, .. }) => {
                *step = step.apply(event)?;
                Ok(())
            }
            Some(CallKind::Sleep { .. } | CallKind::Now { .. } | CallKind::Random { .. })
            | None => Err(illegal),
        }
    }

    #[cfg(test)]
    pub(crate) fn truncate_calls(&mut self, calls: usize) {
        self.calls.truncate(calls);
    }

    fn undoing(&self, index: StepIndex) -> bool {
        let kind = self.call(index).map(|call| &call.kind);
        matches!(
            kind,
            Some(CallKind::Step {
                step: Step::Undoing { .. },
                ..
            })
        )
    }

    /// Counts a start; the first start of an undo counts anew.
    fn count_run(&mut self, index: StepIndex, anew: bool) {
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Step { runs, .. }) = call.map(|call| &mut call.kind) {
            *runs = if anew { 1 } else { runs.saturating_add(1) };
        }
    }

    fn check(&self, allowed: bool, event: &'static str) -> Result<(), IllegalEvent> {
        if allowed {
            Ok(())
        } else {
            Err(self.illegal(event))
        }
    }

    fn illegal(&self, event: &'static str) -> IllegalEvent {
        let state = match (&self.phase, &self.hold) {
            (Phase::Running, None) => "running",
            (Phase::Unwinding { .. }, None) => "unwinding",
            (Phase::Completed { .. }, _) => "completed",
            (Phase::Compensated { .. }, _) => "compensated",
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Paused(_))) => "paused",
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Stuck(_))) => "stuck",
        };
        IllegalEvent { state, event }
    }
}
