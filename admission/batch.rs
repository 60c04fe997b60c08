//! Batches: many permits of one tenant under one critical section.
//!
//! Invariants
//! - Each request has its own answer, the same that it would have had alone.
//! - A tenant's lock is kept for a bounded number of them at a time.
//! - Requests that are alike are admitted at once if all of them may be, and otherwise one by one.

use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::AuditTag;
use orlop_saga::time::Monotonic;

use crate::bulkhead::{Acquired, Bulkhead, Core};
use crate::credits::Amounts;
use crate::engagement::{Payer, Reservation};
use crate::estimate::Kind;
use crate::extent::Held;
use crate::fast::Grant;
use crate::held::HeldScope;
use crate::outbox::Outbox;
use crate::permit::Permit;
use crate::queue::Booking;
use crate::refusal::Refusal;
use crate::request::{Grantee, Lane, Request};
use crate::seat::Seat;
use crate::tenant::{Ledger, Settlement};
use crate::ticket::QueueTicket;

/// How many are asked for or given back in one critical section: whoever begins to wait waits for
/// the locks of all tenants that have something.
const TOGETHER_MAX: usize = 64;

/// Whether neither a lane of its own, nor an exclusion group, nor a deadline sets it apart.
fn is_plain(request: &Request<'_>) -> bool {
    request.lane == Lane::Ordinary && request.exclusion.is_none() && request.deadline.is_none()
}

/// Whether the two may be asked for under one critical section.
fn together(one: &Request<'_>, other: &Request<'_>) -> bool {
    Arc::ptr_eq(one.tenant, other.tenant) && is_plain(one) && is_plain(other)
}

/// Whether what admits or refuses the one does the same to the other.
fn alike(one: &Request<'_>, other: &Request<'_>) -> bool {
    one.computation == other.computation
        && one.class == other.class
        && one.size == other.size
        && one.cost == other.cost
        && matches!((one.payer, other.payer), (Payer::Anybody, Payer::Anybody))
}

impl Core {
    /// Grants requests from the front of a run, up to the first one that is not granted at once;
    /// `None` where the queue has to decide about that one.
    fn acquire_run(
        self: &Arc<Self>,
        run: &[Request<'_>],
        granted: &mut Vec<Permit>,
    ) -> Option<Refusal> {
        // One that is set apart is a run of its own, and is asked for alone.
        let account = run.first().filter(|first| is_plain(first))?.tenant;
        let nested = HeldScope::is_inside(self.id);
        let now = account.is_timed().then(|| self.clock.monotonic());
        let mut guard = account.ledger.lock();
        let ledger = &mut *guard;
        let at = ledger.seat_in(self);
        if self.credits.is_contended() || (ledger.is_timed(Lane::Ordinary) && now.is_none()) {
            return None;
        }
        for group in run.chunk_by(alike) {
            if !nested && self.grant_all(ledger, at, group, now, granted) {
                continue;
            }
            for request in group {
                match self.admit(ledger, at, request, nested, now)? {
                    Ok(grant) => granted.push(grant.permit(self, request)),
                    Err(refusal) => return Some(refusal),
                }
            }
        }
        None
    }

    /// Grants requests that are alike, if all of them may start at once; otherwise nothing.
    fn grant_all(
        self: &Arc<Self>,
        ledger: &mut Ledger,
        at: usize,
        group: &[Request<'_>],
        now: Option<Monotonic>,
        granted: &mut Vec<Permit>,
    ) -> bool {
        let (Some(first), Ok(place)) = (group.first(), u32::try_from(at)) else {
            return false;
        };
        let (account, cost, count) = (first.tenant, first.cost, group.len() as u64);
        match first.payer {
            Payer::Anybody => {}
            Payer::Purse(_) | Payer::Unknown => return false,
        }
        let Some(held) = cost.of_tenant().checked_times(count) else {
            return false;
        };
        if !self.limits.fit(&cost) || !ledger.passes(first, &held, count, now) {
            return false;
        }
        let kind = Kind::new(first.computation, Lane::Ordinary, first.size);
        let (estimate, known) = self.estimates.guess(kind);
        let amounts = self.amounts(&cost, estimate).times(count);
        let Some(seat) = ledger.seats.get_mut(at) else {
            return false;
        };
        if seat.held.slots.saturating_add(amounts.slots) > self.limits.slots_per_tenant {
            return false;
        }
        seat.list(account, place);
        if !self.take(account, amounts) {
            return false;
        }
        let charged = estimate.get().saturating_mul(count);
        seat.out = seat.out.saturating_add(count);
        seat.start_many(amounts, count, first.class, charged);
        seat.counts.granted = seat.counts.granted.saturating_add(count);
        ledger.start_many(&held, count);
        ledger.pass(Lane::Ordinary, &cost, count, now);
        let booking = Booking::at_once(first.class, cost.slots.get(), estimate, known);
        granted.extend(group.iter().map(|request| {
            let reservation = Reservation::default();
            let grant = Grant {
                place,
                booking,
                kind,
                reservation,
            };
            grant.permit(self, request)
        }));
        true
    }
}

impl Bulkhead {
    /// Asks for a permit for each of `requests`, in their order. Appends the permits of those that
    /// may start at once to `granted`, in the same order, and tells `other` of every other one by
    /// its place: where it waits, or why it was refused. Those of one tenant that follow one
    /// another and need not wait share one critical section. Never blocks; allocates nothing while
    /// the capacity of `granted` suffices and nothing has to wait.
    ///
    /// `grantee` is called with the place of each request that has to wait, as for
    /// [`Self::acquire`].
    pub fn acquire_batch(
        &self,
        requests: &[Request<'_>],
        mut grantee: impl FnMut(usize) -> Arc<dyn Grantee>,
        granted: &mut Vec<Permit>,
        mut other: impl FnMut(usize, Result<QueueTicket, Refusal>),
    ) {
        let mut at = 0;
        for run in requests.chunk_by(together) {
            let mut rest = run;
            while !rest.is_empty() {
                let before = granted.len();
                let part = rest.get(..TOGETHER_MAX).unwrap_or(rest);
                let refused = self.core().acquire_run(part, granted);
                let done = granted.len() - before;
                at += done;
                rest = rest.get(done..).unwrap_or_default();
                if done == part.len() {
                    continue;
                }
                let Some((request, behind)) = rest.split_first() else {
                    break;
                };
                if let Some(refusal) = refused {
                    other(at, Err(refusal));
                } else {
                    match self.core().acquire(request, &mut Some(|| grantee(at))) {
                        Ok(Acquired::Granted(permit)) => granted.push(permit),
                        Ok(Acquired::Queued(ticket)) => other(at, Ok(ticket)),
                        Err(refusal) => other(at, Err(refusal)),
                    }
                }
                at += 1;
                rest = behind;
            }
        }
    }
}

impl Permit {
    /// Settles every permit with what its work cost, as [`Self::settle`] does, and empties
    /// `permits`. `costs` are in the order of the permits; one without a cost counts as dropped.
    /// Those of one tenant and bulkhead that follow one another share one critical section. What
    /// [`Self::settle`] would return is told to `drawn`, by who pays.
    pub fn settle_batch(
        permits: &mut Vec<Self>,
        costs: &[BusyNanos],
        mut drawn: impl FnMut(AuditTag, BusyNanos),
    ) {
        for (permit, cost) in permits.iter_mut().zip(costs) {
            if let Some(beyond) = permit.pay(*cost) {
                drawn(permit.audit(), beyond);
            }
        }
        let mut costs = costs;
        for run in permits.chunk_by_mut(Self::is_beside) {
            let count = run.len().min(costs.len());
            let (own, rest) = costs.split_at_checked(count).unwrap_or_default();
            costs = rest;
            settle_run(run.get_mut(..count).unwrap_or_default(), own);
        }
        permits.clear();
    }
}

/// What a run of permits gives back.
#[derive(Default)]
struct Sum {
    held: Held,
    amounts: Amounts,
    busy: BusyNanos,
    count: u64,
}

/// Takes the permits of a run out of their seat.
fn take_back_run(seat: &mut Seat, run: &mut [Permit], costs: &[BusyNanos]) -> Sum {
    let (mut sum, mut costs) = (Sum::default(), costs);
    for part in run.chunk_by_mut(Permit::is_like) {
        let Some((booking, occupied)) = part.first().map(|one| (one.booking(), one.cost())) else {
            continue;
        };
        let count = part.len() as u64;
        let (own, rest) = costs.split_at_checked(part.len()).unwrap_or_default();
        costs = rest;
        for (permit, cost) in part.iter_mut().zip(own) {
            seat.learn(permit.kind(), booking, *cost);
            sum.busy = sum.busy.saturating_add(*cost);
            permit.forget();
        }
        seat.uncharge(booking, count);
        let amounts = seat.core.amounts(&occupied, booking.charged());
        sum.amounts.add(amounts.times(count));
        sum.held.add(&occupied.of_tenant().times(count));
        sum.count += count;
    }
    seat.out = seat.out.saturating_sub(sum.count);
    seat.end_many(sum.amounts, sum.count);
    seat.count_settled(sum.count, sum.busy);
    sum
}

/// Settles permits of one tenant, bulkhead and lane, of which each has a cost.
fn settle_run(run: &mut [Permit], costs: &[BusyNanos]) {
    let parts = run.chunks_mut(TOGETHER_MAX);
    for (part, costs) in parts.zip(costs.chunks(TOGETHER_MAX)) {
        if !settle_at_once(part, costs) {
            for (permit, cost) in part.iter_mut().zip(costs) {
                permit.give_back(Settlement::Settled(*cost));
            }
        }
    }
}

/// The same in one critical section; nothing, if the bulkhead's lock is needed.
fn settle_at_once(run: &mut [Permit], costs: &[BusyNanos]) -> bool {
    let Some(first) = run.first() else {
        return true;
    };
    if first.lane() == Lane::Reserved {
        return false;
    }
    let account = Arc::clone(first.tenant());
    let mut outbox = Outbox::default();
    let core = {
        let mut guard = account.ledger.lock();
        let ledger = &mut *guard;
        let at = first.seat() as usize;
        let seat = ledger.seats.get_mut(at);
        let Some(seat) = seat.filter(|seat| !seat.core.credits.is_contended()) else {
            return false;
        };
        let sum = take_back_run(seat, run, costs);
        let core = Arc::clone(&seat.core);
        ledger.settle_many(&sum.held, sum.count, sum.busy, &mut outbox);
        core.freed(account.id(), &mut outbox);
        core.credits.give(account.home(), sum.amounts);
        core
    };
    if core.credits.is_contended() {
        core.hand_on(&mut outbox);
    }
    outbox.deliver();
    true
}
