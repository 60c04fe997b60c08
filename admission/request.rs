//! Requests: who asks, for what, and who is to be told.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use orlop_saga::amount::ByteCount;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::Monotonic;

use crate::conflicts::ExclusionId;
use crate::credits::Amounts;
use crate::engagement::Payer;
use crate::extent::Held;
use crate::permit::Permit;
use crate::refusal::Refusal;
use crate::tenant::TenantAccount;

/// A computation, as the embedder's registry numbers it in this run of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputationId(u32);

impl ComputationId {
    /// Wraps a raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ComputationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a piece of work occupies. Every dimension is checked against a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CostVector {
    /// Slots of the bulkhead, occupied from grant to settlement.
    pub slots: NonZeroU32,
    /// Staging bytes, reserved from acceptance into the queue to settlement.
    pub staging: ByteCount,
    /// Resident buffers, counted for the tenant from acceptance to settlement.
    pub buffers: u64,
    /// Bytes of device memory, counted for the tenant from acceptance to settlement.
    pub device: ByteCount,
    /// Kernels that run at the same time, counted for the tenant from acceptance to settlement.
    pub kernels: u64,
    /// Bytes that stay stored for the tenant, counted from acceptance to settlement. What is kept
    /// after that is to be reserved by [`TenantAccount::reserve`](crate::TenantAccount::reserve).
    pub retained: ByteCount,
    /// Bytes that it writes to the journal, counted at acceptance against the tenant's rate.
    pub journal: ByteCount,
}

impl CostVector {
    /// One slot and `staging` bytes.
    pub const fn one_slot(staging: ByteCount) -> Self {
        let none = ByteCount::new(0);
        Self {
            slots: NonZeroU32::MIN,
            staging,
            buffers: 0,
            device: none,
            kernels: 0,
            retained: none,
            journal: none,
        }
    }

    /// What it takes of the bulkhead.
    pub(crate) const fn amounts(&self) -> Amounts {
        Amounts {
            slots: self.slots.get() as u64,
            staging: self.staging.get(),
            published: 0,
        }
    }

    /// What it takes of the tenant's quotas.
    pub(crate) const fn of_tenant(&self) -> Held {
        Held {
            slots: self.slots.get() as u64,
            staging: self.staging.get(),
            buffers: self.buffers,
            device: self.device.get(),
            kernels: self.kernels,
            retained: self.retained.get(),
        }
    }

    /// The same with `buffers` resident buffers of `device` bytes together.
    #[must_use]
    pub const fn with_buffers(mut self, buffers: u64, device: ByteCount) -> Self {
        self.buffers = buffers;
        self.device = device;
        self
    }

    /// The same with `kernels` kernels that run at the same time.
    #[must_use]
    pub const fn with_kernels(mut self, kernels: u64) -> Self {
        self.kernels = kernels;
        self
    }

    /// The same with `retained` bytes that stay stored.
    #[must_use]
    pub const fn with_retained(mut self, retained: ByteCount) -> Self {
        self.retained = retained;
        self
    }

    /// The same with `journal` bytes written to the journal.
    #[must_use]
    pub const fn with_journal(mut self, journal: ByteCount) -> Self {
        self.journal = journal;
        self
    }

    /// The same with another number of slots.
    #[must_use]
    pub const fn with_slots(mut self, slots: NonZeroU32) -> Self {
        self.slots = slots;
        self
    }
}

impl Default for CostVector {
    fn default() -> Self {
        Self::one_slot(ByteCount::new(0))
    }
}

/// Which of a bulkhead's two pools of slots is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Work that tenants submit.
    #[default]
    Ordinary,
    /// Cancel, recovery and undo. Has slots, staging and a queue of its own, so that ordinary work
    /// never stands in its way; passes suspension, draining and revocation of the tenant, the
    /// tenant's quotas, budgets, deadlines and the queue time-out. An unregistered tenant and a draining
    /// bulkhead refuse it all the same.
    Reserved,
}

/// One request for a permit.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// Who asks.
    pub tenant: &'a Arc<TenantAccount>,
    /// What is to run.
    pub computation: ComputationId,
    /// Who pays.
    pub audit: AuditTag,
    /// What it is paid from.
    pub payer: Payer<'a>,
    /// What it occupies.
    pub cost: CostVector,
    /// How urgent it is among the tenant's own ordinary work. The reserved lane is FIFO per
    /// tenant, whatever the class.
    pub class: Class,
    /// Which pool it goes to.
    pub lane: Lane,
    /// Whether it belongs to work that was accepted before, which a draining tenant still finishes.
    pub accepted: bool,
    /// How large it is, for its estimate: work of one computation and about the same size is
    /// expected to cost the same.
    pub size: ByteCount,
    /// When it must be done: what is not expected to be is refused at once, and what turns out
    /// not to be while it waits is not started. Does not bind the reserved lane.
    pub deadline: Option<Monotonic>,
    /// Its exclusion group in the bulkhead's [`ConflictMatrix`](crate::ConflictMatrix). Does not
    /// bind the reserved lane.
    pub exclusion: Option<ExclusionId>,
    /// Whether the bulkhead's `queue_timeout` does not bind it.
    pub untimed: bool,
}

impl<'a> Request<'a> {
    /// A request of `tenant` to run `computation`: one slot, no staging, standard class, ordinary
    /// lane, no deadline.
    pub fn new(tenant: &'a Arc<TenantAccount>, computation: ComputationId) -> Self {
        Self {
            tenant,
            computation,
            audit: AuditTag::default(),
            payer: Payer::default(),
            cost: CostVector::default(),
            class: Class::default(),
            lane: Lane::default(),
            accepted: false,
            size: ByteCount::default(),
            deadline: None,
            exclusion: None,
            untimed: false,
        }
    }

    /// The same, paid for by `audit`.
    #[must_use]
    pub const fn audit(mut self, audit: AuditTag) -> Self {
        self.audit = audit;
        self
    }

    /// The same, paid from `payer`, whose audit tag is the request's.
    #[must_use]
    pub const fn payer(mut self, payer: Payer<'a>) -> Self {
        self.payer = payer;
        self
    }

    /// The same, occupying `cost`.
    #[must_use]
    pub const fn cost(mut self, cost: CostVector) -> Self {
        self.cost = cost;
        self
    }

    /// The same, in `class`.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The same, in `lane`.
    #[must_use]
    pub const fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// The same, as part of work that was accepted before: it passes while the tenant is draining.
    #[must_use]
    pub const fn accepted(mut self, accepted: bool) -> Self {
        self.accepted = accepted;
        self
    }

    /// The same, on `size` bytes of input.
    #[must_use]
    pub const fn size(mut self, size: ByteCount) -> Self {
        self.size = size;
        self
    }

    /// The same, queued for as long as it takes.
    #[must_use]
    pub const fn untimed(mut self) -> Self {
        self.untimed = true;
        self
    }

    /// The same, to be done before `deadline` or not at all.
    #[must_use]
    pub const fn deadline(mut self, deadline: Monotonic) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same, never beside work of a group that conflicts with `group`.
    #[must_use]
    pub const fn exclusion(mut self, group: ExclusionId) -> Self {
        self.exclusion = Some(group);
        self
    }
}

/// Whoever waits for a permit. Exactly one of the two is called, once, unless the ticket is
/// cancelled first.
///
/// Called with no lock held, on the thread that made the slot free. Must be short and must not
/// block: further hand-offs of that thread wait for it. May acquire, settle and cancel. A panic is
/// contained and reported as an error event; a permit lost in it is given back.
pub trait Grantee: Send + Sync {
    /// The work may start.
    fn granted(self: Arc<Self>, permit: Permit);
    /// The work does not run.
    fn refused(self: Arc<Self>, refusal: Refusal);
}
