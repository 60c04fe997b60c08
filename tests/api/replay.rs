//! Replay: a saga's function is run again from its beginning and must do the same again.

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orlop::{
    CancelError, Clock, EngineBuilder, Failure, ForwardContext, Key, Monotonic, Saga, SagaContext,
    SagaError, StepError, SubmitError, SystemClock, Tenant, WallMillis, wait,
};

use crate::gate::{Gate, Pass, open_after_drop};
use crate::support::{Double, Put, Remove, World};

/// What a function does, given what tests share with it.
type Play = fn(SagaContext, Shared) -> std::pin::Pin<Box<dyn Future<Output = Played> + Send>>;
type Played = Result<Vec<u64>, SagaError>;

/// What a test's function and the test both see.
#[derive(Clone, Default)]
struct Shared {
    /// How often the function began.
    plays: Arc<AtomicU64>,
    /// What it was told.
    told: Arc<Mutex<Vec<u64>>>,
}

/// Any function as a saga, in version `V`.
struct Any<const V: u32> {
    play: Play,
    shared: Shared,
}

impl<const V: u32> Saga for Any<V> {
    const NAME: &'static str = "any";
    const VERSION: u32 = V;
    type Input = ();
    type Output = Vec<u64>;

    async fn run(&self, saga: SagaContext, (): ()) -> Played {
        self.shared.plays.fetch_add(1, Ordering::SeqCst);
        (self.play)(saga, self.shared.clone()).await
    }
}

/// A world with a gate and a saga.
struct Stage {
    world: World,
    gate: Gate,
    shared: Shared,
}

impl Stage {
    fn new() -> Self {
        Self {
            world: World::new(),
            gate: Gate::new(),
            shared: Shared::default(),
        }
    }

    fn without_saga(&self) -> EngineBuilder {
        self.world
            .builder()
            .options(Gate::options())
            .pure(Pass, self.gate.clone())
    }

    fn builder<const V: u32>(&self, play: Play) -> EngineBuilder {
        let shared = self.shared.clone();
        self.without_saga().saga(Any::<V> { play, shared })
    }

    /// Starts the saga in one process, which is dropped once the gate is reached.
    fn begin(&self, play: Play) {
        let engine = self.builder::<1>(play).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let ticket = wait(tenant.start::<Any<1>>(key(), ())).unwrap();
        self.gate.wait_started();
        drop(ticket);
    }
}

fn key() -> Key {
    Key::named("saga")
}

/// The outcome of the saga, for a caller who comes again.
fn outcome<const V: u32>(tenant: &Tenant) -> Result<Vec<u64>, SubmitError> {
    let ticket = wait(tenant.start::<Any<V>>(key(), ()))?;
    wait(ticket).map(|reply| reply.output)
}

fn assert_parked(result: Result<Vec<u64>, SubmitError>, why: &str) {
    match result {
        Err(SubmitError::Stuck { reason, .. }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("not parked: {other:?}"),
    }
}

fn run_once(play: Play) -> Result<Vec<u64>, SubmitError> {
    let stage = Stage::new();
    let engine = stage.builder::<1>(play).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let result = outcome::<1>(&tenant);
    engine.blocking().close().unwrap();
    result
}

#[test]
fn a_path_that_is_called_twice_is_told_so_and_the_saga_unwinds() {
    let result = run_once(|saga, _| {
        Box::pin(async move {
            saga.step("one", Put, "one").undo(Remove, "one").await?;
            let twice = saga.step("one", Put, "two").await;
            assert!(
                matches!(&twice, Err(StepError::DuplicateStep { path }) if path.as_str() == "one"),
                "{twice:?}"
            );
            twice?;
            Ok(Vec::new())
        })
    });
    let reason = "step one is called twice";
    assert_eq!(result, Err(SubmitError::Failed(Failure::permanent(reason))));
}

#[test]
fn a_function_that_awaits_something_else_than_its_context_is_parked() {
    let result = run_once(|saga, _| {
        Box::pin(async move {
            saga.step("one", Double, 1_u64).await?;
            std::future::pending::<()>().await;
            Ok(Vec::new())
        })
    });
    assert_parked(result, "nondeterminism");
}

#[test]
fn a_function_that_calls_another_step_on_replay_is_parked_with_the_reason() {
    let stage = Stage::new();
    let play: Play = |saga, shared| {
        Box::pin(async move {
            let play = shared.plays.load(Ordering::SeqCst);
            saga.step(&format!("step {play}"), Double, 1_u64).await?;
            saga.step("gate", Pass, 1_u64).await?;
            Ok(Vec::new())
        })
    };
    stage.begin(play);
    let engine = open_after_drop(|| stage.builder::<1>(play));
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_parked(outcome::<1>(&tenant), "nondeterminism");
    engine.blocking().close().unwrap();
}

#[test]
fn a_step_that_has_another_input_on_replay_is_parked() {
    let stage = Stage::new();
    let play: Play = |saga, shared| {
        Box::pin(async move {
            let play = shared.plays.load(Ordering::SeqCst);
            saga.step("same", Double, play).await?;
            saga.step("gate", Pass, 1_u64).await?;
            Ok(Vec::new())
        })
    };
    stage.begin(play);
    let engine = open_after_drop(|| stage.builder::<1>(play));
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_parked(outcome::<1>(&tenant), "another input");
    engine.blocking().close().unwrap();
}

#[test]
fn a_function_that_ends_without_a_recorded_step_is_parked() {
    let stage = Stage::new();
    let play: Play = |saga, shared| {
        Box::pin(async move {
            if shared.plays.load(Ordering::SeqCst) == 1 {
                saga.step("gate", Pass, 1_u64).await?;
            }
            Ok(Vec::new())
        })
    };
    stage.begin(play);
    let engine = open_after_drop(|| stage.builder::<1>(play));
    stage.gate.let_go(10);
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_parked(outcome::<1>(&tenant), "nondeterminism");
    engine.blocking().close().unwrap();
}

#[test]
fn time_and_randomness_are_the_same_on_every_replay() {
    let stage = Stage::new();
    let play: Play = |saga, shared| {
        Box::pin(async move {
            let told = vec![saga.now("time")?.get(), saga.random("draw")?];
            shared.told.lock().unwrap().extend(&told);
            saga.step("gate", Pass, 1_u64).await?;
            Ok(told)
        })
    };
    stage.begin(play);
    let engine = open_after_drop(|| stage.builder::<1>(play));
    stage.gate.let_go(10);
    let tenant = engine.blocking().tenant("a").unwrap();
    let output = outcome::<1>(&tenant).unwrap();
    let told = stage.shared.told.lock().unwrap().clone();
    assert_eq!(told, [&output[..], &output[..]].concat());
    engine.blocking().close().unwrap();
}

/// The system's clock, some hours later.
#[derive(Debug, Default)]
struct Later {
    clock: SystemClock,
    by: Duration,
}

impl Clock for Later {
    fn wall(&self) -> WallMillis {
        self.clock.wall().after(self.by)
    }

    fn monotonic(&self) -> Monotonic {
        self.clock.monotonic()
    }
}

#[test]
fn a_sleep_goes_on_across_a_restart_until_the_wall_clock_says_so() {
    let stage = Stage::new();
    let play: Play = |saga, _| {
        Box::pin(async move {
            let nap = saga.sleep("nap", Duration::from_hours(1));
            let gate = saga.step("gate", Pass, 1_u64).into_future();
            futures_util::future::join(nap, gate).await.0?;
            Ok(Vec::new())
        })
    };
    stage.begin(play);
    let engine = open_after_drop(|| stage.builder::<1>(play));
    stage.gate.let_go(10);
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.start::<Any<1>>(key(), ())).unwrap();
    let asleep = wait(ticket.wait_for(Duration::from_millis(50))).unwrap_err();
    assert_eq!(asleep, SubmitError::Expired);
    engine.blocking().close().unwrap();
    let clock = Arc::new(Later {
        by: Duration::from_hours(2),
        ..Later::default()
    });
    let engine = stage
        .builder::<1>(play)
        .clock(clock)
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(outcome::<1>(&tenant), Ok(Vec::new()));
    engine.blocking().close().unwrap();
}

/// Goes over its pivot and waits at the gate.
fn pivots(saga: SagaContext, _: Shared) -> std::pin::Pin<Box<dyn Future<Output = Played> + Send>> {
    Box::pin(async move {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        let saga: ForwardContext = saga.pivot().await?;
        saga.step("gate", Pass, 1_u64).await?;
        Ok(Vec::new())
    })
}

#[test]
fn a_cancel_after_the_pivot_says_that_only_another_saga_can_roll_it_back() {
    let stage = Stage::new();
    stage.begin(pivots);
    let engine = open_after_drop(|| stage.builder::<1>(pivots));
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Any<1>>(key(), ())).unwrap();
    assert_eq!(
        wait(ticket.cancel()),
        Err(CancelError::RollbackRequired { counter: None })
    );
    stage.gate.let_go(10);
    assert_eq!(wait(ticket).unwrap().output, [0_u64; 0]);
    assert_eq!(stage.world.outside.ledger(), ["put one"]);
    engine.blocking().close().unwrap();
}

/// Puts, and waits at the gate.
fn puts_and_waits(
    saga: SagaContext,
    _: Shared,
) -> std::pin::Pin<Box<dyn Future<Output = Played> + Send>> {
    Box::pin(async move {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.step("gate", Pass, 1_u64).await?;
        Ok(Vec::new())
    })
}

#[test]
fn a_saga_whose_definition_changed_is_paused_and_goes_on_when_it_is_back() {
    let stage = Stage::new();
    stage.begin(puts_and_waits);
    let engine = open_after_drop(|| stage.builder::<2>(puts_and_waits));
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_parked(outcome::<2>(&tenant), "definition");
    engine.blocking().close().unwrap();
    drop((engine, tenant));

    let engine = stage.builder::<1>(puts_and_waits).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    manager.retry(key());
    stage.gate.let_go(10);
    let ticket = wait(manager.tenant().start::<Any<1>>(key(), ())).unwrap();
    assert_eq!(wait(ticket).unwrap().output, [0_u64; 0]);
    assert_eq!(stage.world.outside.ledger(), ["put one"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_saga_whose_definition_is_gone_is_kept_and_waits_for_it() {
    let stage = Stage::new();
    stage.begin(puts_and_waits);
    let engine = open_after_drop(|| stage.without_saga());
    assert_eq!(engine.recovery().sagas, 1);
    engine.blocking().close().unwrap();
    drop(engine);
    let engine = stage.builder::<1>(puts_and_waits).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    manager.retry(key());
    stage.gate.let_go(10);
    assert_eq!(outcome::<1>(manager.tenant()), Ok(Vec::new()));
    engine.blocking().close().unwrap();
}
