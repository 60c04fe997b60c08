//! The tiered-storage pack, on object stores that fail in every way that object stores fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod compact;
mod crash;
mod evict;
mod faults;
mod late;
mod machine;
mod outside;
mod support;
mod sweep;
mod symbols;
mod versions;
mod wire;
