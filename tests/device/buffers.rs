//! Buffers of a device that was lost.

use std::sync::Arc;

use orlop::{
    Blake3, Buffer, BufferRef, BufferSource, BufferUse, ByteCount, Digest, Eviction, Key, Quotas,
    SubmitError, Tenant, TenantId, wait,
};

use crate::support::{builder, kill, process_after};

struct Shelf(Arc<[u8]>);

impl BufferSource for Shelf {
    fn load(&self, _: TenantId, digest: &Digest) -> Option<Vec<u8>> {
        (Digest::of(&self.0) == *digest).then(|| self.0.to_vec())
    }
}

#[test]
fn a_buffer_of_a_lost_device_comes_back_from_its_source_or_says_that_it_is_gone() {
    let bytes: Arc<[u8]> = (0..300_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    for has_source in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let builder = builder(folder.path(), 3);
        let builder = if has_source {
            builder.buffer_source(Shelf(Arc::clone(&bytes)))
        } else {
            builder
        };
        let engine = builder.open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let buffer = tenant.buffer(&bytes).unwrap();
        kill(process_after(&engine, 0));
        process_after(&engine, 1);
        let digest = wait(tenant.submit(Blake3, &buffer));
        if has_source {
            assert_eq!(digest.unwrap().output, Digest::of(&bytes));
        } else {
            let error = digest.unwrap_err();
            assert!(matches!(error, SubmitError::Exhausted(_)), "{error}");
            // Put again, it is there again.
            let again = tenant.buffer(&bytes).unwrap();
            let digest = wait(tenant.submit(Blake3, &again)).unwrap();
            assert_eq!(digest.output, Digest::of(&bytes));
        }
        engine.blocking().close().unwrap();
    }
}

fn digest_of(tenant: &Tenant, buffer: BufferRef) -> Digest {
    let submission = tenant.submit(Blake3, buffer).key(Key::fresh());
    wait(submission).unwrap().output
}

/// Has room for the bytes once: what a loss does not give back would stand in the way.
#[test]
fn what_was_cached_on_a_lost_device_counts_no_longer_and_is_brought_back_once_a_life() {
    let bytes: Arc<[u8]> = (0..300_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let folder = tempfile::tempdir().unwrap();
    let builder = builder(folder.path(), 3);
    let builder = builder.buffer_source(Shelf(Arc::clone(&bytes)));
    let engine = builder.open_blocking().unwrap();
    let quotas = Quotas {
        device_bytes_max: ByteCount::new(400_000),
        ..Quotas::UNLIMITED
    };
    let manager = wait(engine.register("a", quotas)).unwrap();
    let tenant = manager.tenant();
    let held = |manager: &orlop::TenantManager| {
        let kept = manager.snapshot().kept;
        (kept.buffers, kept.device.get())
    };
    let named = tenant.cache(&bytes).unwrap();
    assert_eq!(digest_of(tenant, named), named.digest);
    for life in 1..=3 {
        assert_eq!(held(&manager), (1, 300_000));
        kill(process_after(&engine, life - 1));
        process_after(&engine, life);
        let used = tenant.cached();
        assert_eq!((used.buffers, used.bytes), (0, 0), "{used:?}");
        assert_eq!(held(&manager), (0, 0));
        assert_eq!(tenant.evict(&named.digest), Eviction::Absent);
        for _ in 0..2 {
            assert_eq!(digest_of(tenant, named), named.digest);
        }
        let BufferUse {
            buffers,
            bytes,
            loads,
            evicted,
            ..
        } = tenant.cached();
        assert_eq!((buffers, bytes, loads, evicted), (1, 300_000, life, 0));
    }
    engine.blocking().close().unwrap();
    assert_eq!(held(&manager), (0, 0));
}

#[test]
fn a_buffer_that_is_given_after_a_loss_is_on_a_device_that_is_not_lost() {
    let bytes: Arc<[u8]> = (0..300_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let folder = tempfile::tempdir().unwrap();
    let engine = builder(folder.path(), 3).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    // Holds the bytes on the lost device, so that they are found there.
    let old: Buffer = tenant.buffer(&bytes).unwrap();
    kill(process_after(&engine, 0));
    while engine.snapshot().device_losses == 0 {
        std::thread::yield_now();
    }
    // Refused until there is a device to put it on.
    let given = loop {
        if let Ok(given) = tenant.buffer(&bytes) {
            break given;
        }
        std::thread::yield_now();
    };
    process_after(&engine, 1);
    drop(old);
    assert_eq!(digest_of(&tenant, given.reference()), given.digest());
    engine.blocking().close().unwrap();
}
