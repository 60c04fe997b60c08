//! Histograms: how long things take, or how large they are, in buckets that grow with the value.
//!
//! The buckets are fixed, so that recording is an index and an increment, and a copy into storage
//! of the caller allocates nothing. The crates that were looked at size their buckets at run time:
//! each copy of theirs is an allocation, and what they hold is behind a pointer.
//!
//! Four buckets for each doubling: a value is told within an eighth of itself.

/// Buckets for each doubling, as a power of two.
const SUB_BITS: u32 = 2;
const SUBS: u64 = 1 << SUB_BITS;
/// Doublings that are told apart; the last bucket takes everything above.
const DOUBLINGS: u32 = 41;

/// How many times each value was seen. What the values are, nanoseconds mostly, is said where a
/// histogram is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; Histogram::BUCKETS],
    sum: u64,
}

impl Histogram {
    /// How many buckets there are: up to 2^42, about 73 minutes in nanoseconds.
    pub const BUCKETS: usize = (DOUBLINGS as usize) << SUB_BITS;

    /// Nothing seen.
    pub const EMPTY: Self = Self {
        counts: [0; Self::BUCKETS],
        sum: 0,
    };

    /// The bucket of a value.
    pub const fn bucket(value: u64) -> usize {
        if value < SUBS {
            // Lossless: less than four.
            return (value & (SUBS - 1)) as usize;
        }
        let doubling = value.ilog2() - SUB_BITS;
        let sub = (value >> doubling) & (SUBS - 1);
        let index = ((doubling as usize + 1) << SUB_BITS) + sub as usize;
        if index < Self::BUCKETS {
            index
        } else {
            Self::BUCKETS - 1
        }
    }

    /// The least value of a bucket; of those beyond the last, the last one's.
    pub const fn least(bucket: usize) -> u64 {
        let bucket = if bucket < Self::BUCKETS {
            bucket as u64
        } else {
            Self::BUCKETS as u64 - 1
        };
        if bucket < SUBS {
            return bucket;
        }
        let doubling = (bucket >> SUB_BITS) - 1;
        (SUBS + (bucket & (SUBS - 1))) << doubling
    }

    /// What stands for the values of a bucket: the middle of it.
    pub const fn middle(bucket: usize) -> u64 {
        let (least, next) = (Self::least(bucket), Self::least(bucket.saturating_add(1)));
        least + next.saturating_sub(least) / 2
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.add(Self::bucket(value), 1, value);
    }

    /// Counts `count` values of one bucket with this sum.
    pub fn add(&mut self, bucket: usize, count: u64, sum: u64) {
        if let Some(counted) = self.counts.get_mut(bucket) {
            *counted = counted.saturating_add(count);
            self.sum = self.sum.saturating_add(sum);
        }
    }

    /// Adds what another one has seen.
    pub fn merge(&mut self, other: &Self) {
        for (counted, more) in self.counts.iter_mut().zip(&other.counts) {
            *counted = counted.saturating_add(*more);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many values were seen in each bucket.
    pub const fn counts(&self) -> &[u64; Self::BUCKETS] {
        &self.counts
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }

    /// Their sum; exact until it saturates.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// The value below or at which `part` of what was seen lies, within an eighth of itself;
    /// `part` is from 0.0 to 1.0. `None` if nothing was seen.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is as exact as a bucket; `part` is clamped"
        )]
        let rank = ((count as f64 * part.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0_u64;
        for (bucket, counted) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*counted);
            if seen >= rank {
                return Some(Self::middle(bucket));
            }
        }
        None
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("sum", &self.sum)
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_buckets_follow_one_another_without_a_gap() {
        for bucket in 0..Histogram::BUCKETS {
            let least = Histogram::least(bucket);
            assert_eq!(Histogram::bucket(least), bucket);
            if bucket > 0 {
                assert_eq!(Histogram::bucket(least - 1), bucket - 1);
            }
        }
        assert_eq!(Histogram::bucket(u64::MAX), Histogram::BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_value_is_told_within_an_eighth_of_itself(value in 1_u64..1 << 42) {
            let told = Histogram::middle(Histogram::bucket(value));
            prop_assert!(told.abs_diff(value) <= value / 8 + 1, "{value} as {told}");
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0_u64..1 << 40, 1..200),
            part in 0.0_f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let rank = ((values.len() as f64 * part).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let told = histogram.quantile(part).unwrap();
            prop_assert_eq!(Histogram::bucket(told), Histogram::bucket(exact));
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
        }
    }
}
