//! Sagas: steps, undo, pivot, cancel, replay.

use std::time::Duration;

use orlop::{CancelError, Failure, Key, Saga, SagaContext, SagaError, SubmitError, wait};

use crate::support::{Double, Put, Remove, World};

/// Puts three names, the last one after a pivot.
struct Three;

impl Saga for Three {
    const NAME: &'static str = "three";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        let doubled = saga.step("double", Double, input).await?;
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.step("two", Put, "two").undo(Remove, "two").await?;
        let saga = saga.pivot().await?;
        saga.step("three", Put, "three").await?;
        Ok(doubled)
    }
}

/// Sleeps between two steps, for cancels.
struct Sleeper;

impl Saga for Sleeper {
    const NAME: &'static str = "sleeper";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.sleep("nap", Duration::from_hours(1)).await?;
        Ok(())
    }
}

#[test]
fn a_saga_runs_its_steps_once_and_replays_its_outcome() {
    let world = World::new();
    let engine = world.builder().saga(Three).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("s");
    let ticket = wait(tenant.start::<Three>(key, 5_u64)).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 10);
    let again = wait(tenant.start::<Three>(key, 5_u64)).unwrap();
    assert_eq!(wait(again).unwrap().output, 10);
    assert_eq!(world.outside.ledger(), ["put one", "put two", "put three"]);
    let conflict = wait(tenant.start::<Three>(key, 6_u64)).unwrap_err();
    assert_eq!(conflict, SubmitError::Conflict { key });
    engine.blocking().close().unwrap();
}

#[test]
fn a_failed_step_unwinds_newest_first() {
    let world = World::new();
    let engine = world.builder().saga(Three).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    world.outside.fail("two", [Failure::permanent("refused")]);
    let ticket = wait(tenant.start::<Three>(Key::named("s"), 5_u64)).unwrap();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(
        failed,
        SubmitError::Failed(Failure::permanent("step two failed: refused"))
    );
    assert_eq!(world.outside.ledger(), ["put one", "remove one"]);
    assert_eq!(engine.snapshot().sagas, 0);
    engine.blocking().close().unwrap();
}

#[test]
fn a_failure_after_the_pivot_is_stuck_and_undoes_nothing() {
    let world = World::new();
    let engine = world.builder().saga(Three).open_blocking().unwrap();
    let manager = wait(async { engine.manage("a").await }).unwrap();
    let tenant = manager.tenant();
    world.outside.fail("three", [Failure::permanent("refused")]);
    let key = Key::named("s");
    let ticket = wait(tenant.start::<Three>(key, 5_u64)).unwrap();
    let stuck = wait(ticket).unwrap_err();
    assert!(matches!(stuck, SubmitError::Stuck { .. }), "{stuck:?}");
    assert_eq!(world.outside.present(), ["one", "two"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_cancelled_saga_is_compensated_also_when_the_process_restarts_first() {
    let world = World::new();
    let key = Key::named("s");
    {
        let engine = world.builder().saga(Sleeper).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let mut ticket = wait(tenant.start::<Sleeper>(key, ())).unwrap();
        while world.outside.ledger().is_empty() {
            let pending = wait(ticket.wait_for(Duration::from_millis(5))).unwrap_err();
            assert_eq!(pending, SubmitError::Expired);
        }
        engine.blocking().close().unwrap();
    }
    // Replayed without its definition, a saga still unwinds; with it, it sleeps on.
    let engine = world.builder().saga(Sleeper).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(engine.recovery().sagas, 1);
    let ticket = wait(tenant.start::<Sleeper>(key, ())).unwrap();
    wait(ticket.cancel()).unwrap();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert_eq!(world.outside.ledger(), ["put one", "remove one"]);
    let late = wait(tenant.start::<Sleeper>(key, ())).unwrap();
    assert_eq!(wait(late.cancel()).unwrap_err(), CancelError::Ended);
    engine.blocking().close().unwrap();
}

#[test]
fn a_stuck_saga_still_gives_a_ticket_and_a_cancel_unwinds_a_paused_one_without_its_code() {
    let world = World::new();
    let key = Key::named("s");
    {
        let engine = world.builder().saga(Sleeper).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let mut ticket = wait(tenant.start::<Sleeper>(key, ())).unwrap();
        while world.outside.ledger().is_empty() {
            let pending = wait(ticket.wait_for(Duration::from_millis(5))).unwrap_err();
            assert_eq!(pending, SubmitError::Expired);
        }
        engine.blocking().close().unwrap();
    }
    let engine = world.builder().saga(Renamed).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Renamed>(key, ())).unwrap();
    let mut again = wait(tenant.start::<Renamed>(key, ())).unwrap();
    let stuck = wait(again.wait_for(Duration::from_mins(1))).unwrap_err();
    assert!(
        matches!(&stuck, SubmitError::Stuck { reason, .. } if reason.contains("definition")),
        "{stuck:?}"
    );
    wait(ticket.cancel()).unwrap();
    let after = wait(tenant.start::<Renamed>(key, ())).unwrap();
    let failed = wait(after).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert_eq!(world.outside.ledger(), ["put one", "remove one"]);
    engine.blocking().close().unwrap();
}

/// [`Sleeper`] in its next version.
struct Renamed;

impl Saga for Renamed {
    const NAME: &'static str = Sleeper::NAME;
    const VERSION: u32 = 2;
    type Input = ();
    type Output = ();

    async fn run(&self, _saga: SagaContext, (): ()) -> Result<(), SagaError> {
        Ok(())
    }
}
