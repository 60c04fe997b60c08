//! Buffers through the whole engine: cached, evicted, brought back; results that stay buffers.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, mpsc};

use orlop::op::{OpError, Output, Partial, Scratch, TaskArgs};
use orlop::{
    Blake3, BufferError, BufferRef, BufferSource, ByteCount, Computation, DeviceFunction, Digest,
    Engine, Eviction, Failure, HostOp, Key, Limits, Opcode, Options, Plan, Pure, Quotas, Refusal,
    RetryPolicy, Source, SourceBytes, SubmitError, Tenant, TenantId, wait,
};

use crate::support::World;

/// Contents by whose they are and by digest.
type Contents = HashMap<(TenantId, Digest), Vec<u8>>;

/// The embedder's own storage: what each tenant has, and who was asked for what.
#[derive(Clone, Default)]
struct Storage {
    bytes: Arc<Mutex<Contents>>,
    opened: Arc<Mutex<Vec<Digest>>>,
}

impl Storage {
    fn store(&self, tenant: &Tenant, bytes: &[u8]) {
        let name = (tenant.id(), Digest::of(bytes));
        self.bytes.lock().unwrap().insert(name, bytes.to_vec());
    }

    fn opened(&self) -> Vec<Digest> {
        std::mem::take(&mut *self.opened.lock().unwrap())
    }
}

impl BufferSource for Storage {
    fn load(&self, _: TenantId, _: &Digest) -> Option<Vec<u8>> {
        panic!("it is asked for readers")
    }

    fn open(&self, tenant: TenantId, digest: &Digest) -> Option<SourceBytes> {
        self.opened.lock().unwrap().push(*digest);
        let bytes = self
            .bytes
            .lock()
            .unwrap()
            .get(&(tenant, *digest))
            .cloned()?;
        Some(SourceBytes::new(bytes.len() as u64, Cursor::new(bytes)))
    }
}

fn open(world: &World, storage: &Storage) -> Engine {
    let limits = Limits {
        retry: RetryPolicy {
            attempts_max: 1,
            ..RetryPolicy::default()
        },
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let builder = world.builder().options(options);
    builder
        .buffer_source(storage.clone())
        .open_blocking()
        .unwrap()
}

fn column(number: u8) -> Vec<u8> {
    let bytes = (0..300_000_u32).map(|at| at.to_le_bytes()[0] ^ number);
    bytes.collect()
}

fn digest_of(tenant: &Tenant, column: BufferRef) -> Result<Digest, SubmitError> {
    let submission = tenant.submit(Blake3, column).key(Key::fresh());
    wait(submission).map(|reply| reply.output)
}

#[test]
fn a_column_is_uploaded_once_used_often_and_comes_back_after_an_eviction_and_a_restart() {
    let (world, storage) = (World::new(), Storage::default());
    let bytes = column(1);
    let digest = Digest::of(&bytes);
    let engine = open(&world, &storage);
    let tenant = engine.blocking().tenant("a").unwrap();
    storage.store(&tenant, &bytes);
    let named = tenant.cache(&bytes).unwrap();
    for _ in 0..3 {
        assert_eq!(digest_of(&tenant, named), Ok(digest));
    }
    let used = tenant.cached();
    assert_eq!((used.buffers, used.bytes), (1, 300_000));
    assert_eq!((used.hits, used.loads), (3, 0));
    assert!(storage.opened().is_empty());

    assert_eq!(tenant.evict(&digest), Eviction::Evicted);
    assert_eq!(tenant.evict(&digest), Eviction::Absent);
    assert_eq!(tenant.cached().buffers, 0);
    assert_eq!(digest_of(&tenant, named), Ok(digest));
    assert_eq!(digest_of(&tenant, named), Ok(digest));
    let used = tenant.cached();
    assert_eq!(
        (used.loads, used.loaded_bytes, used.evicted),
        (1, 300_000, 1)
    );
    assert_eq!(storage.opened(), [digest]);
    // Accepted, and not waited for: it runs in this life or in the next.
    let key = Key::named("accepted");
    drop(wait(tenant.enqueue(Blake3, named).key(key)).unwrap());
    engine.blocking().close().unwrap();
    drop((tenant, engine));

    let engine = open(&world, &storage);
    let tenant = engine.blocking().tenant("a").unwrap();
    let reply = wait(tenant.submit(Blake3, named).key(key)).unwrap();
    assert_eq!(reply.output, digest);
    assert_eq!(digest_of(&tenant, named), Ok(digest));
    assert_eq!(tenant.cached().loads, 1);
    assert_eq!(storage.opened(), [digest]);
    engine.blocking().close().unwrap();
}

#[test]
fn what_is_cached_makes_way_within_its_tenants_quota_and_is_never_why_a_buffer_is_refused() {
    let (world, storage) = (World::new(), Storage::default());
    let engine = open(&world, &storage);
    let quotas = Quotas {
        device_bytes_max: ByteCount::new(700_000),
        ..Quotas::UNLIMITED
    };
    let tenant = wait(engine.register("a", quotas)).unwrap().tenant().clone();
    let other = engine.blocking().tenant("b").unwrap();
    let columns = [1, 2, 3].map(column);
    let names = columns.each_ref().map(|bytes| {
        storage.store(&tenant, bytes);
        tenant.cache(bytes).unwrap()
    });
    let hers = other.cache(&columns[0]).unwrap();
    // The third made way of the first.
    assert_eq!(tenant.evict(&names[0].digest), Eviction::Absent);
    assert_eq!((tenant.cached().buffers, tenant.cached().evicted), (2, 1));
    assert_eq!(digest_of(&tenant, names[1]), Ok(names[1].digest));
    assert_eq!(digest_of(&tenant, names[0]), Ok(names[0].digest));
    // The third went, being used longest ago; the second was used since.
    assert_eq!(tenant.evict(&names[2].digest), Eviction::Absent);
    let held = tenant.buffer(&vec![9; 700_000]).unwrap();
    assert_eq!(tenant.cached().buffers, 0);
    let refused = digest_of(&tenant, names[1]).unwrap_err();
    assert!(matches!(refused, SubmitError::Exhausted(_)), "{refused:?}");
    drop(held);
    assert_eq!(digest_of(&tenant, names[1]), Ok(names[1].digest));
    assert_eq!(other.cached().evicted, 0);
    assert_eq!(digest_of(&other, hers), Ok(hers.digest));
    assert_eq!(other.cached().loads, 0);
    engine.blocking().close().unwrap();
}

#[test]
fn a_lost_buffer_is_a_typed_error_another_tenants_is_lost_too_and_a_repaired_source_is_enough() {
    let (world, storage) = (World::new(), Storage::default());
    let engine = open(&world, &storage);
    let tenant = engine.blocking().tenant("a").unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let bytes = column(7);
    let digest = Digest::of(&bytes);
    let named = tenant.cache(&bytes).unwrap();
    assert_eq!(tenant.evict(&digest), Eviction::Evicted);
    let lost = BufferError::Lost { digest };
    assert_eq!(tenant.fetch(&digest).unwrap_err(), lost);
    let failed = digest_of(&tenant, named).unwrap_err();
    assert!(failed.to_string().contains(&lost.to_string()), "{failed}");
    assert_eq!(tenant.cached().lost, 2);
    storage.store(&tenant, &bytes);
    let held = tenant.fetch(&digest).unwrap();
    assert_eq!(held.length(), 300_000);
    assert_eq!(other.fetch(&digest).unwrap_err(), lost);
    let name = (tenant.id(), digest);
    storage.bytes.lock().unwrap().insert(name, column(8));
    assert_eq!(tenant.evict(&digest), Eviction::InUse);
    assert_eq!(digest_of(&tenant, named), Ok(digest));
    drop(held);
    assert_eq!(tenant.evict(&digest), Eviction::Evicted);
    let found = Digest::of(&column(8));
    let damaged = BufferError::OtherContent { digest, found };
    assert_eq!(tenant.fetch(&digest).unwrap_err(), damaged);
    engine.blocking().close().unwrap();
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(tenant.cache(&bytes), Err(BufferError::NoSource));
    engine.blocking().close().unwrap();
}

/// Repeats a byte: a result of any length, from an operation that ends when it is told to.
#[derive(Clone, Copy)]
struct Repeat;

impl Computation for Repeat {
    const NAME: &'static str = "repeat";
    type Input = (u8, u32, Source);
    type Output = Vec<u8>;
    type Kind = Pure;
}

struct Repeats {
    started: Mutex<mpsc::Sender<()>>,
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

const REPEAT: Opcode = Opcode::new(Opcode::USER_FIRST.get());

struct RepeatOp(mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>);

impl DeviceFunction<Repeat> for Repeats {
    fn opcode(&self) -> Opcode {
        REPEAT
    }

    fn op(&self) -> Option<Arc<dyn HostOp>> {
        let started = self.started.lock().unwrap().clone();
        Some(Arc::new(RepeatOp(started, Arc::clone(&self.go))))
    }

    fn plan(&self, (byte, length, source): (u8, u32, Source)) -> Result<Plan, Failure> {
        Ok(Plan {
            args: [u32::from(byte), length].into_iter().collect(),
            sources: [source].into_iter().collect(),
            result_bytes_max: length.into(),
        })
    }

    fn output(&self, result: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(result.to_vec())
    }
}

impl HostOp for RepeatOp {
    fn opcode(&self) -> Opcode {
        REPEAT
    }

    fn name(&self) -> &'static str {
        "repeat"
    }

    fn scratch(&self, _: &TaskArgs<'_>) -> Result<Scratch, OpError> {
        Ok(Scratch::NONE)
    }

    fn run_tile(&self, _: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        task.window(0)?;
        let _ = self.0.send(());
        // A closed gate stands open, so that a failing test ends.
        let _ = self.1.lock().unwrap().recv();
        Ok(Partial::EMPTY)
    }

    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let byte = task.arg(0)?.to_le_bytes()[0];
        for _ in 0..task.arg(1)? {
            out.write(&[byte])?;
        }
        Ok(())
    }
}

#[test]
fn what_work_uses_is_not_evicted_and_a_result_of_any_length_counts_while_it_is_there() {
    let (world, storage) = (World::new(), Storage::default());
    let (started, starts) = mpsc::channel();
    let (go, gate) = mpsc::channel();
    let repeats = Repeats {
        started: Mutex::new(started),
        go: Arc::new(Mutex::new(gate)),
    };
    let builder = world.builder().buffer_source(storage.clone());
    let engine = builder.device(Repeat, repeats).open_blocking().unwrap();
    let quotas = Quotas {
        device_bytes_max: ByteCount::new(500_000),
        ..Quotas::UNLIMITED
    };
    let manager = wait(engine.register("a", quotas)).unwrap();
    let tenant = manager.tenant();
    let bytes = column(5);
    let named = tenant.cache(&bytes).unwrap();
    let ask = |length: u32| (7_u8, length, Source::from(named));

    let running = wait(tenant.enqueue(Repeat, ask(150_000))).unwrap();
    starts.recv().unwrap();
    assert_eq!(tenant.evict(&named.digest), Eviction::InUse);
    assert_eq!(manager.snapshot().kept.device.get(), 450_000);
    assert!(matches!(
        tenant.buffer(&vec![1; 60_000]),
        Err(BufferError::Refused(Refusal::QuotaExceeded { .. }))
    ));
    go.send(()).unwrap();
    let reply = wait(running).unwrap();
    assert_eq!(reply.output, vec![7; 150_000]);
    assert_eq!(manager.snapshot().kept.device.get(), 300_000);
    // Now it makes way.
    let held = tenant.buffer(&vec![1; 400_000]).unwrap();
    assert_eq!(tenant.cached().buffers, 0);
    drop((held, go));
    storage.store(tenant, &bytes);
    // The room for a result is within the quota, and the source's bytes make way for nothing
    // while work is to use them.
    let refused = wait(tenant.submit(Repeat, ask(230_000)));
    assert!(matches!(refused, Err(SubmitError::Exhausted(_))));
    let short = wait(tenant.submit(Repeat, ask(20))).unwrap();
    assert_eq!(short.output, [7; 20]);
    assert_eq!(manager.snapshot().kept.device.get(), 300_000);
    engine.blocking().close().unwrap();
}
