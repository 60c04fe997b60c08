//! The work under a failing disk, and what must be left of it once the disk works again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::super::Failed;
use super::super::code::Remote;
use super::super::judge::{Problem, Verdict, judge};
use super::super::life::Life;
use super::super::plan::Plan;
use super::super::role::say;
use super::super::tape::{self, Faults};
use super::super::told::Told;
use super::super::witness::{Witness, outside};

/// Which faults to try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// For stores.
    pub(crate) folder: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) seed: u64,
    /// Each is a run; none is one without a fault.
    pub(crate) faults: Vec<Option<Faults>>,
}

/// What the process says of its work, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// It begins with a run.
    Begun(Option<Faults>),
    /// It has ended one.
    Ended {
        faults: Option<Faults>,
        /// Changes that were asked for while the disk was failing, and how many failed.
        changes: u64,
        failed: u64,
        effects: u64,
        sagas: u64,
        problems: Vec<Problem>,
        /// What failed and was excused by the disk; told where something is wrong.
        excused: Vec<String>,
    },
}

/// How long an item is waited for while the disk fails.
const PATIENCE: Duration = Duration::from_millis(500);
/// Items of each part of the work.
const PART: u64 = 6;

/// Panics of this process but those inside sled, which are caught where sled is called.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Tries all of them.
pub(crate) fn work(order: &Order) -> Result<(), Failed> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let location = panic.location();
        if !location.is_some_and(|at| is_of_sled(at.file())) {
            PANICS.lock().push(panic.to_string());
        }
        before(panic);
    }));
    for (number, faults) in order.faults.iter().enumerate() {
        say(&Line::Begun(*faults))?;
        // A folder of its own: what one run leaves open is no other one's problem.
        let store = order.folder.join(format!("store-{number}"));
        say(&run(order, &store, *faults)?)?;
    }
    Ok(())
}

fn is_of_sled(file: &str) -> bool {
    file.split('/').any(|part| part.starts_with("sled-"))
}

/// One run: a life under faults, and one without.
fn run(order: &Order, store: &Path, faults: Option<Faults>) -> Result<Line, Failed> {
    let clear = || match std::fs::remove_dir_all(store) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failed::of("a store cannot be removed", &error)),
    };
    clear()?;
    std::fs::create_dir_all(store).map_err(|e| Failed::of("no folder for a store", &e))?;
    let witness = Witness::new(Told::default());
    let outside = outside(order.seed, &[]);
    let remote = Remote::Here(Arc::clone(&outside));
    witness.excuse(true);
    tape::fail(store, faults);
    under_faults(order, store, &remote, &witness);
    let stopped = tape::stop();
    witness.excuse(false);
    let told = witness.told();
    match Life::open(store, &remote, order.plan, &witness) {
        Ok(life) => {
            orlop::wait(async {
                life.probe(told.known()).await;
                life.items(told.begun.iter().copied().chain(part(3))).await;
            });
            life.close();
            outside.settle();
            let problems = judge(order.plan, &witness.told(), &outside.objects());
            for problem in problems {
                witness.object(problem);
            }
        }
        Err(error) => {
            let text = Failed::of("the disk works again, and it does not open", &error);
            witness.object(Problem::new(Verdict::Lost, text.to_string()));
        }
    }
    for panic in PANICS.lock().drain(..) {
        witness.object(Problem::new(Verdict::Silent, format!("a panic: {panic}")));
    }
    clear()?;
    let told = witness.told();
    let sagas = told
        .done
        .keys()
        .filter(|item| order.plan.kind(**item).is_saga());
    let sagas = sagas.count();
    let problems = witness.problems();
    let excused = if problems.is_empty() {
        Vec::new()
    } else {
        witness.excuses()
    };
    Ok(Line::Ended {
        faults,
        changes: stopped.changes,
        failed: stopped.failed,
        effects: (told.done.len() - sagas) as u64,
        sagas: sagas as u64,
        problems,
        excused,
    })
}

fn part(number: u64) -> std::ops::Range<u64> {
    number * PART..(number + 1) * PART
}

/// Creates, works, writes a checkpoint, closes, opens, and works once more. Whatever of it fails is
/// told as an error; what was acknowledged all the same counts.
fn under_faults(order: &Order, store: &Path, remote: &Remote, witness: &Witness) {
    for parts in [[0, 1], [1, 2]] {
        let life = match Life::open(store, remote, order.plan, witness) {
            Ok(life) => life.impatient(PATIENCE),
            Err(error) => {
                witness.excused(Failed::of("it does not open", &error).to_string());
                continue;
            }
        };
        let [first, second] = parts.map(part);
        orlop::wait(async {
            life.items(first).await;
            futures_util::future::join(life.checkpoint(), life.items(second)).await;
        });
        life.close();
    }
}
