//! The report: counts, what is wrong, and the last line.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::judge::{Problem, Verdict};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Report {
    mode: &'static str,
    /// Kills, images, or workloads with a fault.
    pub(crate) runs: u64,
    /// Plain effects with an outcome.
    pub(crate) effects: u64,
    /// Sagas with an end.
    pub(crate) sagas: u64,
    pub(crate) problems: Vec<Problem>,
    /// What else a reader should know, a line each.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(mode: &'static str) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.effects += other.effects;
        self.sagas += other.sagas;
        self.problems.extend(other.problems);
        self.notes.extend(other.notes);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Prints what is wrong, what else there is to know, and the last line.
    pub(crate) fn print(&self) {
        let mut said = BTreeSet::new();
        for note in &self.notes {
            if said.insert(note) {
                println!("{note}");
            }
        }
        for problem in &self.problems {
            println!("{problem}");
        }
        println!("{}", self.last_line());
    }

    fn last_line(&self) -> String {
        let count = |verdict| {
            let found = self.problems.iter();
            found.filter(|problem| problem.verdict == verdict).count()
        };
        format!(
            "torture: mode={} runs={} effects={} sagas={} lost={} doubled={} residue={} silent={}",
            self.mode,
            self.runs,
            self.effects,
            self.sagas,
            count(Verdict::Lost),
            count(Verdict::Doubled),
            count(Verdict::Residue),
            count(Verdict::Silent)
        )
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(runs: u64, what: &'static str) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(runs)
        } else {
            ProgressBar::hidden()
        };
        let template = "{msg} [{bar:40}] {pos}/{len} {per_sec} {eta}";
        let bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        bar.set_message(what);
        Self(bar)
    }

    pub(crate) fn at(&self, more: u64) {
        self.0.inc(more);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_every_verdict() {
        let mut report = Report::new("kills");
        (report.runs, report.effects, report.sagas) = (1, 2, 3);
        assert!(report.is_clean());
        let verdicts = [
            (Verdict::Lost, 1),
            (Verdict::Doubled, 2),
            (Verdict::Residue, 3),
            (Verdict::Silent, 4),
        ];
        for (verdict, times) in verdicts {
            let problem = Problem::new(verdict, "");
            report.problems.extend(std::iter::repeat_n(problem, times));
        }
        assert!(!report.is_clean());
        assert_eq!(
            report.last_line(),
            "torture: mode=kills runs=1 effects=2 sagas=3 lost=1 doubled=2 residue=3 silent=4"
        );
    }
}
