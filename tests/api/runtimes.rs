//! Where the engine may be used from, and how it ends.

use std::sync::{Arc, OnceLock};

use orlop::{
    Attempt, BlockingFunction, Computation, Engine, Failure, HostFunction, Key, Opcode, Origin,
    Plan, Pure, Refusal, Saga, SagaContext, SagaError, SubmitError, Tenant, Unavailable, wait,
};
use orlop::{DeviceFunction, HostOp, op};

use crate::gate::{Gate, Pass, builder, open_after_drop};
use crate::support::{Double, Put, World};

async fn exercise(engine: Engine) {
    let tenant = engine.tenant("a").await.unwrap();
    assert_eq!(tenant.submit(Double, 4_u64).await.unwrap().output, 8);
    let ticket = tenant.enqueue(Put, "x").key(Key::named("x")).await.unwrap();
    assert_eq!(ticket.await.unwrap().output, 1);
    // The blocking handle too, here: it neither panics nor waits for this very thread.
    let blocking = engine.blocking().tenant("b").unwrap();
    assert_eq!(
        wait(blocking.submit(Double, 4_u64)).unwrap().origin,
        Origin::Ran
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_inside_a_runtime_of_one_thread() {
    let world = World::new();
    exercise(world.builder().open().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_inside_a_runtime_of_many_threads() {
    let world = World::new();
    exercise(world.builder().open().await.unwrap()).await;
}

#[test]
fn it_works_without_a_runtime() {
    let world = World::new();
    wait(async { exercise(world.builder().open().await.unwrap()).await });
}

#[test]
fn closing_is_done_once_however_many_ask_and_nothing_is_taken_after() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| engine.blocking().close().unwrap());
        }
    });
    engine.blocking().close().unwrap();
    let closed = SubmitError::Unavailable(Unavailable::Closed);
    assert_eq!(wait(tenant.submit(Double, 1_u64)).unwrap_err(), closed);
    world.open().blocking().close().unwrap();
}

#[test]
fn what_was_accepted_by_an_engine_that_was_only_dropped_is_done_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let running = wait(tenant.enqueue(Pass, 1_u64)).unwrap();
    let waiting = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    gate.wait_started();
    drop((running, waiting, tenant, engine));
    let engine = open_after_drop(|| builder(folder.path(), &gate));
    assert_eq!(engine.recovery().effects, 2);
    gate.let_go(4);
    let tenant = engine.blocking().tenant("a").unwrap();
    for input in 1..=2_u64 {
        assert_eq!(wait(tenant.submit(Pass, input)).unwrap().output, input);
    }
    engine.blocking().close().unwrap();
}

/// Submits to the bulkhead that it runs in.
struct Nest(Arc<OnceLock<Tenant>>);

#[derive(Clone, Copy)]
struct Nested;

impl Computation for Nested {
    const NAME: &'static str = "nested";
    type Input = u64;
    type Output = bool;
    type Kind = Pure;
}

impl HostFunction<Nested> for Nest {
    async fn run(&self, _attempt: Attempt, input: u64) -> Result<bool, Failure> {
        let tenant = self
            .0
            .get()
            .ok_or_else(|| Failure::permanent("no tenant"))?;
        let inner = tenant.submit(Double, input).await;
        Ok(matches!(
            inner,
            Err(SubmitError::Refused(Refusal::Nested { .. }))
        ))
    }
}

#[test]
fn a_submission_to_the_bulkhead_that_one_holds_a_slot_of_is_an_error_and_no_deadlock() {
    let world = World::new();
    let handle = Arc::new(OnceLock::new());
    let engine = world.builder().pure(Nested, Nest(Arc::clone(&handle)));
    let engine = engine.open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    assert!(handle.set(tenant.clone()).is_ok());
    assert!(wait(tenant.submit(Nested, 1_u64)).unwrap().output);
    engine.blocking().close().unwrap();
}

#[derive(Clone, Copy)]
struct Async;
#[derive(Clone, Copy)]
struct Blocking;
#[derive(Clone, Copy)]
struct OnDevice;

macro_rules! panics {
    ($signature:ident, $name:literal) => {
        impl Computation for $signature {
            const NAME: &'static str = $name;
            type Input = u64;
            type Output = ();
            type Kind = Pure;
        }
    };
}

panics!(Async, "panics async");
panics!(Blocking, "panics blocking");
panics!(OnDevice, "panics on device");

/// Panics wherever it runs.
struct Panics;

impl HostFunction<Async> for Panics {
    async fn run(&self, _attempt: Attempt, _input: u64) -> Result<(), Failure> {
        panic!("planned")
    }
}

impl BlockingFunction<Blocking> for Panics {
    fn run(&self, _attempt: &Attempt, _input: u64) -> Result<(), Failure> {
        panic!("planned")
    }
}

impl HostOp for Panics {
    fn opcode(&self) -> Opcode {
        Opcode::new(0x4000_0001)
    }

    fn name(&self) -> &'static str {
        "panics"
    }

    fn run_tile(
        &self,
        _: u32,
        _: &op::TaskArgs<'_>,
        _: &mut [u64],
    ) -> Result<op::Partial, op::OpError> {
        panic!("planned")
    }

    fn reduce(
        &self,
        _: &op::TaskArgs<'_>,
        _: &[op::Partial],
        _: &mut [u64],
        _: &mut op::Output<'_>,
    ) -> Result<(), op::OpError> {
        Ok(())
    }
}

impl DeviceFunction<OnDevice> for Panics {
    fn opcode(&self) -> Opcode {
        Opcode::new(0x4000_0001)
    }

    fn op(&self) -> Option<Arc<dyn HostOp>> {
        Some(Arc::new(Self))
    }

    fn plan(&self, _input: u64) -> Result<Plan, Failure> {
        Ok(Plan::default())
    }

    fn output(&self, _result: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
}

impl Saga for Panics {
    const NAME: &'static str = "panics";
    type Input = ();
    type Output = ();

    async fn run(&self, _saga: SagaContext, (): ()) -> Result<(), SagaError> {
        panic!("planned")
    }
}

#[test]
fn a_panic_fails_what_panicked_and_nothing_else() {
    let world = World::new();
    let engine = world
        .builder()
        .pure(Async, Panics)
        .blocking(Blocking, Panics)
        .device(OnDevice, Panics)
        .saga(Panics)
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let failures = [
        wait(tenant.submit(Async, 1_u64)).unwrap_err(),
        wait(tenant.submit(Blocking, 1_u64)).unwrap_err(),
        wait(tenant.submit(OnDevice, 1_u64)).unwrap_err(),
    ];
    for failure in failures {
        assert!(matches!(failure, SubmitError::Exhausted(_)), "{failure:?}");
        assert!(failure.to_string().contains("planned"), "{failure}");
    }
    let ticket = wait(tenant.start::<Panics>(Key::named("s"), ())).unwrap();
    let parked = wait(ticket).unwrap_err();
    assert!(
        matches!(&parked, SubmitError::Stuck { reason, .. } if reason.contains("planned")),
        "{parked:?}"
    );
    assert_eq!(wait(tenant.submit(Double, 1_u64)).unwrap().output, 2);
    let bulkheads = engine.snapshot().bulkheads;
    assert!(
        bulkheads
            .iter()
            .all(|bulkhead| bulkhead.ordinary.in_flight == 0)
    );
    engine.blocking().close().unwrap();
}
