//! What each level of durability keeps when the process dies and when the machine loses power.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::poll;
use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{Engine, EngineBuilder, Key, Origin, Parts, StoreId, wait};

use crate::gate::{Gate, Pass};
use crate::support::{Double, Doubler, World};

#[derive(Default)]
struct Machine {
    log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
    doubler: Doubler,
}

impl Machine {
    fn open(&self, gate: &Gate) -> Engine {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        EngineBuilder::on_parts(Parts {
            store: StoreId::new([7; 16]),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        })
        .options(Gate::options())
        .pure(Double, self.doubler.clone())
        .pure(Pass, gate.clone())
        .open_blocking()
        .unwrap()
    }

    /// What is left: everything written if only the process died, what was synced and anything of
    /// the rest if the power went.
    fn ended(self, power: Option<u64>) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        let seed = power.unwrap_or_default();
        self.shelf.crash(seed);
        Self {
            log: match power {
                Some(seed) => self.log.crash(seed),
                None => self.log.crash_keeping(u64::MAX),
            },
            disk: self.disk.crash(seed),
            ..self
        }
    }
}

fn each_level_keeps_what_it_promises(power: Option<u64>) {
    let machine = Machine::default();
    let gate = Gate::new();
    let engine = machine.open(&gate);
    let tenant = engine.blocking().tenant("a").unwrap();
    wait(tenant.submit(Double, 1_u64).ephemeral()).unwrap();
    wait(tenant.submit(Double, 2_u64)).unwrap();
    let ticket = wait(tenant.enqueue(Double, 3_u64)).unwrap();
    wait(ticket).unwrap();
    // One runs and is awaited, one is accepted and waits behind it.
    let mut awaited = tenant.submit(Pass, 4_u64).into_future();
    assert!(wait(async { poll!(&mut awaited) }).is_pending());
    gate.wait_started();
    let accepted = wait(tenant.enqueue(Pass, 5_u64).key(Key::named("5"))).unwrap();
    let machine = machine.ended(power);
    drop((accepted, awaited, tenant, engine));

    machine.doubler.runs.lock().unwrap().clear();
    let gate = Gate::new();
    gate.let_go(9);
    let engine = machine.open(&gate);
    // The accepted one goes on with nobody asking; the awaited one is unknown.
    gate.wait_started();
    assert_eq!(engine.recovery().effects, 1);
    let tenant = engine.blocking().tenant("a").unwrap();
    let accepted = wait(tenant.submit(Pass, 5_u64).key(Key::named("5"))).unwrap();
    assert_eq!(accepted.output, 5);
    assert_ne!(accepted.origin, Origin::Ran);
    let awaited = wait(tenant.submit(Pass, 4_u64)).unwrap();
    assert_eq!((awaited.output, awaited.origin), (4, Origin::Ran));
    for (input, origin) in [
        (1, Origin::Ran),
        (2, Origin::Replayed),
        (3, Origin::Replayed),
    ] {
        let told = wait(tenant.submit(Double, input)).unwrap();
        assert_eq!((told.output, told.origin), (input * 2, origin), "{input}");
    }
    assert_eq!(*machine.doubler.runs.lock().unwrap(), [1]);
    engine.blocking().close().unwrap();
}

#[test]
fn each_level_keeps_what_it_promises_when_the_process_dies() {
    each_level_keeps_what_it_promises(None);
}

#[test]
fn each_level_keeps_what_it_promises_when_the_machine_loses_power() {
    for seed in 1..6 {
        each_level_keeps_what_it_promises(Some(seed));
    }
}

#[test]
fn two_engines_of_one_process_on_two_folders_know_nothing_of_each_other() {
    let (first, second) = (World::new(), World::new());
    let engines = [first.open(), second.open()];
    let [a, b] = engines
        .each_ref()
        .map(|engine| engine.blocking().tenant("a").unwrap());
    let key = Key::named("k");
    assert_eq!(wait(a.submit(Double, 1_u64).key(key)).unwrap().output, 2);
    let other = wait(b.submit(Double, 2_u64).key(key)).unwrap();
    assert_eq!((other.output, other.origin), (4, Origin::Ran));
    let [one, two] = engines;
    one.blocking().close().unwrap();
    // One ends, the other goes on.
    let again = wait(b.submit(Double, 2_u64).key(key)).unwrap();
    assert_eq!(again.origin, Origin::Replayed);
    two.blocking().close().unwrap();
}
