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
use crate::credits::Amounts;
use crate::engagement::Reservation;
use crate::estimate::Kind;
use crate::exclusion::Exclusion;
use crate::extent::Bound;
use crate::options::BulkheadOptions;
use crate::prediction::{self, Published};
use crate::queue::{Booking, EntryKey, FairQueue, OwnerKey};
use crate::refusal::{Dimension, Refusal, RefusalCounts, Scope};
use crate::request::{CostVector, Grantee, Lane, Request};
use crate::seat::Counts;
use crate::share::Share;
use crate::snapshot::LaneSnapshot;
use crate::tenant::{Settlement, TenantAccount};

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
    pub(crate) reservation: Reservation,
    pub(crate) cost: CostVector,
    pub(crate) kind: Kind,
    pub(crate) expiry: Option<Expiry>,
    pub(crate) grantee: Arc<dyn Grantee>,
}

/// What no request may be beyond, whatever is in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    slots: u64,
    pub(crate) slots_per_tenant: u64,
    staging: u64,
}

/// With fewer slots than this, what one tenant keeps for its next permit is missed by others.
const POCKETS_FROM: u64 = 64;

impl Limits {
    /// Whether tenants may keep a free slot each.
    #[inline]
    pub(crate) const fn has_pockets(&self) -> bool {
        self.slots >= POCKETS_FROM
    }

    #[inline]
    pub(crate) fn fit(&self, cost: &CostVector) -> bool {
        let slots = u64::from(cost.slots.get());
        slots <= self.slots && slots <= self.slots_per_tenant && cost.staging.get() <= self.staging
    }

    /// Whether `request` is beyond the whole pool.
    pub(crate) fn check_fits(&self, request: &Request<'_>) -> Option<Refusal> {
        let slots = u64::from(request.cost.slots.get());
        let bounds = [
            (Dimension::BulkheadSlots, slots, self.slots),
            (Dimension::BulkheadTenantSlots, slots, self.slots_per_tenant),
            (
                Dimension::BulkheadStagingBytes,
                request.cost.staging.get(),
                self.staging,
            ),
        ];
        let mut beyond = bounds.into_iter().filter(|(_, asked, cap)| asked > cap);
        beyond
            .next()
            .map(|(dimension, asked, cap)| Refusal::NeverFits {
                dimension,
                asked,
                cap,
            })
    }
}

pub(crate) struct Pool {
    pub(crate) limits: Limits,
    queue_max: u32,
    queue_per_tenant_max: u32,
    backfill_max: u32,
    pub(crate) published: Published,
    pub(crate) queue_timeout: Option<Duration>,
    /// What is at hand to be granted and reserved.
    pub(crate) free: Amounts,
    /// What is out, apart from what seats have while nobody waits.
    held: Amounts,
    permits: u64,
    pub(crate) queue: FairQueue<Waiter>,
    pub(crate) withdrawn: u64,
    pub(crate) refused: RefusalCounts,
    counts: Counts,
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
            free: Amounts {
                slots: u64::from(slots_max),
                staging: options.reserved_staging_bytes_max.get(),
                published: 0,
            },
            ..Self::new(slots_max, slots_max, options.reserved_staging_bytes_max)
        }
    }

    /// All that it has.
    pub(crate) fn whole(&self, options: &BulkheadOptions) -> Amounts {
        Amounts {
            slots: self.limits.slots,
            staging: self.limits.staging,
            published: Published::whole(options),
        }
    }

    /// Takes back what lay elsewhere.
    pub(crate) fn recall(&mut self, free: Amounts) {
        self.published.give(free.published);
        self.free.slots = self.free.slots.saturating_add(free.slots);
        self.free.staging = self.free.staging.saturating_add(free.staging);
    }

    /// Whether more is out than may be by its cost, so that nothing can be handed over.
    pub(crate) const fn is_exceeded(&self) -> bool {
        self.published.is_exceeded()
    }

    fn new(slots_max: u32, slots_per_tenant_max: u32, staging_max: ByteCount) -> Self {
        Self {
            limits: Limits {
                slots: u64::from(slots_max),
                slots_per_tenant: u64::from(slots_per_tenant_max),
                staging: staging_max.get(),
            },
            queue_max: 0,
            queue_per_tenant_max: 0,
            backfill_max: 0,
            published: Published::unbounded(slots_max),
            queue_timeout: None,
            free: Amounts::default(),
            held: Amounts::default(),
            permits: 0,
            queue: FairQueue::new(
                slots_per_tenant_max,
                ClassWeights::default(),
                Exclusion::new(ConflictMatrix::default(), 0),
            ),
            withdrawn: 0,
            refused: RefusalCounts::default(),
            counts: Counts::default(),
        }
    }

    fn staging_bound(&self, asked: u64) -> Bound {
        Bound {
            dimension: Dimension::BulkheadStagingBytes,
            asked,
            used: self.limits.staging.saturating_sub(self.free.staging),
            cap: self.limits.staging,
        }
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
        slots as u64 <= self.free.slots && self.published.has_room(self.permits)
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
            self.published.wait(ahead, self.limits.slots_per_tenant)
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
        let free = u32::try_from(self.free.slots).unwrap_or(u32::MAX);
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
        let staging = cost.staging.get();
        self.free.staging = self.free.staging.saturating_sub(staging);
        self.held.staging = self.held.staging.saturating_add(staging);
    }

    pub(crate) fn release_staging(&mut self, cost: CostVector) {
        let staging = cost.staging.get();
        debug_assert!(self.held.staging >= staging, "released unreserved staging");
        self.held.staging = self.held.staging.saturating_sub(staging);
        self.free.staging = self.free.staging.saturating_add(staging);
    }

    /// Books a grant whose tenant the queue knows to be running.
    pub(crate) fn occupy(&mut self, cost: CostVector, booking: Booking) {
        self.published.add(booking.charged());
        let slots = u64::from(cost.slots.get());
        debug_assert!(self.free.slots >= slots, "granted more than there is");
        self.free.slots = self.free.slots.saturating_sub(slots);
        self.held.slots = self.held.slots.saturating_add(slots);
        self.permits = self.permits.saturating_add(1);
        self.counts.granted = self.counts.granted.saturating_add(1);
    }

    /// Books that a permit was given back.
    pub(crate) fn vacate(&mut self, cost: CostVector, booking: Booking, settlement: Settlement) {
        self.published.take(booking.charged());
        let slots = u64::from(cost.slots.get());
        debug_assert!(
            self.held.slots >= slots && self.permits > 0,
            "vacated more than was occupied"
        );
        self.held.slots = self.held.slots.saturating_sub(slots);
        self.free.slots = self.free.slots.saturating_add(slots);
        self.permits = self.permits.saturating_sub(1);
        self.release_staging(cost);
        match settlement {
            Settlement::Settled(busy) => {
                self.counts.settled = self.counts.settled.saturating_add(1);
                self.counts.busy = self.counts.busy.saturating_add(busy);
            }
            Settlement::Unsettled => {
                self.counts.unsettled = self.counts.unsettled.saturating_add(1);
            }
        }
    }

    /// Takes over what a seat counted by itself.
    pub(crate) fn collect(&mut self, counts: &mut Counts) {
        let counts = std::mem::take(counts);
        let own = &mut self.counts;
        own.granted = own.granted.saturating_add(counts.granted);
        own.settled = own.settled.saturating_add(counts.settled);
        own.unsettled = own.unsettled.saturating_add(counts.unsettled);
        own.busy = own.busy.saturating_add(counts.busy);
        self.refused.add(&counts.refused);
    }

    /// Takes over what is out at a seat.
    pub(crate) const fn take_over(&mut self, permits: u64, held: Amounts) {
        self.permits = self.permits.saturating_add(permits);
        self.held.add(held);
    }

    /// Leaves to the seats what is out, and to the credits what is free. Returns the number of
    /// permits that are out, and what is free.
    pub(crate) fn hand_over(&mut self) -> (u64, Amounts) {
        self.held = Amounts::default();
        self.queue.forget_all();
        let free = Amounts {
            published: self.published.give_away(),
            ..std::mem::take(&mut self.free)
        };
        (std::mem::take(&mut self.permits), free)
    }

    /// With what is out at seats.
    pub(crate) fn snapshot(&self, permits: u64, held: Amounts) -> LaneSnapshot {
        LaneSnapshot {
            slots_max: self.limits.slots,
            slots: self.held.slots.saturating_add(held.slots),
            in_flight: self.permits.saturating_add(permits),
            queued: self.queue.len() as u64,
            staging: ByteCount::new(self.held.staging.saturating_add(held.staging)),
            granted: self.counts.granted,
            withdrawn: self.withdrawn,
            refused: self.refused,
            settled: self.counts.settled,
            unsettled: self.counts.unsettled,
            busy: self.counts.busy,
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
