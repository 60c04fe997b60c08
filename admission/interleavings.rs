//! Races, explored: two or three threads, switched at every lock and before every callback.
//!
//! Each test names what must hold in every schedule. Schedules are drawn at random; a failing one
//! is printed and can be replayed.

mod credits;
mod turns;
mod waiting;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Waker};

use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::{Clock, Monotonic, WallMillis};
use shuttle::thread;

use crate::sync::explored::explore;
use crate::{
    Acquired, Bulkhead, BulkheadOptions, ComputationId, Grantee, Holding, Permit, QueueTicket,
    Queued, Quotas, Refusal, Request, Scope, TenantAccount, Tenants,
};

const SCHEDULES: usize = 2_000;

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn wall(&self) -> WallMillis {
        WallMillis::new(0)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::new(0)
    }
}

/// Counts what it is told and gives permits back at once.
#[derive(Default)]
struct Counts {
    granted: AtomicU32,
    refused: AtomicU32,
}

impl Counts {
    fn told(&self) -> (u32, u32) {
        let (granted, refused) = (&self.granted, &self.refused);
        (
            granted.load(Ordering::SeqCst),
            refused.load(Ordering::SeqCst),
        )
    }
}

impl Grantee for Counts {
    fn granted(self: Arc<Self>, permit: Permit) {
        self.granted.fetch_add(1, Ordering::SeqCst);
        drop(permit);
    }

    fn refused(self: Arc<Self>, _refusal: Refusal) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct House {
    tenants: Arc<Tenants>,
    ada: Arc<TenantAccount>,
    bulkhead: Bulkhead,
}

impl House {
    fn new() -> Self {
        Self::with_slots(1)
    }

    fn with_slots(slots: u32) -> Self {
        let options = BulkheadOptions {
            in_flight_max: slots,
            ..BulkheadOptions::new("explored")
        };
        let tenants = Arc::new(Tenants::new(4).unwrap());
        let quotas = Quotas {
            slots_max: 8,
            staging_bytes_max: orlop_saga::amount::ByteCount::new(0),
            ..Quotas::UNLIMITED
        };
        let label = TenantLabel::new("ada").unwrap();
        Self {
            ada: tenants.register_next(label, quotas).unwrap(),
            tenants,
            bulkhead: Bulkhead::new(&options, Arc::new(Stopped)).unwrap(),
        }
    }

    fn request(&self) -> Request<'_> {
        Request::new(&self.ada, ComputationId::new(0))
    }

    fn take(&self) -> Permit {
        match self
            .bulkhead
            .acquire(&self.request(), Arc::new(Counts::default()))
        {
            Ok(Acquired::Granted(permit)) => permit,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn queue(&self, counts: &Arc<Counts>, request: &Request<'_>) -> QueueTicket {
        let grantee: Arc<dyn Grantee> = Arc::clone(counts) as _;
        match self.bulkhead.acquire(request, grantee) {
            Ok(Acquired::Queued(ticket)) => ticket,
            other => panic!("not queued: {other:?}"),
        }
    }

    fn assert_quiet(&self) {
        let lane = self.bulkhead.snapshot().ordinary;
        assert_eq!((lane.slots, lane.in_flight, lane.queued), (0, 0, 0));
        assert_eq!(lane.granted, lane.settled + lane.unsettled);
        assert_eq!(self.ada.snapshot().ordinary, Holding::default());
    }
}

#[test]
fn a_hand_off_and_a_cancellation_agree_on_who_was_first() {
    explore(
        || {
            let house = House::new();
            let permit = house.take();
            let counts = Arc::new(Counts::default());
            let ticket = house.queue(&counts, &house.request());
            let releasing = thread::spawn(move || drop(permit));
            let cancelled = ticket.cancel();
            releasing.join().unwrap();
            assert_eq!(counts.told(), (u32::from(!cancelled), 0));
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn a_hand_off_an_expiry_and_a_suspension_tell_a_waiter_once() {
    explore(
        || {
            let house = House::new();
            let permit = house.take();
            let counts = Arc::new(Counts::default());
            let ticket = house.queue(&counts, &house.request().deadline(Monotonic::new(5)));
            let releasing = thread::spawn(move || drop(permit));
            let expiring = {
                let bulkhead = house.bulkhead.clone();
                thread::spawn(move || bulkhead.expire(Monotonic::new(5)))
            };
            house.tenants.suspend(&house.ada).unwrap();
            assert!(!ticket.cancel(), "nothing waits after a suspension");
            releasing.join().unwrap();
            let expired = u32::try_from(expiring.join().unwrap()).unwrap();
            let (granted, refused) = counts.told();
            assert_eq!(granted + refused, 1);
            assert!(refused >= expired);
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

/// Keeps its permit until it is dropped itself.
#[derive(Default)]
struct Keeps(std::sync::Mutex<Option<Permit>>);

impl Grantee for Keeps {
    fn granted(self: Arc<Self>, permit: Permit) {
        *self.0.lock().unwrap() = Some(permit);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        panic!("refused: {refusal}");
    }
}

#[test]
fn a_newcomer_never_gets_the_slot_that_a_waiter_is_due() {
    explore(
        || {
            let house = House::new();
            let permit = house.take();
            let due = Arc::new(Keeps::default());
            let grantee: Arc<dyn Grantee> = Arc::clone(&due) as _;
            house.bulkhead.acquire(&house.request(), grantee).unwrap();
            let releasing = thread::spawn(move || drop(permit));
            let ticket = house.queue(&Arc::new(Counts::default()), &house.request());
            assert!(ticket.cancel());
            releasing.join().unwrap();
            let kept = due.0.lock().unwrap().take();
            assert!(kept.is_some());
            drop(kept);
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn nobody_ever_sees_a_free_slot_beside_one_who_waits_for_it() {
    explore(
        || {
            let house = House::new();
            let permit = house.take();
            let kept = Arc::new(Keeps::default());
            let grantee: Arc<dyn Grantee> = Arc::clone(&kept) as _;
            house.bulkhead.acquire(&house.request(), grantee).unwrap();
            let releasing = thread::spawn(move || drop(permit));
            let lane = house.bulkhead.snapshot().ordinary;
            assert_eq!((lane.slots, lane.granted + lane.queued), (1, 2));
            releasing.join().unwrap();
            let kept = kept.0.lock().unwrap().take();
            drop(kept);
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn nothing_runs_once_a_drain_has_ended() {
    explore(
        || {
            let house = House::new();
            let ended = Arc::new(AtomicBool::new(false));
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (house, ended) = (house.clone(), Arc::clone(&ended));
                    thread::spawn(move || {
                        let counts = Arc::new(Counts::default());
                        let grantee: Arc<dyn Grantee> = Arc::clone(&counts) as _;
                        match house.bulkhead.acquire(&house.request(), grantee) {
                            Ok(Acquired::Granted(permit)) => {
                                assert!(!ended.load(Ordering::SeqCst), "published after the end");
                                crate::sync::switch_point();
                                assert!(!ended.load(Ordering::SeqCst), "ended too early");
                                drop(permit);
                            }
                            Ok(Acquired::Queued(_)) => {}
                            Err(refusal) => {
                                let scope = Scope::Bulkhead;
                                assert_eq!(refusal, Refusal::Draining { scope });
                            }
                        }
                    })
                })
                .collect();
            let drain = house.bulkhead.drain(Queued::Serve);
            assert_eq!(shuttle::future::block_on(drain), Ok(()));
            ended.store(true, Ordering::SeqCst);
            for worker in workers {
                worker.join().unwrap();
            }
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn a_future_dropped_while_its_grant_is_under_way_gives_the_permit_back() {
    explore(
        || {
            let house = House::new();
            let permit = house.take();
            let waiting = {
                let house = house.clone();
                thread::spawn(move || {
                    let mut context = Context::from_waker(Waker::noop());
                    let mut future = pin!(house.bulkhead.acquire_async(house.request()));
                    let _ = future.as_mut().poll(&mut context);
                })
            };
            drop(permit);
            waiting.join().unwrap();
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn a_future_that_waits_is_woken_for_its_permit_in_every_schedule() {
    explore(
        || {
            let house = House::new();
            let permit = house.take();
            let waiting = {
                let house = house.clone();
                thread::spawn(move || {
                    let future = house.bulkhead.acquire_async(house.request());
                    drop(shuttle::future::block_on(future).unwrap());
                })
            };
            drop(permit);
            waiting.join().unwrap();
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn what_is_admitted_while_a_tenant_is_unregistered_is_counted_until_it_ends() {
    explore(
        || {
            let house = House::new();
            let ending = {
                let house = house.clone();
                thread::spawn(move || house.tenants.unregister(&house.ada).unwrap())
            };
            let asked = house
                .bulkhead
                .acquire(&house.request(), Arc::new(Counts::default()));
            ending.join().unwrap();
            let slot_is_free = house.tenants.next_id().unwrap().slot() == house.ada.id().slot();
            match asked {
                Ok(Acquired::Granted(permit)) => {
                    assert!(!slot_is_free);
                    drop(permit);
                }
                Ok(Acquired::Queued(_)) => panic!("queued before a free slot"),
                Err(refusal) => {
                    let tenant = house.ada.id();
                    assert_eq!(refusal, Refusal::StaleTenant { tenant });
                    assert!(slot_is_free);
                }
            }
            assert_eq!(
                house.tenants.next_id().unwrap().slot(),
                house.ada.id().slot()
            );
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn credits_given_back_while_contention_begins_reach_whoever_waits_for_them() {
    explore(
        || {
            let house = House::with_slots(2);
            let bob = house
                .tenants
                .register_next(TenantLabel::new("bob").unwrap(), Quotas::UNLIMITED);
            let bob = bob.unwrap();
            let permit = house.take();
            let asked = house.bulkhead.acquire(
                &Request::new(&bob, ComputationId::new(0)),
                Arc::new(Counts::default()),
            );
            let Ok(Acquired::Granted(other)) = asked else {
                panic!("not granted: {asked:?}");
            };
            let first = thread::spawn(move || drop(permit));
            let second = thread::spawn(move || drop(other));
            let both = {
                let house = house.clone();
                thread::spawn(move || {
                    let two = std::num::NonZeroU32::new(2).unwrap();
                    let cost = crate::CostVector::default().with_slots(two);
                    let future = house.bulkhead.acquire_async(house.request().cost(cost));
                    drop(shuttle::future::block_on(future).unwrap());
                })
            };
            for thread in [first, second, both] {
                thread.join().unwrap();
            }
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn who_takes_credits_while_contention_begins_puts_them_back_and_nobody_is_forgotten() {
    explore(
        || {
            // One slot is free, for which some come while one asks for both.
            let house = House::with_slots(2);
            let permit = house.take();
            let both = Arc::new(Counts::default());
            let waiting = {
                let (house, both) = (house.clone(), Arc::clone(&both));
                thread::spawn(move || {
                    let two = std::num::NonZeroU32::new(2).unwrap();
                    let cost = crate::CostVector::default().with_slots(two);
                    match house.bulkhead.acquire(&house.request().cost(cost), both) {
                        Ok(Acquired::Granted(permit)) => panic!("beside {permit:?}"),
                        Ok(Acquired::Queued(_)) => {}
                        Err(refusal) => panic!("refused: {refusal}"),
                    }
                })
            };
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let house = house.clone();
                    thread::spawn(move || {
                        let future = house.bulkhead.acquire_async(house.request());
                        drop(shuttle::future::block_on(future).unwrap());
                    })
                })
                .collect();
            waiting.join().unwrap();
            drop(permit);
            for other in others {
                other.join().unwrap();
            }
            assert_eq!(both.told(), (1, 0));
            house.assert_quiet();
        },
        SCHEDULES,
    );
}

#[test]
fn a_drain_that_begins_beside_work_on_the_fast_path_ends_at_zero_and_not_before() {
    explore(
        || {
            let house = House::with_slots(2);
            let running = Arc::new(AtomicU32::new(0));
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (house, running) = (house.clone(), Arc::clone(&running));
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let counts = Arc::new(Counts::default());
                            let asked = house.bulkhead.acquire(&house.request(), counts);
                            if let Ok(Acquired::Granted(permit)) = asked {
                                running.fetch_add(1, Ordering::SeqCst);
                                crate::sync::switch_point();
                                running.fetch_sub(1, Ordering::SeqCst);
                                drop(permit);
                            }
                        }
                    })
                })
                .collect();
            let drain = house.bulkhead.drain(Queued::Serve);
            assert_eq!(shuttle::future::block_on(drain), Ok(()));
            assert_eq!(running.load(Ordering::SeqCst), 0);
            for worker in workers {
                worker.join().unwrap();
            }
            house.assert_quiet();
        },
        SCHEDULES,
    );
}
