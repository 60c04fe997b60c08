//! The computations one by one: versions, names, what belongs to whom.

use std::sync::Arc;

use object_store::local::LocalFileSystem;
use orlop::tiered::{
    Evict, SegmentDelete, SegmentGet, SegmentName, SegmentPut, SegmentStat, StoredSegment,
    Tombstone,
};
use orlop::{Key, Origin, SubmitError, Tenant, wait};

use crate::outside::Fault;
use crate::support::{World, eviction, name, segment};

fn put(world: &World, tenant: &Tenant, key: &str, content: &[u8]) -> StoredSegment {
    let name = name("s");
    world.local.put(tenant, &name, content);
    let put = tenant.submit(SegmentPut, segment(&name, content));
    wait(put.key(Key::named(key))).unwrap().output
}

fn stat(tenant: &Tenant, stored: &StoredSegment) -> Result<(), SubmitError> {
    let stat = tenant.submit(SegmentStat, stored.clone()).key(Key::fresh());
    wait(stat).map(|reply| reply.output)
}

#[track_caller]
fn failed_with(error: SubmitError, text: &str) {
    match error {
        SubmitError::Failed(failure) if failure.reason().contains(text) => {}
        other => panic!("{other:?} is no failure that says {text:?}"),
    }
}

#[test]
fn a_delete_takes_away_exactly_one_version() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = put(&world, &tenant, "1", b"rows");
    let second = put(&world, &tenant, "2", b"rows");
    assert_ne!(first.object, second.object);
    assert_eq!(world.outside.segments().len(), 2);
    let delete = tenant.submit(SegmentDelete, first.object.clone());
    wait(delete.key(Key::named("d"))).unwrap();
    failed_with(
        stat(&tenant, &first).unwrap_err(),
        "is not in the object store",
    );
    stat(&tenant, &second).unwrap();
    assert_eq!(world.outside.tombstones(), [Tombstone::Removed]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_put_under_one_key_uploads_once() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    world.outside.fail([Fault::LoseReply]);
    let first = put(&world, &tenant, "1", b"rows");
    let name = name("s");
    let again = tenant.submit(SegmentPut, segment(&name, b"rows"));
    let again = wait(again.key(Key::named("1"))).unwrap();
    assert_eq!((again.origin, again.output), (Origin::Replayed, first));
    assert_eq!(world.outside.uploads(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn a_key_whose_attempts_were_used_up_can_be_submitted_again() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, b"rows");
    let submit = || tenant.submit(SegmentPut, segment(&name, b"rows"));
    world.outside.fail([Fault::Linger, Fault::LoseRequest]);
    for _ in 0..2 {
        // An awaited submission makes one attempt, which does not arrive.
        let exhausted = wait(submit().key(Key::named("1"))).unwrap_err();
        assert!(
            matches!(exhausted, SubmitError::Exhausted(_)),
            "{exhausted:?}"
        );
    }
    world.outside.fail([Fault::LoseReply]);
    let stored = wait(submit().key(Key::named("1"))).unwrap().output;
    assert_eq!(stored.object.place, 2);
    let late = world.outside.deliver();
    assert!(
        matches!(
            late.as_slice(),
            [Err(object_store::Error::AlreadyExists { .. })]
        ),
        "{late:?}"
    );
    let path = world.tiered().path(tenant.id(), &stored.object);
    assert_eq!(world.outside.segments(), [(path, b"rows".to_vec())]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_put_whose_version_was_deleted_is_not_made_again_by_a_late_delivery() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    world.outside.fail([Fault::Duplicate]);
    let stored = put(&world, &tenant, "1", b"rows");
    let delete = tenant.submit(SegmentDelete, stored.object.clone());
    wait(delete.key(Key::named("d"))).unwrap();
    let late = world.outside.deliver();
    assert!(
        matches!(
            late.as_slice(),
            [Err(object_store::Error::AlreadyExists { .. })]
        ),
        "{late:?}"
    );
    assert_eq!(world.outside.segments(), []);
    engine.blocking().close().unwrap();
}

#[test]
fn a_delete_whose_reply_is_lost_is_found_to_be_done() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let stored = put(&world, &tenant, "1", b"rows");
    world.outside.lose_tombstone_replies(1);
    let delete = tenant.submit(SegmentDelete, stored.object.clone());
    wait(delete.key(Key::named("d"))).unwrap();
    assert_eq!(world.outside.segments(), []);
    engine.blocking().close().unwrap();
}

#[test]
fn a_segment_comes_back_as_it_went() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let stored = put(&world, &tenant, "1", b"rows");
    let name = name("s");
    world.local.put(&tenant, &name, b"later rows");
    let get = tenant.submit(SegmentGet, stored.clone());
    wait(get.key(Key::named("g"))).unwrap();
    assert_eq!(world.local.get(&tenant, &name).unwrap(), b"rows");
    // What would not be the promised bytes leaves the local copy alone.
    let wrong = StoredSegment {
        digest: orlop::Digest::of(b"later rows"),
        ..stored
    };
    let get = tenant.submit(SegmentGet, wrong);
    failed_with(wait(get.key(Key::named("w"))).unwrap_err(), "holds");
    assert_eq!(world.local.get(&tenant, &name).unwrap(), b"rows");
    engine.blocking().close().unwrap();
}

#[test]
fn a_tenant_does_not_reach_the_version_of_another() {
    let world = World::new();
    let engine = world.open();
    let a = engine.blocking().tenant("a").unwrap();
    let b = engine.blocking().tenant("b").unwrap();
    let stored = put(&world, &a, "1", b"rows of a");
    failed_with(stat(&b, &stored).unwrap_err(), "is not in the object store");
    let get = b.submit(SegmentGet, stored.clone());
    failed_with(
        wait(get.key(Key::named("g"))).unwrap_err(),
        "is not in the object store",
    );
    wait(
        b.submit(SegmentDelete, stored.object.clone())
            .key(Key::named("d")),
    )
    .unwrap();
    stat(&a, &stored).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn content_that_looks_like_a_tombstone_is_not_uploaded() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let stored = put(&world, &tenant, "1", b"rows");
    let delete = tenant.submit(SegmentDelete, stored.object.clone());
    wait(delete.key(Key::named("d"))).unwrap();
    let path = world.tiered().path(tenant.id(), &stored.object);
    let tombstone = wait(world.outside.content(&path));
    let name = name("t");
    world.local.put(&tenant, &name, &tombstone);
    let put = tenant.submit(SegmentPut, segment(&name, &tombstone));
    failed_with(
        wait(put.key(Key::named("t"))).unwrap_err(),
        "begins like a tombstone",
    );
    engine.blocking().close().unwrap();
}

#[test]
fn segments_of_any_name_go_to_a_file_system_and_come_back() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let engine = world.open_on(Arc::new(store));
    let tenant = engine.blocking().tenant("a").unwrap();
    let names: [&[u8]; 9] = [
        b".",
        b"..",
        b"../../escape",
        b"a/b",
        b"line\nbreak",
        b"part#1",
        b"\xff\xfe\x00",
        "\u{1f980}".as_bytes(),
        &[b'%'; 1024],
    ];
    let mut evicted = Vec::new();
    for name in names {
        let content = [b"rows of ", name].concat();
        let name = SegmentName::new(name).unwrap();
        world.local.put(&tenant, &name, &content);
        let start = tenant.start::<Evict>(Key::fresh(), eviction(&name, &content));
        let output = wait(wait(start).unwrap()).unwrap().output;
        assert_eq!(world.local.get(&tenant, &name), None);
        evicted.push((name, content, output));
    }
    for (name, content, evicted) in evicted {
        let get = tenant.submit(SegmentGet, evicted);
        wait(get.key(Key::fresh())).unwrap();
        assert_eq!(world.local.get(&tenant, &name).unwrap(), content);
    }
    engine.blocking().close().unwrap();
}
