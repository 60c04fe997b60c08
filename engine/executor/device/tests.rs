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
use orlop_saga::audit::{Actor, AuditEvent, Denial};
use orlop_saga::effect::EffectId;
use orlop_saga::id::Fence;
use orlop_saga::key::Key;
use orlop_saga::trace::TraceContext;

use super::*;
use crate::device::Source;
use crate::engine::Engine;
use crate::executor::{Ended, Owned, Owner, Slot};
use crate::lease::Pulse;
use crate::registry::Binding;
use crate::tenant::Tenant;

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
        let builder = Engine::builder(folder.path().join("store")).audit_sink(told.clone());
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
        let executor = &self.engine.core.executor;
        let blake3 = self.engine.core.registry.code("blake3").unwrap();
        let Binding::Device(code) = &blake3.binding else {
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
        let device = &bench.engine.core.executor.device;
        let source = Source::from(&buffer);
        buffer::bind(device, bench.alice.id(), &[source])
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
