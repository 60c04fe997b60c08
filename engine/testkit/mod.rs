//! The test kit: the disks, the clock and the crashes by which an embedder proves sagas of its own.
//!
//! | noun | is |
//! | --- | --- |
//! | [`SimDisk`], [`SimLog`], [`SimTables`] | a machine that loses what a real one may lose |
//! | [`SimClock`] | time that passes when it is told to, and every timer with it |
//! | [`Outside`], [`FaultPlan`] | a remote with keys and fences, and what befalls calls to it |
//! | [`replay`] | an exported history against today's code |
//! | [`CrashSweep`] | one saga, crashed at every point there is, recovered and checked |

mod clock;
mod course;
mod gate;
mod life;
mod machine;
mod outside;
mod past;
mod plan;
mod point;
mod replay;
mod report;
mod sweep;

pub use clock::{SimClock, SimSleep};
pub use course::{Course, Manner, Way};
pub use outside::{Outside, Violation};
pub use plan::{Fault, FaultPlan, Request};
pub use point::{Crash, PointError, SweepPoint};
pub use replay::{Replayed, replay};
pub use report::{Counts, SweepReport};
pub use sweep::{CrashSweep, Ending, Finding, SweepError};

pub use orlop_store::disk::{Failure as DiskFailure, Occurrence, Operation, SimDisk};
pub use orlop_store::log::{SimLog, SimLogDisk, SimOpenedLog};
pub use orlop_store::tables::sim::{SimHome, SimShelf, SimTables};
