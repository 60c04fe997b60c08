//! The code that the committed stores were written by and are opened with again.
//!
//! Names and encodings here are part of the fixtures: what is changed must still run old inputs.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::newer::Heeds;
use orlop::{
    Attempt, BulkheadOptions, Computation, DeviceOptions, Engine, EngineBuilder, External, Failure,
    HostFunction, Late, Limits, Options, Pure, Reconcile, Reconciled, RemoteKey, RetryPolicy, Saga,
    SagaContext, SagaError, StoreOptions, Undo, UndoFunction, Undoing,
};

/// Longer than any fixture will be kept.
pub(crate) const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 10_000);
const NARROW: &str = "narrow";

/// The outside, and whether what is called "hangs" hangs.
#[derive(Clone, Default)]
pub(crate) struct World {
    /// A fixture is being written.
    pub(crate) writing: bool,
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// What was written under which remote key.
    pub(crate) present: BTreeMap<[u8; 32], String>,
    /// Every write and removal that changed something, in order.
    pub(crate) ledger: Vec<String>,
    /// How many attempts hang.
    pub(crate) hanging: u32,
}

impl World {
    pub(crate) fn hanging(&self) -> u32 {
        self.state.lock().unwrap().hanging
    }

    pub(crate) fn present(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let mut names: Vec<String> = state.present.values().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn ledger(&self) -> Vec<String> {
        self.state.lock().unwrap().ledger.clone()
    }

    fn insert(&self, key: RemoteKey, name: &str) {
        let mut state = self.state.lock().unwrap();
        let name = name.to_owned();
        if state
            .present
            .insert(*key.as_bytes(), name.clone())
            .is_none()
        {
            state.ledger.push(format!("put {name}"));
        }
    }

    async fn put(&self, key: RemoteKey, name: &str) -> Result<u64, Failure> {
        if name.starts_with("unknowable") {
            return Err(Failure::in_doubt("no reply"));
        }
        let hangs = self.writing && name.starts_with("hangs");
        if !hangs || name.contains("after") {
            self.insert(key, name);
        }
        if hangs {
            self.hang().await;
        }
        Ok(name.len() as u64)
    }

    async fn hang(&self) {
        self.state.lock().unwrap().hanging += 1;
        pending::<()>().await;
    }

    fn tell(&self, key: RemoteKey, name: &str) -> Reconciled<u64> {
        if name.starts_with("unknowable") {
            return Reconciled::Unknown("nobody knows".to_owned());
        }
        if self
            .state
            .lock()
            .unwrap()
            .present
            .contains_key(key.as_bytes())
        {
            Reconciled::Done(name.len() as u64)
        } else {
            Reconciled::NotDone
        }
    }
}

/// Doubles a number, but for 13.
#[derive(Clone, Copy)]
pub(crate) struct Double;

impl Computation for Double {
    const NAME: &'static str = "double";
    const RETENTION: Duration = FOR_EVER;
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Double> for World {
    async fn run(&self, _attempt: Attempt, input: u64) -> Result<u64, Failure> {
        if input == 13 {
            return Err(Failure::permanent("thirteen is not doubled"));
        }
        Ok(input * 2)
    }
}

/// As many bytes as asked for: outcomes of every size.
#[derive(Clone, Copy)]
pub(crate) struct Fill;

impl Computation for Fill {
    const NAME: &'static str = "fill";
    const RETENTION: Duration = FOR_EVER;
    type Input = u32;
    type Output = Vec<u8>;
    type Kind = Pure;
}

impl HostFunction<Fill> for World {
    async fn run(&self, _attempt: Attempt, input: u32) -> Result<Vec<u8>, Failure> {
        let byte = |at: u32| u8::try_from(at % 251).unwrap_or_default();
        Ok((0..input).map(byte).collect())
    }
}

/// Writes a name outside.
#[derive(Clone, Copy)]
pub(crate) struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    const RETENTION: Duration = FOR_EVER;
    type Input = String;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for World {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        self.put(attempt.remote_key, &input).await
    }
}

impl Reconcile<Put> for World {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: String) -> Reconciled<u64> {
        self.tell(attempt.remote_key, &input)
    }
}

/// The same, one at a time.
#[derive(Clone, Copy)]
pub(crate) struct PutNarrow;

impl Computation for PutNarrow {
    const NAME: &'static str = "put_narrow";
    const RETENTION: Duration = FOR_EVER;
    type Input = String;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<PutNarrow> for World {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        self.put(attempt.remote_key, &input).await
    }

    fn bulkhead(&self) -> &'static str {
        NARROW
    }
}

impl Reconcile<PutNarrow> for World {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: String) -> Reconciled<u64> {
        self.tell(attempt.remote_key, &input)
    }
}

/// Removes what a [`Put`] wrote.
#[derive(Clone, Copy)]
pub(crate) struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = String;
    type Step = Put;
}

impl UndoFunction<Remove> for World {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Remove>) -> Result<(), Failure> {
        let name = &undoing.argument;
        if self.writing && name.contains("hangs") {
            self.hang().await;
        }
        if self.writing && name.contains("locked") {
            return Err(Failure::permanent("it is locked"));
        }
        let mut state = self.state.lock().unwrap();
        if state.present.remove(undoing.step_key.as_bytes()).is_some() {
            state.ledger.push(format!("remove {name}"));
        }
        Ok(())
    }
}

/// What becomes of a [`Plan`].
pub(crate) const COMPLETES: u8 = 0;
pub(crate) const FAILS: u8 = 1;
pub(crate) const HANGS: u8 = 2;
pub(crate) const HANGS_BACKWARD: u8 = 3;
pub(crate) const LOCKED: u8 = 4;
pub(crate) const PANICS: u8 = 5;
pub(crate) const SLEEPS: u8 = 6;

/// Every call of version 1 in one saga; its mode says where it stops.
pub(crate) struct Plan {
    pub(crate) writing: bool,
}

impl Saga for Plan {
    const NAME: &'static str = "plan";
    const RETENTION: Duration = FOR_EVER;
    type Input = (String, u8);
    type Output = (u64, u64);

    async fn run(
        &self,
        saga: SagaContext,
        (name, mode): (String, u8),
    ) -> Result<(u64, u64), SagaError> {
        let at = saga.now("now")?;
        let drawn = saga.random("drawn")?;
        let undo = match mode {
            HANGS_BACKWARD => format!("{name} hangs"),
            LOCKED => format!("{name} locked"),
            _ => name.clone(),
        };
        saga.step("one", Put, format!("{name} one"))
            .undo(Remove, undo)
            .await?;
        for index in 0..2 {
            let part = saga.scope("part", index);
            let put = format!("{name} part {index}");
            part.step("put", Put, put.clone()).undo(Remove, put).await?;
        }
        match mode {
            FAILS | HANGS_BACKWARD | LOCKED => return Err(SagaError::failed("as asked for")),
            HANGS => {
                let hangs = format!("hangs before {name}");
                saga.step("two", Put, hangs.clone())
                    .undo(Remove, hangs)
                    .await?;
            }
            PANICS => assert!(!self.writing, "as asked for"),
            SLEEPS => saga.sleep("long", Duration::from_secs(2)).await?,
            _ => saga.sleep("short", Duration::from_millis(1)).await?,
        }
        let saga = saga.pivot().await?;
        saga.step("three", Put, format!("{name} three")).await?;
        Ok((at.get(), drawn))
    }
}

/// Small segments, so that a fixture is small.
pub(crate) fn options() -> Options {
    let mut store = StoreOptions::default();
    store.log.segment_bytes = 512 << 10;
    store.log.first_segment_bytes = 64 << 10;
    store.log.batch_bytes_max = 256 << 10;
    store.log.group_bytes_max = 256 << 10;
    store.log.reserve_bytes = 0;
    store.projector.export_bytes_min = 16 << 10;
    store.projector.checkpoint_bytes = 8 << 10;
    store.projector.blobs.bytes_min = 8 << 10;
    Options {
        store,
        limits: Limits {
            retry: RetryPolicy {
                base: Duration::from_millis(1),
                cap: Duration::from_millis(2),
                ..RetryPolicy::default()
            },
            reconciles_max: 2,
            input_bytes_max: 16 << 10,
            output_bytes_max: 40 << 10,
            ..Limits::default()
        },
        device: DeviceOptions {
            workers: 1,
            arena_bytes: 1 << 20,
            ..DeviceOptions::default()
        },
        bulkheads: vec![BulkheadOptions {
            in_flight_max: 1,
            ..BulkheadOptions::new(NARROW)
        }],
        close_timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

/// An engine over a store folder.
pub(crate) fn builder(store: &Path, world: &World) -> EngineBuilder {
    Engine::builder(store)
        .options(options())
        .pure(Double, world.clone())
        .pure(Fill, world.clone())
        .external(Put, world.clone())
        .external(PutNarrow, world.clone())
        .undo(Remove, world.clone())
        .saga(Plan {
            writing: world.writing,
        })
        .saga(Heeds)
}
