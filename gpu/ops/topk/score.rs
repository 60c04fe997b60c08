//! Scores: how near two vectors are, in a fixed order of operations.
//!
//! Element `i` goes into lane `i % 32`; then the lanes are folded in halves. Nothing is fused, so a
//! score depends on neither the machine nor on what else is computed.

use super::query::VectorMetric;

const LANES: usize = 32;

/// Sums what `term` makes of each pair of elements.
#[inline(always)]
fn sum(one: &[f32], other: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (ones, one_rest) = one.as_chunks::<LANES>();
    let (others, other_rest) = other.as_chunks::<LANES>();
    for (one, other) in ones.iter().zip(others) {
        for (lane, (one, other)) in lanes.iter_mut().zip(one.iter().zip(other)) {
            *lane += term(*one, *other);
        }
    }
    for (lane, (one, other)) in lanes.iter_mut().zip(one_rest.iter().zip(other_rest)) {
        *lane += term(*one, *other);
    }
    fold(lanes)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn product(one: f32, other: f32) -> f32 {
    one * other
}

#[inline(always)]
pub(super) fn inner_product(one: &[f32], other: &[f32]) -> f32 {
    sum(one, other, product)
}

#[inline(always)]
pub(super) fn squared_l2(one: &[f32], other: &[f32]) -> f32 {
    sum(
        one,
        other,
        #[inline(always)]
        |one, other| {
            let difference = one - other;
            difference * difference
        },
    )
}

/// The length of a vector.
#[inline(always)]
pub(super) fn length(vector: &[f32]) -> f32 {
    sum(vector, vector, product).sqrt()
}

/// NaN where a length is zero.
#[inline(always)]
pub(super) fn cosine(product: f32, length: f32, other_length: f32) -> f32 {
    product / (length * other_length)
}

impl VectorMetric {
    /// Whether the greatest score is the nearest.
    pub const fn is_greatest_nearest(self) -> bool {
        match self {
            Self::SquaredL2 => false,
            Self::InnerProduct | Self::Cosine => true,
        }
    }
}
