//! What is asked of admission while nobody waits allocates nothing, and neither does a refusal.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests assert by panicking"
)]

use std::sync::Arc;

use allocation_counter::measure;
use orlop_admission::{
    Acquired, Bulkhead, BulkheadOptions, ComputationId, Grantee, Permit, Quotas, Rate, Refusal,
    Request, TenantAccount, Tenants,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::TenantLabel;
use orlop_saga::time::{Clock, Monotonic, WallMillis};

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

struct Nobody;

impl Grantee for Nobody {
    fn granted(self: Arc<Self>, permit: Permit) {
        drop(permit);
    }

    fn refused(self: Arc<Self>, _refusal: Refusal) {}
}

fn house(rate: Rate) -> (Bulkhead, Arc<TenantAccount>) {
    let options = BulkheadOptions {
        in_flight_max: 256,
        ..BulkheadOptions::new("counted")
    };
    let bulkhead = Bulkhead::new(&options, Arc::new(Stopped)).unwrap();
    let quotas = Quotas {
        rate: Some(rate),
        ..Quotas::UNLIMITED
    };
    let tenants = Tenants::new(1).unwrap();
    let label = TenantLabel::new("ada").unwrap();
    (bulkhead, tenants.register_next(label, quotas).unwrap())
}

fn ask(bulkhead: &Bulkhead, ada: &Arc<TenantAccount>, nobody: &Arc<Nobody>) -> Option<Permit> {
    let request = Request::new(ada, ComputationId::new(1));
    let grantee: Arc<dyn Grantee> = Arc::<Nobody>::clone(nobody);
    match bulkhead.acquire(&request, grantee) {
        Ok(Acquired::Granted(permit)) => Some(permit),
        Ok(Acquired::Queued(_)) => panic!("queued"),
        Err(Refusal::RateLimited { .. }) => None,
        Err(refusal) => panic!("{refusal}"),
    }
}

#[test]
fn asking_and_settling_allocates_nothing_once_a_tenant_has_been_here() {
    let (bulkhead, ada) = house(Rate::new(Rate::PER_SECOND_MAX, u32::MAX).unwrap());
    let nobody = Arc::new(Nobody);
    let turn = || {
        let permit = ask(&bulkhead, &ada, &nobody).unwrap();
        permit.settle(BusyNanos::new(1_000));
    };
    // Its seat, and what its kind of work costs, are remembered from the first time.
    turn();
    assert_eq!(measure(|| (0..1_000).for_each(|_| turn())).count_total, 0);
    assert_eq!(bulkhead.snapshot().ordinary.settled, 1_001);
}

#[test]
fn a_refusal_allocates_nothing() {
    let (bulkhead, ada) = house(Rate::new(1, 1).unwrap());
    let nobody = Arc::new(Nobody);
    drop(ask(&bulkhead, &ada, &nobody));
    let refused = || assert!(ask(&bulkhead, &ada, &nobody).is_none());
    assert_eq!(
        measure(|| (0..1_000).for_each(|_| refused())).count_total,
        0
    );
    assert_eq!(bulkhead.snapshot().ordinary.refused.rate_limited, 1_000);
}

#[test]
fn a_batch_that_fits_its_answers_allocates_nothing() {
    let (bulkhead, ada) = house(Rate::new(Rate::PER_SECOND_MAX, u32::MAX).unwrap());
    let requests = [Request::new(&ada, ComputationId::new(1)); 64];
    let mut permits = Vec::with_capacity(64);
    let mut turn = || {
        let nobody = |_| -> Arc<dyn Grantee> { Arc::new(Nobody) };
        bulkhead.acquire_batch(&requests, nobody, &mut permits, |_, other| {
            panic!("{other:?}")
        });
        Permit::settle_batch(&mut permits, &[BusyNanos::new(1); 64], |_, _| {});
    };
    turn();
    assert_eq!(measure(turn).count_total, 0);
    assert_eq!(bulkhead.snapshot().ordinary.settled, 128);
}
