//! The plan: which items there are. An item is a number; what it does follows from that alone, so
//! that the process that works and the one that judges need not tell each other.

use serde::{Deserialize, Serialize};

/// What is to be done, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// How many tenants share the work.
    pub(crate) tenants: u32,
    /// How many of ten items are sagas.
    pub(crate) sagas_of_ten: u32,
}

/// What an item does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pure computation on the host, awaited.
    Stamp,
    /// The same, accepted first.
    StampAccepted,
    /// A pure computation whose output is kept in a file of its own, accepted first.
    Bulk,
    /// A digest on the device, under a key derived from the input.
    Digest,
    /// A write outside, awaited.
    Put,
    /// A write outside, accepted first.
    PutAccepted,
    /// A write that the outside refuses for good.
    PutRefused,
    /// A saga that completes.
    Move,
    /// A saga that gives up after two writes.
    MoveGivesUp,
    /// A saga whose last write before the pivot is refused for good.
    MoveRefused,
    /// A saga with a loop.
    MoveLoops,
    /// A saga that somebody cancels, sooner or later.
    MoveCancelled,
}

const PLAIN: [Kind; 7] = [
    Kind::Stamp,
    Kind::Put,
    Kind::PutAccepted,
    Kind::Digest,
    Kind::StampAccepted,
    Kind::PutRefused,
    Kind::Bulk,
];
const SAGAS: [Kind; 5] = [
    Kind::Move,
    Kind::MoveGivesUp,
    Kind::MoveRefused,
    Kind::MoveLoops,
    Kind::MoveCancelled,
];
/// How often [`Kind::MoveLoops`] goes round.
pub(crate) const ROUNDS: u64 = 3;

impl Kind {
    pub(crate) fn is_saga(self) -> bool {
        SAGAS.contains(&self)
    }
}

impl Plan {
    pub(crate) fn kind(self, item: u64) -> Kind {
        // Neighbours differ, and any two kinds meet in any group of a few dozen.
        let turn = item / 10 + item;
        let of = |kinds: &[Kind]| {
            let at = usize::try_from(turn % kinds.len() as u64).unwrap_or_default();
            kinds.get(at).copied().unwrap_or(Kind::Stamp)
        };
        if item % 10 < u64::from(self.sagas_of_ten) {
            of(&SAGAS)
        } else {
            of(&PLAIN)
        }
    }

    pub(crate) fn name(item: u64) -> String {
        format!("item {item}")
    }

    /// The label of the item's tenant.
    pub(crate) fn tenant(self, item: u64) -> String {
        format!("tenant {}", item % u64::from(self.tenants.max(1)))
    }

    /// Every name that the item may write outside, and whether it must be there once the item has
    /// ended with `outcome`.
    pub(crate) fn writes(self, item: u64, outcome: &str) -> Vec<(String, bool)> {
        let name = Self::name(item);
        let done = outcome.starts_with(DONE);
        let parts = |parts: &[&str]| -> Vec<(String, bool)> {
            let parts = parts.iter();
            parts.map(|part| (self::part(&name, part), done)).collect()
        };
        match self.kind(item) {
            Kind::Stamp | Kind::StampAccepted | Kind::Bulk | Kind::Digest => Vec::new(),
            Kind::Put | Kind::PutAccepted => vec![(name, done)],
            Kind::PutRefused => vec![(part(&name, REFUSED), false)],
            Kind::Move | Kind::MoveGivesUp | Kind::MoveCancelled => parts(&["one", "two", "three"]),
            Kind::MoveRefused => parts(&["one", "two", REFUSED, "three"]),
            Kind::MoveLoops => {
                let mut writes = parts(&["one", "two", "three"]);
                let rounds = 0..ROUNDS;
                writes.extend(rounds.map(|round| (part(&name, &format!("loop {round}")), done)));
                writes
            }
        }
    }

    /// How an item of this kind may end.
    pub(crate) fn may_end_as(self, item: u64, outcome: &str) -> bool {
        let done = outcome.starts_with(DONE);
        match self.kind(item) {
            Kind::MoveCancelled => true,
            Kind::PutRefused | Kind::MoveGivesUp | Kind::MoveRefused => !done,
            Kind::Stamp
            | Kind::StampAccepted
            | Kind::Bulk
            | Kind::Digest
            | Kind::Put
            | Kind::PutAccepted
            | Kind::Move
            | Kind::MoveLoops => done,
        }
    }
}

/// Begins the text of an outcome that is no failure.
pub(crate) const DONE: &str = "done";
/// What the outside refuses for good.
pub(crate) const REFUSED: &str = "refused";

/// A name of one of several writes.
pub(crate) fn part(name: &str, part: &str) -> String {
    format!("{name}, {part}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_hundred_items_are_of_every_kind_and_as_many_sagas_as_asked_for() {
        for sagas_of_ten in 0..=10 {
            let plan = Plan {
                tenants: 3,
                sagas_of_ten,
            };
            let kinds: Vec<Kind> = (0..100).map(|item| plan.kind(item)).collect();
            let sagas = kinds.iter().filter(|kind| kind.is_saga()).count();
            assert_eq!(sagas, sagas_of_ten as usize * 10);
            let different: BTreeSet<String> =
                kinds.iter().map(|kind| format!("{kind:?}")).collect();
            let expected = match sagas_of_ten {
                0 => PLAIN.len(),
                10 => SAGAS.len(),
                _ => PLAIN.len() + SAGAS.len(),
            };
            assert_eq!(different.len(), expected, "{sagas_of_ten} of ten");
        }
    }
}
