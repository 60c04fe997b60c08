//! The journal: what happened, in the order in which it became durable.
//!
//! [`Log`] is the contract, [`FileLog`] keeps it on files, [`SimLog`] in memory for tests. A log is
//! opened in two steps: [`FileLog::open`] verifies what the folder holds and makes it durable, the
//! [`OpenedLog`] replays it, and [`OpenedLog::start`] takes appends.
//!
//! A group of batches is one frame, one write and one `fdatasync`. Frames fill segments of a fixed
//! size from front to back; see `frame` and `segment` for the layout, `opened` for why what an
//! open answers is on the disk, `scan` for what is damage and what a torn tail.
//!
//! Invariants
//! - No acknowledged batch is lost by a crash, a batch survives whole or not at all, and nothing
//!   that was not appended is replayed.
//! - Damage is found, except to the last group of a log that was not closed cleanly: there it
//!   cannot be told from a write that never finished.
//!
//! Absent: a lock on the folder (the store's), reading while the log runs, and compression.

mod batch;
mod contract;
mod error;
mod file;
mod frame;
mod inspect;
mod janitor;
mod opened;
mod options;
mod queue;
mod scan;
mod segment;
mod sim;
#[cfg(test)]
mod tests;
mod writer;

pub use batch::Batch;
pub use contract::{
    Acknowledge, DurableSink, Lane, Log, LogHealth, LogStats, LsnRange, Opened, Purpose, Replay,
};
pub use error::{
    AppendError, Damage, LogError, OpenLogError, ReplayError, ReplayLogError, StartLogError,
};
pub use file::FileLog;
pub(crate) use inspect::{Fault, Inspected, Inspection, Seen};
pub use opened::OpenedLog;
pub use options::LogOptions;
pub(crate) use segment::is_no_space;
pub use sim::{SimLog, SimLogDisk, SimOpenedLog};
