//! What a saga's attempts cost, as far as budgets are concerned.

use std::sync::Arc;

use orlop_saga::id::{Fence, SagaId, StepIndex};
use orlop_saga::tenant::AuditTag;

use super::Message;
use super::run::Run;
use crate::budget::Fee;
use crate::core::Core;

impl Run {
    /// What a cost was beyond all that had been drawn is in the journal before the cost is.
    pub(super) fn attach_draw(&mut self, fee: &Fee) {
        if let Some(draw) = fee.draw() {
            self.attach(draw);
        }
    }

    /// Asks again once the next part of the budget is durable, or is not.
    pub(super) fn retry_when_drawn(
        &self,
        core: &Arc<Core>,
        step: StepIndex,
        fence: Fence,
        audit: AuditTag,
    ) {
        let saga: SagaId = self.id;
        let then = move |core: &Arc<Core>, _| {
            core.driver.tell(Message::Retry { saga, step, fence });
        };
        let treasury = &core.executor.treasury;
        treasury.when_drawn(core, audit, Box::new(then));
    }
}
