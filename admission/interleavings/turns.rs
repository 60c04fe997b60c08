//! Races of the waiting room's turns: what is given back reaches everyone whom it lets pass.

use std::sync::Arc;

use orlop_saga::amount::ByteCount;
use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::Monotonic;
use shuttle::thread;

use super::{Counts, House, SCHEDULES, Stopped};
use crate::sync::explored::explore;
use crate::{
    Acquired, Alarm, Bulkhead, BulkheadOptions, ComputationId, CostVector, Grantee, Patient,
    Permit, Quotas, Refusal, Request, TenantAccount, WaitingRoom,
};

struct Never;

impl Alarm for Never {
    fn earlier(&self, _next: Monotonic) {}
}

/// Counts what it is told, gives its permit back at once and asks for some staging.
struct Waits {
    counts: Arc<Counts>,
    account: Arc<TenantAccount>,
    staging: u64,
}

fn cost(staging: u64) -> CostVector {
    CostVector::one_slot(ByteCount::new(staging))
}

impl Grantee for Waits {
    fn granted(self: Arc<Self>, permit: Permit) {
        Arc::clone(&self.counts).granted(permit);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        Arc::clone(&self.counts).refused(refusal);
    }
}

impl Patient for Waits {
    fn request(&self) -> Request<'_> {
        Request::new(&self.account, ComputationId::new(0))
            .cost(cost(self.staging))
            .untimed()
    }
}

fn account(house: &House, name: &str) -> Arc<TenantAccount> {
    let label = TenantLabel::new(name).unwrap();
    let account = house.tenants.register_next(label, Quotas::UNLIMITED);
    account.unwrap()
}

fn take(house: &House, account: &Arc<TenantAccount>, staging: u64) -> Permit {
    let request = Request::new(account, ComputationId::new(0)).cost(cost(staging));
    match house.bulkhead.acquire(&request, Arc::<Counts>::default()) {
        Ok(Acquired::Granted(permit)) => permit,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn who_may_pass_is_asked_also_while_another_thread_asks_for_whoever_is_in_front_of_it() {
    explore(
        || {
            let options = BulkheadOptions {
                in_flight_max: 8,
                staging_bytes_max: ByteCount::new(10),
                ..BulkheadOptions::new("explored")
            };
            let house = House {
                bulkhead: Bulkhead::new(&options, Arc::new(Stopped)).unwrap(),
                ..House::new()
            };
            let room = WaitingRoom::new(8, Arc::new(Stopped), Arc::new(Never));
            room.serve(&house.bulkhead);
            let [bob, eve] = ["bob", "eve"].map(|name| account(&house, name));
            let (half, other) = (take(&house, &bob, 5), take(&house, &bob, 5));
            let counts = Arc::<Counts>::default();
            // The first needs all of the staging, the second half of it.
            let waiting = [(&bob, 10), (&eve, 5)].map(|(account, staging)| {
                let waits = Waits {
                    counts: Arc::clone(&counts),
                    account: Arc::clone(account),
                    staging,
                };
                room.wait(&house.bulkhead, Arc::new(waits)).unwrap()
            });
            let changing = {
                let (room, bob) = (room.clone(), bob.id());
                thread::spawn(move || room.changed(bob))
            };
            drop(half);
            changing.join().unwrap();
            assert_eq!(counts.told(), (1, 0), "half of the staging is free");
            drop(other);
            assert_eq!(counts.told(), (2, 0));
            drop(waiting);
        },
        SCHEDULES,
    );
}

#[test]
fn no_snapshot_counts_a_slot_twice_that_goes_from_one_tenant_to_another() {
    explore(
        || {
            let house = House::new();
            let [bob, eve] = ["bob", "eve"].map(|name| account(&house, name));
            let permit = take(&house, &bob, 0);
            let moving = {
                let house = house.clone();
                thread::spawn(move || {
                    drop(permit);
                    let _eve_s = take(&house, &eve, 0);
                })
            };
            let lane = house.bulkhead.snapshot().ordinary;
            assert!(lane.slots <= lane.slots_max, "{lane:?}");
            assert_eq!(lane.granted, lane.unsettled + lane.in_flight);
            moving.join().unwrap();
            house.assert_quiet();
        },
        SCHEDULES,
    );
}
