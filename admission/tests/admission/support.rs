//! What the tests share: a clock that is set by hand, and a grantee that keeps what it is given.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop_admission::{
    Acquired, Bulkhead, BulkheadOptions, ComputationId, CostVector, Grantee, Permit, QueueTicket,
    Quotas, Refusal, Request, TenantAccount, Tenants,
};
use orlop_saga::amount::ByteCount;
use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::{Clock, Monotonic, WallMillis};

/// Time that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        self.0
            .fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> WallMillis {
        WallMillis::new(self.0.load(Ordering::SeqCst) / 1_000_000)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::new(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
pub enum Event {
    Granted(u32, Permit),
    Refused(u32, Refusal),
}

/// What grantees were told, in order.
pub type Inbox = Arc<Mutex<Vec<Event>>>;

/// A grantee that files what it is told under a number.
#[derive(Debug)]
pub struct Filing {
    pub id: u32,
    pub inbox: Inbox,
}

impl Grantee for Filing {
    fn granted(self: Arc<Self>, permit: Permit) {
        self.inbox
            .lock()
            .unwrap()
            .push(Event::Granted(self.id, permit));
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        self.inbox
            .lock()
            .unwrap()
            .push(Event::Refused(self.id, refusal));
    }
}

pub fn filing(id: u32, inbox: &Inbox) -> Arc<dyn Grantee> {
    Arc::new(Filing {
        id,
        inbox: Arc::clone(inbox),
    })
}

pub fn take_all(inbox: &Inbox) -> Vec<Event> {
    std::mem::take(&mut *inbox.lock().unwrap())
}

/// The ids that were granted, in order; asserts that nothing was refused.
pub fn granted(inbox: &Inbox) -> Vec<(u32, Permit)> {
    take_all(inbox)
        .into_iter()
        .map(|event| match event {
            Event::Granted(id, permit) => (id, permit),
            Event::Refused(id, refusal) => panic!("{id} was refused: {refusal}"),
        })
        .collect()
}

/// The refusals, in order; asserts that nothing was granted.
pub fn refused(inbox: &Inbox) -> Vec<(u32, Refusal)> {
    take_all(inbox)
        .into_iter()
        .map(|event| match event {
            Event::Granted(id, _) => panic!("{id} was granted"),
            Event::Refused(id, refusal) => (id, refusal),
        })
        .collect()
}

pub fn plenty() -> Quotas {
    Quotas {
        slots_max: 1 << 40,
        staging_bytes_max: ByteCount::new(1 << 40),
        ..Quotas::UNLIMITED
    }
}

pub fn label(text: &str) -> TenantLabel {
    TenantLabel::new(text).unwrap()
}

pub fn tenant(tenants: &Tenants, name: &str) -> Arc<TenantAccount> {
    tenants.register_next(label(name), plenty()).unwrap()
}

pub fn cost(slots: u32, staging: u64) -> CostVector {
    CostVector::one_slot(ByteCount::new(staging)).with_slots(NonZeroU32::new(slots).unwrap())
}

pub fn request(tenant: &Arc<TenantAccount>) -> Request<'_> {
    Request::new(tenant, ComputationId::new(7))
}

/// A bulkhead of `slots`, a registry, a clock and an inbox.
pub struct House {
    pub clock: Arc<ManualClock>,
    pub tenants: Tenants,
    pub bulkhead: Bulkhead,
    pub inbox: Inbox,
}

impl House {
    pub fn new(slots: u32) -> Self {
        Self::with(&BulkheadOptions {
            in_flight_max: slots,
            ..BulkheadOptions::new("test")
        })
    }

    pub fn with(options: &BulkheadOptions) -> Self {
        let clock = Arc::new(ManualClock::default());
        let as_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
        Self {
            tenants: Tenants::new(64).unwrap(),
            bulkhead: Bulkhead::new(options, as_clock).unwrap(),
            clock,
            inbox: Inbox::default(),
        }
    }

    pub fn ask(&self, id: u32, request: Request<'_>) -> Result<Acquired, Refusal> {
        self.bulkhead.acquire(&request, filing(id, &self.inbox))
    }

    pub fn take(&self, request: Request<'_>) -> Permit {
        match self.ask(u32::MAX, request) {
            Ok(Acquired::Granted(permit)) => permit,
            other => panic!("not granted at once: {other:?}"),
        }
    }

    pub fn queue(&self, id: u32, request: Request<'_>) -> QueueTicket {
        match self.ask(id, request) {
            Ok(Acquired::Queued(ticket)) => ticket,
            other => panic!("not queued: {other:?}"),
        }
    }

    /// Asserts that nothing is held, queued or reserved anywhere.
    pub fn assert_quiet(&self) {
        let snapshot = self.bulkhead.snapshot();
        for lane in [snapshot.ordinary, snapshot.reserved] {
            assert_eq!((lane.slots, lane.in_flight, lane.queued), (0, 0, 0));
            assert_eq!(lane.staging.get(), 0);
            assert_eq!(lane.granted, lane.settled + lane.unsettled);
        }
        let mut tenants = Vec::new();
        self.tenants.snapshot_into(&mut tenants);
        for tenant in tenants {
            assert_eq!(tenant.ordinary, orlop_admission::Holding::default());
            assert_eq!(tenant.reserved, orlop_admission::Holding::default());
        }
    }
}
