//! The pot: costs that ride in no outcome, summed until they are recorded together.
//!
//! Work that keeps nothing, attempts that were tried again, ends that nobody waited for: their
//! costs are measured like any other.

use std::collections::BTreeMap;

use orlop_saga::amount::BusyNanos;
use orlop_saga::budget::{Bill, BudgetEvent, LineKey};
use orlop_saga::event::Event;
use orlop_saga::tenant::AuditTag;
use parking_lot::Mutex;

/// See the module. Bounded by the lines that the ledger may have.
#[derive(Default)]
pub(super) struct Pot {
    sums: Mutex<Sums>,
}

/// What is in a pot.
#[derive(Default)]
pub(super) struct Sums {
    costs: BTreeMap<LineKey, BusyNanos>,
    /// What was drawn with them.
    beyond: BTreeMap<AuditTag, BusyNanos>,
    total: BusyNanos,
}

impl Sums {
    fn add(&mut self, key: LineKey, cost: BusyNanos) {
        let sum = self.costs.entry(key).or_default();
        *sum = sum.saturating_add(cost);
        self.total = self.total.saturating_add(cost);
    }

    fn add_beyond(&mut self, audit: AuditTag, beyond: BusyNanos) {
        if beyond > BusyNanos::default() {
            let sum = self.beyond.entry(audit).or_default();
            *sum = sum.saturating_add(beyond);
        }
    }

    /// The records that say it: what was drawn, and then what was spent.
    pub(super) fn events(&self) -> Vec<Event> {
        let drawn = self.beyond.iter();
        let mut events: Vec<Event> = drawn
            .map(|(&audit, &amount)| Event::Budget(BudgetEvent::Drawn { audit, amount }))
            .collect();
        let bills: Vec<Bill> = self
            .costs
            .iter()
            .map(|(key, &cost)| Bill {
                tenant: key.tenant,
                audit: key.audit,
                cost,
            })
            .collect();
        // Bounded records, whatever the bound of lines.
        for bills in bills.chunks(1024) {
            let bills = bills.to_vec();
            events.push(Event::Budget(BudgetEvent::Spent { bills }));
        }
        events
    }
}

impl Pot {
    /// Adds a cost.
    pub(super) fn put(&self, key: LineKey, cost: BusyNanos, beyond: BusyNanos) {
        let mut sums = self.sums.lock();
        sums.add(key, cost);
        sums.add_beyond(key.audit, beyond);
    }

    /// How much is in it.
    pub(super) fn total(&self) -> BusyNanos {
        self.sums.lock().total
    }

    /// Empties it.
    pub(super) fn take(&self) -> Sums {
        std::mem::take(&mut *self.sums.lock())
    }

    /// Puts back what could not be recorded.
    pub(super) fn put_back(&self, taken: Sums) {
        let mut sums = self.sums.lock();
        for (key, cost) in taken.costs {
            sums.add(key, cost);
        }
        for (audit, beyond) in taken.beyond {
            sums.add_beyond(audit, beyond);
        }
    }
}
