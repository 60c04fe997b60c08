//! The past: what the journal has of a run's sagas, and what no life may do over it.
//!
//! An outside that answers a repetition as it answered the first time hides that an outcome was
//! lost and made again. Here it shows.

use std::collections::{BTreeMap, BTreeSet};

use orlop_saga::id::{Fence, SagaId, StepIndex};
use orlop_saga::outcome::Disposition;
use orlop_saga::saga::{CallIntent, SagaEvent};
use orlop_saga::step::StepOutcome;

use super::gate::Kind;
use super::sweep::Finding;

/// An attempt of a saga that was let through, or made to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) saga: SagaId,
    pub(crate) kind: Kind,
    pub(crate) path: String,
    pub(crate) label: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Past {
    sagas: BTreeMap<SagaId, Story>,
}

/// What the journal has of one saga.
#[derive(Debug, Default)]
struct Story {
    /// The paths of its calls, in the order of their intents.
    paths: Vec<String>,
    settled: BTreeSet<StepIndex>,
    undone: BTreeSet<StepIndex>,
    /// Attempts to run and to undo each step.
    runs: BTreeMap<StepIndex, usize>,
    undos: BTreeMap<StepIndex, usize>,
    /// Every attempt that was about to be started.
    fences: BTreeSet<(StepIndex, Fence)>,
    unwinds: bool,
    ended: bool,
}

impl Past {
    pub(crate) fn of(events: &[(SagaId, SagaEvent)]) -> Self {
        let mut past = Self::default();
        for (saga, event) in events {
            past.sagas.entry(*saga).or_default().follow(event);
        }
        past
    }

    /// Whether any saga has begun to unwind.
    pub(crate) fn unwinds(&self) -> bool {
        self.sagas.values().any(|story| story.unwinds)
    }

    /// Whether the first saga, which is the swept one, has ended.
    pub(crate) fn ended(&self) -> bool {
        let first = self.sagas.values().next();
        first.is_some_and(|story| story.ended)
    }

    /// Whether it has that this attempt was about to be started.
    pub(crate) fn has(&self, saga: SagaId, path: &str, fence: Fence) -> bool {
        let story = self.sagas.get(&saga);
        let index = story.and_then(|story| story.index(path));
        index.is_some_and(|index| story.is_some_and(|s| s.fences.contains(&(index, fence))))
    }

    /// What of that which a life tried this past forbids: all of it was durable when it began.
    pub(crate) fn forbids(&self, tried: &[Tried]) -> Option<Finding> {
        tried.iter().find_map(|tried| {
            let said = self.sagas.get(&tried.saga)?.forbids(tried)?;
            Some(Finding::Again {
                call: tried.label.clone(),
                said: said.to_owned(),
            })
        })
    }

    /// What was tried over all lives and is not in this past, which is that of the last one; or was
    /// undone before what came after it.
    pub(crate) fn lacks(&self, tried: &[Tried]) -> Option<Finding> {
        let mut counts: BTreeMap<(SagaId, &str, &Kind), usize> = BTreeMap::new();
        let mut oldest: BTreeMap<SagaId, (StepIndex, &Tried)> = BTreeMap::new();
        for tried in tried {
            let story = self.sagas.get(&tried.saga);
            let found = story.and_then(|story| Some((story, story.index(&tried.path)?)));
            let unrecorded = || Finding::Unrecorded {
                call: tried.label.clone(),
            };
            let Some((story, index)) = found else {
                return Some(unrecorded());
            };
            let recorded = match tried.kind {
                Kind::Run => story.runs.get(&index),
                Kind::Undo => story.undos.get(&index),
                Kind::Ask => continue,
            };
            let key = (tried.saga, tried.path.as_str(), &tried.kind);
            let count = counts.entry(key).or_default();
            *count += 1;
            if recorded.is_none_or(|recorded| *count > *recorded) {
                return Some(unrecorded());
            }
            if tried.kind == Kind::Undo
                && let Some((before, after)) = oldest.insert(tried.saga, (index, tried))
                && before < index
            {
                return Some(Finding::Disorder {
                    call: tried.label.clone(),
                    after: after.label.clone(),
                });
            }
        }
        None
    }
}

impl Story {
    fn follow(&mut self, event: &SagaEvent) {
        match event {
            SagaEvent::Called { path, intent } => {
                let index = StepIndex::new(u32::try_from(self.paths.len()).unwrap_or(u32::MAX));
                self.paths.push(path.to_string());
                self.runs.insert(index, 1);
                if let CallIntent::Step { fence, .. } = intent {
                    self.fences.insert((index, *fence));
                }
            }
            SagaEvent::Relaunched { step, asks, fence } => {
                *self.runs.entry(*step).or_default() += usize::from(!asks);
                self.fences.insert((*step, *fence));
            }
            SagaEvent::Settled { step, outcome, .. } => {
                let for_good = match outcome {
                    StepOutcome::Done(_) => true,
                    StepOutcome::FailedNoEffect(failure) => {
                        failure.disposition() == Disposition::Permanent
                    }
                };
                if for_good {
                    self.settled.insert(*step);
                }
            }
            SagaEvent::UnwindingStarted { .. } => {
                self.unwinds = true;
                // A child that had ended well is taken back with its parent.
                self.ended = false;
            }
            SagaEvent::UndoLaunched { step, fence } => {
                *self.undos.entry(*step).or_default() += 1;
                self.fences.insert((*step, *fence));
            }
            SagaEvent::Undone { step, .. } | SagaEvent::UndoSkipped { step, .. } => {
                self.undone.insert(*step);
            }
            SagaEvent::Completed { .. }
            | SagaEvent::CompletedInBlob { .. }
            | SagaEvent::Compensated { .. }
            | SagaEvent::Abandoned { .. } => self.ended = true,
            SagaEvent::Skipped { step, .. } => {
                self.settled.insert(*step);
            }
            SagaEvent::Reopened { step, .. } => {
                self.settled.remove(step);
            }
            SagaEvent::Started(_)
            | SagaEvent::Woke { .. }
            | SagaEvent::Pivoted
            | SagaEvent::CancelRequested
            | SagaEvent::Held(_)
            | SagaEvent::Resumed
            | SagaEvent::Signalled { .. }
            | SagaEvent::DeadlinePassed { .. }
            | SagaEvent::Released
            | SagaEvent::Forked(_)
            | SagaEvent::Probed
            | SagaEvent::Acquitted => {}
        }
    }

    fn index(&self, path: &str) -> Option<StepIndex> {
        let index = self.paths.iter().position(|known| known == path)?;
        u32::try_from(index).ok().map(StepIndex::new)
    }

    fn forbids(&self, tried: &Tried) -> Option<&'static str> {
        let index = self.index(&tried.path);
        let has = |steps: &BTreeSet<StepIndex>| index.is_some_and(|index| steps.contains(&index));
        if self.ended {
            return Some("the saga had ended");
        }
        match tried.kind {
            Kind::Run if self.unwinds => Some("the saga unwound"),
            Kind::Run | Kind::Ask if has(&self.settled) => Some("the step had settled"),
            Kind::Undo if has(&self.undone) => Some("the step was undone"),
            Kind::Run | Kind::Ask | Kind::Undo => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::amount::BusyNanos;
    use orlop_saga::canonical::Payload;
    use orlop_saga::id::{Attempt, Incarnation};
    use orlop_saga::path::StepPath;
    use orlop_saga::saga::Cause;
    use orlop_saga::time::WallMillis;

    use super::*;

    const SAGA: SagaId = SagaId::new(1);

    fn called(path: &str) -> SagaEvent {
        let path = StepPath::root(path).unwrap();
        let until = WallMillis::new(0);
        let intent = CallIntent::Sleep { until };
        SagaEvent::Called { path, intent }
    }

    fn fence() -> Fence {
        Fence::new(Incarnation::new(1), Attempt::new(1))
    }

    fn settled(step: u32) -> SagaEvent {
        SagaEvent::Settled {
            step: StepIndex::new(step),
            fence: fence(),
            outcome: StepOutcome::Done(Payload::default()),
            cost: BusyNanos::default(),
        }
    }

    fn unwinds() -> SagaEvent {
        let cause = Cause::Cancelled;
        SagaEvent::UnwindingStarted { cause }
    }

    fn undoes(step: u32) -> [SagaEvent; 2] {
        let (step, fence) = (StepIndex::new(step), fence());
        let cost = BusyNanos::default();
        let launched = SagaEvent::UndoLaunched { step, fence };
        [launched, SagaEvent::Undone { step, fence, cost }]
    }

    fn past(events: impl IntoIterator<Item = SagaEvent>) -> Past {
        let events: Vec<_> = events.into_iter().map(|event| (SAGA, event)).collect();
        Past::of(&events)
    }

    fn tried(kind: Kind, path: &str) -> Tried {
        Tried {
            saga: SAGA,
            kind,
            path: path.to_owned(),
            label: path.to_owned(),
        }
    }

    fn forbidden(past: &Past, kind: Kind) -> Option<String> {
        past.forbids(&[tried(kind, "a")])
            .map(|finding| finding.to_string())
    }

    #[test]
    fn what_has_settled_or_was_undone_is_not_tried_again() {
        let mut events = vec![called("a")];
        assert_eq!(forbidden(&past(events.clone()), Kind::Run), None);
        assert_eq!(forbidden(&past(events.clone()), Kind::Ask), None);
        events.push(settled(0));
        for kind in [Kind::Run, Kind::Ask] {
            let said = forbidden(&past(events.clone()), kind).unwrap();
            assert!(said.contains("the step had settled"), "{said}");
        }
        events.push(unwinds());
        let said = forbidden(&past(events.clone()), Kind::Run).unwrap();
        assert!(said.contains("the saga unwound"), "{said}");
        assert_eq!(forbidden(&past(events.clone()), Kind::Undo), None);
        events.extend(undoes(0));
        let said = forbidden(&past(events.clone()), Kind::Undo).unwrap();
        assert!(said.contains("the step was undone"), "{said}");
        let at = WallMillis::new(0);
        events.push(SagaEvent::Compensated { at });
        let past = past(events);
        assert!(past.ended() && past.unwinds());
        let said = forbidden(&past, Kind::Undo).unwrap();
        assert!(said.contains("the saga had ended"), "{said}");
    }

    #[test]
    fn an_attempt_without_a_record_is_found() {
        let past = past([called("a")]);
        let a = tried(Kind::Run, "a");
        assert!(past.lacks(std::slice::from_ref(&a)).is_none());
        let one_call = |finding| matches!(finding, Some(Finding::Unrecorded { .. }));
        // Twice where one attempt is recorded, another step, and an undo.
        assert!(one_call(past.lacks(&[a.clone(), a])));
        assert!(one_call(past.lacks(&[tried(Kind::Run, "b")])));
        assert!(one_call(past.lacks(&[tried(Kind::Undo, "a")])));
        assert!(!past.has(SAGA, "a", fence()));
        let recorded = self::past([called("a"), unwinds()].into_iter().chain(undoes(0)));
        assert!(recorded.has(SAGA, "a", fence()));
    }

    #[test]
    fn undos_out_of_order_are_found() {
        let events = [called("a"), called("b"), unwinds()];
        let past = past(events.into_iter().chain(undoes(1)).chain(undoes(0)));
        let [a, b] = ["a", "b"].map(|path| tried(Kind::Undo, path));
        assert!(past.lacks(&[b.clone(), a.clone()]).is_none());
        let found = past.lacks(&[a, b]);
        assert!(matches!(found, Some(Finding::Disorder { .. })), "{found:?}");
    }
}
