//! Sources: where the embedder has the bytes of buffers.

use std::fmt;
use std::io::{Cursor, Read};

use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;

/// Where the bytes of a buffer come from when they are not on the device: after a restart, or
/// once they were freed or evicted.
pub trait BufferSource: Send + Sync + 'static {
    /// The bytes that have this digest, or `None` if they are gone for good. May block. What is
    /// returned is hashed and refused if it is something else.
    fn load(&self, tenant: TenantId, digest: &Digest) -> Option<Vec<u8>>;

    /// The same as a reader, so that they are never in memory as a whole: they are read, hashed and
    /// uploaded in chunks of at most 1 MiB. Asks [`load`](Self::load) where it is not given.
    fn open(&self, tenant: TenantId, digest: &Digest) -> Option<SourceBytes> {
        self.load(tenant, digest).map(SourceBytes::from)
    }
}

/// The bytes of a buffer, yet to be read.
pub struct SourceBytes {
    pub(super) length: u64,
    pub(super) reader: Box<dyn Read + Send>,
}

impl SourceBytes {
    /// `length` bytes that `reader` gives; what it gives beyond is not read.
    pub fn new(length: u64, reader: impl Read + Send + 'static) -> Self {
        Self {
            length,
            reader: Box::new(reader),
        }
    }
}

impl From<Vec<u8>> for SourceBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes.len() as u64, Cursor::new(bytes))
    }
}

impl fmt::Debug for SourceBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBytes")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
