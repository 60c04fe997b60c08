//! What is too late for its saga, or its batch, is refused early and dropped late; and an engine
//! closes whatever waits in it.

use std::future::IntoFuture;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use orlop::testkit::SimClock;
use orlop::{
    BulkheadOptions, Clock, Engine, Key, Monotonic, Options, Quotas, Rate, Refusal, SubmitError,
    Tenant, WallMillis, wait,
};

use crate::hall::{Hall, NARROW, Series, Turn, Turns, until};

fn one_slot() -> BulkheadOptions {
    BulkheadOptions {
        in_flight_max: 1,
        ..BulkheadOptions::new(NARROW)
    }
}

fn turn(who: &str, number: u64) -> (String, u64) {
    (who.to_owned(), number)
}

/// Turns take 100 ms, which is known after a few.
fn measured() -> Hall {
    let clock = SimClock::new(1);
    let turns = Turns::lasting(&clock, |_| 100);
    let hall = Hall::with(clock, turns, one_slot());
    let bob = hall.tenant("bob");
    for number in 0..8 {
        let submission = bob.submit(Turn, turn("bob", number)).ephemeral();
        hall.clock.run(submission.into_future()).unwrap().unwrap();
    }
    hall
}

fn series(hall: &Hall, tenant: &Tenant, turns: u64, within: Duration) -> Result<(), SubmitError> {
    let starting = tenant.start::<Series>(Key::named("s"), turn("ada", turns));
    let starting = starting.finish_within(within).into_future();
    let ticket = hall.clock.run(starting).unwrap().unwrap();
    hall.clock.run(ticket.into_future()).unwrap().map(drop)
}

fn of_ada(hall: &Hall) -> usize {
    let began = hall.turns.began();
    began.iter().filter(|turn| turn.who == "ada").count()
}

#[test]
fn a_step_that_would_end_after_its_sagas_deadline_is_not_begun() {
    let hall = measured();
    let ada = hall.tenant("ada");
    let before = hall.millis();
    let late = series(&hall, &ada, 3, Duration::from_millis(150)).unwrap_err();
    assert!(late.to_string().contains("not admitted"), "{late}");
    assert_eq!(of_ada(&hall), 1, "the second cannot be done in time");
    assert_eq!(
        hall.millis() - before,
        100,
        "it was told later than it was known"
    );
    hall.engine.blocking().close().unwrap();
}

#[test]
fn a_saga_with_time_enough_gets_all_its_steps() {
    let hall = measured();
    let ada = hall.tenant("ada");
    series(&hall, &ada, 3, Duration::from_millis(400)).unwrap();
    assert_eq!(of_ada(&hall), 3);
    hall.engine.blocking().close().unwrap();
}

#[test]
fn items_of_a_batch_are_refused_early_and_expire_alone() {
    let hall = measured();
    let ada = hall.tenant("ada");
    let before = hall.millis();
    let inputs = (0..4).map(|number| turn("ada", number));
    let batch = ada.submit_batch(Turn, inputs);
    let batch = batch.deadline(Duration::from_millis(250)).into_future();
    let items = hall.clock.run(batch).unwrap().unwrap();
    let done = items.iter().filter(|item| item.is_ok()).count();
    assert_eq!(done, 2, "{items:?}");
    for item in items.into_iter().filter_map(Result::err) {
        let late = matches!(
            item,
            SubmitError::Expired | SubmitError::Refused(Refusal::PredictedLate { .. })
        );
        assert!(late, "{item:?}");
    }
    assert!(hall.millis() - before <= 250, "one item waited for another");
    assert_eq!(of_ada(&hall), 2);
    hall.engine.blocking().close().unwrap();
}

/// Closes on a thread of its own: one that never ends fails the test.
fn close(engine: Engine) {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(engine.blocking().close());
    });
    let closed = told.recv_timeout(Duration::from_mins(2));
    closed.expect("the close never ended").unwrap();
}

#[test]
fn an_engine_closes_while_steps_and_accepted_effects_wait_in_front_of_their_bulkhead() {
    for suspended in [true, false] {
        let hall = Hall::new(one_slot());
        let ada = hall.manager("ada");
        let starting = ada
            .tenant()
            .start::<Series>(Key::named("s"), turn("ada", 3));
        let _saga = hall.clock.run(starting.into_future()).unwrap().unwrap();
        hall.until_began(1);
        let accepted = ada.tenant().enqueue(Turn, turn("ada", 7));
        let accepted = hall.clock.run(accepted.into_future()).unwrap().unwrap();
        if suspended {
            wait(ada.suspend()).unwrap();
        } else {
            // One more at once, and the next one in an hour.
            let quotas = Quotas {
                slots_max: 1,
                rate: Rate::every(3_600_000_000_000, 1),
                ..Quotas::UNLIMITED
            };
            wait(ada.set_quotas(quotas)).unwrap();
        }
        // Enough for what runs or gets a slot.
        hall.turns.let_go(3);
        until(|| hall.engine.snapshot().waiting >= 1);
        let ended = wait(async {
            close(hall.engine.clone());
            accepted.await
        });
        let key_is_kept = matches!(ended, Err(SubmitError::Interrupted { .. }));
        assert!(key_is_kept || ended.is_ok(), "{ended:?}");
    }
}

/// A clock that is four times slower than the timers of the machine.
#[derive(Debug)]
struct Slow(Instant);

impl Clock for Slow {
    fn wall(&self) -> WallMillis {
        WallMillis::new(1_800_000_000_000 + self.monotonic().get() / 1_000_000)
    }

    fn monotonic(&self) -> Monotonic {
        let nanos = self.0.elapsed().as_nanos() / 4;
        Monotonic::new(u64::try_from(nanos).unwrap())
    }
}

/// Each timer rings when a quarter of the time has passed.
#[test]
fn steps_that_wait_for_their_rate_go_on_also_where_timers_are_ahead_of_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let turns = Turns::lasting(&SimClock::new(1), |_| 0);
    let options = Options {
        bulkheads: vec![one_slot()],
        ..Options::default()
    };
    let engine = Engine::builder(folder.path().join("store"))
        .options(options)
        .clock(Arc::new(Slow(Instant::now())))
        .pure(Turn, turns.clone())
        .saga(Series)
        .open_blocking()
        .unwrap();
    let ada = wait(engine.manage("ada")).unwrap();
    let quotas = Quotas {
        rate: Rate::new(50, 1),
        ..Quotas::UNLIMITED
    };
    wait(ada.set_quotas(quotas)).unwrap();
    let starting = ada
        .tenant()
        .start::<Series>(Key::named("s"), turn("ada", 4));
    let mut ticket = wait(starting).unwrap();
    wait(ticket.wait_for(Duration::from_mins(1))).unwrap();
    assert_eq!(turns.numbers(), [0, 1, 2, 3]);
    close(engine);
}
