//! What was told: everything that the engines acknowledged, over all their lives.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::{Problem, Verdict};
use super::life::{Ack, How};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Items that were given to an engine.
    pub(crate) begun: BTreeSet<u64>,
    /// Items that are known to be in the journal.
    pub(crate) accepted: BTreeSet<u64>,
    /// Items with an outcome.
    pub(crate) done: BTreeMap<u64, String>,
}

impl Told {
    /// Takes what a life said; a problem if it contradicts what was said before. What faults of
    /// the disk excuse is told apart by `faults`.
    pub(crate) fn hear(&mut self, ack: &Ack, faults: bool) -> Option<Problem> {
        match ack {
            Ack::Phase(_) | Ack::Opened { .. } => None,
            Ack::Begun(item) => {
                self.begun.insert(*item);
                None
            }
            Ack::Accepted(item) => {
                self.accepted.insert(*item);
                None
            }
            Ack::Done { item, outcome, how } => self.done(*item, outcome, *how),
            Ack::Unknown(item) => Some(Problem::new(
                Verdict::Lost,
                format!("item {item} was acknowledged, and the engine does not know its key"),
            )),
            Ack::Unsettled { .. } | Ack::Failed(_) if faults => None,
            Ack::Unsettled { item, error } => Some(Problem::new(
                Verdict::Silent,
                format!("item {item} has no outcome: {error}"),
            )),
            Ack::Failed(error) => Some(Problem::new(Verdict::Silent, error.clone())),
        }
    }

    fn done(&mut self, item: u64, outcome: &str, how: How) -> Option<Problem> {
        let Some(before) = self.done.get(&item) else {
            self.done.insert(item, outcome.to_owned());
            return None;
        };
        if before != outcome {
            let text = format!("item {item} ended as {before:?}, and now as {outcome:?}");
            return Some(Problem::new(Verdict::Lost, text));
        }
        match how {
            How::Ran => Some(Problem::new(
                Verdict::Lost,
                format!("item {item} had its outcome {outcome:?}, and was run again"),
            )),
            How::Joined | How::Replayed | How::Untold => None,
        }
    }

    /// Items that an engine must know whatever happened.
    pub(crate) fn known(&self) -> BTreeSet<u64> {
        let done = self.done.keys().copied();
        done.chain(self.accepted.iter().copied()).collect()
    }
}
