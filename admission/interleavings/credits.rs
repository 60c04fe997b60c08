//! Races of the short way with the beginning of contention, where somebody is refused.

use std::sync::Arc;

use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::tenant::TenantLabel;
use shuttle::thread;

use super::{Counts, House, SCHEDULES, Stopped};
use crate::sync::explored::explore;
use crate::{
    Acquired, Bulkhead, BulkheadOptions, ComputationId, CostVector, Permit, Queued, Quotas, Request,
};

fn house(options: BulkheadOptions) -> House {
    let options = BulkheadOptions {
        in_flight_max: 1,
        ..options
    };
    House {
        bulkhead: Bulkhead::new(&options, Arc::new(Stopped)).unwrap(),
        ..House::new()
    }
}

/// Asks on a thread, for a tenant of its own; the permit, if it was granted at once.
fn ask(house: &House, name: &str, staging: u64) -> thread::JoinHandle<Option<Permit>> {
    let label = TenantLabel::new(name).unwrap();
    let account = house.tenants.register_next(label, Quotas::UNLIMITED);
    let (house, account) = (house.clone(), account.unwrap());
    thread::spawn(move || {
        let cost = CostVector::one_slot(ByteCount::new(staging));
        let request = Request::new(&account, ComputationId::new(0)).cost(cost);
        let counts = Arc::new(Counts::default());
        match house.bulkhead.acquire(&request, counts) {
            Ok(Acquired::Granted(permit)) => Some(permit),
            Ok(Acquired::Queued(_)) | Err(_) => None,
        }
    })
}

/// Nobody waits beside a slot that is free, and nothing is left of anybody.
fn assert_handed_on(house: &House, permits: Vec<Option<Permit>>) {
    let lane = house.bulkhead.snapshot().ordinary;
    assert!(
        lane.queued == 0 || lane.slots == 1,
        "a slot is free and {} wait for it",
        lane.queued
    );
    drop(permits);
    house.assert_quiet();
}

#[test]
fn credits_put_back_by_one_who_finds_the_queue_full_reach_who_fills_it() {
    explore(
        || {
            let house = house(BulkheadOptions {
                queue_max: 1,
                queue_per_tenant_max: 1,
                ..BulkheadOptions::new("explored")
            });
            let permit = house.take();
            let asked = [ask(&house, "bob", 0), ask(&house, "eve", 0)];
            let releasing = thread::spawn(move || drop(permit));
            let permits = asked.map(|thread| thread.join().unwrap());
            releasing.join().unwrap();
            assert_handed_on(&house, permits.into());
        },
        SCHEDULES,
    );
}

#[test]
fn credits_put_back_by_one_who_is_refused_its_staging_reach_who_waits() {
    explore(
        || {
            let house = house(BulkheadOptions {
                staging_bytes_max: ByteCount::new(10),
                ..BulkheadOptions::new("explored")
            });
            let permit = house.take();
            let asked = [ask(&house, "bob", 5), ask(&house, "eve", 6)];
            let releasing = thread::spawn(move || drop(permit));
            let permits = asked.map(|thread| thread.join().unwrap());
            releasing.join().unwrap();
            assert_handed_on(&house, permits.into());
        },
        SCHEDULES,
    );
}

#[test]
fn a_drain_that_recalls_what_was_put_back_hands_it_on() {
    explore(
        || {
            let house = house(BulkheadOptions::new("explored"));
            let permit = house.take();
            let asked = [ask(&house, "bob", 0), ask(&house, "eve", 0)];
            let releasing = thread::spawn(move || drop(permit));
            let drain = house.bulkhead.drain(Queued::Serve);
            let permits = asked.map(|thread| thread.join().unwrap());
            releasing.join().unwrap();
            assert_handed_on(&house, permits.into());
            assert_eq!(drain.try_wait(), Some(Ok(())));
        },
        SCHEDULES,
    );
}

/// How much of everything a bulkhead has at hand when nothing is out.
fn at_hand(house: &House) -> (u64, Option<i64>) {
    house.assert_quiet();
    let core = house.bulkhead.core();
    let mut state = core.state.lock();
    state.contend(core);
    let whole = (state.ordinary.free.slots, state.ordinary.published.room());
    assert!(!core.credits.take(0, house.request().cost.amounts()));
    whole
}

#[test]
fn a_slot_that_a_tenant_keeps_for_its_next_permit_reaches_who_waits() {
    explore(
        || {
            let options = BulkheadOptions {
                in_flight_max: 64,
                ..BulkheadOptions::new("explored")
            };
            let house = House {
                bulkhead: Bulkhead::new(&options, Arc::new(Stopped)).unwrap(),
                ..House::new()
            };
            // All but one are out, and that one is kept by whoever has just given it back.
            let others: Vec<_> = ["bob", "eve"]
                .map(|name| TenantLabel::new(name).unwrap())
                .map(|name| {
                    house
                        .tenants
                        .register_next(name, Quotas::UNLIMITED)
                        .unwrap()
                })
                .into();
            let many = CostVector::default().with_slots(63.try_into().unwrap());
            let request = Request::new(&others[0], ComputationId::new(0)).cost(many);
            let counts = Arc::new(Counts::default());
            let Ok(Acquired::Granted(rest)) = house.bulkhead.acquire(&request, counts) else {
                panic!("an idle bulkhead refuses");
            };
            drop(house.take());
            let asked = {
                let (house, eve) = (house.clone(), Arc::clone(&others[1]));
                thread::spawn(move || {
                    let request = Request::new(&eve, ComputationId::new(0));
                    let counts = Arc::new(Counts::default());
                    let asked = house.bulkhead.acquire(&request, Arc::clone(&counts) as _);
                    (asked.unwrap(), counts)
                })
            };
            let request = house.request();
            let own = Arc::new(Counts::default());
            let again = house.bulkhead.acquire(&request, Arc::clone(&own) as _);
            drop(again.unwrap());
            let (other, _counts) = asked.join().unwrap();
            drop(other);
            drop(rest);
            assert_eq!(at_hand(&house).0, 64);
        },
        SCHEDULES,
    );
}

#[test]
fn what_may_be_out_by_its_cost_is_neither_lost_nor_doubled() {
    explore(
        || {
            let options = BulkheadOptions {
                in_flight_max: 4,
                workers: 1,
                published_cost_max: Some(BusyNanos::new(1_000)),
                cost_guess: BusyNanos::new(600),
                ..BulkheadOptions::new("explored")
            };
            let house = House {
                bulkhead: Bulkhead::new(&options, Arc::new(Stopped)).unwrap(),
                ..House::new()
            };
            let permit = house.take();
            let asked = [ask(&house, "bob", 0), ask(&house, "eve", 0)];
            let releasing = thread::spawn(move || permit.settle(BusyNanos::new(300)));
            let permits = asked.map(|thread| thread.join().unwrap());
            releasing.join().unwrap();
            let lane = house.bulkhead.snapshot().ordinary;
            assert!(lane.queued == 0, "{} wait beside room", lane.queued);
            drop(permits);
            assert_eq!(at_hand(&house), (4, Some(1_000)));
        },
        SCHEDULES,
    );
}
