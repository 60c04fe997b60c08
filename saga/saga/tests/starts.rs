//! Starts that are paused, and deadlines.

use super::*;

fn due() -> SagaStart {
    SagaStart {
        deadline: Some(WallMillis::new(100)),
        ..start()
    }
}

fn passed() -> SagaEvent {
    SagaEvent::DeadlinePassed {
        at: WallMillis::new(100),
    }
}

#[test]
fn a_saga_that_is_started_paused_calls_nothing_before_it_is_resumed() {
    let paused = SagaStart {
        paused: true,
        ..start()
    };
    let state = SagaState::new(Box::new(paused.clone()));
    assert_eq!(state.hold(), Some(&Hold::Paused(PauseReason::AtStart)));
    let events = [call("a", false)];
    assert_eq!(refused(paused.clone(), &events), ("paused", "called"));
    assert!(run_from(paused, &[SagaEvent::Resumed, call("a", false)]).is_ok());
}

#[test]
fn a_deadline_that_passes_before_the_pivot_leaves_only_unwinding() {
    let state = run_from(due(), &[call("a", true), settle(0), passed()]).unwrap();
    assert_eq!(state.doom(), Some(Cause::Expired));
    for event in [call("b", false), SagaEvent::Pivoted, completed()] {
        let events = [passed(), event];
        assert_eq!(refused(due(), &events).0, "running");
    }
}

#[test]
fn a_deadline_that_passes_after_the_pivot_leaves_the_saga_late_and_going() {
    let events = [
        SagaEvent::Pivoted,
        passed(),
        call("a", false),
        settle(0),
        completed(),
    ];
    let state = run_from(due(), &events).unwrap();
    assert!(state.ended());
    assert_eq!(state.deadline_passed(), Some(WallMillis::new(100)));
    assert_eq!(state.doom(), None);
}

#[test]
fn the_first_of_cancel_and_deadline_is_the_cause() {
    let events = [SagaEvent::CancelRequested, passed()];
    assert_eq!(refused(due(), &events).1, "past its deadline");
    let state = run_from(due(), &[passed(), SagaEvent::CancelRequested]).unwrap();
    assert_eq!(state.doom(), Some(Cause::Expired));
}

#[test]
fn a_deadline_passes_once_and_only_where_there_is_one_and_never_while_it_unwinds() {
    assert_eq!(refused(start(), &[passed()]).1, "past its deadline");
    assert_eq!(refused(due(), &[passed(), passed()]).1, "past its deadline");
    assert_eq!(refused(due(), &[unwind(), passed()]).1, "past its deadline");
}
