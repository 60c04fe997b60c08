//! `--power-loss`: images of what a disk may hold after its power was lost, at any instant.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the whole run |
//! | `record` | recordings of a store at work |
//! | `check` | the process that opens images |

pub(crate) mod check;
pub(crate) mod record;

use std::path::{Path, PathBuf};

use self::check::Line;
use super::judge::{Problem, Verdict};
use super::plan::Plan;
use super::report::{Progress, Report};
use super::role::{self, Heard, Role};
use super::{Failed, lanes};

/// Images of one recording.
const IMAGES_PER_TAPE: u64 = 1000;

/// What is to be checked.
pub(crate) struct Wanted {
    pub(crate) images: u64,
    pub(crate) seed: u64,
    /// One image only, of a recording that a run before has left in the folder.
    pub(crate) only: Option<u64>,
}

/// Checks so many images, spread over the processors.
pub(crate) fn run(wanted: &Wanted, folder: &Path, plan: Plan) -> Result<Report, Failed> {
    let mut all = Report::new("power-loss");
    if let Some(image) = wanted.only {
        let progress = Progress::new(1, "images");
        let run = Run::new(wanted.seed, folder, plan, image / IMAGES_PER_TAPE);
        let recovery = run.folder.join(format!("recovery-{image}"));
        let (tape, is_recovery) = if recovery.exists() {
            (recovery, true)
        } else {
            (run.tape.clone(), false)
        };
        all.add(run.lane(0, &tape, vec![image], is_recovery, &progress)?);
        return Ok(all);
    }
    let progress = Progress::new(wanted.images, "images");
    let begun = std::time::Instant::now();
    let mut first = 0;
    while first < wanted.images && all.is_clean() {
        let last = (first + IMAGES_PER_TAPE).min(wanted.images);
        let run = Run::new(wanted.seed, folder, plan, first / IMAGES_PER_TAPE);
        run.record()?;
        let report = run.images(first..last, &progress)?;
        if report.is_clean() {
            run.clear()?;
        }
        all.add(report);
        first = last;
    }
    progress.finish();
    let rate =
        f64::from(u32::try_from(all.runs).unwrap_or(u32::MAX)) / begun.elapsed().as_secs_f64();
    all.notes.push(format!(
        "{rate:.0} images a second, each cut once more during its recovery"
    ));
    Ok(all)
}

/// One recording and its images.
struct Run {
    folder: PathBuf,
    tape: PathBuf,
    plan: Plan,
    seed: u64,
}

impl Run {
    fn new(seed: u64, folder: &Path, plan: Plan, number: u64) -> Self {
        let folder = folder.join(format!("recording-{number}"));
        Self {
            tape: folder.join("tape"),
            folder,
            plan,
            seed: seed ^ (number << 40),
        }
    }

    fn record(&self) -> Result<(), Failed> {
        let store = self.folder.join("store");
        std::fs::create_dir_all(&store).map_err(|e| Failed::of("no folder to record in", &e))?;
        let order = record::Order {
            store: store.clone(),
            tape: self.tape.clone(),
            plan: self.plan,
            seed: self.seed,
        };
        let errors = role::errors(&self.folder)?;
        let mut child = role::start(&Role::Record(order), errors)?;
        let status = child
            .wait()
            .map_err(|e| Failed::of("a recording has no end", &e))?;
        if !status.success() {
            return Err(Failed::new(format!(
                "nothing was recorded ({status}); see {}",
                self.folder.join("stderr").display()
            )));
        }
        std::fs::remove_dir_all(store).map_err(|e| Failed::of("removing a store", &e))
    }

    fn images(&self, images: std::ops::Range<u64>, progress: &Progress) -> Result<Report, Failed> {
        let lanes = u64::from(lanes());
        let ended: Vec<Result<Report, Failed>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes)
                .map(|lane| {
                    let share = images
                        .clone()
                        .filter(|image| image % lanes == lane)
                        .collect();
                    scope.spawn(move || self.lane(lane, &self.tape, share, false, progress))
                })
                .collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            let failed = |_| Err(Failed::new("a lane panicked"));
            joined.map(|ended| ended.unwrap_or_else(failed)).collect()
        });
        let mut all = Report::new("power-loss");
        for report in ended {
            all.add(report?);
        }
        Ok(all)
    }

    /// Has a process check images, and another one what is left if it dies.
    fn lane(
        &self,
        lane: u64,
        tape: &Path,
        mut images: Vec<u64>,
        recovery: bool,
        progress: &Progress,
    ) -> Result<Report, Failed> {
        let mut report = Report::new("power-loss");
        let folder = self.folder.join(format!("lane-{lane}"));
        std::fs::create_dir_all(&folder).map_err(|e| Failed::of("no folder for images", &e))?;
        while !images.is_empty() {
            let order = check::Order {
                tape: tape.to_owned(),
                folder: self.folder.join(format!("lane-{lane}")),
                plan: self.plan,
                seed: self.seed,
                images: images.clone(),
                recovery,
            };
            let mut at = None;
            let heard = role::hear(&Role::Images(order), &folder, |line| match line {
                Line::Begun(image) => at = Some(image),
                Line::Checked { image, .. } => {
                    images.retain(|left| *left != image);
                    at = None;
                    progress.at(1);
                    self.checked(line, &mut report);
                }
            })?;
            let problem = match (heard, at) {
                (Heard::Ended, None) if images.is_empty() => break,
                (Heard::Ended, None) => "it ended early".to_owned(),
                (Heard::Ended, Some(_)) => "its process ended".to_owned(),
                (Heard::Died(status), _) => format!("its process ended with {status}"),
                (Heard::Silent(seconds), _) => format!("its process said nothing for {seconds} s"),
            };
            let Some(image) = at else {
                return Err(Failed::new(format!(
                    "a process that checks images: {problem}"
                )));
            };
            images.retain(|left| *left != image);
            let text = format!("image {image}: {problem}; see {}/stderr", folder.display());
            report.problems.push(Problem::new(Verdict::Silent, text));
            report.runs += 1;
        }
        Ok(report)
    }

    fn checked(&self, line: Line, report: &mut Report) {
        let Line::Checked {
            image,
            effects,
            sagas,
            point,
            recovery,
            problems,
        } = line
        else {
            return;
        };
        report.runs += 1;
        report.effects += effects;
        report.sagas += sagas;
        let (at, of) = point;
        let whole = match &recovery {
            None => format!("image {image}, event {at} of {of}"),
            Some(_) => format!("image {image}, event {at} of {of}, cut again in its recovery"),
        };
        if let Some(tape) = recovery {
            let kept = self.folder.join(format!("recovery-{image}"));
            // Beside the recording, where it is looked for.
            let _ = std::fs::rename(tape, kept);
        }
        for problem in problems {
            let text = format!("{whole}: {}", problem.text);
            report.problems.push(Problem::new(problem.verdict, text));
        }
    }

    fn clear(&self) -> Result<(), Failed> {
        std::fs::remove_dir_all(&self.folder).map_err(|e| Failed::of("removing a recording", &e))
    }
}
