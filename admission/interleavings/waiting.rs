//! Races of the waiting room with what frees a slot, with cancels and with suspensions.

use super::{Counts, House, SCHEDULES, Stopped};
use std::sync::Arc;

use orlop_saga::time::Monotonic;
use shuttle::thread;

use crate::sync::explored::explore;
use crate::{
    Alarm, Bulkhead, BulkheadOptions, ComputationId, Grantee, Patient, Permit, Quotas, Refusal,
    Request, TenantAccount, WaitingRoom, WaitingTicket,
};

struct Never;

impl Alarm for Never {
    fn earlier(&self, _next: Monotonic) {}
}

/// Counts what it is told and gives its permit back at once.
struct Waits {
    counts: Arc<Counts>,
    account: Arc<TenantAccount>,
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
        Request::new(&self.account, ComputationId::new(0)).untimed()
    }
}

/// A house whose bulkhead has one slot and no queue, and a room in front of it.
#[derive(Clone)]
struct Hall {
    house: House,
    room: WaitingRoom,
    counts: Arc<Counts>,
}

impl Hall {
    fn new() -> Self {
        let options = BulkheadOptions {
            in_flight_max: 1,
            queue_max: 0,
            queue_per_tenant_max: 0,
            ..BulkheadOptions::new("explored")
        };
        let house = House {
            bulkhead: Bulkhead::new(&options, Arc::new(Stopped)).unwrap(),
            ..House::new()
        };
        let room = WaitingRoom::new(8, Arc::new(Stopped), Arc::new(Never));
        room.serve(&house.bulkhead);
        house.tenants.tell(&room);
        Self {
            house,
            room,
            counts: Arc::default(),
        }
    }

    fn wait(&self) -> WaitingTicket {
        let waits = Waits {
            counts: Arc::clone(&self.counts),
            account: Arc::clone(&self.house.ada),
        };
        self.room
            .wait(&self.house.bulkhead, Arc::new(waits))
            .unwrap()
    }

    fn assert_served(&self, granted: u32) {
        assert_eq!(self.counts.told(), (granted, 0));
        assert!(self.room.is_empty());
        self.house.assert_quiet();
    }
}

#[test]
fn who_is_refused_while_the_slot_comes_free_is_woken() {
    explore(
        || {
            let hall = Hall::new();
            let permit = hall.house.take();
            let releasing = thread::spawn(move || drop(permit));
            let waiting = {
                let hall = hall.clone();
                thread::spawn(move || drop(hall.wait()))
            };
            let _other = hall.wait();
            releasing.join().unwrap();
            waiting.join().unwrap();
            hall.assert_served(2);
        },
        SCHEDULES,
    );
}

#[test]
fn a_cancel_and_a_wake_up_agree_on_who_was_first() {
    explore(
        || {
            let hall = Hall::new();
            let permit = hall.house.take();
            let (first, _second) = (hall.wait(), hall.wait());
            let releasing = thread::spawn(move || drop(permit));
            let cancelled = first.cancel();
            releasing.join().unwrap();
            hall.assert_served(2 - u32::from(cancelled));
        },
        SCHEDULES,
    );
}

#[test]
fn who_waits_through_a_suspension_is_served_after_it_and_told_nothing_of_it() {
    explore(
        || {
            let hall = Hall::new();
            let permit = hall.house.take();
            let _first = hall.wait();
            let suspending = {
                let hall = hall.clone();
                thread::spawn(move || {
                    hall.house.tenants.suspend(&hall.house.ada).unwrap();
                    hall.house.tenants.resume(&hall.house.ada).unwrap();
                })
            };
            drop(permit);
            let _second = hall.wait();
            suspending.join().unwrap();
            hall.assert_served(2);
        },
        SCHEDULES,
    );
}

#[test]
fn a_quota_that_lifts_in_another_bulkhead_is_noticed() {
    explore(
        || {
            let hall = Hall::new();
            let options = BulkheadOptions {
                in_flight_max: 1,
                ..BulkheadOptions::new("other")
            };
            let other = Bulkhead::new(&options, Arc::new(Stopped)).unwrap();
            hall.room.serve(&other);
            let quotas = Quotas {
                slots_max: 1,
                ..Quotas::UNLIMITED
            };
            hall.house
                .tenants
                .set_quotas(&hall.house.ada, quotas)
                .unwrap();
            let request = hall.house.request();
            let counts: Arc<dyn Grantee> = Arc::<Counts>::default();
            let Ok(crate::Acquired::Granted(permit)) = other.acquire(&request, counts) else {
                panic!("an idle bulkhead refuses");
            };
            let releasing = thread::spawn(move || drop(permit));
            let _waiting = hall.wait();
            releasing.join().unwrap();
            hall.assert_served(1);
        },
        SCHEDULES,
    );
}
