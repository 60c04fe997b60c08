//! The registry: lives, slots and states.

use std::future::Future;

use orlop_admission::{Queued, Refusal, RegisterError, Scope, TenantError, TenantState, Tenants};
use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;

use crate::support::{House, granted, label, plenty, refused, request, tenant};

#[test]
fn an_id_found_in_the_journal_is_registered_as_it_was_and_gaps_are_used_later() {
    let tenants = Tenants::new(4).unwrap();
    let id = TenantId::new(2, 7);
    let found = tenants.register(label("ada"), id, plenty()).unwrap();
    assert_eq!(found.id(), id);
    assert_eq!(tenants.next_id(), Ok(TenantId::new(0, 1)));
    for (name, id) in [("b", (0, 1)), ("c", (1, 1)), ("d", (3, 1))] {
        assert_eq!(tenant(&tenants, name).id(), TenantId::new(id.0, id.1));
    }
    assert_eq!(
        tenants.next_id(),
        Err(RegisterError::Full { tenants_max: 4 })
    );
    tenants.unregister(&found).unwrap();
    assert_eq!(tenants.next_id(), Ok(TenantId::new(2, 8)));
    let stale = tenants.register(label("e"), id, plenty()).unwrap_err();
    let expected = RegisterError::StaleGeneration {
        tenant: id,
        last_generation: 7,
    };
    assert_eq!(stale, expected);
    let outside = TenantId::new(4, 1);
    let expected = RegisterError::SlotOutOfRange {
        tenant: outside,
        tenants_max: 4,
    };
    assert_eq!(
        tenants.register(label("e"), outside, plenty()).unwrap_err(),
        expected
    );
}

#[test]
fn a_slot_whose_generations_are_used_up_is_not_taken_again() {
    let tenants = Tenants::new(1).unwrap();
    let last = TenantId::new(0, u32::MAX);
    let account = tenants.register(label("ada"), last, plenty()).unwrap();
    tenants.unregister(&account).unwrap();
    assert_eq!(
        tenants.next_id(),
        Err(RegisterError::Full { tenants_max: 1 })
    );
}

#[test]
fn a_stale_id_or_account_is_refused_and_never_served() {
    let tenants = Tenants::new(1).unwrap();
    let old = tenant(&tenants, "ada");
    tenants.unregister(&old).unwrap();
    let new = tenant(&tenants, "ada");
    let stale = TenantError::Stale { tenant: old.id() };
    assert_eq!(tenants.get(old.id()).unwrap_err(), stale);
    assert_eq!(tenants.suspend(&old), Err(stale));
    assert_eq!(tenants.set_quotas(&old, plenty()), Err(stale));
    assert_eq!(tenants.unregister(&old), Ok(()), "it has ended already");
    assert_eq!(new.state(), TenantState::Active);
    assert_eq!(tenants.get(new.id()).unwrap().id(), new.id());
}

#[test]
fn an_account_of_another_registry_is_not_managed() {
    let (mine, other) = (Tenants::new(2).unwrap(), Tenants::new(2).unwrap());
    let (ours, theirs) = (tenant(&mine, "ada"), tenant(&other, "ada"));
    assert_eq!(ours.id(), theirs.id());
    let stale = TenantError::Stale {
        tenant: theirs.id(),
    };
    assert_eq!(mine.revoke(&theirs), Err(stale));
    assert_eq!(theirs.state(), TenantState::Active);
}

#[test]
fn what_a_suspended_tenant_queued_is_refused_and_what_runs_goes_on() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let permit = house.take(request(&ada));
    house.queue(0, request(&ada));
    house.queue(1, request(&bob));
    house.tenants.suspend(&ada).unwrap();
    let suspended = Refusal::Suspended { tenant: ada.id() };
    assert_eq!(refused(&house.inbox), [(0, suspended.clone())]);
    assert_eq!(house.ask(2, request(&ada)).unwrap_err(), suspended);
    assert_eq!(ada.snapshot().ordinary.in_flight, 1);
    house.tenants.resume(&ada).unwrap();
    house.queue(3, request(&ada));
    drop(permit);
    assert_eq!(granted(&house.inbox)[0].0, 1);
}

#[test]
fn a_tenants_drain_ends_when_its_work_in_every_bulkhead_has() {
    let (one, two) = (House::new(1), House::new(1));
    let ada = tenant(&one.tenants, "ada");
    let first = one.take(request(&ada));
    let second = two.take(request(&ada));
    let drain = one.tenants.drain(&ada, Queued::Serve).unwrap();
    let draining = Refusal::Draining {
        scope: Scope::Tenant,
    };
    assert_eq!(two.ask(0, request(&ada)).unwrap_err(), draining);
    drop(first);
    assert_eq!(drain.try_wait(), None);
    let waiting = std::thread::spawn(move || pollster::block_on(drain));
    drop(second);
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

#[test]
fn slots_that_idle_and_departed_tenants_kept_for_their_next_permit_go_to_whoever_asks() {
    let house = House::new(64);
    let names: Vec<_> = (0..62).map(|number| format!("tenant-{number}")).collect();
    let tenants: Vec<_> = names
        .iter()
        .map(|name| tenant(&house.tenants, name))
        .collect();
    let eve = tenant(&house.tenants, "eve");
    for _ in 0..3 {
        for account in &tenants {
            house.take(request(account)).settle(BusyNanos::new(1));
        }
        let all: Vec<_> = (0..64).map(|_| house.take(request(&eve))).collect();
        assert_eq!(house.bulkhead.snapshot().ordinary.slots, 64);
        drop(all);
    }
    for account in &tenants {
        house.take(request(account)).settle(BusyNanos::new(1));
        house.tenants.unregister(account).unwrap();
    }
    // Of other lives in the same places, which are given nothing twice.
    let tenants: Vec<_> = names
        .iter()
        .map(|name| tenant(&house.tenants, name))
        .collect();
    let mut all: Vec<_> = (0..32).map(|_| house.take(request(&eve))).collect();
    all.extend(
        tenants
            .iter()
            .take(32)
            .map(|account| house.take(request(account))),
    );
    let beyond = house.queue(0, request(&eve));
    assert!(beyond.cancel());
    let mut drain = std::pin::pin!(house.bulkhead.drain(Queued::Refuse));
    assert_eq!(drain.try_wait(), None);
    for permit in all {
        assert_eq!(drain.try_wait(), None);
        drop(permit);
    }
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let drained = drain.as_mut().poll(&mut context);
    assert_eq!(drained, std::task::Poll::Ready(Ok(())));
    house.assert_quiet();
}
