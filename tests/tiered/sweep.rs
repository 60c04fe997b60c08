//! Every call to the object store goes wrong once, in every way: then the ledger is checked.
//!
//! The ledger is what the object store and the local disk hold once everything is over and every
//! write that lingered has been delivered: nothing is lost, nothing is there twice, and nothing is
//! left of what was taken back.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use object_store::path::Path;
use orlop::tiered::{
    Compaction, CompactionPublish, CompactionRollback, Evict, Evicted, EvictionRollback, Located,
    Published, StoredSymbol, Symbol, SymbolBatch, SymbolDeleteBatch, SymbolName, SymbolPutBatch,
    TableName, Tiered,
};
use orlop::{CancelError, Key, SubmitError, Tenant, wait};

use crate::machine::Machine;
use crate::support::{Local, eviction, name, segment};
use crate::wire::{FAULTS, Fault, Wire};

const OLD: &[u8] = b"rows that stay";
const NEW: [(&str, &[u8]); 2] = [
    ("new 0", b"rows of the first"),
    ("new 1", b"and of the second"),
];

/// What is done while calls go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A segment is evicted.
    Evict,
    /// An eviction is rolled back.
    Recall,
    /// A compaction is published.
    Publish,
    /// A compaction is published that was made from what is current no more.
    PublishLate,
    /// A published compaction is rolled back.
    RollBack,
    /// A batch of symbols is put.
    Symbols,
    /// A batch of symbols is taken away.
    NoSymbols,
}

/// What came of it.
#[derive(Clone, Debug)]
enum Done {
    Evicted(Evicted),
    Recalled,
    Published(Published),
    Back(u64),
    Symbols(Vec<StoredSymbol>),
    Deleted,
}

/// How it was before calls went wrong.
#[derive(Default)]
struct Before {
    things: BTreeMap<Path, Vec<u8>>,
    /// Without what is to be rolled back or deleted.
    without: BTreeMap<Path, Vec<u8>>,
    evicted: Option<Evicted>,
    first: Option<Published>,
    second: Option<Published>,
    symbols: Vec<StoredSymbol>,
}

fn table() -> TableName {
    TableName::new("orders").unwrap()
}

fn compaction(base: u64, keep: &Published, retire: bool) -> Compaction {
    let stage = NEW.map(|(at, content)| segment(&name(at), content));
    Compaction {
        table: table(),
        base,
        keep: keep.staged.clone(),
        stage: stage.to_vec(),
        notes: b"level 1".to_vec(),
        retire,
    }
}

fn batch() -> SymbolBatch {
    let symbols = ["a", "b", "c"].map(|at| Symbol {
        name: SymbolName::new(at).unwrap(),
        bytes: at.repeat(40).into_bytes(),
    });
    SymbolBatch {
        table: table(),
        symbols: symbols.to_vec(),
    }
}

/// What all of it is done under.
fn key() -> Key {
    Key::named("the one")
}

impl Scene {
    /// What there is before.
    fn prepare(self, local: &Local, wire: &Wire, tenant: &Tenant) -> Before {
        let mut before = Before::default();
        for (at, content) in NEW {
            local.put(tenant, &name(at), content);
        }
        local.put(tenant, &name("old"), OLD);
        match self {
            Self::Evict | Self::Symbols => {}
            Self::Recall => {
                let start = tenant.start::<Evict>(Key::named("e"), eviction(&name("old"), OLD));
                before.evicted = Some(wait(wait(start).unwrap()).unwrap().output);
            }
            Self::Publish | Self::PublishLate | Self::RollBack => {
                let first = Compaction {
                    table: table(),
                    base: 0,
                    keep: Vec::new(),
                    stage: vec![segment(&name("old"), OLD)],
                    notes: Vec::new(),
                    retire: false,
                };
                before.first = Some(publish(tenant, "first", first));
            }
            Self::NoSymbols => {
                let put = tenant.submit(SymbolPutBatch, batch());
                before.symbols = wait(put.key(Key::named("put"))).unwrap().output;
            }
        }
        if self != Self::NoSymbols {
            before.without = wire.things();
        }
        if let (Self::PublishLate | Self::RollBack, Some(first)) = (self, &before.first) {
            let second = compaction(first.revision, first, false);
            before.second = Some(publish(tenant, "second", second));
        }
        before.things = wire.things();
        before
    }

    /// Does it, or waits for its end if it is being done; under one key.
    fn go(self, before: &Before, tenant: &Tenant) -> BoxFuture<'static, Result<Done, SubmitError>> {
        let (tenant, key) = (tenant.clone(), key());
        let evicted = before.evicted.clone();
        let first = before.first.clone();
        let second = before.second.clone();
        let symbols = before.symbols.clone();
        async move {
            match (self, first, second) {
                (Self::Evict, ..) => {
                    let start = tenant.start::<Evict>(key, eviction(&name("old"), OLD));
                    Ok(Done::Evicted(start.await?.await?.output))
                }
                (Self::Recall, ..) => {
                    let start = tenant.start::<EvictionRollback>(key, evicted.unwrap());
                    start.await?.await?;
                    Ok(Done::Recalled)
                }
                (Self::Publish | Self::PublishLate, Some(first), _) => {
                    let input = compaction(first.revision, &first, true);
                    let start = tenant.start::<CompactionPublish>(key, input);
                    Ok(Done::Published(start.await?.await?.output))
                }
                (Self::RollBack, _, Some(second)) => {
                    let start = tenant.start::<CompactionRollback>(key, second);
                    Ok(Done::Back(start.await?.await?.output))
                }
                (Self::Symbols, ..) => {
                    let put = tenant.enqueue(SymbolPutBatch, batch()).key(key);
                    Ok(Done::Symbols(put.await?.await?.output))
                }
                (Self::NoSymbols, ..) => {
                    let batch = symbols[0].batch.clone();
                    let delete = tenant.enqueue(SymbolDeleteBatch, batch).key(key);
                    delete.await?.await?;
                    Ok(Done::Deleted)
                }
                (scene, ..) => panic!("{scene:?} is not prepared"),
            }
        }
        .boxed()
    }

    /// Whether it cannot succeed.
    fn fails(self) -> bool {
        self == Self::PublishLate
    }
}

fn publish(tenant: &Tenant, key: &str, input: Compaction) -> Published {
    let start = tenant.start::<CompactionPublish>(Key::named(key), input);
    wait(wait(start).unwrap()).unwrap().output
}

/// What is current, without its revision.
fn current(tiered: &Tiered, tenant: &Tenant) -> Option<Located> {
    wait(tiered.locate(tenant.id(), &table())).unwrap()
}

/// The ledger: what must be where, given what the caller was told.
fn check(
    scene: Scene,
    machine: &Machine,
    tenant: &Tenant,
    before: &Before,
    outcome: &Result<Done, SubmitError>,
) {
    let tiered = machine.tiered();
    let things = machine.wire.things();
    let local = |at: &str| machine.local.get(tenant, &name(at));
    match outcome {
        Ok(Done::Evicted(evicted)) => {
            let path = tiered.path(tenant.id(), &evicted.object);
            assert_eq!(things, BTreeMap::from([(path, OLD.to_vec())]));
            assert_eq!(local("old"), None);
        }
        Ok(Done::Recalled) => {
            assert_eq!(things, BTreeMap::new());
            assert_eq!(local("old").unwrap(), OLD);
        }
        Ok(Done::Published(published)) => {
            assert!(!scene.fails(), "{scene:?} was published");
            let mut expected = before.things.clone();
            for (stored, (_, content)) in published.staged.iter().zip(NEW) {
                expected.insert(tiered.path(tenant.id(), &stored.object), content.to_vec());
            }
            let located = current(&tiered, tenant).unwrap();
            assert_eq!(located.revision, published.revision);
            assert_eq!(located.manifest.as_ref(), Some(&published.manifest));
            let version = &published.manifest;
            let manifest = wait(tiered.manifest(tenant.id(), &table(), version)).unwrap();
            let keep = before.first.iter().flat_map(|first| &first.staged);
            let all: Vec<_> = keep.chain(&published.staged).cloned().collect();
            assert_eq!(manifest.segments, all);
            let path = tiered.manifest_path(tenant.id(), &table(), version);
            let there: Vec<_> = things.keys().filter(|at| **at != path).collect();
            assert_eq!(there, expected.keys().collect::<Vec<_>>());
            assert!(expected.iter().all(|(at, content)| things[at] == *content));
            assert_eq!((local("new 0"), local("new 1")), (None, None));
        }
        Ok(Done::Back(revision)) => {
            assert_eq!(things, before.without);
            let located = current(&tiered, tenant).unwrap();
            assert_eq!(located.revision, *revision);
            let first = before.first.as_ref().unwrap();
            assert_eq!(located.manifest.as_ref(), Some(&first.manifest));
        }
        Ok(Done::Symbols(symbols)) => {
            let path = tiered.batch_path(tenant.id(), &symbols[0].batch);
            assert_eq!(things.keys().collect::<Vec<_>>(), [&path]);
            for (stored, put) in symbols.iter().zip(batch().symbols) {
                let at = usize::try_from(stored.offset).unwrap();
                assert_eq!(&things[&path][at..][..put.bytes.len()], put.bytes);
            }
        }
        Ok(Done::Deleted) => assert_eq!(things, BTreeMap::new()),
        Err(SubmitError::Failed(_)) => {
            assert_eq!(things, before.things);
            let last = before.second.as_ref().or(before.first.as_ref());
            let located = current(&tiered, tenant).and_then(|located| located.manifest);
            assert_eq!(located.as_ref(), last.map(|last| &last.manifest));
            let old = (scene != Scene::Recall).then(|| OLD.to_vec());
            assert_eq!(local("old"), old);
            for (at, content) in NEW {
                assert_eq!(local(at).unwrap(), content);
            }
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// What one run did.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    calls: usize,
    restarts: u32,
    held: u32,
    completed: u32,
    compensated: u32,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.restarts += other.restarts;
        self.held += other.held;
        self.completed += other.completed;
        self.compensated += other.compensated;
    }
}

fn run(scene: Scene, plan: Vec<(usize, Fault)>) -> Tally {
    let mut machine = Machine::default();
    let mut engine = machine.open();
    let mut manager = wait(engine.manage("a")).unwrap();
    let before = scene.prepare(&machine.local, &machine.wire, manager.tenant());
    machine.wire.arm(plan);
    let mut tally = Tally::default();
    let mut cancelled = None;
    let outcome = loop {
        let next = wait(async {
            let done = pin!(scene.go(&before, manager.tenant()));
            let died = pin!(machine.wire.died());
            let paused = pin!(machine.wire.paused());
            match select(done, select(died, paused)).await {
                Either::Left((outcome, _)) => Some(outcome),
                Either::Right((Either::Left(_), _)) => None,
                Either::Right((Either::Right(_), done)) => {
                    cancelled = Some(manager.cancel_saga(key()).await);
                    machine.wire.go();
                    Some(done.await)
                }
            }
        });
        match next {
            None => {
                tally.restarts += 1;
                machine = machine.crash();
                engine = machine.open();
                manager = wait(engine.manage("a")).unwrap();
            }
            Some(Err(SubmitError::Stuck { reason, .. })) => {
                // Held where one can see it; the operator does something about it.
                tally.held += 1;
                assert!(tally.held < 1000, "still held: {reason}");
                machine.wire.repair();
                manager.retry(key());
                std::thread::yield_now();
            }
            Some(outcome) => break outcome,
        }
    };
    tally.calls = machine.wire.calls();
    machine.wire.arm(Vec::new());
    machine.wire.deliver();
    check(scene, &machine, manager.tenant(), &before, &outcome);
    match (&outcome, cancelled) {
        (Ok(_), None | Some(Err(CancelError::RollbackRequired { .. } | CancelError::Ended))) => {
            tally.completed = 1;
        }
        (Err(_), None | Some(Ok(()))) => tally.compensated = 1,
        (outcome, cancelled) => panic!("{outcome:?} after {cancelled:?}"),
    }
    engine.blocking().close().unwrap();
    tally
}

/// Runs a scene with every fault at every call; what all runs did together, and how many they were.
fn sweep(scene: Scene, faults: &[Fault], then: &[Fault]) -> (u32, Tally) {
    let (mut runs, mut total) = (0, Tally::default());
    for fault in faults {
        for at in 0.. {
            let second: Vec<Option<Fault>> = if then.is_empty() {
                vec![None]
            } else {
                then.iter().copied().map(Some).collect()
            };
            let mut reached = false;
            for second in second {
                let plan = |later| {
                    let second = second.map(|second| (later, second));
                    [(at, *fault)].into_iter().chain(second).collect()
                };
                for later in at + 1.. {
                    let _context = Context(scene, *fault, at, second, later);
                    let tally = run(scene, plan(later));
                    runs += 1;
                    total += tally;
                    reached |= tally.calls > at;
                    if second.is_none() || tally.calls <= later {
                        break;
                    }
                }
            }
            if !reached {
                break;
            }
        }
    }
    println!("{scene:?}: {runs} runs, {total:?}");
    (runs, total)
}

/// Says which run it was that failed.
struct Context(Scene, Fault, usize, Option<Fault>, usize);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(scene, fault, at, second, later) = self;
            eprintln!("{scene:?} with {fault:?} at call {at}, {second:?} at call {later}");
        }
    }
}

#[test]
fn an_eviction_survives_every_fault_of_every_call() {
    let (_, total) = sweep(Scene::Evict, &FAULTS, &[]);
    assert!(total.completed > 0 && total.compensated > 0 && total.restarts > 0);
}

#[test]
fn a_rollback_of_an_eviction_survives_every_fault_of_every_call() {
    let (_, total) = sweep(Scene::Recall, &FAULTS, &[]);
    assert!(total.completed > 0 && total.compensated > 0 && total.restarts > 0);
}

#[test]
fn a_publication_survives_every_fault_of_every_call() {
    let (_, total) = sweep(Scene::Publish, &FAULTS, &[]);
    assert!(total.completed > 0 && total.compensated > 0 && total.restarts > 0);
}

#[test]
fn a_publication_that_came_too_late_leaves_nothing_whatever_fault_befalls_its_unwinding() {
    let (_, total) = sweep(Scene::PublishLate, &FAULTS, &[]);
    assert_eq!(total.completed, 0);
    assert!(total.restarts > 0);
}

#[test]
fn a_rollback_survives_every_fault_of_every_call() {
    let (_, total) = sweep(Scene::RollBack, &FAULTS, &[]);
    assert!(total.completed > 0 && total.compensated > 0 && total.restarts > 0);
}

#[test]
fn a_batch_of_symbols_survives_every_fault_of_every_call() {
    let (_, total) = sweep(Scene::Symbols, &FAULTS, &[]);
    assert!(total.completed > 0 && total.compensated > 0 && total.restarts > 0);
    let (_, total) = sweep(Scene::NoSymbols, &FAULTS, &[]);
    assert!(total.completed > 0 && total.restarts > 0);
}

#[test]
fn a_cancel_at_any_call_takes_everything_away_or_says_that_a_rollback_is_required() {
    for scene in [
        Scene::Evict,
        Scene::Recall,
        Scene::Publish,
        Scene::PublishLate,
        Scene::RollBack,
    ] {
        let (_, total) = sweep(scene, &[Fault::Pause], &[]);
        assert!(total.compensated > 0, "{scene:?}");
    }
}

#[test]
fn a_publication_survives_two_crashes_wherever_they_come() {
    let deaths = [Fault::DieBefore, Fault::DieAfter];
    let (_, total) = sweep(Scene::Publish, &deaths, &deaths);
    assert!(total.completed > 0 && total.restarts > 0);
    assert_eq!(total.compensated, 0);
}

#[test]
fn a_write_that_lingers_changes_nothing_once_it_was_given_up() {
    for scene in [Scene::Evict, Scene::Publish, Scene::RollBack] {
        let then = [Fault::Refuse, Fault::Pause];
        let (_, total) = sweep(scene, &[Fault::Linger], &then);
        assert!(total.completed > 0 && total.compensated > 0, "{scene:?}");
    }
}
