//! Transitions: the one function that moves a saga's state, shared by execution and recovery.

use super::{Bond, Call, CallIntent, CallKind, Delivery, Hold, Phase, SagaEvent, SagaState, Trail};
use crate::amount::BusyNanos;
use crate::effect::IllegalEvent;
use crate::id::{Fence, StepIndex};
use crate::path::StepPath;
use crate::step::{Step, StepEvent, StepOutcome};
use crate::time::WallMillis;

impl SagaState {
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
            SagaEvent::Relaunched { step, fence, asks } => self.relaunched(*step, *fence, *asks),
            SagaEvent::Settled {
                step,
                fence,
                outcome,
                cost,
            } => self.settled(*step, *fence, outcome, *cost),
            SagaEvent::Woke { step } => self.woke(running, *step),
            SagaEvent::Pivoted => self.passed_pivot(running),
            SagaEvent::CancelRequested => {
                self.check(!self.ended() && !self.pivoted, "cancelled")?;
                self.cancel_requested = true;
                Ok(())
            }
            SagaEvent::UnwindingStarted { cause } => {
                let child_runs = self.open_children() > 0;
                self.check(self.may_unwind(cause) && !child_runs, "unwound")?;
                self.phase = Phase::Unwinding {
                    cause: cause.clone(),
                };
                Ok(())
            }
            SagaEvent::UndoLaunched { step, fence } => self.undo_launched(unwinding, *step, *fence),
            SagaEvent::Undone { step, fence, cost } => {
                self.check(matches!(self.phase, Phase::Unwinding { .. }), "undone")?;
                self.step(*step, StepEvent::Undone(*fence))?;
                self.charge(*step, *cost);
                Ok(())
            }
            SagaEvent::Held(hold) => {
                let free = self.hold.is_none() || self.probation().is_some();
                self.check(!self.ended() && free, "held")?;
                self.hold = Some(hold.clone());
                Ok(())
            }
            SagaEvent::Resumed => self.resumed(),
            SagaEvent::Completed { output, at } => {
                self.check_completed(running)?;
                self.phase = Phase::Completed {
                    output: output.clone(),
                    at: *at,
                };
                Ok(())
            }
            SagaEvent::CompletedInBlob { output, at } => {
                // A child's output is read again after a restart, from the fold.
                self.check(self.start.parent.is_none(), "completed in a blob")?;
                self.check_completed(running)?;
                self.phase = Phase::CompletedInBlob {
                    output: *output,
                    at: *at,
                };
                Ok(())
            }
            SagaEvent::Compensated { at } => self.compensated(unwinding, *at),
            SagaEvent::Signalled { name, id, payload } => self.signalled(name, *id, payload),
            SagaEvent::DeadlinePassed { at } => self.passed_deadline(*at),
            SagaEvent::Released => {
                let child = self.start.parent.is_some();
                self.check(child && self.ended() && !self.released, "released")?;
                self.released = true;
                Ok(())
            }
            SagaEvent::Abandoned { note, at, heir } => self.abandoned(note, *at, *heir),
            SagaEvent::Skipped {
                step,
                fence,
                output,
                note,
            } => self.skipped(*step, *fence, output, note),
            SagaEvent::UndoSkipped { step, fence, note } => self.undo_skipped(*step, *fence, note),
            SagaEvent::Reopened { step, fence } => self.reopened(*step, *fence),
            SagaEvent::Forked(inherits) => self.forked(inherits),
            SagaEvent::Probed => self.probed(running),
            SagaEvent::Acquitted => self.acquitted(),
        }
    }

    fn relaunched(
        &mut self,
        step: StepIndex,
        fence: Fence,
        asks: bool,
    ) -> Result<(), IllegalEvent> {
        self.check(matches!(self.phase, Phase::Running), "relaunched")?;
        self.step(step, StepEvent::Launched(fence))?;
        if !asks {
            self.count_run(step, false);
        }
        self.asking(step, asks);
        Ok(())
    }

    fn settled(
        &mut self,
        step: StepIndex,
        fence: Fence,
        outcome: &StepOutcome,
        cost: BusyNanos,
    ) -> Result<(), IllegalEvent> {
        // Also while paused: an attempt that was running ends all the same.
        self.check(matches!(self.phase, Phase::Running), "settled")?;
        self.step(step, StepEvent::Settled(fence, outcome.clone()))?;
        if let StepOutcome::Done(output) = outcome {
            self.payload_bytes += output.len() as u64;
        }
        self.deliveries.push(Delivery::Call(step));
        self.charge(step, cost);
        Ok(())
    }

    fn passed_pivot(&mut self, running: bool) -> Result<(), IllegalEvent> {
        let adopted = self
            .start
            .parent
            .is_some_and(|parent| parent.bond == Bond::Adopted);
        let free = !self.pivoted && self.doom().is_none() && !adopted;
        self.check(running && free && self.open_steps() == 0, "pivoted")?;
        self.pivoted = true;
        self.deliveries.push(Delivery::Pivot);
        Ok(())
    }

    fn undo_launched(
        &mut self,
        unwinding: bool,
        step: StepIndex,
        fence: Fence,
    ) -> Result<(), IllegalEvent> {
        self.check(unwinding && self.next_undo() == Some(step), "undo-launched")?;
        let first = !self.undoing(step);
        self.step(step, StepEvent::UndoLaunched(fence))?;
        self.count_run(step, first);
        self.asking(step, false);
        Ok(())
    }

    fn resumed(&mut self) -> Result<(), IllegalEvent> {
        self.check(self.hold.is_some(), "resumed")?;
        self.hold = None;
        for call in &mut self.calls {
            if let CallKind::Step { runs, trail, .. } = &mut call.kind {
                *runs = 0;
                (trail.lost_asks, trail.lost_runs) = (0, 0);
            }
        }
        Ok(())
    }

    fn passed_deadline(&mut self, at: WallMillis) -> Result<(), IllegalEvent> {
        let counts = matches!(self.phase, Phase::Running)
            && self.start.deadline.is_some()
            && self.deadline_passed.is_none()
            && !self.cancel_requested;
        self.check(counts, "past its deadline")?;
        self.deadline_passed = Some(at);
        Ok(())
    }

    fn check_completed(&self, running: bool) -> Result<(), IllegalEvent> {
        self.check(
            running && self.doom().is_none() && self.open_steps() == 0,
            "completed",
        )
    }

    fn called(
        &mut self,
        running: bool,
        path: &StepPath,
        intent: &CallIntent,
    ) -> Result<(), IllegalEvent> {
        self.check(
            running && self.doom().is_none() && self.find(path).is_none(),
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
                    child: None,
                    trail: Trail::default(),
                }
            }
            CallIntent::Child {
                code,
                fingerprint,
                fence,
                undo,
                bond,
            } => {
                let undone = undo.is_some() || *bond == Bond::Adopted;
                let both = undo.is_some() && *bond == Bond::Adopted;
                let allowed = !(both || undone && self.pivoted);
                self.check(allowed, "called with an undo")?;
                if let Some(undo) = undo {
                    self.payload_bytes += undo.argument.len() as u64;
                }
                CallKind::Step {
                    code: code.clone(),
                    fingerprint: *fingerprint,
                    undo: undo.clone(),
                    step: Step::Launched { fence: *fence },
                    runs: 1,
                    child: Some(*bond),
                    trail: Trail::default(),
                }
            }
            CallIntent::Sleep { until } => CallKind::Sleep {
                until: *until,
                over: false,
            },
            CallIntent::Now { at } => CallKind::Now { at: *at },
            CallIntent::Random { value } => CallKind::Random { value: *value },
            CallIntent::Signal { name } => CallKind::Signal {
                name: name.clone(),
                over: false,
            },
        };
        let index = StepIndex::new(u32::try_from(self.calls.len()).unwrap_or(u32::MAX));
        self.calls.push(Call {
            path: path.clone(),
            kind,
        });
        if let CallIntent::Signal { name } = intent {
            self.waits(index, name);
        }
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
                | CallKind::Random { .. }
                | CallKind::Signal { .. },
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

    pub(super) fn step(&mut self, index: StepIndex, event: StepEvent) -> Result<(), IllegalEvent> {
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
            Some(
                CallKind::Sleep { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. }
                | CallKind::Signal { .. },
            )
            | None => Err(illegal),
        }
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

    /// Whether the newest attempt of a step only asks.
    fn asking(&mut self, index: StepIndex, asks: bool) {
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Step { trail, .. }) = call.map(|call| &mut call.kind) {
            trail.asking = asks;
        }
    }

    /// What an attempt cost.
    fn charge(&mut self, index: StepIndex, cost: BusyNanos) {
        self.cost = self.cost.saturating_add(cost);
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Step { trail, .. }) = call.map(|call| &mut call.kind) {
            trail.cost = trail.cost.saturating_add(cost);
        }
    }

    /// Counts a start; the first start of an undo counts anew.
    fn count_run(&mut self, index: StepIndex, anew: bool) {
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Step { runs, .. }) = call.map(|call| &mut call.kind) {
            *runs = if anew { 1 } else { runs.saturating_add(1) };
        }
    }

    pub(super) fn check(&self, allowed: bool, event: &'static str) -> Result<(), IllegalEvent> {
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
            (Phase::Completed { .. } | Phase::CompletedInBlob { .. }, _) => "completed",
            (Phase::Compensated { .. }, _) => "compensated",
            (Phase::Abandoned { .. }, _) => "abandoned",
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Paused(_))) => "paused",
            (Phase::Running | Phase::Unwinding { .. }, Some(Hold::Stuck(_))) => "stuck",
        };
        IllegalEvent { state, event }
    }
}
