//! Counter-sagas: what a saga did after its pivot is taken back by another one, once.

use std::sync::Arc;
use std::time::Duration;

use orlop::{
    CancelError, Clock, CounterSaga, Engine, Failure, Key, Origin, Original, RollBackError, Saga,
    SagaContext, SagaError, StatusKind, SubmitError, wait,
};

use crate::starts::SetClock;
use crate::support::{Put, Remove, World};

/// Puts two names, the second one after the pivot.
struct Publish;

impl Saga for Publish {
    const NAME: &'static str = "publish";
    const RETENTION: Duration = Duration::from_hours(1);
    type Input = String;
    type Output = u64;

    async fn run(&self, saga: SagaContext, name: String) -> Result<u64, SagaError> {
        saga.step("stage", Put, "staged")
            .undo(Remove, "staged")
            .await?;
        let saga = saga.pivot().await?;
        Ok(saga.step("publish", Put, name).await?)
    }
}

/// Puts a name that says what was taken back.
struct Retract;

impl CounterSaga<Publish> for Retract {
    fn input(original: Original<Publish>) -> Option<String> {
        match (original.input.as_str(), original.output) {
            ("for ever", _) => None,
            (name, Some(length)) => Some(format!("-{name} {length}")),
            (name, None) => Some(format!("-{name}")),
        }
    }
}

impl Saga for Retract {
    const NAME: &'static str = "retract";
    const RETENTION: Duration = Duration::from_hours(1000);
    type Input = String;
    type Output = ();

    async fn run(&self, saga: SagaContext, name: String) -> Result<(), SagaError> {
        saga.step("retract", Put, name).await?;
        Ok(())
    }
}

fn open(world: &World) -> Engine {
    let builder = world.builder().saga_with_counter(Publish, Retract);
    builder.open_blocking().unwrap()
}

fn required() -> CancelError {
    CancelError::RollbackRequired {
        counter: Some("retract".into()),
    }
}

#[test]
fn a_cancel_after_the_pivot_and_after_the_end_names_the_counter_saga_which_runs_once() {
    let world = World::new();
    let engine = open(&world);
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let key = Key::named("p");
    world.outside.fail("news", [Failure::permanent("refused")]);
    let ticket = wait(tenant.start::<Publish>(key, "news")).unwrap();
    let saga = ticket.id().unwrap();
    let told = wait(ticket).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    assert_eq!(wait(manager.cancel_saga(key)), Err(required()));
    let early = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap_err();
    assert_eq!(early, RollBackError::NotEnded(StatusKind::Stuck));
    let step = orlop::StepPath::root("publish").unwrap();
    wait(manager.operator().retry(saga, step)).unwrap();
    let ended = wait(tenant.start::<Publish>(key, "news")).unwrap();
    assert_eq!(wait(ended).unwrap().output, 4);
    assert_eq!(wait(manager.cancel_saga(key)), Err(required()));
    for _ in 0..2 {
        let back = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap();
        wait(back).unwrap();
    }
    let ledger = ["put staged", "put news", "put -news 4"];
    assert_eq!(world.outside.ledger(), ledger);
    engine.blocking().close().unwrap();
    // The same after a restart, from what the tables keep.
    let engine = open(&world);
    let manager = wait(engine.manage("a")).unwrap();
    assert_eq!(wait(manager.cancel_saga(key)), Err(required()));
    let back = wait(manager.tenant().roll_back::<Publish, Retract>(key)).unwrap();
    wait(back).unwrap();
    assert_eq!(world.outside.ledger(), ledger);
    engine.blocking().close().unwrap();
}

#[test]
fn an_abandoned_saga_is_taken_back_without_its_output_if_it_had_passed_its_pivot() {
    let world = World::new();
    let engine = open(&world);
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let key = Key::named("p");
    world.outside.fail("news", [Failure::permanent("refused")]);
    let ticket = wait(tenant.start::<Publish>(key, "news")).unwrap();
    let saga = ticket.id().unwrap();
    wait(ticket).unwrap_err();
    wait(manager.operator().abandon(saga, "no use")).unwrap();
    let back = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap();
    wait(back).unwrap();
    assert_eq!(world.outside.ledger(), ["put staged", "put -news"]);
    engine.blocking().close().unwrap();
}

#[test]
fn what_cannot_be_taken_back_is_said_so() {
    let world = World::new();
    let engine = open(&world);
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("p");
    let unknown = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap_err();
    assert_eq!(unknown, RollBackError::Unknown { key });
    world
        .outside
        .fail("staged", [Failure::permanent("refused")]);
    let failed = wait(tenant.start::<Publish>(key, "news")).unwrap();
    wait(failed).unwrap_err();
    let nothing = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap_err();
    assert_eq!(nothing, RollBackError::Nothing);
    let key = Key::named("q");
    wait(wait(tenant.start::<Publish>(key, "for ever")).unwrap()).unwrap();
    let declined = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap_err();
    assert_eq!(declined, RollBackError::Declined);
    let other = engine.blocking().tenant("b").unwrap();
    let foreign = wait(other.roll_back::<Publish, Retract>(key)).unwrap_err();
    assert_eq!(foreign, RollBackError::Unknown { key });
    engine.blocking().close().unwrap();
}

#[test]
fn a_second_run_under_the_key_of_one_that_was_taken_back_is_taken_back_as_well() {
    let world = World::new();
    let clock = Arc::new(SetClock::default());
    let key = Key::named("p");
    for _ in 0..2 {
        let builder = world.builder().clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let builder = builder.saga_with_counter(Publish, Retract);
        let engine = builder.open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let ended = wait(wait(tenant.start::<Publish>(key, "news")).unwrap()).unwrap();
        assert_eq!(ended.origin, Origin::Ran);
        let back = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap();
        wait(back).unwrap();
        engine.blocking().close().unwrap();
        clock.jump(2 * 3_600_000);
    }
    let once = ["put staged", "put news", "put -news 4"];
    assert_eq!(world.outside.ledger(), [once, once].concat());
}

#[test]
fn a_saga_whose_code_is_gone_is_taken_back_and_never_started_again() {
    let world = World::new();
    let key = Key::named("p");
    let engine = open(&world);
    let tenant = engine.blocking().tenant("a").unwrap();
    wait(wait(tenant.start::<Publish>(key, "news")).unwrap()).unwrap();
    engine.blocking().close().unwrap();
    let engine = world.builder().saga(Retract).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let back = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap();
    wait(back).unwrap();
    assert_eq!(world.outside.ledger().last().unwrap(), "put -news 4");
    engine.blocking().close().unwrap();
}
