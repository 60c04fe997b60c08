//! Tickets: the caller's side of a request that waits.

use std::fmt;
use std::sync::Arc;

use orlop_saga::time::Monotonic;

use crate::bulkhead::Core;
use crate::expiry::Place;

/// A request that waits, or waited. Dropping it changes nothing.
pub struct QueueTicket {
    core: Arc<Core>,
    place: Place,
    expires_at: Option<Monotonic>,
}

impl QueueTicket {
    pub(crate) const fn new(core: Arc<Core>, place: Place, expires_at: Option<Monotonic>) -> Self {
        Self {
            core,
            place,
            expires_at,
        }
    }

    /// Withdraws the request, in constant time (and hands on what it held back).
    ///
    /// `true`: it still waited; its grantee will never be called. `false`: it was granted,
    /// refused or withdrawn before; the grantee has been called or is about to be.
    pub fn cancel(&self) -> bool {
        self.core.withdraw(self.place)
    }

    /// When the request is refused if it is not granted before.
    pub const fn expires_at(&self) -> Option<Monotonic> {
        self.expires_at
    }
}

impl fmt::Debug for QueueTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTicket")
            .field("bulkhead", &self.core.name)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
