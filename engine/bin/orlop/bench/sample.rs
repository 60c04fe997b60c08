//! Samples: what was timed, rounds of ours beside their limit, and the round in the middle.
//!
//! Ours and what it is measured against take turns, so that a machine that is busy for a while
//! disturbs both. The figure is the round whose ratio is the median: its value and its reference
//! were taken within the same few seconds.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::BenchError;
use super::figure::{Figure, Measured};

/// Rounds of every figure.
pub(crate) const ROUNDS: u32 = 5;

/// The part of a figure's time that ours, or its reference, has in one round.
pub(crate) fn part_of(duration: Duration) -> Duration {
    duration / (2 * ROUNDS)
}

/// A count, as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
pub(crate) const fn count(count: usize) -> f64 {
    count as f64
}

/// How long operations took, in seconds.
#[derive(Debug)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Times one operation after the other, at least a few.
    pub(crate) fn of(
        duration: Duration,
        mut operation: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<Self, BenchError> {
        const LEAST: usize = 5;
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.len() < LEAST || begun.elapsed() < duration {
            let start = Instant::now();
            operation()?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(Self(times))
    }

    /// The time that this part of them stayed within.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a length that fits into memory"
    )]
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part) as usize;
        let last = self.0.len().saturating_sub(1);
        self.0.get(rank.min(last)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// What was finished in how much time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) finished: u64,
    pub(crate) seconds: f64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub(crate) fn per_second(self) -> f64 {
        self.finished as f64 / self.seconds
    }

    /// Keeps `in_flight` pieces of work going on this thread. What is still under way at the end
    /// is waited for and not counted.
    pub(crate) fn of<F>(
        in_flight: usize,
        duration: Duration,
        mut next: impl FnMut() -> F,
    ) -> Result<Self, BenchError>
    where
        F: Future<Output = Result<u64, BenchError>>,
    {
        pollster::block_on(async {
            let begun = Instant::now();
            let mut flying: FuturesUnordered<F> = (0..in_flight).map(|_| next()).collect();
            let mut rate = None;
            let mut finished = 0;
            while let Some(done) = flying.next().await {
                finished += done?;
                if rate.is_some() {
                    continue;
                }
                let passed = begun.elapsed();
                if passed < duration {
                    flying.push(next());
                } else {
                    let seconds = passed.as_secs_f64();
                    rate = Some(Self { finished, seconds });
                }
            }
            rate.ok_or(BenchError::NothingRan)
        })
    }
}

/// One round: ours, and what it is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) value: f64,
    pub(crate) reference: f64,
    pub(crate) samples: u64,
}

/// What the figure must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    Most(f64),
    Least(f64),
    MostTimes(f64),
    LeastTimes(f64),
}

impl Bound {
    fn text(self, unit: &str) -> String {
        match self {
            Self::Most(bound) => format!("at most {bound} {unit}"),
            Self::Least(bound) => format!("at least {bound} {unit}"),
            Self::MostTimes(times) => format!("at most {times:.3} times the reference"),
            Self::LeastTimes(times) => format!("at least {times:.3} times the reference"),
        }
    }

    fn is_met(self, round: &Round) -> bool {
        match self {
            Self::Most(bound) => round.value <= bound,
            Self::Least(bound) => round.value >= bound,
            Self::MostTimes(times) => round.value <= times * round.reference,
            Self::LeastTimes(times) => round.value >= times * round.reference,
        }
    }
}

/// What is measured, and against what.
pub(crate) struct Subject {
    pub(crate) id: &'static str,
    pub(crate) suite: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) reference: &'static str,
}

impl Subject {
    /// Measures as many rounds as a figure has.
    pub(crate) fn measure(
        &self,
        bounds: &[Bound],
        round: impl FnMut() -> Result<Round, BenchError>,
    ) -> Result<Figure, BenchError> {
        let rounds = std::iter::repeat_with(round).take(ROUNDS as usize);
        Ok(self.figure(bounds, rounds.collect::<Result<_, _>>()?))
    }

    /// The round in the middle, as a figure.
    pub(crate) fn figure(&self, bounds: &[Bound], mut rounds: Vec<Round>) -> Figure {
        let ratio = |round: &Round| round.value / round.reference;
        rounds.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
        let nothing = Round {
            value: f64::NAN,
            reference: f64::NAN,
            samples: 0,
        };
        let middle = rounds.get(rounds.len() / 2).copied().unwrap_or(nothing);
        let measured = Measured {
            id: self.id,
            suite: self.suite,
            name: self.name,
            value: middle.value,
            unit: self.unit,
            samples: rounds.iter().map(|round| round.samples).sum(),
            median_of: u32::try_from(rounds.len()).unwrap_or(u32::MAX),
        };
        let texts: Vec<String> = bounds.iter().map(|bound| bound.text(self.unit)).collect();
        let met = bounds.iter().all(|bound| bound.is_met(&middle));
        let target = (!bounds.is_empty()).then(|| (texts.join(", "), met));
        Figure::beside(&measured, self.reference, middle.reference, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject {
        id: "a.b",
        suite: "a",
        name: "b",
        unit: "us",
        reference: "c",
    };

    fn round(value: f64, reference: f64) -> Round {
        Round {
            value,
            reference,
            samples: 3,
        }
    }

    #[test]
    fn a_figure_is_the_round_whose_ratio_is_the_median() {
        let rounds = vec![round(9.0, 3.0), round(100.0, 10.0), round(2.0, 1.0)];
        let figure = SUBJECT.figure(&[], rounds);
        assert_eq!((figure.value, figure.reference_value), (9.0, 3.0));
        assert_eq!((figure.samples, figure.median_of, figure.met), (9, 3, None));
    }

    #[test]
    fn every_bound_must_be_met_and_is_told() {
        let both = [Bound::Least(5.0), Bound::LeastTimes(2.0)];
        let met = |value, reference| SUBJECT.figure(&both, vec![round(value, reference)]).met;
        assert_eq!(met(6.0, 3.0), Some(true));
        assert_eq!(met(4.0, 2.0), Some(false));
        assert_eq!(met(5.0, 3.0), Some(false));
        let at_most = [Bound::Most(5.0), Bound::MostTimes(2.0)];
        let met = |value, reference| SUBJECT.figure(&at_most, vec![round(value, reference)]).met;
        assert_eq!(met(5.0, 2.5), Some(true));
        assert_eq!(met(5.1, 9.0), Some(false));
        assert_eq!(met(5.0, 2.4), Some(false));
        let target = SUBJECT.figure(&both, vec![round(6.0, 3.0)]).target;
        assert_eq!(
            target.unwrap(),
            "at least 5 us, at least 2.000 times the reference"
        );
    }

    #[test]
    fn what_is_under_way_at_the_end_is_waited_for_and_not_counted() {
        let mut begun = 0;
        let mut next = || {
            begun += 1;
            std::future::ready(Ok(2))
        };
        let rate = Rate::of(3, Duration::ZERO, &mut next).unwrap();
        assert_eq!((rate.finished, begun), (2, 3));
    }

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let times = Times((1..=100).map(f64::from).collect());
        let found = [0.5, 0.99, 1.0].map(|part| times.quantile(part));
        assert!(found.iter().eq(&[51.0, 100.0, 100.0]));
    }
}
