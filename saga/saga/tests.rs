//! What the fold of a saga allows, and what it refuses.

mod children;
mod operators;
mod probation;
mod signals;
mod starts;

use super::*;
use crate::amount::BusyNanos;
use crate::canonical::Payload;
use crate::effect::{CodeRef, EffectId, IllegalEvent};
use crate::id::{Attempt, Fence, Incarnation, StepIndex, TenantId};
use crate::key::Fingerprint;
use crate::key::Key;
use crate::path::StepPath;
use crate::step::StepOutcome;
use crate::tenant::{AuditTag, Class};
use crate::time::WallMillis;
use crate::trace::TraceContext;

fn fence(attempt: u32) -> Fence {
    Fence::new(Incarnation::new(1), Attempt::new(attempt))
}

fn start() -> SagaStart {
    let input = Payload::default();
    SagaStart {
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
        paused: false,
        deadline: None,
        parent: None,
    }
}

pub(crate) fn call(path: &str, undo: bool) -> SagaEvent {
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

pub(crate) fn settle(step: u32) -> SagaEvent {
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

pub(crate) fn run(events: &[SagaEvent]) -> Result<SagaState, IllegalEvent> {
    run_from(start(), events)
}

fn run_from(start: SagaStart, events: &[SagaEvent]) -> Result<SagaState, IllegalEvent> {
    let mut state = SagaState::new(Box::new(start));
    for event in events {
        state.apply(event)?;
    }
    Ok(state)
}

fn completed() -> SagaEvent {
    SagaEvent::Completed {
        output: Payload::default(),
        at: WallMillis::new(1),
    }
}

fn compensated() -> SagaEvent {
    SagaEvent::Compensated {
        at: WallMillis::new(2),
    }
}

/// What the fold says of the last event, all others being allowed.
fn refused(start: SagaStart, events: &[SagaEvent]) -> (&'static str, &'static str) {
    let (last, before) = events.split_last().unwrap();
    let mut state = run_from(start, before).unwrap();
    let unchanged = state.clone();
    let error = state.apply(last).unwrap_err();
    assert_eq!(state, unchanged, "a refused event changes nothing");
    (error.state, error.event)
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

fn runs(state: &SagaState) -> u32 {
    match &state.calls()[0].kind {
        CallKind::Step { runs, .. } => *runs,
        CallKind::Sleep { .. }
        | CallKind::Now { .. }
        | CallKind::Random { .. }
        | CallKind::Signal { .. } => {
            panic!("the first call is no step")
        }
    }
}

#[test]
fn a_close_forgives_only_what_its_own_engine_started() {
    let mut state = run(&[call("a", true)]).unwrap();
    state.closed(Incarnation::new(2));
    assert_eq!(runs(&state), 1, "found at open and not started since");
    state.closed(Incarnation::new(1));
    assert_eq!(runs(&state), 0, "interrupted by the close");
}

#[test]
fn a_question_is_no_run_and_a_resume_frees_all_runs() {
    let again = |attempt, asks| SagaEvent::Relaunched {
        step: StepIndex::new(0),
        fence: fence(attempt),
        asks,
    };
    let held = SagaEvent::Held(Hold::Stuck("s".to_owned()));
    let asked = [call("a", true), again(2, true), again(3, false)];
    assert_eq!(runs(&run(&asked).unwrap()), 2);
    let mut resumed = asked.to_vec();
    resumed.extend([held, SagaEvent::Resumed]);
    assert_eq!(runs(&run(&resumed).unwrap()), 0);
}
