//! Plain effects: the key table, durability, tenants.

use orlop::{Blake3, Crc32c, Digest, Failure, Key, Noop, Origin, SubmitError, wait};

use crate::support::{Double, Put, World};

#[test]
fn equal_pure_submissions_run_once_and_replay_also_after_a_restart() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = wait(tenant.submit(Double, 21_u64)).unwrap();
    assert_eq!((first.output, first.origin), (42, Origin::Ran));
    let second = wait(tenant.submit(Double, 21_u64)).unwrap();
    assert_eq!((second.output, second.origin), (42, Origin::Replayed));
    engine.blocking().close().unwrap();
    drop((engine, tenant));

    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let third = wait(tenant.submit(Double, 21_u64)).unwrap();
    assert_eq!((third.output, third.origin), (42, Origin::Replayed));
    assert_eq!(*world.doubler.runs.lock().unwrap(), [21]);
    let other = engine.blocking().tenant("b").unwrap();
    let theirs = wait(other.submit(Double, 21_u64)).unwrap();
    assert_eq!(
        theirs.origin,
        Origin::Ran,
        "another tenant's key is simply unknown"
    );
    engine.blocking().close().unwrap();
}

#[test]
fn a_key_that_stands_for_something_else_is_a_conflict_in_flight_and_done() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("k");
    wait(tenant.submit(Double, 1_u64).key(key)).unwrap();
    let conflict = wait(tenant.submit(Double, 2_u64).key(key)).unwrap_err();
    assert_eq!(conflict, SubmitError::Conflict { key });
    engine.blocking().close().unwrap();
}

#[test]
fn a_permanent_failure_is_replayed_and_not_tried_again() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let failed = SubmitError::Failed(Failure::permanent("thirteen is not doubled"));
    assert_eq!(wait(tenant.submit(Double, 13_u64)).unwrap_err(), failed);
    assert_eq!(wait(tenant.submit(Double, 13_u64)).unwrap_err(), failed);
    assert_eq!(*world.doubler.runs.lock().unwrap(), [13]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_retryable_failure_leaves_the_key_unknown() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    world.outside.fail("x", [Failure::retryable("busy")]);
    let key = Key::named("x");
    let failed = wait(tenant.submit(Put, "x").key(key)).unwrap_err();
    assert_eq!(failed, SubmitError::Exhausted(Failure::retryable("busy")));
    let done = wait(tenant.submit(Put, "x").key(key)).unwrap();
    assert_eq!((done.output, done.origin), (1, Origin::Ran));
    engine.blocking().close().unwrap();
}

#[test]
fn an_external_effect_in_doubt_is_reconciled_and_not_done_twice() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    world.outside.fail("y", [Failure::in_doubt("no reply")]);
    let done = wait(tenant.enqueue(Put, "y").key(Key::named("y"))).unwrap();
    assert_eq!(wait(done).unwrap().output, 1);
    assert_eq!(world.outside.ledger(), ["put y"]);
    engine.blocking().close().unwrap();
}

#[test]
fn the_device_agrees_with_the_crates_on_inline_bytes_and_buffers() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let buffer = tenant.buffer(&bytes).unwrap();
    let digest = wait(tenant.submit(Blake3, &buffer)).unwrap().output;
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(
        wait(tenant.submit(Crc32c, "123456789")).unwrap().output,
        0xe306_9283
    );
    wait(tenant.submit(Noop, 7_u64).ephemeral()).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn a_batch_has_an_outcome_for_every_item() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let inputs = (0..300_u64).map(|i| i % 100);
    let replies = wait(tenant.submit_batch(Noop, inputs)).unwrap();
    let ran = replies
        .iter()
        .filter(|r| r.as_ref().unwrap().origin == Origin::Ran)
        .count();
    assert_eq!((replies.len(), ran), (300, 100));
    engine.blocking().close().unwrap();
}

#[test]
fn a_ticket_can_be_asked_again_after_it_answered() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.enqueue(Double, 4_u64)).unwrap();
    let patience = std::time::Duration::from_mins(1);
    let first = wait(ticket.wait_for(patience)).unwrap();
    let second = wait(ticket.wait_for(patience)).unwrap();
    assert_eq!(first, second);
    assert_eq!(wait(ticket).unwrap().output, 8);
    engine.blocking().close().unwrap();
}
