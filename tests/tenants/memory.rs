//! Device memory and kernels: what a tenant occupies counts against its quotas, and nobody else's.

use orlop::{BufferError, ByteCount, Dimension, Noop, Quotas, Refusal, SubmitError, wait};
use tempfile::tempdir;

use crate::support::{Double, Two};

const BYTES: usize = 64 << 10;

fn quotas(two: &Two, quotas: Quotas) {
    wait(two.mallory.set_quotas(quotas)).unwrap();
}

#[test]
fn buffers_count_against_the_quota_of_device_memory_until_their_last_handle_is_dropped() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let cap = 100 << 10;
    quotas(
        &two,
        Quotas {
            device_bytes_max: ByteCount::new(cap),
            buffers_max: 2,
            ..Quotas::UNLIMITED
        },
    );
    let tenant = two.mallory.tenant();
    let first = tenant.buffer(&vec![1; BYTES]).unwrap();
    let refused = tenant.buffer(&vec![2; BYTES]).unwrap_err();
    let expected = Refusal::QuotaExceeded {
        dimension: Dimension::TenantDeviceBytes,
        asked: BYTES as u64,
        used: BYTES as u64,
        cap,
    };
    assert_eq!(refused, BufferError::Refused(expected));
    let small = tenant.buffer(&[3; 16]).unwrap();
    let third = tenant.buffer(&[4; 16]).unwrap_err();
    let expected = Refusal::QuotaExceeded {
        dimension: Dimension::TenantBuffers,
        asked: 1,
        used: 2,
        cap: 2,
    };
    assert_eq!(third, BufferError::Refused(expected));
    // Another tenant's memory is its own.
    let hers = two.alice.tenant().buffer(&vec![5; 2 * BYTES]).unwrap();
    let again = first.clone();
    drop(first);
    assert!(tenant.buffer(&vec![2; BYTES]).is_err());
    drop(again);
    let second = tenant.buffer(&vec![2; BYTES]).unwrap();
    let kept = two.mallory.snapshot().kept;
    assert_eq!((kept.buffers, kept.device.get()), (2, BYTES as u64 + 16));
    drop((small, second, hers));
    let kept = two.mallory.snapshot().kept;
    assert_eq!((kept.buffers, kept.device.get()), (0, 0));
    two.close();
}

#[test]
fn who_may_run_no_kernel_runs_none_and_goes_on_on_the_host() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    quotas(
        &two,
        Quotas {
            kernels_max: 0,
            ..Quotas::UNLIMITED
        },
    );
    let tenant = two.mallory.tenant();
    let refused = wait(tenant.submit(Noop, 1_u64)).unwrap_err();
    let SubmitError::Refused(Refusal::NeverFits { dimension, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(dimension, Dimension::TenantKernels);
    assert_eq!(wait(tenant.submit(Double, 4_u64)).unwrap().output, 8);
    wait(two.alice.tenant().submit(Noop, 1_u64)).unwrap();
    quotas(&two, Quotas::UNLIMITED);
    wait(tenant.submit(Noop, 1_u64)).unwrap();
    two.close();
}
