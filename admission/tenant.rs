//! One life of a tenant: its state, its quotas and what it holds.
//!
//! Invariants
//! - What is held is counted here from acceptance to settlement, whatever happens to the state:
//!   suspending, revoking and unregistering zero nothing.
//! - Every life has an account of its own, so giving back what an old life held can never credit
//!   a new one.
//! - The ledger's lock is the innermost: while it is held no other lock is taken.

mod books;
mod state;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::id::TenantId;
use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::Monotonic;

use crate::allow::Allowed;
use crate::bulkhead::Core;
use crate::drain::Gate;
use crate::extent::{Bound, Held};
use crate::outbox::Outbox;
use crate::queue::Booking;
use crate::rate::{Arrivals, ByteRate, Rate};
use crate::refusal::{Dimension, Refusal};
use crate::request::{CostVector, Lane, Request};
use crate::reservation::Kept;
use crate::seat::Seat;
use crate::share::Share;
use crate::sync::Mutex;
use crate::unfinished::Unfinished;

use self::books::Books;
pub use self::books::Holding;
pub use self::state::{TenantCommand, TenantState};

/// What a tenant may reserve for ordinary work, over all bulkheads. 0 means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Slots, queued and in flight together.
    pub slots_max: u64,
    /// Staging bytes.
    pub staging_bytes_max: ByteCount,
    /// Buffers on devices, kept and of work queued and in flight.
    pub buffers_max: u64,
    /// Bytes of device memory, kept and of work queued and in flight.
    pub device_bytes_max: ByteCount,
    /// Kernels of work queued and in flight.
    pub kernels_max: u64,
    /// Bytes that stay stored: reserved ones, and of an engine the outcomes that are retained. New
    /// work is refused once so many are.
    pub retained_bytes_max: ByteCount,
    /// How many bytes it may write to the journal; `None`: as many as it likes.
    pub journal: Option<ByteRate>,
    /// How often it may ask; `None`: as often as it likes.
    pub rate: Option<Rate>,
    /// What it gets of a bulkhead beside the others.
    pub share: Share,
}

impl Quotas {
    /// Bounded by the bulkheads alone, with an ordinary share.
    pub const UNLIMITED: Self = Self {
        slots_max: u64::MAX,
        staging_bytes_max: ByteCount::new(u64::MAX),
        buffers_max: u64::MAX,
        device_bytes_max: ByteCount::new(u64::MAX),
        kernels_max: u64::MAX,
        retained_bytes_max: ByteCount::new(u64::MAX),
        journal: None,
        rate: None,
        share: Share::ORDINARY,
    };
}

/// How a piece of work gave its permit back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Settlement {
    Settled(BusyNanos),
    /// Dropped without a measurement.
    Unsettled,
}

impl Settlement {
    pub(crate) const fn measured(self) -> Option<BusyNanos> {
        match self {
            Self::Settled(cost) => Some(cost),
            Self::Unsettled => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) state: TenantState,
    pub(crate) quotas: Quotas,
    pub(crate) gate: Gate,
    arrivals: Arrivals,
    written: Arrivals,
    ordinary: Books,
    reserved: Books,
    /// What is reserved outside permits.
    pub(crate) kept: Held,
    /// What the quotas allow.
    pub(crate) cap: Held,
    settled: u64,
    unsettled: u64,
    busy: BusyNanos,
    /// What it does in each bulkhead. A place is named by permits, and so is taken again only when
    /// nothing of it is out.
    pub(crate) seats: Vec<Seat>,
}

impl Ledger {
    fn holding(&mut self, lane: Lane) -> &mut Books {
        match lane {
            Lane::Ordinary => &mut self.ordinary,
            Lane::Reserved => &mut self.reserved,
        }
    }

    /// The checks of capability, generation and state.
    pub(crate) fn check_state(&self, request: &Request<'_>) -> Option<Refusal> {
        let tenant = request.tenant.id();
        match (request.lane, self.state) {
            // A drain waits for what was accepted: refused, it would never end.
            (Lane::Ordinary, TenantState::Draining) if request.accepted => None,
            (Lane::Ordinary, state) => Refusal::of_state(state, tenant),
            (Lane::Reserved, TenantState::Unregistered) => Some(Refusal::StaleTenant { tenant }),
            (
                Lane::Reserved,
                TenantState::Active
                | TenantState::Suspended
                | TenantState::Draining
                | TenantState::Revoked,
            ) => None,
        }
    }

    /// Whether `count` ordinary requests like this, without a deadline, pass all checks of the
    /// tenant, one after the other.
    #[inline]
    pub(crate) fn passes(
        &self,
        request: &Request<'_>,
        asked: &Held,
        count: u64,
        now: Option<Monotonic>,
    ) -> bool {
        self.state == TenantState::Active
            && self.used().has_room(asked, &self.cap)
            && request.deadline.is_none()
            && self.is_within_rates(request.cost.journal.get(), count, now)
    }

    /// Whether `count` ordinary requests that write `bytes` each may come at once.
    #[inline]
    fn is_within_rates(&self, bytes: u64, count: u64, now: Option<Monotonic>) -> bool {
        let Some(now) = now else { return true };
        let (rate, journal) = (self.quotas.rate, self.quotas.journal);
        rate.is_none_or(|rate| self.arrivals.admits(rate, count, now))
            && journal.is_none_or(|rate| self.written.admits_of(rate, bytes, count, now))
    }

    /// What counts against the quotas.
    #[inline]
    pub(crate) fn used(&self) -> Held {
        let mut used = self.ordinary.held;
        used.add(&self.kept);
        used
    }

    /// Whether `request` is beyond the whole quota.
    pub(crate) fn check_fits(&self, request: &Request<'_>) -> Option<Refusal> {
        let asked = request.cost.of_tenant();
        if Held::default().has_room(&asked, &self.cap) && self.quotas.journal.is_none() {
            return None;
        }
        let mut bounds = self.bounds(request);
        let beyond = bounds.find(|bound| bound.asked > bound.cap);
        let journal = || {
            let (asked, cap) = (
                request.cost.journal.get(),
                self.journal(request.lane)?.burst(),
            );
            // What was promised may have been measured before its tenant's quota was lowered.
            (asked > cap && !request.accepted).then_some(Bound {
                dimension: Dimension::TenantJournalBytes,
                asked,
                used: 0,
                cap,
            })
        };
        beyond.or_else(journal).map(Bound::never_fits)
    }

    /// Whether `request` and what is held are beyond the quota together.
    pub(crate) fn check_quotas(&self, request: &Request<'_>) -> Option<Refusal> {
        self.bounds(request).find_map(Bound::exceeded)
    }

    /// Whether it asks or writes too often. The reserved lane has no rate.
    pub(crate) fn check_rates(
        &self,
        request: &Request<'_>,
        now: Option<Monotonic>,
    ) -> Option<Refusal> {
        let asks = self.rate(request.lane).zip(now);
        let asks = asks.and_then(|(rate, now)| self.arrivals.wait(rate, now));
        let writes = self.journal(request.lane).zip(now);
        let writes = writes
            .and_then(|(rate, now)| self.written.wait_for(rate, request.cost.journal.get(), now));
        let retry_after = asks.max(writes)?;
        Some(Refusal::RateLimited { retry_after })
    }

    /// The rate that binds `lane`.
    pub(crate) const fn rate(&self, lane: Lane) -> Option<Rate> {
        match lane {
            Lane::Ordinary => self.quotas.rate,
            Lane::Reserved => None,
        }
    }

    /// The rate of journal bytes that binds `lane`.
    pub(crate) const fn journal(&self, lane: Lane) -> Option<ByteRate> {
        match lane {
            Lane::Ordinary => self.quotas.journal,
            Lane::Reserved => None,
        }
    }

    /// Whether a request of `lane` needs to know the time.
    pub(crate) const fn is_timed(&self, lane: Lane) -> bool {
        self.rate(lane).is_some() || self.journal(lane).is_some()
    }

    /// The rates of `quotas` hold from now on.
    fn adopt_rates(&mut self, quotas: &Quotas) {
        // What passed had a seat, or was written without one: that adopts the rate when it is looked
        // at next. All bulkheads of an engine have one clock.
        let Some(now) = self.seats.first().map(|seat| seat.core.clock.monotonic()) else {
            return;
        };
        if let Some(rate) = quotas.rate {
            self.arrivals.adopt(rate, now);
        }
        if let Some(rate) = quotas.journal {
            self.written.adopt_of(rate, now);
        }
    }

    /// Counts `bytes` as written, unless that is too many at `now`: then how long it is to wait.
    pub(crate) fn write_at(
        &mut self,
        rate: ByteRate,
        bytes: u64,
        now: Monotonic,
    ) -> Result<(), Duration> {
        // It may be another one than when something was written last, and nobody was there to see.
        self.written.adopt_of(rate, now);
        if let Some(wait) = self.written.wait_for(rate, bytes, now) {
            return Err(wait);
        }
        self.written.pass_of(rate, bytes, 1, now);
        Ok(())
    }

    /// Counts `count` requests of `cost` each that are accepted.
    #[inline]
    pub(crate) fn pass(
        &mut self,
        lane: Lane,
        cost: &CostVector,
        count: u64,
        now: Option<Monotonic>,
    ) {
        let Some(now) = now else { return };
        if let Some(rate) = self.rate(lane) {
            self.arrivals.pass(rate, count, now);
        }
        if let Some(rate) = self.journal(lane) {
            let bytes = cost.journal.get();
            self.written.pass_of(rate, bytes, count, now);
        }
    }

    /// Undo is bound by the reserved lane's own limits alone, never by what the tenant is denied.
    fn bounds(&self, request: &Request<'_>) -> impl Iterator<Item = Bound> + use<> {
        let asked = match request.lane {
            Lane::Reserved => None,
            Lane::Ordinary => Some(request.cost.of_tenant()),
        };
        let (used, cap) = (self.used(), self.cap);
        asked
            .into_iter()
            .flat_map(move |asked| used.bounds(asked, cap))
    }

    pub(crate) fn reserve(&mut self, lane: Lane, cost: CostVector, waits: bool) {
        self.gate.enter();
        self.holding(lane).reserve(&cost.of_tenant(), 1, waits);
    }

    /// Books `count` ordinary requests that start at once and take `held` together.
    #[inline]
    pub(crate) fn start_many(&mut self, held: &Held, count: u64) {
        self.gate.enter_all(count);
        self.ordinary.reserve(held, count, false);
    }

    pub(crate) fn dispatch(&mut self, lane: Lane) {
        self.holding(lane).dispatch();
    }

    /// Gives back what waited and will not run.
    pub(crate) fn withdraw(&mut self, lane: Lane, cost: CostVector, outbox: &mut Outbox) {
        self.holding(lane).release(&cost.of_tenant(), 1, true);
        self.gate.leave(outbox);
    }

    /// Gives back what ran.
    pub(crate) fn settle(
        &mut self,
        lane: Lane,
        cost: CostVector,
        settlement: Settlement,
        outbox: &mut Outbox,
    ) {
        self.holding(lane).release(&cost.of_tenant(), 1, false);
        match settlement {
            Settlement::Settled(busy) => {
                self.settled = self.settled.saturating_add(1);
                self.busy = self.busy.saturating_add(busy);
            }
            Settlement::Unsettled => self.unsettled = self.unsettled.saturating_add(1),
        }
        self.gate.leave(outbox);
    }

    /// Gives back `held` of `count` ordinary pieces that ran, and cost `busy` together.
    pub(crate) fn settle_many(
        &mut self,
        held: &Held,
        count: u64,
        busy: BusyNanos,
        outbox: &mut Outbox,
    ) {
        self.ordinary.release(held, count, false);
        self.settled = self.settled.saturating_add(count);
        self.busy = self.busy.saturating_add(busy);
        self.gate.leave_many(count, outbox);
    }

    /// The place of its seat in `core`; one is made if it has none.
    #[inline]
    pub(crate) fn seat_in(&mut self, core: &Arc<Core>) -> usize {
        let mut seats = self.seats.iter();
        if let Some(at) = seats.position(|seat| Arc::ptr_eq(&seat.core, core)) {
            return at;
        }
        self.take_seat(core)
    }

    #[cold]
    fn take_seat(&mut self, core: &Arc<Core>) -> usize {
        let seat = Seat::new(Arc::clone(core));
        let unused = |seat: &Seat| seat.core.is_retired() && seat.out == 0;
        if let Some((at, old)) = (0..).zip(&mut self.seats).find(|(_, seat)| unused(seat)) {
            *old = seat;
            return at;
        }
        if let Some(rate) = self.quotas.journal.filter(|_| self.seats.is_empty()) {
            self.written.adopt_of(rate, core.clock.monotonic());
        }
        // Most tenants are in one or two bulkheads, and a seat is large.
        self.seats.reserve_exact(1);
        self.seats.push(seat);
        self.seats.len() - 1
    }

    /// Books in its seat that a permit is granted under the bulkhead's lock; returns the place.
    pub(crate) fn seat(
        &mut self,
        core: &Arc<Core>,
        account: &Arc<TenantAccount>,
        lane: Lane,
        cost: CostVector,
        booking: Booking,
    ) -> u32 {
        let at = self.seat_in(core);
        let place = u32::try_from(at).unwrap_or(u32::MAX);
        if let Some(seat) = self.seats.get_mut(at) {
            seat.out = seat.out.saturating_add(1);
            match lane {
                Lane::Ordinary => {
                    seat.start(&cost, booking.class(), booking.charged().get());
                    seat.list(account, place);
                }
                Lane::Reserved => {}
            }
        }
        place
    }

    /// Moves on by `command`; the generation of the gate names the drain, if it is closed.
    pub(crate) fn apply(
        &mut self,
        command: TenantCommand,
        outbox: &mut Outbox,
    ) -> Result<u64, TenantState> {
        let state = self.state.after(command).ok_or(self.state)?;
        self.state = state;
        if state.is_closed() {
            return Ok(self.gate.close());
        }
        self.gate.open(outbox);
        Ok(0)
    }
}

/// One life of a tenant. Made by [`Tenants::register`](crate::Tenants::register).
///
/// Whoever has it may ask for permits in its name; changing the tenant needs the registry.
pub struct TenantAccount {
    id: TenantId,
    label: TenantLabel,
    pub(crate) ledger: Mutex<Ledger>,
    /// Whether it has a rate, so that the clock is read before the ledger's lock is taken.
    timed: AtomicBool,
    pub(crate) allowed: Allowed,
    pub(crate) unfinished: Unfinished,
}

impl TenantAccount {
    pub(crate) fn new(id: TenantId, label: TenantLabel, quotas: Quotas) -> Self {
        Self {
            id,
            label,
            timed: AtomicBool::new(quotas.rate.is_some() || quotas.journal.is_some()),
            allowed: Allowed::default(),
            unfinished: Unfinished::default(),
            ledger: Mutex::new(Ledger {
                state: TenantState::Active,
                quotas,
                gate: Gate::default(),
                arrivals: Arrivals::default(),
                written: Arrivals::default(),
                ordinary: Books::default(),
                reserved: Books::default(),
                kept: Held::default(),
                cap: Held::of(&quotas),
                settled: 0,
                unsettled: 0,
                busy: BusyNanos::default(),
                seats: Vec::new(),
            }),
        }
    }

    pub(crate) fn set_quotas(&self, quotas: Quotas) {
        let mut ledger = self.ledger.lock();
        ledger.adopt_rates(&quotas);
        ledger.quotas = quotas;
        ledger.cap = Held::of(&quotas);
        self.timed
            .store(ledger.is_timed(Lane::Ordinary), Ordering::Relaxed);
    }

    pub(crate) fn is_timed(&self) -> bool {
        self.timed.load(Ordering::Relaxed)
    }

    /// Which shards of credits are its own.
    pub(crate) const fn home(&self) -> usize {
        self.id.slot() as usize
    }

    /// The id of this life.
    pub const fn id(&self) -> TenantId {
        self.id
    }

    /// The tenant's name.
    pub const fn label(&self) -> &TenantLabel {
        &self.label
    }

    /// Whether it may submit ordinary work now. Admission asks again, under its lock; this is for
    /// answers that need no permit, such as a replayed outcome.
    ///
    /// # Errors
    /// [`Refusal`]: its state, as admission would say it.
    pub fn check(&self) -> Result<(), Refusal> {
        Refusal::of_state(self.state(), self.id()).map_or(Ok(()), Err)
    }

    /// The state now.
    pub fn state(&self) -> TenantState {
        self.ledger.lock().state
    }

    /// State, quotas and counts, as of one instant.
    pub fn snapshot(&self) -> TenantSnapshot {
        let ledger = self.ledger.lock_nested();
        TenantSnapshot {
            id: self.id,
            state: ledger.state,
            quotas: ledger.quotas,
            ordinary: ledger.ordinary.snapshot(),
            reserved: ledger.reserved.snapshot(),
            kept: Kept::of(&ledger.kept),
            settled: ledger.settled,
            unsettled: ledger.unsettled,
            busy: ledger.busy,
        }
    }
}

impl fmt::Debug for TenantAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantAccount")
            .field("id", &self.id)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// One tenant at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantSnapshot {
    /// Which life of which slot.
    pub id: TenantId,
    /// Its state.
    pub state: TenantState,
    /// What it may hold in the ordinary lane.
    pub quotas: Quotas,
    /// What it holds in the ordinary lane.
    pub ordinary: Holding,
    /// What it holds in the reserved lane.
    pub reserved: Holding,
    /// What it has reserved outside permits.
    pub kept: Kept,
    /// Permits given back with a measured cost.
    pub settled: u64,
    /// Permits given back without one.
    pub unsettled: u64,
    /// The sum of the measured costs, in the unit of each bulkhead.
    pub busy: BusyNanos,
}
