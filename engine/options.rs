//! Options: every bound of the engine, checked when it is opened.

use std::time::Duration;

use orlop_admission::BulkheadOptions;
use orlop_gpu::DeviceOptions;
use orlop_saga::amount::BusyNanos;
use orlop_store::audit::TrailOptions;
use orlop_store::store::StoreOptions;

use crate::budget::BudgetOptions;
use crate::error::OptionError;
use crate::host::{HOST_CPU, HOST_IO};
use crate::lease::{Bounds, Lease};

/// How often, and how patiently, a failure without effect is tried again.
///
/// The wait before attempt `n + 1` is drawn evenly from zero to `base * 2^(n - 1)`, at most `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many attempts in all, counted across restarts; at least 1.
    pub attempts_max: u32,
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl RetryPolicy {
    /// One attempt, no retry.
    pub const NONE: Self = Self {
        attempts_max: 1,
        base: Duration::ZERO,
        cap: Duration::ZERO,
    };

    /// The wait after `attempt` attempts; `draw` is uniform in `0.0..1.0`.
    pub(crate) fn backoff(&self, attempt: u32, draw: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.cap);
        ceiling.mul_f64(draw)
    }
}

impl Default for RetryPolicy {
    /// Five attempts, 20 ms at first, 5 s at most.
    fn default() -> Self {
        Self {
            attempts_max: 5,
            base: Duration::from_millis(20),
            cap: Duration::from_secs(5),
        }
    }
}

/// Limits on what one submission may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest canonical input, in bytes. Larger data goes into a buffer.
    pub input_bytes_max: usize,
    /// The longest canonical output, in bytes.
    pub output_bytes_max: usize,
    /// How many items one batch may have.
    pub batch_items_max: usize,
    /// How many callers may wait for one effect.
    pub joiners_max: usize,
    /// How many effects may be unfinished at once, over all tenants.
    pub effects_max: usize,
    /// How many sagas may be unfinished at once, over all tenants.
    pub sagas_max: usize,
    /// How many effects and sagas of one tenant may be unfinished at once, children included, so that
    /// no tenant alone can reach the two bounds above.
    pub unfinished_per_tenant_max: usize,
    /// How many accepted effects and attempts of sagas may wait in front of all bulkheads together
    /// for a refusal to pass, in their order. What finds no place there backs off instead: it asks
    /// again after 20 ms to 2 s, and may be overtaken meanwhile.
    pub waiting_max: usize,
    /// How many sagas may have their functions in memory while they wait: for a sleep, a signal, a
    /// child, an operator. Beyond, those that were longest idle are passivated: dropped, and run
    /// again from their beginning when there is something to tell them. With 0 each is passivated
    /// as soon as it waits, also for an attempt that runs.
    pub sagas_resident_max: usize,
    /// How many children one saga may start; they do not count in `sagas_max`.
    pub saga_children_max: usize,
    /// How many sagas may be above a child.
    pub saga_depth_max: u32,
    /// How many calls one saga may make.
    pub saga_calls_max: usize,
    /// How many bytes of input, outputs, undo arguments and signals one saga may have together.
    pub saga_bytes_max: usize,
    /// How many times the process may die while a saga is played alone, after recovery crashed,
    /// before the saga is paused as suspect.
    pub saga_crashes_max: u32,
    /// How many signals one saga may be sent.
    pub saga_signals_max: usize,
    /// How many may be subscribed to what changes about sagas.
    pub subscribers_max: usize,
    /// How many bytes the payloads of the signals of one saga may have together; they count in
    /// `saga_bytes_max` too.
    pub saga_signal_bytes_max: usize,
    /// How many bytes of buffers that nobody holds one tenant may have on the device, beside its
    /// quotas. 0 is a quarter of the arena in which buffers lie.
    pub cached_bytes_per_tenant_max: u64,
    /// How long one undo or one reconciliation may take before it counts as unanswered.
    pub settle_timeout: Duration,
    /// How many tenants may be registered.
    pub tenants_max: u32,
    /// What accepted work and saga steps do about failures without effect.
    pub retry: RetryPolicy,
    /// How long one attempt of an effect or step may take that says nothing else; `None` for as
    /// long as it takes.
    pub attempt_timeout: Option<Duration>,
    /// How long one attempt of an effect or step that says nothing else may go without a sign of
    /// life, and what follows; `None` for no watch.
    pub lease: Option<Lease>,
    /// How often an `External` effect that nobody knows the end of is asked about before it is
    /// stuck.
    pub reconciles_max: u32,
    /// How many devices may be lost while one effect or step runs there. With the last of these
    /// it is quarantined: stuck, until an operator has it tried again.
    pub device_losses_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            input_bytes_max: 256 << 10,
            output_bytes_max: 256 << 10,
            batch_items_max: 4096,
            joiners_max: 4096,
            effects_max: 1 << 20,
            sagas_max: 1 << 20,
            unfinished_per_tenant_max: 1 << 17,
            waiting_max: 1 << 20,
            sagas_resident_max: 1 << 14,
            saga_children_max: 1024,
            saga_depth_max: 8,
            saga_calls_max: 10_000,
            saga_bytes_max: 48 << 20,
            saga_crashes_max: 3,
            saga_signals_max: 1024,
            subscribers_max: 64,
            saga_signal_bytes_max: 4 << 20,
            cached_bytes_per_tenant_max: 0,
            settle_timeout: Duration::from_secs(30),
            tenants_max: 4096,
            retry: RetryPolicy::default(),
            attempt_timeout: None,
            lease: None,
            reconciles_max: 10,
            device_losses_max: 3,
        }
    }
}

impl Limits {
    /// What bounds an attempt that says nothing else.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            timeout: self.attempt_timeout,
            lease: self.lease,
        }
    }
}

/// What becomes of audit entries. The counts are exact whatever these bounds are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditOptions {
    /// Whether cross-tenant attempts are kept in the store's audit trail.
    pub durable: bool,
    /// Whether `tracing` is told.
    pub tracing: bool,
    /// Bounds of the trail.
    pub trail: TrailOptions,
    /// How long refusals are counted before their sums are told.
    pub interval: Duration,
    /// How many attempts of one tenant are told one by one in an interval; of more, the count is.
    pub denials_per_tenant_max: u32,
    /// How many attempts wait for the sinks at most; of more, the count is told.
    pub queue_max: usize,
}

impl Default for AuditOptions {
    /// All on; sums every 10 s, 64 attempts of each tenant in that time.
    fn default() -> Self {
        Self {
            durable: true,
            tracing: true,
            trail: TrailOptions::default(),
            interval: Duration::from_secs(10),
            denials_per_tenant_max: 64,
            queue_max: 4096,
        }
    }
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Limits on submissions.
    pub limits: Limits,
    /// The journal and the tables.
    pub store: StoreOptions,
    /// The device: its ring, workers and memory.
    pub device: DeviceOptions,
    /// The bulkhead in front of the device. Its `workers` of 0 stands for the device's.
    pub device_bulkhead: BulkheadOptions,
    /// The bulkhead of asynchronous host functions.
    pub io_bulkhead: BulkheadOptions,
    /// The bulkhead of blocking host functions.
    pub cpu_bulkhead: BulkheadOptions,
    /// Bulkheads of the embedder's own, by name.
    pub bulkheads: Vec<BulkheadOptions>,
    /// Audit entries.
    pub audit: AuditOptions,
    /// Budgets and the ledger.
    pub budgets: BudgetOptions,
    /// Threads of the engine's own runtime; at least 1.
    pub io_threads: usize,
    /// Whether a tenant that is registered may run every computation at first, or none until
    /// [`TenantManager::allow_only`](crate::TenantManager::allow_only) says which.
    pub allow_by_default: bool,
    /// How long `close` waits for work in flight.
    pub close_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            store: StoreOptions::default(),
            device: DeviceOptions::default(),
            device_bulkhead: BulkheadOptions {
                published_cost_max: Some(BusyNanos::new(2_000_000)),
                ..deep("device", 256, 4096)
            },
            io_bulkhead: deep(HOST_IO, 64, 1024),
            cpu_bulkhead: BulkheadOptions::new(HOST_CPU),
            bulkheads: Vec::new(),
            audit: AuditOptions::default(),
            budgets: BudgetOptions::default(),
            io_threads: 1,
            allow_by_default: true,
            close_timeout: Duration::from_secs(30),
        }
    }
}

/// A bulkhead with room for sixteen tenants that each queue `queue_per_tenant_max`.
fn deep(name: &str, in_flight_max: u32, queue_per_tenant_max: u32) -> BulkheadOptions {
    BulkheadOptions {
        in_flight_max,
        queue_max: queue_per_tenant_max * 16,
        queue_per_tenant_max,
        // One undo that hangs must not stand in the way of all the others.
        reserved_slots: 16,
        ..BulkheadOptions::new(name)
    }
}

impl AuditOptions {
    fn bounds(&self) -> [(&'static str, usize, usize, usize); 5] {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let interval = usize::try_from(self.interval.as_millis()).unwrap_or(usize::MAX);
        let told = self.denials_per_tenant_max as usize;
        let segment = bytes(self.trail.segment_bytes);
        let retained = bytes(self.trail.retained_bytes_max);
        [
            ("audit.interval in ms", interval, 1, 86_400_000),
            ("audit.denials_per_tenant_max", told, 0, 1 << 20),
            ("audit.queue_max", self.queue_max, 1, 1 << 20),
            ("audit.trail.segment_bytes", segment, 4096, 1 << 30),
            ("audit.trail.retained_bytes_max", retained, 4096, 1 << 40),
        ]
    }
}

impl Options {
    /// Checks what is the engine's own; each part checks itself when it is opened.
    pub(crate) fn check(&self) -> Result<(), OptionError> {
        let limits = &self.limits;
        let losses = limits.device_losses_max as usize;
        let asks = limits.reconciles_max as usize;
        let unfinished = limits.unfinished_per_tenant_max;
        let checks = [
            (
                "limits.input_bytes_max",
                limits.input_bytes_max,
                64,
                16 << 20,
            ),
            (
                "limits.output_bytes_max",
                limits.output_bytes_max,
                64,
                16 << 20,
            ),
            ("limits.batch_items_max", limits.batch_items_max, 1, 1 << 20),
            ("limits.joiners_max", limits.joiners_max, 1, 1 << 20),
            ("limits.effects_max", limits.effects_max, 1, 1 << 24),
            ("limits.sagas_max", limits.sagas_max, 1, 1 << 24),
            ("limits.unfinished_per_tenant_max", unfinished, 1, 1 << 24),
            ("limits.waiting_max", limits.waiting_max, 1, 1 << 24),
            (
                "limits.sagas_resident_max",
                limits.sagas_resident_max,
                0,
                1 << 24,
            ),
            ("limits.saga_calls_max", limits.saga_calls_max, 1, 1 << 20),
            (
                "limits.saga_children_max",
                limits.saga_children_max,
                0,
                1 << 20,
            ),
            (
                "limits.saga_depth_max",
                limits.saga_depth_max as usize,
                0,
                64,
            ),
            (
                "limits.saga_crashes_max",
                limits.saga_crashes_max as usize,
                1,
                1 << 20,
            ),
            ("limits.subscribers_max", limits.subscribers_max, 0, 4096),
            (
                "limits.saga_signals_max",
                limits.saga_signals_max,
                0,
                1 << 20,
            ),
            (
                "limits.saga_signal_bytes_max",
                limits.saga_signal_bytes_max,
                0,
                1 << 30,
            ),
            (
                "limits.tenants_max",
                limits.tenants_max as usize,
                1,
                1 << 20,
            ),
            (
                "limits.retry.attempts_max",
                limits.retry.attempts_max as usize,
                1,
                1 << 20,
            ),
            ("limits.reconciles_max", asks, 1, 1 << 20),
            ("limits.device_losses_max", losses, 1, 1 << 20),
            ("io_threads", self.io_threads, 1, 1024),
        ];
        let budgets = self.budgets.bounds();
        let more = self
            .combined()
            .into_iter()
            .chain(self.times())
            .chain(budgets);
        let more = more.chain(self.audit.bounds());
        for (name, value, min, max) in checks.into_iter().chain(more) {
            if !(min..=max).contains(&value) {
                return Err(OptionError {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// The most bytes that one tenant has in the cache.
    pub(crate) fn cached_bytes(&self) -> u64 {
        let arena = match self.device.device_bytes {
            0 => self.device.arena_bytes,
            bytes => bytes,
        };
        match self.limits.cached_bytes_per_tenant_max {
            0 => arena / 4,
            bytes => bytes,
        }
    }

    /// The options of the bulkhead of this name.
    pub(crate) fn bulkhead(&self, name: &str) -> Option<&BulkheadOptions> {
        let own = [&self.device_bulkhead, &self.io_bulkhead, &self.cpu_bulkhead];
        let mut all = own.into_iter().chain(&self.bulkheads);
        all.find(|options| options.name == name)
    }

    /// How many slots the bulkhead of this name reserves.
    pub(crate) fn reserved_slots(&self, name: &str) -> Option<u32> {
        self.bulkhead(name).map(|options| options.reserved_slots)
    }

    /// Bounds that depend on one another.
    fn combined(&self) -> [(&'static str, usize, usize, usize); 2] {
        let limits = &self.limits;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let batch = bytes(self.store.log.batch_bytes_max);
        let row = bytes(self.store.sled.value_bytes_max);
        [
            // One record with its outcome, and one intent beside it, must fit into a batch.
            (
                "limits.input_bytes_max + limits.output_bytes_max",
                limits
                    .input_bytes_max
                    .saturating_add(limits.output_bytes_max),
                0,
                (batch / 2).saturating_sub(64 << 10),
            ),
            // A saga that ended is one row; its calls and signals have names and numbers beside
            // their bytes.
            (
                "limits.saga_bytes_max + 1.5 KiB * limits.saga_calls_max + 0.5 KiB * limits.saga_signals_max",
                limits
                    .saga_bytes_max
                    .saturating_add(limits.saga_calls_max.saturating_mul(1536))
                    .saturating_add(limits.saga_signals_max.saturating_mul(512)),
                0,
                row,
            ),
        ]
    }

    /// Bounds of times. An attempt that may take no time at all could never end well.
    fn times(&self) -> [(&'static str, usize, usize, usize); 6] {
        const DAY_MS: usize = 86_400_000;
        const MONTH_MS: usize = 30 * DAY_MS;
        let limits = &self.limits;
        let millis = |time: Duration| usize::try_from(time.as_millis()).unwrap_or(usize::MAX);
        let attempt = limits.attempt_timeout.map_or(1, millis);
        let period = limits.lease.map_or(1, |lease| millis(lease.period));
        [
            (
                "limits.settle_timeout in ms",
                millis(limits.settle_timeout),
                1,
                DAY_MS,
            ),
            ("close_timeout in ms", millis(self.close_timeout), 0, DAY_MS),
            (
                "limits.retry.base in ms",
                millis(limits.retry.base),
                0,
                DAY_MS,
            ),
            (
                "limits.retry.cap in ms",
                millis(limits.retry.cap),
                0,
                DAY_MS,
            ),
            ("limits.attempt_timeout in ms", attempt, 1, MONTH_MS),
            ("limits.lease.period in ms", period, 1, MONTH_MS),
        ]
    }
}
