//! Recordings: the tape of a store that is created, worked on, closed, opened and worked on again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Failed;
use super::super::code::Remote;
use super::super::life::Life;
use super::super::plan::Plan;
use super::super::tape::{self, Event};
use super::super::told::Told;
use super::super::witness::{Witness, outside};

/// What to record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// An empty folder for the store.
    pub(crate) store: PathBuf,
    /// Where the tape goes.
    pub(crate) tape: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) seed: u64,
}

/// Items of a recording, in how many parts.
const PART: u64 = 12;

/// Records.
pub(crate) fn record(order: &Order) -> Result<(), Failed> {
    let first = fastrand::Rng::with_seed(order.seed).u64(0..1000);
    let part = |number: u64| first + number * PART..first + (number + 1) * PART;
    let witness = Witness::new(Told::default());
    tape::record(&order.store, Vec::new());
    let remote = Remote::Here(outside(order.seed, &[]));
    let open = || {
        Life::open(&order.store, &remote, order.plan, &witness)
            .map_err(|error| Failed::of("the engine does not open", &error))
    };
    let life = open()?;
    orlop::wait(async {
        life.items(part(0)).await;
        futures_util::future::join(life.checkpoint(), life.items(part(1))).await;
    });
    life.close();
    let life = open()?;
    orlop::wait(async {
        life.items(part(1).chain(part(2))).await;
        futures_util::future::join(life.checkpoint(), life.items(part(3))).await;
    });
    life.close();
    if let Some(problem) = witness.problems().first() {
        return Err(Failed::new(format!("the recording itself: {problem}")));
    }
    save(&order.tape, &tape::stop().events)
}

/// Writes a tape.
pub(crate) fn save(path: &Path, events: &[Event]) -> Result<(), Failed> {
    let bytes = postcard::to_stdvec(events);
    let bytes = bytes.map_err(|e| Failed::of("a tape cannot be encoded", &e))?;
    std::fs::write(path, bytes).map_err(|e| Failed::of("a tape cannot be written", &e))
}

/// Reads a tape.
pub(crate) fn load(path: &Path) -> Result<Vec<Event>, Failed> {
    let what = format!("the tape {}", path.display());
    let bytes = std::fs::read(path).map_err(|e| Failed::of(&what, &e))?;
    postcard::from_bytes(&bytes).map_err(|e| Failed::of(&what, &e))
}
