//! A tenant that is bound to engagements works for no other one, and what is refused before a
//! bulkhead is asked is counted there.

use std::future::IntoFuture;

use orlop::{
    Actor, AuditEvent, AuditTag, BulkheadSnapshot, Denial, Engine, HOST_IO, Key, Object, Operation,
    Refusal, SubmitError, TenantError, wait,
};
use tempfile::tempdir;

use crate::hall::{Hall, Series, no_queue};
use crate::support::{Double, Listener, Two};

const NORTH: AuditTag = AuditTag {
    organisation: 1,
    engagement: 1,
};
const SOUTH: AuditTag = AuditTag {
    organisation: 2,
    engagement: 1,
};

fn bulkhead(engine: &Engine, name: &str) -> BulkheadSnapshot {
    let snapshot = engine.snapshot();
    let mut found = snapshot.bulkheads.into_iter();
    found.find(|bulkhead| &*bulkhead.name == name).unwrap()
}

#[test]
fn a_tenant_spends_for_no_engagement_that_it_is_not_bound_to_and_is_audited_if_it_tries() {
    let folder = tempdir().unwrap();
    for again in [false, true] {
        let two = Two::open(folder.path());
        let tenant = two.mallory.tenant();
        if !again {
            // Also what is there already is not replayed.
            wait(tenant.submit(Double, 1_u64).audit(SOUTH)).unwrap();
            wait(two.mallory.allow_engagements([NORTH])).unwrap();
        }
        let only = two.mallory.engagements().unwrap();
        assert_eq!(only.iter().copied().collect::<Vec<_>>(), [NORTH]);
        let refused = SubmitError::Refused(Refusal::EngagementNotAllowed {
            tenant: tenant.id(),
            audit: SOUTH,
        });
        let submitted = wait(tenant.submit(Double, 1_u64).audit(SOUTH));
        assert_eq!(submitted.unwrap_err(), refused);
        let enqueued = wait(tenant.enqueue(Double, 2_u64).audit(SOUTH));
        assert_eq!(enqueued.err(), Some(refused.clone()));
        let started = wait(
            tenant
                .start::<Listener>(Key::named("k"), 1_u64)
                .audit(SOUTH),
        );
        assert_eq!(started.err(), Some(refused));
        let denied = Denial {
            who: Actor {
                tenant: tenant.id(),
                label: "mallory".into(),
                tag: SOUTH,
            },
            operation: Operation::Run,
            object: Object::Engagement(SOUTH),
            owner: None,
        };
        let told: Vec<_> = two.entries().into_iter().map(|it| it.event).collect();
        let denials = told
            .iter()
            .filter(|event| **event == AuditEvent::Denied(denied.clone()));
        assert_eq!(denials.count(), 3, "{told:?}");
        wait(tenant.submit(Double, 3_u64).audit(NORTH)).unwrap();
        wait(two.alice.tenant().submit(Double, 1_u64).audit(SOUTH)).unwrap();
        two.close();
    }
    let two = Two::open(folder.path());
    wait(two.mallory.allow_all_engagements()).unwrap();
    wait(two.mallory.tenant().submit(Double, 1_u64).audit(SOUTH)).unwrap();
    let many = (0..5_000).map(|engagement| AuditTag {
        organisation: 1,
        engagement,
    });
    let refused = wait(two.mallory.allow_engagements(many)).unwrap_err();
    let engagements_max = 4096;
    assert_eq!(refused, TenantError::Engagements { engagements_max });
    assert_eq!(two.mallory.engagements(), None);
    two.close();
}

#[test]
fn a_saga_whose_engagement_is_forbidden_while_it_runs_gets_no_further_step() {
    let hall = Hall::new(no_queue());
    let ada = hall.manager("ada");
    let series = ("ada".to_owned(), 2);
    let starting = ada.tenant().start::<Series>(Key::named("s"), series);
    let ticket = wait(starting.audit(SOUTH).into_future()).unwrap();
    hall.until_began(1);
    wait(ada.allow_engagements([NORTH])).unwrap();
    hall.turns.let_go(2);
    let failed = hall.clock.run(ticket.into_future()).unwrap().unwrap_err();
    let reason = "may not work for engagement 1 of organisation 2";
    assert!(failed.to_string().contains(reason), "{failed}");
    assert_eq!(hall.turns.began().len(), 1);
    hall.engine.blocking().close().unwrap();
}

#[test]
fn what_an_allow_list_refuses_is_counted_by_its_bulkhead() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let tenant = two.mallory.tenant();
    wait(two.mallory.allow_only(["other"])).unwrap();
    for number in 0..3_u64 {
        wait(tenant.submit(Double, number)).unwrap_err();
    }
    let refused = bulkhead(&two.engine, HOST_IO).ordinary.refused;
    assert_eq!((refused.not_allowed, refused.total()), (3, 3));
    wait(two.mallory.allow_all()).unwrap();
    wait(two.mallory.allow_engagements([NORTH])).unwrap();
    wait(tenant.submit(Double, 1_u64)).unwrap_err();
    let refused = bulkhead(&two.engine, HOST_IO).ordinary.refused;
    assert_eq!((refused.engagement_not_allowed, refused.total()), (1, 4));
    two.close();
}

#[test]
fn drains_of_all_tenants_are_in_the_snapshot_also_of_lives_that_have_ended() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let long = std::time::Duration::from_mins(1);
    let _waits = wait(two.alice.tenant().start::<Listener>(Key::named("k"), 1_u64)).unwrap();
    let alice = wait(two.alice.drain(std::time::Duration::ZERO)).unwrap();
    assert_eq!(alice.moving, 1);
    let mallory = wait(two.mallory.drain(long)).unwrap();
    wait(two.mallory.unregister()).unwrap();
    let mut snapshot = two.engine.snapshot();
    let drains = snapshot.drains;
    assert_eq!((drains.calls, drains.timeouts), (2, 1));
    assert_eq!(drains.waited, alice.waited + mallory.waited);
    wait(two.alice.drain(std::time::Duration::ZERO)).unwrap();
    two.engine.snapshot_into(&mut snapshot);
    assert_eq!((snapshot.drains.calls, snapshot.drains.timeouts), (3, 2));
    two.close();
}
