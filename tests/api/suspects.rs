//! Sagas whose code ends the process: found one at a time, paused, and nobody else is.
//!
//! A process that dies is a driver that never returns from the poll, over disks that stop there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{
    Engine, EngineBuilder, Key, Limits, Options, Parts, PauseReason, Saga, SagaContext, SagaError,
    SagaStatus, SignalId, StoreId, SubmitError, wait,
};

use crate::support::{Double, Doubler};

const PATIENCE: Duration = Duration::from_mins(1);
/// How often a saga may be charged here.
const CRASHES_MAX: u32 = 2;

#[derive(Clone)]
struct Machine {
    log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
    doubler: Doubler,
    tamed: Arc<AtomicBool>,
}

impl Machine {
    fn new() -> Self {
        Self {
            log: SimLogDisk::new(),
            shelf: SimShelf::new(),
            disk: SimDisk::new(),
            doubler: Doubler::default(),
            tamed: Arc::default(),
        }
    }

    /// An engine, and where its deaths are told.
    fn open(&self) -> (Engine, Receiver<()>) {
        let (tell, told) = channel();
        let killer = Killer {
            tamed: Arc::clone(&self.tamed),
            tell,
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let options = Options {
            limits: Limits {
                saga_crashes_max: CRASHES_MAX,
                ..Limits::default()
            },
            ..Options::default()
        };
        let engine = EngineBuilder::on_parts(Parts {
            store: StoreId::new([7; 16]),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        })
        .options(options)
        .pure(Double, self.doubler.clone())
        .saga(Steps(killer.clone()))
        .saga(Sleeps(killer))
        .saga(Gentle)
        .open_blocking()
        .unwrap();
        (engine, told)
    }

    /// What is left after the process died; what is written stays.
    fn died(self, engine: Engine) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        // Its driver may never return, so nobody waits for it.
        std::mem::forget(engine);
        let shelf = self.shelf.clone();
        shelf.crash(0);
        Self {
            log: self.log.crash_keeping(u64::MAX),
            disk: self.disk.crash(0),
            ..self
        }
    }
}

#[derive(Clone)]
struct Killer {
    tamed: Arc<AtomicBool>,
    tell: Sender<()>,
}

impl Killer {
    fn kill(&self) {
        if self.tamed.load(Ordering::SeqCst) {
            return;
        }
        let _ = self.tell.send(());
        loop {
            std::thread::park();
        }
    }
}

/// Kills when it is told of its step.
struct Steps(Killer);

impl Saga for Steps {
    const NAME: &'static str = "steps";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        let once = saga.step("once", Double, input).await?;
        self.0.kill();
        Ok(saga.step("twice", Double, once).await?)
    }
}

/// Kills when it wakes.
struct Sleeps(Killer);

impl Saga for Sleeps {
    const NAME: &'static str = "sleeps";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        saga.sleep("nap", Duration::from_millis(1)).await?;
        self.0.kill();
        Ok(input)
    }
}

/// Waits to be told.
struct Gentle;

impl Saga for Gentle {
    const NAME: &'static str = "gentle";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        let once = saga.step("once", Double, input).await?;
        let more: u64 = saga.signal("go").await?;
        Ok(once + more)
    }
}

/// Opens until nobody kills any more; what is open then, and how often it died on probation.
fn until_found(mut machine: Machine) -> (Machine, Engine, u32) {
    let (mut deaths, mut probed) = (0, 0);
    loop {
        let (engine, died) = machine.open();
        if !engine.recovery().suspects.is_empty() {
            return (machine, engine, probed);
        }
        assert!(deaths < 12, "nobody is found");
        died.recv_timeout(PATIENCE).expect("it kills");
        deaths += 1;
        probed += u32::from(engine.recovery().probation);
        machine = machine.died(engine);
    }
}

fn the_killer_is_found_and_nobody_else<S: Saga<Input = u64, Output = u64>>(output: u64) {
    let machine = Machine::new();
    let (engine, died) = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    drop(wait(tenant.start::<Gentle>(Key::named("good"), 1_u64)).unwrap());
    drop(wait(tenant.start::<S>(Key::named("bad"), 1_u64)).unwrap());
    died.recv_timeout(PATIENCE).expect("it kills");
    let machine = machine.died(engine);
    let (machine, engine, probed) = until_found(machine);
    assert_eq!(probed, CRASHES_MAX, "deaths that charged it");

    let manager = wait(engine.manage("a")).unwrap();
    let (tenant, operator) = (manager.tenant(), manager.operator());
    let bad = wait(operator.find(Key::named("bad"))).unwrap();
    assert_eq!(engine.recovery().suspects, [bad]);
    let ticket = wait(tenant.start::<S>(Key::named("bad"), 1_u64)).unwrap();
    let stuck = wait(ticket).unwrap_err();
    assert!(matches!(stuck, SubmitError::Stuck { .. }), "{stuck:?}");
    let crashes = CRASHES_MAX;
    assert_eq!(
        wait(operator.show(bad)).unwrap().summary.status,
        SagaStatus::Paused(PauseReason::Suspect { crashes })
    );
    let go = (Key::named("good"), SignalId::named("1"));
    wait(tenant.signal(go.0, "go", go.1, &5_u64)).unwrap();
    let healthy = wait(tenant.start::<Gentle>(go.0, 1_u64)).unwrap();
    assert_eq!(wait(healthy).unwrap().output, 7);

    // Corrected, it goes on, and the next opening knows of no suspect.
    machine.tamed.store(true, Ordering::SeqCst);
    wait(operator.resume(bad)).unwrap();
    let mut ticket = wait(tenant.start::<S>(Key::named("bad"), 1_u64)).unwrap();
    let reply = wait(ticket.wait_for(PATIENCE)).unwrap();
    assert_eq!(reply.output, output);
    engine.blocking().close().unwrap();
    let (engine, _) = machine.open();
    let recovery = engine.recovery();
    assert!(recovery.suspects.is_empty() && !recovery.probation);
    engine.blocking().close().unwrap();
}

#[test]
fn a_saga_that_ends_the_process_when_told_of_a_step_is_found_and_paused() {
    the_killer_is_found_and_nobody_else::<Steps>(4);
}

#[test]
fn a_saga_that_ends_the_process_when_it_wakes_is_found_and_paused() {
    the_killer_is_found_and_nobody_else::<Sleeps>(1);
}

#[test]
fn crashes_after_recoveries_that_got_through_name_nobody() {
    let mut machine = Machine::new();
    for life in 0..5_u64 {
        let (engine, _) = machine.open();
        assert!(!engine.recovery().probation, "life {life}");
        let tenant = engine.blocking().tenant("a").unwrap();
        let key = Key::named("s");
        drop(wait(tenant.start::<Gentle>(key, 1_u64)).unwrap());
        // Recorded behind the end of the recovery.
        let id = SignalId::named(&life.to_string());
        wait(tenant.signal(key, "other", id, &0_u64)).unwrap();
        machine = machine.died(engine);
    }
}
