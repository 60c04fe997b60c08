//! Figures: what the suite says of what it has seen. A figure with a target is the worst of its
//! cases; the cases stand beside it.

use std::time::{Duration, Instant};

use super::nap::Taken;
use super::{Crowding, FLOODER, TENANTS, WINDOW};
use crate::bench::figure::{Figure, Measured};

const SUITE: &str = "fairness";

/// One load, under the fair queue and under a FIFO.
pub(super) struct Case {
    /// What its figures are called: capacity, victims, Jain's index, p99.
    pub(super) ids: [&'static str; 4],
    /// Naps a second.
    pub(super) capacity: f64,
    /// The same, if naps took no longer than they are meant to and followed at once.
    pub(super) ideal: f64,
    pub(super) fair: Crowding,
    pub(super) fifo: Crowding,
}

/// What one that begins to flood is given in a window.
pub(super) struct Burst {
    /// The most that it was given in any window, in milliseconds of slots.
    most_ms: f64,
    /// The share of one in the same window.
    share_ms: f64,
    /// The length of one nap.
    nap_ms: f64,
    windows: u64,
}

/// Everything that was seen.
pub(super) struct Verdicts {
    pub(super) cases: Vec<Case>,
    pub(super) burst: Burst,
    /// The part of the capacity that met its deadline, and how many questions that rests on.
    pub(super) goodput: (f64, u64),
}

/// Of each figure the round in which it was the median. All rounds have the same figures.
pub(super) fn medians(rounds: &[Vec<Figure>]) -> Vec<Figure> {
    let median_of = u32::try_from(rounds.len()).unwrap_or(u32::MAX);
    let figures = rounds.first().map_or(0, Vec::len);
    let median = |at: usize| {
        let mut of: Vec<&Figure> = rounds.iter().filter_map(|round| round.get(at)).collect();
        of.sort_by(|one, other| one.value.total_cmp(&other.value));
        of.get(of.len() / 2).map(|&figure| Figure {
            median_of,
            ..figure.clone()
        })
    };
    (0..figures).filter_map(median).collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Crowding {
    /// The least part of its demand that any victim was served, in percent.
    fn victims(&self) -> f64 {
        100.0 * self.served.iter().copied().fold(1.0, f64::min)
    }

    /// Jain's index of fairness: 1 if all were served the same part of their demand.
    ///
    /// # Source
    /// Jain, Chiu, Hawe 1984, DEC-TR-301.
    fn jain(&self) -> f64 {
        let sum: f64 = self.served.iter().sum();
        let squares: f64 = self.served.iter().map(|part| part * part).sum();
        if squares == 0.0 {
            return 0.0;
        }
        let count = u32::try_from(self.served.len()).unwrap_or(u32::MAX);
        sum * sum / (f64::from(count) * squares)
    }

    /// What 99 of 100 answers took at most, in milliseconds.
    fn p99(&self) -> f64 {
        let at = self.took.len().saturating_sub(1) * 99 / 100;
        self.took.get(at).copied().map_or(f64::NAN, millis)
    }

    fn samples(&self) -> u64 {
        self.took.len() as u64
    }
}

impl Case {
    /// The figures of the case, each beside what it is under the FIFO.
    fn figures(&self) -> [Figure; 4] {
        let [capacity, victims, jain, p99] = self.ids;
        let (fair, fifo) = (&self.fair, &self.fifo);
        let figure = |id, name, value, unit, beside| {
            let measured = Measured {
                id,
                suite: SUITE,
                name,
                value,
                unit,
                samples: fair.samples(),
                median_of: 1,
            };
            Figure::beside(&measured, "one FIFO", beside, None)
        };
        let measured = Measured {
            id: capacity,
            suite: SUITE,
            name: "capacity",
            value: self.capacity,
            unit: "naps/s",
            samples: 1,
            median_of: 1,
        };
        [
            Figure::beside(&measured, "slots without overhead", self.ideal, None),
            figure(
                victims,
                "served of demand",
                fair.victims(),
                "%",
                fifo.victims(),
            ),
            figure(jain, "Jain's index", fair.jain(), "", fifo.jain()),
            figure(p99, "p99 of a victim", fair.p99(), "ms", fifo.p99()),
        ]
    }
}

impl Burst {
    /// Of all windows from `from` to `to` that begin with a nap or end with one, those in which
    /// the flooder had the most.
    pub(super) fn of(taken: &[Taken], from: Instant, to: Instant) -> Self {
        let begins = taken.iter().map(|nap| nap.begun);
        let ends = taken.iter().filter_map(|nap| nap.ended.checked_sub(WINDOW));
        let mut burst = Self {
            most_ms: 0.0,
            share_ms: f64::NAN,
            nap_ms: 0.0,
            windows: 0,
        };
        let longest = taken.iter().map(|nap| nap.ended - nap.begun).max();
        burst.nap_ms = longest.map_or(0.0, millis);
        for begin in begins.chain(ends) {
            let end = begin + WINDOW;
            if begin < from || end > to {
                continue;
            }
            let had = |mine: bool| -> Duration {
                let naps = taken.iter().filter(|nap| !mine || nap.client == FLOODER);
                naps.map(|nap| nap.within(begin, end)).sum()
            };
            burst.windows += 1;
            let most = millis(had(true));
            if most > burst.most_ms {
                burst.most_ms = most;
                burst.share_ms = millis(had(false)) / f64::from(TENANTS);
            }
        }
        burst
    }

    fn figure(&self) -> Figure {
        let measured = Measured {
            id: "fair.burst",
            suite: SUITE,
            name: "the most in 100 ms of one that begins to flood",
            value: self.most_ms,
            unit: "slot-ms",
            samples: self.windows,
            median_of: 1,
        };
        // One nap that it began as the window did, and one by which its turn came early.
        let bound = self.share_ms + 2.0 * self.nap_ms;
        let met = self.most_ms <= bound;
        let target = "at most its share and two naps".to_owned();
        Figure::beside(
            &measured,
            "a tenth of what was given",
            self.share_ms,
            Some((target, met)),
        )
    }
}

impl Verdicts {
    /// The figures: those with a target first.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![
            self.victims(),
            self.jain(),
            self.p99(),
            self.burst.figure(),
            self.goodput(),
        ];
        for case in &self.cases {
            figures.extend(case.figures());
        }
        figures
    }

    fn worst(&self, of: impl Fn(&Case) -> f64) -> Option<&Case> {
        let cases = self.cases.iter();
        cases.max_by(|one, other| of(one).total_cmp(&of(other)))
    }

    fn samples(&self) -> u64 {
        self.cases.iter().map(|case| case.fair.samples()).sum()
    }

    fn figure(
        &self,
        (id, name, unit): (&'static str, &'static str, &'static str),
        worst: Option<&Case>,
        value: impl Fn(&Crowding) -> f64,
        target: &str,
        met: impl Fn(f64, f64) -> bool,
    ) -> Figure {
        let fair = worst.map_or(f64::NAN, |case| value(&case.fair));
        let fifo = worst.map_or(f64::NAN, |case| value(&case.fifo));
        let measured = Measured {
            id,
            suite: SUITE,
            name,
            value: fair,
            unit,
            samples: self.samples(),
            median_of: 1,
        };
        let target = Some((target.to_owned(), met(fair, fifo)));
        Figure::beside(&measured, "one FIFO in the same run", fifo, target)
    }

    fn victims(&self) -> Figure {
        let worst = self.worst(|case| -case.fair.victims());
        let what = (
            "fair.victims",
            "served of demand, the worst victim of the worst case",
            "%",
        );
        let met = |fair: f64, _: f64| fair >= 99.0;
        self.figure(what, worst, Crowding::victims, "at least 99 %", met)
    }

    fn jain(&self) -> Figure {
        let worst = self.worst(|case| -case.fair.jain());
        let what = (
            "fair.jain",
            "Jain's index over the victims, the worst case",
            "",
        );
        let met = |fair: f64, _: f64| fair >= 0.999;
        self.figure(what, worst, Crowding::jain, "at least 0.999", met)
    }

    fn p99(&self) -> Figure {
        let worst = self.worst(|case| case.fair.p99() / case.fifo.p99());
        let what = (
            "fair.p99",
            "p99 of the victims, the worst case beside the FIFO",
            "ms",
        );
        let met = |fair: f64, fifo: f64| fair <= fifo / 10.0;
        self.figure(
            what,
            worst,
            Crowding::p99,
            "at most 1/10 of the reference",
            met,
        )
    }

    fn goodput(&self) -> Figure {
        let (goodput, samples) = self.goodput;
        let measured = Measured {
            id: "fair.goodput",
            suite: SUITE,
            name: "within 20 ms at 10x overload, of the capacity",
            value: goodput,
            unit: "",
            samples,
            median_of: 1,
        };
        let target = ("at least 0.95".to_owned(), goodput >= 0.95);
        Figure::beside(&measured, "the capacity", 1.0, Some(target))
    }
}
