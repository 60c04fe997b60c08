//! Who waits for a permit, and for how long.

use std::sync::Arc;

use orlop_admission::{Grantee, Permit, Refusal};
use orlop_saga::time::{Clock, Monotonic};

use crate::meter::Meters;

/// A grantee whose wait is measured.
pub(super) struct Waited {
    pub(super) grantee: Arc<dyn Grantee>,
    pub(super) since: Monotonic,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meters: Arc<Meters>,
}

impl Grantee for Waited {
    fn granted(self: Arc<Self>, permit: Permit) {
        let waited = self.clock.monotonic().since(self.since);
        self.meters.waited(permit.lane(), waited);
        Arc::clone(&self.grantee).granted(permit);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        Arc::clone(&self.grantee).refused(refusal);
    }
}
