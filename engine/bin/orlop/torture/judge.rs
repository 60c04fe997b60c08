//! The judge: what was told, against what is outside. It asks no engine.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::outside::Object;
use super::plan::Plan;
use super::told::Told;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Something acknowledged is gone or has changed.
    Lost,
    /// Something happened twice, as the outside can tell.
    Doubled,
    /// Something that was undone is still there, or something that was done is not.
    Residue,
    /// Something that was begun has neither ended nor is it visibly held.
    Silent,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { verdict, text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Lost => "lost",
            Verdict::Doubled => "doubled",
            Verdict::Residue => "residue",
            Verdict::Silent => "silent",
        };
        write!(f, "{word}: {}", self.text)
    }
}

/// What of a name there is outside, over all remote keys.
#[derive(Clone, Copy, Default)]
struct Count {
    puts: u32,
    removes: u32,
}

/// Everything that is wrong once every item that was begun is expected to have ended.
pub(crate) fn judge(plan: Plan, told: &Told, objects: &BTreeMap<String, Object>) -> Vec<Problem> {
    let mut outside: BTreeMap<&str, Count> = BTreeMap::new();
    for object in objects.values() {
        let count = outside.entry(&object.name).or_default();
        count.puts += object.puts;
        count.removes += object.removes;
    }
    let mut problems = Vec::new();
    for item in &told.begun {
        let Some(outcome) = told.done.get(item) else {
            let text = format!("item {item} was begun and has no end");
            problems.push(Problem::new(Verdict::Silent, text));
            continue;
        };
        if !plan.may_end_as(*item, outcome) {
            let kind = plan.kind(*item);
            let text = format!("item {item}, a {kind:?}, ended as {outcome:?}");
            problems.push(Problem::new(Verdict::Residue, text));
        }
        for (name, must_be_there) in plan.writes(*item, outcome) {
            let count = outside.remove(name.as_str()).unwrap_or_default();
            problems.extend(judge_name(&name, outcome, must_be_there, count));
        }
    }
    for (name, count) in outside {
        if count.puts > count.removes {
            let text = format!("{name:?} is outside, and nothing that was begun writes it");
            problems.push(Problem::new(Verdict::Residue, text));
        }
    }
    problems
}

fn judge_name(name: &str, outcome: &str, must_be_there: bool, count: Count) -> Option<Problem> {
    let Count { puts, removes } = count;
    if puts > 1 {
        let text = format!("{name:?} was written {puts} times and removed {removes} times");
        return Some(Problem::new(Verdict::Doubled, text));
    }
    match (puts > removes, must_be_there) {
        (true, false) => {
            let text = format!("{name:?} is outside, though its item ended as {outcome:?}");
            Some(Problem::new(Verdict::Residue, text))
        }
        (false, true) => {
            let text = format!("{name:?} is not outside, though its item ended as {outcome:?}");
            Some(Problem::new(Verdict::Residue, text))
        }
        (true, true) | (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::life::{Ack, How};
    use super::super::outside::{Deed, Entry, Outside};
    use super::super::plan::Kind;
    use super::*;

    const PLAN: Plan = Plan {
        tenants: 2,
        sagas_of_ten: 5,
    };

    fn an_item(kind: Kind) -> u64 {
        (0..1000).find(|item| PLAN.kind(*item) == kind).unwrap()
    }

    fn done(item: u64, outcome: &str, how: How) -> Ack {
        Ack::Done {
            item,
            outcome: outcome.to_owned(),
            how,
        }
    }

    /// What is told and what is outside after a sound run.
    fn sound() -> (Told, Vec<Entry>) {
        let mut told = Told::default();
        let mut entries = Vec::new();
        for item in 0..100 {
            let outcome = if PLAN.may_end_as(item, "done 1") {
                "done 1"
            } else {
                "failed: it gives up"
            };
            for ack in [Ack::Begun(item), done(item, outcome, How::Ran)] {
                assert_eq!(told.hear(&ack, false), None);
            }
            for (name, must_be_there) in PLAN.writes(item, outcome) {
                entries.push(entry(Deed::Put, &name));
                if !must_be_there {
                    entries.push(entry(Deed::Removed, &name));
                }
            }
        }
        (told, entries)
    }

    fn entry(deed: Deed, name: &str) -> Entry {
        Entry {
            deed,
            key: name.to_owned(),
            fence: (1, 1),
            name: name.to_owned(),
        }
    }

    fn judged(told: &Told, entries: &[Entry]) -> Vec<Verdict> {
        let objects = Outside::new(1, entries).objects();
        let problems = judge(PLAN, told, &objects);
        problems.iter().map(|problem| problem.verdict).collect()
    }

    #[test]
    fn a_sound_run_has_no_problem() {
        let (told, entries) = sound();
        assert_eq!(judged(&told, &entries), []);
    }

    #[test]
    fn an_outcome_that_changes_or_is_made_again_is_lost() {
        let (mut told, _) = sound();
        let item = an_item(Kind::Stamp);
        let lost = |problem: Option<Problem>| problem.map(|problem| problem.verdict);
        let changed = done(item, "done 2", How::Replayed);
        assert_eq!(lost(told.hear(&changed, false)), Some(Verdict::Lost));
        let again = done(item, "done 1", How::Ran);
        assert_eq!(lost(told.hear(&again, false)), Some(Verdict::Lost));
        let unknown = Ack::Unknown(item);
        assert_eq!(lost(told.hear(&unknown, true)), Some(Verdict::Lost));
        let replayed = done(item, "done 1", How::Replayed);
        assert_eq!(told.hear(&replayed, false), None);
    }

    #[test]
    fn a_write_that_is_made_twice_is_doubled_whether_under_one_remote_key_or_two() {
        let (told, mut entries) = sound();
        let name = Plan::name(an_item(Kind::Put));
        let mut other = entry(Deed::Put, &name);
        entries.push(other.clone());
        assert_eq!(judged(&told, &entries), [Verdict::Doubled]);
        entries.pop();
        "another key".clone_into(&mut other.key);
        entries.push(other);
        assert_eq!(judged(&told, &entries), [Verdict::Doubled]);
    }

    #[test]
    fn what_a_compensated_saga_left_and_what_a_completed_one_lacks_is_residue() {
        let (told, entries) = sound();
        let left = PLAN.writes(an_item(Kind::MoveGivesUp), "failed");
        let without = |deed: Deed, name: &str| -> Vec<Entry> {
            let others = entries.iter();
            let others = others.filter(|entry| entry.deed != deed || entry.name != name);
            others.cloned().collect()
        };
        let not_removed = without(Deed::Removed, &left[0].0);
        assert_eq!(judged(&told, &not_removed), [Verdict::Residue]);
        let lacking = PLAN.writes(an_item(Kind::Move), "done");
        let not_written = without(Deed::Put, &lacking[0].0);
        assert_eq!(judged(&told, &not_written), [Verdict::Residue]);
    }

    #[test]
    fn an_item_that_ends_as_it_cannot_is_residue() {
        let (mut told, entries) = sound();
        let item = an_item(Kind::Stamp);
        told.done.insert(item, "failed: for no reason".to_owned());
        assert_eq!(judged(&told, &entries), [Verdict::Residue]);
    }

    #[test]
    fn a_write_of_nobody_is_residue() {
        let (told, mut entries) = sound();
        entries.push(entry(Deed::Put, "nobody's"));
        assert_eq!(judged(&told, &entries), [Verdict::Residue]);
    }

    #[test]
    fn an_item_without_an_end_is_silent() {
        let (mut told, entries) = sound();
        assert_eq!(told.hear(&Ack::Begun(1_000_004), false), None);
        assert_eq!(judged(&told, &entries), [Verdict::Silent]);
        let unsettled = Ack::Unsettled {
            item: 3,
            error: "no".to_owned(),
        };
        let heard = told.hear(&unsettled, false).map(|problem| problem.verdict);
        assert_eq!(heard, Some(Verdict::Silent));
        assert_eq!(told.hear(&unsettled, true), None, "a fault excuses it");
    }
}
