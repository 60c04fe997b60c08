//! Results: bytes that an operation leaves in a buffer, because they are too long for its permit.
//!
//! Invariants
//! - Nobody reads the buffer before its operation is over, and then only what was written.
//! - Dropped, it leaves nothing behind.

use std::fmt;
use std::ops::Deref;

use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;

use super::{BufferId, PinnedWindow};
use crate::entry::Window;

/// Room for a result.
#[must_use = "dropped, it is free again"]
pub struct ResultWindow {
    window: PinnedWindow,
}

impl ResultWindow {
    pub(super) const fn new(window: PinnedWindow) -> Self {
        Self { window }
    }

    /// The longest result that it takes.
    pub const fn capacity(&self) -> ByteCount {
        ByteCount::new(self.window.length)
    }

    pub(crate) const fn window(&self) -> Window {
        self.window.window()
    }

    pub(crate) const fn pinned(&self) -> &PinnedWindow {
        &self.window
    }

    /// The operation is over and left so many bytes.
    pub(crate) fn filled(self, length: u64) -> ResultBuffer {
        let mut window = self.window;
        window.length = window.length.min(length);
        ResultBuffer { window }
    }
}

impl fmt::Debug for ResultWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResultWindow").field(&self.window()).finish()
    }
}

/// The result that an operation left in a buffer. Read through this guard, it stays where it is;
/// dropping the guard frees it.
pub struct ResultBuffer {
    window: PinnedWindow,
}

/// Why a result was not kept. Its bytes are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The device was closed. Open it and run the operation again.
    #[error("the device was closed")]
    Closed,
}

impl ResultBuffer {
    /// Keeps it as a sealed buffer of the tenant, under its digest and without copying it; undone
    /// by one free. If the tenant has the same content already, that buffer is shared.
    ///
    /// # Errors
    /// [`KeepError`]: nothing is held.
    pub fn keep(self) -> Result<(BufferId, Digest), KeepError> {
        let digest = Digest::of(&self);
        let window = &self.window;
        let mut table = window.shared.table.lock();
        let kept = table.keep(window.id, digest, window.length);
        drop(table);
        kept.map(|id| (id, digest)).map_err(|_| KeepError::Closed)
    }
}

impl Deref for ResultBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.window
    }
}

impl fmt::Debug for ResultBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResultBuffer").field(&self.window).finish()
    }
}
