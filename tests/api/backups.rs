//! Backups of an engine that works, and what comes of the outside when one is opened.

use std::path::Path;
use std::time::Duration;

use orlop::{
    Engine, EngineBuilder, Key, OpenError, Origin, RestoreOptions, Saga, SagaContext, SagaError,
    StoreOpenError, SubmitError, clone_store, restore, verify_backup, wait,
};

use crate::support::{Double, Put, Remove, World};

/// Puts one name, sleeps for long, and puts another.
struct Slow;

impl Saga for Slow {
    const NAME: &'static str = "slow";
    type Input = String;
    type Output = u64;

    async fn run(&self, saga: SagaContext, name: String) -> Result<u64, SagaError> {
        let one = format!("{name} one");
        saga.step("one", Put, one.clone()).undo(Remove, one).await?;
        saga.sleep("long", Duration::from_hours(24)).await?;
        Ok(saga.step("two", Put, format!("{name} two")).await?)
    }
}

fn builder(world: &World, store: &Path) -> EngineBuilder {
    Engine::builder(store)
        .pure(Double, world.doubler.clone())
        .external(Put, world.outside.clone())
        .undo(Remove, world.outside.clone())
        .saga(Slow)
}

/// An engine with a sleeping saga, outcomes, and a backup in `backup`.
fn backed_up(world: &World) -> Engine {
    let path = world.folder.path();
    let engine = builder(world, &path.join("store")).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    wait(tenant.submit(Put, "before").key(Key::named("before"))).unwrap();
    assert_eq!(wait(tenant.submit(Double, 4_u64)).unwrap().output, 8);
    drop(wait(tenant.start::<Slow>(Key::named("slow"), "slow")).unwrap());
    while !world.outside.present().contains(&"slow one".to_owned()) {
        std::thread::yield_now();
    }
    let backup = engine.blocking().backup(path.join("backup")).unwrap();
    assert_eq!(verify_backup(path.join("backup")).unwrap(), backup);
    engine
}

#[test]
fn what_the_original_did_after_the_backup_is_asked_about_and_not_done_again() {
    let world = World::new();
    let path = world.folder.path();
    let engine = backed_up(&world);
    let tenant = engine.blocking().tenant("a").unwrap();
    wait(tenant.submit(Put, "after").key(Key::named("after"))).unwrap();
    let original = engine.recovery().incarnation;
    engine.blocking().close().unwrap();
    let restored = restore(
        path.join("backup"),
        path.join("new"),
        RestoreOptions::default(),
    );
    assert_eq!(restored.unwrap().store, engine.recovery().store_id);
    let engine = builder(&world, &path.join("new")).open_blocking().unwrap();
    assert!(engine.recovery().incarnation > original);
    assert_eq!(engine.recovery().sagas, 1);
    let tenant = engine.blocking().tenant("a").unwrap();
    let before = wait(tenant.submit(Put, "before").key(Key::named("before"))).unwrap();
    assert_eq!(before.origin, Origin::Replayed);
    // The restored store knows nothing of it; the outside does.
    let after = wait(tenant.submit(Put, "after").key(Key::named("after"))).unwrap();
    assert_eq!((after.output, after.origin), (5, Origin::Ran));
    let runs = || world.outside.state.lock().unwrap().runs.clone();
    let of_after = runs().iter().filter(|name| *name == "after").count();
    assert_eq!(of_after, 1, "it was run again");
    // What the outside does not have is run.
    wait(tenant.submit(Put, "new").key(Key::named("new"))).unwrap();
    assert!(runs().contains(&"new".to_owned()));
    // The saga goes on, and can be unwound.
    let manager = wait(engine.manage("a")).unwrap();
    wait(manager.cancel_saga(Key::named("slow"))).unwrap();
    let slow = wait(tenant.start::<Slow>(Key::named("slow"), "slow")).unwrap();
    wait(slow).unwrap_err();
    assert!(!world.outside.present().contains(&"slow one".to_owned()));
    engine.blocking().close().unwrap();
}

#[test]
fn a_clone_beside_its_original_leaves_the_outside_alone_until_an_operator_says_otherwise() {
    let world = World::new();
    let path = world.folder.path();
    let original = backed_up(&world);
    let options = RestoreOptions::default();
    let cloned = clone_store(path.join("backup"), path.join("clone"), options).unwrap();
    assert_ne!(cloned.store, original.recovery().store_id);
    let clone = builder(&world, &path.join("clone"))
        .open_blocking()
        .unwrap();
    let tenant = clone.blocking().tenant("a").unwrap();
    let reply = wait(tenant.submit(Double, 4_u64)).unwrap();
    assert_eq!(reply.origin, Origin::Replayed);
    let slow = wait(tenant.start::<Slow>(Key::named("slow"), "slow")).unwrap();
    match wait(slow).unwrap_err() {
        SubmitError::Stuck { reason, .. } => {
            let id = original.recovery().store_id.to_string();
            assert!(reason.contains(&id), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    clone.blocking().close().unwrap();
    assert!(world.outside.present().contains(&"slow one".to_owned()));
    original.blocking().close().unwrap();
}

#[test]
fn a_backup_does_not_open_as_a_store() {
    let world = World::new();
    let engine = backed_up(&world);
    engine.blocking().close().unwrap();
    let refused = builder(&world, &world.folder.path().join("backup")).open_blocking();
    match refused {
        Err(OpenError::Store(StoreOpenError::Folder(error))) => {
            assert!(error.to_string().contains("is not a store"), "{error}");
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it opened"),
    }
}
