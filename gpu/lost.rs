//! Lost devices: why a device answers no longer.

use std::time::Duration;

use crate::cuda::error::CallFailed;

/// Why a device is lost. What was in flight may have run; it wrote nothing that anybody reads.
/// Nothing more is published on it, and the next epoch has new memory. Retry there.
///
/// A chip in this process has no next epoch: its context is the embedder's too, and dead for good.
/// Retry in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceLost {
    /// The process that ran it died.
    #[error("the device's process died")]
    Died,
    /// Its process did not answer, though it had work. It was killed; the kernel of a chip cannot
    /// be, so that what it was given stays held until the device is closed.
    #[error("the device did not answer for {bound:?}")]
    Silent {
        /// How long it may be silent.
        bound: Duration,
    },
    /// The chip faulted, or refused the kernel. Its context is dead for this process.
    #[error("the chip is lost to this process: {0}")]
    Faulted(CallFailed),
    /// The kernel left its chip, and nobody had told it to. Please report it.
    #[error("the kernel ended by itself")]
    Ended,
    /// A tile ran for longer than a tile may. Its process was killed.
    #[error("tile {tile} of ticket {ticket:#x} ran for more than {bound:?}")]
    Stuck {
        /// The ticket, as it stands on the ring.
        ticket: u64,
        /// Which of its tiles.
        tile: u32,
        /// How long a tile may run.
        bound: Duration,
    },
}
