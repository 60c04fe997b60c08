//! Stores that older versions wrote: they open, their outcomes are replayed, their work goes on, and
//! until they are upgraded nothing is written that the older version could not read.
//!
//! `ORLOP_FIXTURE=FILE cargo test --test compat writes` keeps the store that the code of today
//! writes as a new fixture.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod formats;
mod managed;
mod newer;
mod opens;
mod pages;
mod paid;
mod world;
mod writer;
