//! Permits: the right to occupy slots, until it is given back.

use std::fmt;
use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::AuditTag;

use crate::bulkhead::Core;
use crate::engagement::Reservation;
use crate::estimate::Kind;
use crate::fast::Returned;
use crate::held::BulkheadId;
use crate::queue::{Booking, Mark};
use crate::request::{ComputationId, CostVector, Lane};
use crate::tenant::{Settlement, TenantAccount};

/// The right to occupy slots of a bulkhead.
///
/// It is bound to no future, closure or thread: keep it with the slot that it is for, and give it
/// back when that slot was observed done. Giving it back hands the slots to whoever is next, in
/// the same critical section.
#[must_use = "dropping a permit gives its slots back"]
pub struct Permit {
    /// The place of the bulkhead's seat in the tenant's ledger.
    seat: u32,
    bulkhead: BulkheadId,
    account: Arc<TenantAccount>,
    mark: Mark,
    charged: BusyNanos,
    kind: Kind,
    audit: AuditTag,
    reservation: Reservation,
    cost: CostVector,
    /// It was given back already.
    forgotten: bool,
}

impl Permit {
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a fact of the grant, named where it is built"
    )]
    pub(crate) const fn new(
        seat: u32,
        bulkhead: BulkheadId,
        account: Arc<TenantAccount>,
        booking: Booking,
        kind: Kind,
        audit: AuditTag,
        reservation: Reservation,
        cost: CostVector,
    ) -> Self {
        Self {
            seat,
            bulkhead,
            account,
            mark: booking.mark(),
            charged: booking.charged(),
            kind,
            audit,
            reservation,
            cost,
            forgotten: false,
        }
    }

    /// Gives the permit back and books what the work cost, in the unit of the bulkhead.
    ///
    /// Returns what the work cost beyond all that its engagement had drawn, which has to be
    /// recorded as drawn with the cost; `None` if it was not paid from a purse.
    ///
    /// Dropping it gives it back as well, and counts it as unsettled.
    pub fn settle(mut self, cost: BusyNanos) -> Option<BusyNanos> {
        let beyond = self.pay(cost);
        self.give_back(Settlement::Settled(cost));
        beyond
    }

    /// Pays what it cost.
    #[inline]
    pub(crate) fn pay(&mut self, cost: BusyNanos) -> Option<BusyNanos> {
        self.reservation.settle(cost)
    }

    /// Gives it back, unless it was.
    #[inline]
    pub(crate) fn give_back(&mut self, settlement: Settlement) {
        if !self.forgotten {
            self.forgotten = true;
            Core::give_back(&self.returned(settlement));
        }
    }

    #[inline]
    pub(crate) const fn returned(&self, settlement: Settlement) -> Returned<'_> {
        Returned {
            seat: self.seat,
            account: &self.account,
            booking: self.booking(),
            kind: self.kind,
            cost: self.cost,
            settlement,
        }
    }

    #[inline]
    pub(crate) const fn booking(&self) -> Booking {
        self.mark.booking(self.cost.slots.get(), self.charged)
    }

    /// It has been given back.
    pub(crate) const fn forget(&mut self) {
        self.forgotten = true;
    }

    pub(crate) const fn seat(&self) -> u32 {
        self.seat
    }

    /// Whether the two are of one tenant, bulkhead and lane.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.account, &other.account)
            && self.seat == other.seat
            && self.lane() == other.lane()
    }

    /// Whether the two occupy the same and were expected to cost the same.
    #[inline]
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.charged == other.charged && self.mark == other.mark && self.cost == other.cost
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whose work it is for.
    pub const fn tenant(&self) -> &Arc<TenantAccount> {
        &self.account
    }

    /// What it is for.
    pub const fn computation(&self) -> ComputationId {
        self.kind.computation()
    }

    /// Who pays.
    pub const fn audit(&self) -> AuditTag {
        self.audit
    }

    /// What was asked for and is occupied.
    pub const fn cost(&self) -> CostVector {
        self.cost
    }

    /// What it was expected to cost when it was granted, in the unit of the bulkhead.
    pub const fn estimate(&self) -> BusyNanos {
        self.charged
    }

    /// Which pool its slots belong to.
    pub const fn lane(&self) -> Lane {
        self.kind.lane()
    }

    /// The bulkhead, for [`HeldScope::enter`](crate::HeldScope::enter).
    pub const fn bulkhead_id(&self) -> BulkheadId {
        self.bulkhead
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(Settlement::Unsettled);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("bulkhead", &self.bulkhead)
            .field("tenant", &self.account.id())
            .field("lane", &self.lane())
            .field("computation", &self.computation())
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
