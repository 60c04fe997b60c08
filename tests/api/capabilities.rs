//! Capabilities: what a tenant may, what its manager may, and what code is told.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::poll;
use orlop::op::{OpError, Output, Partial, TaskArgs};
use orlop::{
    Attempt, Blake3, BufferRef, ByteCount, CancelError, Computation, DeviceFunction, Digest,
    External, Failure, HostFunction, HostOp, Key, Late, Opcode, Origin, Plan, Pure, Quotas,
    Reconcile, Reconciled, Refusal, Saga, SagaContext, SagaError, Source, SubmitError,
    TraceContext, wait,
};

use crate::gate::{Gate, Pass, builder, open_after_drop};
use crate::support::{Double, World};

#[test]
fn a_suspended_tenant_is_refused_new_work_and_replays_until_it_is_resumed() {
    let world = World::new();
    let engine = world.open();
    let manager = wait(engine.manage("a")).unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let tenant = manager.tenant();
    wait(tenant.submit(Double, 1_u64)).unwrap();
    wait(manager.suspend()).unwrap();
    let suspended = SubmitError::Refused(Refusal::Suspended {
        tenant: tenant.id(),
    });
    assert_eq!(wait(tenant.submit(Double, 2_u64)).unwrap_err(), suspended);
    let known = wait(tenant.submit(Double, 1_u64));
    assert_eq!(known.unwrap_err(), suspended, "replays included");
    assert_eq!(wait(tenant.enqueue(Double, 3_u64)).unwrap_err(), suspended);
    // The tenant next to it notices nothing.
    assert_eq!(wait(other.submit(Double, 4_u64)).unwrap().output, 8);
    wait(manager.resume()).unwrap();
    let again = wait(tenant.submit(Double, 1_u64)).unwrap();
    assert_eq!((again.output, again.origin), (2, Origin::Replayed));
    let new = wait(tenant.submit(Double, 2_u64)).unwrap();
    assert_eq!((new.output, new.origin), (4, Origin::Ran));
    assert_eq!(*world.doubler.runs.lock().unwrap(), [1, 4, 2]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_tenant_without_quota_is_refused_and_served_once_it_has_one() {
    let world = World::new();
    let engine = world.open();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let before = manager.snapshot().quotas;
    let none = Quotas {
        slots_max: 0,
        staging_bytes_max: ByteCount::new(0),
        ..Quotas::UNLIMITED
    };
    wait(manager.set_quotas(none)).unwrap();
    let refused = wait(tenant.submit(Double, 1_u64)).unwrap_err();
    assert!(
        matches!(
            refused,
            SubmitError::Refused(Refusal::NeverFits {
                asked: 1,
                cap: 0,
                ..
            })
        ),
        "{refused:?}"
    );
    assert!(world.doubler.runs.lock().unwrap().is_empty());
    wait(manager.set_quotas(before)).unwrap();
    let served = wait(tenant.submit(Double, 1_u64)).unwrap();
    assert_eq!((served.output, served.origin), (2, Origin::Ran));
    engine.blocking().close().unwrap();
}

#[test]
fn a_buffer_of_another_tenant_is_as_unknown_as_one_that_never_was() {
    let world = World::new();
    let engine = world.open();
    let owner = engine.blocking().tenant("a").unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let bytes = vec![9_u8; 100_000];
    let digest = Digest::of(&bytes);
    let guessed = BufferRef {
        digest,
        offset: 0,
        length: 100_000,
    };
    let never = wait(other.submit(Blake3, guessed)).unwrap_err();
    let buffer = owner.buffer(&bytes).unwrap();
    assert_eq!(buffer.reference(), guessed);
    let foreign = wait(other.submit(Blake3, guessed)).unwrap_err();
    assert!(matches!(foreign, SubmitError::Exhausted(_)), "{foreign:?}");
    assert_eq!(foreign, never, "whether somebody has it cannot be told");
    let own = wait(owner.submit(Blake3, guessed)).unwrap();
    assert_eq!(own.output, digest);
    engine.blocking().close().unwrap();
}

#[test]
fn suspending_withdraws_what_is_queued_and_not_what_runs() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let mut runs = tenant.submit(Pass, 1_u64).into_future();
    assert!(wait(async { poll!(&mut runs) }).is_pending());
    gate.wait_started();
    let mut waits = tenant.submit(Pass, 2_u64).into_future();
    assert!(wait(async { poll!(&mut waits) }).is_pending());
    let accepted = wait(tenant.enqueue(Pass, 3_u64)).unwrap();
    wait(manager.suspend()).unwrap();
    let suspended = SubmitError::Refused(Refusal::Suspended {
        tenant: tenant.id(),
    });
    assert_eq!(wait(waits).unwrap_err(), suspended);
    gate.let_go(2);
    assert_eq!(wait(runs).unwrap().output, 1);
    assert_eq!(gate.runs(), 1);
    // What was accepted is not forgotten: it goes on when the tenant does.
    wait(manager.resume()).unwrap();
    assert_eq!(wait(accepted).unwrap().output, 3);
    assert_eq!(gate.runs(), 2);
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
fn a_manager_cancels_a_saga_by_its_key_and_only_while_it_has_not_ended() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let builder = builder(folder.path(), &gate).saga(Waits);
    let engine = builder.open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let other = wait(engine.manage("b")).unwrap();
    let key = Key::named("s");
    let unknown = wait(manager.cancel_saga(key)).unwrap_err();
    assert!(matches!(unknown, CancelError::Ended), "{unknown:?}");
    let ticket = wait(manager.tenant().start::<Waits>(key, ())).unwrap();
    gate.wait_started();
    let foreign = wait(other.cancel_saga(key)).unwrap_err();
    assert!(matches!(foreign, CancelError::Ended), "{foreign:?}");
    wait(manager.cancel_saga(key)).unwrap();
    gate.let_go(1);
    let cancelled = SubmitError::Failed(Failure::permanent("cancelled"));
    assert_eq!(wait(ticket).unwrap_err(), cancelled);
    let ended = wait(manager.cancel_saga(key)).unwrap_err();
    assert!(matches!(ended, CancelError::Ended), "{ended:?}");
    engine.blocking().close().unwrap();
}

/// A gate that writes down the trace of every attempt.
#[derive(Clone)]
struct Traced {
    gate: Gate,
    seen: Arc<Mutex<Vec<(u64, TraceContext)>>>,
}

impl HostFunction<Pass> for Traced {
    async fn run(&self, attempt: Attempt, input: u64) -> Result<u64, Failure> {
        self.seen.lock().unwrap().push((input, attempt.trace));
        HostFunction::<Pass>::run(&self.gate, attempt, input).await
    }

    fn bulkhead(&self) -> &'static str {
        Gate::BULKHEAD
    }
}

#[test]
fn the_trace_of_accepted_work_is_what_its_code_sees_also_after_a_restart() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let traced = Traced {
        gate: gate.clone(),
        seen: Arc::default(),
    };
    let open = || {
        orlop::Engine::builder(folder.path().join("store"))
            .options(Gate::options())
            .pure(Pass, traced.clone())
    };
    let trace = |byte: u8| TraceContext {
        trace_id: [byte; 16],
        span_id: [byte + 1; 8],
        sampled: true,
    };
    let engine = open_after_drop(open);
    let tenant = engine.blocking().tenant("a").unwrap();
    let runs = wait(tenant.enqueue(Pass, 1_u64).trace(trace(10))).unwrap();
    gate.wait_started();
    let waits = wait(tenant.enqueue(Pass, 2_u64).trace(trace(20))).unwrap();
    assert_eq!(*traced.seen.lock().unwrap(), [(1, trace(10))]);
    drop((runs, waits, tenant, engine));
    let engine = open_after_drop(open);
    gate.let_go(10);
    let tenant = engine.blocking().tenant("a").unwrap();
    for input in [1_u64, 2] {
        assert_eq!(wait(tenant.submit(Pass, input)).unwrap().output, input);
    }
    engine.blocking().close().unwrap();
    let seen = traced.seen.lock().unwrap();
    assert!(seen.iter().any(|(input, _)| *input == 2), "{seen:?}");
    for (input, told) in &*seen {
        let given = if *input == 1 { trace(10) } else { trace(20) };
        assert_eq!(*told, given, "of {input}");
    }
}

/// How often a byte occurs in the bytes of a source.
#[derive(Clone, Copy)]
struct Occurs;

const OCCURS: Opcode = Opcode::new(Opcode::USER_FIRST.get() + 1);
const TILE_BYTES: usize = 1024;

impl Computation for Occurs {
    const NAME: &'static str = "occurs";
    type Input = (u8, Source);
    type Output = u64;
    type Kind = Pure;
}

impl DeviceFunction<Occurs> for Occurs {
    fn opcode(&self) -> Opcode {
        OCCURS
    }

    fn op(&self) -> Option<Arc<dyn HostOp>> {
        Some(Arc::new(*self))
    }

    fn plan(&self, (byte, source): (u8, Source)) -> Result<Plan, Failure> {
        Ok(Plan {
            args: [u32::from(byte)].into_iter().collect(),
            sources: [source].into_iter().collect(),
            ..Plan::default()
        })
    }

    fn output(&self, result: &[u8]) -> Result<u64, Failure> {
        let bytes = <[u8; 8]>::try_from(result).map_err(Failure::permanent)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl HostOp for Occurs {
    fn opcode(&self) -> Opcode {
        OCCURS
    }

    fn name(&self) -> &'static str {
        "occurs"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let tiles = task.window(0)?.len().div_ceil(TILE_BYTES).max(1);
        u32::try_from(tiles).map_err(|_| OpError::INPUT_TOO_LONG)
    }

    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        let (byte, window) = (task.arg(0)?, task.window(0)?);
        let tile = window
            .iter()
            .skip(tile as usize * TILE_BYTES)
            .take(TILE_BYTES);
        let count = tile.filter(|other| u32::from(**other) == byte).count() as u64;
        Partial::new(&count.to_le_bytes())
    }

    fn reduce(
        &self,
        _task: &TaskArgs<'_>,
        partials: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let mut sum = 0_u64;
        for partial in partials {
            let bytes = partial.as_bytes().try_into();
            sum += u64::from_le_bytes(bytes.map_err(|_| OpError::BAD_PARTIAL)?);
        }
        out.write(&sum.to_le_bytes())
    }
}

#[test]
fn a_device_operation_of_the_embedders_own_gives_its_answer_over_many_tiles() {
    let world = World::new();
    let engine = world.builder().device(Occurs, Occurs);
    let engine = engine.open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let bytes: Vec<u8> = (0..50_000_u32).map(|n| (n % 7) as u8).collect();
    let expected = (3..50_000).step_by(7).count() as u64;
    let buffer = tenant.buffer(&bytes).unwrap();
    let reply = wait(tenant.submit(Occurs, (3_u8, Source::from(&buffer)))).unwrap();
    assert_eq!((reply.output, reply.origin), (expected, Origin::Ran));
    let inline = wait(tenant.submit(Occurs, (b's', Source::from("mississippi")))).unwrap();
    assert_eq!(inline.output, 4);
    let none = wait(tenant.submit(Occurs, (1_u8, Source::from("")))).unwrap();
    assert_eq!(none.output, 0);
    engine.blocking().close().unwrap();
}

/// Asks something outside that never answers.
#[derive(Clone, Copy)]
struct Call;

impl Computation for Call {
    const NAME: &'static str = "call";
    type Input = ();
    type Output = u64;
    type Kind = External;
}

#[derive(Clone, Default)]
struct Silent {
    asked: Arc<AtomicU32>,
}

impl HostFunction<Call> for Silent {
    async fn run(&self, _attempt: Attempt, (): ()) -> Result<u64, Failure> {
        std::future::pending().await
    }
}

impl Reconcile<Call> for Silent {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, (): ()) -> Reconciled<u64> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Reconciled::Done(41)
    }
}

struct Calls;

impl Saga for Calls {
    const NAME: &'static str = "calls";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        let step = saga.step("call", Call, ());
        let found = step.timeout(Duration::from_millis(1)).await?;
        Ok(found + 1)
    }
}

#[test]
fn a_step_that_is_not_answered_in_time_is_asked_about_and_goes_on_with_what_is_found() {
    let world = World::new();
    let silent = Silent::default();
    let builder = world.builder().external(Call, silent.clone()).saga(Calls);
    let engine = builder.open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Calls>(Key::named("s"), ())).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 42);
    assert_eq!(silent.asked.load(Ordering::SeqCst), 1);
    engine.blocking().close().unwrap();
}
