//! Starts: paused ones, and deadlines under clocks that are set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orlop::testkit::SimClock;
use orlop::{
    Clock, Failure, Key, Monotonic, Saga, SagaContext, SagaError, SignalError, SignalId, Signalled,
    SubmitError, SystemClock, WallMillis, wait,
};

use crate::support::{Put, Remove, World};

const PATIENCE: Duration = Duration::from_mins(1);

/// A clock whose wall time can be set.
#[derive(Debug, Default)]
pub(crate) struct SetClock {
    system: SystemClock,
    set_ms: AtomicI64,
}

impl SetClock {
    pub(crate) fn jump(&self, by: i64) {
        self.set_ms.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn wall(&self) -> WallMillis {
        let set = self.set_ms.load(Ordering::Relaxed);
        WallMillis::new(self.system.wall().get().saturating_add_signed(set))
    }

    fn monotonic(&self) -> Monotonic {
        self.system.monotonic()
    }
}

/// Puts a name, and waits for a signal before or after its pivot.
struct Waiter;

impl Saga for Waiter {
    const NAME: &'static str = "waiter";
    type Input = bool;
    type Output = ();

    async fn run(&self, saga: SagaContext, pivots: bool) -> Result<(), SagaError> {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        if pivots {
            let saga = saga.pivot().await?;
            saga.step("two", Put, "two").await?;
            return Ok(saga.signal("go").await?);
        }
        Ok(saga.signal("go").await?)
    }
}

fn expired() -> SubmitError {
    SubmitError::Failed(Failure::permanent("its deadline passed"))
}

#[test]
fn a_deadline_before_the_pivot_unwinds_with_a_cause_of_its_own() {
    let world = World::new();
    let clock = SimClock::new(1);
    let builder = world.builder().clock(Arc::new(clock.clone()));
    let engine = builder.saga(Waiter).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let soon = Duration::from_millis(300);
    let start = tenant.start::<Waiter>(Key::named("s"), false);
    let mut ticket = wait(start.finish_within(soon)).unwrap();
    let ended = clock.run(ticket.wait_for(PATIENCE)).expect("an end");
    assert_eq!(ended.unwrap_err(), expired());
    assert_eq!(world.outside.ledger(), ["put one", "remove one"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_deadline_after_the_pivot_leaves_the_saga_going() {
    let world = World::new();
    let clock = SimClock::new(1);
    let builder = world.builder().clock(Arc::new(clock.clone()));
    let engine = builder.saga(Waiter).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("s");
    let soon = Duration::from_secs(2);
    let mut ticket = wait(tenant.start::<Waiter>(key, true).finish_within(soon)).unwrap();
    // Both steps take no time, so the deadline finds the saga behind its pivot.
    let pending = clock.run(ticket.wait_for(soon + soon / 4)).expect("an end");
    assert_eq!(
        pending.unwrap_err(),
        SubmitError::Expired,
        "the caller's patience, and no end of the saga"
    );
    assert_eq!(world.outside.ledger(), ["put one", "put two"]);
    let told = wait(tenant.signal(key, "go", SignalId::named("1"), &()));
    assert_eq!(told, Ok(Signalled::Recorded));
    wait(ticket.wait_for(PATIENCE)).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn a_wall_clock_that_is_set_while_the_store_is_open_moves_no_deadline() {
    let world = World::new();
    let clock = Arc::new(SetClock::default());
    let builder = world.builder().clock(Arc::<SetClock>::clone(&clock));
    let engine = builder.saga(Waiter).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let (near, far) = (Key::named("near"), Key::named("far"));
    let start = tenant.start::<Waiter>(far, false);
    let far_ticket = wait(start.finish_within(Duration::from_hours(1))).unwrap();
    let start = tenant.start::<Waiter>(near, false);
    let mut near_ticket = wait(start.finish_within(Duration::from_millis(300))).unwrap();
    // Two days back: the near one passes all the same. Four days ahead: the far one does not.
    clock.jump(-2 * 86_400_000);
    assert_eq!(wait(near_ticket.wait_for(PATIENCE)).unwrap_err(), expired());
    clock.jump(4 * 86_400_000);
    let told = wait(tenant.signal(far, "go", SignalId::named("1"), &()));
    assert_eq!(told, Ok(Signalled::Recorded));
    wait(far_ticket).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn a_deadline_that_passed_by_the_wall_clock_while_the_store_was_closed_counts_at_open() {
    for (jump, passes) in [(2 * 86_400_000, true), (-2 * 86_400_000, false)] {
        let world = World::new();
        let key = Key::named("s");
        let clock = Arc::new(SetClock::default());
        let open = || {
            let builder = world.builder().clock(Arc::<SetClock>::clone(&clock));
            builder.saga(Waiter).open_blocking().unwrap()
        };
        let engine = open();
        let tenant = engine.blocking().tenant("a").unwrap();
        let start = tenant.start::<Waiter>(key, false);
        let _ticket = wait(start.finish_within(Duration::from_hours(24))).unwrap();
        engine.blocking().close().unwrap();
        drop((engine, tenant));
        clock.jump(jump);
        let engine = open();
        let tenant = engine.blocking().tenant("a").unwrap();
        if !passes {
            let told = wait(tenant.signal(key, "go", SignalId::named("1"), &()));
            assert_eq!(told, Ok(Signalled::Recorded));
        }
        let mut ticket = wait(tenant.start::<Waiter>(key, false)).unwrap();
        let ended = wait(ticket.wait_for(PATIENCE));
        if passes {
            assert_eq!(ended.unwrap_err(), expired());
            assert!(world.outside.present().is_empty());
        } else {
            ended.unwrap();
            assert_eq!(world.outside.ledger(), ["put one"]);
        }
        engine.blocking().close().unwrap();
    }
}

#[test]
fn a_saga_that_was_started_paused_stays_so_after_a_restart_until_it_is_resumed() {
    let world = World::new();
    let key = Key::named("s");
    {
        let engine = world.builder().saga(Waiter).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let paused = wait(tenant.start::<Waiter>(key, false).paused()).unwrap();
        let stuck = wait(paused).unwrap_err();
        assert!(
            matches!(&stuck, SubmitError::Stuck { reason, .. } if &**reason == "paused: it was started so"),
            "{stuck:?}"
        );
        engine.blocking().close().unwrap();
    }
    let engine = world.builder().saga(Waiter).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let ticket = wait(tenant.start::<Waiter>(key, false)).unwrap();
    assert!(matches!(wait(ticket), Err(SubmitError::Stuck { .. })));
    let told = wait(tenant.signal(key, "go", SignalId::named("1"), &()));
    assert_eq!(told, Ok(Signalled::Recorded));
    assert!(world.outside.ledger().is_empty());
    assert!(manager.retry(key));
    while world.outside.ledger().is_empty() {
        std::thread::yield_now();
    }
    let mut ticket = wait(tenant.start::<Waiter>(key, false)).unwrap();
    wait(ticket.wait_for(PATIENCE)).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn a_paused_saga_whose_deadline_passes_is_compensated_without_having_run() {
    let world = World::new();
    let engine = world.builder().saga(Waiter).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("s");
    let start = tenant.start::<Waiter>(key, false).paused();
    drop(wait(start.finish_within(Duration::from_millis(50))).unwrap());
    let ended = loop {
        let mut ticket = wait(tenant.start::<Waiter>(key, false)).unwrap();
        let ended = wait(ticket.wait_for(PATIENCE)).unwrap_err();
        if !matches!(ended, SubmitError::Stuck { .. }) {
            break ended;
        }
        std::thread::yield_now();
    };
    assert_eq!(ended, expired());
    assert!(world.outside.ledger().is_empty());
    let late = wait(tenant.signal(key, "go", SignalId::named("1"), &()));
    assert_eq!(late, Err(SignalError::NotRunning));
    engine.blocking().close().unwrap();
}
