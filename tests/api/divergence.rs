//! Sagas that are hard to replay: races, wide fans, missing code, panics in odd places.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, join, select, try_join, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use orlop::{
    Attempt, Computation, Engine, External, Failure, HostFunction, Key, Late, Options, Reconcile,
    Reconciled, RetryPolicy, Saga, SagaContext, SagaError, StepError, SubmitError, wait,
};

use crate::support::{Double, Put, Remove, World};

const PATIENCE: Duration = Duration::from_mins(1);

/// Fails a step while it asks for the pivot.
struct LostPivot;

impl Saga for LostPivot {
    const NAME: &'static str = "lost_pivot";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        let bad = saga
            .step("bad", Put, "bad")
            .undo(Remove, "bad")
            .into_future();
        try_join(bad, saga.pivot()).await?;
        Ok(())
    }
}

#[test]
fn a_pivot_that_nobody_waits_for_any_more_is_not_passed() {
    let world = World::new();
    let engine = world.builder().saga(LostPivot).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    world.outside.fail("bad", [Failure::permanent("no")]);
    let ticket = wait(tenant.start::<LostPivot>(Key::named("s"), ())).unwrap();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(
        failed,
        SubmitError::Failed(Failure::permanent("step bad failed: no"))
    );
    assert_eq!(world.outside.ledger(), ["put one", "remove one"]);
    engine.blocking().close().unwrap();
}

/// A step with a time-out of an hour.
struct Impatient;

impl Saga for Impatient {
    const NAME: &'static str = "impatient";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        let put = saga.step("one", Put, "one").into_future();
        let late = saga.sleep("late", Duration::from_hours(1));
        match select(put, late).await {
            Either::Left((put, _)) => put.map(|_| ()).map_err(SagaError::from),
            Either::Right((late, _)) => late.map_err(SagaError::from),
        }
    }
}

#[test]
fn a_sleep_that_lost_its_race_does_not_hold_up_the_end() {
    let world = World::new();
    let engine = world.builder().saga(Impatient).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.start::<Impatient>(Key::named("s"), ())).unwrap();
    wait(ticket.wait_for(PATIENCE)).unwrap();
    engine.blocking().close().unwrap();
}

/// Steps in an unordered set of unordered sets, then a long sleep unless it is told not to.
struct Nest;

impl Saga for Nest {
    const NAME: &'static str = "nest";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        let saga = &saga;
        let mut outer = FuturesUnordered::new();
        for i in 0..5_u64 {
            outer.push(async move {
                let scope = saga.scope("outer", i);
                let mut inner = FuturesUnordered::new();
                for j in 0..3_u64 {
                    let step = scope
                        .scope("inner", j)
                        .step("double", Double, 100 + i * 10 + j);
                    inner.push(step.into_future());
                }
                let mut sum = 0;
                while let Some(doubled) = inner.next().await {
                    sum += doubled?;
                }
                Ok::<u64, StepError>(sum)
            });
        }
        let mut sum = 0;
        while let Some(part) = outer.next().await {
            sum += part?;
        }
        saga.step("mark", Put, "mark").await?;
        saga.sleep("nap", Duration::from_secs(2)).await?;
        Ok(sum)
    }
}

#[test]
fn racing_steps_in_nested_unordered_sets_replay_alike() {
    let world = World::new();
    let key = Key::named("s");
    let expected: u64 = (0..5)
        .flat_map(|i| (0..3).map(move |j| 2 * (100 + i * 10 + j)))
        .sum();
    for round in 0..3 {
        let engine = world.builder().saga(Nest).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let mut ticket = wait(tenant.start::<Nest>(key, ())).unwrap();
        if round == 2 {
            assert_eq!(wait(ticket.wait_for(PATIENCE)).unwrap().output, expected);
        }
        while world.outside.ledger().is_empty() {
            let pending = wait(ticket.wait_for(Duration::from_millis(5))).unwrap_err();
            assert_eq!(pending, SubmitError::Expired);
        }
        engine.blocking().close().unwrap();
    }
    assert_eq!(
        world.doubler.runs.lock().unwrap().len(),
        15,
        "no step ran twice"
    );
}

/// A hundred parallel steps whose undo arguments together are more than one batch of the journal.
struct Wide;

impl Saga for Wide {
    const NAME: &'static str = "wide";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        let large = "x".repeat(200_000);
        let steps = (0..100_u64).map(|i| {
            let name = format!("n{i}");
            let scope = saga.scope("part", i);
            scope
                .step("put", Put, name)
                .undo(Remove, large.clone())
                .into_future()
        });
        Ok(try_join_all(steps).await?.len() as u64)
    }
}

#[test]
fn a_fan_larger_than_a_batch_of_the_journal_is_recorded_in_several() {
    let world = World::new();
    let engine = world.builder().saga(Wide).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Wide>(Key::named("s"), ())).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 100);
    assert_eq!(world.outside.present().len(), 100);
    engine.blocking().close().unwrap();
}

/// Two steps and a long sleep.
struct Two;

impl Saga for Two {
    const NAME: &'static str = "two";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        saga.step("double", Double, 3_u64).await?;
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.sleep("nap", Duration::from_secs(1)).await?;
        Ok(())
    }
}

#[test]
fn a_saga_whose_code_is_missing_is_paused_and_goes_on_in_an_engine_that_has_it() {
    let world = World::new();
    let key = Key::named("s");
    {
        let engine = world.builder().saga(Two).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let mut ticket = wait(tenant.start::<Two>(key, ())).unwrap();
        while world.outside.ledger().is_empty() {
            let pending = wait(ticket.wait_for(Duration::from_millis(5))).unwrap_err();
            assert_eq!(pending, SubmitError::Expired);
        }
        engine.blocking().close().unwrap();
    }
    {
        let engine = Engine::builder(world.folder.path().join("store"))
            .external(Put, world.outside.clone())
            .undo(Remove, world.outside.clone())
            .saga(Two)
            .open_blocking()
            .unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let ticket = wait(tenant.start::<Two>(key, ())).unwrap();
        let paused = wait(ticket).unwrap_err();
        assert!(
            matches!(&paused, SubmitError::Stuck { reason, .. } if reason.contains("double")),
            "{paused:?}"
        );
        engine.blocking().close().unwrap();
    }
    let engine = world.builder().saga(Two).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.start::<Two>(key, ())).unwrap();
    wait(ticket.wait_for(PATIENCE)).unwrap();
    assert_eq!(
        world.outside.ledger(),
        ["put one"],
        "neither unwound nor done again"
    );
    engine.blocking().close().unwrap();
}

/// Never heard of again, and asking about it goes wrong in one way or another.
#[derive(Clone, Copy)]
struct Lost;

impl Computation for Lost {
    const NAME: &'static str = "lost";
    type Input = bool;
    type Output = ();
    type Kind = External;
}

#[derive(Clone, Default)]
struct Silence {
    asked: Arc<AtomicU64>,
}

impl HostFunction<Lost> for Silence {
    async fn run(&self, _attempt: Attempt, _panics: bool) -> Result<(), Failure> {
        Err(Failure::in_doubt("no reply"))
    }
}

impl Reconcile<Lost> for Silence {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, panics: bool) -> Reconciled<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(!panics, "asking panics");
        Reconciled::Unknown("silence".to_owned())
    }
}

/// One lost step beside one that takes its time.
struct Beside;

impl Saga for Beside {
    const NAME: &'static str = "beside";
    type Input = bool;
    type Output = ();

    async fn run(&self, saga: SagaContext, panics: bool) -> Result<(), SagaError> {
        let slow = RetryPolicy {
            attempts_max: 5,
            base: Duration::from_millis(300),
            cap: Duration::from_millis(300),
        };
        let one = saga.step("one", Put, "one").retry(slow).into_future();
        let lost = saga.step("lost", Lost, panics).into_future();
        let (one, lost) = join(one, lost).await;
        one?;
        lost?;
        Ok(())
    }
}

#[test]
fn a_question_that_panics_every_time_ends_in_stuck_and_its_sibling_goes_on_when_resumed() {
    for panics in [true, false] {
        let world = World::new();
        let silence = Silence::default();
        let mut options = Options::default();
        options.limits.reconciles_max = 2;
        let builder = world
            .builder()
            .options(options)
            .external(Lost, silence.clone())
            .saga(Beside);
        let engine = builder.open_blocking().unwrap();
        let manager = wait(engine.manage("a")).unwrap();
        let tenant = manager.tenant();
        world.outside.fail(
            "one",
            [Failure::retryable("later"), Failure::retryable("later")],
        );
        let key = Key::named("s");
        let ticket = wait(tenant.start::<Beside>(key, panics)).unwrap();
        let stuck = wait(ticket).unwrap_err();
        assert!(matches!(&stuck, SubmitError::Stuck { .. }), "{stuck:?}");
        assert_eq!(silence.asked.load(Ordering::Relaxed), 2);
        // Every resume asks twice more, and lets the sibling have its attempts.
        while world.outside.ledger().is_empty() {
            manager.retry(key);
            let ticket = wait(tenant.start::<Beside>(key, panics)).unwrap();
            let stuck = wait(ticket).unwrap_err();
            assert!(matches!(&stuck, SubmitError::Stuck { .. }), "{stuck:?}");
        }
        assert_eq!(world.outside.ledger(), ["put one"]);
        engine.blocking().close().unwrap();
    }
}

/// Holds something that panics when it is dropped.
struct Mined;

struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the mine goes off");
    }
}

impl Saga for Mined {
    const NAME: &'static str = "mined";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        let mine = Mine;
        saga.sleep("nap", Duration::from_hours(1)).await?;
        std::mem::forget(mine);
        Ok(())
    }
}

#[test]
fn a_function_that_panics_when_it_is_dropped_stops_nobody_else() {
    let world = World::new();
    let engine = world
        .builder()
        .saga(Mined)
        .saga(Impatient)
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mined = wait(tenant.start::<Mined>(Key::named("m"), ())).unwrap();
    wait(mined.cancel()).unwrap();
    let failed = wait(mined).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    let mut other = wait(tenant.start::<Impatient>(Key::named("i"), ())).unwrap();
    wait(other.wait_for(PATIENCE)).unwrap();
    engine.blocking().close().unwrap();
}
