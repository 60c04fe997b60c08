//! Engagements: the purse that a piece of work is paid from.
//!
//! One number decides: what was drawn and is neither spent nor reserved. It is reserved from by an
//! estimate before the work may wait or start, and settled with what the work cost.
//!
//! Invariants
//! - Nothing is reserved that was not drawn before: drawn >= spent + reserved, at every step.
//! - What work costs beyond its reservation is drawn at its settlement, with the record of its
//!   cost; work starts only while the limit is not exceeded. So an engagement exceeds its limit by
//!   at most what is in flight costs beyond its estimate.
//! - No lock, no allocation: a reservation is one compare-and-swap.
//! - No lost wake-up: whoever found too little has looked once more since it said so, and whoever
//!   brings something in looks for that after it has.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use orlop_saga::amount::BusyNanos;
use orlop_saga::budget::Budget;
use orlop_saga::tenant::AuditTag;

use crate::refusal::Refusal;
use crate::request::{Lane, Request};
use crate::sync::switch_point;

/// No amount is larger, so that sums of a few do not overflow.
const AMOUNT_MAX: u64 = 1 << 60;

fn signed(amount: BusyNanos) -> i64 {
    amount.get().min(AMOUNT_MAX).cast_signed()
}

fn nanos(amount: i64) -> BusyNanos {
    BusyNanos::new(u64::try_from(amount).unwrap_or(0))
}

/// The budget of one engagement in memory. Shared by all its tenants and all bulkheads.
#[derive(Debug)]
pub struct Purse {
    audit: AuditTag,
    /// Drawn, and neither spent nor reserved. Never below 0.
    free: AtomicI64,
    /// The limit, less what was drawn and what is being drawn; below 0 in debt.
    undrawn: AtomicI64,
    /// On its way to the disk; to be free.
    underway: AtomicI64,
    /// The most that a reservation asked for and did not find since the last draw.
    wanted: AtomicI64,
    drawing: AtomicBool,
    limit: AtomicU64,
    spent: AtomicU64,
    /// Drawn by earlier lives of the process and in no record as spent.
    unaccounted: AtomicU64,
    /// Somebody found too little in it since it was lifted last.
    starved: AtomicBool,
    lifted: OnceLock<Lifted>,
}

/// What is called when there may be enough for whoever found too little.
struct Lifted(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Lifted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lifted")
    }
}

/// A purse at about one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurseSnapshot {
    /// Whose it is.
    pub audit: AuditTag,
    /// What may be spent in all.
    pub limit: BusyNanos,
    /// What was drawn durably, by this and earlier lives of the process: never less than what was
    /// spent of it.
    pub drawn: BusyNanos,
    /// What was spent, as far as it is known.
    pub spent: BusyNanos,
    /// What was drawn when a process ended and is in no record as spent: it counts as spent until
    /// it is reconciled.
    pub unaccounted: BusyNanos,
    /// What work that waits or runs is expected to cost.
    pub reserved: BusyNanos,
    /// What is left of the limit; 0 in debt.
    pub remaining: BusyNanos,
    /// What was spent or drawn beyond the limit: by work that cost more than expected, by undo, or
    /// because the limit was lowered.
    pub debt: BusyNanos,
}

impl Purse {
    /// The purse of `audit` as the journal has its budget: what it drew and is in no record as
    /// spent counts as spent.
    pub fn new(audit: AuditTag, budget: &Budget) -> Self {
        let gone = budget.drawn.saturating_add(budget.beside);
        Self {
            audit,
            free: AtomicI64::new(0),
            undrawn: AtomicI64::new(signed(budget.limit) - signed(gone)),
            underway: AtomicI64::new(0),
            wanted: AtomicI64::new(0),
            drawing: AtomicBool::new(false),
            limit: AtomicU64::new(budget.limit.get()),
            spent: AtomicU64::new(budget.spent.saturating_add(budget.beside).get()),
            unaccounted: AtomicU64::new(budget.open().get()),
            starved: AtomicBool::new(false),
            lifted: OnceLock::new(),
        }
    }

    /// Has `lifted` called when somebody found too little in it and there may be enough now, once
    /// for all who did. Called with locks held, maybe: it must neither block nor ask for anything.
    pub fn on_lift(&self, lifted: impl Fn() + Send + Sync + 'static) {
        let _first = self.lifted.set(Lifted(Box::new(lifted)));
    }

    /// More may be reserved than before.
    fn lift(&self) {
        // With `starve`: in the one order of both words, either what came in is seen there, or that
        // somebody starved is seen here.
        if self.starved.load(Ordering::SeqCst)
            && self.starved.swap(false, Ordering::SeqCst)
            && let Some(Lifted(lifted)) = self.lifted.get()
        {
            lifted();
        }
    }

    /// Somebody found too little, and looks once more before it says so.
    fn starve(&self) {
        self.starved.store(true, Ordering::SeqCst);
        switch_point();
    }

    /// Who pays.
    pub const fn audit(&self) -> AuditTag {
        self.audit
    }

    /// What is left of the limit; below 0 in debt.
    fn remaining(&self) -> i64 {
        // In the order in which amounts move on, so that one is seen twice and never missed.
        let undrawn = self.undrawn.load(Ordering::Acquire);
        switch_point();
        let underway = self.underway.load(Ordering::Acquire);
        switch_point();
        undrawn + underway + self.free.load(Ordering::Acquire)
    }

    /// Reserves an estimate.
    pub(crate) fn reserve(&self, estimate: BusyNanos) -> Result<BusyNanos, Refusal> {
        self.reserve_by(estimate, || {})
    }

    /// What of the limit is overdrawn, below 0, once what is being drawn is drawn.
    fn overdrawn(&self) -> i64 {
        let undrawn = self.undrawn.load(Ordering::SeqCst);
        if undrawn >= 0 {
            return 0;
        }
        (undrawn + self.underway.load(Ordering::SeqCst)).min(0)
    }

    /// Whether an estimate could be reserved now. Changes nothing.
    pub(crate) fn check(&self, estimate: BusyNanos) -> Option<Refusal> {
        let asked = signed(estimate).max(1);
        if self.covers(asked) {
            return None;
        }
        self.starve();
        (!self.covers(asked)).then(|| self.lacks(asked))
    }

    /// Whether so much is free, and not owed.
    fn covers(&self, asked: i64) -> bool {
        let free = self.free.load(Ordering::SeqCst);
        free >= asked && free + self.overdrawn() >= asked
    }

    /// `step` is called before each access that others may come between.
    fn reserve_by(&self, estimate: BusyNanos, step: impl Fn()) -> Result<BusyNanos, Refusal> {
        // What is expected to cost nothing still needs a purse with something in it.
        let asked = signed(estimate).max(1);
        step();
        let mut free = self.free.load(Ordering::SeqCst);
        let mut starves = false;
        loop {
            step();
            let debt = self.overdrawn();
            if free < asked || free + debt < asked {
                step();
                if starves {
                    return Err(self.lacks(asked));
                }
                self.starve();
                starves = true;
                free = self.free.load(Ordering::SeqCst);
                continue;
            }
            step();
            match self.free.compare_exchange_weak(
                free,
                free - asked,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(nanos(asked)),
                Err(now) => free = now,
            }
        }
    }

    /// What a reservation that failed is told.
    #[cold]
    fn lacks(&self, asked: i64) -> Refusal {
        let remaining = self.remaining();
        let audit = self.audit;
        if remaining >= asked {
            self.wanted.fetch_max(asked, Ordering::AcqRel);
            return Refusal::BudgetPending { audit };
        }
        Refusal::BudgetExhausted {
            audit,
            asked: nanos(asked),
            remaining: nanos(remaining),
            limit: BusyNanos::new(self.limit.load(Ordering::Acquire)),
        }
    }

    /// Whether what has waited under its reservation may still start.
    pub(crate) fn check_start(&self, reserved: BusyNanos) -> Option<Refusal> {
        let remaining = self.remaining();
        (remaining < 0).then(|| Refusal::BudgetExhausted {
            audit: self.audit,
            asked: reserved,
            remaining: BusyNanos::default(),
            limit: BusyNanos::new(self.limit.load(Ordering::Acquire)),
        })
    }

    /// Gives back what was reserved for work that did not run.
    pub(crate) fn release(&self, reserved: BusyNanos) {
        self.free.fetch_add(signed(reserved), Ordering::SeqCst);
        self.lift();
    }

    /// Settles a reservation, or none, with what the work cost. Returns what that was beyond all
    /// that had been drawn: it counts as drawn from here on, and the record of the cost has to say
    /// so before it says the cost.
    #[must_use = "what was drawn beyond has to be recorded with the cost"]
    pub fn settle(&self, reserved: BusyNanos, cost: BusyNanos) -> BusyNanos {
        let change = signed(reserved) - signed(cost);
        switch_point();
        let mut free = self.free.load(Ordering::Acquire);
        let beyond = loop {
            let left = free + change;
            switch_point();
            match self.free.compare_exchange_weak(
                free,
                left.max(0),
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) => break left.min(0).saturating_neg(),
                Err(now) => free = now,
            }
        };
        if beyond > 0 {
            switch_point();
            self.undrawn.fetch_sub(beyond, Ordering::AcqRel);
        }
        self.spent.fetch_add(cost.get(), Ordering::AcqRel);
        if change > 0 {
            self.lift();
        }
        nanos(beyond)
    }

    /// Begins to draw, if less than half of `chunk` is free, or less than somebody waits for, and
    /// something is left to be drawn: how much. It must be recorded durably, and then either
    /// [`drawn`](Self::drawn) or [`not_drawn`](Self::not_drawn) be called. One draw at a time.
    pub fn begin_draw(&self, chunk: BusyNanos) -> Option<BusyNanos> {
        let chunk = signed(chunk);
        switch_point();
        let free = self.free.load(Ordering::Acquire);
        if free >= chunk / 2 && free >= self.wanted.load(Ordering::Acquire) {
            return None;
        }
        if self.undrawn.load(Ordering::Acquire) <= 0 {
            return None;
        }
        switch_point();
        if self.drawing.swap(true, Ordering::AcqRel) {
            return None;
        }
        switch_point();
        let wanted = self.wanted.swap(0, Ordering::AcqRel) - free;
        let undrawn = self.undrawn.load(Ordering::Acquire);
        let amount = chunk.max(wanted).min(undrawn);
        if amount <= 0 {
            self.drawing.store(false, Ordering::Release);
            return None;
        }
        // In this order: seen from between, more seems to remain and never less.
        self.underway.fetch_add(amount, Ordering::AcqRel);
        switch_point();
        self.undrawn.fetch_sub(amount, Ordering::AcqRel);
        Some(nanos(amount))
    }

    /// What [`begin_draw`](Self::begin_draw) answered is durable.
    pub fn drawn(&self, amount: BusyNanos) {
        let amount = signed(amount);
        switch_point();
        self.free.fetch_add(amount, Ordering::SeqCst);
        switch_point();
        self.underway.fetch_sub(amount, Ordering::AcqRel);
        self.drawing.store(false, Ordering::Release);
        self.lift();
    }

    /// What [`begin_draw`](Self::begin_draw) answered was not recorded. Nobody is called: whoever
    /// waits may be as unlucky again, and is to be told in a while.
    pub fn not_drawn(&self, amount: BusyNanos) {
        let amount = signed(amount);
        switch_point();
        self.undrawn.fetch_add(amount, Ordering::AcqRel);
        switch_point();
        self.underway.fetch_sub(amount, Ordering::AcqRel);
        self.drawing.store(false, Ordering::Release);
    }

    /// Whether a draw is under way.
    pub fn is_drawing(&self) -> bool {
        self.drawing.load(Ordering::Acquire)
    }

    /// Raises or lowers the limit, from now on. What was spent stays spent.
    pub fn set_limit(&self, limit: BusyNanos) {
        let was = self.limit.swap(limit.get(), Ordering::AcqRel);
        let change = signed(limit) - signed(BusyNanos::new(was));
        self.undrawn.fetch_add(change, Ordering::SeqCst);
        if change > 0 {
            self.lift();
        }
    }

    /// Takes what is free out of the purse, to be recorded as returned: nothing may be reserved
    /// from it or settled any more.
    pub fn take_free(&self) -> BusyNanos {
        nanos(self.free.swap(0, Ordering::AcqRel))
    }

    /// Takes what earlier lives of the process left unaccounted, to be recorded as returned, and
    /// then given back with [`reconciled`](Self::reconciled), or not, with
    /// [`not_reconciled`](Self::not_reconciled).
    pub fn take_unaccounted(&self) -> BusyNanos {
        BusyNanos::new(self.unaccounted.swap(0, Ordering::AcqRel))
    }

    /// What was taken is recorded as returned: it may be drawn again.
    pub fn reconciled(&self, amount: BusyNanos) {
        self.undrawn.fetch_add(signed(amount), Ordering::SeqCst);
        self.lift();
    }

    /// What was taken is not recorded as returned.
    pub fn not_reconciled(&self, amount: BusyNanos) {
        self.unaccounted.fetch_add(amount.get(), Ordering::AcqRel);
    }

    /// What it holds, at about one instant.
    pub fn snapshot(&self) -> PurseSnapshot {
        let limit = BusyNanos::new(self.limit.load(Ordering::Acquire));
        let spent = BusyNanos::new(self.spent.load(Ordering::Acquire));
        let unaccounted = BusyNanos::new(self.unaccounted.load(Ordering::Acquire));
        let remaining = self.remaining();
        let undrawn = self.undrawn.load(Ordering::Acquire);
        let underway = self.underway.load(Ordering::Acquire);
        let gone = signed(spent) + signed(unaccounted);
        PurseSnapshot {
            audit: self.audit,
            limit,
            drawn: nanos(signed(limit) - undrawn - underway),
            spent,
            unaccounted,
            reserved: nanos(signed(limit) - remaining - gone),
            remaining: nanos(remaining),
            debt: nanos(remaining.saturating_neg()),
        }
    }
}

/// Who pays for a request.
#[derive(Clone, Copy, Debug, Default)]
pub enum Payer<'a> {
    /// Nobody is asked: budgets are off.
    #[default]
    Anybody,
    /// The engagement of this purse.
    Purse(&'a Arc<Purse>),
    /// An engagement that has no budget: ordinary work is refused.
    Unknown,
}

/// Why whoever pays for `request` is not asked for `estimate`, if it is not. Undo is booked as debt
/// and never refused.
pub(crate) fn check(request: &Request<'_>, estimate: BusyNanos) -> Option<Refusal> {
    match (request.lane, request.payer) {
        (Lane::Reserved, _) | (Lane::Ordinary, Payer::Anybody) => None,
        (Lane::Ordinary, Payer::Purse(purse)) => purse.check(estimate),
        (Lane::Ordinary, Payer::Unknown) => Some(Refusal::EngagementUnknown {
            audit: request.audit,
        }),
    }
}

/// What one request has reserved in a purse. Dropped, it is given back.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    purse: Option<Arc<Purse>>,
    reserved: BusyNanos,
}

impl Reservation {
    /// Reserves `estimate` from whoever pays for `request`. Nothing is reserved for the reserved
    /// lane, and it is settled all the same.
    pub(crate) fn of(request: &Request<'_>, estimate: BusyNanos) -> Result<Self, Refusal> {
        let (purse, reserved) = match (request.payer, request.lane) {
            (Payer::Unknown, Lane::Ordinary) => {
                return Err(Refusal::EngagementUnknown {
                    audit: request.audit,
                });
            }
            (Payer::Anybody, _) | (Payer::Unknown, Lane::Reserved) => (None, BusyNanos::default()),
            (Payer::Purse(purse), Lane::Reserved) => (Some(purse), BusyNanos::default()),
            (Payer::Purse(purse), Lane::Ordinary) => (Some(purse), purse.reserve(estimate)?),
        };
        Ok(Self {
            purse: purse.map(Arc::clone),
            reserved,
        })
    }

    /// Whether work that waited may start.
    pub(crate) fn check_start(&self) -> Option<Refusal> {
        let purse = self.purse.as_ref()?;
        if self.reserved == BusyNanos::default() {
            return None;
        }
        purse.check_start(self.reserved)
    }

    /// Settles it; what was drawn beyond, if there is a purse.
    #[inline]
    pub(crate) fn settle(&mut self, cost: BusyNanos) -> Option<BusyNanos> {
        let purse = self.purse.take()?;
        Some(purse.settle(self.reserved, cost))
    }
}

impl Drop for Reservation {
    #[inline]
    fn drop(&mut self) {
        if let Some(purse) = &self.purse
            && self.reserved > BusyNanos::default()
        {
            purse.release(self.reserved);
        }
    }
}

#[cfg(test)]
mod tests;
