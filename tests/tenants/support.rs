//! An engine with two tenants, and who hears what is audited.

use std::path::Path;
use std::sync::Arc;

use orlop::{
    Actor, Attempt, AuditEntry, AuditEvent, AuditOptions, Computation, Denial, Engine,
    EngineBuilder, Failure, HostFunction, MemorySink, Object, Operation, Options, Pure, Saga,
    SagaContext, SagaError, TenantId, TenantManager, wait,
};

/// Doubles a number.
#[derive(Clone, Copy)]
pub(crate) struct Double;

impl Computation for Double {
    const NAME: &'static str = "double";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Double> for Double {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        Ok(input * 2)
    }
}

/// Waits for a signal.
pub(crate) struct Listener;

impl Saga for Listener {
    const NAME: &'static str = "listener";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, _: u64) -> Result<u64, SagaError> {
        Ok(saga.signal("word").await?)
    }
}

/// An engine on a folder, the entries that it told, and two tenants. The one with the lowest id is
/// the one that tries what it may not.
pub(crate) struct Two {
    pub(crate) engine: Engine,
    pub(crate) told: MemorySink,
    pub(crate) mallory: TenantManager,
    pub(crate) alice: TenantManager,
}

/// An hour: what is told in the tests is told because they ask for it.
pub(crate) fn patient() -> AuditOptions {
    AuditOptions {
        interval: std::time::Duration::from_hours(1),
        ..AuditOptions::default()
    }
}

pub(crate) fn builder(folder: &Path, audit: AuditOptions) -> EngineBuilder {
    let options = Options {
        audit,
        ..Options::default()
    };
    Engine::builder(folder)
        .options(options)
        .pure(Double, Double)
        .saga(Listener)
}

impl Two {
    pub(crate) fn open(folder: &Path) -> Self {
        Self::with(folder, patient())
    }

    pub(crate) fn with(folder: &Path, audit: AuditOptions) -> Self {
        let told = MemorySink::new(4096);
        let engine = builder(folder, audit).audit_sink(told.clone());
        let engine = engine.open_blocking().unwrap();
        let mallory = wait(engine.manage("mallory")).unwrap();
        let alice = wait(engine.manage("alice")).unwrap();
        assert!(mallory.tenant().id() < alice.tenant().id());
        Self {
            engine,
            told,
            mallory,
            alice,
        }
    }

    /// What was told since the last time.
    pub(crate) fn entries(&self) -> Vec<AuditEntry> {
        wait(self.engine.flush_audit());
        let entries = self.told.entries();
        self.told.clear();
        entries
    }

    /// The attempts that were told since the last time, and nothing else was.
    pub(crate) fn denials(&self) -> Vec<Denial> {
        let denial = |entry: AuditEntry| match entry.event {
            AuditEvent::Denied(denial) => denial,
            other => panic!("{other:?}"),
        };
        self.entries().into_iter().map(denial).collect()
    }

    /// That mallory tried something on what is alice's.
    pub(crate) fn denial(&self, operation: Operation, object: Object) -> Denial {
        Denial {
            who: actor(self.mallory.tenant().id(), "mallory"),
            operation,
            object,
            owner: Some(self.alice.tenant().id()),
        }
    }

    pub(crate) fn close(self) {
        self.engine.blocking().close().unwrap();
    }
}

pub(crate) fn actor(tenant: TenantId, label: &str) -> Actor {
    Actor {
        tenant,
        label: label.into(),
        tag: orlop::AuditTag::default(),
    }
}

/// A sink that does what a closure does.
pub(crate) struct Doing<F>(pub(crate) Arc<F>);

impl<F> orlop::AuditSink for Doing<F>
where
    F: Fn(&[AuditEntry]) -> Result<(), orlop::SinkError> + Send + Sync + 'static,
{
    fn name(&self) -> &'static str {
        "doing"
    }

    fn record(&self, entries: &[AuditEntry]) -> Result<(), orlop::SinkError> {
        (self.0)(entries)
    }
}
