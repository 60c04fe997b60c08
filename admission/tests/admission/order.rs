//! Who is next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orlop_admission::{
    Acquired, BulkheadOptions, ComputationId, Grantee, GroupId, HeldScope, Lane, Permit, Quotas,
    Rate, Refusal, Request, Scope, Share, Weight,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;

use crate::support::{House, cost, filing, granted, refused, request, tenant};

/// Gives `permit` back, then whatever that granted, and so on; the ids in order.
fn run_dry(house: &House, permit: Permit) -> Vec<u32> {
    let mut order = Vec::new();
    let mut held = vec![permit];
    while let Some(permit) = held.pop() {
        drop(permit);
        for (id, permit) in granted(&house.inbox) {
            order.push(id);
            held.push(permit);
        }
    }
    order
}

#[test]
fn requests_of_one_tenant_and_class_start_in_the_order_in_which_they_came() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    for id in 0..50 {
        house.queue(id, request(&ada));
    }
    assert_eq!(run_dry(&house, permit), (0..50).collect::<Vec<_>>());
    house.assert_quiet();
}

#[test]
fn a_flooding_tenant_delays_another_by_one_turn_only() {
    let house = House::new(1);
    let flood = tenant(&house.tenants, "flood");
    let victim = tenant(&house.tenants, "victim");
    let permit = house.take(request(&flood));
    for id in 0..100 {
        house.queue(id, request(&flood));
    }
    house.queue(1000, request(&victim));
    house.queue(1001, request(&victim));
    let order = run_dry(&house, permit);
    // The flood had its turn with the permit that was held.
    assert_eq!(order[..5], [1000, 0, 1001, 1, 2]);
}

#[test]
fn a_flooding_tenant_does_not_fill_the_queue_for_others() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        queue_max: 8,
        queue_per_tenant_max: 4,
        ..BulkheadOptions::new("test")
    });
    let flood = tenant(&house.tenants, "flood");
    let victim = tenant(&house.tenants, "victim");
    let _permit = house.take(request(&flood));
    for id in 0..4 {
        house.queue(id, request(&flood));
    }
    let refusal = house.ask(4, request(&flood)).unwrap_err();
    let full = Refusal::QueueFull {
        scope: Scope::Tenant,
        queued: 4,
        queued_max: 4,
    };
    assert_eq!(refusal, full);
    house.queue(5, request(&victim));
}

#[test]
fn within_a_tenant_the_urgent_go_first_and_the_classes_share_by_their_weights() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    house.queue(100, request(&ada).class(Class::Batch));
    house.queue(101, request(&ada).class(Class::Batch));
    for id in 0..40 {
        house.queue(id, request(&ada).class(Class::Interactive));
    }
    let order = run_dry(&house, permit);
    let place = |id| order.iter().position(|&other| other == id).unwrap();
    // Sixteen of the urgent to one of the others, by cost.
    assert_eq!((place(0), place(100), place(101)), (0, 1, 18));
}

#[test]
fn both_less_urgent_classes_are_served_under_a_flood_of_the_urgent() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    for id in 0..100 {
        house.queue(id, request(&ada).class(Class::Interactive));
    }
    for id in 100..150 {
        house.queue(id, request(&ada).class(Class::Standard));
        house.queue(id + 100, request(&ada).class(Class::Batch));
    }
    let order = run_dry(&house, permit);
    // Sixteen to four to one.
    for (from, least) in [(100..150, 9), (200..250, 2)] {
        let served = order[..50].iter().filter(|&id| from.contains(id)).count();
        assert!(served >= least, "{served} of 50 turns");
    }
}

#[test]
fn a_newcomer_does_not_overtake_who_waits_when_a_slot_comes_free() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let permit = house.take(request(&ada));
    house.queue(0, request(&ada));
    drop(permit);
    // The slot went to the waiter in the same step: there is none to take, for anybody.
    let slot = house.bulkhead.snapshot().ordinary;
    assert_eq!((slot.in_flight, slot.queued), (1, 0));
    house.queue(1, request(&bob).class(Class::Interactive));
    assert_eq!(granted(&house.inbox).len(), 1);
}

#[test]
fn a_request_for_many_slots_is_not_starved_by_requests_for_one() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 3,
        backfill_max: 0,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let mut held: Vec<Permit> = (0..3).map(|_| house.take(request(&ada))).collect();
    house.queue(0, request(&bob).cost(cost(3, 0)));
    for id in 1..4 {
        house.queue(id, request(&ada));
    }
    held.pop();
    held.pop();
    assert_eq!(
        granted(&house.inbox).len(),
        0,
        "two slots gather for the third"
    );
    held.pop();
    let first = granted(&house.inbox);
    assert_eq!(first.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0]);
    drop(first);
    assert_eq!(granted(&house.inbox).len(), 3);
}

#[test]
fn withdrawing_who_gathers_slots_lets_the_next_start() {
    let house = House::new(2);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let _permit = house.take(request(&ada));
    let big = house.queue(0, request(&bob).cost(cost(2, 0)));
    house.queue(1, request(&ada));
    assert!(big.cancel());
    assert_eq!(granted(&house.inbox)[0].0, 1);
    assert!(!big.cancel());
}

#[test]
fn a_tenant_at_its_bound_does_not_hold_up_others() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 2,
        in_flight_per_tenant_max: 1,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let ada_runs = house.take(request(&ada));
    house.queue(0, request(&ada));
    let bob_runs = house.take(request(&bob));
    drop(bob_runs);
    assert_eq!(granted(&house.inbox).len(), 0, "ada is at its bound");
    drop(ada_runs);
    assert_eq!(granted(&house.inbox)[0].0, 0);
}

#[test]
fn ordinary_work_does_not_stand_in_the_way_of_the_reserved_lane() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        queue_max: 1,
        queue_per_tenant_max: 1,
        queue_timeout: Some(Duration::from_nanos(5)),
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let _running = house.take(request(&ada));
    house.queue(0, request(&ada));
    house.tenants.suspend(&ada).unwrap();
    let suspended = Refusal::Suspended { tenant: ada.id() };
    assert_eq!(refused(&house.inbox), [(0, suspended)]);
    let past = orlop_saga::time::Monotonic::new(0);
    let undo = || request(&ada).lane(Lane::Reserved).deadline(past);
    let first = house.take(undo());
    house.queue(1, undo());
    house.clock.advance(Duration::from_secs(1));
    house.tenants.revoke(&ada).unwrap();
    assert_eq!(
        house
            .bulkhead
            .expire(orlop_saga::time::Monotonic::new(u64::MAX)),
        0
    );
    drop(first);
    assert_eq!(granted(&house.inbox)[0].0, 1);
}

#[test]
fn the_reserved_lane_is_bounded() {
    let house = House::with(&BulkheadOptions {
        reserved_slots: 1,
        reserved_queue_max: 2,
        reserved_queue_per_tenant_max: 1,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let undo = || request(&ada).lane(Lane::Reserved);
    let _first = house.take(undo());
    house.queue(1, undo());
    let full = Refusal::QueueFull {
        scope: Scope::Tenant,
        queued: 1,
        queued_max: 1,
    };
    assert_eq!(house.ask(2, undo()).unwrap_err(), full);
}

#[test]
fn one_who_waits_is_told_why_and_when_it_ran_out_of_time() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        queue_timeout: Some(Duration::from_nanos(10)),
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let at = orlop_saga::time::Monotonic::new;
    let by_deadline = house.queue(0, request(&ada).deadline(at(4)));
    let by_timeout = house.queue(1, request(&ada).deadline(at(40)));
    assert_eq!(by_deadline.expires_at(), Some(at(4)));
    assert_eq!(by_timeout.expires_at(), Some(at(10)));
    assert_eq!(house.bulkhead.next_expiry(), Some(at(4)));
    assert_eq!(house.bulkhead.expire(at(3)), 0);
    assert_eq!(house.bulkhead.expire(at(4)), 1);
    assert_eq!(refused(&house.inbox), [(0, Refusal::Expired)]);
    house.clock.advance(Duration::from_nanos(12));
    // Nobody called `expire`: the hand-off itself must not grant what is out of time.
    drop(permit);
    let waited = Duration::from_nanos(12);
    assert_eq!(
        refused(&house.inbox),
        [(1, Refusal::QueueTimeout { waited })]
    );
    let lane = house.bulkhead.snapshot().ordinary;
    assert_eq!(
        (
            lane.granted,
            lane.refused.expired,
            lane.refused.queue_timeout
        ),
        (1, 1, 1)
    );
    assert_eq!(house.bulkhead.next_expiry(), None);
    house.assert_quiet();
}

#[derive(Default)]
struct DropsAtOnce(AtomicU32);

impl Grantee for DropsAtOnce {
    fn granted(self: Arc<Self>, permit: Permit) {
        self.0.fetch_add(1, Ordering::SeqCst);
        drop(permit);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        panic!("refused: {refusal}");
    }
}

#[test]
fn a_long_chain_of_hand_offs_does_not_deepen_the_stack() {
    const LONG: u32 = 50_000;
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        queue_max: LONG,
        queue_per_tenant_max: LONG,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let grantee = Arc::new(DropsAtOnce::default());
    for _ in 0..LONG {
        let as_grantee: Arc<dyn Grantee> = Arc::clone(&grantee) as _;
        house.bulkhead.acquire(&request(&ada), as_grantee).unwrap();
    }
    let small = std::thread::Builder::new().stack_size(128 << 10);
    small.spawn(move || drop(permit)).unwrap().join().unwrap();
    assert_eq!(grantee.0.load(Ordering::SeqCst), LONG);
    house.assert_quiet();
}

struct AsksAgain(Arc<House>, Arc<orlop_admission::TenantAccount>);

impl Grantee for AsksAgain {
    fn granted(self: Arc<Self>, permit: Permit) {
        let next = filing(9, &self.0.inbox);
        let asked = self.0.bulkhead.acquire(&request(&self.1), next);
        assert!(matches!(asked, Ok(Acquired::Queued(_))), "{asked:?}");
        drop(permit);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        panic!("refused: {refusal}");
    }
}

#[test]
fn a_grantee_may_acquire_and_is_not_taken_for_the_work_that_made_room() {
    let house = Arc::new(House::new(1));
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let again = Arc::new(AsksAgain(Arc::clone(&house), Arc::clone(&ada)));
    house.bulkhead.acquire(&request(&ada), again).unwrap();
    let scope = HeldScope::enter(house.bulkhead.id());
    drop(permit);
    drop(scope);
    assert_eq!(granted(&house.inbox)[0].0, 9);
    house.assert_quiet();
}

#[test]
fn a_bounded_number_of_small_requests_goes_ahead_of_one_that_gathers_slots() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 3,
        backfill_max: 2,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let held = house.take(request(&ada));
    house.queue(0, request(&bob).cost(cost(3, 0)));
    for id in 1..6 {
        // The first two are granted while they are queued.
        house.queue(id, request(&ada));
    }
    let first = granted(&house.inbox);
    assert_eq!(first.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    drop(first);
    assert_eq!(granted(&house.inbox).len(), 0, "now slots gather");
    drop(held);
    let next = granted(&house.inbox);
    assert_eq!(next.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0]);
}

#[test]
fn tenants_get_turns_by_their_weights_and_groups_by_theirs() {
    let house = House::new(1);
    let share = |weight, group, group_weight| Share {
        weight: Weight::new(weight).unwrap(),
        group: GroupId::new(group),
        group_weight: Weight::new(group_weight).unwrap(),
    };
    let shares = [share(1, 1, 1), share(3, 1, 1), share(1, 2, 2)];
    let mut held = None;
    for (id, share) in (0_u32..).zip(shares) {
        let account = tenant(&house.tenants, &format!("tenant {id}"));
        let quotas = Quotas {
            share,
            ..Quotas::UNLIMITED
        };
        house.tenants.set_quotas(&account, quotas).unwrap();
        held = held.or_else(|| Some(house.take(request(&account))));
        for turn in 0..200 {
            house.queue(id * 1000 + turn, request(&account));
        }
    }
    let mut order = Vec::new();
    while let Some(permit) = held.take() {
        permit.settle(BusyNanos::new(1_000));
        for (id, permit) in granted(&house.inbox) {
            order.push(id / 1000);
            held = Some(permit);
        }
    }
    let turns = |id| order[..240].iter().filter(|&&other| other == id).count();
    for (id, expected) in [(0, 20), (1, 60), (2, 160)] {
        assert!(turns(id).abs_diff(expected) <= 2, "{id}: {}", turns(id));
    }
}

#[test]
fn turns_are_by_cost_as_measured_and_not_by_count() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let mut held = Some(house.take(request(&ada)));
    for id in 0..250 {
        house.queue(id, request(&ada));
        // Another computation: it costs ten times as much, which only its settlement says.
        let dear = Request::new(&bob, ComputationId::new(8));
        house.queue(1000 + id, dear);
    }
    let mut order = Vec::new();
    let mut dear = false;
    while let Some(permit) = held.take() {
        permit.settle(BusyNanos::new(if dear { 10_000 } else { 1_000 }));
        for (id, permit) in granted(&house.inbox) {
            dear = id >= 1000;
            order.push(dear);
            held = Some(permit);
        }
    }
    let dear = order[..220].iter().filter(|&&dear| dear).count();
    assert!(dear.abs_diff(20) <= 3, "{dear} of 220 turns");
}

#[test]
fn a_rate_that_is_exceeded_is_told_with_the_time_to_wait_and_costs_nothing() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let quotas = Quotas {
        rate: Rate::new(1_000, 2),
        ..Quotas::UNLIMITED
    };
    house.tenants.set_quotas(&ada, quotas).unwrap();
    let _held = [house.take(request(&ada)), house.take(request(&ada))];
    let retry_after = Duration::from_millis(1);
    for _ in 0..3 {
        let refusal = house.ask(0, request(&ada)).unwrap_err();
        assert_eq!(refusal, Refusal::RateLimited { retry_after });
        assert!(refusal.is_retryable());
    }
    // What undoes is never bound by it.
    let _undo = house.take(request(&ada).lane(Lane::Reserved));
    house.clock.advance(retry_after);
    let _third = house.take(request(&ada));
    let counted = house.bulkhead.snapshot().ordinary.refused;
    assert_eq!((counted.rate_limited, counted.total()), (3, 3));
}
