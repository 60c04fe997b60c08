//! The eviction saga: all the way, or not at all.

use orlop::tiered::{Evict, EvictionRollback, Tombstone};
use orlop::{CancelError, Failure, Key, Origin, SubmitError, wait};

use crate::outside::Fault;
use crate::support::{World, eviction, name};

const CONTENT: &[u8] = b"four score and seven rows";

/// Evicts one segment under a fault and gives the failure; the world is as it was before.
fn compensated(world: &World, fault: Fault) -> Failure {
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.outside.fail([fault]);
    let ticket = wait(tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT))).unwrap();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(world.local.get(&tenant, &name).unwrap(), CONTENT);
    assert_eq!(world.outside.segments(), []);
    engine.blocking().close().unwrap();
    match failed {
        SubmitError::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_evicted_segment_is_in_the_object_store_and_nowhere_else() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    let start = || tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let reply = wait(wait(start()).unwrap()).unwrap();
    let evicted = reply.output;
    assert_eq!(evicted.digest.as_bytes(), blake3::hash(CONTENT).as_bytes());
    assert_eq!(evicted.length, CONTENT.len() as u64);
    let path = world.tiered().path(tenant.id(), &evicted.object);
    assert_eq!(world.outside.segments(), [(path, CONTENT.to_vec())]);
    assert_eq!(world.local.get(&tenant, &name), None);
    let again = wait(wait(start()).unwrap()).unwrap();
    assert_eq!(again.origin, Origin::Replayed);
    assert_eq!(again.output, evicted);
    assert_eq!(world.outside.uploads(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn a_refused_upload_leaves_the_segment_where_it_was() {
    let world = World::new();
    let failure = compensated(&world, Fault::Refuse);
    assert!(failure.reason().contains("step upload failed"), "{failure}");
    assert!(failure.reason().contains("read only"), "{failure}");
    assert_eq!(world.outside.tombstones(), []);
}

#[test]
fn an_upload_that_reads_back_as_something_else_is_taken_away_again() {
    let world = World::new();
    let failure = compensated(&world, Fault::Corrupt);
    assert!(failure.reason().contains("step verify failed"), "{failure}");
    assert_eq!(world.outside.tombstones(), [Tombstone::Removed]);
    // A second delivery of the request, with the right bytes this time, comes too late.
    let late = world.outside.deliver();
    assert!(
        matches!(
            late.as_slice(),
            [Err(object_store::Error::AlreadyExists { .. })]
        ),
        "{late:?}"
    );
    assert_eq!(world.outside.segments(), []);
}

#[test]
fn an_upload_whose_reply_is_lost_is_found_and_not_repeated() {
    for fault in [Fault::LoseReply, Fault::Repeat] {
        let world = World::new();
        let engine = world.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        let name = name("s");
        world.local.put(&tenant, &name, CONTENT);
        world.outside.fail([fault]);
        let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
        let evicted = wait(wait(start).unwrap()).unwrap().output;
        assert_eq!(evicted.object.place, 0, "{fault:?}");
        assert_eq!(world.outside.uploads(), 1, "{fault:?}");
        assert_eq!(world.outside.segments().len(), 1, "{fault:?}");
        assert_eq!(world.local.get(&tenant, &name), None, "{fault:?}");
        engine.blocking().close().unwrap();
    }
}

#[test]
fn a_spoilt_upload_that_nobody_heard_of_is_replaced_by_a_good_one() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.outside.fail([Fault::Spoil]);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let evicted = wait(wait(start).unwrap()).unwrap().output;
    let path = world.tiered().path(tenant.id(), &evicted.object);
    assert_eq!(world.outside.segments(), [(path, CONTENT.to_vec())]);
    assert_eq!(world.outside.fences(), [engine.recovery().incarnation]);
    engine.blocking().close().unwrap();
}

#[test]
fn fences_and_undos_whose_replies_are_lost_are_repeated_without_harm() {
    let world = World::new();
    world.outside.lose_tombstone_replies(2);
    let failure = compensated(&world, Fault::Corrupt);
    assert!(failure.reason().contains("step verify failed"), "{failure}");
    world.outside.lose_tombstone_replies(2);
    world.outside.fail([Fault::LoseRequest]);
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let start = tenant.start::<Evict>(Key::named("again"), eviction(&name("s"), CONTENT));
    wait(wait(start).unwrap()).unwrap();
    assert_eq!(world.outside.segments().len(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn a_cancel_before_the_pivot_takes_the_upload_away() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.outside.fail([Fault::Wait]);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let ticket = wait(start).unwrap();
    while world.outside.lingering() == 0 {
        std::thread::yield_now();
    }
    wait(ticket.cancel()).unwrap();
    world.outside.open_gate();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert_eq!(world.outside.uploads(), 1);
    assert_eq!(world.outside.segments(), []);
    assert_eq!(world.outside.tombstones(), [Tombstone::Removed]);
    assert_eq!(world.local.get(&tenant, &name).unwrap(), CONTENT);
    engine.blocking().close().unwrap();
}

#[test]
fn a_cancel_after_the_pivot_is_refused_and_the_eviction_completes() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.local.close_gate();
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let ticket = wait(start).unwrap();
    world.local.wait_for_removal();
    let refused = wait(ticket.cancel()).unwrap_err();
    let required = CancelError::RollbackRequired {
        counter: Some("eviction_rollback".into()),
    };
    assert_eq!(refused, required);
    world.local.open_gate();
    wait(ticket).unwrap();
    assert_eq!(world.outside.segments().len(), 1);
    assert_eq!(world.local.get(&tenant, &name), None);
    engine.blocking().close().unwrap();
}

#[test]
fn an_eviction_that_is_rolled_back_leaves_the_segment_where_it_was() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    wait(wait(start).unwrap()).unwrap();
    for _ in 0..2 {
        let back = tenant.roll_back::<Evict, EvictionRollback>(Key::named("e"));
        wait(wait(back).unwrap()).unwrap();
        assert_eq!(world.local.get(&tenant, &name).as_deref(), Some(CONTENT));
        assert_eq!(world.outside.segments().len(), 0);
    }
    engine.blocking().close().unwrap();
}

#[test]
fn an_eviction_is_not_rolled_back_over_what_has_its_name_by_now() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    wait(wait(start).unwrap()).unwrap();
    world.local.put(&tenant, &name, b"of the next epoch");
    let back = tenant.roll_back::<Evict, EvictionRollback>(Key::named("e"));
    match wait(wait(back).unwrap()) {
        Err(SubmitError::Failed(failure)) => {
            let reason = failure.reason();
            assert!(reason.contains("the local copy of s is"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let local = world.local.get(&tenant, &name);
    assert_eq!(local.as_deref(), Some(&b"of the next epoch"[..]));
    assert_eq!(world.outside.segments().len(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn a_local_copy_that_is_not_what_was_digested_is_neither_uploaded_nor_removed() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, b"other rows");
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let failed = wait(wait(start).unwrap()).unwrap_err();
    assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
    assert_eq!(world.outside.uploads(), 0);
    assert_eq!(world.local.get(&tenant, &name).unwrap(), b"other rows");
    engine.blocking().close().unwrap();
}

#[test]
fn a_local_copy_that_changes_during_the_eviction_is_not_removed() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    world.outside.fail([Fault::Wait]);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let ticket = wait(start).unwrap();
    while world.outside.lingering() == 0 {
        std::thread::yield_now();
    }
    world.local.put(&tenant, &name, b"other rows");
    world.outside.open_gate();
    let stuck = wait(ticket).unwrap_err();
    assert!(matches!(stuck, SubmitError::Stuck { .. }), "{stuck:?}");
    assert_eq!(world.local.get(&tenant, &name).unwrap(), b"other rows");
    assert_eq!(world.outside.segments().len(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn an_eviction_after_a_compensated_one_uploads_again() {
    let world = World::new();
    compensated(&world, Fault::Corrupt);
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    // The key of the compensated run stands for its failure.
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    assert!(matches!(
        wait(wait(start).unwrap()).unwrap_err(),
        SubmitError::Failed(_)
    ));
    assert_eq!(world.outside.segments(), []);
    let start = tenant.start::<Evict>(Key::named("e again"), eviction(&name, CONTENT));
    wait(wait(start).unwrap()).unwrap();
    assert_eq!(world.outside.uploads(), 2);
    assert_eq!(world.outside.segments().len(), 1);
    assert_eq!(world.local.get(&tenant, &name), None);
    engine.blocking().close().unwrap();
}

#[test]
fn two_tenants_evict_segments_of_one_name_without_touching_each_other() {
    let world = World::new();
    let engine = world.open();
    let name = name("s");
    let mut contents = Vec::new();
    for (label, content) in [("a", &b"rows of a"[..]), ("b", b"rows of b")] {
        let tenant = engine.blocking().tenant(label).unwrap();
        world.local.put(&tenant, &name, content);
        let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, content));
        let evicted = wait(wait(start).unwrap()).unwrap().output;
        let path = world.tiered().path(tenant.id(), &evicted.object);
        contents.push((path, content.to_vec()));
    }
    contents.sort();
    let mut segments = world.outside.segments();
    segments.sort();
    assert_eq!(segments, contents);
    engine.blocking().close().unwrap();
}
