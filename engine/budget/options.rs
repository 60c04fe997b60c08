//! Options of budgets and of the ledger.

use orlop_saga::amount::BusyNanos;

/// Budgets and the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetOptions {
    /// Whether work is refused whose engagement has no budget, or none that covers it. Off, nothing
    /// is refused, and what work costs is booked all the same.
    pub enforced: bool,
    /// How much is drawn at a time, by one record for each engagement. A crash leaves at most about
    /// one and a half chunks of each engagement to be reconciled, and what is in flight.
    pub chunk: BusyNanos,
    /// How many engagements may have a budget.
    pub engagements_max: usize,
    /// How many lines the ledger may have: one for each tenant and engagement that it ever worked
    /// for. Work of another one is refused.
    pub lines_max: usize,
    /// How many of them one life of a tenant may have, so that whoever names ever new engagements
    /// leaves lines to the others.
    pub lines_of_tenant_max: usize,
}

impl Default for BudgetOptions {
    /// Off; chunks of 100 ms, 16,384 engagements, 65,536 lines, 1,024 of a tenant.
    fn default() -> Self {
        Self {
            enforced: false,
            chunk: BusyNanos::new(100_000_000),
            engagements_max: 1 << 14,
            lines_max: 1 << 16,
            lines_of_tenant_max: 1 << 10,
        }
    }
}

impl BudgetOptions {
    /// Each bound's name, value, smallest and largest value.
    pub(crate) fn bounds(&self) -> [(&'static str, usize, usize, usize); 4] {
        let chunk_us = usize::try_from(self.chunk.get() / 1000).unwrap_or(usize::MAX);
        [
            ("budgets.chunk in us", chunk_us, 1, 3_600_000_000),
            ("budgets.engagements_max", self.engagements_max, 0, 1 << 20),
            ("budgets.lines_max", self.lines_max, 1, 1 << 20),
            (
                "budgets.lines_of_tenant_max",
                self.lines_of_tenant_max,
                1,
                1 << 20,
            ),
        ]
    }
}
