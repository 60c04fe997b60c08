//! Doubt: attempts whose end nobody saw, and what is believed of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop::{
    Attempt, Computation, Engine, EngineBuilder, External, Failure, Found, HostFunction, Key, Late,
    Limits, Options, Reconcile, Reconciled, RetryPolicy, Saga, SagaContext, SagaError, SubmitError,
    Undo, UndoFunction, Undoing, wait,
};
use tokio::sync::Semaphore;

use crate::gate::open_after_drop;

/// Publishes a text.
#[derive(Clone, Copy)]
struct Publish;

impl Computation for Publish {
    const NAME: &'static str = "publish";
    type Input = String;
    type Output = String;
    type Kind = External;
}

#[derive(Clone, Copy)]
struct Withdraw;

impl Undo for Withdraw {
    const NAME: &'static str = "withdraw";
    type Argument = ();
    type Step = Publish;
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody hears of it after it wrote.
    Lost,
    /// It never ends, before it wrote.
    Hangs,
}

/// A shelf on which every attempt writes under a name of its own; a pointer says which counts.
#[derive(Clone)]
struct Shelf {
    late: Late,
    state: Arc<Mutex<Content>>,
    begun: Arc<Semaphore>,
    never: Arc<Semaphore>,
}

#[derive(Default)]
struct Content {
    objects: BTreeMap<String, String>,
    pointers: BTreeMap<[u8; 32], String>,
    fates: Vec<Fate>,
    asks_hang: bool,
    log: Vec<&'static str>,
}

impl Shelf {
    fn new(late: Late, fates: &[Fate]) -> Self {
        let content = Content {
            fates: fates.iter().rev().copied().collect(),
            ..Content::default()
        };
        Self {
            late,
            state: Arc::new(Mutex::new(content)),
            begun: Arc::new(Semaphore::new(0)),
            never: Arc::new(Semaphore::new(0)),
        }
    }

    fn log(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().log.clone()
    }

    fn note(&self, word: &'static str) -> Option<Fate> {
        let mut state = self.state.lock().unwrap();
        state.log.push(word);
        match word {
            "run" => state.fates.pop(),
            "ask" => state.asks_hang.then_some(Fate::Hangs),
            _ => None,
        }
    }

    async fn hang(&self) {
        self.begun.add_permits(1);
        let _never = self.never.acquire().await;
    }

    fn wait_begun(&self) {
        pollster::block_on(self.begun.acquire()).unwrap().forget();
    }
}

impl HostFunction<Publish> for Shelf {
    async fn run(&self, attempt: Attempt, text: String) -> Result<String, Failure> {
        let fate = self.note("run");
        if fate == Some(Fate::Hangs) {
            self.hang().await;
        }
        let mut state = self.state.lock().unwrap();
        state.objects.insert(attempt.name(), text);
        if fate == Some(Fate::Lost) {
            return Err(Failure::in_doubt("no reply"));
        }
        let key = *attempt.remote_key.as_bytes();
        state.pointers.insert(key, attempt.name());
        Ok(attempt.name())
    }
}

impl Reconcile<Publish> for Shelf {
    fn late(&self) -> Late {
        self.late
    }

    async fn reconcile(&self, attempt: Attempt, _text: String) -> Reconciled<String> {
        if self.note("ask") == Some(Fate::Hangs) {
            self.hang().await;
        }
        let state = self.state.lock().unwrap();
        match state.pointers.get(attempt.remote_key.as_bytes()) {
            Some(name) => Reconciled::Done(name.clone()),
            None => Reconciled::NotDone,
        }
    }

    async fn sweep(&self, attempt: Attempt) -> Result<(), Failure> {
        self.note("sweep");
        let mut state = self.state.lock().unwrap();
        let winner = state.pointers.get(attempt.remote_key.as_bytes()).cloned();
        let mine = format!("{}.", attempt.remote_key);
        state
            .objects
            .retain(|name, _| !name.starts_with(&mine) || Some(name) == winner.as_ref());
        Ok(())
    }
}

impl UndoFunction<Withdraw> for Shelf {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Withdraw>) -> Result<(), Failure> {
        self.note("undo");
        let mut state = self.state.lock().unwrap();
        if let Some(name) = state.pointers.remove(undoing.step_key.as_bytes()) {
            state.objects.remove(&name);
        }
        let found = matches!(undoing.found, Found::InDoubt);
        if found != state.objects.is_empty() {
            return Err(Failure::permanent("something is left of an attempt"));
        }
        Ok(())
    }
}

/// Publishes, and then gives up if it is told to.
struct Edition;

impl Saga for Edition {
    const NAME: &'static str = "edition";
    type Input = bool;
    type Output = String;

    async fn run(&self, saga: SagaContext, cancelled: bool) -> Result<String, SagaError> {
        let step = saga.step("publish", Publish, "text").undo(Withdraw, ());
        let name = step.await?;
        if cancelled {
            return Err(SagaError::failed("given up"));
        }
        Ok(name)
    }
}

fn options() -> Options {
    Options {
        limits: Limits {
            retry: RetryPolicy {
                attempts_max: 2,
                base: Duration::from_millis(1),
                cap: Duration::from_millis(1),
            },
            reconciles_max: 2,
            ..Limits::default()
        },
        close_timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

fn bind(folder: &tempfile::TempDir, shelf: &Shelf) -> EngineBuilder {
    Engine::builder(folder.path().join("store"))
        .options(options())
        .external(Publish, shelf.clone())
        .undo(Withdraw, shelf.clone())
        .saga(Edition)
}

#[test]
fn what_losing_attempts_left_under_names_of_their_own_is_swept_before_an_outcome_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Late::AttemptScoped, &[Fate::Lost]);
    let engine = bind(&folder, &shelf).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Edition>(Key::named("s"), false)).unwrap();
    let name = wait(ticket).unwrap().output;
    assert_eq!(shelf.log(), ["run", "ask", "sweep", "run", "sweep"]);
    let left: Vec<String> = shelf
        .state
        .lock()
        .unwrap()
        .objects
        .keys()
        .cloned()
        .collect();
    assert_eq!(left, [name]);
    // Of plain effects too, and not where there was but one attempt.
    let plain = tenant.enqueue(Publish, "text").key(Key::named("p"));
    wait(wait(plain).unwrap()).unwrap();
    assert_eq!(shelf.log().len(), 6, "{:?}", shelf.log());
    shelf.state.lock().unwrap().fates.push(Fate::Lost);
    let plain = tenant.enqueue(Publish, "text").key(Key::named("q"));
    wait(wait(plain).unwrap()).unwrap();
    assert_eq!(shelf.log()[6..], ["run", "ask", "sweep", "run", "sweep"]);
    assert_eq!(shelf.state.lock().unwrap().objects.len(), 3);
    engine.blocking().close().unwrap();
}

#[test]
fn an_undo_of_a_step_in_doubt_begins_after_its_attempts_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let mut shelf = Shelf::new(Late::AttemptScoped, &[Fate::Hangs]);
    let key = Key::named("s");
    {
        let engine = bind(&folder, &shelf).open_blocking().unwrap();
        let manager = wait(engine.manage("a")).unwrap();
        let ticket = wait(manager.tenant().start::<Edition>(key, false)).unwrap();
        shelf.wait_begun();
        // What a process that died here would have left.
        let saga = ticket.id().unwrap();
        let record = wait(manager.operator().show(saga)).unwrap();
        let remote = record.calls[0].remote_key.unwrap();
        let name = format!("{remote}.9-9");
        shelf
            .state
            .lock()
            .unwrap()
            .objects
            .insert(name, "half".to_owned());
        shelf.state.lock().unwrap().asks_hang = true;
        drop((ticket, manager, engine));
    }
    // What still hangs of the first process never goes on.
    shelf.never = Arc::new(Semaphore::new(0));
    let engine = open_after_drop(|| bind(&folder, &shelf));
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Edition>(key, false)).unwrap();
    shelf.wait_begun();
    wait(ticket.cancel()).unwrap();
    shelf.state.lock().unwrap().asks_hang = false;
    shelf.never.close();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    let log = shelf.log();
    let undo = log.iter().position(|word| *word == "undo").unwrap();
    assert_eq!(log[undo - 1], "sweep", "{log:?}");
    assert!(shelf.state.lock().unwrap().objects.is_empty());
    engine.blocking().close().unwrap();
}

/// Opens, has [`Edition`] run until its attempt hangs, and lets the engine die; so many times.
fn die(folder: &tempfile::TempDir, shelf: &Shelf, times: u32) {
    for _ in 0..times {
        let engine = open_after_drop(|| bind(folder, shelf));
        let tenant = engine.blocking().tenant("a").unwrap();
        let saga = wait(tenant.start::<Edition>(Key::named("s"), false)).unwrap();
        let plain = wait(tenant.enqueue(Publish, "text").key(Key::named("p"))).unwrap();
        shelf.wait_begun();
        shelf.wait_begun();
        drop((saga, plain, tenant, engine));
    }
}

/// What the saga and the plain effect are told.
fn told(engine: &Engine) -> [String; 2] {
    let tenant = engine.blocking().tenant("a").unwrap();
    let saga = wait(tenant.start::<Edition>(Key::named("s"), false)).unwrap();
    let plain = wait(tenant.enqueue(Publish, "text").key(Key::named("p"))).unwrap();
    [wait(saga).unwrap_err(), wait(plain).unwrap_err()].map(|told| match told {
        SubmitError::Stuck { reason, .. } => reason.to_string(),
        told => panic!("{told:?}"),
    })
}

#[test]
fn external_work_whose_attempts_all_ended_with_the_process_is_stuck_and_not_as_if_it_had_failed() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Late::Fenced, &[Fate::Hangs; 4]);
    die(&folder, &shelf, 2);
    let engine = open_after_drop(|| bind(&folder, &shelf));
    for told in told(&engine) {
        assert!(
            told.contains("its 2 attempts ended with the process"),
            "{told}"
        );
    }
    assert_eq!(shelf.log().iter().filter(|word| **word == "run").count(), 4);
    assert!(!shelf.log().contains(&"undo"));
    // An operator may have both tried again all the same.
    let manager = wait(engine.manage("a")).unwrap();
    assert!(manager.retry(Key::named("s")) && manager.retry(Key::named("p")));
    while engine.snapshot().sagas > 0 {
        std::thread::yield_now();
    }
    engine.blocking().close().unwrap();
}

#[test]
fn questions_that_end_with_the_process_are_counted_and_end_in_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Late::Fenced, &[Fate::Lost; 4]);
    shelf.state.lock().unwrap().asks_hang = true;
    die(&folder, &shelf, 2);
    let asked = shelf.log().iter().filter(|word| **word == "ask").count();
    assert_eq!(asked, 4);
    let engine = open_after_drop(|| bind(&folder, &shelf));
    for told in told(&engine) {
        assert!(
            told.contains("its 2 reconciliations ended with the process"),
            "{told}"
        );
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_ticket_that_was_told_stuck_learns_what_has_become_of_it_when_it_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Late::Fenced, &[Fate::Hangs; 4]);
    die(&folder, &shelf, 2);
    let engine = open_after_drop(|| bind(&folder, &shelf));
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let (s, p) = (Key::named("s"), Key::named("p"));
    let mut saga = wait(tenant.start::<Edition>(s, false)).unwrap();
    let mut plain = wait(tenant.enqueue(Publish, "text").key(p)).unwrap();
    let long = Duration::from_mins(1);
    for _ in 0..2 {
        let told = [
            wait(saga.wait_for(long)).unwrap_err(),
            wait(plain.wait_for(long)).unwrap_err(),
        ];
        for told in told {
            assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
        }
    }
    assert!(manager.retry(s) && manager.retry(p));
    while engine.snapshot().sagas > 0 {
        std::thread::yield_now();
    }
    // Out of memory by now, or not: it is told all the same.
    wait(engine.checkpoint()).unwrap();
    let done = wait(saga.wait_for(long)).unwrap();
    assert!(!done.output.is_empty());
    let done = loop {
        match wait(plain.wait_for(long)) {
            Err(SubmitError::Stuck { .. }) => std::thread::yield_now(),
            done => break done.unwrap(),
        }
    };
    assert!(!done.output.is_empty());
    drop((saga, plain));
    engine.blocking().close().unwrap();
}
