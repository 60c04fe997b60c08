//! Allow lists, asked at the point of use: when an attempt asks for a permit, and if it waits for
//! that, again when it gets it.

use std::sync::Arc;

use orlop_admission::{Lane, Refusal, TenantAccount};

use super::{Action, Demand, Executor};
use crate::registry::Code;

/// Who is to run what.
pub(super) struct Wish {
    account: Arc<TenantAccount>,
    code: Arc<Code>,
}

impl Wish {
    /// `None` if no allow list binds it: questions and undos belong to what ran.
    pub(super) fn of(action: &Action, demand: &Demand) -> Option<Self> {
        let (Action::Run { code, .. }, Lane::Ordinary) = (action, demand.lane) else {
            return None;
        };
        Some(Self {
            account: Arc::clone(&demand.account),
            code: Arc::clone(code),
        })
    }

    /// Whether the tenant may run it.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.account.check_allowed(&self.code.reference.name)
    }
}

impl Executor {
    /// Whether the tenant may run what the action runs.
    pub(super) fn check_allowed(&self, action: &Action, demand: &Demand) -> Result<(), Refusal> {
        let (Action::Run { code, .. }, Lane::Ordinary) = (action, demand.lane) else {
            return Ok(());
        };
        let checked = demand.account.check_allowed(&code.reference.name);
        checked.inspect_err(|refusal| self.audit.refused(demand.account.id(), refusal))
    }
}
