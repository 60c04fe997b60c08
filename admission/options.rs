//! Options of a bulkhead, checked once. Nothing is corrected silently.

use std::sync::Arc;
use std::time::Duration;

use orlop_saga::amount::{BusyNanos, ByteCount};

use crate::classes::ClassWeights;
use crate::conflicts::ConflictMatrix;

/// The bounds of one bulkhead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkheadOptions {
    /// What it is called in errors and snapshots; 1 to [`Self::NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Slots for ordinary work. 0 means auto: an eighth of the cores, at least 1 and at most 8.
    pub in_flight_max: u32,
    /// Ordinary requests that may wait. 0 means that none waits: granted at once or refused.
    pub queue_max: u32,
    /// Ordinary requests of one tenant that may wait. 0 means none.
    ///
    /// A tenant can fill no more than this of `queue_max`; for `n` tenants to be unable to shut
    /// out another one together, `queue_max` must be more than `n` times this.
    pub queue_per_tenant_max: u32,
    /// Ordinary slots that one tenant may occupy; at least 1.
    pub in_flight_per_tenant_max: u32,
    /// How long an ordinary request may wait; more than zero. `None`: until its deadline.
    pub queue_timeout: Option<Duration>,
    /// Staging bytes that ordinary requests may reserve together. 0 means none.
    pub staging_bytes_max: ByteCount,
    /// How many requests that need fewer slots may go ahead of one that is next and has to wait
    /// for more slots to come free. 0: all of them wait with it.
    pub backfill_max: u32,
    /// What the classes of a tenant get of what the tenant gets.
    pub classes: ClassWeights,
    /// Which groups of requests must not run at the same time.
    pub conflicts: ConflictMatrix,
    /// How many requests of conflicting groups may go ahead of one that waits for them to end;
    /// after that they are held back until it has started. 0: from the beginning.
    pub overtakes_max: u32,
    /// How many pieces of work the resource behind the slots carries out at a time. 0: one for
    /// each slot. Predictions rest on it.
    pub workers: u32,
    /// Once ordinary permits of this estimate are out, no further one is granted, so that what is
    /// out but not begun is no queue that knows nothing of shares. One more permit than
    /// `workers` is always granted. `None`: the slots are the bound.
    pub published_cost_max: Option<BusyNanos>,
    /// What the first request of a kind is taken to cost, in the unit of the bulkhead.
    pub cost_guess: BusyNanos,
    /// Slots of the reserved lane, beside those of ordinary work. 0 means that there is none.
    pub reserved_slots: u32,
    /// Requests that may wait in the reserved lane.
    pub reserved_queue_max: u32,
    /// Requests of one tenant that may wait in the reserved lane.
    pub reserved_queue_per_tenant_max: u32,
    /// Staging bytes that requests of the reserved lane may reserve together. 0 means none.
    pub reserved_staging_bytes_max: ByteCount,
}

impl BulkheadOptions {
    /// The longest name, in bytes.
    pub const NAME_BYTES_MAX: usize = 64;
    /// The most slots and the longest queue that can be asked for.
    pub const COUNT_MAX: u32 = 1 << 24;

    /// Options for a resource called `name`: slots by the number of cores, a queue of which
    /// one tenant can fill a quarter, and one reserved slot.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            in_flight_max: 0,
            queue_max: 1024,
            queue_per_tenant_max: 256,
            in_flight_per_tenant_max: Self::COUNT_MAX,
            queue_timeout: None,
            staging_bytes_max: ByteCount::new(256 << 20),
            backfill_max: 4,
            classes: ClassWeights::default(),
            conflicts: ConflictMatrix::default(),
            overtakes_max: 16,
            workers: 0,
            published_cost_max: None,
            cost_guess: BusyNanos::new(100_000),
            reserved_slots: 1,
            reserved_queue_max: 1024,
            reserved_queue_per_tenant_max: 256,
            reserved_staging_bytes_max: ByteCount::new(64 << 20),
        }
    }

    /// The number of slots that `in_flight_max` stands for on this machine.
    pub fn in_flight_resolved(&self) -> u32 {
        if self.in_flight_max != 0 {
            return self.in_flight_max;
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        u32::try_from(cores / 8).unwrap_or(u32::MAX).clamp(1, 8)
    }

    /// Checks every field and returns the name, ready to be shared.
    pub(crate) fn check(&self) -> Result<Arc<str>, OptionsError> {
        let bytes = self.name.len();
        if bytes == 0 {
            return Err(OptionsError::NameEmpty);
        }
        if bytes > Self::NAME_BYTES_MAX {
            let bytes_max = Self::NAME_BYTES_MAX;
            return Err(OptionsError::NameTooLong { bytes, bytes_max });
        }
        for (field, value) in [
            ("in_flight_max", self.in_flight_max),
            ("queue_max", self.queue_max),
            ("queue_per_tenant_max", self.queue_per_tenant_max),
            ("in_flight_per_tenant_max", self.in_flight_per_tenant_max),
            ("backfill_max", self.backfill_max),
            ("overtakes_max", self.overtakes_max),
            ("workers", self.workers),
            ("reserved_slots", self.reserved_slots),
            ("reserved_queue_max", self.reserved_queue_max),
            (
                "reserved_queue_per_tenant_max",
                self.reserved_queue_per_tenant_max,
            ),
        ] {
            let value_max = Self::COUNT_MAX;
            if value > value_max {
                return Err(OptionsError::TooLarge {
                    field,
                    value,
                    value_max,
                });
            }
        }
        if self.in_flight_per_tenant_max == 0 {
            return Err(OptionsError::NobodyMayRun);
        }
        for (field, value, bound, bound_value) in [
            (
                "queue_per_tenant_max",
                self.queue_per_tenant_max,
                "queue_max",
                self.queue_max,
            ),
            (
                "reserved_queue_per_tenant_max",
                self.reserved_queue_per_tenant_max,
                "reserved_queue_max",
                self.reserved_queue_max,
            ),
        ] {
            if value > bound_value {
                return Err(OptionsError::Exceeds {
                    field,
                    value,
                    bound,
                    bound_value,
                });
            }
        }
        if self.queue_timeout == Some(Duration::ZERO) {
            return Err(OptionsError::QueueTimeoutZero);
        }
        Ok(Arc::from(self.name.as_str()))
    }
}

/// Why no bulkhead was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The name is empty. Nothing was made; give it one.
    #[error("a bulkhead needs a name")]
    NameEmpty,
    /// The name is too long. Nothing was made; shorten it.
    #[error("a bulkhead's name of {bytes} bytes is longer than {bytes_max}")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// The most that is accepted.
        bytes_max: usize,
    },
    /// A count is beyond what is supported. Nothing was made; lower it.
    #[error("{field} is {value}, at most {value_max} is supported")]
    TooLarge {
        /// The option.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The largest value.
        value_max: u32,
    },
    /// One tenant may queue more than all together. Nothing was made; lower the first or raise
    /// the second.
    #[error("{field} is {value}, more than {bound}, which is {bound_value}")]
    Exceeds {
        /// The option.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The option that bounds it.
        bound: &'static str,
        /// The value of that.
        bound_value: u32,
    },
    /// No tenant may occupy a slot. Nothing was made; to stop a tenant, suspend it instead.
    #[error("in_flight_per_tenant_max is 0, so nobody could ever run")]
    NobodyMayRun,
    /// Whatever waits would time out at once. Nothing was made; to let nothing wait, set
    /// `queue_max` to 0.
    #[error("queue_timeout is zero")]
    QueueTimeoutZero,
}
