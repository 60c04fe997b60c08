//! The gap: tenants that always have something waiting never drift apart by more than a turn each.

use std::collections::HashMap;
use std::sync::Arc;

use orlop_admission::{
    BulkheadOptions, ComputationId, Permit, Quotas, Request, Share, TenantAccount, Weight,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;
use proptest::prelude::*;

use crate::support::{House, granted, label, plenty};

struct Rival {
    account: Arc<TenantAccount>,
    weight: u64,
    cost: u64,
    /// What it was given since all of them began to wait.
    served: u64,
}

/// Rivals of these weights and costs per piece, all of which are known.
fn rivals(house: &House, shares: &[(u32, u64)]) -> Vec<Rival> {
    let each = (0_u32..).zip(shares);
    each.map(|(at, &(weight, cost))| {
        let share = Share {
            weight: Weight::new(weight).unwrap(),
            ..Share::ORDINARY
        };
        let quotas = Quotas { share, ..plenty() };
        let name = label(&format!("rival {at}"));
        let account = house.tenants.register_next(name, quotas).unwrap();
        let taught = house.take(Request::new(&account, ComputationId::new(at)));
        taught.settle(BusyNanos::new(cost));
        Rival {
            account,
            weight: weight.into(),
            cost,
            served: 0,
        }
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Start-time fair queueing promises it: what two backlogged flows got, by weight, differs by
    /// no more than the longest piece of each, by weight.
    #[test]
    fn the_gap_between_backlogged_tenants_is_bounded_by_one_turn_of_each(
        slots in 1..5_u32,
        shares in proptest::collection::vec((1..9_u32, 1..10_000_u64), 2..6),
        ends in proptest::collection::vec(any::<usize>(), 300),
    ) {
        let house = House::with(&BulkheadOptions {
            in_flight_max: slots,
            ..BulkheadOptions::new("gap")
        });
        let mut rivals = rivals(&house, &shares);
        let blocker = house.tenants.register_next(label("blocker"), plenty()).unwrap();
        let request = |at: usize, rivals: &[Rival]| {
            let computation = ComputationId::new(u32::try_from(at).unwrap());
            house.queue(
                u32::try_from(at).unwrap(),
                Request::new(&rivals[at].account, computation),
            )
        };
        let mut running: Vec<(Option<usize>, Permit)> = (0..slots)
            .map(|_| (None, house.take(Request::new(&blocker, ComputationId::new(99)))))
            .collect();
        for at in 0..rivals.len() {
            // Two each: one is always left while the other starts.
            request(at, &rivals);
            request(at, &rivals);
        }
        for end in ends {
            let (who, permit) = running.remove(end % running.len());
            permit.settle(BusyNanos::new(who.map_or(1, |who| rivals[who].cost)));
            for (id, permit) in granted(&house.inbox) {
                let at = id as usize;
                rivals[at].served += rivals[at].cost;
                running.push((Some(at), permit));
                request(at, &rivals);
            }
            for one in &rivals {
                for other in &rivals {
                    // Over both weights, so that nothing is rounded.
                    let (mine, theirs) = (one.served * other.weight, other.served * one.weight);
                    let gap = one.cost * other.weight + other.cost * one.weight;
                    prop_assert!(mine <= theirs + gap, "{mine} and {theirs}, at most {gap} apart");
                }
            }
        }
    }

    /// The same of the classes of one tenant, whose weights are the bulkhead's.
    #[test]
    fn the_gap_between_backlogged_classes_is_bounded_by_one_turn_of_each(
        costs in proptest::array::uniform3(1..10_000_u64),
        rounds in 50..300_u32,
    ) {
        let house = House::new(1);
        let account = house.tenants.register_next(label("one"), plenty()).unwrap();
        let weights = HashMap::from([
            (Class::Interactive, 16_u64),
            (Class::Standard, 4),
            (Class::Batch, 1),
        ]);
        let ask = |class: Class| {
            Request::new(&account, ComputationId::new(class as u32)).class(class)
        };
        for class in Class::ALL {
            house.take(ask(class)).settle(BusyNanos::new(costs[class as usize]));
        }
        let mut running = house.take(Request::new(&account, ComputationId::new(9)).class(Class::Batch));
        for class in Class::ALL {
            house.queue(class as u32, ask(class));
            house.queue(class as u32, ask(class));
        }
        running.settle(BusyNanos::new(0));
        let mut served = [0_u64; 3];
        for _ in 0..rounds {
            let (id, permit) = granted(&house.inbox).remove(0);
            running = permit;
            let class = Class::ALL[id as usize];
            served[id as usize] += costs[id as usize];
            house.queue(id, ask(class));
            for one in Class::ALL {
                for other in Class::ALL {
                    let of = |class: Class| (served[class as usize], costs[class as usize], weights[&class]);
                    let ((mine, cost, weight), (theirs, others, heft)) = (of(one), of(other));
                    let gap = cost * heft + others * weight;
                    prop_assert!(mine * heft <= theirs * weight + gap);
                }
            }
            running.settle(BusyNanos::new(costs[id as usize]));
        }
    }
}
