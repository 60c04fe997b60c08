//! Waiting for a budget whose next part is on its way to the disk.

use std::sync::Arc;

use orlop_saga::effect::Withdrawal;
use orlop_saga::tenant::AuditTag;
use orlop_store::log::AppendError;

use super::run::waited;
use super::{Flight, Intent, Locked, Phase};
use crate::core::Core;

impl Flight {
    /// Waits for the next part of the budget, which is on its way to the disk.
    pub(super) fn again_when_drawn(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        audit: AuditTag,
    ) {
        state.phase = Phase::BackingOff;
        drop(state);
        let flight = Arc::clone(self);
        let then = move |core: &Arc<Core>, result: Result<(), AppendError>| match result {
            Ok(()) => flight.admit(core),
            Err(error) => flight.not_drawn(core, &error),
        };
        let treasury = &core.executor.treasury;
        treasury.when_drawn(core, audit, Box::new(then));
    }

    /// The journal did not take the draw that it waited for.
    fn not_drawn(self: &Arc<Self>, core: &Arc<Core>, error: &AppendError) {
        let state = self.state.lock();
        if !matches!(state.phase, Phase::BackingOff) {
            return;
        }
        if state.intent == Intent::None {
            let reply = core.append_failed(error, self.id.key);
            self.withdraw_locked(core, state, reply, Withdrawal::Refused);
        } else {
            self.again_after(core, state, waited(1, core.draw()));
        }
    }
}
