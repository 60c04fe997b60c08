//! Outputs long enough for a blob: replayed like any other, bounded per tenant, verified.

use std::path::PathBuf;

use orlop::store::blob::BlobOptions;
use orlop::store::projector::ProjectorOptions;
use orlop::{
    Attempt, Computation, Engine, Failure, HostFunction, Key, Options, Origin, Pure, Saga,
    SagaContext, SagaError, StoreOptions, SubmitError, wait,
};

/// As many bytes as it is told, all equal to their number.
#[derive(Clone, Copy)]
struct Fill;

impl Computation for Fill {
    const NAME: &'static str = "fill";
    type Input = u32;
    type Output = Vec<u8>;
    type Kind = Pure;
}

struct Filler;

impl HostFunction<Fill> for Filler {
    async fn run(&self, _: Attempt, bytes: u32) -> Result<Vec<u8>, Failure> {
        Ok(filled(bytes))
    }
}

fn filled(bytes: u32) -> Vec<u8> {
    vec![u8::try_from(bytes % 251).unwrap(); bytes as usize]
}

/// Ends with what its step gave.
struct Pass;

impl Saga for Pass {
    const NAME: &'static str = "pass";
    type Input = u32;
    type Output = Vec<u8>;

    async fn run(&self, saga: SagaContext, bytes: u32) -> Result<Vec<u8>, SagaError> {
        Ok(saga.step("fill", Fill, bytes).await?)
    }
}

fn open(folder: &tempfile::TempDir, tenant_bytes_max: u64) -> Engine {
    let blobs = BlobOptions {
        bytes_min: 4096,
        tenant_bytes_max,
    };
    let options = Options {
        store: StoreOptions {
            projector: ProjectorOptions {
                blobs,
                ..ProjectorOptions::default()
            },
            ..StoreOptions::default()
        },
        ..Options::default()
    };
    Engine::builder(folder.path().join("store"))
        .options(options)
        .pure(Fill, Filler)
        .saga(Pass)
        .open_blocking()
        .unwrap()
}

/// The files of all blobs.
fn blobs(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let Ok(tenants) = std::fs::read_dir(folder.path().join("store/blobs")) else {
        return Vec::new();
    };
    tenants
        .flat_map(|tenant| std::fs::read_dir(tenant.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect()
}

#[test]
fn a_long_output_is_told_joined_and_replayed_like_any_other_also_by_the_next_engine() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&folder, 1 << 30);
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("saga");
    let ran = wait(tenant.submit(Fill, 5_000_u32)).unwrap();
    assert_eq!((ran.output, ran.origin), (filled(5_000), Origin::Ran));
    let ticket = wait(tenant.enqueue(Fill, 6_000_u32)).unwrap();
    assert_eq!(wait(ticket).unwrap().output, filled(6_000));
    let ticket = wait(tenant.start::<Pass>(key, 7_000_u32)).unwrap();
    assert_eq!(wait(ticket).unwrap().output, filled(7_000));
    assert_eq!(blobs(&folder).len(), 3);
    let again = wait(tenant.submit(Fill, 5_000_u32)).unwrap();
    assert_eq!(
        (again.output, again.origin),
        (filled(5_000), Origin::Replayed)
    );
    engine.blocking().close().unwrap();
    drop((engine, tenant));
    let engine = open(&folder, 1 << 30);
    let tenant = engine.blocking().tenant("a").unwrap();
    for bytes in [5_000, 6_000] {
        let again = wait(tenant.submit(Fill, bytes)).unwrap();
        assert_eq!(
            (again.output, again.origin),
            (filled(bytes), Origin::Replayed)
        );
    }
    let ticket = wait(tenant.start::<Pass>(key, 7_000_u32)).unwrap();
    let again = wait(ticket).unwrap();
    assert_eq!(
        (again.output, again.origin),
        (filled(7_000), Origin::Replayed)
    );
    assert_eq!(blobs(&folder).len(), 3);
    engine.blocking().close().unwrap();
}

#[test]
fn a_tenant_at_its_bound_of_blobs_is_refused_new_work_and_told_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&folder, 9_000);
    let tenant = engine.blocking().tenant("a").unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    wait(tenant.submit(Fill, 5_000_u32)).unwrap();
    wait(tenant.submit(Fill, 6_000_u32)).unwrap();
    let refused = wait(tenant.submit(Fill, 7_000_u32)).unwrap_err();
    // The canonical bytes have the length in front.
    let expected = SubmitError::Overloaded {
        what: "bytes of a tenant's blobs",
        count: 11_004,
        count_max: 9_000,
    };
    assert_eq!(refused, expected);
    let start = wait(tenant.start::<Pass>(Key::named("s"), 10_u32));
    assert_eq!(start.map(drop).unwrap_err(), expected);
    // What it has is replayed, and nobody else is affected.
    let again = wait(tenant.submit(Fill, 6_000_u32)).unwrap();
    assert_eq!(again.output, filled(6_000));
    assert_eq!(
        wait(other.submit(Fill, 7_000_u32)).unwrap().output,
        filled(7_000)
    );
    engine.blocking().close().unwrap();
}

#[test]
fn an_output_whose_blob_is_damaged_is_told_as_that_and_is_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&folder, 1 << 30);
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("k");
    wait(tenant.submit(Fill, 5_000_u32).key(key)).unwrap();
    engine.blocking().close().unwrap();
    drop((engine, tenant));
    let blob = blobs(&folder).pop().unwrap();
    let sound = std::fs::read(&blob).unwrap();
    let mut bytes = sound.clone();
    bytes[2_500] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let engine = open(&folder, 1 << 30);
    let tenant = engine.blocking().tenant("a").unwrap();
    let damaged = wait(tenant.submit(Fill, 5_000_u32).key(key)).unwrap_err();
    match &damaged {
        SubmitError::Damaged { key: told, reason } => {
            assert_eq!(*told, key);
            assert!(reason.contains("other bytes"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!damaged.is_retryable());
    assert!(wait(tenant.submit(Fill, 6_000_u32)).is_ok());
    std::fs::write(&blob, sound).unwrap();
    let again = wait(tenant.submit(Fill, 5_000_u32).key(key)).unwrap();
    assert_eq!(
        (again.output, again.origin),
        (filled(5_000), Origin::Replayed)
    );
    engine.blocking().close().unwrap();
}
