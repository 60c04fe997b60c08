//! Draining a tenant, and what it may run.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::poll;
use orlop::{
    Attempt, BulkheadOptions, Computation, Engine, External, Failure, HostFunction, Key, Late,
    Options, Pure, Reconcile, Reconciled, Refusal, Saga, SagaContext, SagaError, SubmitError,
    TenantDrained, TenantError, TenantManager, Undo, UndoFunction, Undoing, wait,
};
use tempfile::tempdir;
use tokio::sync::Semaphore;

use crate::hall::{Hall, NARROW, Series, Turn, until};
use crate::support::{Double, patient};

const LONG: Duration = Duration::from_mins(1);

/// Runs once it is let.
#[derive(Clone)]
struct Gated(Arc<Semaphore>);

#[derive(Clone, Copy)]
struct Pass;

impl Computation for Pass {
    const NAME: &'static str = "pass";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Pass> for Gated {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        self.0.acquire().await.unwrap().forget();
        Ok(input)
    }
}

#[derive(Clone, Default)]
struct Outside {
    put: Arc<AtomicU64>,
    removed: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = u64;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for Outside {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        self.put.fetch_add(1, Ordering::SeqCst);
        Ok(input)
    }
}

impl Reconcile<Put> for Outside {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _: Attempt, input: u64) -> Reconciled<u64> {
        Reconciled::Done(input)
    }
}

#[derive(Clone, Copy)]
struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = u64;
    type Step = Put;
}

impl UndoFunction<Remove> for Outside {
    async fn undo(&self, _: Attempt, _: Undoing<Remove>) -> Result<(), Failure> {
        self.removed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Puts, passes a gate, doubles.
struct Three;

impl Saga for Three {
    const NAME: &'static str = "three";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        saga.step("put", Put, input).undo(Remove, input).await?;
        saga.step("pass", Pass, input).await?;
        Ok(saga.step("double", Double, input).await?)
    }
}

struct Rig {
    engine: Engine,
    gate: Arc<Semaphore>,
    outside: Outside,
    acme: TenantManager,
}

impl Rig {
    fn open(folder: &std::path::Path) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let outside = Outside::default();
        let options = Options {
            audit: patient(),
            ..Options::default()
        };
        let engine = Engine::builder(folder)
            .options(options)
            .pure(Double, Double)
            .pure(Pass, Gated(Arc::clone(&gate)))
            .external(Put, outside.clone())
            .undo(Remove, outside.clone())
            .saga(Three)
            .open_blocking()
            .unwrap();
        let acme = wait(engine.manage("acme")).unwrap();
        Self {
            engine,
            gate,
            outside,
            acme,
        }
    }

    fn close(self) {
        self.engine.blocking().close().unwrap();
    }
}

#[test]
fn a_drain_waits_for_accepted_work_and_sagas_bounded_in_time_and_blocks_no_thread() {
    let folder = tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let tenant = rig.acme.tenant();
    let accepted = wait(tenant.enqueue(Pass, 1_u64)).unwrap();
    let saga = wait(tenant.start::<Three>(Key::named("s"), 2_u64)).unwrap();
    let short = Duration::from_millis(5);
    let left = wait(rig.acme.drain(short)).unwrap();
    assert_eq!((left.moving, left.held), (2, 0));
    assert!(left.waited >= short);
    let refused = wait(tenant.submit(Double, 3_u64)).unwrap_err();
    let draining = matches!(refused, SubmitError::Refused(Refusal::Draining { .. }));
    assert!(draining, "{refused:?}");
    // One thread polls both: were the drain to block it, nobody would open the gate.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let drained = runtime.block_on(async {
        let opened = async { rig.gate.add_permits(2) };
        let (drained, ()) = futures_util::future::join(rig.acme.drain(LONG), opened).await;
        drained.unwrap()
    });
    let expected = TenantDrained {
        waited: drained.waited,
        ..TenantDrained::default()
    };
    assert_eq!(drained, expected);
    // Both were finished, not thrown away.
    assert_eq!(wait(saga).unwrap().output, 4);
    assert_eq!(wait(accepted).unwrap().output, 1);
    let counts = rig.acme.drains();
    assert_eq!((counts.calls, counts.timeouts), (2, 1));
    assert_eq!(counts.waited, left.waited + drained.waited);
    wait(rig.acme.unregister()).unwrap();
    rig.close();
}

#[test]
fn a_drain_that_is_interrupted_by_resuming_says_so() {
    let folder = tempdir().unwrap();
    let rig = Rig::open(folder.path());
    drop(wait(rig.acme.tenant().enqueue(Pass, 1_u64)).unwrap());
    let (drained, resumed) = wait(futures_util::future::join(
        rig.acme.drain(LONG),
        rig.acme.resume(),
    ));
    resumed.unwrap();
    assert!(matches!(drained, Err(TenantError::State(_))), "{drained:?}");
    rig.gate.add_permits(1);
    wait(rig.acme.tenant().submit(Double, 1_u64)).unwrap();
    rig.close();
}

/// Notes whether it ever began after a drain had returned.
#[derive(Clone, Default)]
struct Watched {
    quiet: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
    runs: Arc<AtomicU64>,
}

impl HostFunction<Pass> for Watched {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let late = self.quiet.load(Ordering::SeqCst);
        self.late.fetch_add(u64::from(late), Ordering::SeqCst);
        Ok(input)
    }
}

#[test]
fn nothing_is_published_after_a_drain_returned() {
    let folder = tempdir().unwrap();
    let watched = Watched::default();
    let engine = Engine::builder(folder.path())
        .pure(Pass, watched.clone())
        .open_blocking()
        .unwrap();
    let acme = wait(engine.manage("acme")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for lane in 0..3_u64 {
            let (tenant, stop) = (acme.tenant().clone(), &stop);
            scope.spawn(move || {
                let mut number = lane << 32;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    // Refused in between; what counts is when what was not refused runs.
                    if number.is_multiple_of(2) {
                        let _ = wait(tenant.submit(Pass, number).ephemeral());
                    } else {
                        drop(wait(tenant.enqueue(Pass, number)));
                    }
                }
            });
        }
        for round in 0..12 {
            let before = watched.runs.load(Ordering::SeqCst);
            while watched.runs.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            let drained = wait(acme.drain(LONG)).unwrap();
            assert_eq!(drained.moving, 0, "round {round}");
            watched.quiet.store(true, Ordering::SeqCst);
            for _ in 0..50 {
                std::thread::yield_now();
            }
            watched.quiet.store(false, Ordering::SeqCst);
            wait(acme.resume()).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(watched.late.load(Ordering::SeqCst), 0);
    engine.blocking().close().unwrap();
}

#[test]
fn what_is_not_allowed_is_refused_by_name_at_submission_and_before_a_replay() {
    let folder = tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let tenant = rig.acme.tenant();
    wait(tenant.submit(Double, 1_u64)).unwrap();
    wait(rig.acme.allow_only(["pass"])).unwrap();
    for number in [1_u64, 2] {
        let refused = wait(tenant.submit(Double, number)).unwrap_err();
        let expected = Refusal::NotAllowed {
            tenant: tenant.id(),
            computation: "double".into(),
        };
        assert_eq!(refused, SubmitError::Refused(expected));
        assert!(!refused.is_retryable());
        assert!(refused.to_string().contains("\"double\""), "{refused}");
    }
    rig.gate.add_permits(1);
    wait(tenant.submit(Pass, 1_u64)).unwrap();
    let only: BTreeSet<Box<str>> = ["pass".into()].into();
    assert_eq!(rig.acme.allowed().as_deref(), Some(&only));
    // Others are as free as they were.
    let other = rig.engine.blocking().tenant("other").unwrap();
    wait(other.submit(Double, 1_u64)).unwrap();
    wait(rig.acme.allow_all()).unwrap();
    wait(tenant.submit(Double, 2_u64)).unwrap();
    let unusable = wait(rig.acme.allow_only([""]));
    assert!(matches!(unusable, Err(TenantError::AllowList { .. })));
    rig.close();
}

#[test]
fn a_step_that_is_no_longer_allowed_fails_and_the_undo_before_it_is_not_blocked() {
    let folder = tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let tenant = rig.acme.tenant();
    let saga = wait(tenant.start::<Three>(Key::named("s"), 2_u64)).unwrap();
    while rig.outside.put.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    // Neither the step that comes, nor what is undone.
    wait(rig.acme.allow_only(["pass"])).unwrap();
    rig.gate.add_permits(1);
    let failed = wait(saga).unwrap_err();
    assert!(failed.to_string().contains("\"double\""), "{failed}");
    assert_eq!(rig.outside.removed.load(Ordering::SeqCst), 1);
    rig.close();
}

#[test]
fn an_engine_may_allow_new_tenants_nothing() {
    let folder = tempdir().unwrap();
    let options = Options {
        allow_by_default: false,
        ..Options::default()
    };
    for again in [false, true] {
        let engine = Engine::builder(folder.path()).options(options.clone());
        let engine = engine.pure(Double, Double).open_blocking().unwrap();
        let acme = wait(engine.manage("acme")).unwrap();
        let refused = wait(acme.tenant().submit(Double, 1_u64));
        if again {
            refused.unwrap();
        } else {
            let not_allowed = matches!(
                refused,
                Err(SubmitError::Refused(Refusal::NotAllowed { .. }))
            );
            assert!(not_allowed, "{refused:?}");
            wait(acme.allow_only(["double"])).unwrap();
        }
        engine.blocking().close().unwrap();
    }
}

#[test]
fn what_waits_for_a_permit_is_refused_if_it_is_not_allowed_any_more_when_it_gets_one() {
    let hall = Hall::new(BulkheadOptions {
        in_flight_max: 1,
        ..BulkheadOptions::new(NARROW)
    });
    let (ada, bob) = (hall.manager("ada"), hall.tenant("bob"));
    let turn = |who: &str, number: u64| (who.to_owned(), number);
    let holds = wait(bob.enqueue(Turn, turn("bob", 0))).unwrap();
    hall.until_began(1);
    let accepted = wait(ada.tenant().enqueue(Turn, turn("ada", 1))).unwrap();
    let mut awaited = ada.tenant().submit(Turn, turn("ada", 2)).into_future();
    assert!(wait(async { poll!(&mut awaited) }).is_pending());
    let saga = wait(
        ada.tenant()
            .start::<Series>(Key::named("s"), turn("ada", 1)),
    )
    .unwrap();
    until(|| {
        let snapshot = hall.engine.snapshot();
        let narrow = snapshot.bulkheads.iter().find(|one| &*one.name == NARROW);
        narrow.unwrap().ordinary.queued + snapshot.waiting as u64 == 3
    });
    wait(ada.allow_only(["another"])).unwrap();
    // Enough for all: were one of them to run, it would end.
    hall.turns.let_go(4);
    let expected = SubmitError::Refused(Refusal::NotAllowed {
        tenant: ada.tenant().id(),
        computation: "turn".into(),
    });
    assert_eq!(wait(accepted).err(), Some(expected.clone()));
    assert_eq!(wait(awaited).err(), Some(expected));
    let failed = wait(saga).unwrap_err();
    assert!(failed.to_string().contains("\"turn\""), "{failed}");
    assert_eq!(wait(holds).unwrap().output, 0);
    assert_eq!(hall.turns.began().len(), 1);
    hall.engine.blocking().close().unwrap();
}
