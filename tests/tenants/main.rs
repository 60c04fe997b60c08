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
mod faults;
mod hall;
mod lives;
mod memory;
mod metrics;
mod noisy;
mod opcodes;
mod quiet;
mod room;
mod snapshot;
mod support;
mod trail;
mod waiting;
