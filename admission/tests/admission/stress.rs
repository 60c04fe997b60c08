//! Many threads at once: no permit is lost or made, whatever ends it.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use orlop_admission::{
    Acquired, BulkheadOptions, Grantee, Lane, Pace, Permit, QueueTicket, Queued, Refusal,
    TenantAccount,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;
use orlop_saga::time::Clock;

use crate::support::{House, cost, request, tenant};

const SLOTS: u32 = 3;
const THREADS: u64 = 4;
const STEPS: u64 = 4_000;

#[derive(Default)]
struct Shared {
    in_use: AtomicI64,
    parked: Mutex<Vec<Permit>>,
}

impl Shared {
    fn begin(&self, permit: &Permit) {
        if permit.lane() == Lane::Ordinary {
            let slots = i64::from(permit.cost().slots.get());
            let in_use = self.in_use.fetch_add(slots, Ordering::SeqCst) + slots;
            assert!(in_use <= i64::from(SLOTS), "{in_use} slots in use");
        }
    }

    fn end(&self, permit: Permit, settle: bool) {
        if permit.lane() == Lane::Ordinary {
            let slots = i64::from(permit.cost().slots.get());
            self.in_use.fetch_sub(slots, Ordering::SeqCst);
        }
        if settle {
            permit.settle(BusyNanos::new(1));
        }
    }
}

/// Counts what it is told, and does one of several things with its permit.
struct Told {
    shared: Arc<Shared>,
    times: AtomicU32,
    manner: u64,
}

impl Grantee for Told {
    fn granted(self: Arc<Self>, permit: Permit) {
        self.times.fetch_add(1, Ordering::SeqCst);
        match self.manner % 4 {
            0 => {
                self.shared.begin(&permit);
                self.shared.parked.lock().unwrap().push(permit);
            }
            1 => {
                self.shared.begin(&permit);
                self.shared.end(permit, true);
            }
            2 => drop(permit),
            // Unwinds through the callback with the permit in hand; no hook, no noise.
            _ => std::panic::resume_unwind(Box::new("a grantee that panics")),
        }
    }

    fn refused(self: Arc<Self>, _refusal: Refusal) {
        self.times.fetch_add(1, Ordering::SeqCst);
    }
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

struct Asked {
    told: Arc<Told>,
    ticket: QueueTicket,
    cancelled: bool,
}

fn one_thread(house: &House, shared: &Arc<Shared>, tenants: &[Arc<TenantAccount>], seed: u64) {
    let mut random = seed;
    let mut asked: Vec<Asked> = Vec::new();
    for _ in 0..STEPS {
        let draw = next(&mut random);
        let tenant = &tenants[usize::try_from(draw >> 8).unwrap() % tenants.len()];
        let class = Class::ALL[usize::try_from(draw >> 16).unwrap() % 3];
        let slots = u32::try_from((draw >> 20) % 2).unwrap() + 1;
        let mut wanted = request(tenant)
            .class(class)
            .cost(cost(slots, draw >> 24 & 63));
        if (draw >> 40).is_multiple_of(8) {
            wanted = wanted.lane(Lane::Reserved).cost(cost(1, 0));
        } else if (draw >> 44).is_multiple_of(4) {
            let now = house.clock.monotonic();
            wanted = wanted.deadline(now.after(Duration::from_nanos(draw >> 48 & 15)));
        }
        match draw % 16 {
            0..8 => {
                let told = Arc::new(Told {
                    shared: Arc::clone(shared),
                    times: AtomicU32::new(0),
                    manner: draw >> 50,
                });
                let grantee: Arc<dyn Grantee> = Arc::clone(&told) as _;
                match house.bulkhead.acquire(&wanted, grantee) {
                    Ok(Acquired::Granted(permit)) => {
                        shared.begin(&permit);
                        shared.parked.lock().unwrap().push(permit);
                    }
                    Ok(Acquired::Queued(ticket)) => asked.push(Asked {
                        told,
                        ticket,
                        cancelled: false,
                    }),
                    Err(_) => assert_eq!(told.times.load(Ordering::SeqCst), 0),
                }
            }
            8..12 => {
                let permit = shared.parked.lock().unwrap().pop();
                if let Some(permit) = permit {
                    shared.end(permit, draw >> 60 & 1 == 0);
                }
            }
            12 => {
                if let Some(one) = asked.last_mut() {
                    one.cancelled |= one.ticket.cancel();
                }
            }
            13 => {
                let mut context = Context::from_waker(Waker::noop());
                let mut future = pin!(house.bulkhead.acquire_async(wanted));
                let _ = future.as_mut().poll(&mut context);
            }
            14 => {
                house.clock.advance(Duration::from_nanos(1));
                house.bulkhead.expire(house.clock.monotonic());
            }
            _ => match draw >> 32 & 7 {
                0 => {
                    house.tenants.suspend(tenant).unwrap();
                    house.tenants.resume(tenant).unwrap();
                }
                1 => {
                    drop(house.bulkhead.drain(Queued::Refuse));
                    house.bulkhead.resume();
                }
                _ => drop(house.bulkhead.snapshot()),
            },
        }
    }
    // What was cancelled is told nothing, the rest is told once: at most now, at the end exactly.
    for one in &mut asked {
        one.cancelled |= one.ticket.cancel();
        if one.cancelled {
            assert_eq!(one.told.times.load(Ordering::SeqCst), 0);
        }
    }
    ASKED
        .lock()
        .unwrap()
        .extend(asked.into_iter().map(|one| (one.cancelled, one.told)));
}

static ASKED: Mutex<Vec<(bool, Arc<Told>)>> = Mutex::new(Vec::new());

#[test]
fn permits_are_conserved_across_drop_grant_cancel_timeout_drain_and_panic() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: SLOTS,
        in_flight_per_tenant_max: 2,
        queue_max: 64,
        queue_per_tenant_max: 32,
        queue_timeout: Some(Duration::from_nanos(40)),
        reserved_slots: 2,
        ..BulkheadOptions::new("stress")
    });
    let shared = Arc::new(Shared::default());
    let tenants: Vec<_> = ["a", "b", "c"]
        .map(|name| tenant(&house.tenants, name))
        .into();
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (house, shared, tenants) = (&house, &shared, &tenants);
            scope.spawn(move || {
                one_thread(
                    house,
                    shared,
                    tenants,
                    thread.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                );
            });
        }
    });
    loop {
        let permit = shared.parked.lock().unwrap().pop();
        let Some(permit) = permit else { break };
        shared.end(permit, true);
    }
    house.assert_quiet();
    assert_eq!(shared.in_use.load(Ordering::SeqCst), 0);
    let asked = std::mem::take(&mut *ASKED.lock().unwrap());
    assert!(asked.len() > 1_000, "only {} waited", asked.len());
    for (cancelled, told) in asked {
        let times = told.times.load(Ordering::SeqCst);
        assert_eq!(times, u32::from(!cancelled));
    }
    let lane = house.bulkhead.snapshot().ordinary;
    assert!(
        lane.withdrawn > 0 && lane.unsettled > 0 && lane.settled > 0,
        "{lane:?}"
    );
    assert!(
        lane.refused.expired > 0 && lane.refused.draining > 0,
        "{lane:?}"
    );
}

/// Whoever ends a tenant's life looks while an operator has something of it tried again.
#[test]
fn what_changes_from_held_to_moving_and_back_is_never_missed_by_whoever_looks() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let (held, moving) = (Some(Pace::Held), Some(Pace::Moving));
    ada.count_pace(None, held);
    std::thread::scope(|threads| {
        let turns = threads.spawn(|| {
            for _ in 0..5_000_000 {
                ada.count_pace(held, moving);
                ada.count_pace(moving, held);
            }
        });
        while !turns.is_finished() {
            let paces = ada.paces();
            assert_eq!(paces.moving + paces.held, 1, "{paces:?}");
        }
    });
    ada.count_pace(held, None);
}
