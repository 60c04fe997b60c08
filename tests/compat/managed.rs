//! What format 3 added: what is decided about tenants.

use orlop::{Engine, Origin, Quotas, TenantError, TenantState, Unavailable, wait};

use crate::world::Double;

const QUOTAS: Quotas = Quotas {
    slots_max: 5,
    ..Quotas::UNLIMITED
};

/// A tenant that was suspended, restricted and bounded, and one whose first life ended.
pub(crate) fn write(engine: &Engine) {
    let managed = wait(engine.register("managed", QUOTAS)).unwrap();
    wait(managed.allow_only(["double"])).unwrap();
    wait(managed.suspend()).unwrap();
    let gone = wait(engine.manage("gone")).unwrap();
    wait(gone.tenant().submit(Double, 77_u64)).unwrap();
    wait(gone.revoke()).unwrap();
    wait(gone.unregister()).unwrap();
}

pub(crate) fn is_kept(engine: &Engine) {
    let managed = wait(engine.manage("managed")).unwrap();
    let snapshot = managed.snapshot();
    assert_eq!(snapshot.state, TenantState::Suspended);
    assert_eq!(snapshot.quotas, QUOTAS);
    let allowed = managed.allowed().unwrap();
    assert_eq!(
        allowed.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["double"]
    );
    let gone = engine.blocking().tenant("gone").unwrap();
    assert_eq!(gone.id().generation(), 2);
    let reply = wait(gone.submit(Double, 77_u64)).unwrap();
    assert_eq!(reply.origin, Origin::Ran);
}

/// A store of an older format cannot keep it, says so, and changes nothing.
pub(crate) fn is_refused(engine: &Engine) {
    let acme = wait(engine.manage("acme")).unwrap();
    let refused = wait(acme.suspend());
    let Err(TenantError::Unavailable(Unavailable::Format(lacks))) = &refused else {
        panic!("{refused:?}");
    };
    assert!(lacks.to_string().contains("format 3"), "{lacks}");
    assert_eq!(acme.snapshot().state, TenantState::Active);
    let bounded = wait(engine.register("bounded", QUOTAS));
    let format = matches!(
        bounded,
        Err(TenantError::Unavailable(Unavailable::Format(_)))
    );
    assert!(format, "{bounded:?}");
}
