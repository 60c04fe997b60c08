//! Tenants side by side: what one can learn of another, reach, delay or overspend.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod denied;
mod engagements;
mod faults;
mod hall;
mod late;
mod lives;
mod memory;
mod metrics;
mod noisy;
mod opcodes;
mod purses;
mod quiet;
mod recorded;
mod room;
mod share;
mod snapshot;
mod support;
mod trail;
mod waiting;
