//! Allow lists, asked at the point of use: whenever an attempt asks for a permit.

use orlop_admission::{Lane, Refusal};

use super::{Action, Demand, Executor};

impl Executor {
    /// Whether the tenant may run what the action runs. Questions and undos belong to what ran.
    pub(super) fn check_allowed(&self, action: &Action, demand: &Demand) -> Result<(), Refusal> {
        let (Action::Run { code, .. }, Lane::Ordinary) = (action, demand.lane) else {
            return Ok(());
        };
        let checked = demand.account.check_allowed(&code.reference.name);
        checked.inspect_err(|refusal| self.audit.refused(demand.account.id(), refusal))
    }
}
