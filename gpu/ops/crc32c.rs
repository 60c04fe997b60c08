//! `crc32c`: the Castagnoli checksum of one window, tiled and combined.

use std::sync::LazyLock;

use super::{HostOp, OpError, Output, Partial, TaskArgs};
use crate::entry::Opcode;

/// Bytes of a tile: 256 KiB, about 200 us where the processor does not help.
pub(crate) const TILE_BYTES: usize = 256 * 1024;

/// What each bit of a checksum becomes when a tile's bytes follow. Appending bytes is linear, so a
/// checksum becomes the sum of what its bits become.
static APPENDED: LazyLock<[u32; 32]> =
    LazyLock::new(|| std::array::from_fn(|bit| ::crc32c::crc32c_combine(1 << bit, 0, TILE_BYTES)));

/// The checksum of what `sum` is of, and then a tile of checksum `tile`.
fn append_tile(sum: u32, tile: u32) -> u32 {
    let bits = APPENDED.iter().enumerate();
    bits.fold(tile, |all, (bit, becomes)| {
        all ^ (becomes & 0_u32.wrapping_sub(sum >> bit & 1))
    })
}

/// The CRC-32C of window 0, as 4 little-endian bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crc32c;

impl Crc32c {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(3);
}

impl HostOp for Crc32c {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "crc32c"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let tiles = task.window(0)?.len().div_ceil(TILE_BYTES).max(1);
        u32::try_from(tiles).map_err(|_| OpError::INPUT_TOO_LONG)
    }

    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        let input = task.window(0)?;
        let start = tile as usize * TILE_BYTES;
        let end = input.len().min(start + TILE_BYTES);
        let bytes = input.get(start..end).ok_or(OpError::BAD_PARTIAL)?;
        Partial::new(&::crc32c::crc32c(bytes).to_le_bytes())
    }

    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let mut left = task.window(0)?.len();
        let mut sum = 0;
        for partial in partials {
            let bytes = partial
                .as_bytes()
                .try_into()
                .map_err(|_| OpError::BAD_PARTIAL)?;
            let length = left.min(TILE_BYTES);
            let tile = u32::from_le_bytes(bytes);
            sum = if length == TILE_BYTES {
                append_tile(sum, tile)
            } else {
                ::crc32c::crc32c_combine(sum, tile, length)
            };
            left -= length;
        }
        out.write(&sum.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::id::TenantId;
    use proptest::prelude::*;

    use super::super::testing;
    use super::*;

    fn sum(input: &[u8], reverse: bool) -> (u32, u32) {
        let windows = [input];
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &[], &windows);
        let (tiles, bytes) = testing::run(&Crc32c, &task, reverse);
        (tiles, u32::from_le_bytes(bytes.try_into().unwrap()))
    }

    #[test]
    fn the_vectors_of_rfc_3720_hold() {
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(sum(&[0; 32], false).1, 0x8a91_36aa);
        assert_eq!(sum(&[0xff; 32], false).1, 0x62a8_ab43);
        assert_eq!(sum(&rising, false).1, 0x46dd_794e);
        assert_eq!(sum(b"123456789", false).1, 0xe306_9283);
    }

    #[test]
    fn every_length_around_tile_boundaries_equals_the_whole_checksum() {
        for tiles in 0..4 {
            for nearby in [-1_i64, 0, 1, 7] {
                let Ok(length) = usize::try_from(tiles * 262_144 + nearby) else {
                    continue;
                };
                let input = testing::bytes(length);
                let expected_tiles = length.div_ceil(TILE_BYTES).max(1);
                let (tiles, sum) = sum(&input, true);
                assert_eq!(tiles as usize, expected_tiles);
                assert_eq!(sum, ::crc32c::crc32c(&input), "length {length}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_length_equals_the_whole_checksum(length in 0..6 * TILE_BYTES, reverse: bool) {
            let input = testing::bytes(length);
            prop_assert_eq!(sum(&input, reverse).1, ::crc32c::crc32c(&input));
        }
    }
}
