//! Requests that linger on the wire, and come when nobody wants them any more.

use orlop::tiered::Evict;
use orlop::{Failure, Key, SubmitError, wait};

use crate::outside::Fault;
use crate::support::{World, eviction, name};

const CONTENT: &[u8] = b"four score and seven rows";

#[test]
fn a_put_that_comes_after_the_next_attempt_changes_nothing() {
    for fault in [Fault::Linger, Fault::LoseRequest] {
        let world = World::new();
        let engine = world.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        let name = name("s");
        world.local.put(&tenant, &name, CONTENT);
        world.outside.fail([fault]);
        let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
        let evicted = wait(wait(start).unwrap()).unwrap().output;
        assert_eq!(evicted.object.place, 1, "{fault:?}");
        let late = world.outside.deliver();
        assert!(
            late.iter()
                .all(|late| matches!(late, Err(object_store::Error::AlreadyExists { .. }))),
            "{late:?}"
        );

        let path = world.tiered().path(tenant.id(), &evicted.object);
        assert_eq!(world.outside.segments(), [(path, CONTENT.to_vec())]);
        assert_eq!(world.outside.fences(), [engine.recovery().incarnation]);
        engine.blocking().close().unwrap();
    }
}

#[test]
fn an_attempt_that_a_later_engine_has_given_up_writes_nothing() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.outside.fail([Fault::GiveUp]);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let failed = wait(wait(start).unwrap()).unwrap_err();
    assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
    assert_eq!(world.outside.uploads(), 0);
    assert_eq!(world.outside.segments(), []);
    engine.blocking().close().unwrap();
}

#[test]
fn a_put_that_comes_after_its_undo_does_not_bring_the_segment_back() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.outside.fail([Fault::Linger]);
    // Reconciliation gets no answer, so the put stays in doubt until the saga is cancelled.
    world.outside.lose_tombstones(true);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let ticket = wait(start).unwrap();
    while world.outside.lingering() == 0 {
        std::thread::yield_now();
    }
    wait(ticket.cancel()).unwrap();
    assert_eq!(world.outside.tombstones(), []);
    world.outside.lose_tombstones(false);
    let failed = wait(ticket).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert!(!world.outside.tombstones().is_empty());
    let late = world.outside.deliver();
    assert!(
        matches!(
            late.as_slice(),
            [Err(object_store::Error::AlreadyExists { .. })]
        ),
        "{late:?}"
    );
    assert_eq!(world.outside.segments(), []);
    assert_eq!(world.local.get(&tenant, &name).unwrap(), CONTENT);
    engine.blocking().close().unwrap();
}
