//! Device memory and kernels: what a tenant occupies counts against its quotas, and nobody else's.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use orlop::{
    Attempt, Blake3, BlockingFunction, BufferError, BufferRef, BufferSource, BulkheadOptions,
    ByteCount, Computation, Digest, Dimension, Engine, Failure, Noop, Options, Pure, Quotas,
    Refusal, SubmitError, TenantId, wait,
};
use tempfile::tempdir;

use crate::support::{Double, Two};

const BYTES: usize = 64 << 10;
/// What no machine needs for it.
const LIMIT: Duration = Duration::from_mins(1);

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

/// Answers nobody before its gate opens, and says whenever it is asked.
struct Hangs {
    asked: Mutex<mpsc::Sender<()>>,
    gate: Arc<Mutex<()>>,
}

impl BufferSource for Hangs {
    fn load(&self, _: TenantId, _: &Digest) -> Option<Vec<u8>> {
        let _ = self.asked.lock().unwrap().send(());
        drop(self.gate.lock());
        None
    }
}

#[derive(Clone, Copy)]
struct Calm;

impl Computation for Calm {
    const NAME: &'static str = "calm";
    type Input = u32;
    type Output = u32;
    type Kind = Pure;
}

impl BlockingFunction<Calm> for Calm {
    fn run(&self, _: &Attempt, input: u32) -> Result<u32, Failure> {
        Ok(input)
    }
}

#[test]
fn a_source_that_hangs_for_one_tenant_keeps_no_blocking_function_of_another_from_its_thread() {
    let folder = tempdir().unwrap();
    let (tell, asked) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let options = Options {
        cpu_bulkhead: BulkheadOptions {
            in_flight_max: 1,
            ..BulkheadOptions::new("host-cpu")
        },
        // What waits for a source keeps its slot, and what it will cost stays counted.
        device_bulkhead: BulkheadOptions {
            in_flight_per_tenant_max: 8,
            ..Options::default().device_bulkhead
        },
        ..Options::default()
    };
    let builder = Engine::builder(folder.path().join("store")).options(options);
    let source = Hangs {
        asked: Mutex::new(tell),
        gate: Arc::clone(&gate),
    };
    let builder = builder.blocking(Calm, Calm).buffer_source(source);
    let engine = builder.open_blocking().unwrap();
    let (mallory, alice) = (
        engine.blocking().tenant("mallory"),
        engine.blocking().tenant("alice"),
    );
    let (mallory, alice) = (mallory.unwrap(), alice.unwrap());
    for number in 0..16_u8 {
        let absent = BufferRef {
            digest: Digest::of(&[number]),
            offset: 0,
            length: 1,
        };
        drop(wait(mallory.enqueue(Blake3, absent)).unwrap());
    }
    // One for each thread that was for a blocking function, and those there were beside.
    for _ in 0..5 {
        asked.recv_timeout(LIMIT).unwrap();
    }
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let calm = wait(alice.submit(Calm, 7_u32)).map(|reply| reply.output);
        let _ = tell.send(calm);
        let device = wait(alice.submit(Noop, 8_u64)).map(|_| 8);
        let _ = tell.send(device);
    });
    let calm = told.recv_timeout(LIMIT);
    let device = told.recv_timeout(LIMIT);
    drop(closed);
    assert_eq!(calm.expect("it got no thread"), Ok(7));
    assert_eq!(device.expect("it got no slot"), Ok(8));
    engine.blocking().close().unwrap();
}
