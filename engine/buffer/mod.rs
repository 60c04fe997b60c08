//! Buffers: large bytes of a tenant on the device, named by their digest.
//!
//! A [`Buffer`] keeps its bytes there while a handle lives. What is in the cache (`cache`) stays
//! until its tenant needs the room, and comes back from the [`BufferSource`] when work names it.

mod bind;
mod cache;
mod load;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use orlop_admission::{Kept, Refusal, Reservation, TenantAccount};
use orlop_gpu::{
    BufferId, BufferRef, BufferWriter, CreateError, Device, DeviceLost, Evicted, Named,
    PinnedWindow, PutError, ResultWindow, SealError,
};
use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;

pub(crate) use self::bind::{BindPlanError, Windows, bind};
pub(crate) use self::cache::Cache;
pub use self::cache::{BufferUse, Eviction};
pub(crate) use self::load::load;
pub use self::source::{BufferSource, SourceBytes};
use crate::device::Source;
use crate::error::Unavailable;

/// A buffer of one tenant, kept on the device while this handle or work that uses it lives.
/// At a loss of the device its bytes are gone, and work that names it has them brought back from the
/// [`BufferSource`]; without one, put them again.
///
/// Journaled work names the buffer by digest: after a restart its bytes come from the
/// [`BufferSource`].
///
/// Each buffer that [`Tenant::buffer`](crate::Tenant::buffer) returns counts against the tenant's
/// `buffers_max` and `device_bytes_max` until its last clone is dropped, also where the same bytes
/// were put before.
#[derive(Clone)]
pub struct Buffer {
    held: Arc<HeldBuffer>,
}

impl Buffer {
    /// Its name, to be used as input.
    pub fn reference(&self) -> BufferRef {
        self.held.reference
    }

    /// The BLAKE3 digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.held.reference.digest
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.held.reference.length
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Buffer").field(&self.held.reference).finish()
    }
}

impl From<&Buffer> for Source {
    fn from(buffer: &Buffer) -> Self {
        Self::Buffer(buffer.reference())
    }
}

/// Why no buffer was put onto the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The engine takes no work.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The device was lost before it was there. Put it again: on the device that follows, if one
    /// does.
    #[error(transparent)]
    DeviceLost(#[from] DeviceLost),
    /// The device has no room for it. Drop buffers, or raise `device.arena_bytes`.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The tenant may not: its state, or a quota of buffers or device bytes. Drop buffers, or
    /// have the quota raised.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine was built without a [`BufferSource`]: what is evicted could not be brought back.
    /// Keep a [`Buffer`], or give the engine a source.
    #[error("the engine has no source of buffers")]
    NoSource,
    /// The source does not have the bytes. Nothing names them any more; find them elsewhere.
    #[error("the source does not have buffer {digest}")]
    Lost {
        /// Of what.
        digest: Digest,
    },
    /// The source gave other bytes than those of this name; they were not kept. Repair the source.
    #[error("the source gave bytes of digest {found} for buffer {digest}")]
    OtherContent {
        /// What was asked for.
        digest: Digest,
        /// What came.
        found: Digest,
    },
    /// The source failed, or ended early. Retry; the text is the source's own.
    #[error("the source of buffer {digest} failed: {reason}")]
    Source {
        /// Of what.
        digest: Digest,
        /// What it said.
        reason: String,
    },
}

/// Owns one count of a buffer on the device.
pub(crate) struct HeldBuffer {
    device: Arc<Device>,
    tenant: TenantId,
    id: BufferId,
    reference: BufferRef,
    is_evicted: bool,
    /// Given back after the buffer was freed, since fields drop last.
    reserved: Option<Reservation>,
}

impl HeldBuffer {
    /// Gives its count back, unless something pins the buffer: then nothing changes.
    fn evict(&mut self) -> bool {
        match self.device.buffers().evict(self.tenant, self.id) {
            Ok(Evicted::Pinned { .. }) => false,
            // Stale only if the device was closed, which freed everything.
            Ok(Evicted::Now | Evicted::Shared { .. }) | Err(_) => {
                self.is_evicted = true;
                true
            }
        }
    }
}

impl Drop for HeldBuffer {
    fn drop(&mut self) {
        if !self.is_evicted {
            // Stale only if the device was closed, which freed everything.
            let _ = self.device.buffers().free(self.tenant, self.id);
        }
    }
}

/// Where buffers of one tenant are put: on the device, within its quotas, beside its cache.
#[derive(Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) device: &'a Arc<Device>,
    pub(crate) cache: &'a Cache,
    pub(crate) tenant: TenantId,
    /// What it counts against; `None` for what a simulation does once more than was asked for.
    pub(crate) account: Option<&'a Arc<TenantAccount>>,
}

/// Puts bytes onto the device within the tenant's quotas, or finds them there.
pub(crate) fn put(desk: Desk<'_>, bytes: &[u8]) -> Result<Buffer, BufferError> {
    desk.unless_lost(placed(desk, bytes))
}

fn placed(desk: Desk<'_>, bytes: &[u8]) -> Result<Buffer, BufferError> {
    let named = Named::of(bytes);
    let reserved = desk.reserve(ByteCount::of(bytes))?;
    let shared = desk.device.buffers().share(desk.tenant, &named.digest());
    let id = if let Some(id) = shared {
        id
    } else {
        let length = ByteCount::of(bytes);
        desk.create(length).map_err(PutError::from)?.put(&named)?
    };
    let reference = BufferRef {
        digest: named.digest(),
        offset: 0,
        length: bytes.len() as u64,
    };
    Ok(desk.hold(id, reference, reserved))
}

/// Room for the result of one operation, and what it counts as.
pub(crate) type ResultRoom = (ResultWindow, Option<Reservation>);

/// Takes room for a result of so many bytes, within the tenant's quotas. Work was admitted for it:
/// its tenant's state is not asked about.
pub(crate) fn result(desk: Desk<'_>, bytes: u64) -> Result<ResultRoom, BufferError> {
    let reserved = match desk.reserve(ByteCount::new(bytes)) {
        Ok(reserved) => reserved,
        Err(refusal) if refusal.is_of_state() => None,
        Err(refusal) => return Err(refusal.into()),
    };
    let room = desk.making_way(
        || desk.device.buffers().result(desk.tenant, bytes),
        |error| matches!(error, PutError::Create(error) if desk.is_full(error)),
    )?;
    Ok((room, reserved))
}

/// A transient window over bytes that one operation brings along. They count as staging.
fn stage(desk: Desk<'_>, bytes: &[u8]) -> Result<PinnedWindow, PutError> {
    desk.making_way(
        || desk.device.buffers().stage(desk.tenant, bytes),
        |error| matches!(error, PutError::Create(error) if desk.is_full(error)),
    )
}

/// Holds what the tenant has on the device already, if it has.
pub(crate) fn share(desk: Desk<'_>, digest: &Digest) -> Result<Option<Buffer>, BufferError> {
    desk.unless_lost(found(desk, digest))
}

fn found(desk: Desk<'_>, digest: &Digest) -> Result<Option<Buffer>, BufferError> {
    let buffers = desk.device.buffers();
    let Some(id) = buffers.share(desk.tenant, digest) else {
        return Ok(None);
    };
    let length = match buffers.header(desk.tenant, id) {
        Ok(header) => header.length,
        // It was freed meanwhile, this share included: the device was closed.
        Err(_) => return Ok(None),
    };
    let reference = BufferRef {
        digest: *digest,
        offset: 0,
        length: length.get(),
    };
    // From here on the share is given back with the handle.
    let mut buffer = desk.hold(id, reference, None);
    let reserved = desk.reserve(length)?;
    if let Some(held) = Arc::get_mut(&mut buffer.held) {
        held.reserved = reserved;
    }
    Ok(Some(buffer))
}

impl Desk<'_> {
    /// A lost device still knows what lay on it, and gives it to nobody.
    fn unless_lost<T>(&self, done: Result<T, BufferError>) -> Result<T, BufferError> {
        match self.device.lost() {
            Some(why) => Err(why.into()),
            None => done,
        }
    }

    /// Reserves a buffer of so many bytes; what the tenant has in its cache makes way for it.
    fn reserve(&self, bytes: ByteCount) -> Result<Option<Reservation>, Refusal> {
        let Some(account) = self.account else {
            return Ok(None);
        };
        let reserve = || account.reserve(Kept::buffer(bytes));
        let may_fit = self.may_fit(bytes);
        let in_the_way =
            |refusal: &Refusal| may_fit && matches!(refusal, Refusal::QuotaExceeded { .. });
        self.making_way(reserve, in_the_way).map(Some)
    }

    /// Takes so many bytes of the device; what the tenant has in its cache makes way for them, and
    /// what others have does not.
    fn create(&self, bytes: ByteCount) -> Result<BufferWriter, CreateError> {
        let create = || self.device.buffers().create(self.tenant, bytes.get());
        self.making_way(create, |error| self.is_full(error))
    }

    /// Whether so many bytes would fit if nothing else was there: else nothing makes way in vain.
    fn may_fit(&self, bytes: ByteCount) -> bool {
        bytes <= self.device.buffers().capacity().bytes
    }

    /// Whether what others leave is all that there is not enough of.
    fn is_full(&self, error: &CreateError) -> bool {
        match error {
            CreateError::NoFreeSlot { .. } => true,
            CreateError::OutOfMemory { asked, .. } => self.may_fit(*asked),
            CreateError::NoSuchClass { .. } | _ => false,
        }
    }

    /// Tries until the tenant has nothing more in its cache that could make way.
    fn making_way<T, E>(
        &self,
        mut attempt: impl FnMut() -> Result<T, E>,
        in_the_way: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        match attempt() {
            Err(error) if in_the_way(&error) => {}
            done => return done,
        }
        let turn = self.cache.turn(self.tenant);
        let _turn = turn.lock();
        loop {
            match attempt() {
                Err(error) if in_the_way(&error) && self.cache.evict_oldest(self.tenant) => {}
                done => return done,
            }
        }
    }

    fn hold(&self, id: BufferId, reference: BufferRef, reserved: Option<Reservation>) -> Buffer {
        let held = HeldBuffer {
            device: Arc::clone(self.device),
            tenant: self.tenant,
            id,
            reference,
            is_evicted: false,
            reserved,
        };
        Buffer {
            held: Arc::new(held),
        }
    }
}

impl BufferError {
    fn of_seal(error: SealError, digest: Digest) -> Self {
        match error {
            SealError::OtherContent { found, .. } => Self::OtherContent { digest, found },
            SealError::Incomplete { written, length } => Self::Source {
                digest,
                reason: format!("it ended after {written} of {length}"),
            },
            other @ (SealError::NotMapped | _) => Self::Put(other.into()),
        }
    }
}
