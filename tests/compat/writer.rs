//! Writes a store as a fixture: finished and unfinished work of every kind, two openings, and a
//! crash with a torn tail. Needs nothing but the public API: without `managed`, `newer` and `paid`,
//! the code that wrote format 1 ran it too.

use std::path::Path;

use orlop::{Engine, Key, SubmitError, Tenant, wait};

use crate::managed;
use crate::newer;
use crate::pages::Pages;
use crate::paid;
use crate::world::{
    COMPLETES, Double, FAILS, Fill, HANGS, HANGS_BACKWARD, LOCKED, PANICS, Plan, Put, PutNarrow,
    SLEEPS, World, builder,
};

/// Writes a store into `store` and gives it as a crash would leave it, with its outside.
pub(crate) fn write(store: &Path) -> Pages {
    let world = World {
        writing: true,
        ..World::default()
    };
    let engine = builder(store, &world).open_blocking().unwrap();
    finished(&engine);
    engine.blocking().close().unwrap();
    let engine = builder(store, &world).open_blocking().unwrap();
    unfinished(&engine, &world);
    // Half of it is found in the checkpoint, half in the journal after it.
    wait(engine.checkpoint()).unwrap();
    later(&engine, &world);
    newer::write(&engine, &world);
    paid::write(&engine);
    managed::write(&engine);
    // The tables follow the journal; what is copied is what a killed process leaves.
    while engine.snapshot().store.projected < engine.snapshot().store.watermark {
        std::thread::yield_now();
    }
    let mut pages = Pages::read(store);
    pages.tear_tail();
    for (key, name) in &world.state.lock().unwrap().present {
        pages.outside.push((*key, name.clone()));
    }
    // What hangs would hold up a close.
    std::mem::forget(engine);
    pages
}

fn finished(engine: &Engine) {
    let tenant = engine.blocking().tenant("acme").unwrap();
    assert_eq!(wait(tenant.submit(Double, 21_u64)).unwrap().output, 42);
    wait(tenant.submit(Double, 13_u64)).unwrap_err();
    wait(tenant.submit(Fill, 10_000_u32)).unwrap();
    wait(tenant.submit(Put, "put").key(Key::named("put"))).unwrap();
    wait(started(&tenant, "completed", COMPLETES)).unwrap();
    wait(started(&tenant, "compensated", FAILS)).unwrap_err();
    let other = engine.blocking().tenant("other").unwrap();
    wait(other.submit(Fill, 20_000_u32)).unwrap();
    assert_eq!(wait(other.submit(Double, 4_u64)).unwrap().output, 8);
}

fn started(tenant: &Tenant, name: &str, mode: u8) -> orlop::SagaTicket<(u64, u64)> {
    wait(tenant.start::<Plan>(Key::named(name), (name.to_owned(), mode))).unwrap()
}

fn unfinished(engine: &Engine, world: &World) {
    let tenant = engine.blocking().tenant("acme").unwrap();
    let enqueue = |name: &str| {
        let ticket = wait(tenant.enqueue(Put, name).key(Key::named(name))).unwrap();
        // Not withdrawn: it was accepted.
        drop(ticket);
    };
    enqueue("hangs after");
    enqueue("hangs before");
    let unknowable = wait(
        tenant
            .submit(Put, "unknowable")
            .key(Key::named("unknowable")),
    );
    assert!(
        matches!(unknowable, Err(SubmitError::Stuck { .. })),
        "{unknowable:?}"
    );
    for name in ["hangs narrow", "accepted"] {
        drop(wait(tenant.enqueue(PutNarrow, name).key(Key::named(name))).unwrap());
    }
    drop(started(&tenant, "forward", HANGS));
    drop(started(&tenant, "backward", HANGS_BACKWARD));
    wait(started(&tenant, "locked", LOCKED)).unwrap_err();
    wait(started(&tenant, "panicked", PANICS)).unwrap_err();
    let mut sleeps = started(&tenant, "sleeping", SLEEPS);
    let asleep = || world.present().iter().any(|name| name == "sleeping part 1");
    while world.hanging() < 5 || !asleep() {
        std::thread::yield_now();
    }
    // Its sleep is recorded once a later call of the driver is answered.
    let soon = std::time::Duration::from_millis(300);
    assert!(wait(sleeps.wait_for(soon)).is_err());
    assert_eq!(wait(tenant.submit(Double, 100_u64)).unwrap().output, 200);
}

fn later(engine: &Engine, world: &World) {
    let tenant = engine.blocking().tenant("acme").unwrap();
    let name = "hangs before, later";
    drop(wait(tenant.enqueue(Put, name).key(Key::named(name))).unwrap());
    drop(started(&tenant, "later forward", HANGS));
    drop(started(&tenant, "later backward", HANGS_BACKWARD));
    while world.hanging() < 8 {
        std::thread::yield_now();
    }
    wait(started(&tenant, "later completed", COMPLETES)).unwrap();
    assert_eq!(wait(tenant.submit(Double, 101_u64)).unwrap().output, 202);
}
