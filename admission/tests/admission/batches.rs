//! Batches: many requests at once are answered, counted and given back as one by one.

use std::time::Duration;

use orlop_admission::{
    BulkheadOptions, ConflictMatrix, Dimension, ExclusionId, Lane, Permit, Quotas, Rate, Refusal,
    Request,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::time::{Clock, Monotonic};

use crate::support::{House, filing, granted, plenty, request, tenant};

/// Asks for all of them; the permits, and the refusals by their places.
fn ask(house: &House, requests: &[Request<'_>]) -> (Vec<Permit>, Vec<(usize, Refusal)>) {
    let (mut permits, mut refused) = (Vec::new(), Vec::new());
    let grantee = |place: usize| filing(u32::try_from(place).unwrap(), &house.inbox);
    let bulkhead = &house.bulkhead;
    bulkhead.acquire_batch(requests, grantee, &mut permits, |place, other| {
        refused.push((place, other.unwrap_err()));
    });
    (permits, refused)
}

#[test]
fn a_batch_is_granted_as_far_as_its_rate_goes_and_the_rest_is_refused() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let limited = Quotas {
        rate: Rate::new(10, 5),
        ..plenty()
    };
    house.tenants.set_quotas(&ada, limited).unwrap();
    let requests = [request(&ada); 3];
    let (first, refused) = ask(&house, &requests);
    assert_eq!((first.len(), refused.len()), (3, 0));
    let (second, refused) = ask(&house, &requests);
    let retry_after = Duration::from_millis(100);
    assert_eq!(refused, [(2, Refusal::RateLimited { retry_after })]);
    assert_eq!(second.len(), 2);
    drop((first, second));
    // What was refused is not counted: after the time that it was told, one more passes.
    house.clock.advance(retry_after);
    let (third, refused) = ask(&house, &requests);
    assert_eq!((third.len(), refused.len()), (1, 2));
    drop(third);
    house.assert_quiet();
}

#[test]
fn a_batch_is_granted_as_far_as_a_quota_goes_and_the_rest_is_refused() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let limited = Quotas {
        slots_max: 2,
        ..plenty()
    };
    house.tenants.set_quotas(&ada, limited).unwrap();
    let (permits, refused) = ask(&house, &[request(&ada); 3]);
    let exceeded = Refusal::QuotaExceeded {
        dimension: Dimension::TenantSlots,
        asked: 1,
        used: 2,
        cap: 2,
    };
    assert_eq!(refused, [(2, exceeded)]);
    assert_eq!(permits.len(), 2);
    drop(permits);
    house.assert_quiet();
}

#[test]
fn permits_of_several_tenants_are_settled_each_with_its_own_cost_or_dropped_without_one() {
    let house = House::new(8);
    let [ada, bob] = ["ada", "bob"].map(|name| tenant(&house.tenants, name));
    let requests = [&ada, &ada, &bob, &ada, &ada].map(request);
    let (mut permits, refused) = ask(&house, &requests);
    assert_eq!((permits.len(), refused.len()), (5, 0));
    let costs = [1, 20, 300, 4_000].map(BusyNanos::new);
    Permit::settle_batch(&mut permits, &costs, |_, _| {});
    assert!(permits.is_empty());
    let lane = house.bulkhead.snapshot().ordinary;
    assert_eq!((lane.settled, lane.unsettled), (4, 1));
    assert_eq!(lane.busy.get(), 4_321);
    let of = |account: &orlop_admission::TenantAccount| {
        let snapshot = account.snapshot();
        (snapshot.settled, snapshot.unsettled, snapshot.busy.get())
    };
    assert_eq!((of(&ada), of(&bob)), ((3, 1, 4_021), (1, 0, 300)));
    house.assert_quiet();
}

#[test]
fn an_item_of_the_reserved_lane_takes_its_slot_there_also_alone_in_a_batch() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        reserved_slots: 1,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let undo = request(&ada).lane(Lane::Reserved);
    let (permits, refused) = ask(&house, &[undo, request(&ada)]);
    assert_eq!(refused, []);
    let lanes: Vec<_> = permits.iter().map(Permit::lane).collect();
    assert_eq!(lanes, [Lane::Reserved, Lane::Ordinary]);
    drop(permits);
    house.tenants.suspend(&ada).unwrap();
    let (permits, refused) = ask(&house, &[undo]);
    assert_eq!((permits.len(), refused), (1, vec![]));
    drop(permits);
    house.assert_quiet();
}

#[test]
fn an_item_of_an_exclusion_group_is_kept_apart_also_alone_in_a_batch() {
    let group = ExclusionId::new(0).unwrap();
    let house = House::with(&BulkheadOptions {
        in_flight_max: 8,
        conflicts: ConflictMatrix::new(&["apart"], &[[true]]).unwrap(),
        ..BulkheadOptions::new("test")
    });
    let [ada, bob] = ["ada", "bob"].map(|name| tenant(&house.tenants, name));
    let apart = [&ada, &bob].map(|account| request(account).exclusion(group));
    let (mut permits, mut tickets) = (Vec::new(), Vec::new());
    let grantee = |place: usize| filing(u32::try_from(place).unwrap(), &house.inbox);
    let bulkhead = &house.bulkhead;
    bulkhead.acquire_batch(&apart, grantee, &mut permits, |place, other| {
        tickets.push((place, other.unwrap()));
    });
    assert_eq!((permits.len(), tickets.len()), (1, 1));
    drop(permits);
    drop(granted(&house.inbox));
    house.assert_quiet();
}

#[test]
fn an_item_whose_deadline_has_passed_is_refused_also_alone_in_a_batch() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    house.clock.advance(Duration::from_secs(1));
    let late = request(&ada).deadline(Monotonic::new(house.clock.monotonic().get() - 1));
    let (permits, refused) = ask(&house, &[late]);
    assert_eq!((permits.len(), refused), (0, vec![(0, Refusal::Expired)]));
    house.assert_quiet();
}
