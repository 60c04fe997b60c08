//! Bulkheads: how much of one resource may be in use, by whom, and who waits.
//!
//! Invariants
//! - Held equals counted: each permit out and each request that waits is in the pool's counts,
//!   in its tenant's ledger and behind both gates, from the critical section that accepted it to
//!   the one that took it back.
//! - No barging: a request is granted at once only if nobody waits who could start.
//! - No idle capacity: whoever frees something hands it on in the same critical section.
//! - Nothing changes until every check has passed.
//! - Lock order: bulkhead, then ledger, then a list of seats. Callbacks run with none of them; the
//!   clock is read under the bulkhead's and must not call back.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;
use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use orlop_saga::time::{Clock, Monotonic};

use crate::acquire::Acquire;
use crate::contention::Contention;
use crate::credits::{Amounts, Credits};
use crate::drain::{Drain, Gate, Gated, Queued};
use crate::engagement::Reservation;
use crate::estimate::{Estimates, Kind};
use crate::expiry::{Expiries, Place};
use crate::held::{BulkheadId, HeldScope};
use crate::options::{BulkheadOptions, OptionsError};
use crate::outbox::{Delivery, Outbox};
use crate::permit::Permit;
use crate::pool::{Expiry, Limits, Pool, Waiter, class_of, deadline_of, exclusion_of};
use crate::prediction::Published;
use crate::queue::{OwnerKey, Piece};
use crate::refusal::{Refusal, Scope};
use crate::request::{CostVector, Grantee, Lane, Request};
use crate::share::Share;
use crate::snapshot::BulkheadSnapshot;
use crate::state::{State, is_due, sweep_locked, take_expired};
use crate::sync::Mutex;
use crate::tenant::TenantAccount;
use crate::ticket::QueueTicket;
use crate::waiting::Shared;

/// What became of a request that was not refused.
#[derive(Debug)]
pub enum Acquired {
    /// It may start. The grantee is not called.
    Granted(Permit),
    /// It waits. The grantee is called, on another thread maybe before this is returned.
    Queued(QueueTicket),
}

/// Whoever calls [`Bulkhead::expire`] or [`WaitingRoom::ring`](crate::WaitingRoom::ring) in time.
pub trait Alarm: Send + Sync {
    /// The next expiry, or ring, is now at `next`, earlier than it was. Called with no lock held;
    /// must be short and must not block.
    fn earlier(&self, next: Monotonic);
}

pub(crate) struct Core {
    pub(crate) id: BulkheadId,
    pub(crate) name: Arc<str>,
    pub(crate) clock: Arc<dyn Clock>,
    alarm: Option<Arc<dyn Alarm>>,
    /// Of the ordinary lane.
    pub(crate) limits: Limits,
    /// As it is when nothing is out.
    published: Published,
    pub(crate) credits: Credits,
    pub(crate) estimates: Estimates,
    retired: AtomicBool,
    /// Who waits in front of it.
    room: OnceLock<Arc<Shared>>,
    pub(crate) state: CachePadded<Mutex<State>>,
}

impl Core {
    /// What ordinary work of this cost and estimate takes of the bulkhead.
    #[inline]
    pub(crate) fn amounts(&self, cost: &CostVector, estimate: BusyNanos) -> Amounts {
        Amounts {
            published: self.published.part(estimate),
            ..cost.amounts()
        }
    }

    /// Something of `tenant` was given back: whoever waits in front hears of it.
    pub(crate) fn freed(&self, tenant: TenantId, outbox: &mut Outbox) {
        if let Some(room) = self.room.get()
            && room.is_waited_in()
        {
            outbox.push(Delivery::Freed(Arc::clone(room), self.id, tenant));
        }
    }

    /// Whether nobody can ask any more, so that no tenant need be remembered.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(crate) fn set_retired(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Grants, queues or refuses. `grantee` is made only if the request has to wait.
    pub(crate) fn acquire<G>(
        self: &Arc<Self>,
        request: &Request<'_>,
        grantee: &mut Option<G>,
    ) -> Result<Acquired, Refusal>
    where
        G: FnOnce() -> Arc<dyn Grantee>,
    {
        let nested = HeldScope::is_inside(self.id);
        if request.lane == Lane::Ordinary && request.exclusion.is_none() {
            return self.acquire_fast(request, nested, grantee);
        }
        self.acquire_queued(request, nested, grantee)
    }

    fn count_refused(&self, lane: Lane, refusal: &Refusal) {
        self.state.lock().pool_mut(lane).refused.count(refusal);
    }

    /// Grants, queues or refuses under the bulkhead's lock.
    pub(crate) fn acquire_queued<G>(
        self: &Arc<Self>,
        request: &Request<'_>,
        nested: bool,
        grantee: &mut Option<G>,
    ) -> Result<Acquired, Refusal>
    where
        G: FnOnce() -> Arc<dyn Grantee>,
    {
        let mut outbox = Outbox::default();
        let acquired = {
            let mut state = self.state.lock();
            match request.lane {
                // Also if this one is refused: nobody else may come for what was put back.
                Lane::Ordinary => state.contend_and_hand_on(self, &mut outbox),
                Lane::Reserved => {}
            }
            let acquired = self.acquire_locked(&mut state, request, nested, grantee, &mut outbox);
            if let Err(refusal) = &acquired {
                state.pool_mut(request.lane).refused.count(refusal);
                State::doubt(self, request, refusal);
            }
            match request.lane {
                Lane::Ordinary => state.relax(self),
                Lane::Reserved => {}
            }
            acquired
        };
        outbox.deliver();
        acquired
    }

    fn acquire_locked<G>(
        self: &Arc<Self>,
        state: &mut State,
        request: &Request<'_>,
        nested: bool,
        grantee: &mut Option<G>,
        outbox: &mut Outbox,
    ) -> Result<Acquired, Refusal>
    where
        G: FnOnce() -> Arc<dyn Grantee>,
    {
        let (lane, cost, account) = (request.lane, request.cost, request.tenant);
        let deadline = deadline_of(request);
        let timeout = state.pool(lane).queue_timeout;
        let timeout = timeout.filter(|_| !request.untimed);
        let owner = owner_key(account);

        let mut ledger = account.ledger.lock_nested();
        // Also if it is refused: the seat tells who waits in front what the tenant gives back.
        ledger.seat_in(self);
        let timed = deadline.is_some() || timeout.is_some() || ledger.is_timed(lane);
        let now = timed.then(|| self.clock.monotonic());
        let kind = Kind::new(request.computation, lane, request.size);
        let estimate = self.estimates.of(kind);
        state.check(self, &ledger, request, nested, now, estimate)?;
        let share = ledger.quotas.share;
        let slots = cost.slots.get();
        let piece = Piece {
            class: class_of(request),
            slots,
            exclusion: exclusion_of(request),
            cost: self.estimates.known(kind).unwrap_or_default().get(),
        };
        let pool = state.pool_mut(lane);
        if pool.queue.may_start(owner, slots, piece.exclusion) && pool.has_free(slots) {
            let reservation = Reservation::of(request, estimate)?;
            ledger.reserve(lane, cost, false);
            ledger.pass(lane, &cost, 1, now);
            let booking = pool.queue.start(owner, share, piece, estimate);
            pool.reserve_staging(cost);
            pool.occupy(cost, booking);
            state.gate.enter();
            let seat = ledger.seat(self, account, lane, cost, booking);
            return Ok(Acquired::Granted(Permit::new(
                seat,
                self.id,
                Arc::clone(account),
                booking,
                kind,
                request.audit,
                reservation,
                cost,
            )));
        }
        if let Some(refusal) = pool.check_queue(owner) {
            return Err(refusal);
        }
        let reservation = Reservation::of(request, estimate)?;
        let Some(grantee) = grantee.take() else {
            debug_assert!(false, "a request has one grantee");
            return Err(Refusal::Cancelled);
        };
        // Before anything is reserved: it is foreign code, which may panic.
        let grantee = grantee();
        ledger.reserve(lane, cost, true);
        ledger.pass(lane, &cost, 1, now);
        drop(ledger);
        let expiry = now.and_then(|now| Expiry::earlier(now, deadline, timeout));
        let waiter = Waiter {
            serial: state.serial,
            account: Arc::clone(account),
            audit: request.audit,
            reservation,
            cost,
            kind,
            expiry,
            grantee,
        };
        Ok(Acquired::Queued(
            self.enqueue(state, lane, share, piece, waiter, outbox),
        ))
    }

    fn enqueue(
        self: &Arc<Self>,
        state: &mut State,
        lane: Lane,
        share: Share,
        piece: Piece,
        waiter: Waiter,
        outbox: &mut Outbox,
    ) -> QueueTicket {
        let serial = waiter.serial;
        let expires_at = waiter.expiry.map(|expiry| expiry.at);
        let owner = owner_key(&waiter.account);
        let pool = state.pool_mut(lane);
        pool.reserve_staging(waiter.cost);
        let entry = pool.queue.push(owner, share, piece, waiter);
        state.gate.enter();
        state.serial = state.serial.wrapping_add(1);
        let place = Place {
            lane,
            entry,
            serial,
        };
        if let Some(at) = expires_at {
            self.note_expiry(state, at, place, outbox);
        }
        // It may be the first that its tenant could start, in a more urgent class than what waits.
        state.dispatch(self, lane, outbox);
        QueueTicket::new(Arc::clone(self), place, expires_at)
    }

    /// Gives what waits at `place` until `deadline`, if it still waits; for as long as it takes,
    /// if that is none.
    pub(crate) fn extend(&self, place: Place, deadline: Option<Monotonic>) -> bool {
        let mut outbox = Outbox::default();
        let extended = {
            let mut state = self.state.lock();
            let live = state.is_live(place);
            let waiter = state.pool_mut(place.lane).queue.get_mut(place.entry);
            if let Some(waiter) = waiter.filter(|_| live) {
                let was = waiter.expiry.map(|expiry| expiry.at);
                waiter.expiry = waiter.expiry.and_then(|expiry| expiry.until(deadline));
                let at = waiter.expiry.map(|expiry| expiry.at);
                if let Some(at) = at.filter(|_| at != was) {
                    self.note_expiry(&mut state, at, place, &mut outbox);
                }
            }
            live
        };
        outbox.deliver();
        extended
    }

    fn note_expiry(&self, state: &mut State, at: Monotonic, place: Place, outbox: &mut Outbox) {
        let sooner = state.next_expiry().is_none_or(|next| at < next);
        let (ordinary, reserved) = (&state.ordinary, &state.reserved);
        let waiting = ordinary.queue.len() + reserved.queue.len();
        state.expiries.note(at, place, waiting, |place, at| {
            is_due(ordinary, reserved, place, at)
        });
        if let (true, Some(alarm)) = (sooner, &self.alarm) {
            outbox.push(Delivery::Alarm(Arc::clone(alarm), at));
        }
    }

    /// Withdraws what waits at `place`, if it still does.
    pub(crate) fn withdraw(self: &Arc<Self>, place: Place) -> bool {
        let mut outbox = Outbox::default();
        let withdrawn = {
            let mut state = self.state.lock();
            let waiter = if state.is_live(place) {
                state.pool_mut(place.lane).queue.remove(place.entry)
            } else {
                None
            };
            let withdrawn = waiter.is_some();
            if let Some(waiter) = waiter {
                let pool = state.pool_mut(place.lane);
                pool.withdrawn = pool.withdrawn.saturating_add(1);
                let grantee = state.unbook(place.lane, waiter, &mut outbox);
                outbox.push(Delivery::Forget(grantee));
                state.dispatch(self, place.lane, &mut outbox);
            }
            withdrawn
        };
        outbox.deliver();
        withdrawn
    }

    /// Refuses what waits in the ordinary lane, of one tenant; returns how many requests.
    pub(crate) fn sweep(self: &Arc<Self>, account: &Arc<TenantAccount>, reason: &Refusal) -> u64 {
        let mut outbox = Outbox::default();
        let swept = {
            let mut state = self.state.lock();
            state.tidy(self);
            let owner = Some(owner_key(account));
            let swept = sweep_locked(&mut state, Lane::Ordinary, owner, reason, &mut outbox);
            if swept > 0 {
                state.dispatch(self, Lane::Ordinary, &mut outbox);
            }
            swept
        };
        outbox.deliver();
        swept
    }

    fn expire(self: &Arc<Self>, now: Monotonic) -> usize {
        let mut outbox = Outbox::default();
        let mut expired = 0;
        {
            let mut state = self.state.lock();
            while let Some((place, waiter)) = take_expired(&mut state, now) {
                let refusal = waiter
                    .expiry
                    .map_or(Refusal::Expired, |expiry| expiry.refusal(now));
                state.refuse(place.lane, waiter, refusal, &mut outbox);
                expired += 1;
            }
            state.dispatch(self, Lane::Ordinary, &mut outbox);
        }
        outbox.deliver();
        expired
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulkhead")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

pub(crate) const fn owner_key(account: &TenantAccount) -> OwnerKey {
    OwnerKey(account.id())
}

/// One resource's bound: slots, queues and counts. Clones share them.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    open: Arc<Open>,
}

/// Whoever can ask. Tenants name the core by their seats and the core names them by its lists of
/// seats; the lists end with this.
#[derive(Debug)]
struct Open {
    core: Arc<Core>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let unlisted = self.core.state.lock().retire(&self.core);
        drop(unlisted);
    }
}

impl Bulkhead {
    /// Makes a bulkhead, open and empty.
    ///
    /// # Errors
    /// [`OptionsError`]: nothing was made.
    pub fn new(options: &BulkheadOptions, clock: Arc<dyn Clock>) -> Result<Self, OptionsError> {
        Self::build(options, clock, None)
    }

    /// Makes a bulkhead that tells `alarm` when [`Self::next_expiry`] becomes earlier.
    ///
    /// # Errors
    /// [`OptionsError`]: nothing was made.
    pub fn with_alarm(
        options: &BulkheadOptions,
        clock: Arc<dyn Clock>,
        alarm: Arc<dyn Alarm>,
    ) -> Result<Self, OptionsError> {
        Self::build(options, clock, Some(alarm))
    }

    fn build(
        options: &BulkheadOptions,
        clock: Arc<dyn Clock>,
        alarm: Option<Arc<dyn Alarm>>,
    ) -> Result<Self, OptionsError> {
        let name = options.check()?;
        let ordinary = Pool::ordinary(options);
        let credits = Credits::new(ordinary.whole(options));
        Ok(Self::of(Core {
            id: BulkheadId::fresh(),
            name,
            clock,
            alarm,
            limits: ordinary.limits,
            published: ordinary.published,
            credits,
            estimates: Estimates::new(options.cost_guess),
            retired: AtomicBool::new(false),
            room: OnceLock::new(),
            state: CachePadded::new(Mutex::new(State {
                gate: Gate::default(),
                ordinary,
                reserved: Pool::reserved(options),
                expiries: Expiries::default(),
                serial: 0,
                room: None,
                contention: Contention::default(),
            })),
        }))
    }

    fn of(core: Core) -> Self {
        let core = Arc::new(core);
        Self {
            open: Arc::new(Open { core }),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.open.core
    }

    /// Has `room` told when something is given back here.
    pub(crate) fn served_by(&self, room: &Arc<Shared>) {
        let core = self.core();
        let _first = core.room.set(Arc::clone(room));
        core.state.lock().room = Some((core.id, Arc::clone(room)));
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.open.core.name
    }

    /// Its id, unique in the process.
    pub fn id(&self) -> BulkheadId {
        self.open.core.id
    }

    /// Asks for a permit. Never blocks.
    ///
    /// `grantee` is called only if the answer is [`Acquired::Queued`], and then exactly once
    /// unless the ticket is cancelled first; on another thread maybe before this returns.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was reserved, the grantee is not called. The first check that fails
    /// tells: tenant gone or not active, nested, bulkhead draining, can never fit, deadline
    /// passed, rate, budget, quotas, queues.
    pub fn acquire(
        &self,
        request: &Request<'_>,
        grantee: Arc<dyn Grantee>,
    ) -> Result<Acquired, Refusal> {
        self.acquire_with(request, || grantee)
    }

    /// The same; the grantee is made only if the request has to wait.
    ///
    /// # Errors
    /// [`Refusal`]: as for [`acquire`](Self::acquire).
    pub fn acquire_with(
        &self,
        request: &Request<'_>,
        grantee: impl FnOnce() -> Arc<dyn Grantee>,
    ) -> Result<Acquired, Refusal> {
        self.open.core.acquire(request, &mut Some(grantee))
    }

    /// Asks for a permit when first polled, and waits for it.
    ///
    /// Cancel-safe: dropping the future while the request waits withdraws it; dropping it when
    /// the grant is under way gives the permit back.
    pub fn acquire_async<'a>(&self, request: Request<'a>) -> Acquire<'a> {
        Acquire::new(self.clone(), request)
    }

    /// Counts a refusal by whoever asks in front of it: nothing was asked of the bulkhead itself.
    pub fn count_refused(&self, lane: Lane, refusal: &Refusal) {
        self.open.core.count_refused(lane, refusal);
    }

    /// When the next request that waits runs out of time.
    pub fn next_expiry(&self) -> Option<Monotonic> {
        self.open.core.state.lock().next_expiry()
    }

    /// Refuses what has run out of time at `now`; returns how many requests that were.
    pub fn expire(&self, now: Monotonic) -> usize {
        self.open.core.expire(now)
    }

    /// Refuses new requests in both lanes from now on, and tells when nothing is queued or in
    /// flight any more. Ends by [`Self::resume`] only.
    pub fn drain(&self, queued: Queued) -> Drain {
        let mut outbox = Outbox::default();
        let generation = {
            let mut state = self.open.core.state.lock();
            state.contend_and_hand_on(&self.open.core, &mut outbox);
            let generation = state.gate.close();
            match queued {
                Queued::Serve => {}
                Queued::Refuse => {
                    let reason = Refusal::Draining {
                        scope: Scope::Bulkhead,
                    };
                    for lane in [Lane::Ordinary, Lane::Reserved] {
                        sweep_locked(&mut state, lane, None, &reason, &mut outbox);
                    }
                }
            }
            generation
        };
        outbox.deliver();
        Drain::new(Gated::Bulkhead(Arc::clone(&self.open.core)), generation)
    }

    /// Takes requests again. Drains that have not ended end as interrupted.
    pub fn resume(&self) {
        let mut outbox = Outbox::default();
        self.open.core.state.lock().gate.open(&mut outbox);
        outbox.deliver();
    }

    /// The counts as of one instant. Allocates nothing.
    pub fn snapshot(&self) -> BulkheadSnapshot {
        self.open.core.state.lock().snapshot(&self.open.core)
    }

    /// Overwrites `into` with the counts as of one instant. Allocates nothing.
    pub fn snapshot_into(&self, into: &mut BulkheadSnapshot) {
        *into = self.snapshot();
    }
}
