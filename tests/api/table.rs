//! The whole key table: every cell of it, raced over by 64 threads, before and after a restart.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::poll;
use orlop::{
    Attempt, Clock, Computation, Engine, External, Failure, HostFunction, Key, Late, Limits,
    Monotonic, Options, Origin, Pure, Reconcile, Reconciled, Refusal, Reply, RetryPolicy, Saga,
    SagaContext, SagaError, SubmitError, SystemClock, Tenant, TenantId, WallMillis, wait,
};
use tokio::sync::Semaphore;

const THREADS: usize = 64;

/// A number that is looked up.
#[derive(Clone, Copy)]
struct Calc;

impl Computation for Calc {
    const NAME: &'static str = "calc";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

/// The same, outside.
#[derive(Clone, Copy)]
struct Act;

impl Computation for Act {
    const NAME: &'static str = "act";
    type Input = u64;
    type Output = u64;
    type Kind = External;
}

/// The same, as a saga.
struct Play;

impl Saga for Play {
    const NAME: &'static str = "play";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        Ok(saga.step("calc", Calc, input).await?)
    }
}

/// What becomes of the work of a tenant.
#[derive(Clone, Default)]
enum Mode {
    /// It is done.
    #[default]
    Free,
    /// It is done once it is let go.
    Gated(Arc<Semaphore>),
    /// Nobody hears of it, and who asks is answered once it is let go.
    Doubt(Arc<Semaphore>),
    /// Nobody hears of it, and who asks is told nothing.
    Unknown,
    /// It fails for good.
    Failing,
}

/// The code behind all of it: what it is to do, and what it did.
#[derive(Clone, Default)]
struct Stage {
    modes: Arc<Mutex<HashMap<TenantId, Mode>>>,
    runs: Arc<(Mutex<Runs>, Condvar)>,
}

/// On whose behalf what was worked on, in order.
type Runs = Vec<(TenantId, u64)>;

impl Stage {
    fn set(&self, tenant: &Tenant, mode: Mode) {
        self.modes.lock().unwrap().insert(tenant.id(), mode);
    }

    fn mode(&self, tenant: TenantId) -> Mode {
        let modes = self.modes.lock().unwrap();
        modes.get(&tenant).cloned().unwrap_or_default()
    }

    /// How often an input was worked on.
    fn runs(&self, tenant: &Tenant, input: u64) -> usize {
        let runs = self.runs.0.lock().unwrap();
        let this = (tenant.id(), input);
        runs.iter().filter(|run| **run == this).count()
    }

    fn wait_for_run(&self, tenant: &Tenant, input: u64) {
        let this = (tenant.id(), input);
        let runs = self.runs.0.lock().unwrap();
        let none = |runs: &mut Runs| !runs.contains(&this);
        drop(self.runs.1.wait_while(runs, none).unwrap());
    }

    async fn work(&self, tenant: TenantId, input: u64) -> Result<u64, Failure> {
        let mode = self.mode(tenant);
        self.runs.0.lock().unwrap().push((tenant, input));
        self.runs.1.notify_all();
        match mode {
            Mode::Free => {}
            Mode::Gated(gate) => gate.acquire().await.unwrap().forget(),
            Mode::Doubt(_) | Mode::Unknown => return Err(Failure::in_doubt("no reply")),
            Mode::Failing => return Err(Failure::permanent("not today")),
        }
        Ok(output(input))
    }
}

fn output(input: u64) -> u64 {
    input * 10
}

impl HostFunction<Calc> for Stage {
    async fn run(&self, attempt: Attempt, input: u64) -> Result<u64, Failure> {
        self.work(attempt.tenant, input).await
    }
}

impl HostFunction<Act> for Stage {
    async fn run(&self, attempt: Attempt, input: u64) -> Result<u64, Failure> {
        self.work(attempt.tenant, input).await
    }
}

impl Reconcile<Act> for Stage {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: u64) -> Reconciled<u64> {
        match self.mode(attempt.tenant) {
            Mode::Doubt(gate) => gate.acquire().await.unwrap().forget(),
            _ => return Reconciled::Unknown("no answer".to_owned()),
        }
        Reconciled::Done(output(input))
    }
}

/// A clock that can be set ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    system: SystemClock,
    by_ms: AtomicU64,
}

impl Ahead {
    pub(crate) fn jump(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.by_ms.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn wall(&self) -> WallMillis {
        let by = Duration::from_millis(self.by_ms.load(Ordering::SeqCst));
        self.system.wall().after(by)
    }

    fn monotonic(&self) -> Monotonic {
        let by = Duration::from_millis(self.by_ms.load(Ordering::SeqCst));
        self.system.monotonic().after(by)
    }
}

/// What is asked for under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Calc,
    Act,
    Play,
}

/// One request, and how it is made.
#[derive(Clone, Copy, Debug)]
struct Ask {
    what: What,
    input: u64,
    enqueues: bool,
}

type Answer = Result<Reply<u64>, SubmitError>;
type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Ask {
    fn is_like(self, other: Self) -> bool {
        (self.what, self.input) == (other.what, other.input)
    }

    fn make(self, tenant: &Tenant, key: Key) -> Asking {
        let (tenant, input) = (tenant.clone(), self.input);
        match (self.what, self.enqueues) {
            (What::Calc, false) => tenant.submit(Calc, input).key(key).into_future(),
            (What::Act, false) => tenant.submit(Act, input).key(key).into_future(),
            (What::Calc, true) => {
                async move { tenant.enqueue(Calc, input).key(key).await?.await }.boxed()
            }
            (What::Act, true) => {
                async move { tenant.enqueue(Act, input).key(key).await?.await }.boxed()
            }
            (What::Play, _) => async move { tenant.start::<Play>(key, input).await?.await }.boxed(),
        }
    }
}

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Unknown,
    Refused,
    InFlight,
    InDoubt,
    Stuck,
    Done,
    Failed,
    PastRetention,
}

const CELLS: [Cell; 8] = [
    Cell::Unknown,
    Cell::Refused,
    Cell::InFlight,
    Cell::InDoubt,
    Cell::Stuck,
    Cell::Done,
    Cell::Failed,
    Cell::PastRetention,
];

struct World {
    folder: tempfile::TempDir,
    stage: Stage,
    clock: Arc<Ahead>,
    random: fastrand::Rng,
}

impl World {
    fn open(&self) -> Engine {
        let retry = RetryPolicy {
            attempts_max: 3,
            base: Duration::from_micros(100),
            cap: Duration::from_micros(400),
        };
        let options = Options {
            limits: Limits {
                retry,
                reconciles_max: 2,
                ..Limits::default()
            },
            ..Options::default()
        };
        let clock: Arc<dyn Clock> = Arc::<Ahead>::clone(&self.clock);
        Engine::builder(self.folder.path().join("store"))
            .options(options)
            .clock(clock)
            .pure(Calc, self.stage.clone())
            .external(Act, self.stage.clone())
            .saga(Play)
            .open_blocking()
            .unwrap()
    }

    /// A request of 64 that race: every other one is the owner's, the rest disagree.
    fn ask(&mut self, owner: Ask) -> Ask {
        let enqueues = self.random.bool();
        if self.random.bool() {
            return Ask { enqueues, ..owner };
        }
        let all = [What::Calc, What::Act, What::Play];
        let what = all[self.random.usize(..all.len())];
        let input = owner.input + self.random.u64(0..3);
        Ask {
            what,
            input,
            enqueues,
        }
    }

    fn asks(&mut self, owner: Ask) -> Vec<Ask> {
        (0..THREADS).map(|_| self.ask(owner)).collect()
    }
}

/// What 64 threads are told who ask for these at once. Every fourth of those who agree with
/// `owner` leaves once it has asked. `meanwhile` runs once every one who disagrees was told so,
/// where `owner` is known to be in flight; else at once.
fn race(
    tenant: &Tenant,
    key: Key,
    asks: &[Ask],
    owner: Option<Ask>,
    meanwhile: impl FnOnce(),
) -> Vec<(Ask, Answer)> {
    let barrier = Barrier::new(asks.len());
    let told = (Mutex::new(0_usize), Condvar::new());
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (at, ask) in asks.iter().enumerate() {
            let (barrier, told, answers) = (&barrier, &told, &answers);
            scope.spawn(move || {
                let mut asking = ask.make(tenant, key);
                barrier.wait();
                let agrees = owner.is_some_and(|owner| owner.is_like(*ask));
                if agrees && at % 4 == 0 {
                    // Whatever it is told already, it does not wait for the rest.
                    let _ = wait(async { poll!(&mut asking) });
                    return;
                }
                let answer = wait(asking);
                answers.lock().unwrap().push((*ask, answer));
                if !agrees {
                    *told.0.lock().unwrap() += 1;
                    told.1.notify_all();
                }
            });
        }
        if let Some(owner) = owner {
            let others = asks.iter().filter(|ask| !ask.is_like(owner)).count();
            let count = told.0.lock().unwrap();
            drop(told.1.wait_while(count, |told| *told < others).unwrap());
        }
        meanwhile();
    });
    answers.into_inner().unwrap()
}

fn count(answers: &[(Ask, Answer)], origin: Origin) -> usize {
    let of = |answer: &Answer| matches!(answer, Ok(reply) if reply.origin == origin);
    answers.iter().filter(|(_, answer)| of(answer)).count()
}

/// The oracle where the key is unknown: one request of them runs, once.
fn check_unknown(stage: &Stage, tenant: &Tenant, key: Key, answers: &[(Ask, Answer)]) {
    let winner = answers.iter().find(|(_, answer)| answer.is_ok());
    let winner = winner
        .unwrap_or_else(|| panic!("nothing ran: {answers:?}"))
        .0;
    for (ask, answer) in answers {
        if ask.is_like(winner) {
            assert_eq!(answer.as_ref().unwrap().output, output(winner.input));
        } else {
            let conflict = answer.as_ref().unwrap_err();
            assert_eq!(*conflict, SubmitError::Conflict { key }, "{ask:?}");
        }
    }
    assert_eq!(count(answers, Origin::Ran), 1, "{answers:?}");
    let inputs: Vec<u64> = answers.iter().map(|(ask, _)| ask.input).collect();
    let mut distinct = inputs.clone();
    distinct.sort_unstable();
    distinct.dedup();
    for input in distinct {
        let runs = usize::from(input == winner.input);
        assert_eq!(stage.runs(tenant, input), runs, "{input}");
    }
}

/// The oracle where the key stands for `owner`: all who agree are told the same, and how they came
/// by it; all others conflict; nothing runs again.
fn check_owned(
    key: Key,
    owner: Ask,
    answers: &[(Ask, Answer)],
    expected: impl Fn(&Answer) -> bool,
) {
    for (ask, answer) in answers {
        if ask.is_like(owner) {
            assert!(expected(answer), "{ask:?}: {answer:?}");
        } else {
            let conflict = answer.as_ref().unwrap_err();
            assert_eq!(*conflict, SubmitError::Conflict { key }, "{ask:?}");
        }
    }
}

fn replays(owner: Ask) -> impl Fn(&Answer) -> bool {
    move |answer| {
        matches!(answer, Ok(reply)
            if reply.origin == Origin::Replayed && reply.output == output(owner.input))
    }
}

fn fails(answer: &Answer) -> bool {
    matches!(answer, Err(SubmitError::Failed(why)) if why.reason().contains("not today"))
}

/// Brings a key into a state, has 64 threads race for it, and checks what each was told.
struct Round<'a> {
    world: &'a mut World,
    engine: Engine,
    tenants: [Tenant; 2],
    cell: Cell,
    owner: Ask,
    key: Key,
}

impl Round<'_> {
    fn race(&mut self, owner: Option<Ask>, meanwhile: impl FnOnce()) -> Vec<(Ask, Answer)> {
        let asks = self.world.asks(self.owner);
        race(&self.tenants[0], self.key, &asks, owner, meanwhile)
    }

    /// The state survives: another engine says the same.
    fn reopen(&mut self) {
        self.engine.blocking().close().unwrap();
        self.engine = self.world.open();
        self.tenants = ["a", "b"].map(|label| self.engine.blocking().tenant(label).unwrap());
    }

    fn set(&self, mode: Mode) {
        self.world.stage.set(&self.tenants[0], mode);
    }

    fn runs(&self) -> usize {
        self.world.stage.runs(&self.tenants[0], self.owner.input)
    }

    fn settle(&self) -> Answer {
        wait(self.owner.make(&self.tenants[0], self.key))
    }

    fn unknown(&mut self) {
        let answers = self.race(None, || {});
        check_unknown(&self.world.stage, &self.tenants[0], self.key, &answers);
    }

    /// Refused, nothing is kept: also a different request may have the key then.
    fn refused(&mut self) {
        let manager = wait(self.engine.manage("a")).unwrap();
        wait(manager.suspend()).unwrap();
        for (_, answer) in self.race(None, || {}) {
            let refusal = answer.unwrap_err();
            assert!(
                matches!(refusal, SubmitError::Refused(Refusal::Suspended { .. })),
                "{refusal:?}"
            );
        }
        assert_eq!(self.runs(), 0);
        wait(manager.resume()).unwrap();
        self.unknown();
    }

    /// In flight, in doubt or not: whoever disagrees is told so before it ends, and nobody runs it
    /// a second time.
    fn in_flight(&mut self, mode: fn(Arc<Semaphore>) -> Mode) {
        let gate = Arc::new(Semaphore::new(0));
        self.set(mode(Arc::clone(&gate)));
        let mut first = self.owner.make(&self.tenants[0], self.key);
        let entered = wait(async { poll!(&mut first) });
        let first = match entered {
            std::task::Poll::Pending => {
                let waiting = std::thread::spawn(move || wait(first));
                self.world
                    .stage
                    .wait_for_run(&self.tenants[0], self.owner.input);
                waiting
            }
            std::task::Poll::Ready(answer) => panic!("{answer:?}"),
        };
        let owner = self.owner;
        let answers = self.race(Some(owner), || gate.add_permits(1 << 20));
        let joined = |answer: &Answer| {
            matches!(answer, Ok(reply)
                if reply.origin != Origin::Ran && reply.output == output(owner.input))
        };
        check_owned(self.key, owner, &answers, joined);
        let first = first.join().unwrap().unwrap();
        assert_eq!(
            (first.origin, first.output),
            (Origin::Ran, output(owner.input))
        );
        assert_eq!(self.runs(), 1);
    }

    fn stuck(&mut self) {
        self.set(Mode::Unknown);
        let stuck = |answer: &Answer| matches!(answer, Err(SubmitError::Stuck { .. }));
        let first = self.settle();
        assert!(stuck(&first), "{first:?}");
        for restart in [false, true] {
            if restart {
                self.reopen();
            }
            let answers = self.race(Some(self.owner), || {});
            check_owned(self.key, self.owner, &answers, stuck);
        }
        assert_eq!(self.runs(), 1);
    }

    fn settled(&mut self, mode: Mode, expected: impl Fn(&Answer) -> bool) {
        self.set(mode);
        let first = self.settle();
        match &first {
            Ok(reply) => assert_eq!(reply.origin, Origin::Ran),
            Err(_) => assert!(expected(&first), "{first:?}"),
        }
        for restart in [false, true] {
            if restart {
                self.reopen();
            }
            let answers = self.race(Some(self.owner), || {});
            check_owned(self.key, self.owner, &answers, &expected);
        }
        assert_eq!(self.runs(), 1);
    }

    fn past_retention(&mut self) {
        // Other inputs than those that race: what ran before is not what runs then.
        let first = Ask {
            input: self.owner.input + 500,
            ..self.owner
        };
        wait(first.make(&self.tenants[0], self.key)).unwrap();
        self.world.clock.jump(Duration::from_hours(25));
        self.unknown();
    }

    fn play(&mut self) {
        match self.cell {
            Cell::Unknown => self.unknown(),
            Cell::Refused => self.refused(),
            Cell::InFlight => self.in_flight(Mode::Gated),
            Cell::InDoubt => self.in_flight(Mode::Doubt),
            Cell::Stuck => self.stuck(),
            Cell::Done => self.settled(Mode::Free, replays(self.owner)),
            Cell::Failed => self.settled(Mode::Failing, fails),
            Cell::PastRetention => self.past_retention(),
        }
        // Whatever the key is to one tenant, to another one it is unknown.
        let other = Ask {
            input: self.owner.input + 100,
            ..self.owner
        };
        let asks = self.world.asks(other);
        let answers = race(&self.tenants[1], self.key, &asks, None, || {});
        check_unknown(&self.world.stage, &self.tenants[1], self.key, &answers);
    }
}

#[test]
fn every_cell_of_the_key_table_holds_under_64_threads_and_after_a_restart() {
    let mut world = World {
        folder: tempfile::tempdir().unwrap(),
        stage: Stage::default(),
        clock: Arc::default(),
        random: fastrand::Rng::with_seed(3),
    };
    let mut engine = world.open();
    let mut input = 0;
    for round in 0..2 {
        for cell in CELLS {
            for what in [What::Calc, What::Act, What::Play] {
                if matches!(cell, Cell::InDoubt | Cell::Stuck) && what != What::Act {
                    continue;
                }
                input += 1000;
                let tenants = ["a", "b"].map(|label| engine.blocking().tenant(label).unwrap());
                world.stage.set(&tenants[0], Mode::Free);
                let owner = Ask {
                    what,
                    input,
                    enqueues: world.random.bool(),
                };
                let key = Key::named(&format!("{round} {cell:?} {what:?}"));
                let mut round = Round {
                    world: &mut world,
                    engine,
                    tenants,
                    cell,
                    owner,
                    key,
                };
                round.play();
                engine = round.engine;
            }
        }
        engine.blocking().close().unwrap();
        engine = world.open();
    }
    engine.blocking().close().unwrap();
}

#[test]
fn batches_and_submissions_of_64_threads_run_every_input_once() {
    let world = World {
        folder: tempfile::tempdir().unwrap(),
        stage: Stage::default(),
        clock: Arc::default(),
        random: fastrand::Rng::with_seed(3),
    };
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ran = AtomicU64::new(0);
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS as u64 {
            let (tenant, ran, barrier) = (&tenant, &ran, &barrier);
            scope.spawn(move || {
                let inputs: Vec<u64> = (0..16).map(|at| (at + thread) % 16).collect();
                barrier.wait();
                let replies: Vec<Answer> = match thread % 3 {
                    0 => wait(tenant.submit_batch(Calc, inputs.clone())).unwrap(),
                    1 => inputs
                        .iter()
                        .map(|at| wait(tenant.submit(Calc, *at)))
                        .collect(),
                    _ => inputs
                        .iter()
                        .map(|at| wait(async { tenant.enqueue(Calc, *at).await?.await }))
                        .collect(),
                };
                for (input, reply) in inputs.into_iter().zip(replies) {
                    let reply = reply.unwrap();
                    assert_eq!(reply.output, output(input));
                    let first = u64::from(reply.origin == Origin::Ran);
                    ran.fetch_add(first, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(ran.into_inner(), 16);
    for input in 0..16 {
        assert_eq!(world.stage.runs(&tenant, input), 1);
    }
    engine.blocking().close().unwrap();
}
