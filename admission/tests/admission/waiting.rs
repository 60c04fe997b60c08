//! The waiting room: what is refused for now waits in its order and is woken by what lifts it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop_admission::{
    Alarm, Bulkhead, BulkheadOptions, ComputationId, Grantee, Lane, Patient, Permit, Quotas, Rate,
    Refusal, Request, Scope, TenantAccount, WaitingRoom, WaitingTicket,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;
use orlop_saga::time::{Clock, Monotonic};
use proptest::prelude::*;

use crate::support::{Event, House, Inbox, granted, plenty, refused, request, take_all, tenant};

/// Remembers when it is to ring.
#[derive(Default)]
struct Note(AtomicU64);

impl Alarm for Note {
    fn earlier(&self, next: Monotonic) {
        self.0.store(next.get(), Ordering::SeqCst);
    }
}

/// Files what it is told under a number, and asks for one slot.
struct Waits {
    id: u32,
    inbox: Inbox,
    account: Arc<TenantAccount>,
    class: Class,
    lane: Lane,
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
        Request::new(&self.account, ComputationId::new(7))
            .class(self.class)
            .lane(self.lane)
            .untimed()
    }
}

struct Hall {
    house: House,
    room: WaitingRoom,
    note: Arc<Note>,
}

impl Hall {
    fn new(options: &BulkheadOptions, places_max: usize) -> Self {
        let house = House::with(options);
        let note = Arc::new(Note::default());
        let clock: Arc<dyn Clock> = Arc::clone(&house.clock) as _;
        let room = WaitingRoom::new(places_max, clock, Arc::clone(&note) as _);
        room.serve(&house.bulkhead);
        house.tenants.tell(&room);
        Self { house, room, note }
    }

    /// One slot, and one place in the queue.
    fn narrow() -> Self {
        Self::new(&narrow("narrow"), 64)
    }

    fn try_wait(
        &self,
        bulkhead: &Bulkhead,
        id: u32,
        account: &Arc<TenantAccount>,
        class: Class,
    ) -> Result<WaitingTicket, Refusal> {
        let waits = Waits {
            id,
            inbox: Arc::clone(&self.house.inbox),
            account: Arc::clone(account),
            class,
            lane: Lane::Ordinary,
        };
        self.room.wait(bulkhead, Arc::new(waits))
    }

    fn wait(&self, id: u32, account: &Arc<TenantAccount>) -> WaitingTicket {
        let class = Class::Standard;
        self.try_wait(&self.house.bulkhead, id, account, class)
            .unwrap()
    }

    fn granted(&self) -> Vec<(u32, Permit)> {
        granted(&self.house.inbox)
    }
}

fn narrow(name: &str) -> BulkheadOptions {
    BulkheadOptions {
        in_flight_max: 1,
        queue_max: 1,
        queue_per_tenant_max: 1,
        ..BulkheadOptions::new(name)
    }
}

fn ids(granted: &[(u32, Permit)]) -> Vec<u32> {
    granted.iter().map(|(id, _)| *id).collect()
}

#[test]
fn more_than_the_queue_holds_is_served_in_order_as_work_settles() {
    let hall = Hall::narrow();
    let ada = tenant(&hall.house.tenants, "ada");
    let _tickets: Vec<_> = (0..10).map(|id| hall.wait(id, &ada)).collect();
    assert_eq!(hall.room.len(), 8);
    let mut served = Vec::new();
    loop {
        let granted = hall.granted();
        if granted.is_empty() {
            break;
        }
        served.extend(ids(&granted));
    }
    assert_eq!(served, (0..10).collect::<Vec<_>>());
    assert!(hall.room.is_empty());
    hall.house.assert_quiet();
}

#[test]
fn who_waits_for_what_its_tenant_holds_is_woken_by_a_batch_that_gives_it_back() {
    let options = BulkheadOptions {
        in_flight_max: 8,
        ..BulkheadOptions::new("wide")
    };
    let hall = Hall::new(&options, 64);
    let quotas = Quotas {
        slots_max: 2,
        ..plenty()
    };
    let label = crate::support::label("ada");
    let ada = hall.house.tenants.register_next(label, quotas).unwrap();
    let mut permits = vec![
        hall.house.take(request(&ada)),
        hall.house.take(request(&ada)),
    ];
    let _tickets: Vec<_> = (0..3).map(|id| hall.wait(id, &ada)).collect();
    assert_eq!(ids(&hall.granted()), []);
    Permit::settle_batch(&mut permits, &[BusyNanos::new(1); 2], |_, _| {});
    let granted = hall.granted();
    assert_eq!(ids(&granted), [0, 1]);
    drop(granted);
    assert_eq!(ids(&hall.granted()), [2]);
    hall.house.assert_quiet();
}

#[test]
fn a_later_request_of_its_tenant_and_class_does_not_overtake_who_waits() {
    let hall = Hall::narrow();
    let (ada, bob) = (
        tenant(&hall.house.tenants, "ada"),
        tenant(&hall.house.tenants, "bob"),
    );
    let check = |account, class| {
        let request = request(account).class(class);
        hall.room.check(&hall.house.bulkhead, &request)
    };
    let _tickets: Vec<_> = (0..2).map(|id| hall.wait(id, &ada)).collect();
    assert_eq!(check(&ada, Class::Standard), None, "nobody is in the line");
    let _third = hall.wait(2, &ada);
    let refusal = check(&ada, Class::Standard);
    assert!(
        matches!(refusal, Some(Refusal::QueueFull { .. })),
        "{refusal:?}"
    );
    assert_eq!(check(&ada, Class::Batch), None);
    assert_eq!(check(&bob, Class::Standard), None);
}

#[test]
fn who_asks_too_often_is_asked_for_again_when_its_time_has_come_and_not_before() {
    let hall = Hall::new(&BulkheadOptions::new("fast"), 64);
    let quotas = Quotas {
        rate: Rate::new(100, 1),
        ..plenty()
    };
    let label = crate::support::label("ada");
    let ada = hall.house.tenants.register_next(label, quotas).unwrap();
    let _tickets: Vec<_> = (0..3).map(|id| hall.wait(id, &ada)).collect();
    assert_eq!(ids(&hall.granted()), [0]);
    for (at, id) in [(10_000_000, 1), (20_000_000, 2)] {
        assert_eq!(hall.note.0.load(Ordering::SeqCst), at);
        hall.house.clock.advance(Duration::from_nanos(9_999_999));
        hall.room.ring();
        assert_eq!(ids(&hall.granted()), [] as [u32; 0]);
        let told = hall.room.check(&hall.house.bulkhead, &request(&ada));
        let retry_after = Duration::from_nanos(1);
        assert_eq!(told, Some(Refusal::RateLimited { retry_after }));
        hall.house.clock.advance(Duration::from_nanos(1));
        hall.room.ring();
        assert_eq!(ids(&hall.granted()), [id]);
    }
    assert!(hall.room.is_empty());
}

#[test]
fn what_a_suspension_swept_out_of_the_queue_takes_its_old_place_again() {
    let options = BulkheadOptions {
        queue_max: 3,
        queue_per_tenant_max: 3,
        ..narrow("sweeps")
    };
    let hall = Hall::new(&options, 64);
    let ada = tenant(&hall.house.tenants, "ada");
    let tickets: Vec<_> = (0..6).map(|id| hall.wait(id, &ada)).collect();
    let first = hall.granted();
    hall.house.tenants.suspend(&ada).unwrap();
    assert_eq!(hall.room.len(), 5, "nothing is refused, all of it waits");
    drop(first);
    assert_eq!(ids(&hall.granted()), [] as [u32; 0]);
    assert!(tickets[2].cancel());
    hall.house.tenants.resume(&ada).unwrap();
    let mut served = Vec::new();
    for _ in 0..4 {
        served.extend(ids(&hall.granted()));
    }
    assert_eq!(served, [1, 3, 4, 5]);
    hall.house.assert_quiet();
}

#[test]
fn who_is_revoked_while_it_waits_is_told_at_once() {
    let hall = Hall::narrow();
    let ada = tenant(&hall.house.tenants, "ada");
    let _tickets: Vec<_> = (0..4).map(|id| hall.wait(id, &ada)).collect();
    let first = hall.granted();
    hall.house.tenants.revoke(&ada).unwrap();
    let mut told = refused(&hall.house.inbox);
    told.sort_by_key(|(id, _)| *id);
    let tenant = ada.id();
    let revoked = |id| (id, Refusal::Revoked { tenant });
    assert_eq!(told, [revoked(1), revoked(2), revoked(3)]);
    drop(first);
    assert!(hall.room.is_empty());
    hall.house.assert_quiet();
}

#[test]
fn a_quota_over_all_bulkheads_that_lifts_in_one_wakes_who_waits_in_another() {
    let hall = Hall::new(&BulkheadOptions::new("one"), 64);
    let clock: Arc<dyn Clock> = Arc::clone(&hall.house.clock) as _;
    let other = Bulkhead::new(&BulkheadOptions::new("other"), clock).unwrap();
    hall.room.serve(&other);
    let quotas = Quotas {
        slots_max: 1,
        ..plenty()
    };
    let label = crate::support::label("ada");
    let ada = hall.house.tenants.register_next(label, quotas).unwrap();
    let _first = hall.wait(0, &ada);
    let _second = hall.try_wait(&other, 1, &ada, Class::Standard).unwrap();
    let first = hall.granted();
    assert_eq!(ids(&first), [0]);
    drop(first);
    assert_eq!(ids(&hall.granted()), [1]);
    // Whoever raises the quota wakes as well.
    let _third = hall.wait(2, &ada);
    let third = hall.granted();
    let _fourth = hall.try_wait(&other, 3, &ada, Class::Standard).unwrap();
    let quotas = Quotas {
        slots_max: 2,
        ..quotas
    };
    hall.house.tenants.set_quotas(&ada, quotas).unwrap();
    assert_eq!(ids(&hall.granted()), [3]);
    drop(third);
}

#[test]
fn a_room_that_is_full_or_closed_takes_nobody() {
    let hall = Hall::new(&narrow("full"), 2);
    let ada = tenant(&hall.house.tenants, "ada");
    let _tickets: Vec<_> = (0..4).map(|id| hall.wait(id, &ada)).collect();
    let first = hall.granted();
    let class = Class::Standard;
    let refusal = hall
        .try_wait(&hall.house.bulkhead, 4, &ada, class)
        .unwrap_err();
    let full = Refusal::QueueFull {
        scope: Scope::Bulkhead,
        queued: 2,
        queued_max: 2,
    };
    assert_eq!(refusal, full);
    hall.room.close();
    let told: Vec<u32> = refused(&hall.house.inbox)
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(told, [2, 3]);
    let scope = Scope::Bulkhead;
    let closed = hall.try_wait(&hall.house.bulkhead, 5, &ada, class);
    assert_eq!(closed.unwrap_err(), Refusal::Draining { scope });
    drop(first);
    assert_eq!(ids(&hall.granted()), [1]);
    hall.house.assert_quiet();
}

#[test]
fn a_tenant_that_fills_the_queue_again_and_again_does_not_keep_another_ones_line_waiting() {
    let hall = Hall::narrow();
    let (ada, bob) = (
        tenant(&hall.house.tenants, "ada"),
        tenant(&hall.house.tenants, "bob"),
    );
    let _ada: Vec<_> = (0..40).map(|id| hall.wait(id, &ada)).collect();
    let _bob: Vec<_> = (100..110).map(|id| hall.wait(id, &bob)).collect();
    let mut served = Vec::new();
    for _ in 0..24 {
        served.extend(ids(&hall.granted()));
    }
    let bobs = served.iter().filter(|id| **id >= 100).count();
    assert!(bobs >= 9, "{served:?}");
}

/// One thing that happens in a hall.
#[derive(Clone, Debug)]
enum Step {
    Wait { tenant: usize, class: Class },
    Cancel(usize),
    Settle(usize),
    Suspend(usize),
    Resume(usize),
    Quota { tenant: usize, slots: u64 },
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![
        Just(Class::Interactive),
        Just(Class::Standard),
        Just(Class::Batch)
    ];
    prop_oneof![
        6 => (0..3_usize, class).prop_map(|(tenant, class)| Step::Wait { tenant, class }),
        2 => any::<usize>().prop_map(Step::Cancel),
        6 => any::<usize>().prop_map(Step::Settle),
        1 => (0..3_usize).prop_map(Step::Suspend),
        2 => (0..3_usize).prop_map(Step::Resume),
        1 => (0..3_usize, 1..6_u64).prop_map(|(tenant, slots)| Step::Quota { tenant, slots }),
        2 => (0..8_000_000_u64).prop_map(Step::Pass),
    ]
}

/// What a sequential observer knows: who waits in each line, in order, and who was cancelled.
#[derive(Default)]
struct Oracle {
    lines: BTreeMap<(usize, Class), Vec<u32>>,
}

impl Oracle {
    /// Whoever is granted is first in its line.
    fn grant(&mut self, id: u32) -> Result<(), TestCaseError> {
        for line in self.lines.values_mut() {
            if line.contains(&id) {
                prop_assert_eq!(line[0], id, "overtaken: {:?}", line);
                line.remove(0);
                return Ok(());
            }
        }
        prop_assert!(false, "{id} does not wait");
        Ok(())
    }

    fn cancel(&mut self, id: u32) {
        for line in self.lines.values_mut() {
            line.retain(|other| *other != id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// At every step: order is kept, and asking once more for everybody wakes nobody who was not
    /// awake. In the end everybody who was not cancelled has been served.
    #[test]
    fn nobody_is_forgotten_overtaken_or_told_twice(steps in prop::collection::vec(step(), 1..120)) {
        let options = BulkheadOptions {
            in_flight_max: 2,
            queue_max: 4,
            queue_per_tenant_max: 2,
            ..BulkheadOptions::new("drawn")
        };
        let hall = Hall::new(&options, 1 << 10);
        let tenants: Vec<_> = ["ada", "bob", "cyd"]
            .into_iter()
            .map(|name| tenant(&hall.house.tenants, name))
            .collect();
        let limited = Quotas { rate: Rate::new(500, 2), ..plenty() };
        hall.house.tenants.set_quotas(&tenants[2], limited).unwrap();
        let (mut oracle, mut tickets) = (Oracle::default(), Vec::new());
        let permits = Mutex::new(Vec::new());
        let hear = |oracle: &mut Oracle| -> Result<usize, TestCaseError> {
            let events = take_all(&hall.house.inbox);
            let count = events.len();
            for event in events {
                match event {
                    Event::Granted(id, permit) => {
                        oracle.grant(id)?;
                        permits.lock().unwrap().push(permit);
                    }
                    Event::Refused(id, refusal) => prop_assert!(false, "{id}: {refusal}"),
                }
            }
            Ok(count)
        };
        for step in steps {
            match step {
                Step::Wait { tenant, class } => {
                    let id = u32::try_from(tickets.len()).unwrap();
                    // In its line before it can be granted.
                    oracle.lines.entry((tenant, class)).or_default().push(id);
                    let bulkhead = &hall.house.bulkhead;
                    tickets.push(hall.try_wait(bulkhead, id, &tenants[tenant], class).unwrap());
                }
                Step::Cancel(at) if !tickets.is_empty() => {
                    let at = at % tickets.len();
                    if tickets[at].cancel() {
                        oracle.cancel(u32::try_from(at).unwrap());
                    }
                }
                Step::Cancel(_) => {}
                Step::Settle(at) => {
                    let permit = {
                        let mut permits = permits.lock().unwrap();
                        let at = at % permits.len().max(1);
                        (!permits.is_empty()).then(|| permits.remove(at))
                    };
                    drop(permit);
                }
                Step::Suspend(tenant) => hall.house.tenants.suspend(&tenants[tenant]).unwrap(),
                Step::Resume(tenant) => hall.house.tenants.resume(&tenants[tenant]).unwrap(),
                Step::Quota { tenant: 2, .. } => {}
                Step::Quota { tenant, slots } => {
                    let quotas = Quotas { slots_max: slots, ..plenty() };
                    hall.house.tenants.set_quotas(&tenants[tenant], quotas).unwrap();
                }
                Step::Pass(nanos) => {
                    hall.house.clock.advance(Duration::from_nanos(nanos));
                    let at = hall.note.0.load(Ordering::SeqCst);
                    if at <= hall.house.clock.monotonic().get() {
                        hall.room.ring();
                    }
                }
            }
            hear(&mut oracle)?;
            hall.room.all_changed();
            prop_assert_eq!(hear(&mut oracle)?, 0, "a wake-up was lost");
        }
        for tenant in &tenants {
            hall.house.tenants.set_quotas(tenant, plenty()).unwrap();
            hall.house.tenants.resume(tenant).unwrap();
        }
        loop {
            hear(&mut oracle)?;
            let running = std::mem::take(&mut *permits.lock().unwrap());
            if running.is_empty() {
                break;
            }
        }
        prop_assert!(oracle.lines.values().all(Vec::is_empty), "{:?}", oracle.lines);
        prop_assert!(hall.room.is_empty());
        hall.house.assert_quiet();
    }
}
