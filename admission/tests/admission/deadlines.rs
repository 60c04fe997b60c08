//! Deadlines: refused early, dropped late; and how much is out at once.

use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{
    Acquired, BulkheadOptions, ComputationId, Permit, Refusal, Request, TenantAccount,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::time::{Clock, Monotonic};

use crate::support::{House, granted, refused, request, tenant};

const MILLI: u64 = 1_000_000;

fn after(house: &House, millis: u64) -> Monotonic {
    house.clock.monotonic().after(Duration::from_millis(millis))
}

/// Has it learnt that work of this computation takes `millis`.
fn teach(house: &House, account: &Arc<TenantAccount>, millis: u64) {
    house
        .take(request(account))
        .settle(BusyNanos::new(millis * MILLI));
}

fn late(millis: u64) -> Refusal {
    Refusal::PredictedLate {
        retry_after: Duration::from_millis(millis),
    }
}

#[test]
fn what_cannot_be_done_in_time_behind_what_waits_is_refused_when_it_comes() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    teach(&house, &ada, 1);
    let _running = house.take(request(&ada));
    for id in 0..10 {
        house.queue(id, request(&ada));
    }
    let within = |millis| request(&ada).deadline(after(&house, millis));
    // Ten milliseconds ahead of it and one of its own.
    assert_eq!(house.ask(10, within(5)).unwrap_err(), late(6));
    assert_eq!(house.ask(10, within(10)).unwrap_err(), late(1));
    house.queue(10, within(11));
    // Nobody waits behind the backlog of another tenant: its share is its own.
    let bobs = |millis| request(&bob).deadline(after(&house, millis));
    house.queue(11, bobs(1));
    assert_eq!(house.ask(12, bobs(2)).unwrap_err(), late(1));
    house.queue(12, bobs(3));
    let refused = house.bulkhead.snapshot().ordinary.refused;
    assert_eq!((refused.predicted_late, refused.total()), (3, 3));
}

#[test]
fn what_can_no_longer_be_done_in_time_is_dropped_at_its_turn_and_not_run() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    teach(&house, &ada, 2);
    let running = house.take(request(&ada));
    house.queue(0, request(&bob).deadline(after(&house, 5)));
    house.queue(1, request(&ada));
    house.clock.advance(Duration::from_millis(4));
    drop(running);
    let told = house.inbox.lock().unwrap().len();
    assert_eq!(told, 2, "one dropped, one granted");
    let mut events = std::mem::take(&mut *house.inbox.lock().unwrap());
    let crate::support::Event::Refused(0, refusal) = events.remove(0) else {
        panic!("the late one was granted");
    };
    assert_eq!(refusal, late(1));
}

#[test]
fn a_guess_refuses_nobody() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        cost_guess: BusyNanos::new(1_000 * MILLI),
        ..BulkheadOptions::new("guess")
    });
    let ada = tenant(&house.tenants, "ada");
    let first = house.take(request(&ada).deadline(after(&house, 1)));
    house.queue(0, request(&ada).deadline(after(&house, 1)));
    house.queue(1, request(&ada).deadline(after(&house, 1)));
    drop(first);
    assert_eq!(granted(&house.inbox).len(), 1);
}

#[test]
fn one_outlier_does_not_refuse_its_kind_for_ever() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    teach(&house, &ada, 100);
    let mut refusals = 0;
    let permit: Permit = loop {
        match house.ask(0, request(&ada).deadline(after(&house, 10))) {
            Ok(Acquired::Granted(permit)) => break permit,
            Ok(Acquired::Queued(_)) => panic!("it queued with a slot free"),
            Err(refusal) => assert!(matches!(refusal, Refusal::PredictedLate { .. })),
        }
        refusals += 1;
        assert!(refusals < 150, "refused for ever");
        house.clock.advance(Duration::from_millis(10));
    };
    assert!(refusals > 0);
    permit.settle(BusyNanos::new(MILLI));
}

#[test]
fn refusals_that_one_tenant_provokes_hardly_change_what_the_work_of_another_is_taken_to_cost() {
    for slots in [1, 2] {
        let house = House::new(slots);
        let [ada, eve] = ["ada", "eve"].map(|name| tenant(&house.tenants, name));
        teach(&house, &ada, 100);
        house.clock.advance(Duration::from_secs(1));
        // Where nobody waits, and where somebody does.
        let permit = house.take(request(&ada));
        if slots == 1 {
            house.queue(1, request(&ada));
        }
        for _ in 0..100 {
            let refusal = house.ask(0, request(&eve).deadline(after(&house, 1)));
            assert!(matches!(refusal, Err(Refusal::PredictedLate { .. })));
        }
        drop(permit);
        drop(granted(&house.inbox));
        let estimate = house.take(request(&ada)).estimate();
        assert!(estimate.get() >= 80 * MILLI, "{estimate:?}");
    }
}

#[test]
fn a_request_that_is_given_more_time_keeps_its_place_and_waits_longer() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let running = house.take(request(&ada));
    let first = house.queue(0, request(&ada).deadline(after(&house, 4)));
    let second = house.queue(1, request(&ada).deadline(after(&house, 5)));
    let at = |millis: u64| Monotonic::new(millis * MILLI);
    assert!(first.extend(Some(at(40))));
    // Never less than it had.
    assert!(first.extend(Some(at(3))));
    assert_eq!(house.bulkhead.next_expiry(), Some(at(5)));
    assert!(second.extend(None));
    assert_eq!(house.bulkhead.next_expiry(), Some(at(40)));
    assert_eq!(house.bulkhead.expire(at(39)), 0);
    house.clock.advance(Duration::from_millis(39));
    drop(running);
    let (id, permit) = granted(&house.inbox).remove(0);
    assert_eq!(id, 0);
    assert!(!first.extend(None));
    assert_eq!(house.bulkhead.next_expiry(), None);
    drop(permit);
    assert_eq!(granted(&house.inbox).remove(0).0, 1);
    assert!(refused(&house.inbox).is_empty());
}

fn published(workers: u32, guess: u64) -> House {
    House::with(&BulkheadOptions {
        in_flight_max: 64,
        workers,
        published_cost_max: Some(BusyNanos::new(2 * MILLI)),
        cost_guess: BusyNanos::new(guess),
        ..BulkheadOptions::new("published")
    })
}

#[test]
fn what_is_out_and_not_begun_is_bounded_by_cost_and_one_item_always_passes() {
    // How many are out at once of equal pieces, with two workers: four of half a millisecond, and
    // of large ones one beside those that the workers have.
    for (guess, expected) in [(MILLI / 2, 4), (10 * MILLI, 3), (MILLI / 100, 64)] {
        let house = published(2, guess);
        let ada = tenant(&house.tenants, "ada");
        let mut out = Vec::new();
        for id in 0..100 {
            match house.ask(id, request(&ada)).unwrap() {
                Acquired::Granted(permit) => out.push(permit),
                Acquired::Queued(_) => {}
            }
        }
        assert_eq!(out.len(), expected);
        // One ends, one follows.
        drop(out.pop());
        assert_eq!(granted(&house.inbox).len(), 1);
    }
}

#[test]
fn a_newcomer_is_next_after_what_is_out_however_much_another_has_queued() {
    let house = published(1, MILLI);
    let flood = tenant(&house.tenants, "flood");
    let victim = tenant(&house.tenants, "victim");
    let mut out = vec![house.take(request(&flood)), house.take(request(&flood))];
    for id in 0..50 {
        house.queue(id, request(&flood));
    }
    let other = Request::new(&victim, ComputationId::new(8));
    house.queue(99, other);
    drop(out.pop());
    assert_eq!(granted(&house.inbox).remove(0).0, 99);
}

#[test]
fn work_that_comes_in_turns_with_other_work_is_learnt_from_as_well() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let kinds = [1, 2, 3, 4].map(|kind| Request::new(&ada, ComputationId::new(kind)));
    // The first of each is slow, as the first often is, and the rest are not.
    for turn in 0..200 {
        for kind in kinds {
            let cost = if turn == 0 { 1_000 * MILLI } else { MILLI };
            house.take(kind).settle(BusyNanos::new(cost));
        }
    }
    for kind in kinds {
        let permit = house.take(kind.deadline(after(&house, 100)));
        assert!(permit.estimate().get() < 100 * MILLI, "{permit:?}");
    }
}
