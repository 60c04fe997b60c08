//! A pool of slots: the bounds of one lane of a bulkhead, what is in use, and what waits.
//!
//! Pure book-keeping under the bulkhead's lock: no clock, no callback.

use std::sync::Arc;
use std::time::Duration;

use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::Monotonic;

use crate::classes::ClassWeights;
use crate::conflicts::{ConflictMatrix, ExclusionId};
use crate::estimate::Kind;
use crate::exclusion::Exclusion;
use crate::options::BulkheadOptions;
use crate::prediction::{self, Published};
use crate::queue::{Booking, EntryKey, FairQueue, OwnerKey};
use crate::refusal::{Dimension, Refusal, RefusalCounts, Scope};
use crate::request::{CostVector, Grantee, Lane, Request};
use crate::share::Share;
use crate::snapshot::LaneSnapshot;
use crate::tenant::{Bound, Settlement, TenantAccount};

/// How many tenants are looked at for one that needs little, while the one in front waits for
/// more slots to come free.
const BACKFILL_LANES: usize = 16;

/// Who may start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Nobody waits who could.
    Nobody,
    /// Whoever is in front.
    Front(EntryKey),
    /// One that goes ahead of whoever is in front.
    Backfill { entry: EntryKey, front: EntryKey },
    /// Nobody yet: slots that come free gather for whoever is in front.
    Gathering(EntryKey),
}

/// When a waiting request is refused, and as what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    pub(crate) at: Monotonic,
    since: Monotonic,
    deadline: Option<Monotonic>,
    timeout_at: Option<Monotonic>,
}

impl Expiry {
    /// The earlier of the request's deadline and the bulkhead's time-out.
    pub(crate) fn earlier(
        now: Monotonic,
        deadline: Option<Monotonic>,
        timeout: Option<Duration>,
    ) -> Option<Self> {
        let timeout_at = timeout.map(|timeout| now.after(timeout));
        Self::of(now, deadline, timeout_at)
    }

    fn of(
        since: Monotonic,
        deadline: Option<Monotonic>,
        timeout_at: Option<Monotonic>,
    ) -> Option<Self> {
        Some(Self {
            at: deadline.into_iter().chain(timeout_at).min()?,
            since,
            deadline,
            timeout_at,
        })
    }

    /// The same with a deadline that is not earlier, or none.
    pub(crate) fn until(&self, deadline: Option<Monotonic>) -> Option<Self> {
        let later = deadline.max(self.deadline).filter(|_| deadline.is_some());
        let later = later.filter(|_| self.deadline.is_some());
        Self::of(self.since, later, self.timeout_at)
    }

    /// By how much work of this cost would be late if it started at `now`.
    pub(crate) fn late(&self, now: Monotonic, cost: BusyNanos) -> Option<Refusal> {
        prediction::late(self.deadline?, now, cost.get())
    }

    pub(crate) fn refusal(&self, now: Monotonic) -> Refusal {
        if self.deadline == Some(self.at) {
            Refusal::Expired
        } else {
            Refusal::QueueTimeout {
                waited: now.since(self.since),
            }
        }
    }
}

/// A request that waits. Its staging bytes are reserved, its slots are not.
pub(crate) struct Waiter {
    pub(crate) serial: u64,
    pub(crate) account: Arc<TenantAccount>,
    pub(crate) audit: AuditTag,
    pub(crate) cost: CostVector,
    pub(crate) kind: Kind,
    pub(crate) expiry: Option<Expiry>,
    pub(crate) grantee: Arc<dyn Grantee>,
}

pub(crate) struct Pool {
    slots_max: u64,
    slots_per_tenant_max: u64,
    queue_max: u32,
    queue_per_tenant_max: u32,
    staging_max: u64,
    backfill_max: u32,
    published: Published,
    pub(crate) queue_timeout: Option<Duration>,
    slots: u64,
    permits: u64,
    staging: u64,
    pub(crate) queue: FairQueue<Waiter>,
    granted: u64,
    pub(crate) withdrawn: u64,
    pub(crate) refused: RefusalCounts,
    settled: u64,
    unsettled: u64,
    busy: BusyNanos,
}

impl Pool {
    pub(crate) fn ordinary(options: &BulkheadOptions) -> Self {
        let slots_max = options.in_flight_resolved();
        let slots_per_tenant_max = options.in_flight_per_tenant_max.min(slots_max);
        Self {
            queue_max: options.queue_max,
            queue_per_tenant_max: options.queue_per_tenant_max,
            queue_timeout: options.queue_timeout,
            backfill_max: options.backfill_max,
            published: Published::new(options, slots_max),
            queue: FairQueue::new(
                slots_per_tenant_max,
                options.classes,
                Exclusion::new(options.conflicts.clone(), options.overtakes_max),
            ),
            ..Self::new(slots_max, slots_per_tenant_max, options.staging_bytes_max)
        }
    }

    pub(crate) fn reserved(options: &BulkheadOptions) -> Self {
        let slots_max = options.reserved_slots;
        Self {
            queue_max: options.reserved_queue_max,
            queue_per_tenant_max: options.reserved_queue_per_tenant_max,
            ..Self::new(slots_max, slots_max, options.reserved_staging_bytes_max)
        }
    }

    fn new(slots_max: u32, slots_per_tenant_max: u32, staging_max: ByteCount) -> Self {
        Self {
            slots_max: u64::from(slots_max),
            slots_per_tenant_max: u64::from(slots_per_tenant_max),
            queue_max: 0,
            queue_per_tenant_max: 0,
            staging_max: staging_max.get(),
            backfill_max: 0,
            published: Published::unbounded(slots_max),
            queue_timeout: None,
            slots: 0,
            permits: 0,
            staging: 0,
            queue: FairQueue::new(
                slots_per_tenant_max,
                ClassWeights::default(),
                Exclusion::new(ConflictMatrix::default(), 0),
            ),
            granted: 0,
            withdrawn: 0,
            refused: RefusalCounts::default(),
            settled: 0,
            unsettled: 0,
            busy: BusyNanos::default(),
        }
    }

    fn staging_bound(&self, asked: u64) -> Bound {
        Bound {
            dimension: Dimension::BulkheadStagingBytes,
            asked,
            used: self.staging,
            cap: self.staging_max,
        }
    }

    /// Whether `request` is beyond the whole pool.
    pub(crate) fn check_fits(&self, request: &Request<'_>) -> Option<Refusal> {
        let slots = |dimension, cap| Bound {
            dimension,
            asked: u64::from(request.cost.slots.get()),
            used: 0,
            cap,
        };
        [
            slots(Dimension::BulkheadSlots, self.slots_max),
            slots(Dimension::BulkheadTenantSlots, self.slots_per_tenant_max),
            self.staging_bound(request.cost.staging.get()),
        ]
        .into_iter()
        .find(|bound| bound.asked > bound.cap)
        .map(Bound::never_fits)
    }

    /// Whether `request` and what is reserved are beyond the pool together.
    pub(crate) fn check_staging(&self, request: &Request<'_>) -> Option<Refusal> {
        self.staging_bound(request.cost.staging.get()).exceeded()
    }

    /// Whether there is a place to wait in for one more request of `owner`.
    pub(crate) fn check_queue(&self, owner: OwnerKey) -> Option<Refusal> {
        let queued = self.queue.queued_of(owner);
        if queued >= self.queue_per_tenant_max {
            return Some(Refusal::QueueFull {
                scope: Scope::Tenant,
                queued,
                queued_max: self.queue_per_tenant_max,
            });
        }
        let queued = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        (queued >= self.queue_max).then_some(Refusal::QueueFull {
            scope: Scope::Bulkhead,
            queued,
            queued_max: self.queue_max,
        })
    }

    /// Whether `slots` are free, and so little is out that they may be granted.
    pub(crate) const fn has_free(&self, slots: u32) -> bool {
        self.slots.saturating_add(slots as u64) <= self.slots_max
            && self.published.has_room(self.permits)
    }

    /// By how much a request that asks now is expected to be late.
    pub(crate) fn predict(
        &self,
        request: &Request<'_>,
        share: Share,
        known: BusyNanos,
        now: Monotonic,
    ) -> Option<Refusal> {
        let deadline = deadline_of(request)?;
        let (owner, slots) = (OwnerKey(request.tenant.id()), request.cost.slots.get());
        let at_once = self.queue.may_start(owner, slots, request.exclusion) && self.has_free(slots);
        let wait = if at_once {
            0
        } else {
            let ahead = self.queue.ahead(owner, share, request.class);
            self.published.wait(ahead, self.slots_per_tenant_max)
        };
        prediction::late(deadline, now, wait.saturating_add(known.get()))
    }

    /// Who may start now: whoever is in front, or, while that one needs more than is free, a
    /// smaller one behind it, a bounded number of times.
    pub(crate) fn next(&mut self) -> Next {
        let Some((entry, slots)) = self.queue.front() else {
            return Next::Nobody;
        };
        if self.has_free(slots) {
            return Next::Front(entry);
        }
        let free = u32::try_from(self.slots_max.saturating_sub(self.slots)).unwrap_or(u32::MAX);
        let room = free > 0 && self.published.has_room(self.permits);
        let small = if room && self.queue.overtaken(entry) < self.backfill_max {
            self.queue.next_within(free, BACKFILL_LANES)
        } else {
            None
        };
        small.map_or(Next::Gathering(entry), |small| Next::Backfill {
            entry: small,
            front: entry,
        })
    }

    pub(crate) const fn reserve_staging(&mut self, cost: CostVector) {
        self.staging = self.staging.saturating_add(cost.staging.get());
    }

    pub(crate) fn release_staging(&mut self, cost: CostVector) {
        debug_assert!(
            self.staging >= cost.staging.get(),
            "released unreserved staging"
        );
        self.staging = self.staging.saturating_sub(cost.staging.get());
    }

    /// Books a grant whose tenant the queue knows to be running.
    pub(crate) fn occupy(&mut self, cost: CostVector, booking: Booking) {
        self.published.add(booking.charged());
        self.slots = self.slots.saturating_add(u64::from(cost.slots.get()));
        self.permits = self.permits.saturating_add(1);
        self.granted = self.granted.saturating_add(1);
        debug_assert!(self.slots <= self.slots_max, "granted more than there is");
    }

    /// Books that a permit was given back.
    pub(crate) fn vacate(&mut self, cost: CostVector, booking: Booking, settlement: Settlement) {
        self.published.take(booking.charged());
        let slots = u64::from(cost.slots.get());
        debug_assert!(
            self.slots >= slots && self.permits > 0,
            "vacated more than was occupied"
        );
        self.slots = self.slots.saturating_sub(slots);
        self.permits = self.permits.saturating_sub(1);
        self.release_staging(cost);
        match settlement {
            Settlement::Settled(busy) => {
                self.settled = self.settled.saturating_add(1);
                self.busy = self.busy.saturating_add(busy);
            }
            Settlement::Unsettled => self.unsettled = self.unsettled.saturating_add(1),
        }
    }

    pub(crate) fn snapshot(&self) -> LaneSnapshot {
        LaneSnapshot {
            slots_max: self.slots_max,
            slots: self.slots,
            in_flight: self.permits,
            queued: self.queue.len() as u64,
            staging: ByteCount::new(self.staging),
            granted: self.granted,
            withdrawn: self.withdrawn,
            refused: self.refused,
            settled: self.settled,
            unsettled: self.unsettled,
            busy: self.busy,
        }
    }
}

/// What `lane` adds to the time bounds of a request: nothing binds the reserved lane.
pub(crate) fn deadline_of(request: &Request<'_>) -> Option<Monotonic> {
    match request.lane {
        Lane::Ordinary => request.deadline,
        Lane::Reserved => None,
    }
}

/// The exclusion group that binds a request in its lane.
pub(crate) const fn exclusion_of(request: &Request<'_>) -> Option<ExclusionId> {
    match request.lane {
        Lane::Ordinary => request.exclusion,
        // Compensation is never blocked by what failed.
        Lane::Reserved => None,
    }
}

/// The class of a request in its lane: the reserved one is FIFO per tenant.
pub(crate) const fn class_of(request: &Request<'_>) -> Class {
    match request.lane {
        Lane::Ordinary => request.class,
        Lane::Reserved => Class::Standard,
    }
}
