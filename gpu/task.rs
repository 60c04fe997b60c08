//! Tasks: what a caller publishes, and what it gets back.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use smallvec::SmallVec;

use crate::buffer::{PinnedWindow, ResultBuffer, ResultWindow};
use crate::entry::{Args, Opcode};
use crate::layout::INLINE_BYTES;
use crate::status::Status;
use crate::ticket::ResultGuard;

/// One operation to publish.
#[derive(Debug)]
pub struct Task {
    /// What to do.
    pub opcode: Opcode,
    /// For whom; must be registered on the device, and own every window.
    pub tenant: TenantId,
    /// The ordinal of the attempt; travels along for logs and operations.
    pub attempt: u32,
    /// Time from now after which it is not started, nor continued at a tile boundary.
    /// Above 71 minutes only the host watches it, until the entry is on the ring.
    pub deadline: Option<Duration>,
    /// The most tiles it may be cut into; zero leaves it to the device.
    pub tiles_max: u32,
    /// Argument words.
    pub args: Args,
    /// Memory, pinned until the completion.
    pub windows: SmallVec<[PinnedWindow; 2]>,
    /// Where its result goes if it may be longer than the permit's result area; of the same tenant,
    /// and one of the windows that an entry carries.
    pub result: Option<ResultWindow>,
}

impl Task {
    /// A first attempt without deadline, arguments or windows.
    pub fn new(opcode: Opcode, tenant: TenantId) -> Self {
        Self {
            opcode,
            tenant,
            attempt: 1,
            deadline: None,
            tiles_max: 0,
            args: Args::new(),
            windows: SmallVec::new(),
            result: None,
        }
    }
}

/// One published operation, unique within a device for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) wire: u64,
    pub(crate) serial: u64,
}

impl Ticket {
    /// The epoch of the device's memory: a completion of an older epoch is refused.
    pub const fn epoch(self) -> u32 {
        crate::slot::high(self.wire)
    }

    /// The ticket as it stands on the ring; names one operation among those in flight.
    pub const fn wire(self) -> u64 {
        self.wire
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.epoch(), self.serial)
    }
}

/// Who is told that an operation is over. Called exactly once, with no lock held.
pub trait Completion: Send + Sync {
    /// The operation is over. Runs on a worker, on the thread that published it as short, or, for
    /// work that never reached the device, on the thread that withdrew it; so it must be short and must not block; it may publish. A panic
    /// is caught and counted.
    fn completed(self: Arc<Self>, completed: Completed);

    /// The device is lost, and `completed` follows once nothing of it runs any more: until then
    /// it holds what it held. `running`: a worker was at it. For whoever wants to know early; the
    /// same rules as for `completed` hold. Not called for what never reached the ring.
    fn lost(&self, running: bool) {
        let _ = running;
    }
}

impl<F: Fn(Completed) + Send + Sync> Completion for F {
    fn completed(self: Arc<Self>, completed: Completed) {
        self(completed);
    }
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completed {
    /// Which.
    pub ticket: Ticket,
    /// How it ended.
    pub status: Status,
    /// Sum of the durations of its tiles, whether or not it ended well.
    pub cost: BusyNanos,
    /// Its output if it is done, a text if it faulted, else empty.
    pub result: ResultBytes,
}

/// Result bytes; while a large one is held, its permit is, or the buffer that it is in.
#[derive(Debug)]
pub struct ResultBytes(pub(crate) Bytes);

#[derive(Debug)]
pub(crate) enum Bytes {
    Inline {
        bytes: [u8; INLINE_BYTES],
        length: usize,
    },
    Text(String),
    Area(ResultGuard),
    Buffer(ResultBuffer),
}

impl ResultBytes {
    pub(crate) const EMPTY: Self = Self(Bytes::Inline {
        bytes: [0; INLINE_BYTES],
        length: 0,
    });

    /// The buffer that it is in, if it was given one and has more than 32 bytes; else the same
    /// again.
    ///
    /// # Errors
    /// `self`: it is in no buffer.
    pub fn into_buffer(self) -> Result<ResultBuffer, Self> {
        match self.0 {
            Bytes::Buffer(buffer) => Ok(buffer),
            other @ (Bytes::Inline { .. } | Bytes::Text(_) | Bytes::Area(_)) => Err(Self(other)),
        }
    }

    /// Whether reading it holds a permit, which dropping it gives back.
    pub const fn holds_permit(&self) -> bool {
        matches!(self.0, Bytes::Area(_))
    }
}

impl Deref for ResultBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline { bytes, length } => bytes.get(..*length).unwrap_or_default(),
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Area(guard) => guard.bytes(),
            Bytes::Buffer(buffer) => buffer,
        }
    }
}
