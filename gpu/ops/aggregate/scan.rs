//! Scans: one pass over the values of a tile, a block of 64 rows and a word of the mask at a time.
//!
//! Blocks of which few rows are selected are walked bit by bit, the others as a whole; both give
//! the same.

use super::exact::Exact;
use super::number::{Integer, Number, Value};
use super::rows::{BLOCK, Mask};

/// Lanes of a sum of numbers. Part of the definition of the result.
pub(super) const LANES: usize = 256;
/// Selected rows of a block up to which it is walked bit by bit.
const FEW: u32 = 12;
/// Integer sums that go on side by side.
const WIDTH: usize = 8;

pub(super) type Lanes = [f64; LANES];

/// Calls `scan` with each whole block, and with the rest filled up by zeros.
#[inline(always)]
fn blocks<T: Value>(values: &[T], mut scan: impl FnMut(usize, &[T; BLOCK])) {
    let (whole, rest) = values.as_chunks::<BLOCK>();
    for (at, block) in whole.iter().enumerate() {
        scan(at, block);
    }
    if !rest.is_empty() {
        scan(whole.len(), &filled(rest));
    }
}

#[inline(always)]
fn filled<T: Value>(rest: &[T]) -> [T; BLOCK] {
    let mut block = [T::default(); BLOCK];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    block
}

/// As `blocks`, of two columns of equal length, and only where rows are selected.
#[inline(always)]
fn pairs<A: Value, B: Value>(
    one: &[A],
    other: &[B],
    mask: &Mask,
    mut scan: impl FnMut(usize, &[A; BLOCK], &[B; BLOCK], u64),
) {
    let ((ones, one_rest), (others, other_rest)) =
        (one.as_chunks::<BLOCK>(), other.as_chunks::<BLOCK>());
    for (at, ((one, other), bits)) in ones.iter().zip(others).zip(mask).enumerate() {
        if *bits != 0 {
            scan(at, one, other, *bits);
        }
    }
    if let Some(bits) = mask.get(ones.len())
        && *bits != 0
    {
        scan(ones.len(), &filled(one_rest), &filled(other_rest), *bits);
    }
}

/// The positions of the bits that are 1.
#[inline(always)]
fn set_bits(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (bits != 0).then_some(bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        at
    })
}

/// One bit of a word as a mask of 64.
#[inline(always)]
const fn spread(bits: u64, at: usize) -> u64 {
    0_u64.wrapping_sub((bits >> at) & 1)
}

/// Takes the rows whose value does not hold out of the mask.
#[inline(always)]
pub(super) fn retain<T: Value>(values: &[T], mask: &mut Mask, holds: impl Fn(T) -> bool) {
    blocks(
        values,
        #[inline(always)]
        |at, block| {
            let mut bytes = [0_u8; BLOCK];
            for (byte, value) in bytes.iter_mut().zip(block) {
                *byte = u8::from(holds(*value));
            }
            let mut bits = 0;
            for (byte, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
                // Each byte's lowest bit moves to its place in the highest byte.
                let gathered = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
                bits |= gathered << (8 * byte);
            }
            if let Some(word) = mask.get_mut(at) {
                *word &= bits;
            }
        },
    );
}

pub(super) fn count(mask: &Mask) -> u64 {
    mask.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// The exact sum of the selected values.
#[inline(always)]
pub(super) fn sum_integers<T: Integer>(values: &[T], mask: &Mask) -> Exact {
    let mut halves = Halves::default();
    pairs(
        values,
        values,
        mask,
        #[inline(always)]
        |_, block, _, bits| {
            if bits.count_ones() <= FEW {
                for at in set_bits(bits) {
                    halves.add(0, block.get(at).map_or(0, |value| value.wide()));
                }
            } else {
                halves.add_block(
                    #[inline(always)]
                    |at| block.get(at).map_or(0, |value| value.wide()),
                    bits,
                );
            }
        },
    );
    halves.total()
}

/// The exact sum of the products of the selected values.
#[inline(always)]
pub(super) fn sum_products<A: Integer, B: Integer>(one: &[A], by: &[B], mask: &Mask) -> Exact {
    let (mut halves, mut large) = (Halves::default(), Exact::default());
    pairs(
        one,
        by,
        mask,
        #[inline(always)]
        |_, one, by, bits| {
            let one = |at: usize| one.get(at).map_or(0, |value| value.wide());
            let by = |at: usize| by.get(at).map_or(0, |value| value.wide());
            if bits.count_ones() > FEW && (0..BLOCK).all_small(one) && (0..BLOCK).all_small(by) {
                // Both factors have 32 bits, so the product has 64.
                halves.add_block(
                    #[inline(always)]
                    |at| one(at).wrapping_mul(by(at)),
                    bits,
                );
            } else {
                for at in set_bits(bits) {
                    large.add(i128::from(one(at)) * i128::from(by(at)));
                }
            }
        },
    );
    large.merge(&halves.total());
    large
}

trait AllSmall {
    fn all_small(self, value: impl Fn(usize) -> i64) -> bool;
}

impl AllSmall for std::ops::Range<usize> {
    /// Whether every value has 32 bits.
    #[inline(always)]
    fn all_small(self, value: impl Fn(usize) -> i64) -> bool {
        let excess = self.fold(
            0,
            #[inline(always)]
            |excess, at| {
                // Zero in the high half if the value has 32 bits.
                excess | (value(at).wrapping_add(1 << 31).cast_unsigned() >> 32)
            },
        );
        excess == 0
    }
}

/// Sums of the low and the high halves of values; those of a tile do not overflow.
#[derive(Default)]
struct Halves {
    low: [u64; WIDTH],
    high: [i64; WIDTH],
}

impl Halves {
    #[inline(always)]
    fn add(&mut self, lane: usize, value: i64) {
        if let (Some(low), Some(high)) = (self.low.get_mut(lane), self.high.get_mut(lane)) {
            *low += value.cast_unsigned() & 0xffff_ffff;
            *high += value >> 32;
        }
    }

    #[inline(always)]
    fn add_block(&mut self, value: impl Fn(usize) -> i64, bits: u64) {
        for first in (0..BLOCK).step_by(WIDTH) {
            for lane in 0..WIDTH {
                let at = first + lane;
                self.add(lane, value(at) & spread(bits, at).cast_signed());
            }
        }
    }

    fn total(&self) -> Exact {
        let mut total = Exact::default();
        for (low, high) in self.low.iter().zip(&self.high) {
            total.add(i128::from(*low) + (i128::from(*high) << 32));
        }
        total
    }
}

/// Adds the selected values to the lanes of their rows.
#[inline(always)]
pub(super) fn sum_numbers<T: Number>(values: &[T], mask: &Mask, lanes: &mut Lanes) {
    pairs(
        values,
        values,
        mask,
        #[inline(always)]
        |at, block, _, bits| {
            add_to_lanes(
                at,
                bits,
                lanes,
                #[inline(always)]
                |row| block.get(row).map_or(-0.0, |value| value.wide()),
            );
        },
    );
}

/// Adds the products of the selected values to the lanes of their rows.
#[inline(always)]
pub(super) fn sum_number_products<A: Number, B: Number>(
    one: &[A],
    by: &[B],
    mask: &Mask,
    lanes: &mut Lanes,
) {
    pairs(
        one,
        by,
        mask,
        #[inline(always)]
        |at, one, by, bits| {
            add_to_lanes(
                at,
                bits,
                lanes,
                #[inline(always)]
                |row| match (one.get(row), by.get(row)) {
                    (Some(one), Some(by)) => one.wide() * by.wide(),
                    (Some(_) | None, None) | (None, Some(_)) => -0.0,
                },
            );
        },
    );
}

#[inline(always)]
fn add_to_lanes(at: usize, bits: u64, lanes: &mut Lanes, value: impl Fn(usize) -> f64) {
    let groups = lanes.as_chunks_mut::<BLOCK>().0;
    let groups_count = LANES / BLOCK;
    let Some(lanes) = groups.get_mut(at % groups_count) else {
        return;
    };
    if bits.count_ones() <= FEW {
        for row in set_bits(bits) {
            if let Some(lane) = lanes.get_mut(row) {
                *lane += value(row);
            }
        }
        return;
    }
    for (row, lane) in lanes.iter_mut().enumerate() {
        let keep = spread(bits, row);
        // Minus zero changes no sum.
        let kept = (value(row).to_bits() & keep) | ((-0.0_f64).to_bits() & !keep);
        *lane += f64::from_bits(kept);
    }
}

/// The sum of all lanes, in the order of the definition.
pub(super) fn fold(mut lanes: Lanes) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes.first().copied().unwrap_or(-0.0)
}

/// The least and the greatest rank of the selected values, none of which is NaN.
#[inline(always)]
pub(super) fn extremes<T: Value>(values: &[T], mask: &Mask) -> (i64, i64) {
    let (mut least, mut greatest) = ([i64::MAX; WIDTH], [i64::MIN; WIDTH]);
    pairs(
        values,
        values,
        mask,
        #[inline(always)]
        |_, block, _, bits| {
            for (group, ranks) in block.as_chunks::<WIDTH>().0.iter().enumerate() {
                let places = least.iter_mut().zip(&mut greatest);
                for (lane, (value, (least, greatest))) in ranks.iter().zip(places).enumerate() {
                    let (keep, rank) = (spread(bits, group * WIDTH + lane), value.rank());
                    let keep = keep.cast_signed();
                    *least = (*least).min((rank & keep) | (i64::MAX & !keep));
                    *greatest = (*greatest).max((rank & keep) | (i64::MIN & !keep));
                }
            }
        },
    );
    (
        least.into_iter().fold(i64::MAX, i64::min),
        greatest.into_iter().fold(i64::MIN, i64::max),
    )
}
