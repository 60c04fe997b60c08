//! Signals in the fold: who takes which, and that a repetition is none.

use super::*;

fn signal(name: &str, id: u8, payload: &'static [u8]) -> SagaEvent {
    SagaEvent::Signalled {
        name: name.into(),
        id: SignalId::new([id; 16]),
        payload: Payload::new(payload),
    }
}

fn wait(scope: u64, name: &str) -> SagaEvent {
    let scope = StepPath::scope("", "wait", scope).unwrap();
    SagaEvent::Called {
        path: StepPath::within(&scope, name).unwrap(),
        intent: CallIntent::Signal { name: name.into() },
    }
}

/// What each wait took, by the position of the wait.
fn taken(state: &SagaState) -> Vec<Option<&[u8]>> {
    let calls = 0..u32::try_from(state.calls().len()).unwrap();
    calls
        .map(|call| state.taken(StepIndex::new(call)))
        .map(|signal| signal.map(|signal| signal.payload.as_bytes()))
        .collect()
}

#[test]
fn signals_of_one_name_are_taken_in_their_order_before_and_after_the_wait() {
    let one = b"one".as_slice();
    let two = b"two".as_slice();
    let orders = [
        [
            signal("go", 1, b"one"),
            signal("go", 2, b"two"),
            wait(0, "go"),
            wait(1, "go"),
        ],
        [
            wait(0, "go"),
            wait(1, "go"),
            signal("go", 1, b"one"),
            signal("go", 2, b"two"),
        ],
        [
            signal("go", 1, b"one"),
            wait(0, "go"),
            wait(1, "go"),
            signal("go", 2, b"two"),
        ],
        [
            wait(0, "go"),
            signal("go", 1, b"one"),
            signal("go", 2, b"two"),
            wait(1, "go"),
        ],
    ];
    for order in orders {
        let state = run(&order).unwrap();
        assert_eq!(taken(&state), [Some(one), Some(two)], "{order:?}");
        assert_eq!(
            state.deliveries(),
            [
                Delivery::Call(StepIndex::new(0)),
                Delivery::Call(StepIndex::new(1))
            ]
        );
        assert!(!state.has_open_call());
    }
}

#[test]
fn a_signal_of_another_name_ends_no_wait() {
    let state = run(&[wait(0, "go"), signal("stop", 1, b"no")]).unwrap();
    assert_eq!(taken(&state), [None]);
    assert!(state.deliveries().is_empty());
    assert!(state.has_open_call());
}

#[test]
fn a_signal_is_recorded_once_also_after_it_was_taken() {
    let twice = [
        wait(0, "go"),
        signal("go", 1, b"one"),
        signal("go", 1, b"one"),
    ];
    assert_eq!(refused(start(), &twice), ("running", "signalled"));
}

#[test]
fn a_signal_counts_in_the_bytes_of_its_saga() {
    let state = run(&[signal("go", 1, b"12345")]).unwrap();
    assert_eq!((state.payload_bytes(), state.signal_bytes()), (5, 5));
}

#[test]
fn a_paused_saga_hears_signals_and_one_that_unwinds_or_ended_does_not() {
    let held = SagaEvent::Held(Hold::Stuck("s".to_owned()));
    assert!(run(&[held, signal("go", 1, b"one")]).is_ok());
    for before in [SagaEvent::CancelRequested, unwind(), completed()] {
        let events = [before, signal("go", 1, b"one")];
        assert_eq!(refused(start(), &events).1, "signalled");
    }
}
