//! A sync of the journal that fails: what is told, what is still served, and what a reopen brings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{
    CancelError, Engine, EngineBuilder, Key, Origin, Parts, Saga, SagaContext, SagaError,
    SignalError, SignalId, StoreId, SubmitError, TenantError, Unavailable, wait,
};

use crate::support::{Double, Doubler};

/// A machine's disks.
struct Machine {
    log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
    doubler: Doubler,
}

impl Machine {
    fn new() -> Self {
        Self {
            log: SimLogDisk::new(),
            shelf: SimShelf::new(),
            disk: SimDisk::new(),
            doubler: Doubler::default(),
        }
    }

    fn open(&self) -> Engine {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        EngineBuilder::on_parts(Parts {
            store: StoreId::new([7; 16]),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        })
        .pure(Double, self.doubler.clone())
        .saga(Twice)
        .saga(Idle)
        .open_blocking()
        .unwrap()
    }
}

#[test]
fn a_failed_sync_leaves_its_waiter_unresolved_and_a_reopen_answers_the_same_key() {
    let mut machine = Machine::new();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let known = wait(tenant.submit(Double, 1_u64)).unwrap();
    assert_eq!((known.output, known.origin), (2, Origin::Ran));
    machine.log.fail_sync_after(0);
    let key = Key::named("lost");
    let unresolved = wait(tenant.submit(Double, 2_u64).key(key)).unwrap_err();
    assert_eq!(unresolved, SubmitError::Unresolved { key });
    assert!(!unresolved.is_retryable());

    let poisoned = SubmitError::Unavailable(Unavailable::Poisoned);
    assert_eq!(wait(tenant.submit(Double, 3_u64)).unwrap_err(), poisoned);
    assert_eq!(wait(tenant.enqueue(Double, 4_u64)).unwrap_err(), poisoned);
    assert!(!poisoned.is_retryable());
    // What was told once is told again.
    let replayed = wait(tenant.submit(Double, 1_u64)).unwrap();
    assert_eq!((replayed.output, replayed.origin), (2, Origin::Replayed));
    assert_eq!(*machine.doubler.runs.lock().unwrap(), [1, 2]);
    let _ = engine.blocking().close();
    drop((tenant, engine));

    machine.log = machine.log.crash(3);
    machine.shelf.crash(4);
    machine.disk = machine.disk.crash(5);
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let known = wait(tenant.submit(Double, 1_u64)).unwrap();
    assert_eq!((known.output, known.origin), (2, Origin::Replayed));
    let answered = wait(tenant.submit(Double, 2_u64).key(key)).unwrap();
    assert_eq!(answered.output, 4);
    let runs = machine.doubler.runs.lock().unwrap().clone();
    match answered.origin {
        Origin::Replayed => assert_eq!(runs, [1, 2]),
        Origin::Ran => assert_eq!(runs, [1, 2, 2]),
        Origin::Joined => panic!("nobody else asked"),
    }
    let again = wait(tenant.submit(Double, 2_u64).key(key)).unwrap();
    assert_eq!((again.output, again.origin), (4, Origin::Replayed));
    engine.blocking().close().unwrap();
}

/// Doubles twice.
struct Twice;

impl Saga for Twice {
    const NAME: &'static str = "twice";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        let once = saga.step("once", Double, input).await?;
        Ok(saga.step("twice", Double, once).await?)
    }
}

#[test]
fn acceptances_and_tenants_that_met_a_failed_sync_are_unresolved_and_a_reopen_has_them() {
    let keeps = |act: &dyn Fn(&Engine)| {
        let mut machine = Machine::new();
        let engine = machine.open();
        engine.blocking().tenant("a").unwrap();
        machine.log.fail_sync_after(0);
        act(&engine);
        let _ = engine.blocking().close();
        drop(engine);
        machine.log = machine.log.crash(3);
        machine.shelf.crash(4);
        machine.disk = machine.disk.crash(5);
        let engine = machine.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        engine.blocking().tenant("b").unwrap();
        let ticket = wait(tenant.start::<Twice>(Key::named("s"), 3_u64)).unwrap();
        assert_eq!(wait(ticket).unwrap().output, 12);
        let ticket = wait(tenant.enqueue(Double, 5_u64).key(Key::named("e"))).unwrap();
        assert_eq!(wait(ticket).unwrap().output, 10);
        engine.blocking().close().unwrap();
    };
    keeps(&|engine| {
        let tenant = engine.blocking().tenant("a").unwrap();
        let key = Key::named("s");
        let error = wait(tenant.start::<Twice>(key, 3_u64)).unwrap_err();
        assert_eq!(error, SubmitError::Unresolved { key });
    });
    keeps(&|engine| {
        let tenant = engine.blocking().tenant("a").unwrap();
        let key = Key::named("e");
        let error = wait(tenant.enqueue(Double, 5_u64).key(key)).unwrap_err();
        assert_eq!(error, SubmitError::Unresolved { key });
        // Asked again before the reopen, nobody can tell either.
        let again = wait(tenant.enqueue(Double, 5_u64).key(key)).unwrap_err();
        let poisoned = SubmitError::Unavailable(Unavailable::Poisoned);
        assert!([error, poisoned].contains(&again), "{again:?}");
    });
    keeps(&|engine| {
        let error = engine.blocking().tenant("b").unwrap_err();
        assert_eq!(error, TenantError::Unresolved);
    });
}

/// Waits for something else than the journal.
struct Idle;

impl Saga for Idle {
    const NAME: &'static str = "idle";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, wait: u64) -> Result<(), SagaError> {
        match wait {
            0 => Ok(saga.signal("go").await?),
            1 => Ok(saga.sleep("nap", Duration::from_hours(1)).await?),
            _ => Ok(saga.child::<Self>("child", 0_u64).await?),
        }
    }
}

#[test]
fn whoever_waits_for_a_saga_that_only_waits_is_told_that_the_journal_failed() {
    let mut machine = Machine::new();
    let engine = machine.open();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let key = |idle: u64| Key::named(&format!("idle {idle}"));
    let mut tickets: Vec<_> = [0_u64, 1, 2]
        .into_iter()
        .map(|idle| wait(tenant.start::<Idle>(key(idle), idle)).unwrap())
        .collect();
    // The first write that fails is nobody's of these.
    wait(tenant.submit(Double, 1_u64)).unwrap();
    while wait(engine.operator().list(orlop::SagaQuery::default()))
        .unwrap()
        .sagas
        .len()
        < 4
    {
        std::thread::yield_now();
    }
    machine.log.fail_sync_after(0);
    let error = wait(tenant.submit(Double, 2_u64)).unwrap_err();
    assert!(matches!(error, SubmitError::Unresolved { .. }), "{error:?}");
    for (idle, ticket) in (0..).zip(&mut tickets) {
        let told = wait(ticket.wait_for(Duration::from_secs(20))).unwrap_err();
        assert_eq!(told, SubmitError::Unresolved { key: key(idle) });
    }
    // It is not over: nobody may take it for that.
    let told = wait(tenant.signal(key(0), "go", SignalId::named("1"), &()));
    assert!(
        matches!(told, Err(SignalError::NotRecorded { .. })),
        "{told:?}"
    );
    let told = wait(tickets[0].cancel());
    assert!(
        matches!(told, Err(CancelError::NotRecorded { .. })),
        "{told:?}"
    );
    drop(tickets);
    let _ = engine.blocking().close();
    drop((manager, engine));

    machine.log = machine.log.crash(3);
    machine.shelf.crash(4);
    machine.disk = machine.disk.crash(5);
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Idle>(key(0), 0_u64)).unwrap();
    wait(tenant.signal(key(0), "go", SignalId::named("1"), &())).unwrap();
    wait(ticket).unwrap();
    engine.blocking().close().unwrap();
}
