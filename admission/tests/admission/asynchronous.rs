//! Acquiring as a future, and the wakers of drains.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use orlop_admission::{Alarm, Bulkhead, BulkheadOptions, Queued, Refusal};
use orlop_saga::time::Monotonic;

use crate::support::{House, ManualClock, cost, filing, request, tenant};

#[derive(Default)]
struct Counting(AtomicU32);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_future_is_woken_once_and_gets_its_permit() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(Arc::clone(&counting));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(house.bulkhead.acquire_async(request(&ada)));
    assert!(future.as_mut().poll(&mut context).is_pending());
    assert!(future.as_mut().poll(&mut context).is_pending());
    drop(permit);
    assert_eq!(counting.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(Ok(permit)) = future.as_mut().poll(&mut context) else {
        panic!("not granted");
    };
    assert!(future.as_mut().poll(&mut context).is_pending());
    drop(permit);
    house.assert_quiet();
}

#[test]
fn dropping_a_future_that_waits_withdraws_its_request() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut future = pin!(house.bulkhead.acquire_async(request(&ada).cost(cost(1, 8))));
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert_eq!(house.bulkhead.snapshot().ordinary.queued, 1);
    }
    let lane = house.bulkhead.snapshot().ordinary;
    assert_eq!((lane.queued, lane.withdrawn, lane.staging.get()), (0, 1, 0));
    drop(permit);
    house.assert_quiet();
}

#[test]
fn dropping_a_future_that_was_granted_gives_the_permit_to_the_next() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut future = pin!(house.bulkhead.acquire_async(request(&ada)));
        assert!(future.as_mut().poll(&mut context).is_pending());
        house.queue(5, request(&ada));
        drop(permit);
    }
    assert_eq!(crate::support::granted(&house.inbox)[0].0, 5);
    house.assert_quiet();
}

#[test]
fn a_future_that_was_never_polled_asks_for_nothing() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    drop(house.bulkhead.acquire_async(request(&ada)));
    assert_eq!(house.bulkhead.snapshot().ordinary.granted, 0);
}

#[test]
fn a_future_is_told_why_it_was_refused_while_it_waited() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let _permit = house.take(request(&ada));
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(house.bulkhead.acquire_async(request(&ada)));
    assert!(future.as_mut().poll(&mut context).is_pending());
    assert_eq!(house.tenants.cancel_queued(&ada), Ok(1));
    let Poll::Ready(Err(refusal)) = future.as_mut().poll(&mut context) else {
        panic!("not refused");
    };
    assert_eq!(refusal, Refusal::Cancelled);
}

#[test]
fn drains_are_woken_by_the_last_permit_and_by_resuming_and_by_nothing_else() {
    let house = House::new(2);
    let ada = tenant(&house.tenants, "ada");
    let (first, second) = (house.take(request(&ada)), house.take(request(&ada)));
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(Arc::clone(&counting));
    let mut context = Context::from_waker(&waker);
    let mut drain = pin!(house.bulkhead.drain(Queued::Serve));
    assert!(drain.as_mut().poll(&mut context).is_pending());
    {
        let mut dropped = pin!(house.bulkhead.drain(Queued::Serve));
        assert!(dropped.as_mut().poll(&mut context).is_pending());
    }
    drop(first);
    assert_eq!(counting.0.load(Ordering::SeqCst), 0);
    drop(second);
    assert_eq!(counting.0.load(Ordering::SeqCst), 1);
    assert_eq!(drain.as_mut().poll(&mut context), Poll::Ready(Ok(())));
}

struct Earliest(std::sync::Mutex<Vec<Monotonic>>);

impl Alarm for Earliest {
    fn earlier(&self, next: Monotonic) {
        self.0.lock().unwrap().push(next);
    }
}

#[test]
fn the_alarm_hears_of_every_earlier_expiry_and_of_no_later_one() {
    let house = House::new(1);
    let alarm = Arc::new(Earliest(std::sync::Mutex::default()));
    let as_alarm: Arc<dyn Alarm> = Arc::clone(&alarm) as _;
    let options = BulkheadOptions {
        in_flight_max: 1,
        ..BulkheadOptions::new("alarmed")
    };
    let clock = Arc::new(ManualClock::default());
    let bulkhead = Bulkhead::with_alarm(&options, clock, as_alarm).unwrap();
    let ada = tenant(&house.tenants, "ada");
    let at = Monotonic::new;
    let mut kept = Vec::new();
    for deadline in [90, 50, 70, 20] {
        let asked = request(&ada).deadline(at(deadline));
        kept.push(bulkhead.acquire(&asked, filing(0, &house.inbox)).unwrap());
    }
    // The first one was granted at once and has nothing to expire.
    assert_eq!(*alarm.0.lock().unwrap(), [at(50), at(20)]);
}
