//! The engine against a plain map, over a machine that loses what a real one may lose.
//!
//! `ORLOP_MODEL_CASES` draws more random cases than the default.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests assert by panicking"
)]

mod chain;
mod clock;
#[path = "../fuzz/decoders/mod.rs"]
mod decoders;
mod disks;
mod ends;
mod family;
mod jumps;
mod life;
mod oracle;
mod outside;
mod plan;
mod prefixes;
mod racer;
mod random;
mod sagas;
mod seeds;
mod tenancies;

use std::sync::Once;

/// Keeps the panics that are planned from filling the output.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&"planned") {
                before(panic);
            }
        }));
    });
}
