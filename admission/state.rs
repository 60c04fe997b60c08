//! The state of a bulkhead, under its lock: what may be admitted, who starts, what is taken back.
//!
//! Invariants
//! - What has changed here has changed in the tenant's ledger in the same critical section.
//! - Whoever frees something calls `dispatch` before the lock is given up.

use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use orlop_saga::time::Monotonic;

use crate::bulkhead::Core;
use crate::contention::Contention;
use crate::drain::Gate;
use crate::engagement;
use crate::estimate::Kind;
use crate::expiry::{Expiries, Place};
use crate::held::BulkheadId;
use crate::outbox::{Delivery, Outbox};
use crate::permit::Permit;
use crate::pool::{Next, Pool, Waiter, deadline_of, exclusion_of};
use crate::queue::{EntryKey, OwnerKey};
use crate::refusal::{Refusal, Scope};
use crate::request::{Grantee, Lane, Request};
use crate::tenant::Ledger;
use crate::waiting::Shared;

/// See the module.
pub(crate) struct State {
    pub(crate) gate: Gate,
    pub(crate) ordinary: Pool,
    pub(crate) reserved: Pool,
    pub(crate) expiries: Expiries,
    pub(crate) serial: u64,
    pub(crate) contention: Contention,
    /// Who waits in front of this bulkhead, which is named here.
    pub(crate) room: Option<(BulkheadId, Arc<Shared>)>,
}

impl State {
    /// Something of `tenant` was given back: whoever waits in front hears of it.
    pub(crate) fn freed(&self, tenant: TenantId, outbox: &mut Outbox) {
        if let Some((bulkhead, room)) = &self.room
            && room.is_waited_in()
        {
            outbox.push(Delivery::Freed(Arc::clone(room), *bulkhead, tenant));
        }
    }

    pub(crate) const fn pool(&self, lane: Lane) -> &Pool {
        match lane {
            Lane::Ordinary => &self.ordinary,
            Lane::Reserved => &self.reserved,
        }
    }

    pub(crate) const fn pool_mut(&mut self, lane: Lane) -> &mut Pool {
        match lane {
            Lane::Ordinary => &mut self.ordinary,
            Lane::Reserved => &mut self.reserved,
        }
    }

    pub(crate) fn is_live(&self, place: Place) -> bool {
        let waiter = self.pool(place.lane).queue.get(place.entry);
        waiter.is_some_and(|waiter| waiter.serial == place.serial)
    }

    /// When the next request that waits runs out of time.
    pub(crate) fn next_expiry(&mut self) -> Option<Monotonic> {
        let (ordinary, reserved) = (&self.ordinary, &self.reserved);
        self.expiries
            .next(|place, at| is_due(ordinary, reserved, place, at))
    }

    /// Everything that a request must pass, in the order in which it is told.
    pub(crate) fn check(
        &self,
        core: &Core,
        ledger: &Ledger,
        request: &Request<'_>,
        nested: bool,
        now: Option<Monotonic>,
        estimate: BusyNanos,
    ) -> Result<(), Refusal> {
        let pool = self.pool(request.lane);
        let unknown = exclusion_of(request).filter(|&group| !pool.queue.knows(group));
        let expired = deadline_of(request).is_some_and(|deadline| Some(deadline) <= now);
        let refusal = ledger
            .check_state(request)
            .or_else(|| {
                nested.then(|| Refusal::Nested {
                    bulkhead: Arc::clone(&core.name),
                })
            })
            .or_else(|| {
                self.gate.is_closed().then_some(Refusal::Draining {
                    scope: Scope::Bulkhead,
                })
            })
            .or_else(|| {
                unknown.map(|group| Refusal::UnknownExclusion {
                    bulkhead: Arc::clone(&core.name),
                    group,
                })
            })
            .or_else(|| pool.limits.check_fits(request))
            .or_else(|| ledger.check_fits(request))
            .or_else(|| expired.then_some(Refusal::Expired))
            .or_else(|| {
                let kind = Kind::new(request.computation, request.lane, request.size);
                let known = core.estimates.known(kind).unwrap_or_default();
                pool.predict(request, ledger.quotas.share, known, now?)
            })
            .or_else(|| ledger.check_rates(request, now))
            .or_else(|| engagement::check(request, estimate))
            .or_else(|| ledger.check_quotas(request))
            .or_else(|| pool.check_staging(request));
        refusal.map_or(Ok(()), Err)
    }

    /// Takes a request that waits out of the books, and leaves its grantee to be told.
    pub(crate) fn refuse(
        &mut self,
        lane: Lane,
        waiter: Waiter,
        refusal: Refusal,
        outbox: &mut Outbox,
    ) {
        self.pool_mut(lane).refused.count(&refusal);
        let grantee = self.unbook(lane, waiter, outbox);
        outbox.push(Delivery::Refuse(grantee, refusal));
    }

    pub(crate) fn unbook(
        &mut self,
        lane: Lane,
        waiter: Waiter,
        outbox: &mut Outbox,
    ) -> Arc<dyn Grantee> {
        self.pool_mut(lane).release_staging(waiter.cost);
        let account = waiter.account;
        account
            .ledger
            .lock_nested()
            .withdraw(lane, waiter.cost, outbox);
        self.gate.leave(outbox);
        self.freed(account.id(), outbox);
        waiter.grantee
    }

    /// Starts whoever is next, while what they need is free.
    pub(crate) fn dispatch(&mut self, core: &Arc<Core>, lane: Lane, outbox: &mut Outbox) {
        let mut now = None;
        loop {
            let (entry, starts, overtaken) = match self.pool_mut(lane).next() {
                Next::Nobody => break,
                Next::Front(entry) => (entry, true, None),
                Next::Backfill { entry, front } => (entry, true, Some(front)),
                Next::Gathering(entry) => (entry, false, None),
            };
            let waiter = self.pool(lane).queue.get(entry);
            let unpaid = waiter.and_then(|waiter| waiter.reservation.check_start());
            if let Some(refusal) = unpaid {
                let Some(waiter) = self.pool_mut(lane).queue.remove(entry) else {
                    break;
                };
                self.refuse(lane, waiter, refusal, outbox);
                continue;
            }
            let waiter = self.pool(lane).queue.get(entry);
            if let Some(expiry) = waiter.and_then(|waiter| waiter.expiry) {
                let now = *now.get_or_insert_with(|| core.clock.monotonic());
                let refusal = if expiry.at <= now {
                    Some(expiry.refusal(now))
                } else {
                    let kind = waiter.map(|waiter| waiter.kind);
                    let known = kind.and_then(|kind| core.estimates.known(kind));
                    known.and_then(|known| expiry.late(now, known))
                };
                if let Some(refusal) = refusal {
                    let Some(waiter) = self.pool_mut(lane).queue.remove(entry) else {
                        break;
                    };
                    self.refuse(lane, waiter, refusal, outbox);
                    continue;
                }
            }
            if !starts || !self.start_waiting(core, lane, entry, outbox) {
                break;
            }
            if let Some(front) = overtaken {
                self.pool_mut(lane).queue.overtake(front);
            }
        }
    }

    /// Grants what waits under `entry`.
    pub(crate) fn start_waiting(
        &mut self,
        core: &Arc<Core>,
        lane: Lane,
        entry: EntryKey,
        outbox: &mut Outbox,
    ) -> bool {
        let Some(kind) = self.pool(lane).queue.get(entry).map(|waiter| waiter.kind) else {
            return false;
        };
        let estimate = core.estimates.of(kind);
        let pool = self.pool_mut(lane);
        let Some((booking, waiter)) = pool.queue.take(entry, estimate) else {
            return false;
        };
        pool.occupy(waiter.cost, booking);
        let seat = {
            let mut ledger = waiter.account.ledger.lock_nested();
            ledger.dispatch(lane);
            ledger.seat(core, &waiter.account, lane, waiter.cost, booking)
        };
        let permit = Permit::new(
            seat,
            core.id,
            waiter.account,
            booking,
            kind,
            waiter.audit,
            waiter.reservation,
            waiter.cost,
        );
        // Its place in the queue is free.
        self.freed(permit.tenant().id(), outbox);
        outbox.push(Delivery::Grant(waiter.grantee, permit));
        true
    }
}

/// Whether what waits at `place` runs out of time `at`.
pub(crate) fn is_due(ordinary: &Pool, reserved: &Pool, place: &Place, at: Monotonic) -> bool {
    let pool = match place.lane {
        Lane::Ordinary => ordinary,
        Lane::Reserved => reserved,
    };
    let waiter = pool.queue.get(place.entry);
    let waiter = waiter.filter(|waiter| waiter.serial == place.serial);
    waiter.is_some_and(|waiter| waiter.expiry.is_some_and(|expiry| expiry.at == at))
}

pub(crate) fn sweep_locked(
    state: &mut State,
    lane: Lane,
    owner: Option<OwnerKey>,
    reason: &Refusal,
    outbox: &mut Outbox,
) -> u64 {
    let mut swept = 0;
    while let Some(entry) = state.pool(lane).queue.any_of(owner) {
        let Some(waiter) = state.pool_mut(lane).queue.remove(entry) else {
            break;
        };
        state.refuse(lane, waiter, reason.clone(), outbox);
        swept += 1;
    }
    swept
}

pub(crate) fn take_expired(state: &mut State, now: Monotonic) -> Option<(Place, Waiter)> {
    let (ordinary, reserved) = (&state.ordinary, &state.reserved);
    let place = state
        .expiries
        .take(now, |place, at| is_due(ordinary, reserved, place, at))?;
    let waiter = state.pool_mut(place.lane).queue.remove(place.entry)?;
    Some((place, waiter))
}
