//! What is done with bytes that claim to be from a disk: the same under the fuzzer and in the test
//! that goes through the committed corpus.
//!
//! Nothing here may panic, whatever the bytes; what is accepted must be accepted again as the same.
//! Checksums are put right first, or no mutation would get past them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a finding is a panic"
)]
// Each target uses one of them.
#![allow(dead_code)]

pub(crate) mod files;
pub(crate) mod frames;
pub(crate) mod histories;
pub(crate) mod records;

use orlop_saga::id::StoreId;

/// The store that every input claims to be of.
pub(crate) const STORE: StoreId = StoreId::new(*b"the fuzzed store");

/// The pieces of an input: each behind its length (u16, little-endian), the last one possibly cut.
pub(crate) fn pieces(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (piece, after) = after.split_at(length);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The input that has these pieces.
pub(crate) fn joined<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut input = Vec::new();
    for piece in pieces {
        let length = u16::try_from(piece.len()).expect("pieces of a seed are short");
        input.extend_from_slice(&length.to_le_bytes());
        input.extend_from_slice(piece);
    }
    input
}
