//! Buffers: large bytes of a tenant on the device, named by their digest.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use orlop_admission::{Kept, Refusal, Reservation, TenantAccount};
use orlop_gpu::Device;
use orlop_gpu::{BindError, BufferId, BufferRef, PinnedWindow, PutError};
use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use orlop_saga::outcome::Failure;
use smallvec::SmallVec;

use crate::device::Source;
use crate::error::Unavailable;
use crate::executor::panic_text;

/// Where the bytes of a buffer come from when they are not on the device: after a restart, or
/// once they were freed.
pub trait BufferSource: Send + Sync + 'static {
    /// The bytes that have this digest, or `None` if they are gone for good. May block. What is
    /// returned is hashed and refused if it is something else.
    fn load(&self, tenant: TenantId, digest: &Digest) -> Option<Vec<u8>>;
}

/// A buffer of one tenant, kept on the device while this handle or work that uses it lives.
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
    /// The device has no room for it. Drop buffers, or raise `device.arena_bytes`.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The tenant may not: its state, or a quota of buffers or device bytes. Drop buffers, or
    /// have the quota raised.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Owns one count of a buffer on the device.
pub(crate) struct HeldBuffer {
    device: Arc<Device>,
    tenant: TenantId,
    id: BufferId,
    reference: BufferRef,
    /// Given back after the buffer was freed, since fields drop last.
    _reserved: Option<Reservation>,
}

impl Drop for HeldBuffer {
    fn drop(&mut self) {
        // Stale only if the device was closed, which freed everything.
        let _ = self.device.buffers().free(self.tenant, self.id);
    }
}

/// Puts bytes onto the device within the tenant's quotas, or finds them there.
pub(crate) fn put(
    device: &Arc<Device>,
    account: &Arc<TenantAccount>,
    bytes: &[u8],
) -> Result<Buffer, BufferError> {
    let reserved = account.reserve(Kept::buffer(ByteCount::of(bytes)))?;
    Ok(keep(device, account.id(), bytes, Some(reserved))?)
}

fn keep(
    device: &Arc<Device>,
    tenant: TenantId,
    bytes: &[u8],
    reserved: Option<Reservation>,
) -> Result<Buffer, PutError> {
    let id = device.buffers().put(tenant, bytes)?;
    let digest = match device.buffers().header(tenant, id) {
        Ok(header) => header.digest,
        Err(_) => Digest::of(bytes),
    };
    let reference = BufferRef {
        digest,
        offset: 0,
        length: bytes.len() as u64,
    };
    let held = HeldBuffer {
        device: Arc::clone(device),
        tenant,
        id,
        reference,
        _reserved: reserved,
    };
    Ok(Buffer {
        held: Arc::new(held),
    })
}

/// Windows, pinned until their operation is over.
pub(crate) type Windows = SmallVec<[PinnedWindow; 2]>;

/// Why the sources of a plan are not bound.
pub(crate) enum BindPlanError {
    /// A buffer is not on the device.
    Absent(BufferRef),
    /// It cannot be bound.
    Failed(Failure),
}

/// Binds ids and generations to the sources of a plan.
pub(crate) fn bind(
    device: &Device,
    tenant: TenantId,
    sources: &[Source],
) -> Result<Windows, BindPlanError> {
    let buffers = device.buffers();
    let mut windows = Windows::new();
    for source in sources {
        let window = match source {
            Source::Buffer(reference) => match buffers.bind(tenant, reference) {
                Ok(window) => window,
                Err(BindError::Unknown { .. }) => {
                    return Err(BindPlanError::Absent(*reference));
                }
                Err(error) => return Err(BindPlanError::Failed(Failure::permanent(error))),
            },
            Source::Inline(bytes) => buffers
                .stage(tenant, bytes.as_bytes())
                .map_err(|error| BindPlanError::Failed(Failure::retryable(error)))?,
        };
        windows.push(window);
    }
    Ok(windows)
}

/// Why an absent buffer was not brought back.
pub(crate) struct LoadError {
    pub(crate) failure: Failure,
    /// The tenant has no such bytes, as far as its source says.
    pub(crate) is_gone: bool,
}

impl LoadError {
    fn gone(reason: String) -> Self {
        Self {
            failure: Failure::retryable(reason),
            is_gone: true,
        }
    }

    fn failed(reason: impl fmt::Display) -> Self {
        Self {
            failure: Failure::retryable(reason),
            is_gone: false,
        }
    }
}

/// Brings an absent buffer back from its source, for work that was admitted.
pub(crate) fn load(
    device: &Arc<Device>,
    source: Option<&dyn BufferSource>,
    (tenant, account): (TenantId, Option<&Arc<TenantAccount>>),
    reference: &BufferRef,
) -> Result<Buffer, LoadError> {
    let digest = reference.digest;
    let Some(source) = source else {
        return Err(LoadError::gone(format!(
            "buffer {digest} is not on the device and the engine has no buffer source"
        )));
    };
    let load = AssertUnwindSafe(|| source.load(tenant, &digest));
    let loaded = catch_unwind(load)
        .map_err(|panic| LoadError::failed(format!("the source: {}", panic_text(&*panic))))?;
    let Some(bytes) = loaded else {
        return Err(LoadError::gone(format!(
            "the source does not have buffer {digest}"
        )));
    };
    let reserve = |account: &Arc<TenantAccount>| {
        match account.reserve(Kept::buffer(ByteCount::of(&bytes))) {
            Ok(reserved) => Ok(Some(reserved)),
            // It was admitted before its tenant was suspended, and goes on.
            Err(refusal) if refusal.is_of_state() => Ok(None),
            Err(refusal) => Err(LoadError::failed(refusal)),
        }
    };
    let reserved = account.map_or(Ok(None), reserve)?;
    let buffer = keep(device, tenant, &bytes, reserved).map_err(LoadError::failed)?;
    if buffer.digest() == digest {
        Ok(buffer)
    } else {
        Err(LoadError::failed(format!(
            "the source gave bytes of digest {} for buffer {digest}",
            buffer.digest()
        )))
    }
}
