//! Batches: many permits of one tenant under one critical section.
//!
//! Invariants
//! - Each request has its own answer, the same that it would have had alone.
//! - Credits for a run of requests are taken at once; what was refused is put back.

use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::AuditTag;

use crate::bulkhead::{Acquired, Bulkhead, Core};
use crate::credits::Amounts;
use crate::held::HeldScope;
use crate::outbox::Outbox;
use crate::permit::Permit;
use crate::refusal::Refusal;
use crate::request::{Grantee, Lane, Request};

/// Whether the two may be asked for under one critical section.
fn together(one: &Request<'_>, other: &Request<'_>) -> bool {
    let plain = |request: &Request<'_>| {
        request.lane == Lane::Ordinary && request.exclusion.is_none() && request.deadline.is_none()
    };
    Arc::ptr_eq(one.tenant, other.tenant) && plain(one) && plain(other)
}

impl Core {
    /// Answers as many of a run of requests as needs no queue; returns how many.
    fn acquire_run(
        self: &Arc<Self>,
        run: &[Request<'_>],
        answers: &mut Vec<Result<Acquired, Refusal>>,
    ) -> usize {
        let Some(account) = run.first().map(|request| request.tenant) else {
            return 0;
        };
        let nested = HeldScope::is_inside(self.id);
        let now = account.is_timed().then(|| self.clock.monotonic());
        let mut wanted = Amounts::default();
        for request in run {
            wanted.add(request.cost.amounts());
        }
        let mut guard = account.ledger.lock();
        let ledger = &mut *guard;
        let at = ledger.seat_in(self);
        if self.credits.is_contended() || (ledger.is_timed(Lane::Ordinary) && now.is_none()) {
            return 0;
        }
        // Listed before anything is taken.
        if let (Some(seat), Ok(place)) = (ledger.seats.get_mut(at), u32::try_from(at)) {
            seat.list(account, place);
        }
        if !self.take(account, wanted) {
            return 0;
        }
        let mut answered = 0;
        for request in run {
            let amounts = request.cost.amounts();
            match self.admit(ledger, at, request, nested, now, true) {
                Some(Ok(permit)) => {
                    wanted.subtract(amounts);
                    answers.push(Ok(Acquired::Granted(permit)));
                }
                Some(Err(refusal)) => answers.push(Err(refusal)),
                None => break,
            }
            answered += 1;
        }
        self.credits.give(account.home(), wanted);
        let contended = wanted != Amounts::default() && self.credits.is_contended();
        drop(guard);
        if contended {
            let mut outbox = Outbox::default();
            self.hand_on(&mut outbox);
            outbox.deliver();
        }
        answered
    }
}

impl Bulkhead {
    /// Asks for a permit for each of `requests`, in their order, and appends the answers to
    /// `answers`. Those of one tenant that follow one another and need not wait share one critical
    /// section. Never blocks; allocates nothing while the capacity of `answers` suffices and
    /// nothing has to wait.
    ///
    /// `grantee` is called with the place of each request that has to wait, as for
    /// [`Self::acquire`].
    pub fn acquire_batch(
        &self,
        requests: &[Request<'_>],
        mut grantee: impl FnMut(usize) -> Arc<dyn Grantee>,
        answers: &mut Vec<Result<Acquired, Refusal>>,
    ) {
        let mut at = 0;
        for run in requests.chunk_by(together) {
            let answered = self.core().acquire_run(run, answers);
            for (place, request) in (at..).zip(run).skip(answered) {
                let mut made = Some(|| grantee(place));
                answers.push(self.core().acquire(request, &mut made));
            }
            at += run.len();
        }
    }
}

impl Permit {
    /// Settles every permit with what its work cost, as [`Self::settle`] does, and empties
    /// `permits`. Those of one tenant and bulkhead that follow one another share one critical
    /// section. What [`Self::settle`] would return is told to `drawn`, by who pays.
    pub fn settle_batch(
        permits: &mut Vec<(Self, BusyNanos)>,
        mut drawn: impl FnMut(AuditTag, BusyNanos),
    ) {
        for (permit, cost) in permits.iter_mut() {
            let audit = permit.audit();
            if let Some(beyond) = permit.measure(*cost) {
                drawn(audit, beyond);
            }
        }
        for run in permits.chunk_by_mut(|(one, _), (other, _)| one.is_beside(other)) {
            settle_run(run);
        }
        // What was not settled by then is settled one by one, and no lock is held.
        permits.clear();
    }
}

fn settle_run(run: &mut [(Permit, BusyNanos)]) {
    let Some((first, _)) = run.first() else {
        return;
    };
    if first.lane() == Lane::Reserved {
        return;
    }
    let account = Arc::clone(first.tenant());
    let mut outbox = Outbox::default();
    let core = {
        let mut guard = account.ledger.lock();
        let ledger = &mut *guard;
        let at = first.seat() as usize;
        let free = ledger.seats.get(at);
        if free.is_none_or(|seat| seat.core.credits.is_contended()) {
            return;
        }
        let mut given = Amounts::default();
        for (permit, _) in run.iter_mut() {
            let returned = permit.returned();
            if let Some(seat) = ledger.seats.get_mut(at) {
                seat.out = seat.out.saturating_sub(1);
                seat.take_back(&returned);
            }
            given.add(returned.cost.amounts());
            ledger.settle(
                Lane::Ordinary,
                returned.cost,
                returned.settlement,
                &mut outbox,
            );
            permit.forget();
        }
        let core = ledger.seats.get(at).map(|seat| &seat.core);
        core.and_then(|core| {
            core.freed(account.id(), &mut outbox);
            core.credits.give(account.home(), given);
            core.credits.is_contended().then(|| Arc::clone(core))
        })
    };
    if let Some(core) = core {
        core.hand_on(&mut outbox);
    }
    outbox.deliver();
}
