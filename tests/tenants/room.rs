//! Room: what one tenant begins leaves some for the others.

use std::path::Path;

use orlop::{
    Engine, Key, Limits, Options, Quotas, Refusal, SagaTicket, SignalId, SubmitError, Tenant, wait,
};
use tempfile::tempdir;

use crate::support::{Double, Listener, patient};

fn open(folder: &Path) -> Engine {
    let options = Options {
        audit: patient(),
        limits: Limits {
            effects_max: 8,
            sagas_max: 8,
            unfinished_per_tenant_max: 4,
            ..Limits::default()
        },
        ..Options::default()
    };
    Engine::builder(folder.join("store"))
        .options(options)
        .pure(Double, Double)
        .saga(Listener)
        .open_blocking()
        .unwrap()
}

fn start(tenant: &Tenant, number: u64) -> Result<SagaTicket<u64>, SubmitError> {
    wait(tenant.start::<Listener>(Key::named(&number.to_string()), number))
}

#[test]
fn a_tenant_that_begins_all_it_may_leaves_room_for_another_also_after_a_restart() {
    let folder = tempdir().unwrap();
    for life in 0..2 {
        let engine = open(folder.path());
        let mallory = engine.blocking().tenant("mallory").unwrap();
        // In the second life these four are found.
        let tickets: Vec<_> = (0..4).map(|n| start(&mallory, n).unwrap()).collect();
        let full = SubmitError::Overloaded {
            what: "effects and sagas of the tenant unfinished",
            count: 4,
            count_max: 4,
        };
        assert_eq!(start(&mallory, 4).err(), Some(full.clone()));
        assert_eq!(wait(mallory.submit(Double, 1_u64)).err(), Some(full));
        let alice = engine.blocking().tenant("alice").unwrap();
        assert_eq!(
            wait(alice.submit(Double, 1_u64 + life)).unwrap().output,
            2 + 2 * life
        );
        let hers: Vec<_> = (0..3).map(|n| start(&alice, n).unwrap()).collect();
        if life == 1 {
            // One that ends makes room for one.
            let id = SignalId::named("1");
            wait(mallory.signal(Key::named("0"), "word", id, &7_u64)).unwrap();
            let [first, ..] = <[_; 4]>::try_from(tickets).unwrap();
            assert_eq!(wait(first).unwrap().output, 7);
            crate::hall::until(|| start(&mallory, 4).is_ok());
            assert!(matches!(
                start(&mallory, 5),
                Err(SubmitError::Overloaded { .. })
            ));
        }
        drop(hers);
        engine.blocking().close().unwrap();
    }
}

#[test]
fn quotas_of_kernels_and_of_what_is_kept_bind_work_and_no_neighbour() {
    let folder = tempdir().unwrap();
    let two = crate::support::Two::open(folder.path());
    let (mallory, alice) = (two.mallory.tenant(), two.alice.tenant());
    let refused = |quotas: Quotas| {
        wait(two.mallory.set_quotas(quotas)).unwrap();
        match wait(mallory.submit(orlop::Blake3, "some bytes of a page")) {
            Err(SubmitError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let none = refused(Quotas {
        kernels_max: 0,
        ..Quotas::UNLIMITED
    });
    let dimension = orlop::Dimension::TenantKernels;
    assert_eq!(
        none,
        Refusal::NeverFits {
            dimension,
            asked: 1,
            cap: 0
        }
    );
    let none = refused(Quotas {
        retained_bytes_max: orlop::ByteCount::new(0),
        ..Quotas::UNLIMITED
    });
    let dimension = orlop::Dimension::TenantRetainedBytes;
    assert!(
        matches!(none, Refusal::QuotaExceeded { dimension: found, cap: 0, .. } if found == dimension),
        "{none:?}"
    );
    wait(alice.submit(orlop::Blake3, "some bytes of a page")).unwrap();
    wait(two.mallory.set_quotas(Quotas::UNLIMITED)).unwrap();
    wait(mallory.submit(orlop::Blake3, "some bytes of a page")).unwrap();
    two.close();
}
