//! Allow lists, asked at the point of use: when an attempt asks for a permit, and if it waits for
//! that, again when it gets it.

use std::sync::Arc;

use orlop_admission::{Bulkhead, Lane, Refusal, TenantAccount};
use orlop_saga::tenant::AuditTag;

use super::{Action, Demand, Executor};
use crate::registry::Code;

/// Who is to run what, and for whom.
pub(super) struct Wish {
    account: Arc<TenantAccount>,
    audit: AuditTag,
    code: Arc<Code>,
    bulkhead: Arc<Bulkhead>,
}

/// What an allow list binds: questions and undos belong to what ran.
fn bound<'a>(action: &'a Action, demand: &Demand) -> Option<&'a Arc<Code>> {
    match (action, demand.lane) {
        (Action::Run { code, .. }, Lane::Ordinary) => Some(code),
        (Action::Run { .. }, Lane::Reserved)
        | (Action::Reconcile { .. } | Action::Sweep { .. } | Action::Undo { .. }, _) => None,
    }
}

impl Wish {
    /// `None` if no allow list binds it.
    pub(super) fn of(action: &Action, demand: &Demand, bulkhead: &Arc<Bulkhead>) -> Option<Self> {
        Some(Self {
            account: Arc::clone(&demand.account),
            audit: demand.audit,
            code: Arc::clone(bound(action, demand)?),
            bulkhead: Arc::clone(bulkhead),
        })
    }

    /// Whether the tenant may run it, for whom it is to.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        check(&self.account, &self.code, self.audit)
            .inspect_err(|refusal| self.bulkhead.count_refused(Lane::Ordinary, refusal))
    }
}

fn check(account: &TenantAccount, code: &Code, audit: AuditTag) -> Result<(), Refusal> {
    account.check_allowed(&code.reference.name)?;
    account.check_engagement(audit)
}

impl Executor {
    /// Whether the tenant may run a computation, for whom it is to.
    pub(crate) fn check_code(
        &self,
        account: &TenantAccount,
        code: &Code,
        audit: AuditTag,
    ) -> Result<(), Refusal> {
        check(account, code, audit).inspect_err(|refusal| {
            if let Some(gate) = self.bulkheads.get(&code.bulkhead) {
                gate.bulkhead.count_refused(Lane::Ordinary, refusal);
            }
        })
    }

    /// Whether the tenant may run what the action runs.
    pub(super) fn check_allowed(&self, action: &Action, demand: &Demand) -> Result<(), Refusal> {
        let Some(code) = bound(action, demand) else {
            return Ok(());
        };
        let checked = self.check_code(&demand.account, code, demand.audit);
        checked.inspect_err(|refusal| self.audit.refused(demand.account.id(), refusal))
    }
}
