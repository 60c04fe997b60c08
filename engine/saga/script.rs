//! The script: the ledger between a saga's function and the driver that plays it.
//!
//! Invariants
//! - Function and driver take turns on one thread; the lock is never contended and never held
//!   while either runs.
//! - A path is called once in an execution.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::Waker;

use orlop_saga::canonical::Payload;
use orlop_saga::effect::CodeRef;
use orlop_saga::key::Fingerprint;
use orlop_saga::outcome::Failure;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{Bond, CallIntent, UndoIntent};
use orlop_saga::time::{Clock, WallMillis};
use parking_lot::Mutex;

use crate::lease::Bounds;
use crate::options::{Limits, RetryPolicy};
use crate::registry::{Code, Registry};
use crate::saga::StepError;

/// What the function asked for in this turn.
pub(crate) enum Issue {
    /// A step.
    Step(StepPath, Arc<StepSpec>),
    /// A sleep, until a time by the clock of the first execution.
    Sleep(StepPath, WallMillis),
    /// Time or randomness, answered on the spot.
    Note(StepPath, CallIntent),
    /// A saga of its own.
    Child(StepPath, Arc<ChildSpec>),
    /// A wait for a signal of this name.
    Signal(StepPath, Box<str>),
    /// Only forward from here.
    Pivot,
    /// A call of code that is not registered.
    Missing(StepPath, &'static str),
}

impl Issue {
    /// Where in the saga it is asked for; the pivot is nowhere.
    pub(crate) fn path(&self) -> Option<&StepPath> {
        match self {
            Self::Step(path, _)
            | Self::Sleep(path, _)
            | Self::Note(path, _)
            | Self::Child(path, _)
            | Self::Signal(path, _)
            | Self::Missing(path, _) => Some(path),
            Self::Pivot => None,
        }
    }
}

/// What a step runs; lives in memory only, since the function says it again on replay.
pub(crate) struct StepSpec {
    pub(crate) code: Arc<Code>,
    pub(crate) input: Payload,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) undo: Option<UndoIntent>,
    pub(crate) retry: RetryPolicy,
    pub(crate) bounds: Bounds,
}

/// What a child is started with.
pub(crate) struct ChildSpec {
    pub(crate) code: CodeRef,
    pub(crate) input: Payload,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) retention: std::time::Duration,
    pub(crate) undo: Option<UndoIntent>,
    pub(crate) bond: Bond,
}

/// What the driver tells the function.
pub(crate) enum Answer {
    /// A step's end.
    Step(Result<Payload, Failure>),
    /// A sleep is over.
    Awake,
    /// A signal came.
    Signal(Payload),
}

/// See the module.
pub(crate) struct Script {
    pub(crate) registry: Arc<Registry>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether a parent undoes it by its own undos.
    adopted: bool,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    issues: Vec<Issue>,
    called: HashSet<StepPath>,
    answers: HashMap<StepPath, Answer>,
    wakers: HashMap<StepPath, Waker>,
    notes: HashMap<StepPath, CallIntent>,
    pivot: Pivot,
    pivot_waker: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Pivot {
    #[default]
    Ahead,
    Asked,
    Passed,
}

impl Script {
    /// A script for one execution; `notes` is what time and randomness were in an earlier one.
    /// An `adopted` one has no pivot.
    pub(crate) fn new(
        registry: Arc<Registry>,
        limits: Limits,
        clock: Arc<dyn Clock>,
        notes: HashMap<StepPath, CallIntent>,
        adopted: bool,
    ) -> Self {
        let ledger = Ledger {
            notes,
            ..Ledger::default()
        };
        Self {
            registry,
            limits,
            clock,
            adopted,
            ledger: Mutex::new(ledger),
        }
    }

    /// Records a call; refuses a path that was called before.
    pub(crate) fn issue(&self, issue: Issue) -> Result<(), StepError> {
        let mut ledger = self.ledger.lock();
        let path = match &issue {
            Issue::Step(path, spec) => {
                if spec.undo.is_some() && ledger.pivot != Pivot::Ahead {
                    return Err(StepError::Pivoted {
                        what: "a step with an undo",
                    });
                }
                Some(path.clone())
            }
            Issue::Child(path, spec) => {
                let undone = spec.undo.is_some() || spec.bond == Bond::Adopted;
                if undone && ledger.pivot != Pivot::Ahead {
                    return Err(StepError::Pivoted {
                        what: "a child that is undone with its parent",
                    });
                }
                Some(path.clone())
            }
            Issue::Pivot if self.adopted => return Err(StepError::PivotInChild),
            Issue::Sleep(path, _)
            | Issue::Signal(path, _)
            | Issue::Note(path, _)
            | Issue::Missing(path, _) => Some(path.clone()),
            Issue::Pivot => None,
        };
        match path {
            Some(path) => {
                if !ledger.called.insert(path.clone()) {
                    return Err(StepError::DuplicateStep { path });
                }
            }
            None if ledger.pivot == Pivot::Ahead => ledger.pivot = Pivot::Asked,
            None => {
                return Err(StepError::Pivoted {
                    what: "a second pivot",
                });
            }
        }
        ledger.issues.push(issue);
        Ok(())
    }

    /// What time or randomness was at this path in an earlier execution, or `fresh` now.
    ///
    /// Where something else is recorded, `fresh` is issued: the driver sees the difference and
    /// parks the saga before anything comes of the answer.
    pub(crate) fn note<T>(
        &self,
        path: StepPath,
        read: impl Fn(&CallIntent) -> Option<T>,
        fresh: CallIntent,
    ) -> Result<Option<T>, StepError> {
        let known = self.ledger.lock().notes.remove(&path);
        let intent = known.filter(|known| read(known).is_some()).unwrap_or(fresh);
        let value = read(&intent);
        self.issue(Issue::Note(path, intent))?;
        Ok(value)
    }

    /// The answer to a call, or a promise to wake.
    pub(crate) fn answer(&self, path: &StepPath, waker: &Waker) -> Option<Answer> {
        let mut ledger = self.ledger.lock();
        let answer = ledger.answers.remove(path);
        if answer.is_none() {
            ledger.wakers.insert(path.clone(), waker.clone());
        }
        answer
    }

    /// Whether the pivot is passed, or a promise to wake.
    pub(crate) fn pivot_passed(&self, waker: &Waker) -> bool {
        let mut ledger = self.ledger.lock();
        let passed = ledger.pivot == Pivot::Passed;
        if !passed {
            ledger.pivot_waker = Some(waker.clone());
        }
        passed
    }

    /// Whether the function waits for the pivot, or has passed it.
    pub(crate) fn pivot_asked(&self) -> bool {
        self.ledger.lock().pivot != Pivot::Ahead
    }

    /// The function does not wait for the pivot any more; without effect once it is passed.
    pub(crate) fn withdraw_pivot(&self) {
        let mut ledger = self.ledger.lock();
        if ledger.pivot == Pivot::Asked {
            ledger.pivot = Pivot::Ahead;
        }
    }

    /// What the function asked for since the last call of this.
    pub(crate) fn take_issues(&self) -> Vec<Issue> {
        std::mem::take(&mut self.ledger.lock().issues)
    }

    /// Tells the function the answer to a call.
    pub(crate) fn deliver(&self, path: StepPath, answer: Answer) {
        let mut ledger = self.ledger.lock();
        let waker = ledger.wakers.remove(&path);
        ledger.answers.insert(path, answer);
        drop(ledger);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tells the function that the pivot is passed.
    pub(crate) fn deliver_pivot(&self) {
        let mut ledger = self.ledger.lock();
        ledger.pivot = Pivot::Passed;
        let waker = ledger.pivot_waker.take();
        drop(ledger);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
