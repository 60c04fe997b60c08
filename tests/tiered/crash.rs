//! Processes that end in the middle of an eviction.

use orlop::tiered::Evict;
use orlop::{Key, wait};

use crate::outside::Fault;
use crate::support::{World, eviction, name};

const CONTENT: &[u8] = b"four score and seven rows";

/// Ends an engine while its upload is on the wire, without closing it, and gives the next one.
fn restarted_mid_upload(world: &World) -> (orlop::Engine, orlop::Tenant) {
    let name = name("s");
    {
        let engine = world.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        world.local.put(&tenant, &name, CONTENT);
        world.outside.fail([Fault::Wait]);
        let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
        let ticket = wait(start).unwrap();
        while world.outside.lingering() == 0 {
            std::thread::yield_now();
        }
        drop(ticket);
    }
    let engine = world.open_after_drop();
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(engine.recovery().sagas, 1);
    (engine, tenant)
}

#[test]
fn an_upload_that_a_crash_cut_off_is_made_by_the_next_process() {
    let world = World::new();
    let (engine, tenant) = restarted_mid_upload(&world);
    let name = name("s");
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let evicted = wait(wait(start).unwrap()).unwrap().output;
    let late = world.outside.deliver();
    assert!(
        matches!(
            late.as_slice(),
            [Err(object_store::Error::AlreadyExists { .. })]
        ),
        "{late:?}"
    );
    let path = world.tiered().path(tenant.id(), &evicted.object);
    assert_eq!(world.outside.segments(), [(path, CONTENT.to_vec())]);
    assert_eq!(world.outside.uploads(), 1);
    assert_eq!(world.outside.fences(), [engine.recovery().incarnation]);
    assert_eq!(world.local.get(&tenant, &name), None);
    engine.blocking().close().unwrap();
}

#[test]
fn an_upload_that_landed_as_the_process_died_is_found_and_not_repeated() {
    let world = World::new();
    {
        let engine = world.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        world.local.put(&tenant, &name("s"), CONTENT);
        world.outside.fail([Fault::LoseReply]);
        // Nobody answers the questions of the first process.
        world.outside.lose_tombstones(true);
        let start = tenant.start::<Evict>(Key::named("e"), eviction(&name("s"), CONTENT));
        let ticket = wait(start).unwrap();
        while world.outside.uploads() == 0 {
            std::thread::yield_now();
        }
        drop(ticket);
    }
    let engine = world.open_after_drop();
    world.outside.lose_tombstones(false);
    let tenant = engine.blocking().tenant("a").unwrap();
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name("s"), CONTENT));
    let evicted = wait(wait(start).unwrap()).unwrap().output;
    assert_eq!(evicted.object.place, 0);
    assert_eq!(world.outside.uploads(), 1);
    assert_eq!(world.outside.segments().len(), 1);
    engine.blocking().close().unwrap();
}
