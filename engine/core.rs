//! The core: what every handle, callback and thread of one open engine shares.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use orlop_admission::{CapacityError, Tenants};
use orlop_saga::canonical::{self, EncodeError, Payload};
use orlop_saga::compat::{Format, NotInFormat};
use orlop_saga::effect::{EffectId, Settlement};
use orlop_saga::event::Event;
use orlop_saga::id::{Attempt, Epoch, Fence, Incarnation, Lsn, StoreId, TenantId};
use orlop_saga::key::{Key, RemoteKey};
use orlop_saga::record::RecordError;
use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::Clock;
use orlop_store::log::{Acknowledge, AppendError, Lane, LsnRange, Purpose};
use orlop_store::projector::{Projected, RetentionClock};
use orlop_store::store::{AppendRefused, Recovered, Store};
use orlop_store::tables::TablesError;
use parking_lot::Mutex;
use serde::Serialize;

use crate::close::Closing;
use crate::course::Course;
use crate::driver::{Driver, Message};
use crate::error::{SubmitError, Unavailable};
use crate::executor::Executor;
use crate::flight::{Durability, Flight};
use crate::halfway::{self, Marks};
use crate::operator::{Drains, Feed};
use crate::options::{Limits, Options, RetryPolicy};
use crate::registry::{Code, Registry};
use crate::tenant::Registering;
use crate::tenure::Tenures;
use crate::timers::Timers;

/// See the module.
pub(crate) struct Core {
    pub(crate) store: Journal,
    pub(crate) store_id: StoreId,
    pub(crate) incarnation: Incarnation,
    /// The outside may have seen more than the journal says: it is asked first.
    pub(crate) outside_ahead: bool,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    /// Says when outcomes end and whether they have expired, however the wall clock is set.
    pub(crate) retention: RetentionClock,
    pub(crate) registry: Arc<Registry>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) driver: Driver,
    pub(crate) feed: Feed,
    pub(crate) drains: Drains,
    pub(crate) tenants: Tenants,
    pub(crate) tenures: Tenures,
    /// Whether a new tenant may run every computation, or none.
    pub(crate) allow_by_default: bool,
    pub(crate) marks: Marks,
    pub(crate) labels: DashMap<TenantLabel, Registering>,
    pub(crate) flights: DashMap<EffectId, Arc<Flight>>,
    pub(crate) ephemeral: DashMap<EffectId, Arc<Flight>>,
    /// How many flights there are: counting them in the tables would take their locks.
    pub(crate) flying: AtomicUsize,
    projected: AtomicU64,
    /// No attempt of an `External` effect that left its key unknown had a higher number: whoever
    /// takes the key next starts above, or the outside would refuse its fence as an older one.
    fence_floor: AtomicU32,
    pub(crate) closing: AtomicBool,
    poisoned: AtomicBool,
    /// Nothing more is run: what ends from now on may be the end's own doing.
    ended: AtomicBool,
    pub(crate) closed: Mutex<Option<Closing>>,
    process: u32,
    pub(crate) close_timeout: Duration,
    /// From how many bytes on a batch of the journal is cut.
    pub(crate) batch_bytes: usize,
}

/// What a core is made of.
pub(crate) struct CoreParts<'a> {
    pub(crate) store: Store,
    pub(crate) recovered: &'a Recovered,
    pub(crate) options: &'a Options,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) executor: Arc<Executor>,
}

/// The store, as the engine uses it.
pub(crate) struct Journal(pub(crate) Store, Timers);

impl Journal {
    pub(crate) fn maybe_retained(&self, id: EffectId) -> bool {
        self.0.maybe_retained(id.tenant, id.key)
    }

    pub(crate) fn lookup(
        &self,
        id: EffectId,
        answer: Box<dyn FnOnce(Result<Option<Settlement>, TablesError>) + Send>,
    ) {
        let work = self.1.work();
        let answer = move |found: Result<Option<Settlement>, TablesError>| {
            answer(found);
            drop(work);
        };
        self.0.lookup(id.tenant, id.key, Box::new(answer));
    }
}

impl Core {
    pub(crate) fn new(parts: CoreParts<'_>) -> Result<Arc<Self>, CapacityError> {
        let CoreParts {
            store,
            recovered,
            options,
            clock,
            registry,
            executor,
        } = parts;
        let timers = executor.runtime.timers().clone();
        let tenants = Tenants::new(options.limits.tenants_max)?;
        tenants.tell(&executor.room);
        Ok(Arc::new(Self {
            driver: Driver::new(recovered.live.saga_last(), timers.clone()),
            store: Journal(store, timers),
            feed: Feed::default(),
            drains: Drains::default(),
            store_id: recovered.store_id,
            incarnation: recovered.incarnation,
            outside_ahead: recovered.live.outside_ahead(),
            limits: options.limits,
            retention: RetentionClock::new(Arc::clone(&clock)),
            clock,
            registry,
            executor,
            tenants,
            tenures: Tenures::default(),
            allow_by_default: options.allow_by_default,
            marks: Marks::default(),
            labels: DashMap::new(),
            flights: DashMap::new(),
            ephemeral: DashMap::new(),
            flying: AtomicUsize::new(0),
            projected: AtomicU64::new(0),
            fence_floor: AtomicU32::new(0),
            closing: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            closed: Mutex::new(None),
            process: std::process::id(),
            close_timeout: options.close_timeout,
            batch_bytes: usize::try_from(options.store.log.batch_bytes_max / 2)
                .unwrap_or(usize::MAX),
        }))
    }

    /// The tables have everything up to here.
    pub(crate) fn projected(&self) -> Lsn {
        Lsn::new(self.projected.load(Ordering::Acquire))
    }

    /// The fence before the first attempt of a key that is unknown.
    pub(crate) fn fence_before(&self) -> Fence {
        let floor = self.fence_floor.load(Ordering::Acquire);
        Fence::new(Incarnation::default(), Attempt::new(floor))
    }

    /// A key is about to be unknown again, after attempts up to this one.
    pub(crate) fn fence_left(&self, fence: Fence) {
        self.fence_floor
            .fetch_max(fence.attempt.get(), Ordering::AcqRel);
    }

    /// A random number in `0.0..1.0`.
    pub(crate) fn draw(&self) -> f64 {
        self.executor.runtime.timers().draw()
    }

    /// Keys in flight, or whose outcome the tables do not have yet.
    pub(crate) fn flying(&self) -> usize {
        self.flying.load(Ordering::Relaxed)
    }

    /// Whether the journal has failed: what is done is told, nothing new is run.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Sagas that wait for something else than the journal are told by their driver.
    fn set_poisoned(&self) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            self.driver.tell(Message::Poisoned);
        }
    }

    /// Whether the engine itself has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether this process is a fork of the one that opened the engine.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// Whether this process is the one that opened the engine.
    pub(crate) fn check_process(&self) -> Result<(), Unavailable> {
        if self.is_forked() {
            let process = std::process::id();
            return Err(Unavailable::Forked {
                opened_by: self.process,
                process,
            });
        }
        Ok(())
    }

    /// Whether new work is taken.
    pub(crate) fn check_open(&self) -> Result<(), Unavailable> {
        self.check_process()?;
        if self.closing.load(Ordering::Acquire) {
            return Err(Unavailable::Closed);
        }
        Ok(())
    }

    pub(crate) fn table(&self, durability: Durability) -> &DashMap<EffectId, Arc<Flight>> {
        match durability {
            Durability::Ephemeral => &self.ephemeral,
            Durability::Outcome | Durability::Accepted => &self.flights,
        }
    }

    /// Whether the store's format has what came with format 2.
    pub(crate) fn check_format(&self, what: &'static str) -> Result<(), Unavailable> {
        match self.store.0.format() {
            Format::V1 => Err(Unavailable::Format(NotInFormat::since_v2(what))),
            Format::V2 | Format::V3 => Ok(()),
        }
    }

    /// Whether the store's format has what came with format 3.
    pub(crate) fn check_format_3(&self, what: &'static str) -> Result<(), Unavailable> {
        match self.store.0.format() {
            format @ (Format::V1 | Format::V2) => {
                Err(Unavailable::Format(NotInFormat::since_v3(what, format)))
            }
            Format::V3 => Ok(()),
        }
    }

    /// The course of a computation's attempts.
    pub(crate) fn course(&self, code: &Code, retry: RetryPolicy) -> Course {
        let mut course = Course::new(code.late, retry, self.limits.reconciles_max);
        course.quarantine_after(self.limits.device_losses_max);
        if self.outside_ahead {
            course.resume(0, (0, 0), self.clock.monotonic());
        }
        course
    }

    /// The canonical bytes of an input, warned about from half of the limit on.
    pub(crate) fn encode<T: Serialize>(
        &self,
        input: &T,
        name: &'static str,
    ) -> Result<Payload, EncodeError> {
        let bytes_max = self.limits.input_bytes_max;
        let payload = canonical::encode(input, bytes_max)?;
        if self
            .marks
            .input_bytes
            .size(payload.len() as u64, bytes_max as u64)
        {
            let (limit, value) = ("limits.input_bytes_max", payload.len());
            tracing::warn!(
                limit,
                value,
                max = bytes_max,
                name,
                "half of a limit is reached"
            );
        }
        Ok(payload)
    }

    /// Warns of an output from half of the limit on.
    pub(crate) fn warn_of_output(&self, output: &Payload) {
        let (limit, max) = ("limits.output_bytes_max", self.limits.output_bytes_max);
        halfway::size(&self.marks.output_bytes, limit, output.len(), max);
    }

    pub(crate) fn remote_key_of(&self, id: EffectId) -> RemoteKey {
        RemoteKey::of_effect(&self.store_id, id.tenant, &id.key, Epoch::default())
    }

    /// Appends events as one batch; `then` is called once, never from here.
    pub(crate) fn append(
        self: &Arc<Self>,
        tenant: TenantId,
        purpose: Purpose,
        events: &[Event],
        then: impl FnOnce(&Arc<Self>, Result<LsnRange, AppendError>) + Send + 'static,
    ) {
        self.append_by(then, |store, ack| {
            store.append_of(tenant, purpose, events, ack)
        });
    }

    /// The same for events whose outputs are to be in their records, however long: what is read
    /// again from the fold.
    pub(crate) fn append_whole(
        self: &Arc<Self>,
        tenant: TenantId,
        purpose: Purpose,
        events: &[Event],
        then: impl FnOnce(&Arc<Self>, Result<LsnRange, AppendError>) + Send + 'static,
    ) {
        self.append_by(then, |store, ack| {
            store.append(Lane(tenant.slot()), purpose, events, ack)
        });
    }

    fn append_by(
        self: &Arc<Self>,
        then: impl FnOnce(&Arc<Self>, Result<LsnRange, AppendError>) + Send + 'static,
        append: impl FnOnce(&Store, Box<dyn Acknowledge>) -> Result<(), AppendRefused>,
    ) {
        let work = self.executor.runtime.timers().work();
        let then = move |core: &Arc<Self>, result: Result<LsnRange, AppendError>| {
            then(core, result);
            drop(work);
        };
        // Shared by the two ways an answer can come; the first one takes it.
        let then = Arc::new(Mutex::new(Some(then)));
        let (core, told) = (Arc::downgrade(self), Arc::clone(&then));
        let ack = move |result: Result<LsnRange, AppendError>| {
            let then = told.lock().take();
            if let (Some(core), Some(then)) = (core.upgrade(), then) {
                then(&core, result);
            }
        };
        if let Err(refused) = append(&self.store.0, Box::new(ack)) {
            let error = match refused {
                AppendRefused::Backlogged { bytes, bytes_max } => {
                    AppendError::Backlogged { bytes, bytes_max }
                }
                AppendRefused::Closed | AppendRefused::Forked(_) => AppendError::Closed,
                AppendRefused::Record(RecordError::NotInFormat(error)) => error.into(),
                AppendRefused::Record(error) => {
                    tracing::error!(%error, "an event has no bytes");
                    AppendError::Poisoned
                }
                _ => AppendError::Closed,
            };
            // Not from inside this call: the caller may hold what the callback needs.
            let core = Arc::downgrade(self);
            self.executor.runtime.spawn(async move {
                let then = then.lock().take();
                if let (Some(core), Some(then)) = (core.upgrade(), then) {
                    then(&core, Err(error));
                }
            });
        }
    }

    /// What a caller is told about an append that failed.
    pub(crate) fn append_failed(&self, error: &AppendError, key: Key) -> SubmitError {
        match error {
            AppendError::Unresolved => {
                self.set_poisoned();
                SubmitError::Unresolved { key }
            }
            AppendError::Poisoned => {
                self.set_poisoned();
                Unavailable::Poisoned.into()
            }
            AppendError::Full => Unavailable::DiskFull.into(),
            AppendError::Backlogged { .. } => Unavailable::Backlogged.into(),
            AppendError::Closed => SubmitError::Interrupted { key },
            AppendError::TooLarge { bytes, bytes_max } => SubmitError::Overloaded {
                what: "bytes of one journal batch",
                count: usize::try_from(*bytes).unwrap_or(usize::MAX),
                count_max: usize::try_from(*bytes_max).unwrap_or(usize::MAX),
            },
            AppendError::NotInFormat(error) => Unavailable::Format(*error).into(),
            // Ours are never empty; what a later log may say besides is no promise either.
            AppendError::Empty => Unavailable::Poisoned.into(),
            _ => Unavailable::Poisoned.into(),
        }
    }
}

/// Tells the core which keys the tables have. Set once the core exists.
#[derive(Default)]
pub(crate) struct Projections(Mutex<Weak<Core>>);

impl Projections {
    pub(crate) fn attach(&self, core: &Arc<Core>) {
        *self.0.lock() = Arc::downgrade(core);
    }
}

impl Projected for Projections {
    fn projected(&self, keys: &[(TenantId, Key)], lsn: Lsn) {
        let Some(core) = self.0.lock().upgrade() else {
            return;
        };
        // Before the flights are asked: one that settles meanwhile looks here.
        core.projected.fetch_max(lsn.get(), Ordering::AcqRel);
        for (tenant, key) in keys {
            let id = EffectId {
                tenant: *tenant,
                key: *key,
            };
            let flight = core.flights.get(&id).map(|entry| Arc::clone(entry.value()));
            if let Some(flight) = flight {
                flight.projected(&core, lsn);
            }
        }
    }
}
