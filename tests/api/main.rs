//! The public API, used as an embedder uses it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod support;

mod backups;
mod bills;
mod blobs;
mod budgets;
mod buffers;
mod capabilities;
mod children;
mod counters;
mod deadlines;
mod device_ops;
mod divergence;
mod doubt;
mod effects;
mod forks;
mod gate;
mod halfway;
mod joiners;
mod keys;
mod levels;
mod limits;
mod mistakes;
mod operators;
mod outputs;
mod passivation;
mod poison;
mod replay;
mod runtimes;
mod sagas;
mod select;
mod signals;
mod starts;
mod suspects;
mod table;
mod unwinding;
mod watchdog;
