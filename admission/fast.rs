//! The way of a request while nobody waits: one critical section of its tenant, and credits.
//!
//! What is told here is told in the order of [`State::check`]; whatever needs the queue, or more
//! than is free, goes to the bulkhead's lock and is looked at again there.
//!
//! Invariants
//! - Nothing changes before all checks have passed, apart from credits and what was reserved in a
//!   purse, which are put back.
//! - Lock order: a ledger's lock is given up before the bulkhead's is taken.
//!
//! [`State::check`]: crate::state::State::check

use std::sync::Arc;

use orlop_saga::time::Monotonic;

use crate::bulkhead::{Acquired, Core, owner_key};
use crate::credits::Amounts;
use crate::engagement::{self, Reservation};
use crate::estimate::Kind;
use crate::outbox::Outbox;
use crate::permit::Permit;
use crate::prediction;
use crate::queue::Booking;
use crate::refusal::Refusal;
use crate::request::{CostVector, Grantee, Lane, Request};
use crate::tenant::{Ledger, Settlement, TenantAccount};

/// A permit that is given back.
pub(crate) struct Returned<'a> {
    pub(crate) seat: u32,
    pub(crate) account: &'a Arc<TenantAccount>,
    pub(crate) booking: Booking,
    pub(crate) kind: Kind,
    pub(crate) cost: CostVector,
    pub(crate) settlement: Settlement,
}

/// A grant whose permit is not made yet: that is large, and is made where it is to stay.
pub(crate) struct Grant {
    pub(crate) place: u32,
    pub(crate) booking: Booking,
    pub(crate) kind: Kind,
    pub(crate) reservation: Reservation,
}

impl Grant {
    /// The permit for `request`, which was granted this.
    #[inline]
    pub(crate) fn permit(self, core: &Core, request: &Request<'_>) -> Permit {
        Permit::new(
            self.place,
            core.id,
            Arc::clone(request.tenant),
            self.booking,
            self.kind,
            request.audit,
            self.reservation,
            request.cost,
        )
    }
}

impl Core {
    /// Grants or refuses without the bulkhead's lock, if it need not decide.
    #[inline]
    pub(crate) fn acquire_fast<G>(
        self: &Arc<Self>,
        request: &Request<'_>,
        nested: bool,
        grantee: &mut Option<G>,
    ) -> Result<Acquired, Refusal>
    where
        G: FnOnce() -> Arc<dyn Grantee>,
    {
        let account = request.tenant;
        // Read before the lock: an earlier time admits no more than a later one.
        let timed = request.deadline.is_some() || account.is_timed();
        let now = timed.then(|| self.clock.monotonic());
        {
            let mut guard = account.ledger.lock();
            let ledger = &mut *guard;
            let at = ledger.seat_in(self);
            let knows_time = now.is_some() || !ledger.is_timed(Lane::Ordinary);
            if knows_time
                && !self.credits.is_contended()
                && let Some(answer) = self.admit(ledger, at, request, nested, now)
            {
                return answer.map(|grant| Acquired::Granted(grant.permit(self, request)));
            }
        }
        self.acquire_queued(request, nested, grantee)
    }

    /// Admits one request of an ordinary lane under its ledger's lock.
    #[inline]
    pub(crate) fn admit(
        &self,
        ledger: &mut Ledger,
        at: usize,
        request: &Request<'_>,
        nested: bool,
        now: Option<Monotonic>,
    ) -> Option<Result<Grant, Refusal>> {
        let (account, cost) = (request.tenant, request.cost);
        let held = cost.of_tenant();
        let place = u32::try_from(at).ok()?;
        let kind = Kind::new(request.computation, Lane::Ordinary, request.size);
        let passes = !nested && self.limits.fit(&cost) && ledger.passes(request, &held, 1, now);
        if !passes && let Some(refusal) = self.refusal(ledger, request, kind, nested, now) {
            let seat = ledger.seats.get_mut(at)?;
            seat.counts.refused.count(&refusal);
            seat.list(account, place);
            return Some(Err(refusal));
        }
        let (estimate, known) = self.estimates.guess(kind);
        let reservation = match Reservation::of(request, estimate) {
            Ok(reservation) => reservation,
            Err(refusal) => {
                let seat = ledger.seats.get_mut(at)?;
                seat.counts.refused.count(&refusal);
                seat.list(account, place);
                return Some(Err(refusal));
            }
        };
        let seat = ledger.seats.get_mut(at)?;
        let amounts = self.amounts(&cost, estimate);
        if seat.held.slots.saturating_add(amounts.slots) > self.limits.slots_per_tenant {
            return None;
        }
        seat.list(account, place);
        if !seat.take_from_pocket(amounts) && !self.take(account, amounts) {
            return None;
        }
        let slots = cost.slots.get();
        let booking = Booking::at_once(request.class, slots, estimate, known);
        seat.out = seat.out.saturating_add(1);
        seat.start(&cost, request.class, estimate.get());
        seat.counts.granted = seat.counts.granted.saturating_add(1);
        ledger.start_many(&held, 1);
        ledger.pass(Lane::Ordinary, &cost, 1, now);
        Some(Ok(Grant {
            place,
            booking,
            kind,
            reservation,
        }))
    }

    /// Takes credits, unless contention has begun by then.
    #[inline]
    pub(crate) fn take(&self, account: &TenantAccount, amounts: Amounts) -> bool {
        if !self.credits.take(account.home(), amounts) {
            return false;
        }
        let contended = self.credits.is_contended();
        if contended {
            self.credits.give(account.home(), amounts);
        }
        !contended
    }

    /// The first check that does not pass, while nobody waits.
    #[cold]
    fn refusal(
        &self,
        ledger: &Ledger,
        request: &Request<'_>,
        kind: Kind,
        nested: bool,
        now: Option<Monotonic>,
    ) -> Option<Refusal> {
        let late = || {
            let known = self.estimates.known(kind)?;
            let refusal = prediction::late(request.deadline?, now?, known.get())?;
            self.estimates.doubt(kind, now?);
            Some(refusal)
        };
        ledger
            .check_state(request)
            .or_else(|| {
                nested.then(|| Refusal::Nested {
                    bulkhead: Arc::clone(&self.name),
                })
            })
            .or_else(|| self.limits.check_fits(request))
            .or_else(|| ledger.check_fits(request))
            .or_else(|| (request.deadline? <= now?).then_some(Refusal::Expired))
            .or_else(late)
            .or_else(|| ledger.check_rates(request, now))
            .or_else(|| engagement::check(request, self.estimates.of(kind)))
            .or_else(|| ledger.check_quotas(request))
    }

    /// Takes back what a permit occupied; whoever is next gets it before this returns.
    #[inline]
    pub(crate) fn give_back(returned: &Returned<'_>) {
        let mut outbox = Outbox::default();
        {
            let mut guard = returned.account.ledger.lock();
            let ledger = &mut *guard;
            let Some(seat) = ledger.seats.get_mut(returned.seat as usize) else {
                debug_assert!(false, "a permit has a seat");
                return;
            };
            let lane = returned.kind.lane();
            if lane == Lane::Reserved || seat.core.credits.is_contended() {
                let core = Arc::clone(&seat.core);
                drop(guard);
                core.give_back_queued(returned, &mut outbox);
                core.freed(returned.account.id(), &mut outbox);
            } else {
                seat.out = seat.out.saturating_sub(1);
                seat.give_back_at_once(returned);
                let contended = seat.core.credits.is_contended();
                let core = contended.then(|| Arc::clone(&seat.core));
                ledger.settle(lane, returned.cost, returned.settlement, &mut outbox);
                if let Some(seat) = ledger.seats.get(returned.seat as usize) {
                    seat.core.freed(returned.account.id(), &mut outbox);
                }
                drop(guard);
                if let Some(core) = core {
                    core.hand_on(&mut outbox);
                }
            }
        }
        outbox.deliver();
    }

    /// Hands on what was given back just when contention began.
    #[cold]
    pub(crate) fn hand_on(self: &Arc<Self>, outbox: &mut Outbox) {
        let mut state = self.state.lock();
        if state.contention.is_on() {
            state.contend(self);
            state.dispatch(self, Lane::Ordinary, outbox);
        }
    }

    fn give_back_queued(self: &Arc<Self>, returned: &Returned<'_>, outbox: &mut Outbox) {
        let Returned {
            account,
            booking,
            kind,
            cost,
            settlement,
            ..
        } = *returned;
        let lane = kind.lane();
        let mut state = self.state.lock();
        let mut ledger = account.ledger.lock_nested();
        if let Some(seat) = ledger.seats.get_mut(returned.seat as usize) {
            seat.out = seat.out.saturating_sub(1);
            match lane {
                Lane::Reserved => {}
                Lane::Ordinary if state.contention.is_on() => seat.end(&cost, booking),
                // It was over before this thread came here.
                Lane::Ordinary => {
                    seat.give_back_at_once(returned);
                    ledger.settle(lane, cost, settlement, outbox);
                    return;
                }
            }
        }
        ledger.settle(lane, cost, settlement, outbox);
        drop(ledger);
        let pool = state.pool_mut(lane);
        pool.vacate(cost, booking, settlement);
        let measured = settlement.measured();
        pool.queue.end(owner_key(account), booking, measured);
        if let Some(actual) = measured {
            self.estimates.learn(kind, actual, true);
        }
        state.gate.leave(outbox);
        match lane {
            Lane::Ordinary => {
                state.contend(self);
            }
            Lane::Reserved => {}
        }
        state.dispatch(self, lane, outbox);
        match lane {
            Lane::Ordinary => state.relax(self),
            Lane::Reserved => {}
        }
    }
}
