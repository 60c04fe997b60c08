//! Listeners: who hears that an attempt is granted, refused or over, and tells the driver.

use std::sync::{Arc, Weak};

use orlop_admission::{Grantee, Permit, Refusal};
use orlop_saga::id::{SagaId, StepIndex};

use super::Message;
use crate::core::Core;
use crate::executor::{Action, Ended, Executor, Owner};
use crate::host::Attempt;
use crate::lease::Bounds;

/// Who hears of one attempt.
pub(super) struct Listener {
    pub(super) core: Weak<Core>,
    pub(super) executor: Arc<Executor>,
    pub(super) saga: SagaId,
    pub(super) step: StepIndex,
    pub(super) action: Action,
    pub(super) attempt: Attempt,
    pub(super) bounds: Bounds,
}

impl Grantee for Listener {
    fn granted(self: Arc<Self>, permit: Permit) {
        let owner: Arc<dyn Owner> = Arc::<Self>::clone(&self);
        let (action, attempt) = (self.action.clone(), self.attempt.clone());
        self.executor
            .launch(action, attempt, self.bounds, permit, owner);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        let tenant = self.attempt.tenant;
        self.executor.audit.refused(tenant, &refusal);
        if let Some(core) = self.core.upgrade() {
            let (saga, step, fence) = (self.saga, self.step, self.attempt.fence);
            core.driver.tell(Message::Refused {
                saga,
                step,
                fence,
                refusal,
            });
        }
    }
}

impl Owner for Listener {
    fn ended(self: Arc<Self>, ended: Ended) {
        if let Some(core) = self.core.upgrade() {
            let (saga, step, fence) = (self.saga, self.step, self.attempt.fence);
            core.driver.tell(Message::Ended {
                saga,
                step,
                fence,
                ended,
            });
        }
    }
}
