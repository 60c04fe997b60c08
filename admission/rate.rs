//! Rates: how often a tenant may ask, by the generic cell rate algorithm (ITU-T I.371).
//!
//! Invariants
//! - In any interval of length t at most `burst + t * rate` requests pass, wherever it begins.
//! - What is refused changes nothing.

use std::num::NonZeroU64;
use std::time::Duration;

use orlop_saga::time::Monotonic;

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_nanos: u64,
    burst: u32,
}

impl Rate {
    /// The highest rate, per second.
    pub const PER_SECOND_MAX: u32 = 10_000_000;

    /// `per_second` requests a second, and `burst` of them at once after a pause. `None` if one of
    /// them is 0 (to stop a tenant, suspend it or give it no slots) or the rate is above
    /// [`Self::PER_SECOND_MAX`].
    pub const fn new(per_second: u32, burst: u32) -> Option<Self> {
        if per_second == 0 || per_second > Self::PER_SECOND_MAX || burst == 0 {
            return None;
        }
        Some(Self {
            // Rounded up: never above the rate.
            interval_nanos: 1_000_000_000_u64.div_ceil(per_second as u64),
            burst,
        })
    }

    /// One request each `interval_nanos` on average, and `burst` of them at once after a pause, as
    /// [`interval_nanos`](Self::interval_nanos) and [`burst`](Self::burst) tell them. `None` if one
    /// of them is 0 or the rate is above [`Self::PER_SECOND_MAX`].
    pub const fn every(interval_nanos: u64, burst: u32) -> Option<Self> {
        if interval_nanos < 1_000_000_000 / Self::PER_SECOND_MAX as u64 || burst == 0 {
            return None;
        }
        Some(Self {
            interval_nanos,
            burst,
        })
    }

    /// The least time between two requests on average.
    pub const fn interval_nanos(self) -> u64 {
        self.interval_nanos
    }

    /// How many requests may come at once after a pause.
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// How far ahead of time the next request may be counted.
    const fn tolerance(self) -> u64 {
        self.interval_nanos
            .saturating_mul(self.burst as u64)
            .saturating_sub(self.interval_nanos)
    }
}

/// How many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate {
    per_second: NonZeroU64,
    burst: NonZeroU64,
}

impl ByteRate {
    /// `per_second` bytes a second, and `burst` of them at once after a pause. `None` if one of
    /// them is 0.
    pub const fn new(per_second: u64, burst: u64) -> Option<Self> {
        match (NonZeroU64::new(per_second), NonZeroU64::new(burst)) {
            (Some(per_second), Some(burst)) => Some(Self { per_second, burst }),
            (None, _) | (_, None) => None,
        }
    }

    /// Bytes a second.
    pub const fn per_second(self) -> u64 {
        self.per_second.get()
    }

    /// Bytes at once, and so the most that one request may write.
    pub const fn burst(self) -> u64 {
        self.burst.get()
    }

    /// How long `bytes` take at this rate, in nanoseconds; rounded up, never above the rate.
    fn nanos(self, bytes: u64) -> u64 {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.per_second()));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// What has passed at a rate: when the next request would arrive if all came evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    next: Monotonic,
    /// The rate by which that was counted: nanoseconds a request, or bytes a second.
    by: u64,
}

/// `ahead` times `times` over `over`, rounded up.
fn scaled(ahead: u64, times: u64, over: u64) -> u64 {
    if times == over || over == 0 {
        return ahead;
    }
    let scaled = (u128::from(ahead) * u128::from(times)).div_ceil(u128::from(over));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

impl Arrivals {
    const fn ahead(self, now: Monotonic) -> u64 {
        self.next.get().saturating_sub(now.get())
    }

    /// From `now` on `rate` holds: what has passed at another one counts by its number.
    pub(crate) fn adopt(&mut self, rate: Rate, now: Monotonic) {
        let ahead = scaled(self.ahead(now), rate.interval_nanos, self.by);
        self.count(now, ahead, rate.interval_nanos);
    }

    /// The same, of bytes.
    pub(crate) fn adopt_of(&mut self, rate: ByteRate, now: Monotonic) {
        let ahead = scaled(self.ahead(now), self.by, rate.per_second());
        self.count(now, ahead, rate.per_second());
    }

    fn count(&mut self, now: Monotonic, nanos: u64, by: u64) {
        self.next = Monotonic::new(now.get().saturating_add(nanos));
        self.by = by;
    }

    /// How long the next request has to wait; nothing, if it may pass at `now`.
    pub(crate) fn wait(self, rate: Rate, now: Monotonic) -> Option<Duration> {
        let excess = self.ahead(now).saturating_sub(rate.tolerance());
        (excess > 0).then(|| Duration::from_nanos(excess))
    }

    /// How long a request that writes `bytes` has to wait; nothing, if it may pass at `now`.
    pub(crate) fn wait_for(self, rate: ByteRate, bytes: u64, now: Monotonic) -> Option<Duration> {
        if bytes == 0 {
            return None;
        }
        let excess = self
            .ahead(now)
            .saturating_add(rate.nanos(bytes))
            .saturating_sub(rate.nanos(rate.burst()));
        (excess > 0).then(|| Duration::from_nanos(excess))
    }

    /// Whether `count` requests may pass at `now`, one after the other.
    #[inline]
    pub(crate) fn admits(self, rate: Rate, count: u64, now: Monotonic) -> bool {
        let before = rate.interval_nanos.saturating_mul(count.saturating_sub(1));
        self.ahead(now).saturating_add(before) <= rate.tolerance()
    }

    /// The same, of requests that write `bytes` each.
    #[inline]
    pub(crate) fn admits_of(self, rate: ByteRate, bytes: u64, count: u64, now: Monotonic) -> bool {
        let nanos = || rate.nanos(bytes).saturating_mul(count);
        bytes == 0 || self.ahead(now).saturating_add(nanos()) <= rate.nanos(rate.burst())
    }

    /// Counts `count` requests that write `bytes` each and pass at `now`.
    #[inline]
    pub(crate) fn pass_of(&mut self, rate: ByteRate, bytes: u64, count: u64, now: Monotonic) {
        let nanos = rate.nanos(bytes).saturating_mul(count);
        self.count(
            now,
            self.ahead(now).saturating_add(nanos),
            rate.per_second(),
        );
    }

    /// Counts `count` that pass at `now`.
    #[inline]
    pub(crate) fn pass(&mut self, rate: Rate, count: u64, now: Monotonic) {
        let nanos = rate.interval_nanos.saturating_mul(count);
        self.count(
            now,
            self.ahead(now).saturating_add(nanos),
            rate.interval_nanos,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(arrivals: &mut Arrivals, rate: Rate, now: u64) -> bool {
        let now = Monotonic::new(now);
        let passes = arrivals.wait(rate, now).is_none();
        if passes {
            arrivals.pass(rate, 1, now);
        }
        passes
    }

    #[test]
    fn a_rate_of_nothing_or_beyond_what_is_counted_is_none() {
        assert_eq!(Rate::new(0, 1), None);
        assert_eq!(Rate::new(1, 0), None);
        assert_eq!(Rate::new(Rate::PER_SECOND_MAX + 1, 1), None);
    }

    #[test]
    fn who_is_told_to_wait_passes_after_that_and_not_before() {
        let rate = Rate::new(100, 3).unwrap();
        let mut arrivals = Arrivals::default();
        for _ in 0..3 {
            assert!(ask(&mut arrivals, rate, 0));
        }
        let wait = arrivals.wait(rate, Monotonic::new(0)).unwrap();
        assert_eq!(wait, Duration::from_millis(10));
        assert!(!ask(&mut arrivals, rate, 9_999_999));
        assert!(ask(&mut arrivals, rate, 10_000_000));
    }

    proptest! {
        /// A window that is counted from its edges admits twice the rate across one.
        #[test]
        fn no_interval_admits_more_than_burst_and_rate(
            per_second in 1..2_000_u32,
            burst in 1..20_u32,
            gaps in proptest::collection::vec(0..5_000_000_u64, 1..200),
        ) {
            let rate = Rate::new(per_second, burst).unwrap();
            let (mut arrivals, mut now, mut passed) = (Arrivals::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                if ask(&mut arrivals, rate, now) {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (count, to) in (1_u64..).zip(&passed[first..]) {
                    let bound = u64::from(burst) + (to - from) * u64::from(per_second) / 1_000_000_000;
                    prop_assert!(count <= bound, "{count} from {from} to {to}");
                }
            }
        }

        #[test]
        fn no_interval_admits_more_bytes_than_burst_and_rate(
            per_second in 1..2_000_000_000_u64,
            burst in 1..5_000_u64,
            asks in proptest::collection::vec((0..5_000_000_u64, 0..6_000_u64), 1..200),
        ) {
            let rate = ByteRate::new(per_second, burst).unwrap();
            let (mut arrivals, mut now, mut passed) = (Arrivals::default(), 0, Vec::new());
            for (gap, bytes) in asks {
                now += gap;
                let at = Monotonic::new(now);
                if let Some(wait) = arrivals.wait_for(rate, bytes, at) {
                    let later = at.after(wait);
                    prop_assert_eq!(arrivals.wait_for(rate, bytes.min(burst), later), None);
                    continue;
                }
                arrivals.pass_of(rate, bytes, 1, at);
                passed.push((now, bytes));
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (to, bytes) in &passed[first..] {
                    sum += u128::from(*bytes);
                    let time = u128::from(to - from) * u128::from(per_second) / 1_000_000_000;
                    let rounding = u128::from(per_second) / 1_000_000_000 + 1;
                    prop_assert!(sum <= u128::from(burst) + time + rounding, "{sum} from {from} to {to}");
                }
            }
        }

        #[test]
        fn many_at_once_are_admitted_and_counted_as_they_are_one_by_one(
            per_second in 1..2_000_u32,
            bytes_per_second in 1..2_000_000_000_u64,
            burst in 1..20_u32,
            asks in proptest::collection::vec((0..50_000_000_u64, 1..20_u64, 0..9_u64), 1..50),
        ) {
            let rate = Rate::new(per_second, burst).unwrap();
            let bytes_rate = ByteRate::new(bytes_per_second, u64::from(burst) * 3).unwrap();
            let (mut arrivals, mut written, mut now) = (Arrivals::default(), Arrivals::default(), 0);
            for (gap, count, bytes) in asks {
                now += gap;
                let at = Monotonic::new(now);
                let (mut one, mut one_of) = (arrivals, written);
                let (mut all, mut all_of) = (true, true);
                for _ in 0..count {
                    all &= one.wait(rate, at).is_none();
                    one.pass(rate, 1, at);
                    all_of &= one_of.wait_for(bytes_rate, bytes, at).is_none();
                    one_of.pass_of(bytes_rate, bytes, 1, at);
                }
                prop_assert_eq!(arrivals.admits(rate, count, at), all);
                prop_assert_eq!(written.admits_of(bytes_rate, bytes, count, at), all_of);
                if all {
                    arrivals.pass(rate, count, at);
                    prop_assert_eq!(arrivals, one);
                }
                if all_of {
                    written.pass_of(bytes_rate, bytes, count, at);
                    prop_assert_eq!(written, one_of);
                }
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_is_never_refused(per_second in 1..5_000_u32, extra in 0..1_000_u64) {
            let rate = Rate::new(per_second, 1).unwrap();
            let mut arrivals = Arrivals::default();
            let step = 1_000_000_000_u64.div_ceil(u64::from(per_second)) + extra;
            for turn in 0..100 {
                prop_assert!(ask(&mut arrivals, rate, turn * step));
            }
        }
    }
}
