//! Code that waits until it is let go, so that tests decide what overlaps.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use orlop::{
    Attempt, BulkheadOptions, Computation, Engine, EngineBuilder, Failure, HostFunction, OpenError,
    Options, Pure, StoreOpenError,
};
use tokio::sync::Semaphore;

/// Gives back its input once it is let go.
#[derive(Clone, Copy)]
pub(crate) struct Pass;

impl Computation for Pass {
    const NAME: &'static str = "pass";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

/// The code behind [`Pass`], in a bulkhead of one slot. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate {
    started: Arc<Semaphore>,
    open: Arc<Semaphore>,
    runs: Arc<AtomicU32>,
    failures: Arc<AtomicU32>,
}

impl Gate {
    pub(crate) const BULKHEAD: &str = "narrow";

    pub(crate) fn new() -> Self {
        Self {
            started: Arc::new(Semaphore::new(0)),
            open: Arc::new(Semaphore::new(0)),
            runs: Arc::default(),
            failures: Arc::default(),
        }
    }

    /// Lets so many attempts go, now or when they come.
    pub(crate) fn let_go(&self, attempts: usize) {
        self.open.add_permits(attempts);
    }

    /// The next so many attempts fail, once let go, and may be tried again.
    pub(crate) fn fail(&self, attempts: u32) {
        self.failures.store(attempts, Ordering::SeqCst);
    }

    /// Waits until one more attempt has started.
    pub(crate) fn wait_started(&self) {
        pollster::block_on(self.started.acquire()).unwrap().forget();
    }

    /// How many attempts have started.
    pub(crate) fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }

    /// Options with the bulkhead of this gate.
    pub(crate) fn options() -> Options {
        Options {
            bulkheads: vec![BulkheadOptions {
                in_flight_max: 1,
                ..BulkheadOptions::new(Self::BULKHEAD)
            }],
            ..Options::default()
        }
    }
}

impl HostFunction<Pass> for Gate {
    async fn run(&self, _attempt: Attempt, input: u64) -> Result<u64, Failure> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.started.add_permits(1);
        self.open
            .acquire()
            .await
            .map_err(Failure::permanent)?
            .forget();
        let failing = |left: u32| left.checked_sub(1);
        match self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, failing)
        {
            Ok(_) => Err(Failure::retryable("not yet")),
            Err(_) => Ok(input),
        }
    }

    fn bulkhead(&self) -> &'static str {
        Self::BULKHEAD
    }
}

/// An engine over a folder, with the gate.
pub(crate) fn builder(folder: &Path, gate: &Gate) -> EngineBuilder {
    Engine::builder(folder.join("store"))
        .options(Gate::options())
        .pure(Pass, gate.clone())
}

/// Opens once an engine of this process that was dropped has given the folder back.
pub(crate) fn open_after_drop(builder: impl Fn() -> EngineBuilder) -> Engine {
    loop {
        match builder().open_blocking() {
            Ok(engine) => return engine,
            Err(OpenError::Store(StoreOpenError::Folder(
                orlop::store::folder::FolderError::OpenHere { .. },
            ))) => std::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// How many requests wait at the gate's bulkhead.
pub(crate) fn queued(engine: &Engine) -> u64 {
    let bulkheads = engine.snapshot().bulkheads;
    let named = |name: &str| name == Gate::BULKHEAD;
    let narrow = bulkheads.iter().find(|bulkhead| named(&bulkhead.name));
    narrow.unwrap().ordinary.queued
}
