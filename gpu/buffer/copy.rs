//! Copies: how bytes get into the arena, of whatever memory it is made.
//!
//! Invariant: a copy has at most `CHUNK_BYTES`, so that a device that needs page-locked memory for
//! it needs no more than that of staging per writer.
#![allow(unsafe_code)]

use std::sync::Arc;

use crate::memory::Region;

/// The most bytes of one copy.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Moves bytes of the host into the arena.
pub(crate) trait CopyEngine: Send + Sync {
    /// Copies up to [`CHUNK_BYTES`] bytes to `offset` of the arena; `false` if they do not lie
    /// inside, and then nothing was copied. On return `from` is no longer read, and the copy is
    /// seen by every operation that is published from then on.
    ///
    /// # Safety
    /// Nothing else reads or writes the target during the call.
    unsafe fn upload(&self, offset: u64, from: &[u8]) -> bool;
}

/// Into memory that the host reaches itself: of either class, where host threads are the device.
pub(crate) struct HostCopy {
    region: Arc<Region>,
    arena: u64,
}

impl HostCopy {
    /// Into the arena that begins at byte `arena` of the region.
    pub(crate) const fn new(region: Arc<Region>, arena: u64) -> Self {
        Self { region, arena }
    }
}

impl CopyEngine for HostCopy {
    unsafe fn upload(&self, offset: u64, from: &[u8]) -> bool {
        let Some(at) = self.arena.checked_add(offset) else {
            return false;
        };
        // SAFETY: the caller promises that nothing else touches the target.
        unsafe { self.region.write(at, from) }
    }
}
