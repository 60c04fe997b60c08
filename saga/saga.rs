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

use serde::{Deserialize, Serialize};

use crate::amount::BusyNanos;
use crate::canonical::Payload;
use crate::effect::{CodeRef, EffectId, IllegalEvent, Settlement};
use crate::id::{Fence, Incarnation, SagaId, StepIndex};
use crate::key::Fingerprint;
use crate::outcome::{Failure, Outcome};
use crate::path::StepPath;
use crate::step::{Step, StepEvent, StepOutcome};
use crate::tenant::{AuditTag, Class};
use crate::time::WallMillis;
use crate::trace::TraceContext;

/// How a saga was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaStart {
    /// Whose it is and the key it was started under.
    pub id: EffectId,
    /// What the key stands for.
    pub fingerprint: Fingerprint,
    /// Its definition, pinned.
    pub code: CodeRef,
    /// Its canonical input.
    pub input: Payload,
    /// The urgency of its steps among the tenant's own work.
    pub class: Class,
    /// Who pays.
    pub audit: AuditTag,
    /// The caller's trace.
    pub trace: TraceContext,
    /// When it was started.
    pub at: WallMillis,
    /// How long its outcome is kept, from its end, in milliseconds.
    pub retention_ms: u64,
}

/// How a step would be undone, recorded before the step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoIntent {
    /// The undo, pinned.
    pub code: CodeRef,
    /// Its canonical argument.
    pub argument: Payload,
}

/// A call as it is first recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallIntent {
    /// A computation is about to be run.
    Step {
        /// The computation, pinned.
        code: CodeRef,
        /// What was asked of it.
        fingerprint: Fingerprint,
        /// Its first attempt.
        fence: Fence,
        /// How to undo it.
        undo: Option<UndoIntent>,
    },
    /// The saga sleeps.
    Sleep {
        /// Until when.
        until: WallMillis,
    },
    /// The saga asked for the time.
    Now {
        /// The answer.
        at: WallMillis,
    },
    /// The saga asked for a random number.
    Random {
        /// The answer.
        value: u64,
    },
}

/// Why a saga unwinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its code ended in an error.
    Failed(Failure),
    /// It was cancelled.
    Cancelled,
}

/// Why a saga is paused. It continues when an operator resumes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseReason {
    /// Its definition or a computation that it used is missing or has another version.
    Definition(String),
    /// Its code did not do what the journal says it did.
    Nondeterminism(String),
    /// Its code panicked.
    Panicked(String),
}

/// Why a saga does not move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Paused.
    Paused(PauseReason),
    /// Retries are exhausted, or nobody could tell what happened.
    Stuck(String),
}

/// What happened to a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SagaEvent {
    /// It was started.
    Started(Box<SagaStart>),
    /// Its code made a call; the call's index is the number of calls before it.
    Called {
        /// Where in the saga.
        path: StepPath,
        /// What.
        intent: CallIntent,
    },
    /// Another attempt of a step is about to be started.
    Relaunched {
        /// Which step.
        step: StepIndex,
        /// The attempt.
        fence: Fence,
        /// Whether it only asks the outside what became of the last one.
        asks: bool,
    },
    /// A step ended.
    Settled {
        /// Which step.
        step: StepIndex,
        /// The attempt that settled it.
        fence: Fence,
        /// How.
        outcome: StepOutcome,
        /// What it cost.
        cost: BusyNanos,
    },
    /// A sleep is over.
    Woke {
        /// Which call.
        step: StepIndex,
    },
    /// From here on only forward.
    Pivoted,
    /// Somebody asked for it to be cancelled.
    CancelRequested,
    /// Its done and in-doubt steps are being undone.
    UnwindingStarted {
        /// Why.
        cause: Cause,
    },
    /// An attempt to undo a step is about to be started.
    UndoLaunched {
        /// Which step.
        step: StepIndex,
        /// The attempt.
        fence: Fence,
    },
    /// A step's undo is done.
    Undone {
        /// Which step.
        step: StepIndex,
        /// The attempt that undid it.
        fence: Fence,
        /// What it cost.
        cost: BusyNanos,
    },
    /// It does not move until an operator says so.
    Held(Hold),
    /// An operator had it continue.
    Resumed,
    /// It ended well.
    Completed {
        /// The canonical bytes of its output.
        output: Payload,
        /// When.
        at: WallMillis,
    },
    /// Everything it did before its pivot is undone.
    Compensated {
        /// When.
        at: WallMillis,
    },
}

/// One call of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Where in the saga.
    pub path: StepPath,
    /// What and how far.
    pub kind: CallKind,
}

/// What a call is and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallKind {
    /// A computation.
    Step {
        /// The computation, pinned.
        code: CodeRef,
        /// What was asked of it.
        fingerprint: Fingerprint,
        /// How to undo it.
        undo: Option<UndoIntent>,
        /// How far it is.
        step: Step,
        /// How often it, or its undo once that was started, has been started since an operator
        /// last had the saga go on; starts that a clean close interrupted do not count.
        runs: u32,
    },
    /// A sleep.
    Sleep {
        /// Until when.
        until: WallMillis,
        /// Whether it is over.
        over: bool,
    },
    /// The time, as it was told.
    Now {
        /// The answer.
        at: WallMillis,
    },
    /// A random number, as it was told.
    Random {
        /// The answer.
        value: u64,
    },
}

/// What a saga's code is told, in the order in which it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// A step or a sleep is over.
    Call(StepIndex),
    /// The pivot is durable.
    Pivot,
}

/// Where a saga is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Forward.
    Running,
    /// Backward.
    Unwinding {
        /// Why.
        cause: Cause,
    },
    /// It ended well.
    Completed {
        /// The canonical bytes of its output.
        output: Payload,
        /// When.
        at: WallMillis,
    },
    /// Everything it did is undone.
    Compensated {
        /// Why.
        cause: Cause,
        /// When.
        at: WallMillis,
    },
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Attempt, Incarnation, TenantId};
    use crate::key::Key;

    fn fence(attempt: u32) -> Fence {
        Fence::new(Incarnation::new(1), Attempt::new(attempt))
    }

    fn started() -> SagaState {
        let input = Payload::default();
        SagaState::new(Box::new(SagaStart {
            id: EffectId {
                tenant: TenantId::new(0, 1),
                key: Key::named("k"),
            },
            fingerprint: Fingerprint::of("saga", 1, &input),
            code: CodeRef::new("saga", 1),
            input,
            class: Class::Standard,
            audit: AuditTag::default(),
            trace: TraceContext::default(),
            at: WallMillis::new(0),
            retention_ms: 10,
        }))
    }

    fn call(path: &str, undo: bool) -> SagaEvent {
        SagaEvent::Called {
            path: StepPath::root(path).unwrap(),
            intent: CallIntent::Step {
                code: CodeRef::new("put", 1),
                fingerprint: Fingerprint::of("put", 1, &Payload::default()),
                fence: fence(1),
                undo: undo.then(|| UndoIntent {
                    code: CodeRef::new("delete", 1),
                    argument: Payload::default(),
                }),
            },
        }
    }

    fn settle(step: u32) -> SagaEvent {
        SagaEvent::Settled {
            step: StepIndex::new(step),
            fence: fence(1),
            outcome: StepOutcome::Done(Payload::default()),
            cost: BusyNanos::new(1),
        }
    }

    fn undo(step: u32) -> SagaEvent {
        SagaEvent::UndoLaunched {
            step: StepIndex::new(step),
            fence: fence(2),
        }
    }

    fn undone(step: u32) -> SagaEvent {
        SagaEvent::Undone {
            step: StepIndex::new(step),
            fence: fence(2),
            cost: BusyNanos::new(1),
        }
    }

    fn run(events: &[SagaEvent]) -> Result<SagaState, IllegalEvent> {
        let mut state = started();
        for event in events {
            state.apply(event)?;
        }
        Ok(state)
    }

    fn unwind() -> SagaEvent {
        SagaEvent::UnwindingStarted {
            cause: Cause::Cancelled,
        }
    }

    #[test]
    fn undo_runs_newest_intent_first_whatever_order_the_steps_settled_in() {
        let forward = [
            call("a", true),
            call("b", true),
            settle(1),
            settle(0),
            unwind(),
        ];
        let mut wrong = forward.to_vec();
        wrong.push(undo(0));
        assert_eq!(
            run(&wrong),
            Err(IllegalEvent {
                state: "unwinding",
                event: "undo-launched"
            })
        );
        let mut right = forward.to_vec();
        right.extend([undo(1), undone(1), undo(0), undone(0)]);
        right.push(SagaEvent::Compensated {
            at: WallMillis::new(5),
        });
        assert!(run(&right).unwrap().ended());
    }

    #[test]
    fn a_step_in_doubt_is_undone_too() {
        let state = run(&[call("a", true), unwind()]).unwrap();
        assert_eq!(state.next_undo(), Some(StepIndex::new(0)));
    }

    #[test]
    fn nothing_is_compensated_while_an_undo_has_not_run() {
        let events = [
            call("a", true),
            settle(0),
            unwind(),
            SagaEvent::Compensated {
                at: WallMillis::new(1),
            },
        ];
        assert_eq!(
            run(&events),
            Err(IllegalEvent {
                state: "unwinding",
                event: "compensated"
            })
        );
    }

    #[test]
    fn no_saga_completes_over_a_step_that_has_not_ended() {
        let end = SagaEvent::Completed {
            output: Payload::default(),
            at: WallMillis::new(1),
        };
        assert_eq!(
            run(&[call("a", false), end.clone()]),
            Err(IllegalEvent {
                state: "running",
                event: "completed"
            })
        );
        assert!(run(&[call("a", false), settle(0), end]).unwrap().ended());
    }

    #[test]
    fn after_the_pivot_neither_cancel_nor_unwinding_nor_an_undo_is_accepted() {
        for event in [SagaEvent::CancelRequested, unwind(), call("b", true)] {
            let result = run(&[SagaEvent::Pivoted, event]);
            assert_eq!(result.map_err(|error| error.state), Err("running"));
        }
    }

    #[test]
    fn a_path_is_called_once() {
        assert_eq!(
            run(&[call("a", false), call("a", false)]),
            Err(IllegalEvent {
                state: "running",
                event: "called"
            })
        );
    }

    #[test]
    fn deliveries_are_in_the_order_of_settlement() {
        let state = run(&[call("a", false), call("b", false), settle(1), settle(0)]).unwrap();
        assert_eq!(
            state.deliveries(),
            [
                Delivery::Call(StepIndex::new(1)),
                Delivery::Call(StepIndex::new(0))
            ]
        );
    }
}
