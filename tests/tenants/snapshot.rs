//! Snapshots: what a dashboard is told of everybody's work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use orlop::{
    Attempt, BulkheadOptions, Clock, Computation, Failure, HostFunction, Key, Monotonic, Options,
    Pure, Quotas, SagaId, SignalId, StatusKind, WallMillis, wait,
};
use tempfile::tempdir;
use tokio::sync::Semaphore;

use crate::support::{Double, Listener, Two, patient};

fn lane<'a>(
    snapshot: &'a orlop::EngineSnapshot,
    name: &str,
) -> (&'a orlop::BulkheadSnapshot, &'a orlop::BulkheadMeter) {
    let place = snapshot.bulkheads.iter().position(|it| &*it.name == name);
    let place = place.unwrap();
    assert_eq!(&*snapshot.meters[place].name, name);
    (&snapshot.bulkheads[place], &snapshot.meters[place])
}

#[test]
fn a_snapshot_says_what_ran_what_it_cost_and_what_was_refused() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let before = two.engine.snapshot();
    for n in 0..5_u64 {
        wait(two.alice.tenant().submit(Double, n)).unwrap();
    }
    let none = Quotas {
        slots_max: 0,
        ..Quotas::UNLIMITED
    };
    wait(two.mallory.set_quotas(none)).unwrap();
    for n in 0..3_u64 {
        wait(two.mallory.tenant().submit(Double, n)).unwrap_err();
    }
    let after = two.engine.snapshot();
    let (bulkhead, meter) = lane(&after, "host-io");
    assert_eq!(
        (bulkhead.ordinary.granted, bulkhead.ordinary.in_flight),
        (5, 0)
    );
    assert_eq!(bulkhead.ordinary.refused.never_fits, 3);
    let (service, estimates) = (&meter.ordinary.service, &meter.ordinary.estimates);
    assert_eq!((service.count(), estimates.count()), (5, 5));
    assert_eq!(service.sum(), bulkhead.ordinary.busy.get());
    assert_eq!(meter.reserved, orlop::LaneMeter::default());
    let (_, idle) = lane(&after, "device");
    assert_eq!(idle.ordinary, orlop::LaneMeter::default());
    let alice = two.alice.snapshot();
    assert_eq!(alice.settled, 5);
    assert!(after.tenants.contains(&alice) && after.tenants.contains(&two.mallory.snapshot()));
    let (was, is) = (before.store.journal, after.store.journal);
    assert!(is.batches >= was.batches + 5 && is.bytes > was.bytes);
    assert_eq!(is.syncs.count(), is.groups);
    assert!(is.groups > was.groups && is.groups <= is.batches);
    assert_eq!(after.audit.refused, 3);
    two.close();
}

/// Gives back its input, once its code is let go.
#[derive(Clone, Copy)]
struct Pass;

struct Gate(Arc<Semaphore>);

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn monotonic(&self) -> Monotonic {
        Monotonic::new(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> WallMillis {
        WallMillis::new(1)
    }
}

impl Computation for Pass {
    const NAME: &'static str = "pass";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Pass> for Gate {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        let passed = self.0.acquire().await.map_err(Failure::permanent)?;
        passed.forget();
        Ok(input)
    }

    fn bulkhead(&self) -> &'static str {
        "narrow"
    }
}

#[test]
fn how_long_requests_waited_is_told_of_those_that_did_and_of_those_that_did_not() {
    let folder = tempdir().unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let options = Options {
        bulkheads: vec![BulkheadOptions {
            in_flight_max: 1,
            ..BulkheadOptions::new("narrow")
        }],
        ..Options::default()
    };
    let clock = Arc::new(Still::default());
    let engine = orlop::Engine::builder(folder.path().join("store"))
        .options(options)
        .clock(Arc::<Still>::clone(&clock))
        .pure(Pass, Gate(Arc::clone(&gate)))
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("alice").unwrap();
    let first = wait(tenant.enqueue(Pass, 1_u64)).unwrap();
    let second = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    while lane(&engine.snapshot(), "narrow").0.ordinary.queued == 0 {
        std::thread::yield_now();
    }
    clock.0.fetch_add(40_000_000, Ordering::SeqCst);
    gate.add_permits(2);
    wait(first).unwrap();
    wait(second).unwrap();
    let snapshot = engine.snapshot();
    let (bulkhead, meter) = lane(&snapshot, "narrow");
    assert_eq!(bulkhead.ordinary.granted, 2);
    let waits = meter.ordinary.waits;
    assert_eq!((waits.count(), waits.counts()[0]), (2, 1));
    assert_eq!(waits.sum(), 40_000_000);
    engine.blocking().close().unwrap();
}

#[test]
fn sagas_are_counted_by_state_and_found_ones_came_from_nowhere() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let tenant = two.alice.tenant();
    let start = |key| wait(tenant.start::<Listener>(Key::named(key), 1_u64)).unwrap();
    let (first, second, third) = (start("1"), start("2"), start("3"));
    let say = |saga: SagaId| tenant.signal(saga, "word", SignalId::named("1"), &7_u64);
    wait(say(first.id().unwrap())).unwrap();
    assert_eq!(wait(first).unwrap().output, 7);
    let operator = two.alice.operator();
    wait(operator.pause(second.id().unwrap(), "for now")).unwrap();
    let counts = two.engine.snapshot().saga_counts;
    let count = |kind| (counts.now(kind), counts.entered(kind));
    assert_eq!(count(StatusKind::Running), (1, 3));
    assert_eq!(count(StatusKind::Paused), (1, 1));
    assert_eq!(counts.entered(StatusKind::Completed), 1);
    let (paused, listening) = (second.id().unwrap(), third.id().unwrap());
    drop((second, third));
    two.close();
    let two = Two::open(folder.path());
    // Whatever is asked of a saga is answered after it was found.
    for saga in [paused, listening] {
        wait(two.alice.operator().show(saga)).unwrap();
    }
    let counts = two.engine.snapshot().saga_counts;
    let count = |kind| (counts.now(kind), counts.entered(kind));
    assert_eq!(count(StatusKind::Running), (1, 0));
    assert_eq!(count(StatusKind::Paused), (1, 0));
    wait(two.alice.operator().abandon(paused, "enough")).unwrap();
    // Once the driver answers for another one, it has let go of the one that ended.
    wait(two.alice.operator().show(listening)).unwrap();
    let counts = two.engine.snapshot().saga_counts;
    assert_eq!(counts.now(StatusKind::Paused), 0);
    assert_eq!(counts.entered(StatusKind::Abandoned), 1);
    assert_eq!(counts.now(StatusKind::Abandoned), 0);
    assert_eq!(counts.now(StatusKind::Running), 1);
    two.close();
}

#[test]
fn a_snapshot_into_storage_of_the_caller_allocates_nothing() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    for engagement in 0..3 {
        let audit = orlop::AuditTag {
            organisation: 1,
            engagement,
        };
        let budgets = two.engine.budgets();
        wait(budgets.grant(audit, orlop::BusyNanos::new(1))).unwrap();
    }
    let mut snapshot = two.engine.snapshot();
    let first = snapshot.store.journal.batches;
    for n in 0..5_u64 {
        wait(two.alice.tenant().submit(Double, n)).unwrap();
    }
    let counted = allocation_counter::measure(|| two.engine.snapshot_into(&mut snapshot));
    assert_eq!(counted.count_total, 0);
    assert!(snapshot.store.journal.batches > first, "it was written");
    assert_eq!((snapshot.tenants.len(), snapshot.budgets.len()), (2, 3));
    let counted = allocation_counter::measure(|| drop(two.engine.snapshot()));
    assert!(counted.count_total > 0, "the counter counts");
    two.close();
}

#[test]
fn options_of_the_audit_out_of_their_bounds_are_refused() {
    let folder = tempdir().unwrap();
    let mut options = Options {
        audit: patient(),
        ..Options::default()
    };
    options.audit.queue_max = 0;
    let opened = orlop::Engine::builder(folder.path().join("store"))
        .options(options)
        .open_blocking();
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("audit.queue_max"), "{error}");
}
