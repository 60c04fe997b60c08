//! Estimates: what a piece of work will probably cost, learnt from what others like it did.
//!
//! One moving average per computation, lane and size class (a class is a power of two of the size
//! in bytes). Bounded: beyond [`KINDS_MAX`] kinds nothing new is learnt.

use orlop_saga::amount::{BusyNanos, ByteCount};
use rustc_hash::FxHashMap;

use crate::request::{ComputationId, Lane};

/// How many kinds of work are remembered.
pub(crate) const KINDS_MAX: usize = 1 << 14;

/// How much of an average each measurement is: one eighth.
const SHIFT: u32 = 3;

/// Work that is expected to cost about the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    computation: ComputationId,
    lane: Lane,
    bucket: u32,
}

impl Kind {
    pub(crate) const fn new(computation: ComputationId, lane: Lane, size: ByteCount) -> Self {
        // 0 bytes, 1, 2 to 3, 4 to 7, ...: at most 65 buckets.
        let bucket = u64::BITS - size.get().leading_zeros();
        Self {
            computation,
            lane,
            bucket,
        }
    }

    pub(crate) const fn computation(self) -> ComputationId {
        self.computation
    }

    pub(crate) const fn lane(self) -> Lane {
        self.lane
    }
}

#[derive(Debug)]
pub(crate) struct Estimates {
    /// Averages in sixteenths of a nanosecond, so that rounding does not make them drift.
    averages: FxHashMap<Kind, u64>,
    guess: u64,
}

impl Estimates {
    /// Knows nothing; `guess` is what the first of a kind is taken to cost.
    pub(crate) fn new(guess: BusyNanos) -> Self {
        Self {
            averages: FxHashMap::default(),
            guess: guess.get(),
        }
    }

    pub(crate) fn of(&self, kind: Kind) -> BusyNanos {
        self.known(kind).unwrap_or(BusyNanos::new(self.guess))
    }

    /// What was learnt of `kind`, if anything was.
    pub(crate) fn known(&self, kind: Kind) -> Option<BusyNanos> {
        let average = self.averages.get(&kind)?;
        Some(BusyNanos::new(average >> 4))
    }

    /// Work was refused because of what it is known to cost: believed a little less, so that it is
    /// measured again one day, and one outlier does not refuse its kind for ever.
    pub(crate) fn doubt(&mut self, kind: Kind) {
        if let Some(average) = self.averages.get_mut(&kind) {
            *average -= *average >> SHIFT;
        }
    }

    pub(crate) fn learn(&mut self, kind: Kind, actual: BusyNanos) {
        let actual = actual.get().saturating_mul(16);
        if let Some(average) = self.averages.get_mut(&kind) {
            *average = *average - (*average >> SHIFT) + (actual >> SHIFT);
        } else if self.averages.len() < KINDS_MAX {
            self.averages.insert(kind, actual);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(computation: u32, size: u64) -> Kind {
        Kind::new(
            ComputationId::new(computation),
            Lane::Ordinary,
            ByteCount::new(size),
        )
    }

    #[test]
    fn the_first_measurement_is_believed_and_later_ones_move_it_by_an_eighth() {
        let mut estimates = Estimates::new(BusyNanos::new(7));
        assert_eq!(estimates.of(kind(1, 100)).get(), 7);
        estimates.learn(kind(1, 100), BusyNanos::new(800));
        assert_eq!(estimates.of(kind(1, 127)).get(), 800);
        estimates.learn(kind(1, 64), BusyNanos::new(1_600));
        assert_eq!(estimates.of(kind(1, 100)).get(), 900);
        assert_eq!(estimates.of(kind(1, 128)).get(), 7);
        assert_eq!(estimates.of(kind(2, 100)).get(), 7);
    }

    #[test]
    fn an_average_settles_at_what_is_measured() {
        let mut estimates = Estimates::new(BusyNanos::new(1));
        for _ in 0..200 {
            estimates.learn(kind(1, 0), BusyNanos::new(12_345));
        }
        assert!(estimates.of(kind(1, 0)).get().abs_diff(12_345) <= 1);
    }

    #[test]
    fn more_kinds_than_are_remembered_are_guessed() {
        let mut estimates = Estimates::new(BusyNanos::new(5));
        for computation in 0..=u32::try_from(KINDS_MAX).unwrap() {
            estimates.learn(kind(computation, 0), BusyNanos::new(9));
        }
        assert_eq!(estimates.of(kind(0, 0)).get(), 9);
        let beyond = u32::try_from(KINDS_MAX).unwrap();
        assert_eq!(estimates.of(kind(beyond, 0)).get(), 5);
    }
}
