//! Budgets and the ledger: what engagements may spend, and what every tenant has spent for whom.
//!
//! Pure: no I/O, no clock, no device.
//!
//! A budget is drawn in chunks: a record says how much, before anything of it is spent. What work
//! cost rides in the record of its outcome; what rides in none is in a record of its own.
//!
//! Invariants
//! - At every prefix of a journal an engagement has drawn at least what it has spent.
//! - A line of the ledger never falls and is never removed, whatever becomes of its tenant.
//! - A cost is booked once, on the life of the tenant that ran it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::BusyNanos;
use crate::id::TenantId;
use crate::tenant::{AuditTag, TenantLabel};

/// What happened to a budget, or was spent beside outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BudgetEvent {
    /// What the engagement may spend in all, from its first grant on.
    Granted {
        /// Whose budget.
        audit: AuditTag,
        /// How much in all.
        limit: BusyNanos,
    },
    /// So much more may be spent without asking again.
    Drawn {
        /// Whose budget.
        audit: AuditTag,
        /// How much more.
        amount: BusyNanos,
    },
    /// What work cost whose outcome is in no record, or whose cost is in none.
    Spent {
        /// By whom and for whom.
        bills: Vec<Bill>,
    },
    /// So much of what was drawn was not spent.
    Returned {
        /// Whose budget.
        audit: AuditTag,
        /// How much.
        amount: BusyNanos,
    },
}

/// A cost that rides in no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// The life of a tenant that ran it.
    pub tenant: TenantId,
    /// Who pays.
    pub audit: AuditTag,
    /// How much.
    pub cost: BusyNanos,
}

/// One engagement's budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// What may be spent in all.
    pub limit: BusyNanos,
    /// What was drawn, less what was returned.
    pub drawn: BusyNanos,
    /// What was spent of that.
    pub spent: BusyNanos,
    /// What was spent beside it: by work that was under way when the budget was made.
    pub beside: BusyNanos,
}

impl Budget {
    /// What was drawn and is in no record as spent: it is in use, or was when the process ended.
    pub const fn open(&self) -> BusyNanos {
        BusyNanos::new(self.drawn.get().saturating_sub(self.spent.get()))
    }

    /// What is left to be drawn; 0 in debt.
    pub const fn undrawn(&self) -> BusyNanos {
        let gone = self.drawn.saturating_add(self.beside);
        BusyNanos::new(self.limit.get().saturating_sub(gone.get()))
    }

    fn spend(&mut self, cost: BusyNanos) {
        let covered = cost.get().min(self.open().get());
        self.spent = self.spent.saturating_add(BusyNanos::new(covered));
        let beside = cost.get().saturating_sub(covered);
        self.beside = self.beside.saturating_add(BusyNanos::new(beside));
    }
}

/// Which line of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LineKey {
    /// The life of a tenant that ran the work.
    pub tenant: TenantId,
    /// Who pays.
    pub audit: AuditTag,
}

/// One line of the ledger: sums over everything that is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The tenant's name.
    pub label: Option<TenantLabel>,
    /// What work cost, its undo aside.
    pub spent: BusyNanos,
    /// What undoing work cost.
    pub undone: BusyNanos,
    /// How many outcomes, undos included, had a cost.
    pub outcomes: u64,
}

impl Line {
    /// What it cost in all.
    pub const fn total(&self) -> BusyNanos {
        self.spent.saturating_add(self.undone)
    }
}

/// What a cost was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Outcome,
    Undo,
    Beside,
}

/// All budgets and the whole ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    budgets: BTreeMap<AuditTag, Budget>,
    lines: BTreeMap<LineKey, Line>,
}

impl Books {
    /// All budgets.
    pub const fn budgets(&self) -> &BTreeMap<AuditTag, Budget> {
        &self.budgets
    }

    /// All lines.
    pub const fn lines(&self) -> &BTreeMap<LineKey, Line> {
        &self.lines
    }

    /// Books an event. `label` names tenants.
    pub(crate) fn apply(
        &mut self,
        event: &BudgetEvent,
        label: impl Fn(TenantId) -> Option<TenantLabel>,
    ) {
        match event {
            BudgetEvent::Granted { audit, limit } => {
                self.budgets.entry(*audit).or_default().limit = *limit;
            }
            BudgetEvent::Drawn { audit, amount } => {
                let budget = self.budgets.entry(*audit).or_default();
                budget.drawn = budget.drawn.saturating_add(*amount);
            }
            BudgetEvent::Spent { bills } => {
                for bill in bills {
                    self.book(bill.tenant, bill.audit, bill.cost, Entry::Beside, &label);
                }
            }
            BudgetEvent::Returned { audit, amount } => {
                if let Some(budget) = self.budgets.get_mut(audit) {
                    // Never what was spent.
                    let amount = amount.get().min(budget.open().get());
                    let drawn = budget.drawn.get().saturating_sub(amount);
                    budget.drawn = BusyNanos::new(drawn);
                }
            }
        }
    }

    /// Books a cost on the line of who ran the work, and on the budget of who pays. What cost
    /// nothing, such as a call for a child, which has bills of its own, leaves no line.
    pub(crate) fn book(
        &mut self,
        tenant: TenantId,
        audit: AuditTag,
        cost: BusyNanos,
        entry: Entry,
        label: impl Fn(TenantId) -> Option<TenantLabel>,
    ) {
        if cost == BusyNanos::default() {
            return;
        }
        let line = self.lines.entry(LineKey { tenant, audit }).or_default();
        if line.label.is_none() {
            line.label = label(tenant);
        }
        let (sum, outcomes) = match entry {
            Entry::Outcome => (&mut line.spent, 1),
            Entry::Undo => (&mut line.undone, 1),
            Entry::Beside => (&mut line.spent, 0),
        };
        *sum = sum.saturating_add(cost);
        line.outcomes = line.outcomes.saturating_add(outcomes);
        if let Some(budget) = self.budgets.get_mut(&audit) {
            budget.spend(cost);
        }
    }
}

#[cfg(test)]
mod tests;
