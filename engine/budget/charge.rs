//! Charges: measured costs on their way to a record.
//!
//! Invariants
//! - A charge that was not recorded goes into the pot when it is dropped, wherever that is: with an
//!   outcome that the journal did not take, an attempt that is tried again, an owner that is gone.

use std::sync::Arc;

use orlop_admission::Permit;
use orlop_saga::amount::BusyNanos;
use orlop_saga::budget::{BudgetEvent, LineKey};
use orlop_saga::event::Event;

use super::Treasury;

/// See the module.
pub(crate) struct Charge {
    treasury: Arc<Treasury>,
    key: LineKey,
    cost: BusyNanos,
    /// What its purse drew beyond, to be recorded before it.
    beyond: BusyNanos,
}

impl Charge {
    /// Settles a permit with what the work cost. Whatever becomes of the tenant, the life that ran
    /// it is billed.
    pub(crate) fn settle(
        treasury: &Arc<Treasury>,
        permit: Permit,
        cost: BusyNanos,
    ) -> Option<Self> {
        let (tenant, audit) = (permit.tenant().id(), permit.audit());
        let beyond = permit.settle(cost);
        if cost == BusyNanos::default() {
            return None;
        }
        // Without a purse at its admission it may have one now.
        let beyond = beyond.unwrap_or_else(|| {
            let purse = treasury.payer_at_the_end(audit);
            purse.map_or(BusyNanos::default(), |purse| {
                purse.settle(BusyNanos::default(), cost)
            })
        });
        Some(Self {
            treasury: Arc::clone(treasury),
            key: LineKey { tenant, audit },
            cost,
            beyond,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.cost > BusyNanos::default() {
            self.treasury.put(self.key, self.cost, self.beyond);
        }
    }
}

/// What an attempt cost.
#[derive(Default)]
pub(crate) struct Fee(pub(crate) Option<Charge>);

impl Fee {
    /// Nothing ran.
    pub(crate) const FREE: Self = Self(None);

    /// The cost.
    pub(crate) fn cost(&self) -> BusyNanos {
        self.0
            .as_ref()
            .map_or(BusyNanos::default(), |charge| charge.cost)
    }

    /// What has to be in the journal before the record with the cost, if anything has.
    pub(crate) fn draw(&self) -> Option<Event> {
        let charge = self.0.as_ref()?;
        (charge.beyond > BusyNanos::default()).then(|| {
            Event::Budget(BudgetEvent::Drawn {
                audit: charge.key.audit,
                amount: charge.beyond,
            })
        })
    }

    /// The record with the cost is in the journal, or is on its way there for good.
    pub(crate) fn recorded(mut self) {
        if let Some(charge) = &mut self.0 {
            charge.cost = BusyNanos::default();
        }
    }
}
