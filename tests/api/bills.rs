//! Bills: that what is spent is on the right engagement, once, wherever the store goes.

use std::sync::Arc;
use std::time::Duration;

use orlop::{
    AuditTag, BudgetOptions, BusyNanos, CounterSaga, Engine, EngineBuilder, Key, LedgerLine,
    Original, Refusal, RestoreOptions, Saga, SagaContext, SagaError, SubmitError, clone_store,
    restore, wait,
};

use crate::budgets::{Burn, ENFORCED, MS, Machine, Meter, NORTH, ms};

/// Burns after its pivot.
struct Publish;

impl Saga for Publish {
    const NAME: &'static str = "publish";
    const RETENTION: Duration = Duration::from_hours(1);
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, millis: u64) -> Result<u64, SagaError> {
        let saga = saga.pivot().await?;
        Ok(saga.step("publish", Burn, (1, millis)).await?)
    }
}

struct Retract;

impl CounterSaga<Publish> for Retract {
    fn input(original: Original<Publish>) -> Option<u64> {
        Some(original.input)
    }
}

impl Saga for Retract {
    const NAME: &'static str = "retract";
    const RETENTION: Duration = Duration::from_hours(1);
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, millis: u64) -> Result<u64, SagaError> {
        Ok(saga.step("retract", Burn, (2, millis)).await?)
    }
}

/// Has a child do the work.
struct Parent;

impl Saga for Parent {
    const NAME: &'static str = "parent";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, millis: u64) -> Result<u64, SagaError> {
        Ok(saga.child::<Retract>("child", millis).await?)
    }
}

fn only(engine: &Engine) -> LedgerLine {
    let lines = wait(engine.ledger().lines()).unwrap();
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    line.clone()
}

#[test]
fn a_counter_saga_is_paid_by_the_engagement_that_paid_for_what_it_takes_back() {
    let machine = Machine::default();
    let engine = EngineBuilder::on_parts(machine.parts())
        .options(orlop::Options {
            budgets: ENFORCED,
            ..orlop::Options::default()
        })
        .clock(Arc::new(machine.meter.clone()))
        .pure(Burn, machine.meter.clone())
        .saga_with_counter(Publish, Retract)
        .open_blocking()
        .unwrap();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(1_000))).unwrap();
    let key = Key::named("p");
    let start = tenant.start::<Publish>(key, 3_u64).audit(NORTH);
    wait(wait(start).unwrap()).unwrap();
    let back = wait(tenant.roll_back::<Publish, Retract>(key)).unwrap();
    wait(back).unwrap();
    let line = only(&engine);
    assert_eq!((line.audit, line.outcomes), (NORTH, 2));
    assert!(line.spent >= ms(6), "{line:?}");
}

#[test]
fn a_child_is_paid_by_the_engagement_of_its_parent_and_billed_once() {
    let machine = Machine::default();
    let engine = EngineBuilder::on_parts(machine.parts())
        .clock(Arc::new(machine.meter.clone()))
        .pure(Burn, machine.meter.clone())
        .saga(Parent)
        .saga(Retract)
        .open_blocking()
        .unwrap();
    let tenant = wait(engine.tenant("acme")).unwrap();
    let start = tenant.start::<Parent>(Key::named("p"), 5_u64).audit(NORTH);
    wait(wait(start).unwrap()).unwrap();
    let line = only(&engine);
    assert_eq!((line.audit, line.outcomes), (NORTH, 1));
    assert!(line.spent >= ms(5), "{line:?}");
}

/// The bound of lines is of the whole ledger, and no line is ever removed.
#[test]
fn a_tenant_that_names_ever_new_engagements_leaves_lines_to_the_others() {
    let machine = Machine::default();
    let engine = machine.open_with(BudgetOptions {
        lines_max: 16,
        lines_of_tenant_max: 4,
        ..BudgetOptions::default()
    });
    let flooder = wait(engine.tenant("acme")).unwrap();
    let mut refused = 0;
    for engagement in 0..40 {
        let audit = AuditTag {
            organisation: 1,
            engagement,
        };
        match wait(flooder.submit(Burn, (engagement, 1)).audit(audit)) {
            Ok(_) => {}
            Err(SubmitError::Refused(Refusal::QuotaExceeded { cap: 4, .. })) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let other = wait(engine.tenant("bolt")).unwrap();
    wait(other.submit(Burn, (1, 1)).audit(NORTH)).unwrap();
    assert_eq!(refused, 36);
    drop((flooder, other, engine));
    // Counted again from the journal.
    let engine = machine.killed().open_with(BudgetOptions {
        lines_max: 16,
        lines_of_tenant_max: 4,
        ..BudgetOptions::default()
    });
    let flooder = wait(engine.tenant("acme")).unwrap();
    let audit = AuditTag {
        organisation: 1,
        engagement: 99,
    };
    let refused = wait(flooder.submit(Burn, (99, 1)).audit(audit)).unwrap_err();
    assert!(
        matches!(
            refused,
            SubmitError::Refused(Refusal::QuotaExceeded {
                cap: 4,
                used: 4,
                ..
            })
        ),
        "{refused}"
    );
    wait(flooder.submit(Burn, (98, 1)).audit(AuditTag {
        organisation: 1,
        engagement: 0,
    }))
    .unwrap();
}

#[test]
fn a_close_with_work_that_waits_leaves_nothing_to_be_reconciled() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(1_000))).unwrap();
    wait(tenant.submit(Burn, (0, 5)).audit(NORTH)).unwrap();
    for number in 1..40_u64 {
        let work = tenant.enqueue(Burn, (number, 5)).audit(NORTH);
        drop(wait(work).unwrap());
    }
    wait(engine.close()).unwrap();
    drop((tenant, engine));
    let engine = machine.killed().open();
    let snapshot = engine.budgets().get(NORTH).unwrap();
    assert_eq!(snapshot.unaccounted, BusyNanos::default(), "{snapshot:?}");
}

#[test]
fn a_restored_store_and_a_clone_have_the_ledger_and_the_budgets_of_the_backup() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let meter = Meter::default();
    let open = |name: &str| {
        Engine::builder(path.join(name))
            .options(orlop::Options {
                budgets: ENFORCED,
                ..orlop::Options::default()
            })
            .clock(Arc::new(meter.clone()))
            .pure(Burn, meter.clone())
            .open_blocking()
            .unwrap()
    };
    let engine = open("store");
    let tenant = wait(engine.tenant("acme")).unwrap();
    wait(engine.budgets().grant(NORTH, ms(1_000))).unwrap();
    wait(tenant.submit(Burn, (1, 5)).audit(NORTH)).unwrap();
    wait(tenant.submit(Burn, (2, 5)).audit(NORTH).ephemeral()).unwrap();
    let line = only(&engine);
    assert!(line.spent >= ms(10) && line.outcomes == 1, "{line:?}");
    engine.blocking().backup(path.join("backup")).unwrap();
    // After the backup: in neither copy.
    wait(tenant.submit(Burn, (3, 5)).audit(NORTH)).unwrap();
    engine.blocking().close().unwrap();
    let options = RestoreOptions::default();
    restore(path.join("backup"), path.join("restored"), options).unwrap();
    clone_store(path.join("backup"), path.join("cloned"), options).unwrap();
    for name in ["restored", "cloned"] {
        let copy = open(name);
        assert_eq!(only(&copy), line, "{name}");
        let budget = copy.budgets().get(NORTH).unwrap();
        assert_eq!(
            (budget.limit, budget.spent),
            (ms(1_000), line.spent),
            "{name}"
        );
        let counted = budget.spent.get() + budget.unaccounted.get();
        assert_eq!(budget.remaining.get(), 1_000 * MS - counted, "{name}");
        copy.blocking().close().unwrap();
    }
}
