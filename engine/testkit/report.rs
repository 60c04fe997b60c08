//! Reports: what a sweep went through.

use std::fmt;

use super::point::{Crash, SweepPoint};
use super::sweep::Ending;

/// Crash points, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A write of the journal was lost.
    pub writes_lost: u64,
    /// A write of the journal was found again, though nobody had been told of it.
    pub writes_kept: u64,
    /// A call was about to run.
    pub before_calls: u64,
    /// A call had run and nothing of it was in the journal.
    pub after_calls: u64,
    /// The outcome had been told.
    pub told: u64,
}

impl Counts {
    pub(crate) fn count(&mut self, crash: Crash) {
        *match crash {
            Crash::Write { kept: false, .. } => &mut self.writes_lost,
            Crash::Write { kept: true, .. } => &mut self.writes_kept,
            Crash::Before { .. } => &mut self.before_calls,
            Crash::After { .. } => &mut self.after_calls,
            Crash::Told => &mut self.told,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.writes_lost + self.writes_kept + self.before_calls + self.after_calls + self.told
    }
}

/// What a sweep went through; every invariant held at every point of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The saga's name.
    pub saga: String,
    /// What everything was drawn from.
    pub seed: u64,
    /// How many courses there were: forward, with each step failing, cancelled at each step; each
    /// in every manner.
    pub courses: u64,
    /// First crashes of a saga on its way forward.
    pub forward: Counts,
    /// First crashes of a saga that unwinds.
    pub unwinding: Counts,
    /// Second crashes, while what a first one left is recovered, on the way forward.
    pub again_forward: Counts,
    /// Second crashes, while what a first one left is recovered and unwinds.
    pub again_unwinding: Counts,
    /// How often the saga was run to its end.
    pub runs: u64,
    /// How often an engine was opened.
    pub lives: u64,
    /// How many steps, questions and undos were run or made to fail.
    pub calls: u64,
    /// How many runs ended completed, compensated, and visibly held.
    pub endings: [u64; 3],
    /// Every point, in the order in which it was reached.
    pub points: Vec<SweepPoint>,
}

impl SweepReport {
    pub(crate) fn count<T>(&mut self, ending: &Ending<T>) {
        let [completed, compensated, held] = &mut self.endings;
        *match ending {
            Ending::Completed(_) => completed,
            Ending::Compensated(_) => compensated,
            Ending::Held(_) => held,
        } += 1;
    }

    /// How many crash points there were.
    pub fn crashes(&self) -> u64 {
        let all = [
            self.forward,
            self.unwinding,
            self.again_forward,
            self.again_unwinding,
        ];
        all.iter().map(Counts::total).sum()
    }
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [completed, compensated, held] = self.endings;
        writeln!(
            f,
            "crash sweep of {}, seed {}: {} crash points on {} courses, {} runs, {} engines \
             opened, {} calls",
            self.saga,
            self.seed,
            self.crashes(),
            self.courses,
            self.runs,
            self.lives,
            self.calls
        )?;
        writeln!(
            f,
            "ended: {completed} completed, {compensated} compensated, {held} held"
        )?;
        writeln!(
            f,
            "{:<24}{:>12}{:>12}{:>12}{:>12}{:>8}{:>8}",
            "", "write lost", "write kept", "before call", "after call", "told", "all"
        )?;
        let rows = [
            ("forward", self.forward),
            ("unwinding", self.unwinding),
            ("2nd crash, forward", self.again_forward),
            ("2nd crash, unwinding", self.again_unwinding),
        ];
        for (name, counts) in rows {
            writeln!(
                f,
                "{:<24}{:>12}{:>12}{:>12}{:>12}{:>8}{:>8}",
                name,
                counts.writes_lost,
                counts.writes_kept,
                counts.before_calls,
                counts.after_calls,
                counts.told,
                counts.total()
            )?;
        }
        Ok(())
    }
}
