//! Seats: what one life of a tenant does in one bulkhead. Under the lock of the tenant's ledger.
//!
//! Invariants
//! - What a seat holds is exact, whether or not the bulkhead is contended.
//! - Its counts are those of what never went through the bulkhead's lock since they were last
//!   collected.
//! - A seat that holds something or has counts is listed with the bulkhead's credits.
//! - So is one that keeps a slot in its pocket, for the next permit of a tenant that gives back and
//!   asks in turns: whoever begins contention empties it under the ledger's lock, and it is not
//!   filled while the bulkhead is contended.

use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;

use crate::bulkhead::Core;
use crate::classes::PerClass;
use crate::credits::Amounts;
use crate::estimate::Kind;
use crate::fast::Returned;
use crate::queue::Booking;
use crate::refusal::RefusalCounts;
use crate::request::CostVector;
use crate::tenant::{Settlement, TenantAccount};

/// One in eight measurements is learnt from while nobody waits.
const LEARNT_OF_BITS: u32 = 3;

/// What was done without the bulkhead's lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) granted: u64,
    pub(crate) settled: u64,
    pub(crate) unsettled: u64,
    pub(crate) busy: BusyNanos,
    pub(crate) refused: RefusalCounts,
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) core: Arc<Core>,
    /// Permits out, of both lanes.
    pub(crate) out: u64,
    /// Ordinary permits out.
    pub(crate) permits: u64,
    /// What these occupy.
    pub(crate) held: Amounts,
    /// What these were estimated to cost.
    pub(crate) charged: PerClass<u64>,
    pub(crate) counts: Counts,
    pub(crate) listed: bool,
    /// Whether a slot is kept for the next permit.
    has_pocketed: bool,
    /// Which measurements those are, drawn at random: kinds of work that come in turns are all
    /// learnt from.
    lot: u32,
}

/// What can be in a pocket.
const ONE_SLOT: Amounts = Amounts {
    slots: 1,
    staging: 0,
    published: 0,
};

impl Seat {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            out: 0,
            permits: 0,
            held: Amounts::default(),
            charged: PerClass::default(),
            counts: Counts::default(),
            listed: false,
            has_pocketed: false,
            lot: 0,
        }
    }

    /// Lists it, if it is not. The ledger's lock is held.
    #[inline]
    pub(crate) fn list(&mut self, account: &Arc<TenantAccount>, place: u32) {
        if !self.listed {
            self.enlist(account, place);
        }
    }

    #[cold]
    fn enlist(&mut self, account: &Arc<TenantAccount>, place: u32) {
        if !self.core.is_retired() {
            self.listed = true;
            let credits = &self.core.credits;
            credits.list(account.home(), (Arc::clone(account), place));
        }
    }

    /// Books that an ordinary permit is granted.
    pub(crate) const fn start(&mut self, cost: &CostVector, class: Class, charged: u64) {
        self.start_many(cost.amounts(), 1, class, charged);
    }

    /// Books that `count` ordinary permits are granted that occupy and cost so much together.
    #[inline]
    pub(crate) const fn start_many(
        &mut self,
        amounts: Amounts,
        count: u64,
        class: Class,
        charged: u64,
    ) {
        self.permits = self.permits.saturating_add(count);
        self.held.slots = self.held.slots.saturating_add(amounts.slots);
        self.held.staging = self.held.staging.saturating_add(amounts.staging);
        let sum = self.charged.get_mut(class);
        *sum = sum.saturating_add(charged);
    }

    /// Books that it is given back.
    pub(crate) fn end(&mut self, cost: &CostVector, booking: Booking) {
        self.uncharge(booking, 1);
        self.end_many(cost.amounts(), 1);
    }

    /// Books that `count` ordinary permits are given back that occupied so much together, and
    /// have been uncharged.
    #[inline]
    pub(crate) fn end_many(&mut self, given: Amounts, count: u64) {
        debug_assert!(
            self.permits >= count && self.held.slots >= given.slots,
            "more ended than started"
        );
        self.permits = self.permits.saturating_sub(count);
        self.held.slots = self.held.slots.saturating_sub(given.slots);
        self.held.staging = self.held.staging.saturating_sub(given.staging);
    }

    /// Books that `count` permits of this booking are out no more.
    #[inline]
    pub(crate) fn uncharge(&mut self, booking: Booking, count: u64) {
        let sum = self.charged.get_mut(booking.class());
        *sum = sum.saturating_sub(booking.charged().get().saturating_mul(count));
    }

    /// Takes back an ordinary permit while nobody waits.
    pub(crate) fn give_back_at_once(&mut self, returned: &Returned<'_>) {
        let cost = &returned.cost;
        self.end(cost, returned.booking);
        match returned.settlement {
            Settlement::Settled(busy) => {
                self.count_settled(1, busy);
                self.learn(returned.kind, returned.booking, busy);
            }
            Settlement::Unsettled => {
                let counts = &mut self.counts;
                counts.unsettled = counts.unsettled.saturating_add(1);
            }
        }
        let amounts = self.core.amounts(cost, returned.booking.charged());
        if !self.put_into_pocket(amounts) {
            self.core.credits.give(returned.account.home(), amounts);
        }
    }

    /// Counts permits that were settled without the bulkhead's lock.
    #[inline]
    pub(crate) fn count_settled(&mut self, count: u64, busy: BusyNanos) {
        let counts = &mut self.counts;
        counts.settled = counts.settled.saturating_add(count);
        counts.busy = counts.busy.saturating_add(busy);
    }

    /// Learns what work of `kind` cost, if it was not known or its turn has come.
    #[inline]
    pub(crate) fn learn(&mut self, kind: Kind, booking: Booking, busy: BusyNanos) {
        // A congruential generator, of whose numbers the upper bits are the random ones.
        self.lot = self.lot.wrapping_mul(0x915F_77F5).wrapping_add(1);
        let moves = self.lot >> (u32::BITS - LEARNT_OF_BITS) == 0;
        if moves || !booking.is_known() {
            self.core.estimates.learn(kind, busy, moves);
        }
    }

    /// Takes what a permit needs out of the pocket, if it is there.
    #[inline]
    pub(crate) fn take_from_pocket(&mut self, amounts: Amounts) -> bool {
        let there = self.has_pocketed && amounts == ONE_SLOT;
        self.has_pocketed &= !there;
        there
    }

    /// Keeps what a permit gave back for the next one, unless others may need it more.
    #[inline]
    fn put_into_pocket(&mut self, amounts: Amounts) -> bool {
        let kept = !self.has_pocketed
            && self.listed
            && amounts == ONE_SLOT
            && self.core.limits.has_pockets();
        self.has_pocketed |= kept;
        kept
    }

    /// Empties the pocket.
    pub(crate) fn empty_pocket(&mut self) -> Amounts {
        if std::mem::take(&mut self.has_pocketed) {
            ONE_SLOT
        } else {
            Amounts::default()
        }
    }
}
