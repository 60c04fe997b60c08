//! Seats: what one life of a tenant does in one bulkhead. Under the lock of the tenant's ledger.
//!
//! Invariants
//! - What a seat holds is exact, whether or not the bulkhead is contended.
//! - Its counts are those of what never went through the bulkhead's lock since they were last
//!   collected.
//! - A seat that holds something or has counts is listed with the bulkhead's credits.

use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;

use crate::bulkhead::Core;
use crate::classes::PerClass;
use crate::credits::Amounts;
use crate::fast::Returned;
use crate::queue::Booking;
use crate::refusal::RefusalCounts;
use crate::request::CostVector;
use crate::tenant::{Settlement, TenantAccount};

/// One in so many measurements is learnt from while nobody waits.
pub(crate) const LEARNT_OF: u64 = 8;

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
    measured: u64,
}

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
            measured: 0,
        }
    }

    /// Lists it, if it is not. The ledger's lock is held.
    pub(crate) fn list(&mut self, account: &Arc<TenantAccount>, place: u32) {
        if !self.listed && !self.core.is_retired() {
            self.listed = true;
            let credits = &self.core.credits;
            credits.list(account.home(), (Arc::clone(account), place));
        }
    }

    /// Books that an ordinary permit is granted.
    pub(crate) const fn start(&mut self, cost: &CostVector, class: Class, charged: u64) {
        self.permits = self.permits.saturating_add(1);
        self.held.add(cost.amounts());
        let sum = self.charged.get_mut(class);
        *sum = sum.saturating_add(charged);
    }

    /// Books that it is given back.
    pub(crate) fn end(&mut self, cost: &CostVector, booking: Booking) {
        let given = cost.amounts();
        debug_assert!(
            self.permits > 0 && self.held.slots >= given.slots,
            "more ended than started"
        );
        self.permits = self.permits.saturating_sub(1);
        self.held.slots = self.held.slots.saturating_sub(given.slots);
        self.held.staging = self.held.staging.saturating_sub(given.staging);
        let sum = self.charged.get_mut(booking.class());
        *sum = sum.saturating_sub(booking.charged().get());
    }

    /// Takes back an ordinary permit while nobody waits.
    pub(crate) fn give_back_at_once(&mut self, returned: &Returned<'_>) {
        self.take_back(returned);
        let home = returned.account.home();
        self.core.credits.give(home, returned.cost.amounts());
    }

    /// The same, and leaves it to the caller to give back the credits.
    pub(crate) fn take_back(&mut self, returned: &Returned<'_>) {
        let cost = &returned.cost;
        self.end(cost, returned.booking);
        let moves = self.count(returned.settlement);
        if let Some(actual) = returned.settlement.measured() {
            self.core.estimates.learn(returned.kind, actual, moves);
        }
    }

    /// Counts how a permit was given back without the bulkhead's lock; says whether its
    /// measurement is one to learn from.
    fn count(&mut self, settlement: Settlement) -> bool {
        let counts = &mut self.counts;
        match settlement {
            Settlement::Settled(busy) => {
                counts.settled = counts.settled.saturating_add(1);
                counts.busy = counts.busy.saturating_add(busy);
                self.measured = self.measured.wrapping_add(1);
                self.measured % LEARNT_OF == 1
            }
            Settlement::Unsettled => {
                counts.unsettled = counts.unsettled.saturating_add(1);
                false
            }
        }
    }
}
