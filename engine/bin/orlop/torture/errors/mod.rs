//! `--io-errors`: every change of the store's folder fails, once or from then on.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the whole run |
//! | `work` | the process that works on a failing disk |

pub(crate) mod work;

use std::path::{Path, PathBuf};

use self::work::Line;
use super::judge::{Problem, Verdict};
use super::plan::Plan;
use super::report::{Progress, Report};
use super::role::{self, Heard, Role};
use super::tape::{Fault, Faults};
use super::{Failed, lanes};

/// How changes fail.
const WAYS: [(Fault, bool); 6] = [
    (Fault::Io, false),
    (Fault::Io, true),
    (Fault::NoSpace, false),
    (Fault::NoSpace, true),
    (Fault::Short, false),
    (Fault::Short, true),
];
/// The same work does not always take the same number of changes: so many runs more beyond the
/// number counted, of a hundred, reach the last ones too.
const BEYOND_PERCENT: u64 = 10;

/// What is to be tried.
pub(crate) struct Wanted {
    pub(crate) seed: u64,
    /// Every so many changes.
    pub(crate) stride: u64,
    /// One fault only.
    pub(crate) only: Option<Faults>,
}

/// Tries every fault, spread over the processors.
pub(crate) fn run(wanted: &Wanted, folder: &Path, plan: Plan) -> Result<Report, Failed> {
    let lane = |number: u64| Lane {
        folder: folder.join(format!("lane-{number}")),
        plan,
        seed: wanted.seed,
        report: Report::new("io-errors"),
        changes: 0,
        failed: 0,
    };
    let mut first = lane(0);
    first.faults(vec![wanted.only], &Progress::new(1, "runs"))?;
    if wanted.only.is_some() || !first.report.is_clean() {
        return Ok(first.report);
    }
    let changes = first.changes;
    if changes == 0 {
        return Err(Failed::new(
            "no change of the store passed the shim, so none can be made to fail",
        ));
    }
    let last = changes + changes * BEYOND_PERCENT / 100;
    let mut faults = Vec::new();
    for at in (1..=last).step_by(usize::try_from(wanted.stride).unwrap_or(1)) {
        // With a stride, each way has changes of its own.
        let shifted = |way: u64| at + way % wanted.stride;
        let ways = (0..).zip(WAYS);
        faults.extend(ways.map(|(way, (fault, lasting))| Faults {
            at: shifted(way),
            fault,
            lasting,
        }));
    }
    let progress = Progress::new(faults.len() as u64, "runs");
    let lanes = u64::from(lanes());
    let ended: Vec<Result<Lane, Failed>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes)
            .map(|number| {
                let share = (0..).zip(&faults).filter(|(at, _)| at % lanes == number);
                let share = share.map(|(_, faults)| Some(*faults)).collect();
                let (mut lane, progress) = (lane(number), &progress);
                scope.spawn(move || lane.faults(share, progress).map(|()| lane))
            })
            .collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        let failed = |_| Err(Failed::new("a lane panicked"));
        joined.map(|ended| ended.unwrap_or_else(failed)).collect()
    });
    progress.finish();
    let mut all = Report::new("io-errors");
    let mut failed = 0;
    for lane in ended {
        let lane = lane?;
        failed += lane.failed;
        all.add(lane.report);
    }
    let every = wanted.stride;
    all.notes.push(format!(
        "{changes} changes in the work without faults; {failed} failed in all runs, of which each \
         begins at another change, every {every}"
    ));
    Ok(all)
}

/// Runs one after the other.
struct Lane {
    folder: PathBuf,
    plan: Plan,
    seed: u64,
    report: Report,
    /// Of the last run.
    changes: u64,
    /// Of all runs.
    failed: u64,
}

impl Lane {
    /// Has a process try faults, and another one what is left if it dies.
    fn faults(
        &mut self,
        mut faults: Vec<Option<Faults>>,
        progress: &Progress,
    ) -> Result<(), Failed> {
        std::fs::create_dir_all(&self.folder).map_err(|e| Failed::of("no folder for runs", &e))?;
        while !faults.is_empty() {
            let order = work::Order {
                folder: self.folder.clone(),
                plan: self.plan,
                seed: self.seed,
                faults: faults.clone(),
            };
            let mut at = None;
            let folder = self.folder.clone();
            let heard = role::hear(&Role::Errors(order), &folder, |line| match line {
                Line::Begun(faults) => at = Some(faults),
                Line::Ended { faults: run, .. } => {
                    faults.retain(|left| *left != run);
                    at = None;
                    progress.at(1);
                    self.ended(line);
                }
            })?;
            let problem = match (heard, at) {
                (Heard::Ended, None) if faults.is_empty() => break,
                (Heard::Ended, None) => "it ended early".to_owned(),
                (Heard::Ended, Some(_)) => "its process ended".to_owned(),
                (Heard::Died(status), _) => format!("its process ended with {status}"),
                (Heard::Silent(seconds), _) => format!("its process said nothing for {seconds} s"),
            };
            let Some(run) = at else {
                return Err(Failed::new(format!(
                    "a process on a failing disk: {problem}"
                )));
            };
            faults.retain(|left| *left != run);
            let text = format!("{}: {problem}; see {}/stderr", words(run), folder.display());
            self.report
                .problems
                .push(Problem::new(Verdict::Silent, text));
            self.report.runs += 1;
        }
        Ok(())
    }

    fn ended(&mut self, line: Line) {
        let Line::Ended {
            faults,
            changes,
            failed,
            effects,
            sagas,
            problems,
            excused,
        } = line
        else {
            return;
        };
        self.changes = changes;
        self.failed += failed;
        self.report.runs += 1;
        self.report.effects += effects;
        self.report.sagas += sagas;
        for excuse in excused {
            let note = format!("{}, excused: {excuse}", words(faults));
            self.report.notes.push(note);
        }
        for problem in problems {
            let text = format!("{}: {}", words(faults), problem.text);
            self.report
                .problems
                .push(Problem::new(problem.verdict, text));
        }
    }
}

/// A fault as `--only` takes it, and in the report.
fn words(faults: Option<Faults>) -> String {
    let Some(Faults { at, fault, lasting }) = faults else {
        return "no fault".to_owned();
    };
    let way = WAYS
        .iter()
        .position(|way| *way == (fault, lasting))
        .unwrap_or_default();
    let lasts = if lasting { "and all after it" } else { "once" };
    format!(
        "{fault:?} at change {at} {lasts} (--only {})",
        number(at, way as u64)
    )
}

fn number(at: u64, way: u64) -> u64 {
    at * WAYS.len() as u64 + way
}

/// The fault of a number.
pub(crate) fn fault(number: u64) -> Option<Faults> {
    let ways = WAYS.len() as u64;
    let (fault, lasting) = *WAYS.get(usize::try_from(number % ways).ok()?)?;
    let at = number / ways;
    (at > 0).then_some(Faults { at, fault, lasting })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_by_the_number_that_builds_it_again() {
        for at in [1, 2, 77] {
            for (way, (fault, lasting)) in (0..).zip(WAYS) {
                let faults = Faults { at, fault, lasting };
                assert_eq!(super::fault(number(at, way)), Some(faults));
                let told = words(Some(faults));
                assert!(told.contains(&format!("--only {})", number(at, way))));
            }
        }
        assert_eq!(super::fault(3), None, "changes are counted from 1");
    }
}
