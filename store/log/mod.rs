//! The journal: what happened, in the order in which it became durable.

mod batch;
mod contract;
mod error;
mod file;
mod frame;
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
    Acknowledge, DurableSink, Lane, Log, LogHealth, LsnRange, Opened, Purpose, Replay,
};
pub use error::{
    AppendError, Damage, LogError, OpenLogError, ReplayError, ReplayLogError, StartLogError,
};
pub use file::FileLog;
pub use opened::OpenedLog;
pub use options::LogOptions;
pub use sim::{SimLog, SimLogDisk, SimOpenedLog};
