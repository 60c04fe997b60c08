//! Passivation: functions that are dropped while they wait, and replayed exactly.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use orlop::{
    Failure, Key, Options, Saga, SagaContext, SagaError, SignalId, Signalled, SubmitError, Tenant,
    wait,
};

use crate::support::{Double, Put, Remove, World};

const PATIENCE: Duration = Duration::from_mins(1);

fn with_residents(world: &World, sagas_resident_max: usize) -> orlop::EngineBuilder {
    let mut options = Options::default();
    options.limits.sagas_resident_max = sagas_resident_max;
    world.builder().options(options)
}

/// Races steps, sleeps, notes and signals before and after a pivot; counts how often it is begun.
#[derive(Clone, Default)]
struct Everything {
    begun: Arc<AtomicU64>,
}

impl Saga for Everything {
    const NAME: &'static str = "everything";
    type Input = u64;
    type Output = Vec<u64>;

    async fn run(&self, saga: SagaContext, fails_at: u64) -> Result<Vec<u64>, SagaError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let mut told = Vec::new();
        let mut race = FuturesUnordered::new();
        for index in 0..6_u64 {
            let scope = saga.scope("part", index);
            let name = format!("n{index}");
            race.push(
                scope
                    .step("put", Put, name.clone())
                    .undo(Remove, name)
                    .into_future(),
            );
        }
        while let Some(put) = race.next().await {
            told.push(put?);
            let scope = saga.scope("after", told.len() as u64);
            scope.random("draw")?;
            told.push(scope.step("double", Double, told.len() as u64).await?);
        }
        saga.sleep("nap", Duration::from_millis(20)).await?;
        told.push(saga.signal("go").await?);
        if fails_at == 1 {
            return Err(SagaError::failed("before the pivot"));
        }
        let late = saga.step("late", Double, 100_u64).into_future();
        let (late, saga) = futures_util::future::join(late, saga.pivot()).await;
        told.push(late?);
        let saga = saga?;
        told.push(saga.step("last", Double, 200_u64).await?);
        Ok(told)
    }
}

#[test]
fn a_saga_that_is_dropped_whenever_it_waits_is_replayed_exactly() {
    for fails_at in [0_u64, 1] {
        let world = World::new();
        let saga = Everything::default();
        let engine = with_residents(&world, 0)
            .saga(saga.clone())
            .open_blocking()
            .unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let key = Key::named("s");
        let mut ticket = wait(tenant.start::<Everything>(key, fails_at)).unwrap();
        let told = wait(tenant.signal(key, "go", SignalId::named("1"), &7_u64));
        assert_eq!(told, Ok(Signalled::Recorded));
        let ended = wait(ticket.wait_for(PATIENCE));
        if fails_at == 1 {
            let failure = Failure::permanent("before the pivot");
            assert_eq!(ended.unwrap_err(), SubmitError::Failed(failure));
            assert!(world.outside.present().is_empty());
        } else {
            let told = ended.unwrap().output;
            assert_eq!(told.len(), 15);
            assert_eq!(told[12..], [7, 200, 400]);
            assert_eq!(world.outside.present().len(), 6);
        }
        let runs = world.doubler.runs.lock().unwrap().len();
        assert_eq!(runs, if fails_at == 1 { 6 } else { 8 }, "no step ran twice");
        // Each outcome, the sleep, the signal and the pivot are told to a function of their own,
        // but for what came while it was in memory.
        assert!(saga.begun.load(Ordering::Relaxed) > 8);
        engine.blocking().close().unwrap();
    }
}

/// Waits for words; writes down when it waits and when it is dropped.
#[derive(Clone, Default)]
struct Idler {
    waits: Arc<Mutex<Vec<String>>>,
    dropped: Arc<Mutex<Vec<String>>>,
}

struct Watched(Arc<Mutex<Vec<String>>>, String);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1.clone());
    }
}

impl Saga for Idler {
    const NAME: &'static str = "idler";
    type Input = String;
    type Output = ();

    async fn run(&self, saga: SagaContext, name: String) -> Result<(), SagaError> {
        saga.step("put", Put, name.as_str()).await?;
        let _watched = Watched(Arc::clone(&self.dropped), name.clone());
        for index in 0..3 {
            self.waits.lock().unwrap().push(format!("{name} {index}"));
            saga.scope("word", index).signal::<()>("word").await?;
        }
        Ok(())
    }
}

impl Idler {
    /// Tells a saga that waits something, and returns once it waits again.
    fn tell(&self, tenant: &Tenant, name: &str, word: &str, waits: &str) {
        let key = Key::named(name);
        let told = wait(tenant.signal(key, word, SignalId::fresh(), &()));
        assert_eq!(told, Ok(Signalled::Recorded));
        self.wait_until_it_waits(tenant, name, waits);
    }

    /// Returns once a saga waits and everything of it is durable: the driver has heard all of it.
    fn wait_until_it_waits(&self, tenant: &Tenant, name: &str, waits: &str) {
        while !self.waits.lock().unwrap().iter().any(|one| one == waits) {
            std::thread::yield_now();
        }
        let ping = wait(tenant.signal(Key::named(name), "ping", SignalId::fresh(), &()));
        assert_eq!(ping, Ok(Signalled::Recorded));
    }

    fn dropped(&self) -> Vec<String> {
        self.dropped.lock().unwrap().clone()
    }
}

#[test]
fn the_functions_that_were_longest_idle_are_dropped_first_and_only_beyond_the_bound() {
    let world = World::new();
    let saga = Idler::default();
    let engine = with_residents(&world, 2)
        .saga(saga.clone())
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let start = |name: &str| {
        drop(wait(tenant.start::<Idler>(Key::named(name), name)).unwrap());
        saga.wait_until_it_waits(&tenant, name, &format!("{name} 0"));
    };
    let counts = || {
        let snapshot = engine.snapshot();
        (snapshot.sagas_resident, snapshot.sagas_passivated)
    };
    start("one");
    start("two");
    assert_eq!(counts(), (2, 0));
    // The first is active again, so that the second was idle for longer.
    saga.tell(&tenant, "one", "word", "one 1");
    assert!(saga.dropped().is_empty());
    start("three");
    assert_eq!(saga.dropped(), ["two"]);
    assert_eq!(counts(), (2, 1));
    // It wakes, and another one goes.
    saga.tell(&tenant, "two", "word", "two 1");
    assert_eq!(saga.dropped(), ["two", "one"]);
    assert_eq!(counts(), (2, 1));
    engine.blocking().close().unwrap();
}

#[test]
fn a_passivated_saga_can_be_cancelled_and_is_found_after_a_restart() {
    let world = World::new();
    let saga = Idler::default();
    let key = Key::named("s");
    {
        let builder = with_residents(&world, 0).saga(saga.clone());
        let engine = builder.open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        drop(wait(tenant.start::<Idler>(key, "one")).unwrap());
        while saga.dropped.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        engine.blocking().close().unwrap();
    }
    let engine = with_residents(&world, 0)
        .saga(saga)
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Idler>(key, "one")).unwrap();
    wait(ticket.cancel()).unwrap();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert_eq!(world.outside.ledger(), ["put one"]);
    engine.blocking().close().unwrap();
}

/// Calls another step when it is played again.
#[derive(Clone, Default)]
struct Fickle {
    begun: Arc<AtomicU64>,
}

impl Saga for Fickle {
    const NAME: &'static str = "fickle";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        saga.step("put", Put, format!("put {}", begun.min(1)))
            .await?;
        Ok(saga.signal("word").await?)
    }
}

#[test]
fn a_function_that_does_something_else_when_it_wakes_is_parked() {
    let world = World::new();
    let builder = with_residents(&world, 0).saga(Fickle::default());
    let engine = builder.open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.start::<Fickle>(Key::named("s"), ())).unwrap();
    let parked = wait(ticket.wait_for(PATIENCE)).unwrap_err();
    assert!(
        matches!(&parked, SubmitError::Stuck { reason, .. }
            if reason.contains("nondeterminism") && reason.contains("another input")),
        "{parked:?}"
    );
    assert_eq!(world.outside.ledger(), ["put put 0"]);
    engine.blocking().close().unwrap();
}
