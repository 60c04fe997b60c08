//! Writers: buffers that are being written, in chunks and with their digest on the way.
//!
//! Invariants
//! - What is sealed was written whole, so that nobody sees what was there before; it has the digest that it is called by.
//! - A writer that is dropped leaves nothing behind.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use blake3::Hasher;
use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;

use super::copy::CHUNK_BYTES;
use super::error::{PutError, SealError, WriteError};
use super::table::Place;
use super::{BufferId, PinnedWindow, Shared};
use crate::control::{Order, Reply};

/// Bytes and their digest.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    bytes: &'a [u8],
    digest: Digest,
}

impl<'a> Named<'a> {
    /// Digests `bytes`.
    pub fn of(bytes: &'a [u8]) -> Self {
        let digest = Digest::of(bytes);
        Self { bytes, digest }
    }

    /// The digest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

/// A buffer that is being written. Dropped unsealed (by a panic, too), it leaves nothing behind.
pub struct BufferWriter {
    shared: Arc<Shared>,
    id: BufferId,
    tenant: TenantId,
    place: Place,
    hasher: Box<Hasher>,
    written: u64,
    mapped: bool,
    left: bool,
}

impl fmt::Debug for BufferWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferWriter")
            .field("id", &self.id)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl BufferWriter {
    pub(super) fn new(shared: &Arc<Shared>, id: BufferId, tenant: TenantId, place: Place) -> Self {
        Self {
            shared: Arc::clone(shared),
            id,
            tenant,
            place,
            hasher: Box::default(),
            written: 0,
            mapped: false,
            left: false,
        }
    }

    /// The buffer's id, stale until it is sealed.
    #[cfg(test)]
    pub(super) const fn id(&self) -> BufferId {
        self.id
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`WriteError`]: nothing was appended.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.append(bytes, true)
    }

    /// Appends bytes of a buffer whose digest is known, or that gets none.
    pub(super) fn write_known(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.append(bytes, false)
    }

    fn append(&mut self, bytes: &[u8], hashed: bool) -> Result<(), WriteError> {
        let left = self.place.length - self.written;
        let too_long = WriteError::TooLong {
            asked: ByteCount::of(bytes),
            left: ByteCount::new(left),
        };
        if bytes.len() as u64 > left {
            return Err(too_long);
        }
        // The bytes are shared with the parent, what says whose they are is a copy of its own.
        if self.shared.control.is_forked() {
            return Err(WriteError::Forked);
        }
        // A chunk is hashed while it is in the cache.
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let at = self.place.offset + self.written;
            // SAFETY: the range lies in this buffer's own bytes (its length was just tested), which
            // the table gave to this writer alone; nobody reads them before they are sealed.
            let copied = unsafe { self.shared.copy.upload(at, chunk) };
            if !copied {
                return Err(too_long);
            }
            if hashed {
                self.hasher.update(chunk);
            }
            self.written += chunk.len() as u64;
        }
        Ok(())
    }

    /// From now on the bytes never change. If the tenant has the same content already, that buffer
    /// is shared and this one's bytes are free again.
    ///
    /// # Errors
    /// [`SealError`]: nothing is held.
    pub fn seal(self) -> Result<BufferId, SealError> {
        let digest = self.digest();
        self.seal_as(digest)
    }

    /// Writes all of it and seals it, without hashing it again.
    ///
    /// # Errors
    /// [`PutError`]: nothing is held.
    pub fn put(mut self, content: &Named<'_>) -> Result<BufferId, PutError> {
        self.write_known(content.bytes)?;
        Ok(self.seal_as(content.digest)?)
    }

    /// The same as [`seal`](Self::seal), if the bytes have this digest.
    ///
    /// # Errors
    /// [`SealError`]: nothing is held, and the name is as unknown as before.
    pub fn seal_expecting(self, expected: Digest) -> Result<BufferId, SealError> {
        let found = self.digest();
        if found != expected && self.written == self.place.length {
            return Err(SealError::OtherContent { expected, found });
        }
        self.seal_as(found)
    }

    fn digest(&self) -> Digest {
        Digest::new(*self.hasher.finalize().as_bytes())
    }

    /// `digest` is that of the bytes written.
    fn seal_as(mut self, digest: Digest) -> Result<BufferId, SealError> {
        self.check_written()?;
        self.map()?;
        let sealed = self.shared.table.lock().seal(self.id, digest);
        let (id, departure) = sealed.map_err(|_| SealError::NotMapped)?;
        self.left = true;
        self.shared.leave(departure, true);
        Ok(id)
    }

    /// Becomes a transient window, without digest and name.
    pub(super) fn stage(self) -> Result<PinnedWindow, SealError> {
        self.check_written()?;
        self.stage_unwritten()
    }

    /// The same for a window that the device is to write, and that nobody reads before.
    pub(super) fn stage_unwritten(mut self) -> Result<PinnedWindow, SealError> {
        self.map()?;
        let staged = self.shared.table.lock().stage(self.id);
        staged.map_err(|_| SealError::NotMapped)?;
        self.left = true;
        Ok(PinnedWindow {
            shared: Arc::clone(&self.shared),
            id: self.id,
            tenant: self.tenant,
            place: self.place,
            offset: 0,
            length: self.place.length,
        })
    }

    fn check_written(&self) -> Result<(), SealError> {
        if self.written == self.place.length {
            return Ok(());
        }
        Err(SealError::Incomplete {
            written: ByteCount::new(self.written),
            length: ByteCount::new(self.place.length),
        })
    }

    fn map(&mut self) -> Result<(), SealError> {
        let order = Order::Map {
            slot: self.id.slot,
            generation: self.id.generation,
            offset: self.place.offset,
            length: self.place.length,
            tenant: self.tenant,
        };
        if self.shared.control.call(order, None) != Some(Reply::Done) {
            return Err(SealError::NotMapped);
        }
        self.mapped = true;
        Ok(())
    }
}

impl Drop for BufferWriter {
    fn drop(&mut self) {
        if !self.left {
            let departure = self.shared.table.lock().abandon(self.id);
            self.shared.leave(departure, self.mapped);
        }
    }
}
