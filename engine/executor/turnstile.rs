//! The turnstile: where a simulation has every attempt wait, and decides what becomes of it.

use std::sync::Arc;

use orlop_admission::Permit;
use orlop_saga::amount::BusyNanos;
use orlop_saga::outcome::Failure;

use super::{Action, Ended, Executor, Owner};
use crate::budget::Fee;
use crate::course::Ending;
use crate::host::Attempt;
use crate::lease::Bounds;

/// See the module.
pub(crate) trait Turnstile: Send + Sync {
    /// An attempt has its permit and would start now. Whoever drops it instead lets it hang.
    fn arrive(&self, launch: Launch);
}

/// An attempt that would start now.
pub(crate) struct Launch {
    pub(crate) executor: Arc<Executor>,
    pub(crate) action: Action,
    pub(crate) attempt: Attempt,
    pub(crate) bounds: Bounds,
    pub(crate) permit: Option<Permit>,
    pub(crate) owner: Arc<dyn Owner>,
}

impl Launch {
    /// Starts it; `owner` hears the end in place of the one that launched it.
    pub(crate) fn go(self, owner: Arc<dyn Owner>) {
        let Self {
            executor,
            action,
            attempt,
            bounds,
            permit,
            owner: _,
        } = self;
        executor.start(action, attempt, bounds, permit, owner);
    }

    /// The same attempt once more, in no slot: as if its request had been delivered twice.
    pub(crate) fn again(&self) -> Self {
        Self {
            executor: Arc::clone(&self.executor),
            action: self.action.clone(),
            attempt: self.attempt.clone(),
            bounds: self.bounds,
            permit: None,
            owner: Arc::clone(&self.owner),
        }
    }

    /// Ends it without having started it.
    pub(crate) fn fail(self, failure: Failure) {
        if let Some(permit) = self.permit {
            permit.settle(BusyNanos::default());
        }
        let ending = Ending::Failed(failure);
        self.owner.ended(Ended {
            ending,
            fee: Fee::FREE,
        });
    }
}
