//! What the device refuses a tenant, told to the audit. The public API binds windows itself and
//! names no slot of the ring, so these are made here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests assert by panicking"
)]

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use orlop_admission::MemorySink;
use orlop_gpu::{HostOp, Output, Partial, TaskArgs};
use orlop_saga::audit::{Actor, AuditEvent, Denial};
use orlop_saga::effect::EffectId;
use orlop_saga::id::Fence;
use orlop_saga::key::Key;
use orlop_saga::trace::TraceContext;

use super::*;
use crate::computation::{Computation, Pure};
use crate::device::{DeviceFunction, Source};
use crate::engine::Engine;
use crate::executor::{Ended, Owned, Owner, Slot};
use crate::lease::Pulse;
use crate::registry::Binding;
use crate::tenant::Tenant;

/// Of alice's window.
#[derive(Clone, Copy)]
struct Own;
/// Registered for everybody, with an operation that is alice's.
#[derive(Clone, Copy)]
struct Public;

impl Computation for Own {
    const NAME: &'static str = "own";
    type Input = ();
    type Output = ();
    type Kind = Pure;
}

impl Computation for Public {
    const NAME: &'static str = "public";
    type Input = ();
    type Output = ();
    type Kind = Pure;
}

const USER: u32 = Opcode::USER_FIRST.get();

/// An operation that does nothing, by its opcode and its owner.
#[derive(Clone, Copy)]
struct Idle(u32, Option<TenantId>);

impl<C: Computation<Kind = Pure, Input = (), Output = ()>> DeviceFunction<C> for Idle {
    fn opcode(&self) -> Opcode {
        Opcode::new(self.0)
    }

    fn op(&self) -> Option<Arc<dyn HostOp>> {
        Some(Arc::new(*self))
    }

    fn plan(&self, (): ()) -> Result<Plan, Failure> {
        Ok(Plan::default())
    }

    fn output(&self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
}

impl HostOp for Idle {
    fn opcode(&self) -> Opcode {
        Opcode::new(self.0)
    }

    fn name(&self) -> &'static str {
        "idle"
    }

    fn owner(&self) -> Option<TenantId> {
        self.1
    }

    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        Ok(Partial::EMPTY)
    }

    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        _: &mut Output<'_>,
    ) -> Result<(), OpError> {
        Ok(())
    }
}

struct Hears(Mutex<mpsc::Sender<Ending>>);

impl Owner for Hears {
    fn ended(self: Arc<Self>, ended: Ended) {
        self.0.lock().send(ended.ending).unwrap();
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    engine: Engine,
    told: MemorySink,
    mallory: Tenant,
    alice: Tenant,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let told = MemorySink::new(16);
        // Mallory is registered first.
        let alice = TenantId::new(1, 1);
        let builder = Engine::builder(folder.path().join("store"))
            .audit_sink(told.clone())
            .opcodes("alice", 2)
            .private_device("alice", Own, Idle(1, None))
            .device(Public, Idle(USER, Some(alice)));
        let engine = builder.open_blocking().unwrap();
        let tenant = |label| pollster::block_on(engine.tenant(label)).unwrap();
        Self {
            mallory: tenant("mallory"),
            alice: tenant("alice"),
            _folder: folder,
            told,
            engine,
        }
    }

    fn attempt(&self, tenant: TenantId) -> Attempt {
        let core = &self.engine.core;
        let key = Key::named("k");
        Attempt {
            remote_key: core.remote_key_of(EffectId { tenant, key }),
            fence: Fence::default(),
            tenant,
            step: None,
            trace: TraceContext::default(),
            cancel: Arc::new(AtomicBool::new(false)),
            pulse: Pulse::new(&core.clock),
        }
    }

    /// Has `tenant` hash what the windows show, whosever they are; says how it ended.
    fn publish(&self, tenant: TenantId, windows: buffer::Windows) -> Ending {
        self.publish_as("blake3", tenant, windows)
    }

    fn publish_as(&self, name: &str, tenant: TenantId, windows: buffer::Windows) -> Ending {
        let executor = &self.engine.core.executor;
        let code = self.engine.core.registry.code(name).unwrap();
        let Binding::Device(code) = &code.binding else {
            panic!("it runs on the device");
        };
        let (tell, told) = mpsc::channel();
        let run = Running {
            slot: Some(Slot {
                treasury: Arc::clone(&executor.treasury),
                permit: None,
                meters: None,
                owner: Owned::new(Arc::new(Hears(Mutex::new(tell)))),
                _busy: executor.busy.begin(executor.runtime.timers().work()),
            }),
            external: false,
        };
        let launch = DeviceLaunch {
            device: self.engine.core.executor.device.current(),
            code: Arc::clone(code),
            attempt: self.attempt(tenant),
            timeout: None,
            plan: Plan::default(),
        };
        executor.publish(launch, windows, Vec::new(), run);
        told.recv().unwrap()
    }

    fn denials(&self) -> Vec<Denial> {
        pollster::block_on(self.engine.flush_audit());
        let denial = |entry: orlop_saga::audit::AuditEntry| match entry.event {
            AuditEvent::Denied(denial) => denial,
            other @ (AuditEvent::Suppressed { .. }
            | AuditEvent::Refused { .. }
            | AuditEvent::Pruned { .. }) => panic!("{other:?}"),
        };
        self.told.entries().into_iter().map(denial).collect()
    }

    fn denial(tenant: TenantId, label: &str, object: Object) -> Denial {
        Denial {
            who: Actor {
                tenant,
                label: label.into(),
                tag: AuditTag::default(),
            },
            operation: Operation::Run,
            object,
            owner: None,
        }
    }
}

#[test]
fn a_window_of_another_tenant_is_not_published_and_audited() {
    let bench = Bench::new();
    let buffer = bench.alice.buffer(&vec![9; 100_000]).unwrap();
    let bind = || {
        let device = &bench.engine.core.executor.device.current();
        let source = Source::from(&buffer);
        buffer::bind(
            device,
            &bench.engine.core.executor.cache,
            bench.alice.id(),
            &[source],
        )
        .ok()
        .unwrap()
    };
    let ending = bench.publish(bench.mallory.id(), bind());
    assert!(matches!(ending, Ending::Failed(_)));
    let mallory = bench.mallory.id();
    let denial = Bench::denial(mallory, "mallory", Object::Window(Some(0)));
    assert_eq!(bench.denials(), [denial]);
    // The owner's own window is served.
    let ending = bench.publish(bench.alice.id(), bind());
    assert!(matches!(ending, Ending::Output(_)));
    assert_eq!(bench.denials().len(), 1);
}

#[test]
fn an_entry_of_a_life_that_the_device_does_not_know_is_refused_and_audited() {
    let bench = Bench::new();
    let now = bench.mallory.id();
    let other = TenantId::new(now.slot(), now.generation() + 1);
    let ending = bench.publish(other, buffer::Windows::new());
    assert!(matches!(ending, Ending::Failed(_)));
    // Nobody has that id: there is no name to tell.
    assert_eq!(
        bench.denials(),
        [Bench::denial(other, "", Object::Life(other))]
    );
}

#[test]
fn an_opcode_of_another_tenant_is_refused_by_the_device_and_audited_with_its_owner() {
    let bench = Bench::new();
    let (alice, mallory) = (bench.alice.id(), bench.mallory.id());
    let windows = buffer::Windows::new;
    let ending = bench.publish_as("public", mallory, windows());
    let Ending::Failed(failure) = ending else {
        panic!("{ending:?}");
    };
    // Nothing of whose it is, nor that it is anybody's.
    let text = failure.to_string();
    assert!(
        text.contains("UnknownOpcode") && !text.contains("alice"),
        "{text}"
    );
    let denial = Denial {
        owner: Some(alice),
        ..Bench::denial(mallory, "mallory", Object::Opcode(USER))
    };
    assert_eq!(bench.denials(), [denial]);
    let ending = bench.publish_as("public", alice, windows());
    assert!(matches!(ending, Ending::Output(_)), "{ending:?}");
    assert_eq!(bench.denials().len(), 1);
}

#[test]
fn a_private_opcode_is_translated_for_its_own_life_alone() {
    let bench = Bench::new();
    let (alice, mallory) = (bench.alice.id(), bench.mallory.id());
    let windows = buffer::Windows::new;
    let ending = bench.publish_as("own", alice, windows());
    assert!(matches!(ending, Ending::Output(_)), "{ending:?}");
    assert_eq!(bench.denials(), []);
    let reborn = TenantId::new(alice.slot(), alice.generation() + 1);
    for (other, label) in [(mallory, "mallory"), (reborn, "")] {
        let ending = bench.publish_as("own", other, windows());
        assert!(matches!(ending, Ending::Failed(_)), "{ending:?}");
        let denial = Bench::denial(other, label, Object::Life(other));
        assert_eq!(bench.denials().last(), Some(&denial));
    }
}
