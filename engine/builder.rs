//! Building an engine: what code is bound to which name, and where the store is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_admission::{AuditSink, Bulkhead, BulkheadOptions, TracingSink, WaitingRoom};
use orlop_gpu::{Backend, DeviceHost, Epochs, HostOp, LocalOpcode};
use orlop_saga::effect::CodeRef;
use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::Clock;
use orlop_store::store::{Parts, Store};
use tokio::sync::oneshot;

use crate::audit::Auditor;
use crate::budget::Treasury;
use crate::buffer::{BufferSource, Cache};
use crate::clock::SystemClock;
use crate::computation::{Computation, External, Pure, Undo};
use crate::core::{Core, CoreParts, Projections};
use crate::counter::CounterSaga;
use crate::device::{
    Blake3, Blake3Many, Crc32c, Crc32cPages, DeviceBound, DeviceFunction, FilterAggregate, Noop,
    VectorTopk,
};
use crate::engine::Engine;
use crate::error::RegisterError;
use crate::executor::{Bell, DEVICE, Executor, Gate, Rope};
use crate::host::{BlockingFunction, Bound, HostFunction, Reconcile, UndoFunction};
use crate::open::OpenError;
use crate::options::Options;
use crate::recover;
use crate::registry::{Binding, Code, Registry, SagaEntry, UndoEntry};
use crate::runtime::OwnRuntime;
use crate::saga::Saga;

/// Collects what an engine is made of; [`open`](Self::open) makes it.
#[must_use = "nothing is opened until `open`"]
pub struct EngineBuilder {
    place: Place,
    options: Options,
    backend: Option<Backend>,
    registry: Registry,
    ops: Vec<Arc<dyn HostOp>>,
    clock: Arc<dyn Clock>,
    source: Option<Arc<dyn BufferSource>>,
    sinks: Vec<Box<dyn AuditSink>>,
    error: Option<RegisterError>,
    #[cfg(feature = "testkit")]
    turnstile: Option<Arc<dyn crate::executor::turnstile::Turnstile>>,
}

/// Where the journal and the tables are.
enum Place {
    Folder(PathBuf),
    Parts(Box<Parts>),
}

impl EngineBuilder {
    pub(crate) fn in_folder(path: &Path) -> Self {
        Self::new(Place::Folder(path.to_owned()))
    }

    /// An engine on a journal and tables of the embedder's own, already opened. Who may open them
    /// a second time is the embedder's to say.
    pub fn on_parts(parts: Parts) -> Self {
        Self::new(Place::Parts(Box::new(parts)))
    }

    fn new(place: Place) -> Self {
        let builder = Self {
            place,
            options: Options::default(),
            backend: None,
            registry: Registry::default(),
            ops: Vec::new(),
            clock: Arc::new(SystemClock::default()),
            source: None,
            sinks: Vec::new(),
            error: None,
            #[cfg(feature = "testkit")]
            turnstile: None,
        };
        builder
            .device(Blake3, Blake3)
            .device(Blake3Many, Blake3Many)
            .device(Crc32c, Crc32c)
            .device(Crc32cPages, Crc32cPages)
            .device(FilterAggregate, FilterAggregate)
            .device(VectorTopk, VectorTopk)
            .device(Noop, Noop)
    }

    /// Bounds and sizes.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// What device work runs on, whatever the options say; [`Engine::device_choice`] says what it
    /// came to.
    ///
    /// ```
    /// use orlop::{Backend, CudaOptions, Engine};
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// let engine = Engine::builder(folder.path())
    ///     .backend(Backend::Auto(CudaOptions::default()))
    ///     .open_blocking()
    ///     .unwrap();
    /// println!("device work runs on {}", engine.device_choice());
    /// ```
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Another clock than the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the device runs: in this process or in one of its own. The same as
    /// `options.device.host`, and given after [`options`](Self::options).
    pub fn device_host(mut self, host: DeviceHost) -> Self {
        self.options.device.host = host;
        self
    }

    /// Has every attempt pass a turnstile.
    #[cfg(feature = "testkit")]
    pub(crate) fn turnstile(
        mut self,
        turnstile: Arc<dyn crate::executor::turnstile::Turnstile>,
    ) -> Self {
        self.turnstile = Some(turnstile);
        self
    }

    /// What is bound, without an engine.
    #[cfg(feature = "testkit")]
    pub(crate) fn definitions(self) -> Result<(Registry, crate::options::Limits), RegisterError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok((self.registry, self.options.limits)),
        }
    }

    /// Tells another sink of cross-tenant attempts and of refusals. Each gets every entry.
    pub fn audit_sink(mut self, sink: impl AuditSink) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Where the bytes of buffers come from when they are not on the device.
    pub fn buffer_source(mut self, source: impl BufferSource) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Binds asynchronous code to a `Pure` computation.
    pub fn pure<C>(self, computation: C, function: impl HostFunction<C>) -> Self
    where
        C: Computation<Kind = Pure>,
    {
        let _ = computation;
        let bulkhead = function.bulkhead();
        let binding = Binding::Async(Arc::new(Bound::<C, _>::new(function)));
        self.code::<C>(bulkhead, binding, |code| code)
    }

    /// Binds blocking code to a `Pure` computation.
    pub fn blocking<C>(self, computation: C, function: impl BlockingFunction<C>) -> Self
    where
        C: Computation<Kind = Pure>,
    {
        let _ = computation;
        let bulkhead = function.bulkhead();
        let binding = Binding::Blocking(Arc::new(Bound::<C, _>::new(function)));
        self.code::<C>(bulkhead, binding, |code| code)
    }

    /// Binds asynchronous code to an `External` computation: code that can also say what became
    /// of an attempt whose end nobody heard.
    pub fn external<C, F>(self, computation: C, function: F) -> Self
    where
        C: Computation<Kind = External>,
        F: HostFunction<C> + Reconcile<C>,
    {
        let _ = computation;
        let (bulkhead, late) = (function.bulkhead(), Some(function.late()));
        let bound = Arc::new(Bound::<C, _>::new(function));
        let binding = Binding::Async(Arc::<Bound<C, F>>::clone(&bound));
        self.code::<C>(bulkhead, binding, |code| Code {
            reconcile: Some(bound),
            late,
            ..code
        })
    }

    /// Binds an operation of the device to a `Pure` computation.
    pub fn device<C>(mut self, computation: C, function: impl DeviceFunction<C>) -> Self
    where
        C: Computation<Kind = Pure>,
    {
        let _ = computation;
        self.ops.extend(function.op());
        let binding = Binding::Device(DeviceBound::<C, _>::new(function));
        self.code::<C>(DEVICE, binding, |code| code)
    }

    /// Gives the tenant called `tenant` a window of `count` opcodes of its own, numbered from zero.
    /// Each life of that tenant has it from its registration to its end.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use orlop::op::{OpError, Output, Partial, TaskArgs};
    /// # use orlop::{Computation, DeviceFunction, Engine, Failure, HostOp, Opcode, Plan, Pure};
    /// # #[derive(Clone, Copy)]
    /// # struct Price;
    /// # impl Computation for Price {
    /// #     const NAME: &'static str = "price";
    /// #     type Input = u32;
    /// #     type Output = u8;
    /// #     type Kind = Pure;
    /// # }
    /// # impl DeviceFunction<Price> for Price {
    /// #     fn opcode(&self) -> Opcode { Opcode::new(0) }
    /// #     fn op(&self) -> Option<Arc<dyn HostOp>> { Some(Arc::new(*self)) }
    /// #     fn plan(&self, _: u32) -> Result<Plan, Failure> { Ok(Plan::default()) }
    /// #     fn output(&self, result: &[u8]) -> Result<u8, Failure> { Ok(result[0]) }
    /// # }
    /// # impl HostOp for Price {
    /// #     fn opcode(&self) -> Opcode { Opcode::new(0) }
    /// #     fn name(&self) -> &'static str { "price" }
    /// #     fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
    /// #         Ok(Partial::EMPTY)
    /// #     }
    /// #     fn reduce(
    /// #         &self, _: &TaskArgs<'_>, _: &[Partial], _: &mut [u64], out: &mut Output<'_>,
    /// #     ) -> Result<(), OpError> { out.write(&[42]) }
    /// # }
    /// # let folder = tempfile::tempdir().unwrap();
    /// let engine = Engine::builder(folder.path())
    ///     .opcodes("acme", 8)
    ///     .private_device("acme", Price, Price)
    ///     .open_blocking()
    ///     .unwrap();
    /// let acme = engine.blocking().tenant("acme").unwrap();
    /// assert_eq!(orlop::wait(acme.submit(Price, 7_u32)).unwrap().output, 42);
    /// // To anybody else there is no such computation.
    /// let other = engine.blocking().tenant("other").unwrap();
    /// let refused = orlop::wait(other.submit(Price, 7_u32)).unwrap_err();
    /// assert_eq!(refused, orlop::SubmitError::Unregistered { name: "price" });
    /// ```
    pub fn opcodes(mut self, tenant: &str, count: u32) -> Self {
        let label = TenantLabel::new(tenant).map_err(RegisterError::from);
        let packs = &mut self.registry.packs;
        if let Err(error) = label.and_then(|label| packs.reserve(label, count)) {
            self.error = self.error.or(Some(error));
        }
        self
    }

    /// Binds an operation of the device to a `Pure` computation that exists for the tenant called
    /// `tenant` alone: to anybody else it is not registered. [`DeviceFunction::opcode`] is its
    /// number among the tenant's [own](Self::opcodes), and [`DeviceFunction::op`] must give it.
    ///
    /// Private means that others do not see it and cannot reach it, not that it is kept from
    /// anything: operations are trusted code.
    pub fn private_device<C>(
        mut self,
        tenant: &str,
        computation: C,
        function: impl DeviceFunction<C>,
    ) -> Self
    where
        C: Computation<Kind = Pure>,
    {
        let _ = computation;
        let label = match TenantLabel::new(tenant) {
            Ok(label) => label,
            Err(error) => {
                self.error = self.error.or(Some(error.into()));
                return self;
            }
        };
        let local = LocalOpcode::new(function.opcode().get());
        let packs = &mut self.registry.packs;
        if let Err(error) = packs.add(label.clone(), local, C::NAME, function.op()) {
            self.error = self.error.or(Some(error));
        }
        let binding = Binding::Device(DeviceBound::<C, _>::private(function, local));
        let owner = Some(label);
        self.code::<C>(DEVICE, binding, |code| Code { owner, ..code })
    }

    /// Assigns a computation that is bound already to an exclusion group, by its name in the
    /// conflict matrix of the computation's bulkhead: it never runs beside one of a group that
    /// conflicts with that.
    pub fn exclusion<C: Computation>(mut self, computation: C, group: &str) -> Self {
        let _ = computation;
        if let Err(error) = self.registry.exclude(C::NAME, group) {
            self.error = self.error.or(Some(error));
        }
        self
    }

    /// Binds asynchronous code to an undo.
    pub fn undo<U: Undo>(mut self, undo: U, function: impl UndoFunction<U>) -> Self {
        let _ = undo;
        match self.registry.claim(U::NAME) {
            Ok(ordinal) => self.registry.add_undo(UndoEntry {
                reference: CodeRef::new(U::NAME, U::VERSION),
                ordinal,
                bulkhead: function.bulkhead().into(),
                code: Arc::new(Bound::<U, _>::new(function)),
            }),
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    /// Registers a saga.
    pub fn saga<S: Saga>(self, saga: S) -> Self {
        self.add_saga(saga, None)
    }

    /// Registers a saga and the one that takes it back after its pivot: a cancel that comes too
    /// late names it.
    pub fn saga_with_counter<S: Saga, C: CounterSaga<S>>(self, saga: S, counter: C) -> Self {
        self.add_saga(saga, Some(C::NAME.into())).saga(counter)
    }

    fn add_saga<S: Saga>(mut self, saga: S, counter: Option<Box<str>>) -> Self {
        match self.registry.claim(S::NAME) {
            Ok(_) => self.registry.add_saga(SagaEntry {
                reference: CodeRef::new(S::NAME, S::VERSION),
                code: Arc::new(saga),
                counter,
            }),
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    fn code<C: Computation>(
        mut self,
        bulkhead: &str,
        binding: Binding,
        finish: impl FnOnce(Code) -> Code,
    ) -> Self {
        match self.registry.claim(C::NAME) {
            Ok(ordinal) => self.registry.add_code(finish(Code {
                reference: CodeRef::new(C::NAME, C::VERSION),
                ordinal,
                external: <C::Kind as crate::computation::Kind>::EXTERNAL,
                retention: C::RETENTION,
                bulkhead: bulkhead.into(),
                owner: None,
                exclusion: None,
                binding,
                reconcile: None,
                late: None,
            })),
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    /// Opens the engine: makes durable what the store has, recovers it, and goes on with what was
    /// unfinished. Works on any runtime, or none.
    ///
    /// # Errors
    /// [`OpenError`]: nothing is open.
    pub async fn open(self) -> Result<Engine, OpenError> {
        let (tell, told) = oneshot::channel();
        let opening = std::thread::Builder::new().name("orlop-open".to_owned());
        let spawned = opening.spawn(move || {
            // If nobody waits any more, the engine is dropped, which ends it.
            let _ = tell.send(self.open_blocking());
        });
        spawned.map_err(|source| OpenError::Thread { source })?;
        told.await.unwrap_or(Err(OpenError::Panicked))
    }

    /// The same, on this thread, which is blocked.
    ///
    /// # Errors
    /// [`OpenError`]: nothing is open.
    pub fn open_blocking(self) -> Result<Engine, OpenError> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        let mut options = self.options;
        options.device.backend = self.backend.unwrap_or(options.device.backend);
        options.check()?;
        let mut registry = self.registry;
        registry.packs.check()?;
        registry.resolve_exclusions(|bulkhead, group| {
            let named = options.bulkhead(bulkhead)?;
            named.conflicts.group(group)
        })?;
        let clock = self.clock;
        let blocking = blocking_max(&options);
        let runtime = OwnRuntime::start(options.io_threads, blocking, Arc::clone(&clock))
            .map_err(|source| OpenError::Thread { source })?;
        let device = Arc::new(Epochs::open(&options.device, self.ops)?);
        let bulkheads = bulkheads(&options, device.current().workers(), &clock)?;
        for name in registry.undo_bulkheads().chain([crate::host::HOST_IO]) {
            if options.reserved_slots(name) == Some(0) {
                return Err(OpenError::NothingReserved {
                    name: name.to_owned(),
                });
            }
        }
        for (name, bulkhead) in registry.bulkheads() {
            if !bulkheads.contains_key(bulkhead) {
                let (name, bulkhead) = (name.to_owned(), bulkhead.to_owned());
                return Err(RegisterError::NoBulkhead { name, bulkhead }.into());
            }
        }
        let runtime = Arc::new(runtime);
        let bell = Bell::new(Arc::clone(&runtime), Arc::clone(&clock));
        let alarm = Arc::new(Rope(Arc::clone(&bell)));
        let room = WaitingRoom::new(options.limits.waiting_max, Arc::clone(&clock), alarm);
        for gate in bulkheads.values() {
            room.serve(gate.bulkhead());
        }
        let executor = Arc::new(Executor {
            bulkheads,
            room,
            device,
            runtime,
            clock: Arc::clone(&clock),
            source: self.source,
            cache: Cache::new(options.cached_bytes()),
            treasury: Treasury::new(options.budgets),
            output_max: options.limits.output_bytes_max,
            busy: Arc::default(),
            audit: Arc::new(Auditor::new(options.audit, Arc::clone(&clock))),
            #[cfg(feature = "testkit")]
            turnstile: self.turnstile,
        });
        bell.attach(&executor);
        let lasting = Arc::downgrade(&executor);
        executor.device.when_lost(move |next| {
            if let Some(executor) = lasting.upgrade() {
                executor.cache.succeed(next);
            }
        });
        let projections = Arc::new(Projections::default());
        let observer: Arc<Projections> = Arc::clone(&projections);
        let (store, recovered) = match self.place {
            Place::Folder(path) => Store::open(&path, options.store, Arc::clone(&clock), observer)?,
            Place::Parts(parts) => {
                let projector = options.store.projector;
                Store::open_with(*parts, projector, Arc::clone(&clock), observer)?
            }
        };
        let core = Core::new(CoreParts {
            store,
            recovered: &recovered,
            options: &options,
            clock,
            registry: Arc::new(registry),
            executor,
        })?;
        projections.attach(&core);
        let mut sinks = self.sinks;
        if options.audit.tracing {
            sinks.push(Box::new(TracingSink));
        }
        core.executor
            .audit
            .start(&core, sinks)
            .map_err(|source| OpenError::Thread { source })?;
        core.driver
            .run(&core)
            .map_err(|source| OpenError::Thread { source })?;
        let recovery = recover::go_on(&core, recovered)?;
        Ok(Engine::new(core, recovery))
    }
}

/// The most threads for what blocks.
const BLOCKING_MAX: u32 = 1024;

/// Threads for what blocks: one for each function that may run at once, and one for each attempt
/// on the device, which may wait for the source of its buffers. They are started when needed.
fn blocking_max(options: &Options) -> usize {
    let named = options
        .bulkheads
        .iter()
        .map(BulkheadOptions::in_flight_resolved)
        .sum::<u32>();
    let all = named
        .saturating_add(options.cpu_bulkhead.in_flight_resolved())
        .saturating_add(options.device_bulkhead.in_flight_resolved())
        .saturating_add(4);
    all.min(BLOCKING_MAX) as usize
}

fn bulkheads(
    options: &Options,
    workers: u32,
    clock: &Arc<dyn Clock>,
) -> Result<HashMap<Box<str>, Gate>, OpenError> {
    let mut bulkheads = HashMap::new();
    let mut device = options.device_bulkhead.clone();
    if device.workers == 0 {
        device.workers = workers;
    }
    let own = [&device, &options.io_bulkhead, &options.cpu_bulkhead];
    for options in own.into_iter().chain(&options.bulkheads) {
        let gate = Gate::new(Bulkhead::new(options, Arc::clone(clock))?);
        if bulkheads
            .insert(options.name.as_str().into(), gate)
            .is_some()
        {
            return Err(OpenError::BulkheadTwice {
                name: options.name.clone(),
            });
        }
    }
    for name in [DEVICE, crate::host::HOST_IO, crate::host::HOST_CPU] {
        if !bulkheads.contains_key(name) {
            return Err(OpenError::NoBulkhead { name });
        }
    }
    Ok(bulkheads)
}
