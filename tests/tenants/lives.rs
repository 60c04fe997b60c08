//! Lives of tenants: registered, managed, drained, ended and recycled, also over a restart.

use std::collections::BTreeSet;
use std::path::Path;

use futures_util::future::join_all;
use orlop::{
    ByteCount, ByteRate, Engine, Key, Limits, Noop, Options, Origin, Quotas, Rate, Refusal, Share,
    SubmitError, Tenant, TenantError, TenantRegisterError, TenantState, TenantStateError, Weight,
    wait,
};
use tempfile::tempdir;

use crate::support::{Double, Listener, builder, patient};

fn open(folder: &Path) -> Engine {
    builder(folder, patient()).open_blocking().unwrap()
}

fn refusal(tenant: &Tenant, number: u64) -> Refusal {
    match wait(tenant.submit(Double, number)) {
        Err(SubmitError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn small() -> Quotas {
    Quotas {
        slots_max: 3,
        staging_bytes_max: ByteCount::new(4096),
        buffers_max: 2,
        device_bytes_max: ByteCount::new(8192),
        kernels_max: 3,
        retained_bytes_max: ByteCount::new(1 << 20),
        journal: ByteRate::new(1 << 16, 1 << 12),
        rate: Rate::new(7, 5),
        share: Share {
            weight: Weight::new(9).unwrap(),
            ..Share::ORDINARY
        },
    }
}

#[test]
fn what_was_decided_about_a_tenant_holds_after_a_restart() {
    let folder = tempdir().unwrap();
    let engine = open(folder.path());
    let names = ["suspended", "drained", "revoked", "resumed"];
    for name in names {
        let manager = wait(engine.register(name, small())).unwrap();
        wait(manager.tenant().submit(Double, 1_u64)).unwrap();
        wait(manager.allow_only(["double", "later"])).unwrap();
        match name {
            "suspended" => wait(manager.suspend()).unwrap(),
            "drained" => {
                wait(manager.drain(std::time::Duration::from_mins(1))).unwrap();
            }
            "revoked" => wait(manager.revoke()).unwrap(),
            _ => {
                wait(manager.suspend()).unwrap();
                wait(manager.resume()).unwrap();
                wait(manager.set_quotas(Quotas::UNLIMITED)).unwrap();
                wait(manager.allow_all()).unwrap();
            }
        }
    }
    engine.blocking().close().unwrap();
    let engine = open(folder.path());
    for name in names {
        let manager = wait(engine.manage(name)).unwrap();
        let (tenant, snapshot) = (manager.tenant(), manager.snapshot());
        let id = tenant.id();
        let allowed = manager.allowed();
        if name == "resumed" {
            assert_eq!(snapshot.state, TenantState::Active);
            assert_eq!(snapshot.quotas, Quotas::UNLIMITED);
            assert_eq!(allowed, None);
            let reply = wait(tenant.submit(Double, 1_u64)).unwrap();
            assert_eq!(reply.origin, Origin::Replayed);
            continue;
        }
        assert_eq!(snapshot.quotas, small(), "{name}");
        let expected: BTreeSet<Box<str>> = ["double".into(), "later".into()].into();
        assert_eq!(allowed.as_deref(), Some(&expected));
        // What was done before is not replayed either.
        let refused = refusal(tenant, 1);
        match name {
            "suspended" => assert_eq!(refused, Refusal::Suspended { tenant: id }),
            "drained" => assert!(matches!(refused, Refusal::Draining { .. }), "{refused:?}"),
            _ => {
                assert_eq!(refused, Refusal::Revoked { tenant: id });
                let back = wait(manager.resume());
                assert!(matches!(back, Err(TenantError::State(_))), "{back:?}");
            }
        }
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_quota_of_zero_is_none_and_stays_none_over_a_restart() {
    let folder = tempdir().unwrap();
    let engine = open(folder.path());
    let none = Quotas {
        slots_max: 0,
        ..Quotas::UNLIMITED
    };
    wait(engine.register("acme", none)).unwrap();
    for _ in 0..2 {
        let engine = if engine.blocking().close().is_ok() {
            open(folder.path())
        } else {
            panic!("not closed");
        };
        let tenant = engine.blocking().tenant("acme").unwrap();
        let refused = refusal(&tenant, 1);
        assert!(
            matches!(refused, Refusal::NeverFits { cap: 0, .. }),
            "{refused:?}"
        );
        engine.blocking().close().unwrap();
    }
}

#[test]
fn registering_a_label_again_is_refused_and_doubles_nothing() {
    let folder = tempdir().unwrap();
    let engine = open(folder.path());
    let manager = wait(engine.register("acme", small())).unwrap();
    let again = wait(engine.register("acme", Quotas::UNLIMITED));
    let holder = manager.tenant().id();
    let taken = TenantRegisterError::LabelTaken {
        holder,
        state: TenantState::Active,
    };
    assert_eq!(again.err(), Some(TenantError::Register(taken)));
    assert_eq!(manager.snapshot().quotas, small());
    assert_eq!(engine.blocking().tenant("acme").unwrap().id(), holder);
    engine.blocking().close().unwrap();
}

#[test]
fn a_new_life_sees_nothing_of_the_old_one_whose_handles_are_stale_before_anything_else() {
    let folder = tempdir().unwrap();
    let engine = open(folder.path());
    let old = wait(engine.manage("acme")).unwrap();
    let first = wait(old.tenant().submit(Double, 4_u64).key(Key::named("k"))).unwrap();
    assert_eq!((first.output, first.origin), (8, Origin::Ran));
    let active = wait(old.unregister());
    assert!(matches!(active, Err(TenantError::State(_))), "{active:?}");
    wait(old.suspend()).unwrap();
    wait(old.unregister()).unwrap();
    let tenant = old.tenant().id();
    let is_stale = |old: &Tenant| {
        let stale = Refusal::StaleTenant { tenant };
        let replay = wait(old.submit(Double, 4_u64).key(Key::named("k")));
        assert_eq!(replay.err(), Some(SubmitError::Refused(stale)));
    };
    is_stale(old.tenant());
    let new = wait(engine.manage("acme")).unwrap();
    assert_eq!(new.tenant().id().slot(), tenant.slot());
    assert_eq!(new.tenant().id().generation(), tenant.generation() + 1);
    // The same key with another input: of the old life's it would be a conflict.
    let reply = wait(new.tenant().submit(Double, 5_u64).key(Key::named("k"))).unwrap();
    assert_eq!((reply.output, reply.origin), (10, Origin::Ran));
    assert_eq!(new.snapshot().settled, 1);
    is_stale(old.tenant());
    for stale in [
        wait(old.resume()),
        wait(old.revoke()),
        wait(old.set_quotas(Quotas::UNLIMITED)),
        wait(old.allow_all()),
        wait(old.unregister()),
    ] {
        let error = TenantStateError::Stale { tenant };
        assert_eq!(stale, Err(TenantError::State(error)));
    }
    assert_eq!(new.snapshot().state, TenantState::Active);
    drop((old, new));
    engine.blocking().close().unwrap();
    // Generations are not given twice, also when the last life ended.
    for generation in 2..4 {
        let engine = open(folder.path());
        let acme = wait(engine.manage("acme")).unwrap();
        assert_eq!(acme.tenant().id().generation(), generation);
        wait(acme.revoke()).unwrap();
        wait(acme.unregister()).unwrap();
        engine.blocking().close().unwrap();
    }
}

#[test]
fn a_tenant_with_unfinished_work_is_not_unregistered_and_its_saga_goes_on() {
    let folder = tempdir().unwrap();
    let engine = open(folder.path());
    let manager = wait(engine.manage("acme")).unwrap();
    let key = Key::named("saga");
    let ticket = wait(manager.tenant().start::<Listener>(key, 1_u64)).unwrap();
    wait(manager.suspend()).unwrap();
    let tenant = manager.tenant().id();
    assert_eq!(
        wait(manager.unregister()),
        Err(TenantError::Unfinished {
            tenant,
            moving: 1,
            held: 0
        })
    );
    assert_eq!(manager.snapshot().state, TenantState::Suspended);
    wait(manager.resume()).unwrap();
    let id = orlop::SignalId::named("1");
    wait(manager.tenant().signal(key, "word", id, &7_u64)).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 7);
    wait(manager.revoke()).unwrap();
    wait(manager.unregister()).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn all_of_the_documented_tenants_can_publish_and_every_place_is_recycled() {
    let folder = tempdir().unwrap();
    let tenants_max = Limits::default().tenants_max;
    let options = Options {
        audit: patient(),
        ..Options::default()
    };
    let engine = Engine::builder(folder.path()).options(options);
    let engine = engine.open_blocking().unwrap();
    let labels: Vec<String> = (0..tenants_max).map(|n| format!("tenant {n}")).collect();
    for generation in 1..3 {
        let all = join_all(labels.iter().map(|label| engine.manage(label)));
        let all: Vec<_> = wait(all).into_iter().map(Result::unwrap).collect();
        let slots: BTreeSet<u32> = all.iter().map(|one| one.tenant().id().slot()).collect();
        assert_eq!(slots.len(), tenants_max as usize);
        let full = wait(engine.tenant("one too many"));
        assert_eq!(
            full.err(),
            Some(TenantError::Register(TenantRegisterError::Full {
                tenants_max
            }))
        );
        for some in all.chunks(256) {
            let publishing = some
                .iter()
                .map(|one| one.tenant().submit(Noop, 1_u64).ephemeral().into_future());
            for published in wait(join_all(publishing)) {
                published.unwrap();
            }
        }
        for one in &all {
            assert_eq!(one.tenant().id().generation(), generation);
            assert_eq!(one.snapshot().settled, 1);
        }
        wait(join_all(all.iter().map(|one| async {
            one.revoke().await.unwrap();
            one.unregister().await.unwrap();
        })));
    }
    engine.blocking().close().unwrap();
}
