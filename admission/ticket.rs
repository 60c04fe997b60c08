//! Tickets: the caller's side of a request that waits.

use std::fmt;
use std::sync::Arc;

use orlop_saga::time::Monotonic;

use crate::bulkhead::Core;
use crate::expiry::Place;

/// A request that waits, or waited. Dropping it changes nothing; clones name the same request.
#[derive(Clone)]
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

    /// Has the request wait until `deadline`, if that is later than its own, or with none at all;
    /// it keeps its place. The bulkhead's time-out binds it as before.
    ///
    /// `false`: it does not wait any more.
    pub fn extend(&self, deadline: Option<Monotonic>) -> bool {
        self.core.extend(self.place, deadline)
    }

    pub(crate) fn into_core(self) -> Arc<Core> {
        self.core
    }

    /// When the request was to be refused if it is not granted before.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Acquired, Bulkhead, BulkheadOptions, ComputationId, Grantee, Permit, Quotas, Refusal,
        Request, Tenants,
    };
    use orlop_saga::tenant::TenantLabel;
    use orlop_saga::time::{Clock, WallMillis};

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn wall(&self) -> WallMillis {
            WallMillis::new(0)
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic::new(0)
        }
    }

    struct Deaf;

    impl Grantee for Deaf {
        fn granted(self: Arc<Self>, _permit: Permit) {}

        fn refused(self: Arc<Self>, _refusal: Refusal) {}
    }

    #[test]
    fn who_is_extended_again_and_again_is_remembered_once() {
        let options = BulkheadOptions {
            in_flight_max: 1,
            ..BulkheadOptions::new("extended")
        };
        let bulkhead = Bulkhead::new(&options, Arc::new(Stopped)).unwrap();
        let tenants = Tenants::new(1).unwrap();
        let label = TenantLabel::new("ada").unwrap();
        let ada = tenants.register_next(label, Quotas::UNLIMITED).unwrap();
        let until = |at| Request::new(&ada, ComputationId::new(0)).deadline(Monotonic::new(at));
        let _permit = bulkhead.acquire(&until(50), Arc::new(Deaf)).unwrap();
        let Ok(Acquired::Queued(ticket)) = bulkhead.acquire(&until(50), Arc::new(Deaf)) else {
            panic!("a slot for two");
        };
        for _ in 0..1_000 {
            assert!(ticket.extend(Some(Monotonic::new(50))));
            assert!(ticket.extend(Some(Monotonic::new(40))));
        }
        let noted = bulkhead.core().state.lock().expiries.len();
        assert!(noted <= 1, "{noted} alarms for one that waits");
        assert_eq!(bulkhead.next_expiry(), Some(Monotonic::new(50)));
    }
}
