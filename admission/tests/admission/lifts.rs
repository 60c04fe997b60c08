//! What lifts a bound is noticed by whoever it bound, and nothing is left behind where it is not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{
    Alarm, Bulkhead, BulkheadOptions, ByteRate, ConflictMatrix, CostVector, ExclusionId, Grantee,
    Kept, Patient, Permit, Quotas, Rate, Refusal, Request, TenantAccount, WaitingRoom,
};
use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::time::{Clock, Monotonic};

use crate::support::{Event, House, Inbox, granted, plenty, request, tenant};

struct Never;

impl Alarm for Never {
    fn earlier(&self, _next: Monotonic) {}
}

/// Files what it is told, and asks for what it is made with.
struct Waits {
    id: u32,
    inbox: Inbox,
    account: Arc<TenantAccount>,
    cost: CostVector,
    exclusion: Option<ExclusionId>,
}

impl Grantee for Waits {
    fn granted(self: Arc<Self>, permit: Permit) {
        let event = Event::Granted(self.id, permit);
        self.inbox.lock().unwrap().push(event);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        let event = Event::Refused(self.id, refusal);
        self.inbox.lock().unwrap().push(event);
    }
}

impl Patient for Waits {
    fn request(&self) -> Request<'_> {
        let request = request(&self.account).cost(self.cost).untimed();
        match self.exclusion {
            Some(group) => request.exclusion(group),
            None => request,
        }
    }
}

fn room(house: &House) -> WaitingRoom {
    let clock: Arc<dyn Clock> = Arc::clone(&house.clock) as _;
    let room = WaitingRoom::new(64, clock, Arc::new(Never));
    room.serve(&house.bulkhead);
    house.tenants.tell(&room);
    room
}

fn wait(
    house: &House,
    room: &WaitingRoom,
    id: u32,
    account: &Arc<TenantAccount>,
    cost: CostVector,
    exclusion: Option<ExclusionId>,
) {
    let waits = Waits {
        id,
        inbox: Arc::clone(&house.inbox),
        account: Arc::clone(account),
        cost,
        exclusion,
    };
    room.wait(&house.bulkhead, Arc::new(waits)).unwrap();
}

#[test]
fn a_grantee_that_cannot_be_made_leaves_nothing_reserved() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let cost = CostVector::one_slot(ByteCount::new(5));
    let asked = catch_unwind(AssertUnwindSafe(|| {
        let grantee = || std::panic::resume_unwind(Box::new("no grantee"));
        house
            .bulkhead
            .acquire_with(&request(&ada).cost(cost), grantee)
    }));
    assert!(asked.is_err());
    drop(permit);
    house.assert_quiet();
    let drain = house.tenants.drain(&ada, orlop_admission::Queued::Serve);
    assert_eq!(drain.unwrap().try_wait(), Some(Ok(())));
}

#[test]
fn a_place_in_the_queue_that_somebody_elses_work_frees_is_taken_by_who_waits_in_front() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 2,
        queue_max: 8,
        queue_per_tenant_max: 1,
        ..BulkheadOptions::new("two slots")
    });
    let room = room(&house);
    let (ada, bob) = (tenant(&house.tenants, "ada"), tenant(&house.tenants, "bob"));
    let permits = [house.take(request(&ada)), house.take(request(&ada))];
    for id in 0..3 {
        wait(&house, &room, id, &bob, CostVector::default(), None);
    }
    // Bob's first is in the queue, the others are in front of it.
    drop(permits);
    let running = granted(&house.inbox);
    let ids: Vec<u32> = running.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [0, 1], "a slot is idle while somebody waits for one");
}

#[test]
fn a_reservation_given_back_wakes_who_waits_for_it_with_an_exclusion_group() {
    let conflicts = ConflictMatrix::new(&["upkeep"], &[[true]]).unwrap();
    let house = House::with(&BulkheadOptions {
        in_flight_max: 2,
        conflicts: conflicts.clone(),
        ..BulkheadOptions::new("excluding")
    });
    let room = room(&house);
    let quotas = Quotas {
        device_bytes_max: ByteCount::new(100),
        ..plenty()
    };
    let ada = tenant(&house.tenants, "ada");
    house.tenants.set_quotas(&ada, quotas).unwrap();
    let kept = ada.reserve(Kept::buffer(ByteCount::new(60))).unwrap();
    let cost = CostVector::default().with_buffers(1, ByteCount::new(60));
    wait(&house, &room, 0, &ada, cost, conflicts.group("upkeep"));
    assert!(granted(&house.inbox).is_empty());
    drop(kept);
    let granted = granted(&house.inbox);
    assert_eq!(granted.len(), 1, "nobody told it that there is room");
}

#[test]
fn a_rate_that_is_raised_binds_at_once_and_what_was_used_of_the_old_one_counts_in_proportion() {
    let house = House::new(8);
    let with = |rate, journal| Quotas {
        rate,
        journal,
        ..plenty()
    };
    let ada = tenant(&house.tenants, "ada");
    let slow = with(Rate::new(1, 60), ByteRate::new(1, 60));
    house.tenants.set_quotas(&ada, slow).unwrap();
    let cost = CostVector::default().with_journal(ByteCount::new(1));
    for _ in 0..60 {
        drop(house.take(request(&ada).cost(cost)));
    }
    let late = house.ask(0, request(&ada).cost(cost)).unwrap_err();
    let retry_after = Duration::from_secs(1);
    assert_eq!(late, Refusal::RateLimited { retry_after });
    // A thousand times as often, and as much at once: what was used is a thousandth of the time.
    let fast = with(Rate::new(1_000, 60), ByteRate::new(1_000, 60));
    house.tenants.set_quotas(&ada, fast).unwrap();
    let late = house.ask(0, request(&ada).cost(cost)).unwrap_err();
    let retry_after = Duration::from_millis(1);
    assert_eq!(late, Refusal::RateLimited { retry_after });
    house.clock.advance(retry_after);
    drop(house.take(request(&ada).cost(cost)));
    // Back again: nothing was earned by it.
    house.tenants.set_quotas(&ada, slow).unwrap();
    let late = house.ask(0, request(&ada).cost(cost)).unwrap_err();
    let retry_after = Duration::from_secs(1);
    assert_eq!(late, Refusal::RateLimited { retry_after });
}

#[test]
fn a_batch_beside_a_waiter_is_answered_as_its_requests_would_be_alone() {
    let house = House::new(2);
    let ada = tenant(&house.tenants, "ada");
    let bulkhead: &Bulkhead = &house.bulkhead;
    let (mut permits, mut others) = (Vec::new(), Vec::new());
    let requests = [request(&ada); 3];
    let inbox = &house.inbox;
    let grantee = |place| crate::support::filing(u32::try_from(place).unwrap(), inbox);
    let other = |place, other| others.push((place, other));
    bulkhead.acquire_batch(&requests, grantee, &mut permits, other);
    assert_eq!(permits.len(), 2);
    assert!(matches!(others[..], [(2, Ok(_))]), "{others:?}");
    drop((permits, others));
    assert_eq!(granted(inbox).len(), 1);
    house.assert_quiet();
}

#[test]
fn a_bulkhead_does_not_remember_tenants_that_came_and_went() {
    // In the one nothing is bounded by its cost, in the other it is.
    for published_cost_max in [None, Some(BusyNanos::new(1_000))] {
        let house = House::with(&BulkheadOptions {
            in_flight_max: 8,
            published_cost_max,
            ..BulkheadOptions::new("busy")
        });
        let mut lives = Vec::new();
        for _ in 0..2_000 {
            let ada = tenant(&house.tenants, "ada");
            drop(house.take(request(&ada)));
            house.tenants.unregister(&ada).unwrap();
            lives.push(Arc::downgrade(&ada));
        }
        let kept = lives.iter().filter(|life| life.strong_count() > 0).count();
        assert!(kept <= 100, "{kept} lives of 2,000 are remembered");
        let lane = house.bulkhead.snapshot().ordinary;
        assert_eq!((lane.granted, lane.unsettled), (2_000, 2_000));
    }
}
