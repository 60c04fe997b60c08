//! The journal: what happened, in the order in which it became durable.

mod batch;
mod contract;
mod error;
mod frame;
mod options;

pub use batch::Batch;
pub use contract::{
    Acknowledge, DurableSink, Lane, Log, LogHealth, LsnRange, Opened, Purpose, Replay,
};
pub use error::{
    AppendError, Damage, LogError, OpenLogError, ReplayError, ReplayLogError, StartLogError,
};
pub use options::LogOptions;
