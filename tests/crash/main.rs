//! Real processes over real files, ended by a real SIGKILL; and the reference sagas on a simulated
//! machine, crashed at every point there is, with the number of points on the standard output.
//!
//! `ORLOP_CRASH_KILLS` kills more often than the default, `ORLOP_CRASH_SEED` draws other moments.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod child;
mod code;
mod ledger;
mod parent;
mod remote;
mod suspects;
mod tiers;
