//! What is decided about a tenant, or granted to an engagement, holds once it is in the journal and
//! not before: each verb with a journal that refuses its record.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::sim::{SimHome, SimShelf};
use orlop::{
    AuditTag, BudgetError, BudgetOptions, BusyNanos, Engine, EngineBuilder, Options, Parts, Quotas,
    StoreId, SubmitError, TenantError, TenantManager, TenantState, Unavailable, wait,
};

use crate::support::Double;

const NORTH: AuditTag = AuditTag {
    organisation: 1,
    engagement: 1,
};

/// A computer whose journal can be made to fail.
#[derive(Default)]
pub(crate) struct Machine {
    log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
}

impl Machine {
    pub(crate) fn parts(&self) -> Parts {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Parts {
            store: StoreId::new([7; 16]),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        }
    }

    fn open(&self) -> Engine {
        let budgets = BudgetOptions {
            enforced: true,
            ..BudgetOptions::default()
        };
        EngineBuilder::on_parts(self.parts())
            .options(Options {
                budgets,
                ..Options::default()
            })
            .pure(Double, Double)
            .open_blocking()
            .unwrap()
    }

    /// What is left if the power goes: what was synced.
    pub(crate) fn crashed(self) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        self.shelf.crash(1);
        Self {
            log: self.log.crash_keeping(0),
            disk: self.disk.crash(2),
            shelf: self.shelf,
        }
    }
}

/// How the journal fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    /// While the record is written: it may be durable or not.
    AtIt,
    /// Before: the record is refused.
    Before,
}

impl Fails {
    fn begin(self, machine: &Machine, engine: &Engine) {
        machine.log.fail_sync_after(0);
        if self == Self::Before {
            let other = wait(engine.tenant("poisons"));
            assert_eq!(other.unwrap_err(), TenantError::Unresolved);
        }
    }

    fn expected(self) -> TenantError {
        match self {
            Self::AtIt => TenantError::Unresolved,
            Self::Before => TenantError::Unavailable(Unavailable::Poisoned),
        }
    }
}

/// All that a decision about a tenant can change.
fn seen(engine: &Engine, manager: &TenantManager) -> impl PartialEq + std::fmt::Debug {
    let snapshot = manager.snapshot();
    let names: Vec<_> = engine.snapshot().tenants.iter().map(|it| it.id).collect();
    let lists = (manager.allowed(), manager.engagements());
    (snapshot.state, snapshot.quotas, lists, names)
}

type Verb = fn(&TenantManager) -> Result<(), TenantError>;

fn small() -> Quotas {
    Quotas {
        slots_max: 3,
        ..Quotas::UNLIMITED
    }
}

/// The verbs, by the state in which they are told.
const VERBS: [(&str, TenantState, Verb); 10] = [
    ("suspend", TenantState::Active, |it| wait(it.suspend())),
    ("resume", TenantState::Suspended, |it| wait(it.resume())),
    ("revoke", TenantState::Active, |it| wait(it.revoke())),
    ("drain", TenantState::Active, |it| {
        wait(it.drain(Duration::from_mins(1))).map(drop)
    }),
    ("unregister", TenantState::Suspended, |it| {
        wait(it.unregister())
    }),
    ("set_quotas", TenantState::Active, |it| {
        wait(it.set_quotas(small()))
    }),
    ("allow_only", TenantState::Active, |it| {
        wait(it.allow_only(["other"]))
    }),
    ("allow_all", TenantState::Active, |it| wait(it.allow_all())),
    ("allow_engagements", TenantState::Active, |it| {
        wait(it.allow_engagements([AuditTag::default()]))
    }),
    ("allow_all_engagements", TenantState::Active, |it| {
        wait(it.allow_all_engagements())
    }),
];

#[test]
fn a_decision_whose_record_is_refused_changes_nothing_here_nor_after_a_crash() {
    for (name, state, verb) in VERBS {
        for fails in [Fails::AtIt, Fails::Before] {
            let machine = Machine::default();
            let engine = machine.open();
            let manager = wait(engine.manage("acme")).unwrap();
            wait(manager.allow_only(["double", "other"])).unwrap();
            wait(manager.allow_engagements([NORTH])).unwrap();
            if state == TenantState::Suspended {
                wait(manager.suspend()).unwrap();
            }
            let before = format!("{:?}", seen(&engine, &manager));
            fails.begin(&machine, &engine);
            assert_eq!(verb(&manager), Err(fails.expected()), "{name} {fails:?}");
            let after = format!("{:?}", seen(&engine, &manager));
            assert_eq!(after, before, "{name} {fails:?}");
            drop((manager, engine));
            let engine = machine.crashed().open();
            let manager = wait(engine.manage("acme")).unwrap();
            let found = format!("{:?}", seen(&engine, &manager));
            assert_eq!(found, before, "{name} {fails:?}, after a crash");
        }
    }
}

#[test]
fn a_decision_whose_record_is_durable_holds() {
    for (name, state, verb) in VERBS {
        let machine = Machine::default();
        let engine = machine.open();
        let manager = wait(engine.manage("acme")).unwrap();
        wait(manager.allow_only(["double"])).unwrap();
        wait(manager.allow_engagements([NORTH])).unwrap();
        if state == TenantState::Suspended {
            wait(manager.suspend()).unwrap();
        }
        let before = format!("{:?}", seen(&engine, &manager));
        verb(&manager).unwrap();
        let after = format!("{:?}", seen(&engine, &manager));
        assert_ne!(after, before, "{name}");
    }
}

/// A full disk refuses who is new, and nothing of them is left: the label is free.
#[test]
fn a_registration_that_is_refused_leaves_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    wait(engine.tenant("first")).unwrap();
    machine.log.set_full(true);
    for _ in 0..3 {
        let refused = wait(engine.register("acme", small())).unwrap_err();
        assert_eq!(refused, TenantError::Unavailable(Unavailable::DiskFull));
        assert_eq!(engine.snapshot().tenants.len(), 1);
    }
    machine.log.set_full(false);
    let acme = wait(engine.register("acme", small())).unwrap();
    assert_eq!(acme.tenant().id().slot(), 1, "its place was kept");
    wait(engine.budgets().grant(AuditTag::default(), ms(1000))).unwrap();
    wait(acme.tenant().submit(Double, 1_u64)).unwrap();
    engine.blocking().close().unwrap();
}

/// Whoever registers may lose interest: what came of that is told to nobody who asks later.
#[test]
fn a_registration_that_was_refused_when_nobody_waited_for_it_leaves_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    machine.log.set_full(true);
    {
        let mut registering = pin!(engine.tenant("acme"));
        let mut context = Context::from_waker(Waker::noop());
        assert!(registering.as_mut().poll(&mut context).is_pending());
    }
    // Refused behind the first one.
    wait(engine.tenant("other")).unwrap_err();
    machine.log.set_full(false);
    wait(engine.tenant("acme")).unwrap();
    assert_eq!(engine.snapshot().tenants.len(), 1);
    engine.blocking().close().unwrap();
}

/// Whoever decides may lose interest; what was handed to the journal holds when it is there.
#[test]
fn a_decision_that_nobody_waits_for_any_more_holds_once_it_is_recorded() {
    let machine = Machine::default();
    let engine = machine.open();
    let manager = wait(engine.manage("acme")).unwrap();
    {
        let mut deciding = pin!(manager.suspend());
        let mut context = Context::from_waker(Waker::noop());
        let _pending = deciding.as_mut().poll(&mut context);
    }
    // In turn behind the first one.
    wait(manager.allow_all()).unwrap();
    assert_eq!(manager.snapshot().state, TenantState::Suspended);
    drop((manager, engine));
    let engine = machine.crashed().open();
    let manager = wait(engine.manage("acme")).unwrap();
    assert_eq!(manager.snapshot().state, TenantState::Suspended);
}

fn ms(ms: u64) -> BusyNanos {
    BusyNanos::new(ms * 1_000_000)
}

#[test]
fn a_budget_whose_grant_is_refused_is_as_it_was() {
    for fails in [Fails::AtIt, Fails::Before] {
        for granted in [None, Some(ms(5))] {
            let machine = Machine::default();
            let engine = machine.open();
            let budgets = engine.budgets();
            if let Some(limit) = granted {
                wait(budgets.grant(NORTH, limit)).unwrap();
            }
            fails.begin(&machine, &engine);
            let refused = wait(budgets.grant(NORTH, ms(7))).unwrap_err();
            let expected = match fails {
                Fails::AtIt => BudgetError::Unresolved,
                Fails::Before => BudgetError::Unavailable(Unavailable::Poisoned),
            };
            assert_eq!(refused, expected);
            let limits = |engine: &Engine| {
                let budgets = engine.budgets();
                let of_north = budgets.get(NORTH).map(|it| it.limit);
                let all: Vec<_> = budgets.list().iter().map(|it| it.limit).collect();
                (of_north, all)
            };
            let expected = (granted, granted.into_iter().collect());
            assert_eq!(limits(&engine), expected, "{fails:?}");
            drop((budgets, engine));
            let engine = machine.crashed().open();
            assert_eq!(limits(&engine), expected, "{fails:?}, after a crash");
        }
    }
}

#[test]
fn an_engagement_is_unknown_until_its_grant_is_durable() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = wait(engine.tenant("acme")).unwrap();
    let submit = |number: u64| wait(tenant.submit(Double, number).audit(NORTH));
    let unknown = submit(1).unwrap_err();
    let is_unknown = matches!(
        unknown,
        SubmitError::Refused(orlop::Refusal::EngagementUnknown { audit: NORTH })
    );
    assert!(is_unknown, "{unknown:?}");
    wait(engine.budgets().grant(NORTH, ms(1000))).unwrap();
    submit(1).unwrap();
}
