//! The test kit: what a sweep finds, and that it finds it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod clock;
mod family;
mod faults;
mod pair;
mod replay;
mod sweep;
