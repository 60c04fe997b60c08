//! A wall clock that jumps: what is kept stays kept, and who sleeps wakes.

use orlop::{Engine, Key, Origin};

use crate::chain::{Chain, Link, Plan};
use crate::disks::Shape;
use crate::life::{World, close, tenant_of};
use crate::outside::Put;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Submits one write and starts one saga; how their outcomes came.
fn both(engine: &Engine, name: &str) -> (Origin, Origin) {
    pollster::block_on(async {
        let tenant = tenant_of(engine, 0).await.unwrap();
        let (put, chain) = (format!("put {name}"), format!("chain {name}"));
        let plan = Plan {
            name: chain.clone(),
            before: vec![Link::PUT, Link::Nap],
            after: None,
            gives_up: false,
        };
        let put = tenant.submit(Put, put.clone()).key(Key::named(&put)).await;
        let ticket = tenant.start::<Chain>(Key::named(&chain), plan).await;
        let chain = ticket.unwrap().await;
        (put.unwrap().origin, chain.unwrap().origin)
    })
}

#[test]
fn a_clock_set_ahead_for_good_or_for_a_while_expires_nothing_while_the_store_is_open() {
    let mut world = World::default();
    let engine = world.open(Shape::AMPLE).unwrap();
    assert_eq!(both(&engine, "a"), (Origin::Ran, Origin::Ran));
    world.clock.jump(40 * DAY_MS);
    assert_eq!(both(&engine, "a"), (Origin::Replayed, Origin::Replayed));
    world.clock.set(0);
    assert_eq!(both(&engine, "a"), (Origin::Replayed, Origin::Replayed));
    close(&engine);
}

#[test]
fn what_ends_while_the_clock_is_set_back_is_kept_as_long_as_if_it_were_not() {
    let mut world = World::default();
    let engine = world.open(Shape::AMPLE).unwrap();
    world.clock.jump(-40 * DAY_MS);
    assert_eq!(both(&engine, "a"), (Origin::Ran, Origin::Ran));
    world.clock.set(0);
    assert_eq!(both(&engine, "a"), (Origin::Replayed, Origin::Replayed));
    close(&engine);
    drop(engine);
    let engine = world.open(Shape::AMPLE).unwrap();
    assert_eq!(both(&engine, "a"), (Origin::Replayed, Origin::Replayed));
    close(&engine);
}

#[test]
fn retention_goes_by_the_clock_again_at_the_next_open() {
    let mut world = World::default();
    let engine = world.open(Shape::AMPLE).unwrap();
    assert_eq!(both(&engine, "a"), (Origin::Ran, Origin::Ran));
    close(&engine);
    drop(engine);
    world.clock.jump(DAY_MS / 2);
    let engine = world.open(Shape::AMPLE).unwrap();
    assert_eq!(both(&engine, "a"), (Origin::Replayed, Origin::Replayed));
    close(&engine);
    drop(engine);
    world.clock.jump(DAY_MS);
    let engine = world.open(Shape::AMPLE).unwrap();
    assert_eq!(both(&engine, "a"), (Origin::Ran, Origin::Ran));
    close(&engine);
}
