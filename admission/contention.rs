//! Contention: from when on somebody has to wait, until nobody has had to for a while.
//!
//! While nobody waits nobody is owed anything, and the fair queue is empty. When contention begins,
//! what each tenant has in flight is charged to it, so that it counts against it beside the others;
//! from then on all goes through the bulkhead's lock.
//!
//! Invariants
//! - While the bulkhead is contended its pool knows all that is out, and all that is free is in the
//!   pool or on its way there with somebody who is about to hand it on.
//! - Contention does not end while somebody waits, an exclusion group is held, a drain goes on or
//!   more is out than may be by its cost.

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
#[derive(Debug, Default)]
pub(crate) struct Contention {
    on: bool,
    /// It never ends.
    always: bool,
    calm: u32,
}

impl Contention {
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
                pool.recall(seat.empty_pocket());
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
        self.ordinary.recall(recalled);
        recalled.lets_start() && self.ordinary.queue.len() > 0
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
        if queue.len() > 0 || queue.excludes() || self.ordinary.is_exceeded() {
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
        let (mut permits, mut held, mut free) = (0, Amounts::default(), Amounts::default());
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
            free.add(seat.empty_pocket());
            seat.listed = seat.permits > 0;
            seat.listed
        });
        if !self.contention.on {
            core.credits.end_contention(free);
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

#[cfg(test)]
mod tests {
    use orlop_saga::amount::BusyNanos;
    use orlop_saga::tenant::{Class, TenantLabel};
    use orlop_saga::time::{Clock, Monotonic, WallMillis};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Acquired, Bulkhead, BulkheadOptions, ComputationId, Grantee, Permit, Quotas, Refusal,
        Request, TenantAccount, Tenants,
    };

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn wall(&self) -> WallMillis {
            WallMillis::new(0)
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic::new(0)
        }
    }

    /// Gives its permit back at once.
    struct Returns;

    impl Grantee for Returns {
        fn granted(self: Arc<Self>, permit: Permit) {
            permit.settle(BusyNanos::new(77));
        }

        fn refused(self: Arc<Self>, _refusal: Refusal) {}
    }

    fn bounded(published: impl Into<Option<u64>>, slots: u32) -> Bulkhead {
        let options = BulkheadOptions {
            in_flight_max: slots,
            workers: 2,
            published_cost_max: published.into().map(BusyNanos::new),
            cost_guess: BusyNanos::new(100),
            ..BulkheadOptions::new("bounded")
        };
        Bulkhead::new(&options, Arc::new(Stopped)).unwrap()
    }

    fn accounts() -> Vec<Arc<TenantAccount>> {
        let tenants = Tenants::new(3).unwrap();
        let names = ["ada", "bob", "eve"].map(|name| TenantLabel::new(name).unwrap());
        let accounts = names.map(|name| tenants.register_next(name, Quotas::UNLIMITED));
        accounts.map(Result::unwrap).into()
    }

    fn ask(bulkhead: &Bulkhead, account: &Arc<TenantAccount>, kind: u32) -> Option<Permit> {
        let request = Request::new(account, ComputationId::new(kind));
        match bulkhead.acquire(&request, Arc::new(Returns)) {
            Ok(Acquired::Granted(permit)) => Some(permit),
            Ok(Acquired::Queued(_)) | Err(_) => None,
        }
    }

    #[test]
    fn work_within_the_cost_that_may_be_out_needs_no_queue_and_what_is_beyond_does() {
        let (bulkhead, accounts) = (bounded(250, 64), accounts());
        let credits = &bulkhead.core().credits;
        let first = ask(&bulkhead, &accounts[0], 1).unwrap();
        let second = ask(&bulkhead, &accounts[1], 1).unwrap();
        assert!(!credits.is_contended());
        let third = ask(&bulkhead, &accounts[2], 1).unwrap();
        assert!(credits.is_contended(), "300 are out of 250");
        assert!(ask(&bulkhead, &accounts[2], 1).is_none());
        drop((first, second, third));
        for _ in 0..CALM {
            drop(ask(&bulkhead, &accounts[0], 1));
        }
        assert!(!credits.is_contended());
    }

    fn ask_many(bulkhead: &Bulkhead, requests: &[Request<'_>], out: &mut Vec<Permit>) {
        let returns = |_| Arc::new(Returns) as Arc<dyn Grantee>;
        bulkhead.acquire_batch(requests, returns, out, |_, _| {});
    }

    #[test]
    fn what_each_class_has_out_is_charged_to_it_also_in_a_batch() {
        let (bulkhead, accounts) = (bounded(1_000, 64), accounts());
        let request = Request::new(&accounts[0], ComputationId::new(1));
        let classes = [Class::Interactive, Class::Batch, Class::Batch];
        let requests = classes.map(|class| request.class(class));
        let mut out = Vec::new();
        ask_many(&bulkhead, &requests, &mut out);
        let charged = || {
            let ledger = accounts[0].ledger.lock();
            Class::ALL.map(|class| ledger.seats[0].charged.get(class))
        };
        assert_eq!(charged(), [100, 0, 200]);
        out.truncate(2);
        Permit::settle_batch(&mut out, &[BusyNanos::new(1); 2], |_, _| {});
        assert_eq!(charged(), [0, 0, 0]);
    }

    proptest! {
        /// However estimates move meanwhile, and however often contention begins and ends.
        #[test]
        fn free_slots_and_room_for_cost_are_conserved(
            published in proptest::option::of(0..2_000_u64),
            slots in prop_oneof![1..6_u32, 64..70_u32],
            steps in proptest::collection::vec((0..3_usize, 0..3_u32, 0..5_u8, 0..900_u64), 1..200),
        ) {
            let (bulkhead, accounts) = (bounded(published, slots), accounts());
            let mut out = Vec::new();
            for (who, kind, turn, cost) in steps {
                match turn {
                    0 | 1 => out.extend(ask(&bulkhead, &accounts[who], kind)),
                    3 => {
                        let kinds = [kind, kind, kind / 2, 0].map(ComputationId::new);
                        let requests = kinds.map(|kind| Request::new(&accounts[who], kind));
                        ask_many(&bulkhead, &requests, &mut out);
                    }
                    4 => {
                        let costs = [cost, 0, cost / 2, 1, 2].map(BusyNanos::new);
                        Permit::settle_batch(&mut out, &costs, |_, _| {});
                    }
                    _ if out.is_empty() => {}
                    _ => {
                        let permit: Permit = out.swap_remove(who % out.len());
                        permit.settle(BusyNanos::new(cost));
                    }
                }
                if cost % 7 == 0 {
                    drop(bulkhead.snapshot());
                }
            }
            drop(out);
            let core = bulkhead.core();
            let mut state = core.state.lock();
            state.contend(core);
            for account in &accounts {
                let ledger = account.ledger.lock_nested();
                for seat in &ledger.seats {
                    let charged = Class::ALL.map(|class| seat.charged.get(class));
                    prop_assert_eq!((seat.out, charged), (0, [0; 3]));
                }
            }
            prop_assert_eq!(state.ordinary.queue.len(), 0);
            prop_assert_eq!(state.ordinary.free.slots, u64::from(slots));
            prop_assert_eq!(state.ordinary.published.room(), published.map(u64::cast_signed));
        }
    }
}
