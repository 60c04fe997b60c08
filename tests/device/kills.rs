//! A device's process killed with SIGKILL again and again while durable work runs on it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use orlop::{
    BulkheadSnapshot, Engine, Key, Origin, Reply, Saga, SagaContext, SagaError, Tenant, wait,
};

use crate::support::{Stamp, builder, kill, process_after, runs};

type Stamped = (u32, u32, u64);

/// Three steps on the device, one after the other.
struct Thrice;

impl Saga for Thrice {
    const NAME: &'static str = "thrice";
    type Input = u32;
    type Output = Vec<Stamped>;

    async fn run(&self, saga: SagaContext, number: u32) -> Result<Vec<Stamped>, SagaError> {
        let mut stamped = Vec::new();
        for step in 0..3 {
            let name = ["one", "two", "three"][step as usize];
            stamped.push(saga.step(name, Stamp, number * 3 + step).await?);
        }
        Ok(stamped)
    }
}

fn setting(name: &str, or: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(or, |value| value.parse().unwrap())
}

/// What was told of each piece of work, by its number.
#[derive(Default)]
struct Told {
    effects: Vec<Stamped>,
    sagas: Vec<Vec<Stamped>>,
}

const SAGA: u32 = 1 << 24;

fn key(number: u32) -> Key {
    Key::named(&format!("effect {number}"))
}

fn saga_key(number: u32) -> Key {
    Key::named(&format!("saga {number}"))
}

/// Keeps the device busy until it is told to stop.
fn work(tenant: &Tenant, over: &AtomicBool) -> Told {
    let mut told = Told::default();
    while !over.load(Ordering::Acquire) {
        let first = u32::try_from(told.effects.len()).unwrap();
        let number = u32::try_from(told.sagas.len()).unwrap();
        let input = SAGA + number;
        let saga = wait(tenant.start::<Thrice>(saga_key(number), input)).unwrap();
        let tickets: Vec<_> = (first..first + 16)
            .map(|number| wait(tenant.enqueue(Stamp, number).key(key(number))).unwrap())
            .collect();
        told.effects.extend(tickets.into_iter().map(|ticket| {
            let reply = wait(ticket).unwrap();
            assert_ne!(reply.origin, Origin::Replayed);
            reply.output
        }));
        told.sagas.push(wait(saga).unwrap().output);
    }
    told
}

fn kill_again_and_again(engine: &Engine, kills: u64, seed: u64, over: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed);
    for losses in 0..kills {
        let process = process_after(engine, losses);
        // Any moment of its life will do, the first ones of its work and quiet ones included.
        std::thread::sleep(Duration::from_micros(random.u64(0..40_000)));
        kill(process);
    }
    let last = process_after(engine, kills);
    assert!(runs(last));
    over.store(true, Ordering::Release);
}

/// Every key stands for what was told under it, and nothing runs again.
fn check(tenant: &Tenant, told: &Told) {
    for (number, stamped) in (0..).zip(&told.effects) {
        let replayed: Reply<Stamped> = wait(tenant.submit(Stamp, number).key(key(number))).unwrap();
        assert_eq!(replayed.origin, Origin::Replayed);
        assert_eq!(
            replayed.output, *stamped,
            "effect {number} has two outcomes"
        );
        assert_eq!(stamped.0, number);
    }
    for (number, stamped) in (0..).zip(&told.sagas) {
        let ticket = wait(tenant.start::<Thrice>(saga_key(number), SAGA + number)).unwrap();
        let replayed = wait(ticket).unwrap();
        assert_eq!(replayed.output, *stamped, "saga {number} has two outcomes");
        let asked = stamped.iter().map(|stamped| stamped.0);
        assert!(asked.eq((SAGA + number) * 3..(SAGA + number) * 3 + 3));
    }
}

#[test]
fn a_device_killed_fifty_times_under_durable_work_loses_nothing_and_does_nothing_twice() {
    let (kills, seed) = (
        setting("ORLOP_DEVICE_KILLS", 50),
        setting("ORLOP_DEVICE_SEED", 1),
    );
    let began = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        builder(folder.path(), 1 << 20)
            .saga(Thrice)
            .open_blocking()
            .unwrap()
    };
    let engine = open();
    let over = AtomicBool::new(false);
    let tenants = ["a", "b"].map(|label| engine.blocking().tenant(label).unwrap());
    let told: Vec<Told> = std::thread::scope(|scope| {
        let workers = tenants
            .each_ref()
            .map(|tenant| scope.spawn(|| work(tenant, &over)));
        kill_again_and_again(&engine, kills, seed, &over);
        workers.map(|worker| worker.join().unwrap()).into()
    });
    for (tenant, told) in tenants.iter().zip(&told) {
        check(tenant, told);
    }
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.device_losses, kills);
    let quiet = |b: &BulkheadSnapshot| b.ordinary.in_flight + b.reserved.in_flight == 0;
    assert!(
        snapshot.bulkheads.iter().all(quiet),
        "a permit was not given back"
    );
    engine.blocking().close().unwrap();
    drop((tenants, engine));

    // And so says the journal.
    let engine = open();
    for (label, told) in ["a", "b"].iter().zip(&told) {
        check(&engine.blocking().tenant(label).unwrap(), told);
    }
    engine.blocking().close().unwrap();
    let effects = || told.iter().flat_map(|told| &told.effects);
    let steps = || told.iter().flat_map(|told| told.sagas.iter().flatten());
    let all: Vec<_> = effects().chain(steps()).collect();
    let distinct: BTreeSet<_> = all.iter().map(|stamped| (stamped.1, stamped.2)).collect();
    assert_eq!(distinct.len(), all.len(), "one run is the outcome of two");
    let processes: BTreeSet<u32> = all.iter().map(|stamped| stamped.1).collect();
    assert!(processes.len() > 1, "nothing was done after a kill");
    // Where a passing test's own output is not swallowed.
    let _ = writeln!(
        std::io::stderr(),
        "device killed {kills} times: {} effects and {} steps of sagas by {} processes, \
         lost 0, doubled 0, in {:.1} s",
        effects().count(),
        steps().count(),
        processes.len(),
        began.elapsed().as_secs_f32()
    );
}
