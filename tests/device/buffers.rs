//! Buffers of a device that was lost.

use std::sync::Arc;

use orlop::{Blake3, BufferSource, Digest, SubmitError, TenantId, wait};

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
