//! Batches: many requests at once are answered, counted and given back as one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orlop_admission::{
    Acquired, Bulkhead, BulkheadOptions, ByteRate, ComputationId, ConflictMatrix, CostVector,
    Dimension, ExclusionId, HeldScope, Lane, Payer, Permit, Purse, Queued, Quotas, Rate, Refusal,
    Request, TenantAccount,
};
use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::budget::Budget;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::{Clock, Monotonic, WallMillis};
use proptest::prelude::*;

use crate::support::{Event, House, filing, granted, plenty, request, take_all, tenant};

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

#[test]
fn items_that_are_beyond_all_numbers_together_are_not_granted_together() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    house.tenants.set_quotas(&ada, Quotas::UNLIMITED).unwrap();
    let half = CostVector::default().with_buffers(1, ByteCount::new(1 << 63));
    let (mut permits, refused) = ask(&house, &[request(&ada).cost(half); 2]);
    let exceeded = Refusal::QuotaExceeded {
        dimension: Dimension::TenantDeviceBytes,
        asked: 1 << 63,
        used: 1 << 63,
        cap: u64::MAX,
    };
    assert_eq!((permits.len(), refused), (1, vec![(1, exceeded)]));
    Permit::settle_batch(&mut permits, &[BusyNanos::new(1); 2], |_, _| {});
    house.assert_quiet();
}

#[test]
fn a_batch_from_inside_work_that_holds_a_permit_is_refused_item_by_item() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let scope = HeldScope::enter(permit.bulkhead_id());
    let (permits, refused) = ask(&house, &[request(&ada); 2]);
    drop(scope);
    let nested = Refusal::Nested {
        bulkhead: Arc::clone(house.bulkhead.name()),
    };
    assert_eq!(permits.len(), 0);
    assert_eq!(refused, [(0, nested.clone()), (1, nested)]);
    drop(permit);
    house.assert_quiet();
}

#[test]
fn what_a_batch_costs_beyond_all_that_was_drawn_is_told_with_who_pays() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let audit = AuditTag {
        organisation: 1,
        engagement: 2,
    };
    let budget = Budget {
        limit: BusyNanos::new(1 << 40),
        ..Budget::default()
    };
    let purse = Arc::new(Purse::new(audit, &budget));
    let drawn = purse.begin_draw(BusyNanos::new(1 << 30)).unwrap();
    purse.drawn(drawn);
    let paid = request(&ada).audit(audit).payer(Payer::Purse(&purse));
    let (mut permits, refused) = ask(&house, &[paid, request(&ada), paid]);
    assert_eq!((permits.len(), refused.len()), (3, 0));
    let reserved = permits[2].estimate().get();
    let costs = [(1 << 30) + 5, 1, 7].map(BusyNanos::new);
    let mut told = Vec::new();
    Permit::settle_batch(&mut permits, &costs, |who, beyond| told.push((who, beyond)));
    // What the other one has reserved pays for nothing of the first.
    let beyond = BusyNanos::new(5 + reserved);
    assert_eq!(told, [(audit, beyond), (audit, BusyNanos::new(0))]);
    assert_eq!(purse.snapshot().spent.get(), (1 << 30) + 5 + 7);
    house.assert_quiet();
}

/// Counts how often it is read.
#[derive(Debug, Default)]
struct CountedClock(AtomicU64);

impl Clock for CountedClock {
    fn wall(&self) -> WallMillis {
        WallMillis::new(0)
    }

    fn monotonic(&self) -> Monotonic {
        self.0.fetch_add(1, Ordering::SeqCst);
        Monotonic::new(0)
    }
}

/// Who begins to wait waits for the locks of all tenants that have something.
#[test]
fn a_batch_however_long_keeps_its_tenants_lock_for_64_items_at_a_time() {
    let clock = Arc::new(CountedClock::default());
    let options = BulkheadOptions {
        in_flight_max: 1_000,
        in_flight_per_tenant_max: 1_000,
        ..BulkheadOptions::new("test")
    };
    let bulkhead = Bulkhead::new(&options, Arc::clone(&clock) as _).unwrap();
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let limited = Quotas {
        rate: Rate::new(1, 1_000),
        ..plenty()
    };
    house.tenants.set_quotas(&ada, limited).unwrap();
    let (mut permits, grantee) = (Vec::new(), |_| filing(0, &house.inbox));
    bulkhead.acquire_batch(
        &vec![request(&ada); 640],
        grantee,
        &mut permits,
        |_, other| {
            panic!("{other:?}");
        },
    );
    // It is read once before each time that the lock is taken.
    assert_eq!((permits.len(), clock.0.load(Ordering::SeqCst)), (640, 10));
    Permit::settle_batch(&mut permits, &[BusyNanos::new(1); 639], |_, _| {});
    let lane = bulkhead.snapshot().ordinary;
    assert_eq!((lane.settled, lane.unsettled, lane.slots), (639, 1, 0));
}

#[test]
fn a_tenant_whose_batch_is_settled_in_parts_is_drained_with_the_last_of_it() {
    let house = House::new(200);
    let ada = tenant(&house.tenants, "ada");
    let (mut permits, refused) = ask(&house, &vec![request(&ada); 150]);
    assert_eq!((permits.len(), refused.len()), (150, 0));
    let drain = house.tenants.drain(&ada, Queued::Serve).unwrap();
    let mut last = permits.split_off(149);
    Permit::settle_batch(&mut permits, &[BusyNanos::new(1); 149], |_, _| {});
    assert_eq!(drain.try_wait(), None);
    let (none, refused) = ask(&house, &[request(&ada)]);
    assert_eq!((none.len(), refused.len()), (0, 1));
    Permit::settle_batch(&mut last, &[BusyNanos::new(1)], |_, _| {});
    assert_eq!(drain.try_wait(), Some(Ok(())));
    house.assert_quiet();
}

/// One item of a batch.
#[derive(Clone, Copy, Debug)]
struct Item {
    who: usize,
    kind: u32,
    size: u64,
    class: Class,
    slots: u32,
    staging: u64,
    journal: u64,
    payer: u8,
    apart: u8,
}

fn item() -> impl Strategy<Value = Item> {
    let what = (0..3_usize, 0..3_u32, 0..2_u64, 0..3_usize);
    let cost = (1..3_u32, 0..2_u64, 0..3_u64);
    // Mostly alike, and mostly nothing that sets it apart.
    let what = prop_oneof![3 => Just((0, 0, 0, 0)), 1 => what];
    let cost = prop_oneof![3 => Just((1, 0, 0)), 1 => cost];
    (what, cost, 0..12_u8, 0..24_u8).prop_map(|(what, cost, payer, apart)| Item {
        who: what.0,
        kind: what.1,
        size: what.2,
        class: Class::ALL[what.3],
        slots: cost.0,
        staging: cost.1,
        journal: cost.2,
        payer,
        apart,
    })
}

/// All that a permit tells, but for the number of its bulkhead.
fn facts(permit: &Permit) -> String {
    format!(
        "{} {:?} {:?} {:?} {:?} {:?}",
        permit.tenant().id(),
        permit.computation(),
        permit.audit(),
        permit.cost(),
        permit.estimate(),
        permit.lane(),
    )
}

/// A bulkhead with tenants and a purse, of which there are two that are asked for the same.
struct Side {
    house: House,
    accounts: Vec<Arc<TenantAccount>>,
    purse: Arc<Purse>,
    permits: Vec<Permit>,
}

impl Side {
    fn new(slots: u32, quota: u64, published: Option<u64>) -> Self {
        let house = House::with(&BulkheadOptions {
            in_flight_max: slots,
            in_flight_per_tenant_max: 9,
            reserved_slots: 2,
            staging_bytes_max: ByteCount::new(6),
            published_cost_max: published.map(BusyNanos::new),
            workers: 2,
            cost_guess: BusyNanos::new(50),
            conflicts: ConflictMatrix::new(&["apart"], &[[true]]).unwrap(),
            ..BulkheadOptions::new("test")
        });
        let accounts = ["ada", "bob", "eve"].map(|name| tenant(&house.tenants, name));
        let bob = Quotas {
            slots_max: quota,
            rate: Rate::new(1_000, 9),
            ..plenty()
        };
        let eve = Quotas {
            journal: ByteRate::new(1_000, 9),
            ..plenty()
        };
        house.tenants.set_quotas(&accounts[1], bob).unwrap();
        house.tenants.set_quotas(&accounts[2], eve).unwrap();
        let budget = Budget {
            limit: BusyNanos::new(1 << 40),
            ..Budget::default()
        };
        let purse = Arc::new(Purse::new(AuditTag::default(), &budget));
        let drawn = purse.begin_draw(BusyNanos::new(1 << 30)).unwrap();
        purse.drawn(drawn);
        Self {
            house,
            accounts: accounts.into(),
            purse,
            permits: Vec::new(),
        }
    }

    fn requests(&self, items: &[Item]) -> Vec<Request<'_>> {
        let requests = (0_u64..).zip(items).map(|(number, item)| {
            let bytes = ByteCount::new;
            let cost = CostVector::one_slot(bytes(item.staging))
                .with_slots(item.slots.try_into().unwrap())
                .with_journal(bytes(item.journal));
            let account = &self.accounts[item.who];
            let request = Request::new(account, ComputationId::new(item.kind))
                .cost(cost)
                .class(item.class)
                .size(bytes(item.size))
                .audit(AuditTag {
                    organisation: 1,
                    engagement: number,
                });
            let request = match item.payer {
                0 => request.payer(Payer::Unknown),
                1 => request.payer(Payer::Purse(&self.purse)),
                _ => request,
            };
            let now = self.house.clock.monotonic();
            match item.apart {
                0 => request.lane(Lane::Reserved),
                1 => request.exclusion(ExclusionId::new(0).unwrap()),
                2 => request.deadline(now.after(Duration::from_nanos(40))),
                3 => request.deadline(now),
                _ => request,
            }
        });
        requests.collect()
    }

    /// Takes in what was handed on; says what it was.
    fn take_in(&mut self) -> Vec<String> {
        let events = take_all(&self.house.inbox).into_iter();
        let told = events.map(|event| match event {
            Event::Granted(id, permit) => {
                let told = format!("{id} granted: {}", facts(&permit));
                self.permits.push(permit);
                told
            }
            Event::Refused(id, refusal) => format!("{id} refused: {refusal:?}"),
        });
        told.collect()
    }

    /// All that can be seen from outside.
    fn seen(&self) -> String {
        let accounts: Vec<_> = self.accounts.iter().map(|one| one.snapshot()).collect();
        let out: Vec<_> = self.permits.iter().map(facts).collect();
        format!(
            "{:?}\n{accounts:?}\n{out:?}\n{:?}",
            self.house.bulkhead.snapshot(),
            self.purse.snapshot(),
        )
    }
}

proptest! {
    /// Whatever tells them apart, and whatever was learnt from those before them.
    #[test]
    fn batches_leave_what_the_same_requests_leave_one_by_one(
        slots in 4..80_u32,
        quota in 1..30_u64,
        published in prop_oneof![Just(None), (0..2_000_u64).prop_map(Some)],
        rounds in prop::collection::vec(
            (prop::collection::vec(item(), 1..16), prop::collection::vec(0..300_u64, 0..20), 0..4_000_000_u64),
            1..8,
        ),
    ) {
        let [mut alone, mut batch] = [(); 2].map(|()| Side::new(slots, quota, published));
        for (items, costs, pause) in rounds {
            let costs: Vec<_> = costs.into_iter().map(BusyNanos::new).collect();
            let (mut one, mut all) = (BTreeMap::new(), BTreeMap::new());
            let mut granted = Vec::new();
            for (place, request) in alone.requests(&items).iter().enumerate() {
                match alone.house.ask(u32::try_from(place).unwrap(), *request) {
                    Ok(Acquired::Granted(permit)) => granted.push(permit),
                    Ok(Acquired::Queued(ticket)) => drop(one.insert(place, Ok(ticket))),
                    Err(refusal) => drop(one.insert(place, Err(refusal))),
                }
            }
            alone.permits.append(&mut granted);
            let inbox = &batch.house.inbox;
            let grantee = |place: usize| filing(u32::try_from(place).unwrap(), inbox);
            let requests = batch.requests(&items);
            batch.house.bulkhead.acquire_batch(&requests, grantee, &mut granted, |place, other| {
                assert!(all.insert(place, other).is_none());
            });
            drop(requests);
            batch.permits.append(&mut granted);
            prop_assert_eq!(format!("{one:?}"), format!("{all:?}"));
            prop_assert_eq!(alone.seen(), batch.seen());
            for (permit, cost) in alone.permits.drain(..).zip(&costs) {
                permit.settle(*cost);
            }
            Permit::settle_batch(&mut batch.permits, &costs, |_, _| {});
            prop_assert_eq!(alone.take_in(), batch.take_in());
            prop_assert_eq!(alone.seen(), batch.seen());
            for side in [&alone, &batch] {
                side.house.clock.advance(Duration::from_nanos(pause));
            }
        }
        for mut side in [alone, batch] {
            while !side.permits.is_empty() {
                side.permits.clear();
                side.take_in();
            }
            side.house.assert_quiet();
        }
    }
}
