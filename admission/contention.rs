//! Contention: from when on somebody has to wait, until nobody has had to for a while.
//!
//! While nobody waits nobody is owed anything, and the fair queue is empty. When contention begins,
//! what each tenant has in flight is charged to it, so that it counts against it beside the others;
//! from then on all goes through the bulkhead's lock.
//!
//! Invariants
//! - While the bulkhead is contended its pool knows all that is out, and all that is free is in the
//!   pool or on its way there with somebody who is about to hand it on.
//! - Contention does not end while somebody waits, an exclusion group is held or a drain goes on.

use std::sync::Arc;

use crate::bulkhead::{Core, owner_key};
use crate::credits::{Amounts, Listed};
use crate::outbox::Outbox;
use crate::request::Lane;
use crate::snapshot::BulkheadSnapshot;
use crate::state::State;

/// After so many admissions and settlements in a row after which nobody waited, it is over.
const CALM: u32 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Contention {
    on: bool,
    /// It never ends.
    always: bool,
    calm: u32,
}

impl Contention {
    pub(crate) const fn new(always: bool) -> Self {
        Self {
            on: always,
            always,
            calm: 0,
        }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }
}

impl State {
    /// Sees to it that all that is out is known here and all that is free is at hand.
    ///
    /// Says whether something came back for which somebody waits: it is to be handed on.
    pub(crate) fn contend(&mut self, core: &Core) -> bool {
        if !self.contention.on {
            self.contention.on = true;
            self.contention.calm = 0;
            core.credits.begin_contention();
            let (pool, mut live) = (&mut self.ordinary, 0);
            core.credits.visit(|(account, place)| {
                let mut ledger = account.ledger.lock_nested();
                let share = ledger.quotas.share;
                let Some(seat) = ledger.seats.get_mut(*place as usize) else {
                    return false;
                };
                pool.collect(&mut seat.counts);
                seat.listed = seat.permits > 0;
                if seat.listed {
                    live += seat.permits;
                    pool.take_over(seat.permits, seat.held);
                    let (owner, slots) = (owner_key(account), seat.held.slots);
                    pool.queue.seed(owner, share, slots, seat.charged);
                }
                seat.listed
            });
            self.gate.enter_all(live);
        }
        let recalled = core.credits.recall();
        self.ordinary.free.add(recalled);
        recalled.slots > 0 && self.ordinary.queue.len() > 0
    }

    /// The same, and hands on what came back.
    pub(crate) fn contend_and_hand_on(&mut self, core: &Arc<Core>, outbox: &mut Outbox) {
        if self.contend(core) {
            self.dispatch(core, Lane::Ordinary, outbox);
        }
    }

    /// An admission or a settlement of ordinary work is over: nothing waits if all is calm.
    pub(crate) fn relax(&mut self, core: &Core) {
        let contention = &mut self.contention;
        if !contention.on || contention.always || self.gate.is_closed() {
            return;
        }
        let queue = &self.ordinary.queue;
        if queue.len() > 0 || queue.excludes() {
            contention.calm = 0;
            return;
        }
        contention.calm += 1;
        if contention.calm < CALM {
            return;
        }
        contention.on = false;
        let (permits, free) = self.ordinary.hand_over();
        self.gate.leave_all(permits);
        core.credits.end_contention(free);
    }

    /// From now on no tenant is remembered for having been here. The seats that were are to be
    /// dropped with no lock held.
    pub(crate) fn retire(&mut self, core: &Core) -> Vec<Listed> {
        self.contend(core);
        self.contention.always = true;
        core.set_retired();
        core.credits.unlist_all()
    }

    /// What is out at seats, which are forgotten if that is nothing; their counts are taken over.
    ///
    /// Nothing is granted meanwhile, so that nothing is counted twice that goes from one to another.
    fn out_at_seats(&mut self, core: &Core) -> (u64, Amounts) {
        let (mut permits, mut held) = (0, Amounts::default());
        if !self.contention.on {
            core.credits.begin_contention();
        }
        let pool = &mut self.ordinary;
        core.credits.visit(|(account, place)| {
            let mut ledger = account.ledger.lock_nested();
            let Some(seat) = ledger.seats.get_mut(*place as usize) else {
                return false;
            };
            pool.collect(&mut seat.counts);
            permits += seat.permits;
            held.add(seat.held);
            seat.listed = seat.permits > 0;
            seat.listed
        });
        if !self.contention.on {
            core.credits.end_contention(Amounts::default());
        }
        (permits, held)
    }

    /// Forgets the tenants that have nothing here any more, if many were here.
    pub(crate) fn tidy(&mut self, core: &Core) {
        if core.credits.is_crowded() {
            self.out_at_seats(core);
        }
    }

    /// The counts as of one instant.
    pub(crate) fn snapshot(&mut self, core: &Core) -> BulkheadSnapshot {
        let (permits, held) = if self.contention.on {
            Default::default()
        } else {
            self.out_at_seats(core)
        };
        BulkheadSnapshot {
            name: Arc::clone(&core.name),
            draining: self.gate.is_closed(),
            ordinary: self.ordinary.snapshot(permits, held),
            reserved: self.reserved.snapshot(0, Amounts::default()),
        }
    }
}
