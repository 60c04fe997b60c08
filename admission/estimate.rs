//! Estimates: what a piece of work will probably cost, learnt from what others like it did.
//!
//! One moving average per computation, lane and size class (a class is a power of two of the size
//! in bytes). Bounded: beyond `CHUNKS * CHUNK` kinds, or if too many collide, nothing new is
//! learnt.
//!
//! Read and written without a lock: of two who learn of one kind at the same instant one may be
//! unheard, which an average survives.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::time::Monotonic;

use crate::request::{ComputationId, Lane};

const CHUNKS: usize = 64;
/// Kinds of one chunk; it is made when the first of them is learnt.
const CHUNK: usize = 256;
/// How many places are looked at for a kind.
const PROBES: usize = 16;

/// How much of an average each measurement is: one eighth.
const SHIFT: u32 = 3;

/// Work that is expected to cost about the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    computation: ComputationId,
    lane: Lane,
    bucket: u8,
}

impl Kind {
    pub(crate) const fn new(computation: ComputationId, lane: Lane, size: ByteCount) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "0 bytes, 1, 2 to 3, 4 to 7, ...: at most 65 buckets"
        )]
        let bucket = (u64::BITS - size.get().leading_zeros()) as u8;
        Self {
            computation,
            lane,
            bucket,
        }
    }

    /// A number of its own, never 0.
    const fn packed(self) -> u64 {
        let lane = match self.lane {
            Lane::Ordinary => 0,
            Lane::Reserved => 1,
        };
        (self.computation.get() as u64) << 32 | (self.bucket as u64) << 2 | lane << 1 | 1
    }

    pub(crate) const fn computation(self) -> ComputationId {
        self.computation
    }

    pub(crate) const fn lane(self) -> Lane {
        self.lane
    }
}

/// What is known of one kind. Zero is a place that nobody has taken.
#[derive(Debug, Default)]
struct Known {
    kind: AtomicU64,
    /// The average in sixteenths of a nanosecond, so that rounding does not make it drift, and one
    /// more: 0 is not known yet.
    average: AtomicU64,
    /// When it was last believed to be less.
    doubted: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Estimates {
    chunks: Box<[OnceLock<Box<[Known]>>]>,
    guess: u64,
}

/// The chunk of a kind and the first place to look at in it.
const fn place(packed: u64) -> (usize, usize) {
    let hash = packed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (
        (hash >> 58) as usize % CHUNKS,
        (hash >> 48) as usize % CHUNK,
    )
}

impl Estimates {
    /// Knows nothing; `guess` is what the first of a kind is taken to cost.
    pub(crate) fn new(guess: BusyNanos) -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            guess: guess.get(),
        }
    }

    fn find(&self, packed: u64) -> Option<&Known> {
        let (chunk, first) = place(packed);
        let known = self.chunks.get(chunk)?.get()?;
        let mut places = (first..first + PROBES).map_while(|at| known.get(at % CHUNK));
        places.find(|known| known.kind.load(Ordering::Acquire) == packed)
    }

    fn find_or_take(&self, packed: u64) -> Option<&Known> {
        if let Some(known) = self.find(packed) {
            return Some(known);
        }
        let (chunk, first) = place(packed);
        let made = || (0..CHUNK).map(|_| Known::default()).collect();
        let known = self.chunks.get(chunk)?.get_or_init(made);
        let mut places = (first..first + PROBES).map_while(|at| known.get(at % CHUNK));
        places.find(|known| {
            let taken = known
                .kind
                .compare_exchange(0, packed, Ordering::AcqRel, Ordering::Acquire);
            taken.is_ok() || taken == Err(packed)
        })
    }

    #[inline]
    pub(crate) fn of(&self, kind: Kind) -> BusyNanos {
        self.known(kind).unwrap_or(BusyNanos::new(self.guess))
    }

    /// What `kind` is taken to cost, and whether that is known.
    #[inline]
    pub(crate) fn guess(&self, kind: Kind) -> (BusyNanos, bool) {
        match self.known(kind) {
            Some(known) => (known, true),
            None => (BusyNanos::new(self.guess), false),
        }
    }

    /// What was learnt of `kind`, if anything was.
    #[inline]
    pub(crate) fn known(&self, kind: Kind) -> Option<BusyNanos> {
        let average = self.find(kind.packed())?.average.load(Ordering::Relaxed);
        Some(BusyNanos::new(average.checked_sub(1)? >> 4))
    }

    /// Work was refused because of what it is known to cost: believed a little less, so that it is
    /// measured again one day, and one outlier does not refuse its kind for ever.
    ///
    /// Once in the time that it is known to cost: who has himself refused costs nothing, and others
    /// rely on what is known.
    pub(crate) fn doubt(&self, kind: Kind, now: Monotonic) {
        let (Some(known), Some(cost)) = (self.find(kind.packed()), self.known(kind)) else {
            return;
        };
        let last = known.doubted.load(Ordering::Relaxed);
        if last.saturating_add(cost.get()) > now.get() {
            return;
        }
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let doubted = known.doubted.compare_exchange(last, now.get(), set, get);
        if doubted.is_ok() {
            update(known, |average| average - (average >> SHIFT));
        }
    }

    /// Moves the average of `kind`, whose first measurement is believed. A kind that is known is
    /// left alone unless `moves`.
    pub(crate) fn learn(&self, kind: Kind, actual: BusyNanos, moves: bool) {
        let actual = actual.get().saturating_mul(16).min(u64::MAX - 1);
        let Some(known) = self.find_or_take(kind.packed()) else {
            return;
        };
        if known.average.load(Ordering::Relaxed) == 0 {
            known.average.store(actual + 1, Ordering::Relaxed);
        } else if moves {
            update(known, |average| {
                average - (average >> SHIFT) + (actual >> SHIFT)
            });
        }
    }
}

fn update(known: &Known, next: impl Fn(u64) -> u64) {
    let was = known.average.load(Ordering::Relaxed);
    if let Some(average) = was.checked_sub(1) {
        let now = next(average).saturating_add(1);
        if now != was {
            known.average.store(now, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS_MAX: usize = CHUNKS * CHUNK;

    fn kind(computation: u32, size: u64) -> Kind {
        Kind::new(
            ComputationId::new(computation),
            Lane::Ordinary,
            ByteCount::new(size),
        )
    }

    #[test]
    fn the_first_measurement_is_believed_and_later_ones_move_it_by_an_eighth() {
        let estimates = Estimates::new(BusyNanos::new(7));
        assert_eq!(estimates.of(kind(1, 100)).get(), 7);
        estimates.learn(kind(1, 100), BusyNanos::new(800), true);
        assert_eq!(estimates.of(kind(1, 127)).get(), 800);
        estimates.learn(kind(1, 64), BusyNanos::new(1_600), true);
        assert_eq!(estimates.of(kind(1, 100)).get(), 900);
        assert_eq!(estimates.of(kind(1, 128)).get(), 7);
        assert_eq!(estimates.of(kind(2, 100)).get(), 7);
    }

    #[test]
    fn an_average_settles_at_what_is_measured() {
        let estimates = Estimates::new(BusyNanos::new(1));
        for _ in 0..200 {
            estimates.learn(kind(1, 0), BusyNanos::new(12_345), true);
        }
        assert!(estimates.of(kind(1, 0)).get().abs_diff(12_345) <= 1);
    }

    #[test]
    fn more_kinds_than_are_remembered_are_guessed_and_what_is_known_stays_so() {
        let estimates = Estimates::new(BusyNanos::new(5));
        let kinds = || (0..=u32::try_from(2 * KINDS_MAX).unwrap()).map(|of| kind(of, 0));
        for kind in kinds() {
            estimates.learn(kind, BusyNanos::new(9), true);
        }
        let known = kinds().filter(|kind| estimates.known(*kind).is_some());
        let known = known.inspect(|kind| assert_eq!(estimates.of(*kind).get(), 9));
        let known = known.count();
        assert!((KINDS_MAX / 2..=KINDS_MAX).contains(&known), "{known}");
        assert!(kinds().any(|kind| estimates.of(kind).get() == 5));
    }

    #[test]
    fn while_nobody_waits_only_the_first_of_a_kind_and_one_of_eight_move_it() {
        let estimates = Estimates::new(BusyNanos::new(5));
        estimates.learn(kind(1, 0), BusyNanos::new(800), false);
        assert_eq!(estimates.of(kind(1, 0)).get(), 800);
        estimates.learn(kind(1, 0), BusyNanos::new(1_600), false);
        assert_eq!(estimates.of(kind(1, 0)).get(), 800);
        estimates.learn(kind(1, 0), BusyNanos::new(1_600), true);
        assert_eq!(estimates.of(kind(1, 0)).get(), 900);
    }
}
