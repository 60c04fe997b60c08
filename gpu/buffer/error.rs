//! What can go wrong with buffers: one enum per operation.

use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;

use super::{BufferId, MemoryClass};

/// An id of another life of its slot: freed (perhaps twice) or never given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("buffer {id} is stale")]
pub struct Stale {
    /// The id that was used.
    pub id: BufferId,
    /// The slot's present life; `None` if there is no such slot.
    pub current_generation: Option<u32>,
}

/// Why no buffer was made. Nothing is held in any of these cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Every slot is taken. Free a buffer, or open the device with more slots.
    #[error("all {slots_max} buffer slots are taken")]
    NoFreeSlot {
        /// Slots in all.
        slots_max: u32,
    },
    /// No free range is long enough. `largest_free` (rounded down to a size class) would fit.
    #[error("{asked} asked, the largest free range has {largest_free} of {total_free}")]
    OutOfMemory {
        /// What was asked for.
        asked: ByteCount,
        /// What is certain to fit at this moment.
        largest_free: ByteCount,
        /// Free bytes in all.
        total_free: ByteCount,
    },
    /// The device was opened without memory of this class. Open it with `device_bytes`, or use
    /// another class.
    #[error("the device has no memory of class {class}")]
    NoSuchClass {
        /// Which.
        class: MemoryClass,
    },
}

/// Why bytes were not written. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// More bytes than the buffer was made for.
    #[error("{asked} do not fit in the {left} left of the buffer")]
    TooLong {
        /// What was to be written.
        asked: ByteCount,
        /// What is left.
        left: ByteCount,
    },
    /// This process is a fork of the one that opened the device, and shares its memory. Open a
    /// device of this process's own.
    #[error("the device belongs to another process")]
    Forked,
}

/// Why a buffer was not sealed. The buffer is gone; make another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Not all of it was written; the rest would show what was there before.
    #[error("{written} of {length} were written")]
    Incomplete {
        /// Written so far.
        written: ByteCount,
        /// What the buffer was made for.
        length: ByteCount,
    },
    /// The device did not map the buffer.
    #[error("the device refused to map the buffer")]
    NotMapped,
    /// What was written is not what it was to be. Look for what the digest names elsewhere.
    #[error("the bytes written have digest {found}, not {expected}")]
    OtherContent {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what was written.
        found: Digest,
    },
}

/// Why content was not stored. Nothing is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// No room.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It did not fit what was made for it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It was not sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Why a buffer was not looked at. Nothing was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The id is of another life.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// It is still being written, or is a transient window. Seal it first.
    #[error("buffer {id} is not sealed")]
    NotSealed {
        /// The buffer.
        id: BufferId,
    },
    /// The asking tenant does not own it.
    #[error("tenant {tenant} does not own the buffer")]
    NotOwner {
        /// Who asked.
        tenant: TenantId,
    },
}

/// Why a buffer was not freed. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FreeError {
    /// The id is of another life: it was freed before.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// It is still being written (drop its writer), or is a transient window (drop its guard).
    #[error("buffer {id} is not sealed")]
    NotSealed {
        /// The buffer.
        id: BufferId,
    },
    /// The asking tenant does not own it.
    #[error("tenant {tenant} does not own the buffer")]
    NotOwner {
        /// Who asked.
        tenant: TenantId,
    },
}

/// Why a name was not bound to a window. Nothing was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The tenant has no buffer of this content; another tenant's is unknown too. Put it again
    /// from its source.
    #[error("no buffer of digest {digest}")]
    Unknown {
        /// The digest.
        digest: Digest,
    },
    /// The range reaches beyond the buffer.
    #[error("offset {offset} and length {length} exceed a buffer of {bytes}")]
    Bounds {
        /// First byte.
        offset: u64,
        /// Length.
        length: u64,
        /// The buffer's size.
        bytes: ByteCount,
    },
}
