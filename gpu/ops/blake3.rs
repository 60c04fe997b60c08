//! `blake3`: the digest of one window, tiled along the hash's own tree.
//!
//! A tile is a complete subtree of 128 chunks (the last may be shorter); its partial is the
//! subtree's chaining value. Tiles of equal power-of-two size are valid subtrees wherever they
//! begin, so merging them pairwise gives the digest of the whole.
//!
//! Source: BLAKE3 paper, section 2.1 (tree structure).

use ::blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use ::blake3::{CHUNK_LEN, Hasher};

use super::{HostOp, OpError, Output, Partial, TaskArgs};
use crate::entry::Opcode;

/// Bytes of a tile: 128 KiB, below 150 us at 1 GB/s.
pub(crate) const TILE_BYTES: usize = 128 * CHUNK_LEN;

/// The default BLAKE3 digest (32 bytes) of window 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blake3;

impl Blake3 {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(2);
}

impl HostOp for Blake3 {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "blake3"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let tiles = task.window(0)?.len().div_ceil(TILE_BYTES).max(1);
        u32::try_from(tiles).map_err(|_| OpError::INPUT_TOO_LONG)
    }

    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        let input = task.window(0)?;
        if input.len() <= TILE_BYTES {
            // The only tile is the root, which has no chaining value.
            return Partial::new(::blake3::hash(input).as_bytes());
        }
        let start = tile as usize * TILE_BYTES;
        let end = input.len().min(start + TILE_BYTES);
        let bytes = input.get(start..end).ok_or(OpError::BAD_PARTIAL)?;
        let mut hasher = Hasher::new();
        hasher.set_input_offset(start as u64).update(bytes);
        Partial::new(&hasher.finalize_non_root())
    }

    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let length = task.window(0)?.len();
        if let [root] = partials {
            return out.write(root.as_bytes());
        }
        let (left, right) = children(length, partials)?;
        out.write(merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }
}

/// The chaining values of the two children of a subtree of `length` bytes over `tiles`.
fn children(length: usize, tiles: &[Partial]) -> Result<(ChainingValue, ChainingValue), OpError> {
    let left =
        usize::try_from(left_subtree_len(length as u64)).map_err(|_| OpError::BAD_PARTIAL)?;
    let split = tiles
        .split_at_checked(left / TILE_BYTES)
        .ok_or(OpError::BAD_PARTIAL)?;
    Ok((subtree(left, split.0)?, subtree(length - left, split.1)?))
}

fn subtree(length: usize, tiles: &[Partial]) -> Result<ChainingValue, OpError> {
    if let [tile] = tiles {
        return tile.as_bytes().try_into().map_err(|_| OpError::BAD_PARTIAL);
    }
    if tiles.is_empty() {
        return Err(OpError::BAD_PARTIAL);
    }
    let (left, right) = children(length, tiles)?;
    Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

#[cfg(test)]
mod tests {
    use orlop_saga::id::TenantId;
    use proptest::prelude::*;

    use super::super::testing;
    use super::*;

    fn digest(input: &[u8], reverse: bool) -> (u32, Vec<u8>) {
        let windows = [input];
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &[], &windows);
        testing::run(&Blake3, &task, reverse)
    }

    #[test]
    fn the_official_vectors_hold() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/blake3.json")).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() >= 35);
        for case in cases {
            let length = usize::try_from(case["input_len"].as_u64().unwrap()).unwrap();
            let (_, digest) = digest(&testing::bytes(length), false);
            let digest = orlop_saga::digest::Digest::new(digest.try_into().unwrap());
            let expected = &case["hash"].as_str().unwrap()[..64];
            assert_eq!(digest.to_string(), expected, "length {length}");
        }
    }

    #[test]
    fn every_length_around_chunk_and_tile_boundaries_equals_the_official_crate() {
        let chunks = [
            0, 1, 2, 3, 5, 8, 63, 64, 65, 127, 128, 129, 192, 256, 320, 511, 512, 513,
        ];
        for chunk in chunks {
            for nearby in [-65_i64, -64, -63, -1, 0, 1, 63, 64, 65] {
                let Ok(length) = usize::try_from(chunk * 1024 + nearby) else {
                    continue;
                };
                let input = testing::bytes(length);
                let (tiles, digest) = digest(&input, true);
                assert_eq!(tiles as usize, length.div_ceil(TILE_BYTES).max(1));
                assert_eq!(digest, ::blake3::hash(&input).as_bytes(), "length {length}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_length_equals_the_official_crate(length in 0..40 * TILE_BYTES, seed: u8) {
            let mut input = testing::bytes(length);
            if let Some(first) = input.first_mut() {
                *first ^= seed;
            }
            let (_, digest) = digest(&input, seed & 1 == 1);
            let expected = ::blake3::hash(&input);
            prop_assert_eq!(digest, expected.as_bytes());
        }
    }

    #[test]
    fn a_missing_window_is_a_typed_failure() {
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &[], &[]);
        assert_eq!(Blake3.tiles(&task), Err(OpError::MISSING_WINDOW));
    }
}
