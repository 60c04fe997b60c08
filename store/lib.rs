//! The store: the log that is the truth, and the tables in which it is found again.
//!
//! Imports `saga` only.

pub mod audit;
pub mod backup;
pub mod blob;
pub mod check;
pub mod checkpoint;
pub mod disk;
pub mod folder;
pub mod log;
pub mod projection;
pub mod projector;
pub mod recovery;
pub mod retained;
mod sealed;
pub mod store;
pub mod tables;
