//! An engine whose time passes when it is told to.

use std::sync::Arc;
use std::time::Duration;

use orlop::testkit::{Outside, SimClock};
use orlop::{
    Attempt, Clock, Computation, Engine, Failure, HostFunction, Key, Origin, Pure, Saga,
    SagaContext, SagaError, SignalId, SubmitError, Tenant, WallMillis,
};

use crate::pair::{Pair, bind, code};

/// Waits for ten minutes.
#[derive(Clone, Copy, Debug)]
struct Wait;

impl Computation for Wait {
    const NAME: &'static str = "wait";
    const RETENTION: Duration = Duration::from_hours(1);
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

#[derive(Clone, Debug)]
struct Waits(SimClock);

impl HostFunction<Wait> for Waits {
    async fn run(&self, _attempt: Attempt, input: u64) -> Result<u64, Failure> {
        self.0.sleep(Duration::from_mins(10)).await;
        Ok(input)
    }
}

/// An engine by a simulated clock: nobody waits for what real time brings.
fn by_the_clock(test: impl FnOnce(&SimClock, &Outside, &Tenant)) {
    let clock = SimClock::new(1);
    let outside = Outside::new(&clock);
    let folder = tempfile::tempdir().unwrap();
    let builder = Engine::builder(folder.path().join("store"))
        .clock(Arc::new(clock.clone()))
        .pure(Wait, Waits(clock.clone()));
    let engine = bind(&code(&outside), builder).open_blocking().unwrap();
    let tenant = clock.run(engine.tenant("a")).unwrap().unwrap();
    test(&clock, &outside, &tenant);
    engine.blocking().close().unwrap();
}

#[test]
fn a_saga_that_sleeps_for_a_day_ends_when_the_clock_says_so() {
    by_the_clock(|clock, outside, tenant| {
        let began = clock.wall();
        let ticket = clock.run(
            tenant
                .start::<Pair>(Key::named("p"), "p".to_owned())
                .into_future(),
        );
        let ticket = ticket.unwrap().unwrap();
        clock.run(ticket.into_future()).unwrap().unwrap();
        assert!(clock.wall().since(began) >= Duration::from_hours(24));
        assert_eq!(outside.standing().len(), 3);
    });
}

/// Waits for a word, and for no longer than a month.
struct Patient;

impl Saga for Patient {
    const NAME: &'static str = "patient";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        let month = saga.sleep("month", Duration::from_hours(30 * 24));
        saga.select((saga.signal::<()>("go"), month)).await;
        Ok(())
    }
}

#[test]
fn a_saga_that_has_ended_leaves_no_timers_of_what_it_waited_for() {
    let clock = SimClock::new(1);
    let folder = tempfile::tempdir().unwrap();
    let builder = Engine::builder(folder.path().join("store"));
    let builder = builder.clock(Arc::new(clock.clone())).saga(Patient);
    let engine = builder.open_blocking().unwrap();
    let tenant = clock.run(engine.tenant("a")).unwrap().unwrap();
    let key = Key::named("p");
    let start = tenant.start::<Patient>(key, ());
    let start = start.finish_within(Duration::from_hours(60 * 24));
    let ticket = clock.run(start.into_future()).unwrap().unwrap();
    while clock.next_timer().is_none() {
        std::thread::yield_now();
    }
    clock
        .run(tenant.signal(key, "go", SignalId::fresh(), &()))
        .unwrap()
        .unwrap();
    clock.run(ticket.into_future()).unwrap().unwrap();
    assert_eq!(clock.next_timer(), None);
    engine.blocking().close().unwrap();
}

#[test]
fn a_clock_that_is_set_back_and_right_again_does_not_keep_a_sleeper() {
    by_the_clock(|clock, _, tenant| {
        let start = tenant.start::<Pair>(Key::named("p"), "p".to_owned());
        let ticket = clock.run(start.into_future()).unwrap().unwrap();
        let sleeps = |left| left > Duration::from_hours(12);
        while !clock.next_timer().is_some_and(sleeps) {
            std::thread::yield_now();
        }
        let right = clock.wall();
        clock.set_wall(WallMillis::new(right.get() - 30 * 24 * 3_600_000));
        clock.advance(Duration::from_hours(24));
        let woken = clock.monotonic();
        clock.set_wall(right.after(Duration::from_hours(24)));
        clock.run(ticket.into_future()).unwrap().unwrap();
        assert!(clock.monotonic().since(woken) < Duration::from_mins(2));
    });
}

#[test]
fn a_callers_deadline_passes_by_the_clock() {
    by_the_clock(|clock, _, tenant| {
        let submit = |minutes| {
            let wait = Duration::from_mins(minutes);
            let submission = tenant.submit(Wait, minutes).deadline(wait);
            clock.run(submission.into_future()).unwrap()
        };
        assert_eq!(submit(9).unwrap_err(), SubmitError::Expired);
        assert_eq!(submit(11).unwrap().output, 11);
    });
}

#[test]
fn an_outcome_is_kept_for_as_long_as_the_clock_says() {
    by_the_clock(|clock, _, tenant| {
        let submit = || {
            clock
                .run(tenant.submit(Wait, 1_u64).into_future())
                .unwrap()
                .unwrap()
        };
        assert_eq!(submit().origin, Origin::Ran);
        clock.advance(Duration::from_mins(59));
        assert_eq!(submit().origin, Origin::Replayed);
        clock.advance(Duration::from_mins(2));
        assert_eq!(submit().origin, Origin::Ran);
    });
}
