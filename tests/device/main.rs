//! Engines whose device runs in a process of its own, ended in every way there is; and engines on a
//! CUDA device.
//!
//! This binary is the embedder's: the device's process is this one once more, and enters through
//! `support::entering_returns_in_any_process_but_a_devices`.
//! `ORLOP_DEVICE_KILLS` kills more often than the default of 50, `ORLOP_DEVICE_SEED` at other
//! moments.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod buffers;
#[cfg(feature = "cuda")]
mod cuda;
mod kills;
mod quarantine;
mod support;
