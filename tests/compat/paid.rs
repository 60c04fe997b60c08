//! What format 3 added: budgets and the ledger.

use orlop::{AuditTag, BudgetError, BusyNanos, Engine, LedgerError, Unavailable, wait};

use crate::world::Double;

const AUDIT: AuditTag = AuditTag {
    organisation: 5,
    engagement: 6,
};

const LIMIT: BusyNanos = BusyNanos::new(3_600_000_000_000);

/// A budget, something spent from it that has an outcome, and something that has none.
pub(crate) fn write(engine: &Engine) {
    wait(engine.budgets().grant(AUDIT, LIMIT)).unwrap();
    let tenant = engine.blocking().tenant("acme").unwrap();
    wait(tenant.submit(Double, 55_u64).audit(AUDIT)).unwrap();
    wait(tenant.submit(Double, 56_u64).audit(AUDIT).ephemeral()).unwrap();
    // Asked for, what has no outcome is recorded.
    wait(engine.ledger().lines()).unwrap();
}

pub(crate) fn is_kept(engine: &Engine) {
    let budget = engine.budgets().get(AUDIT).unwrap();
    assert_eq!(budget.limit, LIMIT);
    let lines = wait(engine.ledger().lines()).unwrap();
    let paid: Vec<_> = lines.iter().filter(|line| line.audit == AUDIT).collect();
    let [line] = &paid[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(line.label.as_deref(), Some("acme"));
    assert_eq!((line.outcomes, line.spent), (1, budget.spent));
    assert!(line.spent > BusyNanos::default());
}

/// A store of an older format has neither, and says so.
pub(crate) fn is_refused(engine: &Engine) {
    let granted = wait(engine.budgets().grant(AUDIT, LIMIT));
    let Err(BudgetError::Unavailable(Unavailable::Format(lacks))) = granted else {
        panic!("{granted:?}");
    };
    assert!(lacks.to_string().contains("format 3"), "{lacks}");
    let lines = wait(engine.ledger().lines());
    assert!(
        matches!(lines, Err(LedgerError::Unavailable(Unavailable::Format(_)))),
        "{lines:?}"
    );
}
