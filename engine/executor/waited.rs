//! Who waits for a permit, and for how long.

use std::sync::Arc;

use orlop_admission::{Grantee, Permit, Refusal};
use orlop_saga::time::{Clock, Monotonic};

use super::allow::Wish;
use crate::meter::Meters;

/// A grantee whose wait is measured.
pub(super) struct Waited {
    pub(super) grantee: Arc<dyn Grantee>,
    pub(super) since: Monotonic,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meters: Arc<Meters>,
    /// What an allow list may have come to forbid while it waited.
    pub(super) wish: Option<Wish>,
}

impl Grantee for Waited {
    fn granted(self: Arc<Self>, permit: Permit) {
        let waited = self.clock.monotonic().since(self.since);
        self.meters.waited(permit.lane(), waited);
        let grantee = Arc::clone(&self.grantee);
        match self.wish.as_ref().map_or(Ok(()), Wish::check) {
            Ok(()) => grantee.granted(permit),
            Err(refusal) => {
                drop(permit);
                grantee.refused(refusal);
            }
        }
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        Arc::clone(&self.grantee).refused(refusal);
    }
}
