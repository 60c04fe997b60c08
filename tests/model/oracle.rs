//! The oracle: a plain map of what every key must stand for, and what the outside must show.

use std::collections::{BTreeMap, BTreeSet};

use orlop::{CancelError, Cancelled, Origin, SubmitError};

use crate::chain::output_of;
use crate::ends::{End, check_effects, check_nothing};
use crate::outside::{Outside, worth};
use crate::plan::{Slot, Work};

/// An outcome: outputs, or the text of the failure.
pub(crate) type Value = Result<Vec<u64>, String>;

/// What a caller saw.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// It submitted.
    Began,
    /// It has a ticket.
    Accepted,
    /// It was answered.
    Replied(Result<(Vec<u64>, Origin), SubmitError>),
    /// It asked for a cancel of a plain effect, and was told what that does.
    Cancelled(Cancelled),
    /// It asked for a cancel of a saga.
    SagaCancelled(Result<(), CancelError>),
    /// It is answered and does nothing more; callers that leave never get here.
    Ended,
}

/// What one caller saw, of which key.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) caller: usize,
    pub(crate) slot: Slot,
    pub(crate) work: Work,
    pub(crate) seen: Seen,
}

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// Nothing.
    Free,
    /// Nothing, or one of these: nobody was told.
    Maybe(BTreeSet<Work>),
    /// This, without an outcome that anybody was told.
    Accepted(Work),
    /// This, with this outcome.
    Settled(Work, Value),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    slots: BTreeMap<Slot, Truth>,
    /// Sagas whose cancel was acknowledged.
    cancelled: BTreeSet<Slot>,
    /// Sagas that cannot be cancelled any more.
    pivoted: BTreeSet<Slot>,
    /// Everything ever submitted.
    submitted: BTreeMap<Slot, BTreeSet<Work>>,
    /// Names that must not be called any more, and how often they were.
    still: BTreeMap<String, u32>,
    /// Names that are also called without a key.
    ephemeral: BTreeSet<String>,
}

/// What one round showed of one key.
struct Round<'a> {
    slot: &'a Slot,
    before: Truth,
    submitted: BTreeSet<Work>,
    accepted: BTreeSet<Work>,
    open: BTreeSet<Work>,
    settled: Option<(Work, Value)>,
    freed: bool,
    /// A cancel was asked for, and nobody was told what came of it.
    revoked: bool,
    withdrawn: BTreeSet<Work>,
    ran: usize,
}

impl Oracle {
    pub(crate) fn truths(&self) -> Vec<(Slot, Truth)> {
        let all = self.slots.iter();
        all.map(|(slot, truth)| (slot.clone(), truth.clone()))
            .collect()
    }

    /// This name is called without a key: how often says nothing.
    pub(crate) fn uncounted(&mut self, name: &str) {
        self.ephemeral.insert(name.to_owned());
        self.still.remove(name);
    }

    /// Compares what a round's callers saw with what they must see. `counts` says whether calls
    /// of the code can be counted.
    pub(crate) fn digest(&mut self, notes: &[Note], outside: &Outside, counts: bool) {
        let slots: BTreeSet<&Slot> = notes.iter().map(|note| &note.slot).collect();
        for slot in slots {
            let notes: Vec<&Note> = notes.iter().filter(|note| note.slot == *slot).collect();
            self.digest_slot(slot, &notes, outside, counts);
        }
        outside.check();
        if counts {
            for (name, calls) in &self.still {
                assert_eq!(outside.calls(name), *calls, "{name} was called again");
            }
        }
    }

    fn digest_slot(&mut self, slot: &Slot, notes: &[&Note], outside: &Outside, counts: bool) {
        let before = self.slots.get(slot).cloned().unwrap_or(Truth::Free);
        let mut round = Round::of(slot, before, notes);
        for note in notes {
            match &note.seen {
                Seen::Replied(reply) => round.replied(&note.work, reply, notes),
                Seen::SagaCancelled(Ok(())) => {
                    self.cancelled.insert(slot.clone());
                }
                Seen::SagaCancelled(Err(CancelError::RollbackRequired { .. })) => {
                    self.pivoted.insert(slot.clone());
                }
                Seen::SagaCancelled(Err(error)) => {
                    assert_eq!(*error, CancelError::Ended, "{slot:?}");
                }
                Seen::Began | Seen::Accepted | Seen::Cancelled(_) | Seen::Ended => {}
            }
        }
        assert!(
            round.freed || round.ran <= 1,
            "{slot:?} ran twice: {notes:?}"
        );
        for work in &round.submitted {
            if let Work::Worth(name) | Work::Put(name) = work
                && !matches!(&round.before, Truth::Settled(settled, _) if settled == work)
            {
                self.still.remove(name);
            }
        }
        let after = round.after();
        self.check_saga(slot, &after);
        if counts && round.open.is_empty() {
            self.quieten(&round, &after, outside);
        }
        let submitted = self.submitted.entry(slot.clone()).or_default();
        submitted.extend(round.submitted);
        self.slots.insert(slot.clone(), after);
    }

    /// Remembers what must not run any more.
    fn quieten(&mut self, round: &Round<'_>, after: &Truth, outside: &Outside) {
        let names: Vec<&String> = match after {
            Truth::Settled(Work::Worth(name) | Work::Put(name), _) => vec![name],
            Truth::Free => {
                let works = round.withdrawn.iter();
                works
                    .filter_map(|work| match work {
                        Work::Worth(name) | Work::Put(name) => Some(name),
                        Work::Chain(_) => None,
                    })
                    .collect()
            }
            Truth::Settled(Work::Chain(_), _) | Truth::Accepted(_) | Truth::Maybe(_) => Vec::new(),
        };
        for name in names {
            if !self.ephemeral.contains(name) {
                let calls = outside.calls(name);
                self.still.entry(name.clone()).or_insert(calls);
            }
        }
    }

    fn check_saga(&self, slot: &Slot, after: &Truth) {
        if let Truth::Settled(Work::Chain(plan), value) = after {
            if self.cancelled.contains(slot) || plan.gives_up {
                assert!(value.is_err(), "{slot:?} was cancelled and completed");
            }
            if self.pivoted.contains(slot) {
                assert!(value.is_ok(), "{slot:?} had pivoted and failed: {value:?}");
            }
        }
    }

    /// What the outside must show once every key is settled or free.
    pub(crate) fn check_outside(&self, outside: &Outside) {
        for (slot, works) in &self.submitted {
            let truth = self.slots.get(slot).cloned().unwrap_or(Truth::Free);
            for work in works {
                let value = match &truth {
                    Truth::Settled(settled, value) if settled == work => Some(value.clone()),
                    Truth::Settled(..) | Truth::Free => None,
                    Truth::Maybe(_) | Truth::Accepted(_) => panic!("{slot:?} is not resolved"),
                };
                check_work(work, value.as_ref(), outside);
            }
        }
    }
}

/// What the outside must show of one piece of work.
fn check_work(work: &Work, value: Option<&Value>, outside: &Outside) {
    let count = |name: &str| {
        let entries = outside.entries(name);
        let puts: u32 = entries.iter().map(|entry| entry.puts).sum();
        let removes: u32 = entries.iter().map(|entry| entry.removes).sum();
        (puts, removes)
    };
    match work {
        Work::Worth(_) => {}
        Work::Put(name) => {
            let expected = u32::from(matches!(value, Some(Ok(_))));
            assert_eq!(count(name), (expected, 0), "{name}: {value:?}");
        }
        Work::Chain(plan) => match value {
            Some(Ok(outputs)) => {
                check_effects(plan, &End::Completed(outputs.clone()), false, outside);
            }
            // A refusal that befell one attempt, or a cancel, may have cut it off anywhere.
            Some(Err(_)) => check_effects(plan, &End::Compensated, true, outside),
            None => check_nothing(plan, outside),
        },
    }
}

impl<'a> Round<'a> {
    fn of(slot: &'a Slot, before: Truth, notes: &[&Note]) -> Self {
        let works = |wanted: &dyn Fn(&Seen) -> bool| -> BTreeSet<Work> {
            let seen = notes.iter().filter(|note| wanted(&note.seen));
            seen.map(|note| note.work.clone()).collect()
        };
        let ended: BTreeSet<usize> = notes
            .iter()
            .filter(|note| matches!(note.seen, Seen::Ended))
            .map(|note| note.caller)
            .collect();
        let open = notes.iter().filter(|note| !ended.contains(&note.caller));
        let frees = |seen: &Seen| {
            matches!(
                seen,
                Seen::Replied(Err(SubmitError::Exhausted(_) | SubmitError::Withdrawn(_)))
            )
        };
        let withdrawn = |seen: &Seen| matches!(seen, Seen::Replied(Err(SubmitError::Withdrawn(_))));
        let revoked = notes
            .iter()
            .any(|note| matches!(note.seen, Seen::Cancelled(_)) && !ended.contains(&note.caller));
        Self {
            revoked,
            slot,
            before,
            submitted: works(&|seen| matches!(seen, Seen::Began)),
            accepted: works(&|seen| matches!(seen, Seen::Accepted)),
            open: open.map(|note| note.work.clone()).collect(),
            settled: None,
            freed: notes.iter().any(|note| frees(&note.seen)),
            withdrawn: works(&withdrawn),
            ran: 0,
        }
    }

    fn replied(
        &mut self,
        work: &Work,
        reply: &Result<(Vec<u64>, Origin), SubmitError>,
        notes: &[&Note],
    ) {
        let slot = self.slot;
        match reply {
            Ok((outputs, origin)) => {
                self.ran += usize::from(*origin == Origin::Ran);
                if matches!(self.before, Truth::Settled(..)) {
                    assert_eq!(*origin, Origin::Replayed, "{slot:?}");
                }
                check_output(work, outputs);
                self.outcome(work, Ok(outputs.clone()));
            }
            Err(SubmitError::Failed(failure)) => self.outcome(work, Err(failure.to_string())),
            Err(SubmitError::Conflict { .. }) => self.conflict(work),
            Err(SubmitError::Exhausted(_)) => self.free(work),
            Err(SubmitError::Withdrawn(_)) => {
                let asked = notes.iter().any(|note| match &note.seen {
                    Seen::Cancelled(Cancelled::Withdrawn | Cancelled::Requested) => true,
                    Seen::Cancelled(Cancelled::TooLate | Cancelled::Shared)
                    | Seen::Began
                    | Seen::Accepted
                    | Seen::Replied(_)
                    | Seen::SagaCancelled(_)
                    | Seen::Ended => false,
                });
                assert!(asked, "{slot:?} was withdrawn unasked");
                self.free(work);
            }
            Err(error) => panic!("{slot:?} {work:?}: {error}"),
        }
    }

    fn outcome(&mut self, work: &Work, value: Value) {
        let slot = self.slot;
        match &self.before {
            Truth::Settled(settled, before) => {
                assert_eq!(
                    (settled, before),
                    (work, &value),
                    "{slot:?} has another outcome"
                );
            }
            Truth::Accepted(accepted) if !self.freed => {
                assert_eq!(accepted, work, "{slot:?} is accepted as something else");
            }
            Truth::Accepted(_) | Truth::Free | Truth::Maybe(_) => {}
        }
        match &self.settled {
            Some((settled, before)) => {
                assert_eq!(
                    (settled, before),
                    (work, &value),
                    "{slot:?} has two outcomes"
                );
            }
            None => self.settled = Some((work.clone(), value)),
        }
    }

    fn conflict(&mut self, work: &Work) {
        let slot = self.slot;
        let with = match &self.before {
            Truth::Settled(settled, _) => settled != work,
            Truth::Accepted(accepted) if !self.freed => accepted != work,
            Truth::Accepted(accepted) => {
                accepted != work || self.submitted.iter().any(|other| other != work)
            }
            Truth::Free => self.submitted.iter().any(|other| other != work),
            Truth::Maybe(maybe) => maybe
                .iter()
                .chain(&self.submitted)
                .any(|other| other != work),
        };
        assert!(with, "{slot:?} {work:?} conflicts with nothing");
    }

    fn free(&mut self, work: &Work) {
        let slot = self.slot;
        assert!(
            !matches!(self.before, Truth::Settled(..)),
            "{slot:?} {work:?} was settled and is unknown"
        );
    }

    /// What the key stands for after the round.
    fn after(&self) -> Truth {
        if let Some((work, value)) = &self.settled {
            return Truth::Settled(work.clone(), value.clone());
        }
        let mut maybe: BTreeSet<Work> = &self.open | &self.accepted;
        match &self.before {
            Truth::Settled(..) => return self.before.clone(),
            Truth::Accepted(_) if !self.freed && !self.revoked => return self.before.clone(),
            Truth::Accepted(work) => {
                maybe.insert(work.clone());
            }
            Truth::Maybe(works) => maybe.extend(works.iter().cloned()),
            Truth::Free => {}
        }
        let mut accepted = self.accepted.iter();
        match (accepted.next(), accepted.next()) {
            (Some(work), None) if !self.freed && !self.revoked => {
                return Truth::Accepted(work.clone());
            }
            _ => {}
        }
        // A caller who was told that its key is unknown again was told so of this very work.
        for work in &self.withdrawn {
            if !self.open.contains(work) && !matches!(self.before, Truth::Maybe(_)) {
                maybe.remove(work);
            }
        }
        if maybe.is_empty() {
            Truth::Free
        } else {
            Truth::Maybe(maybe)
        }
    }
}

fn check_output(work: &Work, outputs: &[u64]) {
    match work {
        Work::Worth(name) | Work::Put(name) => assert_eq!(outputs, [worth(name)], "{name}"),
        Work::Chain(plan) => {
            if let Some(expected) = output_of(plan) {
                assert_eq!(outputs, expected, "{}", plan.name);
            }
        }
    }
}
