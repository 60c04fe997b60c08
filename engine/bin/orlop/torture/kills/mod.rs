//! `--kills`: real processes, real files, SIGKILL at random instants.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the whole run |
//! | `lane` | stores one after the other, each through many children |
//! | `child` | the process that works, and is killed |
//! | `aim` | when to kill |

mod aim;
pub(crate) mod child;
mod lane;

use std::collections::BTreeMap;
use std::path::Path;

use self::lane::Lane;
use super::plan::Plan;
use super::report::{Progress, Report};
use super::{Failed, lanes};

/// Kills so many children, spread over the processors.
pub(crate) fn run(kills: u32, seed: u64, folder: &Path, plan: Plan) -> Result<Report, Failed> {
    let progress = Progress::new(u64::from(kills), "kills");
    let lanes = lanes();
    let share = |lane: u32| kills / lanes + u32::from(lane < kills % lanes);
    let ended: Vec<Result<Report, Failed>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes)
            .map(|lane| {
                let progress = &progress;
                scope.spawn(move || {
                    let folder = folder.join(format!("lane-{lane}"));
                    let seed = seed ^ (u64::from(lane) << 32);
                    Lane::new(&folder, seed, plan)?.run(share(lane), progress)
                })
            })
            .collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        let failed = |_| Err(Failed::new("a lane panicked"));
        joined.map(|ended| ended.unwrap_or_else(failed)).collect()
    });
    progress.finish();
    let mut all = Report::new("kills");
    for report in ended {
        all.add(report?);
    }
    Ok(all)
}

/// How many kills met what, as one line.
fn spread<K: Ord + std::fmt::Debug>(met: &BTreeMap<K, u64>) -> String {
    let met = met.iter().map(|(what, times)| format!("{what:?} {times}"));
    met.collect::<Vec<_>>().join(", ")
}
