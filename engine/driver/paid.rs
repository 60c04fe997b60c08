//! What a saga's attempts cost, as far as budgets are concerned.

use super::run::Run;
use crate::budget::Fee;

impl Run {
    /// What a cost was beyond all that had been drawn is in the journal before the cost is.
    pub(super) fn attach_draw(&mut self, fee: &Fee) {
        if let Some(draw) = fee.draw() {
            self.attach(draw);
        }
    }
}
