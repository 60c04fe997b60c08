//! What an operator may do to a saga, and what a fork begins with.

use super::*;
use crate::id::Epoch;

fn held() -> SagaEvent {
    SagaEvent::Held(Hold::Stuck("attempts used up".to_owned()))
}

fn index(step: u32) -> StepIndex {
    StepIndex::new(step)
}

fn skip(step: u32, attempt: u32) -> SagaEvent {
    SagaEvent::Skipped {
        step: index(step),
        fence: fence(attempt),
        output: Payload::new(&b"by hand"[..]),
        note: "it is there".to_owned(),
    }
}

fn abandon() -> SagaEvent {
    SagaEvent::Abandoned {
        note: "no use".to_owned(),
        at: WallMillis::new(7),
        heir: None,
    }
}

fn failed(step: u32) -> SagaEvent {
    SagaEvent::Settled {
        step: index(step),
        fence: fence(1),
        outcome: StepOutcome::FailedNoEffect(Failure::permanent("refused")),
        cost: BusyNanos::new(1),
    }
}

#[test]
fn an_abandoned_saga_has_an_outcome_and_names_what_remains_of_it() {
    let undone = [undo(3), undone(3), undo(2)];
    let mut events = vec![call("a", true), call("b", false), call("c", true)];
    events.extend([call("d", true), settle(0), failed(1), settle(2), settle(3)]);
    events.push(unwind());
    events.extend(undone);
    events.extend([held(), abandon()]);
    let state = run(&events).unwrap();
    assert_eq!(state.status(), SagaStatus::Abandoned);
    let settlement = state.settlement(SagaId::new(1)).unwrap();
    let outcome = Outcome::Failed(Failure::permanent("abandoned: no use"));
    assert_eq!(
        (settlement.outcome, settlement.at),
        (outcome, WallMillis::new(7))
    );
    let residue: Vec<_> = state
        .residue()
        .into_iter()
        .map(|residue| (residue.path.to_string(), residue.remains))
        .collect();
    let expected = [("a", Remains::Done), ("c", Remains::HalfUndone)];
    assert_eq!(
        residue,
        expected.map(|(path, what)| (path.to_owned(), what))
    );
    let again = run(&[abandon(), abandon()]);
    assert_eq!(again.map_err(|error| error.state), Err("abandoned"));
}

#[test]
fn a_step_in_doubt_remains_in_doubt_when_its_saga_is_abandoned() {
    let state = run(&[call("a", false), abandon()]).unwrap();
    assert_eq!(state.residue()[0].remains, Remains::InDoubt);
}

#[test]
fn a_skipped_step_has_the_operators_output_and_no_late_attempt_changes_it() {
    let moving = run(&[call("a", true), skip(0, 2)]);
    assert_eq!(moving.map_err(|error| error.event), Err("skipped"));
    let events = [call("a", true), held(), skip(0, 2)];
    let mut state = run(&events).unwrap();
    let CallKind::Step { step, trail, .. } = &state.calls()[0].kind else {
        panic!("the first call is no step");
    };
    let output = StepOutcome::Done(Payload::new(&b"by hand"[..]));
    let settled = Step::Settled {
        fence: fence(2),
        outcome: output,
    };
    assert_eq!(
        (step, trail.note.as_deref()),
        (&settled, Some("it is there"))
    );
    assert_eq!(state.deliveries(), [Delivery::Call(index(0))]);
    assert!(state.apply(&settle(0)).is_err(), "the attempt came late");
    let older = run(&[call("a", true), held(), skip(0, 1)]);
    assert!(older.is_err(), "a fence that an attempt has");
}

#[test]
fn only_the_undo_that_is_next_is_taken_for_done() {
    let by_hand = |step| SagaEvent::UndoSkipped {
        step: index(step),
        fence: fence(5),
        note: "removed it".to_owned(),
    };
    let forward = [
        call("a", true),
        call("b", true),
        settle(0),
        settle(1),
        unwind(),
    ];
    let mut wrong = forward.to_vec();
    wrong.extend([held(), by_hand(0)]);
    assert_eq!(
        run(&wrong).map_err(|error| error.event),
        Err("undo-skipped")
    );
    let mut right = forward.to_vec();
    right.extend([undo(1), held(), by_hand(1)]);
    assert_eq!(run(&right).unwrap().next_undo(), Some(index(0)));
}

#[test]
fn a_failure_after_the_pivot_is_untold_and_the_step_open_again() {
    let reopen = SagaEvent::Reopened {
        step: index(0),
        fence: fence(2),
    };
    let stuck = [SagaEvent::Pivoted, call("a", false), failed(0), held()];
    let mut events = stuck.to_vec();
    events.push(reopen.clone());
    let state = run(&events).unwrap();
    assert_eq!(state.deliveries(), [Delivery::Pivot]);
    assert_eq!(state.open_steps(), 1);
    // Told more since, the code may have decided by the failure.
    let mut superseded = vec![SagaEvent::Pivoted, call("a", false), call("b", false)];
    superseded.extend([failed(0), settle(1), held(), reopen]);
    assert_eq!(
        run(&superseded).map_err(|error| error.event),
        Err("reopened")
    );
}

#[test]
fn a_fork_inherits_what_had_ended_before_its_step_and_keeps_where_that_came_from() {
    let nap = SagaEvent::Called {
        path: StepPath::root("nap").unwrap(),
        intent: CallIntent::Sleep {
            until: WallMillis::new(5),
        },
    };
    let events = [
        call("a", true),
        nap,
        call("b", true),
        call("late", true),
        settle(2),
        settle(0),
        call("c", true),
    ];
    let state = run(&events).unwrap();
    let own = SagaId::new(4);
    let at = StepPath::root("c").unwrap();
    let inherits = state.fork(own, &at, false).unwrap();
    let mut fork = run(&[]).unwrap();
    fork.apply(&SagaEvent::Forked(Box::new(inherits))).unwrap();
    let paths: Vec<&str> = fork.calls().iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths, ["a", "b"]);
    let told = [Delivery::Call(index(1)), Delivery::Call(index(0))];
    assert_eq!(fork.deliveries(), told);
    assert_eq!(fork.check_consistent(), Ok(()));
    let mut unwound = fork.clone();
    unwound.apply(&unwind()).unwrap();
    assert_eq!(unwound.next_undo(), None, "the original undoes them");
    let origin = |saga, epoch| Origin {
        saga: SagaId::new(saga),
        epoch: Epoch::new(epoch),
    };
    assert_eq!(fork.origin(SagaId::new(9), index(0)), origin(4, 0));
    fork.apply(&call("c", true)).unwrap();
    assert_eq!(fork.origin(SagaId::new(9), index(2)), origin(9, 1));
    // The undos go over to a fork whose original is abandoned with it.
    let heir = state.fork(own, &at, true).unwrap();
    let mut fork = run(&[]).unwrap();
    fork.apply(&SagaEvent::Forked(Box::new(heir))).unwrap();
    fork.apply(&unwind()).unwrap();
    assert_eq!(fork.next_undo(), Some(index(1)));
}

#[test]
fn a_fork_after_the_pivot_has_passed_it_and_one_before_has_not() {
    let events = [
        call("a", false),
        settle(0),
        SagaEvent::Pivoted,
        call("b", false),
        settle(1),
    ];
    let state = run(&events).unwrap();
    let fork = |path| state.fork(SagaId::new(1), &StepPath::root(path).unwrap(), false);
    assert!(!fork("a").unwrap().pivoted);
    assert!(fork("b").unwrap().pivoted);
    let path = StepPath::root("x").unwrap();
    assert_eq!(fork("x"), Err(NoFork::NoSuchStep { path }));
}

#[test]
fn nothing_that_was_undone_is_inherited() {
    let mut events = vec![call("a", true), call("b", true), settle(0), settle(1)];
    events.extend([unwind(), undo(1), undone(1), undo(0)]);
    let state = run(&events).unwrap();
    let path = StepPath::root("a").unwrap();
    let at = StepPath::root("b").unwrap();
    assert_eq!(
        state.fork(SagaId::new(1), &at, false),
        Err(NoFork::Undone { path })
    );
}

#[test]
fn a_question_lost_with_the_process_counts_and_one_that_a_close_interrupted_does_not() {
    let asks = SagaEvent::Relaunched {
        step: index(0),
        fence: fence(2),
        asks: true,
    };
    let lost = |state: &SagaState| match &state.calls()[0].kind {
        CallKind::Step { trail, runs, .. } => (trail.lost_asks, trail.lost_runs, *runs),
        CallKind::Sleep { .. }
        | CallKind::Now { .. }
        | CallKind::Random { .. }
        | CallKind::Signal { .. } => panic!("the first call is no step"),
    };
    let asked = run(&[call("a", true), asks]).unwrap();
    let mut crashed = asked.clone();
    crashed.crashed(Incarnation::new(1), true);
    assert_eq!(lost(&crashed), (1, 0, 1));
    let mut later = asked.clone();
    later.crashed(Incarnation::new(2), true);
    assert_eq!(lost(&later), (0, 0, 1), "another engine's crash");
    let mut closed = asked;
    closed.closed(Incarnation::new(1));
    assert_eq!(lost(&closed), (0, 0, 1), "no run was interrupted");
    let mut running = run(&[call("a", true)]).unwrap();
    running.crashed(Incarnation::new(1), true);
    assert_eq!(lost(&running), (0, 1, 1), "it ran and did not ask");
}
