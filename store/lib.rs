//! The store: the log that is the truth, and the tables in which it is found again.
//!
//! Imports `saga` only.

pub mod disk;
pub mod log;
