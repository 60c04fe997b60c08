//! Proofs of admission through its public API.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests assert by panicking; nothing outside sees them"
)]

mod asynchronous;
mod batches;
mod deadlines;
mod exclusion;
mod extents;
mod fair;
mod fairness;
mod gap;
mod lifts;
mod model;
mod oracle;
mod order;
mod regressions;
mod stress;
mod support;
mod tenants;
mod waiting;
