//! Budgets: what an engagement may spend, over all tenants, submitters and lives of the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::projector::{ProjectorOptions, Unobserved};
use orlop::store::store::Store;
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{
    Attempt, AuditTag, BudgetError, BudgetOptions, BulkheadOptions, BusyNanos, Clock, Computation,
    Engine, EngineBuilder, External, Failure, HOST_IO, HostFunction, Key, Late, LedgerError,
    Limits, Monotonic, Options, Parts, Pure, Reconcile, Reconciled, Refusal, Reply, RetryPolicy,
    Saga, SagaContext, SagaError, StoreId, SubmitError, SystemClock, Undo, UndoFunction, Undoing,
    WallMillis, wait,
};

pub(crate) const MS: u64 = 1_000_000;

pub(crate) const NORTH: AuditTag = AuditTag {
    organisation: 1,
    engagement: 9,
};
const SOUTH: AuditTag = AuditTag {
    organisation: 2,
    engagement: 9,
};

pub(crate) const fn ms(millis: u64) -> BusyNanos {
    BusyNanos::new(millis * MS)
}

/// Real time, and whatever work says it took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    system: Arc<SystemClock>,
    extra: Arc<AtomicU64>,
}

impl Clock for Meter {
    fn wall(&self) -> WallMillis {
        self.system.wall()
    }

    fn monotonic(&self) -> Monotonic {
        let real = self.system.monotonic();
        real.after(Duration::from_nanos(self.extra.load(Ordering::Relaxed)))
    }
}

impl Meter {
    fn burn(&self, millis: u64) {
        self.extra.fetch_add(millis * MS, Ordering::Relaxed);
    }
}

/// Takes so many milliseconds: (which, how many).
#[derive(Clone, Copy)]
pub(crate) struct Burn;

impl Computation for Burn {
    const NAME: &'static str = "burn";
    type Input = (u64, u64);
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Burn> for Meter {
    async fn run(&self, _attempt: Attempt, input: (u64, u64)) -> Result<u64, Failure> {
        self.burn(input.1);
        if input.0 == FAILS {
            return Err(Failure::retryable("it always does"));
        }
        Ok(input.0)
    }
}

/// Which fails without effect.
const FAILS: u64 = 1_000_000;

/// The same, with a step to be undone.
#[derive(Clone, Copy)]
struct Ignite;

impl Computation for Ignite {
    const NAME: &'static str = "ignite";
    type Input = (u64, u64);
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Ignite> for Meter {
    async fn run(&self, _attempt: Attempt, input: (u64, u64)) -> Result<u64, Failure> {
        self.burn(input.1);
        Ok(input.0)
    }
}

impl Reconcile<Ignite> for Meter {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, input: (u64, u64)) -> Reconciled<u64> {
        Reconciled::Done(input.0)
    }
}

#[derive(Clone, Copy)]
struct Quench;

impl Undo for Quench {
    const NAME: &'static str = "quench";
    type Argument = u64;
    type Step = Ignite;
}

impl UndoFunction<Quench> for Meter {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Quench>) -> Result<(), Failure> {
        self.burn(undoing.argument);
        Ok(())
    }
}

/// Burns so many times so many milliseconds, and fails at its end if it is told to.
#[derive(Clone, Copy)]
struct Campaign;

impl Saga for Campaign {
    const NAME: &'static str = "campaign";
    type Input = (u64, u64, bool);
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: Self::Input) -> Result<u64, SagaError> {
        let (steps, millis, fails) = input;
        for step in 0..steps {
            let name = format!("burn-{step}");
            saga.step(&name, Ignite, (step, millis))
                .undo(Quench, millis)
                .await?;
        }
        if fails {
            return Err(SagaError::failed("told to"));
        }
        Ok(steps)
    }
}

#[derive(Default)]
pub(crate) struct Machine {
    log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
    pub(crate) meter: Meter,
}

impl Machine {
    pub(crate) fn parts(&self) -> Parts {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Parts {
            store: StoreId::new([3; 16]),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        }
    }

    pub(crate) fn open_with(&self, budgets: BudgetOptions) -> Engine {
        let slots = |name: &str| BulkheadOptions {
            in_flight_max: SLOTS,
            // Far less than anything costs here.
            cost_guess: BusyNanos::new(1_000),
            ..BulkheadOptions::new(name)
        };
        let options = Options {
            limits: Limits {
                // A wait for budget that were an attempt would end the work.
                retry: RetryPolicy::NONE,
                ..Limits::default()
            },
            io_bulkhead: slots(HOST_IO),
            budgets,
            ..Options::default()
        };
        EngineBuilder::on_parts(self.parts())
            .options(options)
            .clock(Arc::new(self.meter.clone()))
            .pure(Burn, self.meter.clone())
            .external(Ignite, self.meter.clone())
            .undo(Quench, self.meter.clone())
            .saga(Campaign)
            .open_blocking()
            .unwrap()
    }

    pub(crate) fn open(&self) -> Engine {
        self.open_with(ENFORCED)
    }

    /// What a kill leaves: everything written.
    pub(crate) fn killed(self) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        self.shelf.crash(0);
        Self {
            log: self.log.crash_keeping(u64::MAX),
            disk: self.disk.crash(0),
            ..self
        }
    }
}

const SLOTS: u32 = 4;

pub(crate) const ENFORCED: BudgetOptions = BudgetOptions {
    enforced: true,
    chunk: BusyNanos::new(10 * MS),
    engagements_max: 8,
    lines_max: 8,
    lines_of_tenant_max: 8,
};

fn exhausted(error: &SubmitError) -> bool {
    matches!(
        error,
        SubmitError::Refused(Refusal::BudgetExhausted { audit: NORTH, .. })
    )
}

/// Submits so many pieces of 5 ms each at once, of two tenants; what those cost that ran.
fn flood(engine: &Engine, from: u64, count: u64) -> Vec<u64> {
    let tenants = ["acme", "bolt"].map(|label| wait(engine.tenant(label)).unwrap());
    let submit = |number: u64| {
        let tenant = &tenants[usize::try_from(number % 2).unwrap()];
        let submission = tenant.submit(Burn, (number, 5));
        submission
            .key(Key::named(&format!("{number}")))
            .audit(NORTH)
    };
    let all: Vec<_> = (from..from + count)
        .map(|number| submit(number).into_future())
        .collect();
    let mut costs = Vec::new();
    for reply in pollster::block_on(join_all(all)) {
        match reply {
            Ok(Reply { cost, .. }) => costs.push(cost.get()),
            Err(error) => assert!(exhausted(&error), "{error}"),
        }
    }
    costs
}

#[test]
fn an_engagement_without_a_budget_is_denied_also_the_default_one_of_the_first_tenant() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    assert_eq!(tenant.id().slot(), 0);
    for audit in [AuditTag::default(), NORTH] {
        let unknown = SubmitError::Refused(Refusal::EngagementUnknown { audit });
        let denied = wait(tenant.submit(Burn, (1, 1)).audit(audit)).unwrap_err();
        assert_eq!(denied, unknown);
        let denied = wait(tenant.enqueue(Burn, (2, 1)).audit(audit)).unwrap_err();
        assert_eq!(denied, unknown);
        let denied = wait(tenant.submit(Burn, (3, 1)).audit(audit).ephemeral()).unwrap_err();
        assert_eq!(denied, unknown);
        let batch = wait(tenant.submit_batch(Burn, [(4, 1)]).audit(audit)).unwrap();
        assert_eq!(batch.into_iter().next().unwrap().unwrap_err(), unknown);
        let start = tenant.start::<Campaign>(Key::named("c"), (1, 1, false));
        assert_eq!(wait(start.audit(audit)).unwrap_err(), unknown);
    }
    wait(engine.budgets().grant(NORTH, ms(50))).unwrap();
    wait(tenant.submit(Burn, (1, 1)).audit(NORTH)).unwrap();
    // The same engagement of another organisation is another one.
    let denied = wait(tenant.submit(Burn, (9, 1)).audit(SOUTH)).unwrap_err();
    let audit = SOUTH;
    assert_eq!(
        denied,
        SubmitError::Refused(Refusal::EngagementUnknown { audit })
    );
}

#[test]
fn submitters_of_100_s_of_work_overspend_a_budget_by_at_most_what_is_in_flight_also_over_a_kill() {
    let machine = Machine::default();
    let engine = machine.open();
    wait(engine.budgets().grant(NORTH, ms(50))).unwrap();
    let costs = flood(&engine, 0, 400);
    let (spent, dearest) = (costs.iter().sum::<u64>(), costs.iter().max().unwrap());
    let limit = 50 * MS;
    assert!(spent <= limit + u64::from(SLOTS) * dearest, "{spent}");
    // Nor is any of it refused that the budget covers.
    assert!(spent + dearest >= limit, "{spent}");
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert_eq!(snapshot.spent.get(), spent);
    assert_eq!(snapshot.reserved, BusyNanos::default());
    drop(engine);
    let machine = machine.killed();
    let engine = machine.open();
    let again = flood(&engine, 1_000, 40).iter().sum::<u64>();
    assert!(
        spent + again <= limit + u64::from(SLOTS) * dearest,
        "{spent} + {again}"
    );
    // Of two tenants, in one budget.
    let lines = wait(engine.ledger().lines()).unwrap();
    let of_each: Vec<u64> = lines.iter().map(|line| line.spent.get()).collect();
    assert_eq!(of_each.len(), 2);
    assert_eq!(of_each.iter().sum::<u64>(), spent + again);
    let totals = wait(engine.ledger().totals()).unwrap();
    assert_eq!(totals.len(), 1);
    assert_eq!(
        (totals[0].audit, totals[0].spent.get()),
        (NORTH, spent + again)
    );
}

#[test]
fn a_refusal_says_what_remains_and_a_raise_lets_work_go_on() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(20))).unwrap();
    let first = wait(tenant.submit(Burn, (1, 15)).audit(NORTH)).unwrap();
    // It is expected to cost as much as the first one did.
    let denied = wait(tenant.submit(Burn, (2, 15)).audit(NORTH)).unwrap_err();
    let left = 20 * MS - first.cost.get();
    let SubmitError::Refused(Refusal::BudgetExhausted {
        remaining, limit, ..
    }) = denied
    else {
        panic!("{denied}");
    };
    assert_eq!((remaining.get(), limit), (left, ms(20)));
    wait(engine.budgets().grant(NORTH, ms(60))).unwrap();
    wait(tenant.submit(Burn, (2, 15)).audit(NORTH)).unwrap();
    wait(engine.budgets().grant(NORTH, ms(10))).unwrap();
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert!(snapshot.debt >= ms(20), "{snapshot:?}");
    assert!(wait(tenant.submit(Burn, (3, 1)).audit(NORTH)).is_err());
}

#[test]
fn a_saga_waits_for_budget_without_using_up_its_attempts() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(12))).unwrap();
    let start = tenant.start::<Campaign>(Key::named("c"), (4, 5, false));
    let ticket = wait(start.audit(NORTH)).unwrap();
    // Two or three of its four steps are paid for; each has one attempt.
    while engine
        .snapshot()
        .bulkheads
        .iter()
        .all(|bulkhead| bulkhead.ordinary.refused.budget_exhausted == 0)
    {
        std::thread::yield_now();
    }
    let spent = engine.budgets().get(NORTH).unwrap().spent;
    assert!(spent >= ms(10) && spent < ms(20), "{spent}");
    wait(engine.budgets().grant(NORTH, ms(100))).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 4);
}

#[test]
fn undo_passes_an_exhausted_budget_and_is_booked_as_debt() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(18))).unwrap();
    let start = tenant.start::<Campaign>(Key::named("c"), (3, 5, true));
    let ticket = wait(start.audit(NORTH)).unwrap();
    assert!(wait(ticket).is_err());
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert!(snapshot.debt >= ms(12), "{snapshot:?}");
    let lines = wait(engine.ledger().lines()).unwrap();
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(line.spent >= ms(15) && line.undone >= ms(15), "{line:?}");
    assert_eq!((line.outcomes, line.total()), (6, snapshot.spent));
    assert_eq!(line.label.as_deref(), Some("acme"));
    let denied = wait(tenant.submit(Burn, (1, 1)).audit(NORTH)).unwrap_err();
    assert!(exhausted(&denied), "{denied}");
}

#[test]
fn what_leaves_no_outcome_is_billed_all_the_same() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(1_000))).unwrap();
    let kept = wait(tenant.submit(Burn, (1, 5)).audit(NORTH).ephemeral()).unwrap();
    // Its one attempt fails without effect.
    wait(tenant.submit(Burn, (FAILS, 7)).audit(NORTH)).unwrap_err();
    let lines = wait(engine.ledger().lines()).unwrap();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].spent.get() >= kept.cost.get() + 7 * MS);
    assert_eq!(lines[0].outcomes, 0);
    assert_eq!(lines[0].spent, engine.budgets().get(NORTH).unwrap().spent);
    // It is in the journal by now.
    drop(engine);
    let machine = machine.killed();
    let engine = machine.open();
    assert_eq!(wait(engine.ledger().lines()).unwrap(), lines);
}

#[test]
fn with_budgets_off_nothing_is_refused_and_the_ledger_is_kept() {
    let machine = Machine::default();
    let engine = machine.open_with(BudgetOptions::default());
    let tenant = wait(engine.tenant("acme")).unwrap();
    let cost = wait(tenant.submit(Burn, (1, 5)).audit(SOUTH)).unwrap().cost;
    let lines = wait(engine.ledger().lines()).unwrap();
    assert_eq!((lines[0].audit, lines[0].spent), (SOUTH, cost));
}

#[test]
fn a_clean_close_gives_back_what_was_not_spent_and_a_kill_leaves_it_to_be_reconciled() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(100))).unwrap();
    wait(tenant.submit(Burn, (1, 3)).audit(NORTH)).unwrap();
    let spent = engine.budgets().get(NORTH).unwrap().spent;
    wait(engine.close()).unwrap();
    drop((tenant, engine));

    let engine = machine.open();
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert_eq!(snapshot.unaccounted, BusyNanos::default());
    assert_eq!((snapshot.spent, snapshot.limit), (spent, ms(100)));
    assert_eq!(snapshot.remaining.get(), 100 * MS - spent.get());
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(tenant.submit(Burn, (2, 3)).audit(NORTH)).unwrap();
    let spent = engine.budgets().get(NORTH).unwrap().spent;
    drop((tenant, engine));

    let machine = machine.killed();
    let engine = machine.open();
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert_eq!(snapshot.spent, spent);
    let lost = snapshot.unaccounted;
    assert!(lost > BusyNanos::default());
    let counted = spent.saturating_add(lost).get();
    assert_eq!(snapshot.remaining.get(), 100 * MS - counted);
    assert_eq!(wait(engine.budgets().reconcile(NORTH)).unwrap(), lost);
    let remaining = 100 * MS - spent.get();
    assert_eq!(
        engine.budgets().get(NORTH).unwrap().remaining.get(),
        remaining
    );
    assert_eq!(
        wait(engine.budgets().reconcile(SOUTH)),
        Err(BudgetError::Unknown { audit: SOUTH })
    );
    drop(engine);

    let engine = machine.killed().open();
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert_eq!(snapshot.unaccounted, BusyNanos::default());
    assert_eq!(snapshot.remaining.get(), remaining);
}

#[test]
fn no_more_engagements_and_lines_are_kept_than_the_options_say() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    let audit = |engagement| AuditTag {
        organisation: 1,
        engagement,
    };
    for engagement in 0..8 {
        wait(engine.budgets().grant(audit(engagement), ms(50))).unwrap();
        wait(
            tenant
                .submit(Burn, (engagement, 1))
                .audit(audit(engagement)),
        )
        .unwrap();
    }
    let full = BudgetError::Full { engagements_max: 8 };
    assert_eq!(wait(engine.budgets().grant(audit(8), ms(50))), Err(full));
    wait(engine.budgets().grant(audit(3), ms(60))).unwrap();
    let other = wait(engine.tenant("bolt")).unwrap();
    let refused = wait(other.submit(Burn, (1, 1)).audit(audit(3))).unwrap_err();
    let SubmitError::Refused(Refusal::QuotaExceeded { cap: 8, .. }) = refused else {
        panic!("{refused}");
    };
    wait(tenant.submit(Burn, (100, 1)).audit(audit(3))).unwrap();
}

#[test]
fn whoever_has_the_ledger_of_one_tenant_is_given_no_line_of_another() {
    let machine = Machine::default();
    let engine = machine.open_with(BudgetOptions::default());
    for label in ["acme", "bolt"] {
        let tenant = wait(engine.tenant(label)).unwrap();
        wait(tenant.submit(Burn, (1, 2)).audit(NORTH)).unwrap();
    }
    let acme = wait(engine.manage("acme")).unwrap();
    let bolt = wait(engine.tenant("bolt")).unwrap().id();
    let lines = wait(acme.ledger().lines()).unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].label.as_deref(), Some("acme"));
    let total = wait(acme.ledger().totals()).unwrap()[0];
    assert_eq!(total.spent, lines[0].spent);
    assert!(matches!(
        wait(acme.ledger().lines_of(bolt)),
        Err(LedgerError::Foreign { asked, .. }) if asked == bolt
    ));
    assert_eq!(wait(engine.ledger().lines_of(bolt)).unwrap().len(), 1);
    let mut csv = Vec::new();
    assert_eq!(wait(acme.ledger().export_csv(&mut csv)).unwrap(), 1);
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.contains("acme") && !csv.contains("bolt"), "{csv}");
}

#[test]
fn the_ledger_survives_a_checkpoint_tables_that_are_thrown_away_and_a_kill() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(100))).unwrap();
    wait(tenant.submit(Burn, (1, 3)).audit(NORTH)).unwrap();
    wait(engine.checkpoint()).unwrap();
    wait(tenant.submit(Burn, (2, 3)).audit(NORTH)).unwrap();
    let lines = wait(engine.ledger().lines()).unwrap();
    assert_eq!(lines[0].outcomes, 2);
    drop((tenant, engine));
    let mut machine = machine.killed();
    machine.shelf = SimShelf::default();
    let engine = machine.open();
    assert_eq!(wait(engine.ledger().lines()).unwrap(), lines);
}

/// One life with work of every kind; then, of every prefix of its journal, what recovery says.
#[test]
fn at_every_prefix_of_the_journal_an_engagement_has_drawn_what_it_has_spent() {
    let machine = Machine::default();
    let engine = machine.open();
    wait(engine.budgets().grant(NORTH, ms(60))).unwrap();
    wait(engine.budgets().grant(SOUTH, ms(30))).unwrap();
    let costs = flood(&engine, 0, 60);
    assert!(!costs.is_empty());
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(200))).unwrap();
    wait(tenant.submit(Burn, (FAILS, 30)).audit(NORTH)).unwrap_err();
    wait(tenant.submit(Burn, (500, 9)).audit(NORTH).ephemeral()).unwrap();
    for fails in [true, false] {
        let key = Key::named(&format!("{fails}"));
        let start = tenant.start::<Campaign>(key, (3, 4, fails));
        let _ = wait(wait(start.audit(SOUTH)).unwrap());
        wait(engine.budgets().grant(SOUTH, ms(90))).unwrap();
    }
    // One outcome of each kind that costs more than all that is drawn ahead.
    wait(tenant.submit(Burn, (501, 35)).audit(NORTH)).unwrap();
    wait(engine.budgets().grant(SOUTH, ms(5_000))).unwrap();
    let start = tenant.start::<Campaign>(Key::named("dear"), (1, 35, true));
    let _ = wait(wait(start.audit(SOUTH)).unwrap());
    let (all, south) = (
        engine.budgets().list(),
        engine.budgets().get(SOUTH).unwrap(),
    );
    wait(engine.close()).unwrap();
    drop((tenant, engine));

    let batches = machine.log.batches();
    assert!(batches > 20, "{batches}");
    let mut spent = 0;
    for prefix in 0..=batches {
        let cut = Machine {
            log: machine.log.crash_at(prefix),
            ..Machine::default()
        };
        let clock: Arc<dyn Clock> = Arc::new(Meter::default());
        let options = ProjectorOptions::default();
        let opened = Store::open_with(cut.parts(), options, clock, Arc::new(Unobserved));
        let (store, recovered) = opened.unwrap();
        let books = recovered.live.books();
        for (audit, budget) in books.budgets() {
            assert!(budget.drawn >= budget.spent, "{prefix}: {budget:?}");
            // Everything was granted before it was spent, so nothing is beside the draws.
            assert_eq!(budget.beside, BusyNanos::default(), "{prefix}: {budget:?}");
            let lines = books.lines().iter().filter(|(key, _)| key.audit == *audit);
            let sum: u64 = lines.map(|(_, line)| line.total().get()).sum();
            assert_eq!(sum, budget.spent.get(), "{prefix}");
        }
        let all: u64 = books
            .budgets()
            .values()
            .map(|budget| budget.spent.get())
            .sum();
        assert!(all >= spent, "{prefix}: a bill fell");
        spent = all;
        store.close(Duration::from_secs(10)).unwrap();
    }
    let known: u64 = all.iter().map(|snapshot| snapshot.spent.get()).sum();
    assert_eq!(spent, known);
    assert!(south.spent >= ms(12 + 12 + 12), "{south:?}");
}
