//! Children in the fold: what may be undone for their parents, and when they are let go.

use super::*;

fn child(path: &str, bond: Bond, undo: bool) -> SagaEvent {
    SagaEvent::Called {
        path: StepPath::root(path).unwrap(),
        intent: CallIntent::Child {
            code: CodeRef::new("saga", 1),
            fingerprint: Fingerprint::of("saga", 1, &Payload::default()),
            fence: fence(1),
            undo: undo.then(|| UndoIntent {
                code: CodeRef::new("delete", 1),
                argument: Payload::default(),
            }),
            bond,
        },
    }
}

fn born(bond: Bond) -> SagaStart {
    SagaStart {
        parent: Some(Parent {
            saga: SagaId::new(1),
            step: StepIndex::new(0),
            depth: 1,
            bond,
        }),
        ..start()
    }
}

fn recall() -> SagaEvent {
    SagaEvent::UnwindingStarted {
        cause: Cause::Recalled,
    }
}

#[test]
fn an_adopted_child_that_is_done_is_undone_in_the_order_of_the_parents_intents() {
    let events = [
        call("a", true),
        child("b", Bond::Adopted, false),
        call("c", true),
        settle(0),
        settle(1),
        settle(2),
        unwind(),
        undo(2),
        undone(2),
    ];
    let state = run(&events).unwrap();
    assert_eq!(state.next_undo(), Some(StepIndex::new(1)));
    let mut early = events.to_vec();
    early.push(undo(0));
    assert_eq!(refused(start(), &early), ("unwinding", "undo-launched"));
}

#[test]
fn a_child_apart_is_undone_only_by_an_undo_of_its_parent() {
    let apart = |undo| run(&[child("a", Bond::Apart, undo), settle(0), unwind()]).unwrap();
    assert_eq!(apart(false).next_undo(), None);
    assert_eq!(apart(true).next_undo(), Some(StepIndex::new(0)));
}

#[test]
fn no_saga_unwinds_pivots_or_completes_over_a_child_that_runs() {
    for event in [unwind(), SagaEvent::Pivoted, completed()] {
        let events = [child("a", Bond::Adopted, false), event];
        assert_eq!(refused(start(), &events).0, "running");
    }
}

#[test]
fn a_child_after_the_pivot_is_not_undone() {
    let events = [SagaEvent::Pivoted, child("a", Bond::Adopted, false)];
    assert_eq!(refused(start(), &events).1, "called with an undo");
    assert!(run(&[SagaEvent::Pivoted, child("a", Bond::Apart, false)]).is_ok());
}

#[test]
fn an_adopted_child_has_no_pivot_and_one_apart_may_have() {
    let pivot = [SagaEvent::Pivoted];
    assert_eq!(refused(born(Bond::Adopted), &pivot).1, "pivoted");
    assert!(run_from(born(Bond::Apart), &pivot).is_ok());
}

#[test]
fn a_child_that_ended_has_no_settlement_before_it_is_released() {
    let id = SagaId::new(2);
    let ended = run_from(born(Bond::Adopted), &[completed()]).unwrap();
    assert!(ended.ended() && !ended.released());
    assert_eq!(ended.settlement(id), None);
    let released = run_from(born(Bond::Adopted), &[completed(), SagaEvent::Released]).unwrap();
    assert!(released.settlement(id).is_some());
    assert_eq!(
        refused(start(), &[completed(), SagaEvent::Released]).1,
        "released"
    );
    assert_eq!(
        refused(born(Bond::Adopted), &[SagaEvent::Released]).1,
        "released"
    );
}

#[test]
fn an_adopted_child_that_completed_is_recalled_until_it_is_released() {
    let events = [
        call("a", true),
        settle(0),
        completed(),
        recall(),
        undo(0),
        undone(0),
    ];
    let mut all = events.to_vec();
    all.extend([compensated(), SagaEvent::Released]);
    let state = run_from(born(Bond::Adopted), &all).unwrap();
    let settlement = state.settlement(SagaId::new(2)).unwrap();
    let failure = crate::outcome::Failure::permanent("its parent unwound");
    assert_eq!(settlement.outcome, crate::outcome::Outcome::Failed(failure));
    let released = [completed(), SagaEvent::Released, recall()];
    assert_eq!(refused(born(Bond::Adopted), &released).1, "unwound");
    assert_eq!(
        refused(born(Bond::Apart), &[completed(), recall()]).1,
        "unwound"
    );
    assert_eq!(refused(start(), &[completed(), recall()]).1, "unwound");
    assert_eq!(refused(born(Bond::Adopted), &[recall()]).1, "unwound");
}
