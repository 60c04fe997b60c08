//! Unwinding and giving up: undos that fail, attempts that crash, operators.

use std::sync::Arc;
use std::sync::Mutex;

use orlop::{
    Attempt, Blake3, BufferSource, Digest, EngineBuilder, Failure, Key, Limits, Options,
    RetryPolicy, Saga, SagaContext, SagaError, SubmitError, TenantId, Undo, UndoFunction, Undoing,
    wait,
};

use crate::gate::{Gate, Pass, builder, open_after_drop};
use crate::support::{Put, World};

/// An undo whose failures are given beforehand.
#[derive(Clone, Copy)]
struct Take;

impl Undo for Take {
    const NAME: &'static str = "take";
    type Argument = String;
    type Step = Put;
}

#[derive(Clone, Default)]
struct Taker {
    failures: Arc<Mutex<Vec<Failure>>>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl UndoFunction<Take> for Taker {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Take>) -> Result<(), Failure> {
        self.calls.lock().unwrap().push(undoing.argument);
        match self.failures.lock().unwrap().pop() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// Puts two names and gives up.
struct Fails;

impl Saga for Fails {
    const NAME: &'static str = "fails";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        saga.step("one", Put, "one").undo(Take, "one").await?;
        saga.step("two", Put, "two").undo(Take, "two").await?;
        Err(SagaError::failed("enough"))
    }
}

fn fails(world: &World, taker: &Taker, saga: bool) -> EngineBuilder {
    let builder = world.builder().undo(Take, taker.clone());
    if saga { builder.saga(Fails) } else { builder }
}

fn enough() -> SubmitError {
    SubmitError::Failed(Failure::permanent("enough"))
}

#[test]
fn an_undo_that_fails_is_tried_again_and_the_older_one_waits_for_it() {
    let world = World::new();
    let taker = Taker::default();
    *taker.failures.lock().unwrap() = vec![Failure::retryable("busy"), Failure::in_doubt("lost")];
    let engine = fails(&world, &taker, true).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Fails>(Key::named("s"), ())).unwrap();
    assert_eq!(wait(ticket).unwrap_err(), enough());
    assert_eq!(*taker.calls.lock().unwrap(), ["two", "two", "two", "one"]);
    engine.blocking().close().unwrap();
}

#[test]
fn an_undo_that_cannot_be_done_leaves_the_saga_stuck_until_an_operator_has_it_tried_again() {
    let world = World::new();
    let taker = Taker::default();
    *taker.failures.lock().unwrap() = vec![Failure::permanent("locked")];
    let engine = fails(&world, &taker, true).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let key = Key::named("s");
    let ticket = wait(manager.tenant().start::<Fails>(key, ())).unwrap();
    match wait(ticket).unwrap_err() {
        SubmitError::Stuck { reason, .. } => {
            assert!(
                reason.contains("two") && reason.contains("locked"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*taker.calls.lock().unwrap(), ["two"]);
    assert!(manager.retry(key));
    // Whoever comes before it goes on is told that it is stuck.
    let outcome = loop {
        let again = wait(manager.tenant().start::<Fails>(key, ())).unwrap();
        match wait(again).unwrap_err() {
            SubmitError::Stuck { .. } => std::thread::yield_now(),
            other => break other,
        }
    };
    assert_eq!(outcome, enough());
    assert_eq!(*taker.calls.lock().unwrap(), ["two", "two", "one"]);
    assert!(!manager.retry(key), "it is not stuck any more");
    engine.blocking().close().unwrap();
}

#[test]
fn unwinding_goes_on_in_a_process_that_does_not_have_the_definition() {
    let world = World::new();
    let taker = Taker::default();
    *taker.failures.lock().unwrap() = vec![Failure::permanent("locked")];
    let key = Key::named("s");
    {
        let engine = fails(&world, &taker, true).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let ticket = wait(tenant.start::<Fails>(key, ())).unwrap();
        let stuck = wait(ticket).unwrap_err();
        assert!(matches!(stuck, SubmitError::Stuck { .. }), "{stuck:?}");
        engine.blocking().close().unwrap();
    }
    {
        let engine = fails(&world, &taker, false).open_blocking().unwrap();
        let manager = wait(engine.manage("a")).unwrap();
        // It is found as it was left, a moment after the engine is open.
        while !manager.retry(key) {
            std::thread::yield_now();
        }
        while engine.snapshot().sagas > 0 {
            std::thread::yield_now();
        }
        assert_eq!(*taker.calls.lock().unwrap(), ["two", "two", "one"]);
        engine.blocking().close().unwrap();
    }
    let engine = fails(&world, &taker, true).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Fails>(key, ())).unwrap();
    assert_eq!(wait(ticket).unwrap_err(), enough());
    engine.blocking().close().unwrap();
}

/// One step, at the gate.
struct Waits;

impl Saga for Waits {
    const NAME: &'static str = "waits";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        Ok(saga.step("gate", Pass, 7_u64).await?)
    }
}

#[test]
fn attempts_that_end_with_the_process_are_counted_and_end_in_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let retry = RetryPolicy {
        attempts_max: 2,
        ..RetryPolicy::default()
    };
    let waits = || {
        let options = Options {
            limits: Limits {
                retry,
                ..Limits::default()
            },
            ..Gate::options()
        };
        builder(folder.path(), &gate).options(options).saga(Waits)
    };
    let key = Key::named("s");
    for _ in 0..2 {
        let engine = open_after_drop(waits);
        let tenant = engine.blocking().tenant("a").unwrap();
        let ticket = wait(tenant.start::<Waits>(key, ())).unwrap();
        gate.wait_started();
        drop((ticket, tenant, engine));
    }
    let engine = open_after_drop(waits);
    let manager = wait(engine.manage("a")).unwrap();
    let ticket = wait(manager.tenant().start::<Waits>(key, ())).unwrap();
    let stuck = wait(ticket).unwrap_err();
    assert!(
        matches!(&stuck, SubmitError::Stuck { reason, .. } if reason.contains("attempts")),
        "{stuck:?}"
    );
    assert_eq!(gate.runs(), 2);
    // An operator may have it tried again all the same.
    gate.let_go(10);
    assert!(manager.retry(key));
    gate.wait_started();
    while engine.snapshot().sagas > 0 {
        std::thread::yield_now();
    }
    let ticket = wait(manager.tenant().start::<Waits>(key, ())).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 7);
    engine.blocking().close().unwrap();
}

/// Has some bytes, and counts who asks.
#[derive(Clone, Default)]
struct Shelf {
    bytes: Vec<u8>,
    asked: Arc<Mutex<Vec<Digest>>>,
}

impl BufferSource for Shelf {
    fn load(&self, _tenant: TenantId, digest: &Digest) -> Option<Vec<u8>> {
        self.asked.lock().unwrap().push(*digest);
        (!self.bytes.is_empty()).then(|| self.bytes.clone())
    }
}

#[test]
fn a_buffer_of_an_earlier_process_is_brought_back_from_its_source_or_not_at_all() {
    let world = World::new();
    let bytes = vec![5_u8; 300_000];
    let reference = {
        let engine = world.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        let reference = tenant.buffer(&bytes).unwrap().reference();
        engine.blocking().close().unwrap();
        reference
    };
    let with = |shelf: &Shelf| {
        let engine = world.builder().buffer_source(shelf.clone());
        let engine = engine.open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let key = Key::fresh();
        let result = wait(tenant.submit(Blake3, reference).key(key));
        engine.blocking().close().unwrap();
        result.map(|reply| reply.output)
    };
    let good = Shelf {
        bytes: bytes.clone(),
        ..Shelf::default()
    };
    assert_eq!(with(&good).unwrap(), Digest::of(&bytes));
    assert_eq!(*good.asked.lock().unwrap(), [Digest::of(&bytes)]);
    let empty = Shelf::default();
    let missing = with(&empty).unwrap_err();
    assert!(matches!(missing, SubmitError::Exhausted(_)), "{missing:?}");
    let wrong = Shelf {
        bytes: vec![6; 300_000],
        ..Shelf::default()
    };
    let other = with(&wrong).unwrap_err();
    assert!(matches!(other, SubmitError::Exhausted(_)), "{other:?}");
}

/// The same undo in the bulkhead of the gate.
struct Narrow(Taker);

impl UndoFunction<Take> for Narrow {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<Take>) -> Result<(), Failure> {
        self.0.undo(attempt, undoing).await
    }

    fn bulkhead(&self) -> &'static str {
        Gate::BULKHEAD
    }
}

#[test]
fn an_undo_has_slots_of_its_own_when_all_others_are_taken_and_its_tenant_is_suspended() {
    let world = World::new();
    let (gate, taker) = (Gate::new(), Taker::default());
    let engine = world
        .builder()
        .options(Gate::options())
        .pure(Pass, gate.clone())
        .undo(Take, Narrow(taker.clone()))
        .saga(Listens)
        .open_blocking()
        .unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let running = wait(other.enqueue(Pass, 1_u64)).unwrap();
    gate.wait_started();
    let queued = wait(other.enqueue(Pass, 2_u64)).unwrap();
    let key = Key::named("s");
    let mut ticket = wait(manager.tenant().start::<Listens>(key, ())).unwrap();
    while world.outside.present().is_empty() {
        std::thread::yield_now();
    }
    wait(manager.suspend()).unwrap();
    wait(ticket.cancel()).unwrap();
    // Long enough for a machine that is busy; it is not what decides.
    let ended = wait(ticket.wait_for(std::time::Duration::from_mins(1)));
    let ended = ended.unwrap_err();
    assert!(
        ended != SubmitError::Expired,
        "its undo waits for slots of others"
    );
    assert_eq!(*taker.calls.lock().unwrap(), ["one"]);
    assert_eq!(gate.runs(), 1);
    gate.let_go(2);
    wait(running).unwrap();
    wait(queued).unwrap();
    engine.blocking().close().unwrap();
}

/// Puts a name and waits for a signal that does not come.
struct Listens;

impl Saga for Listens {
    const NAME: &'static str = "listens";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        saga.step("one", Put, "one").undo(Take, "one").await?;
        saga.signal::<()>("go").await?;
        Ok(())
    }
}
