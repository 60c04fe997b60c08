//! The watchdog: attempts that give no sign of life are given up, and their late ends are refused.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select;
use orlop::testkit::SimClock;
use orlop::{
    Attempt, BlockingFunction, BulkheadOptions, Clock, Computation, Engine, EngineBuilder,
    Escalation, External, Failure, HostFunction, Key, Late, Lease, Monotonic, Options, Pure,
    Reconcile, Reconciled, RetryPolicy, Saga, SagaContext, SagaError, SubmitError, WallMillis,
    wait,
};
use tokio::sync::oneshot;

use crate::gate::{Gate, Pass, builder};

const SHORT: Duration = Duration::from_millis(20);

fn lease(then: Escalation) -> Lease {
    Lease {
        period: SHORT,
        then,
    }
}

/// Gives back how often it was run.
#[derive(Clone, Copy)]
struct Count;

impl Computation for Count {
    const NAME: &'static str = "count";
    type Input = ();
    type Output = u32;
    type Kind = Pure;
}

/// The first run blocks its thread until it is let go, and time passes meanwhile.
#[derive(Clone)]
struct Stubborn {
    clock: SimClock,
    runs: Arc<AtomicU32>,
    go: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

impl Stubborn {
    /// One that goes by the clock, and what lets it go.
    fn new(clock: &SimClock) -> (Self, oneshot::Sender<()>) {
        let (let_go, go) = oneshot::channel();
        let stubborn = Self {
            clock: clock.clone(),
            runs: Arc::default(),
            go: Arc::new(Mutex::new(Some(go))),
        };
        (stubborn, let_go)
    }
}

impl BlockingFunction<Count> for Stubborn {
    fn run(&self, _attempt: &Attempt, (): ()) -> Result<u32, Failure> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let go = self.go.lock().unwrap().take();
        if let Some(go) = go {
            wait(select(pin!(self.clock.never()), go));
        }
        Ok(run)
    }

    fn bulkhead(&self) -> &'static str {
        Gate::BULKHEAD
    }
}

/// One step, watched.
struct Watched(Escalation);

impl Saga for Watched {
    const NAME: &'static str = "watched";
    type Input = ();
    type Output = u32;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u32, SagaError> {
        Ok(saga.step("count", Count, ()).lease(lease(self.0)).await?)
    }
}

fn two_slots() -> Options {
    Options {
        bulkheads: vec![BulkheadOptions {
            in_flight_max: 2,
            ..BulkheadOptions::new(Gate::BULKHEAD)
        }],
        ..Options::default()
    }
}

fn in_flight(engine: &Engine) -> u64 {
    let snapshot = engine.snapshot();
    let named = |name: &str| name == Gate::BULKHEAD;
    let narrow = snapshot.bulkheads.iter().find(|b| named(&b.name));
    narrow.unwrap().ordinary.in_flight
}

#[test]
fn an_attempt_that_hangs_is_tried_again_and_keeps_its_permit_until_it_ends_unheard() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SimClock::new(1);
    let (stubborn, let_go) = Stubborn::new(&clock);
    let engine = Engine::builder(folder.path().join("store"))
        .options(two_slots())
        .clock(Arc::new(clock.clone()))
        .blocking(Count, stubborn)
        .saga(Watched(Escalation::Retry))
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("s");
    let ticket = wait(tenant.start::<Watched>(key, ())).unwrap();
    let reply = clock.run(ticket.into_future()).expect("an end");
    assert_eq!(reply.unwrap().output, 2);
    assert_eq!(in_flight(&engine), 1, "the first one still runs");
    let_go.send(()).unwrap();
    while in_flight(&engine) > 0 {
        std::thread::yield_now();
    }
    let again = wait(tenant.start::<Watched>(key, ())).unwrap();
    assert_eq!(
        wait(again).unwrap().output,
        2,
        "the late one counts for nothing"
    );
    engine.blocking().close().unwrap();
}

#[test]
fn an_attempt_that_hangs_fails_its_step_if_it_is_to_be_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SimClock::new(1);
    let (stubborn, let_go) = Stubborn::new(&clock);
    let runs = Arc::clone(&stubborn.runs);
    let engine = Engine::builder(folder.path().join("store"))
        .options(two_slots())
        .clock(Arc::new(clock.clone()))
        .blocking(Count, stubborn)
        .saga(Watched(Escalation::Fail))
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Watched>(Key::named("s"), ())).unwrap();
    let failed = clock.run(ticket.into_future()).expect("an end");
    let failed = failed.unwrap_err();
    assert!(
        matches!(&failed, SubmitError::Failed(why) if why.reason().contains("lease")),
        "{failed:?}"
    );
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let_go.send(()).unwrap();
    engine.blocking().close().unwrap();
}

/// A monotonic clock that is set by hand, beside a wall clock that somebody else sets.
#[derive(Clone, Debug, Default)]
struct Hand(Arc<AtomicU64>, Arc<AtomicU64>);

impl Hand {
    fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap();
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }

    fn set_wall(&self, millis: u64) {
        self.1.store(millis, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn wall(&self) -> WallMillis {
        WallMillis::new(1_000_000 + self.1.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::new(self.0.load(Ordering::SeqCst))
    }
}

/// Moves the clock and says that it is alive, many times; in its first run, then no more.
#[derive(Clone)]
struct Beating {
    clock: Hand,
    runs: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
}

impl HostFunction<Count> for Beating {
    async fn run(&self, attempt: Attempt, (): ()) -> Result<u32, Failure> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        for beat in 0..20 {
            // Years ahead, and back: a lease does not follow the wall clock.
            self.clock.set_wall((beat % 2) << 40);
            self.clock.advance(SHORT / 2);
            attempt.heartbeat();
            assert!(!attempt.is_cancelled(), "it is alive");
            tokio::task::yield_now().await;
        }
        if run == 1 {
            self.clock.advance(SHORT);
            while !attempt.is_cancelled() {
                tokio::task::yield_now().await;
            }
            self.stopped.fetch_add(1, Ordering::SeqCst);
        }
        Ok(run)
    }
}

fn beating(then: Escalation) -> (Result<u32, SubmitError>, Beating) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    let code = Beating {
        clock: clock.clone(),
        runs: Arc::default(),
        stopped: Arc::default(),
    };
    let engine = Engine::builder(folder.path().join("store"))
        .clock(Arc::new(clock))
        .pure(Count, code.clone())
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let submission = tenant.submit(Count, ()).lease(lease(then));
    let result = wait(submission.retry(RetryPolicy::default()));
    engine.blocking().close().unwrap();
    (result.map(|reply| reply.output), code)
}

#[test]
fn a_heartbeat_keeps_an_attempt_and_one_that_stops_when_it_is_asked_to_still_counts() {
    let (result, code) = beating(Escalation::Cancel(Duration::from_mins(1)));
    assert_eq!(result, Ok(1), "what it says within the grace counts");
    assert_eq!(code.stopped.load(Ordering::SeqCst), 1);
}

#[test]
fn an_attempt_without_heartbeat_is_given_up_and_the_next_one_is_not_asked_to_stop() {
    let (result, code) = beating(Escalation::Retry);
    assert_eq!(result, Ok(2));
    assert_eq!(code.runs.load(Ordering::SeqCst), 2);
}

/// Writes, once.
#[derive(Clone, Copy)]
struct Write;

impl Computation for Write {
    const NAME: &'static str = "write";
    type Input = ();
    type Output = u32;
    type Kind = External;
}

/// Has its effect and never says so.
#[derive(Clone)]
struct Mute {
    clock: SimClock,
    written: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

impl HostFunction<Write> for Mute {
    async fn run(&self, _attempt: Attempt, (): ()) -> Result<u32, Failure> {
        self.written.fetch_add(1, Ordering::SeqCst);
        self.clock.never().await;
        Err(Failure::permanent("nobody lets it go"))
    }
}

impl Reconcile<Write> for Mute {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, (): ()) -> Reconciled<u32> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Reconciled::Done(self.written.load(Ordering::SeqCst))
    }
}

fn mute(builder: EngineBuilder) -> (Engine, Mute) {
    let mute = Mute {
        clock: SimClock::new(1),
        written: Arc::default(),
        asked: Arc::default(),
    };
    let builder = builder.clock(Arc::new(mute.clock.clone()));
    let engine = builder.external(Write, mute.clone());
    (engine.open_blocking().unwrap(), mute)
}

#[test]
fn an_external_attempt_that_hangs_is_asked_about_and_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, mute) = mute(Engine::builder(folder.path().join("store")));
    let tenant = engine.blocking().tenant("a").unwrap();
    let watched = tenant.submit(Write, ()).key(Key::named("w"));
    let watched = watched.lease(lease(Escalation::Fail)).into_future();
    let watched = mute.clock.run(watched).expect("an end");
    assert_eq!(watched.unwrap().output, 1);
    let bounded = tenant.submit(Write, ()).key(Key::named("t"));
    let bounded = bounded.timeout(SHORT).into_future();
    let bounded = mute.clock.run(bounded).expect("an end");
    assert_eq!(bounded.unwrap().output, 2);
    assert_eq!(mute.asked.load(Ordering::SeqCst), 2);
    // Both futures were dropped where they waited, and their permits are back.
    let io = |engine: &Engine| {
        let snapshot = engine.snapshot();
        let flights = snapshot.bulkheads.iter().map(|b| b.ordinary.in_flight);
        flights.max().unwrap()
    };
    while io(&engine) > 0 {
        std::thread::yield_now();
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_plain_effect_that_takes_longer_than_its_time_out_has_failed_and_leaves_its_key_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let late = wait(tenant.submit(Pass, 1_u64).timeout(SHORT)).unwrap_err();
    assert!(
        matches!(&late, SubmitError::Exhausted(why) if why.reason().contains("time-out")),
        "{late:?}"
    );
    gate.let_go(1);
    assert_eq!(wait(tenant.submit(Pass, 1_u64)).unwrap().output, 1);
    engine.blocking().close().unwrap();
}
