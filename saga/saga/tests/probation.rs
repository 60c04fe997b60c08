//! Probation: who is charged with a death of the process, and who is not any more.

use super::*;

fn probation(crashes: u32) -> Hold {
    Hold::Paused(PauseReason::Probation { crashes })
}

fn named() -> SagaState {
    run(&[call("a", true), SagaEvent::Probed]).unwrap()
}

#[test]
fn each_crash_charges_the_saga_that_is_named_and_nobody_else() {
    let mut state = named();
    assert_eq!(state.hold(), Some(&probation(0)));
    state.crashed(Incarnation::new(1), true);
    // It had not had its turn again.
    state.crashed(Incarnation::new(2), false);
    state.crashed(Incarnation::new(3), true);
    assert_eq!(state.probation(), Some(2));
    let mut other = run(&[call("a", true)]).unwrap();
    other.crashed(Incarnation::new(1), true);
    assert_eq!((other.probation(), other.hold()), (None, None));
}

#[test]
fn an_acquittal_or_a_close_forgets_the_charges_and_leaves_what_is_counted_of_the_steps() {
    let mut acquitted = named();
    acquitted.crashed(Incarnation::new(1), true);
    let mut closed = acquitted.clone();
    acquitted.apply(&SagaEvent::Acquitted).unwrap();
    closed.closed(Incarnation::new(2));
    for state in [acquitted, closed] {
        assert_eq!(state.hold(), None);
        let CallKind::Step { trail, runs, .. } = &state.calls()[0].kind else {
            panic!("the first call is no step");
        };
        assert_eq!((*runs, trail.lost_runs), (1, 1));
    }
    let free = run(&[call("a", true), SagaEvent::Acquitted]).unwrap_err();
    assert_eq!((free.state, free.event), ("running", "acquitted"));
}

#[test]
fn a_suspect_stays_paused_through_crashes_and_closes_until_it_is_resumed() {
    let mut state = named();
    state.crashed(Incarnation::new(1), true);
    let suspect = Hold::Paused(PauseReason::Suspect { crashes: 1 });
    state.apply(&SagaEvent::Held(suspect.clone())).unwrap();
    state.crashed(Incarnation::new(2), true);
    state.closed(Incarnation::new(3));
    assert_eq!(state.hold(), Some(&suspect));
    let named = state.clone().apply(&SagaEvent::Probed).unwrap_err();
    assert_eq!((named.state, named.event), ("paused", "probed"));
    state.apply(&SagaEvent::Resumed).unwrap();
    assert_eq!((state.hold(), state.probation()), (None, None));
}
