//! Exact sums: integers of 192 bits, which no sum of products of 2^64 rows exceeds.

/// A sum of integers of up to 128 bits. Zero is all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exact {
    /// In units of 2^64.
    high: i128,
    low: u64,
}

impl Exact {
    pub(super) fn add(&mut self, value: i128) {
        let low = u64::try_from(value & i128::from(u64::MAX)).unwrap_or(0);
        self.merge(&Self {
            high: value >> 64,
            low,
        });
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let (low, carry) = self.low.overflowing_add(other.low);
        self.low = low;
        self.high = self
            .high
            .wrapping_add(other.high)
            .wrapping_add(carry.into());
    }

    /// The sum, if it has 128 bits.
    pub(super) fn get(&self) -> Option<i128> {
        let high = i64::try_from(self.high).ok()?;
        Some(i128::from(high) << 64 | i128::from(self.low))
    }

    pub(super) fn to_words(self) -> [u64; 3] {
        let high = self.high.to_le_bytes();
        let [low, high] = [high.first_chunk::<8>(), high.last_chunk::<8>()];
        let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        [self.low, word(low), word(high)]
    }

    pub(super) fn of_words([low, middle, high]: [u64; 3]) -> Self {
        let high = i128::from(high.cast_signed()) << 64 | i128::from(middle);
        Self { high, low }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sum_that_fits_is_exact_however_far_it_went_between(
            values in vec(any::<i128>(), 0..20), last: i128,
        ) {
            // Each value and later its opposite: what is left is the last.
            let mut sum = Exact::default();
            for value in &values {
                sum.add(*value);
            }
            sum.add(last);
            sum = Exact::of_words(sum.to_words());
            for value in &values {
                let mut opposite = Exact::default();
                opposite.add(!*value);
                opposite.add(1);
                sum.merge(&opposite);
            }
            prop_assert_eq!(sum.get(), Some(last));
        }
    }

    #[test]
    fn a_sum_beyond_128_bits_is_none() {
        let mut sum = Exact::default();
        sum.add(i128::MAX);
        assert_eq!(sum.get(), Some(i128::MAX));
        sum.add(1);
        assert_eq!(sum.get(), None);
        sum.add(-1);
        assert_eq!(sum.get(), Some(i128::MAX));
        let mut sum = Exact::default();
        sum.add(i128::MIN);
        sum.add(-1);
        assert_eq!(sum.get(), None);
    }
}
