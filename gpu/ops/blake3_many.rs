//! `blake3_many`: the digests of many items, which lie in one window, in one operation.
//!
//! A tile is the items that begin in the same 64 KiB.

use std::ops::Range;

use super::view::values;
use super::{HostOp, OpError, Output, Partial, Scratch, TaskArgs};
use crate::entry::Opcode;
use crate::layout::RESULT_BYTES_MAX;

/// With the longest item behind it, below 200 us at 1 GB/s.
pub(crate) const TILE_BYTES: u64 = 64 * 1024;
/// Words of one digest.
const DIGEST_WORDS: usize = 4;

/// The BLAKE3 digests of the items of window 0, whose bounds stand in window 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blake3Many;

impl Blake3Many {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(4);
    /// The most items of one operation: their digests fit the largest result area.
    pub const ITEMS_MAX: usize = RESULT_BYTES_MAX as usize / (8 * DIGEST_WORDS);
    /// The most bytes of one item.
    pub const ITEM_BYTES_MAX: u64 = 128 * 1024;
}

/// The items of a task.
#[derive(Clone, Copy)]
struct Items<'a> {
    bytes: &'a [u8],
    /// One more than items, or none at all.
    bounds: &'a [u64],
}

impl<'a> Items<'a> {
    fn of(task: &TaskArgs<'a>) -> Result<Self, OpError> {
        let (bytes, bounds) = (task.window(0)?, values(task.window(1)?)?);
        if !task.args().is_empty() || task.windows() != 2 {
            return Err(OpError::BAD_ARGUMENT);
        }
        match bounds.len() {
            0 => Err(OpError::BAD_LENGTH),
            items if items > Blake3Many::ITEMS_MAX + 1 => Err(OpError::RESULT_TOO_LONG),
            _ => Ok(Self { bytes, bounds }),
        }
    }

    fn check(&self) -> Result<(), OpError> {
        let ends = self.bounds.iter().skip(1);
        for (begin, end) in self.bounds.iter().zip(ends) {
            let length = end.checked_sub(*begin).ok_or(OpError::BAD_CONTENT)?;
            if length > Blake3Many::ITEM_BYTES_MAX {
                return Err(OpError::INPUT_TOO_LONG);
            }
        }
        let inside = self
            .bounds
            .last()
            .is_none_or(|end| *end <= self.bytes.len() as u64);
        inside.then_some(()).ok_or(OpError::BAD_CONTENT)
    }

    const fn len(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    fn first(&self) -> u64 {
        self.bounds.first().copied().unwrap_or(0)
    }

    fn tiles(&self) -> Result<u32, OpError> {
        let end = self.bounds.last().copied().unwrap_or(0);
        let tiles = end.saturating_sub(self.first()).div_ceil(TILE_BYTES);
        u32::try_from(tiles.max(1)).map_err(|_| OpError::INPUT_TOO_LONG)
    }

    /// The items of one tile. Empty ones at the very end belong to the last.
    fn of_tile(&self, tile: u32) -> Result<Range<usize>, OpError> {
        let begins = self.bounds.get(..self.len()).unwrap_or_default();
        let before = |tile: u32| {
            let end = self.first() + u64::from(tile) * TILE_BYTES;
            begins.partition_point(|begin| *begin < end)
        };
        let last = tile + 1 == self.tiles()?;
        Ok(before(tile)..if last { begins.len() } else { before(tile + 1) })
    }

    fn item(&self, item: usize) -> Option<&'a [u8]> {
        let begin = usize::try_from(*self.bounds.get(item)?).ok()?;
        let end = usize::try_from(*self.bounds.get(item + 1)?).ok()?;
        self.bytes.get(begin..end)
    }
}

impl HostOp for Blake3Many {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "blake3_many"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let items = Items::of(task)?;
        items.check()?;
        items.tiles()
    }

    fn scratch(&self, task: &TaskArgs<'_>) -> Result<Scratch, OpError> {
        let words = Items::of(task)?.len() * DIGEST_WORDS;
        Ok(Scratch {
            tile: words,
            task: words,
        })
    }

    fn run_tile(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &mut [u64],
    ) -> Result<Partial, OpError> {
        let items = Items::of(task)?;
        let places = own.as_chunks_mut::<DIGEST_WORDS>().0;
        for (item, place) in items.of_tile(tile)?.zip(places) {
            let bytes = items.item(item).ok_or(OpError::BAD_CONTENT)?;
            let digest = ::blake3::hash(bytes);
            let words = digest.as_bytes().as_chunks::<8>().0;
            for (word, bytes) in place.iter_mut().zip(words) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        Ok(Partial::EMPTY)
    }

    fn merge(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &[u64],
        all: &mut [u64],
    ) -> Result<(), OpError> {
        let items = Items::of(task)?.of_tile(tile)?;
        let words = items.start * DIGEST_WORDS..items.end * DIGEST_WORDS;
        let from = own.get(..words.len()).ok_or(OpError::BAD_PARTIAL)?;
        let to = all.get_mut(words).ok_or(OpError::BAD_PARTIAL)?;
        to.copy_from_slice(from);
        Ok(())
    }

    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        all: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        for word in all.iter() {
            out.write(&word.to_le_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::id::TenantId;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::testing::{self, Aligned};
    use super::*;

    const ALICE: TenantId = TenantId::new(0, 1);

    fn digests(bytes: &[u8], bounds: &[u64], seed: u64) -> Result<Vec<u8>, OpError> {
        let bounds: Vec<u8> = bounds
            .iter()
            .flat_map(|bound| bound.to_le_bytes())
            .collect();
        let bounds = Aligned::of(&bounds);
        let windows = [bytes, bounds.bytes()];
        let task = TaskArgs::new(ALICE, 1, &[], &windows);
        let order = testing::shuffled(Blake3Many.tiles(&task)?, seed);
        testing::in_order(&Blake3Many, &task, &order)
    }

    fn bounds_of(lengths: &[usize], first: u64) -> Vec<u64> {
        let mut bounds = vec![first];
        for length in lengths {
            bounds.push(bounds[bounds.len() - 1] + *length as u64);
        }
        bounds
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_digest_is_that_of_the_official_crate_in_any_order_of_tiles(
            lengths in vec(
                prop_oneof![0..4_usize, 0..5000_usize, Just(65_536), 65_000..70_000_usize],
                0..40,
            ),
            first in 0..100_usize, more in 0..100_usize, seed: u64,
        ) {
            let bounds = bounds_of(&lengths, first as u64);
            let bytes = testing::bytes(first + lengths.iter().sum::<usize>() + more);
            let expected: Vec<u8> = bounds
                .windows(2)
                .flat_map(|pair| {
                    let [begin, end] = [pair[0], pair[1]].map(|at| usize::try_from(at).unwrap());
                    *::blake3::hash(&bytes[begin..end]).as_bytes()
                })
                .collect();
            prop_assert_eq!(digests(&bytes, &bounds, seed), Ok(expected));
        }

        #[test]
        fn any_bounds_are_digested_or_refused(bounds in vec(0..200_u64, 0..6), length in 0..150_usize) {
            let bytes = testing::bytes(length);
            let sound = bounds.is_sorted() && bounds.last().is_some_and(|end| *end <= length as u64);
            let answer = digests(&bytes, &bounds, 1);
            prop_assert_eq!(answer.is_ok(), sound, "{:?}", answer);
        }
    }

    #[test]
    fn the_official_vectors_hold_as_items() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/blake3.json")).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        let lengths: Vec<usize> = cases
            .iter()
            .map(|case| usize::try_from(case["input_len"].as_u64().unwrap()).unwrap())
            .collect();
        let bytes: Vec<u8> = lengths
            .iter()
            .flat_map(|length| testing::bytes(*length))
            .collect();
        let answer = digests(&bytes, &bounds_of(&lengths, 0), 7).unwrap();
        assert_eq!(answer.len(), 32 * cases.len());
        for (case, digest) in cases.iter().zip(answer.as_chunks::<32>().0) {
            let digest = orlop_saga::digest::Digest::new(*digest);
            assert_eq!(digest.to_string(), &case["hash"].as_str().unwrap()[..64]);
        }
    }

    #[test]
    fn empty_items_at_the_end_of_a_tile_that_is_the_last_are_digested() {
        let bounds = bounds_of(&[65_536, 65_536, 0, 0], 0);
        let answer = digests(&testing::bytes(131_072), &bounds, 3).unwrap();
        let empty = *::blake3::hash(&[]).as_bytes();
        assert_eq!(answer.as_chunks::<32>().0[2..], [empty, empty]);
    }

    #[test]
    fn limits_are_typed_failures() {
        let many = vec![0; Blake3Many::ITEMS_MAX + 1];
        assert_eq!(digests(&[], &many, 1).map(|bytes| bytes.len()), Ok(65_536));
        let more = vec![0; Blake3Many::ITEMS_MAX + 2];
        assert_eq!(digests(&[], &more, 1), Err(OpError::RESULT_TOO_LONG));
        assert_eq!(digests(&[], &[], 1), Err(OpError::BAD_LENGTH));
        assert_eq!(digests(&[1, 2], &[1, 0], 1), Err(OpError::BAD_CONTENT));
        assert_eq!(digests(&[1, 2], &[0, 3], 1), Err(OpError::BAD_CONTENT));
        assert_eq!(
            digests(&[], &[0, u64::MAX], 1),
            Err(OpError::INPUT_TOO_LONG)
        );
        let long = vec![0; 131_073];
        assert!(digests(&long, &[0, 131_072], 1).is_ok());
        assert_eq!(
            digests(&long, &[0, 131_073], 1),
            Err(OpError::INPUT_TOO_LONG)
        );
        let bounds = Aligned::of(&[0; 24]);
        let odd = &bounds.bytes()[4..20];
        let task = TaskArgs::new(ALICE, 1, &[], &[&[], odd]);
        assert_eq!(Blake3Many.tiles(&task), Err(OpError::MISALIGNED));
        let task = TaskArgs::new(ALICE, 1, &[], &[&[], &bounds.bytes()[..12]]);
        assert_eq!(Blake3Many.tiles(&task), Err(OpError::BAD_LENGTH));
        let task = TaskArgs::new(ALICE, 1, &[], &[&[]]);
        assert_eq!(Blake3Many.tiles(&task), Err(OpError::MISSING_WINDOW));
        let task = TaskArgs::new(ALICE, 1, &[1], &[&[], bounds.bytes()]);
        assert_eq!(Blake3Many.tiles(&task), Err(OpError::BAD_ARGUMENT));
    }
}
