//! Faults of earlier systems, each held off by name.

use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{
    Acquired, BulkheadOptions, Dimension, DrainError, HeldScope, OptionsError, Queued, Quotas,
    Refusal, RegisterError, Scope, Tenants,
};
use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::id::TenantId;
use orlop_saga::time::Monotonic;

use crate::support::{House, cost, granted, label, plenty, refused, request, tenant};

#[test]
fn a_quota_of_zero_admits_nothing() {
    let house = House::new(4);
    let ada = tenant(&house.tenants, "ada");
    let none = Quotas {
        slots_max: 0,
        staging_bytes_max: ByteCount::new(0),
        ..Quotas::UNLIMITED
    };
    house.tenants.set_quotas(&ada, none).unwrap();
    let never = Refusal::NeverFits {
        dimension: Dimension::TenantSlots,
        asked: 1,
        cap: 0,
    };
    assert_eq!(house.ask(0, request(&ada)).unwrap_err(), never);
    house.tenants.set_quotas(&ada, plenty()).unwrap();
    drop(house.take(request(&ada)));
}

#[test]
fn withdrawing_or_giving_back_twice_frees_nothing_twice() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let withdrawn = house.queue(0, request(&ada).cost(cost(1, 100)));
    assert!(withdrawn.cancel());
    assert!(!withdrawn.cancel());
    // The next one waits in the same place; the old ticket must not reach it.
    let next = house.queue(1, request(&ada));
    assert!(!withdrawn.cancel());
    drop(permit);
    let held = granted(&house.inbox);
    assert!(!next.cancel());
    assert_eq!(house.bulkhead.snapshot().ordinary.in_flight, 1);
    assert_eq!(ada.snapshot().ordinary.in_flight, 1);
    drop(held);
    house.assert_quiet();
    drop(house.take(request(&ada)));
}

#[test]
fn unregistering_zeroes_nothing_that_live_work_holds() {
    let house = House::new(2);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada).cost(cost(2, 40)));
    house.tenants.unregister(&ada).unwrap();
    let held = ada.snapshot().ordinary;
    assert_eq!((held.in_flight, held.slots, held.staging.get()), (1, 2, 40));
    let mut tenants = Vec::new();
    house.tenants.snapshot_into(&mut tenants);
    assert_eq!(
        tenants.len(),
        1,
        "it stays in sight while it holds something"
    );
    permit.settle(BusyNanos::new(5));
    assert_eq!(
        ada.snapshot().busy,
        BusyNanos::new(5),
        "it is billed after its end"
    );
    house.tenants.snapshot_into(&mut tenants);
    assert_eq!(tenants.len(), 0);
    house.assert_quiet();
}

#[test]
fn nothing_is_admitted_after_a_drain_ended_until_it_is_resumed() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    house.queue(0, request(&ada));
    let drain = house.bulkhead.drain(Queued::Serve);
    let draining = Refusal::Draining {
        scope: Scope::Bulkhead,
    };
    assert_eq!(house.ask(1, request(&ada)).unwrap_err(), draining);
    assert_eq!(drain.try_wait(), None);
    drop(permit);
    assert_eq!(drain.try_wait(), None, "what waited is served first");
    drop(granted(&house.inbox));
    assert_eq!(drain.try_wait(), Some(Ok(())));
    assert_eq!(house.ask(2, request(&ada)).unwrap_err(), draining);
    house.bulkhead.resume();
    assert_eq!(drain.try_wait(), Some(Err(DrainError::Resumed)));
    drop(house.take(request(&ada)));
}

#[test]
fn a_drain_that_refuses_what_waits_tells_all_of_it() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let permit = house.take(request(&ada));
    house.queue(0, request(&ada));
    house.queue(1, request(&bob));
    let drain = house.bulkhead.drain(Queued::Refuse);
    let draining = Refusal::Draining {
        scope: Scope::Bulkhead,
    };
    let mut told = refused(&house.inbox);
    told.sort_by_key(|(id, _)| *id);
    assert_eq!(told, [(0, draining.clone()), (1, draining)]);
    drop(permit);
    assert_eq!(drain.try_wait(), Some(Ok(())));
    house.assert_quiet();
}

#[test]
fn ids_are_recycled_under_a_later_generation_and_all_of_them_can_run() {
    let house = House::new(1);
    for round in 1..=3_u32 {
        let all: Vec<_> = (0..64)
            .map(|n| tenant(&house.tenants, &format!("tenant {n}")))
            .collect();
        for (slot, tenant) in (0..).zip(&all) {
            assert_eq!(tenant.id(), TenantId::new(slot, round));
            drop(house.take(request(tenant)));
        }
        let error = house.tenants.register_next(label("one more"), plenty());
        assert_eq!(error.unwrap_err(), RegisterError::Full { tenants_max: 64 });
        for tenant in &all {
            house.tenants.unregister(tenant).unwrap();
        }
    }
}

#[test]
fn registering_anew_does_not_double_what_a_tenant_holds() {
    let house = House::new(4);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let again = house.tenants.register_next(label("ada"), plenty());
    let holder = ada.id();
    let taken = |state| RegisterError::LabelTaken { holder, state };
    assert_eq!(
        again.unwrap_err(),
        taken(orlop_admission::TenantState::Active)
    );
    house.tenants.unregister(&ada).unwrap();
    let again = house.tenants.register_next(label("ada"), plenty());
    assert_eq!(
        again.unwrap_err(),
        taken(orlop_admission::TenantState::Unregistered)
    );
    drop(permit);
    let again = tenant(&house.tenants, "ada");
    assert_eq!(again.id(), TenantId::new(0, 2));
}

#[test]
fn what_an_old_life_gives_back_is_not_credited_to_the_new_one() {
    let house = House::new(4);
    let old = tenant(&house.tenants, "ada");
    let of_old = house.take(request(&old).cost(cost(1, 10)));
    house.tenants.unregister(&old).unwrap();
    // The slot is still the old life's, so the new one gets another.
    let new = tenant(&house.tenants, "bob");
    assert_ne!(new.id().slot(), old.id().slot());
    let of_new = house.take(request(&new).cost(cost(1, 20)));
    drop(of_old);
    let held = new.snapshot().ordinary;
    assert_eq!((held.in_flight, held.staging.get()), (1, 20));
    assert_eq!(new.snapshot().unsettled, 0);
    let stale = Refusal::StaleTenant { tenant: old.id() };
    assert_eq!(house.ask(0, request(&old)).unwrap_err(), stale);
    drop(of_new);
    house.assert_quiet();
}

#[test]
fn tenant_zero_has_no_privilege() {
    let house = House::new(1);
    let zero = tenant(&house.tenants, "zero");
    assert_eq!(zero.id().slot(), 0);
    house.tenants.revoke(&zero).unwrap();
    let revoked = Refusal::Revoked { tenant: zero.id() };
    assert_eq!(house.ask(0, request(&zero)).unwrap_err(), revoked);
}

#[test]
fn each_way_of_being_refused_has_its_own_name_and_amounts() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 2,
        in_flight_per_tenant_max: 1,
        queue_max: 2,
        queue_per_tenant_max: 2,
        staging_bytes_max: ByteCount::new(100),
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let refusal = |tenant, cost| house.ask(0, request(tenant).cost(cost)).unwrap_err();
    let never = |dimension, asked, cap| Refusal::NeverFits {
        dimension,
        asked,
        cap,
    };
    assert_eq!(
        refusal(&ada, cost(3, 0)),
        never(Dimension::BulkheadSlots, 3, 2)
    );
    assert_eq!(
        refusal(&ada, cost(2, 0)),
        never(Dimension::BulkheadTenantSlots, 2, 1)
    );
    assert_eq!(
        refusal(&ada, cost(1, 101)),
        never(Dimension::BulkheadStagingBytes, 101, 100)
    );
    let _permit = house.take(request(&ada).cost(cost(1, 60)));
    let exceeded = Refusal::QuotaExceeded {
        dimension: Dimension::BulkheadStagingBytes,
        asked: 41,
        used: 60,
        cap: 100,
    };
    assert_eq!(refusal(&bob, cost(1, 41)), exceeded);
    let narrow = Quotas {
        slots_max: 2,
        staging_bytes_max: ByteCount::new(70),
        ..Quotas::UNLIMITED
    };
    house.tenants.set_quotas(&ada, narrow).unwrap();
    let exceeded = Refusal::QuotaExceeded {
        dimension: Dimension::TenantStagingBytes,
        asked: 11,
        used: 60,
        cap: 70,
    };
    assert_eq!(refusal(&ada, cost(1, 11)), exceeded);
    house.queue(1, request(&ada));
    let exceeded = Refusal::QuotaExceeded {
        dimension: Dimension::TenantSlots,
        asked: 1,
        used: 2,
        cap: 2,
    };
    assert_eq!(refusal(&ada, cost(1, 0)), exceeded);
    let late = request(&bob).deadline(Monotonic::new(0));
    assert_eq!(house.ask(2, late).unwrap_err(), Refusal::Expired);
    let _bob_runs = house.take(request(&bob));
    house.queue(3, request(&bob));
    let full = Refusal::QueueFull {
        scope: Scope::Bulkhead,
        queued: 2,
        queued_max: 2,
    };
    assert_eq!(refusal(&bob, cost(1, 0)), full);
}

#[test]
fn a_refusal_has_no_side_effect_but_its_count() {
    let house = House::with(&BulkheadOptions {
        in_flight_max: 1,
        queue_max: 0,
        queue_per_tenant_max: 0,
        ..BulkheadOptions::new("test")
    });
    let ada = tenant(&house.tenants, "ada");
    let _permit = house.take(request(&ada));
    let (before, mine) = (house.bulkhead.snapshot(), ada.snapshot());
    let full = house.ask(0, request(&ada).cost(cost(1, 9))).unwrap_err();
    assert!(full.is_retryable());
    let mut after = house.bulkhead.snapshot();
    assert_eq!(after.ordinary.refused.queue_full, 1);
    assert_eq!(after.ordinary.refused.total(), 1);
    after.ordinary.refused = before.ordinary.refused;
    assert_eq!((after, ada.snapshot()), (before, mine));
}

#[test]
fn a_permit_outlives_whoever_asked_for_it() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = pollster::block_on(house.bulkhead.acquire_async(request(&ada))).unwrap();
    assert_eq!(house.bulkhead.snapshot().ordinary.in_flight, 1);
    let elsewhere = std::thread::spawn(move || permit.settle(BusyNanos::new(3)));
    elsewhere.join().unwrap();
    let lane = house.bulkhead.snapshot().ordinary;
    assert_eq!(
        (lane.in_flight, lane.settled, lane.busy),
        (0, 1, BusyNanos::new(3))
    );
}

#[test]
fn asking_from_inside_work_that_holds_a_permit_is_refused_and_not_a_deadlock() {
    let house = House::new(1);
    let other = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let permit = house.take(request(&ada));
    let bulkhead = Arc::clone(house.bulkhead.name());
    {
        let outer = HeldScope::enter(permit.bulkhead_id());
        let inner = HeldScope::enter(other.bulkhead.id());
        drop(outer);
        assert!(house.ask(0, request(&ada)).is_ok(), "the scope has ended");
        let _again = HeldScope::enter(permit.bulkhead_id());
        let nested = Refusal::Nested { bulkhead };
        assert_eq!(house.ask(1, request(&ada)).unwrap_err(), nested);
        drop(inner);
        assert!(matches!(
            other.ask(2, request(&ada)),
            Ok(Acquired::Granted(_))
        ));
    }
}

#[test]
fn options_are_refused_and_never_corrected() {
    let check = |options: BulkheadOptions| {
        let clock = Arc::new(crate::support::ManualClock::default());
        orlop_admission::Bulkhead::new(&options, clock).map(drop)
    };
    let good = BulkheadOptions::new("test");
    assert_eq!(check(good.clone()), Ok(()));
    assert!((1..=8).contains(&good.in_flight_resolved()));
    let zero = BulkheadOptions {
        in_flight_per_tenant_max: 0,
        ..good.clone()
    };
    assert_eq!(check(zero), Err(OptionsError::NobodyMayRun));
    let exceeds = BulkheadOptions {
        queue_max: 3,
        queue_per_tenant_max: 4,
        ..good.clone()
    };
    let error = OptionsError::Exceeds {
        field: "queue_per_tenant_max",
        value: 4,
        bound: "queue_max",
        bound_value: 3,
    };
    assert_eq!(check(exceeds), Err(error));
    let timeout = BulkheadOptions {
        queue_timeout: Some(Duration::ZERO),
        ..good.clone()
    };
    assert_eq!(check(timeout), Err(OptionsError::QueueTimeoutZero));
    let nameless = BulkheadOptions {
        name: String::new(),
        ..good
    };
    assert_eq!(check(nameless), Err(OptionsError::NameEmpty));
    let many = Tenants::new(u32::MAX).unwrap_err();
    assert_eq!(
        (many.tenants, many.tenants_max),
        (u32::MAX, Tenants::TENANTS_MAX)
    );
}
