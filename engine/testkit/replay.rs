//! Replay: an exported history against today's code, without any effect.
//!
//! The saga's function is run from its beginning and told what the history says its calls
//! answered, in that order. Nothing it asks for is run. What it asks for is compared with what it
//! asked for then, by the rules by which an engine parks a saga that does something else.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::BoxFuture;
use orlop_saga::canonical::Payload;
use orlop_saga::effect::CodeRef;
use orlop_saga::history::History;
use orlop_saga::id::StepIndex;
use orlop_saga::key::Fingerprint;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{Bond, Call, CallIntent, CallKind, Cause, Delivery, Phase, SagaState};
use orlop_saga::step::{Prior, Step, StepOutcome};

use super::clock::SimClock;
use crate::builder::EngineBuilder;
use crate::driver::notes;
use crate::error::RegisterError;
use crate::executor::panic_text;
use crate::options::Limits;
use crate::registry::{Registry, SagaEntry};
use crate::saga::script::{Answer, Issue, Script};
use crate::saga::{SagaContext, SagaError};

/// How often a function may wake itself in one turn.
const POLLS_MAX: u32 = 10_000;

/// What today's code does with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The same, as far as the history goes.
    Same {
        /// How many outcomes the code was told.
        told: usize,
        /// How many outcomes it was told then. More than `told` where the saga has unwound since:
        /// the outcome of a step is gone once the step is undone.
        recorded: usize,
        /// What it calls next that the history does not have.
        further: Vec<StepPath>,
    },
    /// Something else: an engine would park the saga.
    Diverged {
        /// At which call, if it is one.
        path: Option<StepPath>,
        /// What is other than it was.
        reason: String,
    },
}

/// Runs an exported history against the code that is bound to `builder`, without any effect: no
/// engine is opened, and neither a step nor an undo is run. The saga's own function is.
///
/// A version that is not the recorded one, of the saga or of a computation that it has called, is
/// a divergence: an engine would hold the saga until code of that version is back.
///
/// # Errors
/// [`RegisterError`]: the code is bound in a way that cannot be.
pub fn replay(history: &History, builder: EngineBuilder) -> Result<Replayed, RegisterError> {
    let (registry, limits) = builder.definitions()?;
    let start = history.state.start();
    let entry = match registry.saga(&start.code.name) {
        Some(entry) if entry.reference == start.code => entry,
        Some(entry) => {
            let reason = format!("it runs {}, registered is {}", start.code, entry.reference);
            return Ok(Replayed::Diverged { path: None, reason });
        }
        None => {
            let reason = format!("saga {} is not registered", start.code);
            return Ok(Replayed::Diverged { path: None, reason });
        }
    };
    let mut replay = Replay::begin(&history.state, &entry, Arc::new(registry), limits);
    Ok(match replay.play() {
        Ok(()) => Replayed::Same {
            told: replay.told,
            recorded: history.state.deliveries().len(),
            further: replay.further,
        },
        Err(Divergence { path, reason }) => Replayed::Diverged { path, reason },
    })
}

/// The first difference.
struct Divergence {
    path: Option<StepPath>,
    reason: String,
}

fn diverged(path: Option<&StepPath>, reason: impl Into<String>) -> Divergence {
    Divergence {
        path: path.cloned(),
        reason: reason.into(),
    }
}

/// Whether a function woke itself while it was polled.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One execution of the function over a history.
struct Replay<'a> {
    state: &'a SagaState,
    script: Arc<Script>,
    future: Option<BoxFuture<'static, Result<Payload, SagaError>>>,
    result: Option<Result<Payload, SagaError>>,
    called: BTreeSet<StepIndex>,
    told: usize,
    further: Vec<StepPath>,
}

impl<'a> Replay<'a> {
    fn begin(
        state: &'a SagaState,
        entry: &Arc<SagaEntry>,
        registry: Arc<Registry>,
        limits: Limits,
    ) -> Self {
        let clock = Arc::new(SimClock::new(0));
        let parent = state.start().parent;
        let adopted = parent.is_some_and(|parent| parent.bond == Bond::Adopted);
        let script = Arc::new(Script::new(registry, limits, clock, notes(state), adopted));
        let context = SagaContext::new(Arc::clone(&script));
        let input = state.start().input.clone();
        let code = Arc::clone(&entry.code);
        Self {
            state,
            script,
            future: Some(code.start(context, input, limits.output_bytes_max)),
            result: None,
            called: BTreeSet::new(),
            told: 0,
            further: Vec::new(),
        }
    }

    fn play(&mut self) -> Result<(), Divergence> {
        loop {
            self.poll()?;
            for issue in self.script.take_issues() {
                self.compare(&issue)?;
            }
            if self.result.is_some() || !self.tell_next()? {
                break;
            }
        }
        self.conclude()
    }

    fn poll(&mut self) -> Result<(), Divergence> {
        for _ in 0..POLLS_MAX {
            let Some(future) = &mut self.future else {
                return Ok(());
            };
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut context = Context::from_waker(&waker);
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
                Ok(Poll::Pending) if woken.0.load(Ordering::Relaxed) => {}
                Ok(Poll::Pending) => return Ok(()),
                Ok(Poll::Ready(result)) => {
                    self.result = Some(result);
                    self.future = None;
                    return Ok(());
                }
                Err(panic) => return Err(diverged(None, panic_text(&*panic))),
            }
        }
        Err(diverged(
            None,
            format!("it wakes itself without end: {POLLS_MAX} polls in a row"),
        ))
    }

    /// What was recorded of a call; a call that was not is one further.
    fn recorded(&mut self, path: &StepPath) -> Option<(StepIndex, &'a Call)> {
        let found = self.state.find(path);
        let call = found.and_then(|index| Some((index, self.state.call(index)?)));
        if call.is_none() {
            self.further.push(path.clone());
        }
        call
    }

    fn compare(&mut self, issue: &Issue) -> Result<(), Divergence> {
        let (path, what) = match issue {
            Issue::Step(path, _) => (path, "a step"),
            Issue::Child(path, _) => (path, "a child"),
            Issue::Sleep(path, _) => (path, "a sleep"),
            Issue::Note(path, _) => (path, "what it asks for"),
            Issue::Signal(path, _) => (path, "a wait for this signal"),
            Issue::Missing(path, name) => {
                let why = format!("it needs {name:?}, which is not registered");
                return Err(diverged(Some(path), why));
            }
            Issue::Pivot => return Ok(()),
        };
        let Some((index, call)) = self.recorded(path) else {
            return Ok(());
        };
        let same = match (issue, &call.kind) {
            (Issue::Step(_, spec), CallKind::Step { child: None, .. }) => {
                return self.step(index, call, (&spec.code.reference, spec.fingerprint));
            }
            (Issue::Child(_, spec), CallKind::Step { child: Some(_), .. }) => {
                return self.step(index, call, (&spec.code, spec.fingerprint));
            }
            (Issue::Sleep(..), CallKind::Sleep { .. }) => true,
            (Issue::Note(_, CallIntent::Now { at }), CallKind::Now { at: was }) => at == was,
            (Issue::Note(_, CallIntent::Random { value }), CallKind::Random { value: was }) => {
                value == was
            }
            (Issue::Signal(_, name), CallKind::Signal { name: was, .. }) => name == was,
            (
                Issue::Step(..)
                | Issue::Child(..)
                | Issue::Sleep(..)
                | Issue::Note(..)
                | Issue::Signal(..)
                | Issue::Missing(..)
                | Issue::Pivot,
                CallKind::Step { .. }
                | CallKind::Sleep { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. }
                | CallKind::Signal { .. },
            ) => false,
        };
        if !same {
            let why = format!("it is recorded as something else than {what}");
            return Err(diverged(Some(path), why));
        }
        self.called.insert(index);
        Ok(())
    }

    /// A step or a child: what is registered and asked for now, against what is recorded.
    fn step(
        &mut self,
        index: StepIndex,
        call: &Call,
        (registered, asked): (&CodeRef, Fingerprint),
    ) -> Result<(), Divergence> {
        let CallKind::Step {
            code, fingerprint, ..
        } = &call.kind
        else {
            return Ok(());
        };
        if code.name != registered.name || *fingerprint != asked {
            let why = format!("it is recorded as {code} with another input");
            return Err(diverged(Some(&call.path), why));
        }
        if code.version != registered.version {
            let why = format!("it runs {code}, registered is {registered}");
            return Err(diverged(Some(&call.path), why));
        }
        self.called.insert(index);
        Ok(())
    }

    /// Tells the function the next outcome; false if there is none that is still known.
    fn tell_next(&mut self) -> Result<bool, Divergence> {
        let Some(delivery) = self.state.deliveries().get(self.told) else {
            return Ok(false);
        };
        let index = match delivery {
            Delivery::Call(index) => *index,
            Delivery::Pivot if self.script.pivot_asked() => {
                self.told += 1;
                self.script.deliver_pivot();
                return Ok(true);
            }
            Delivery::Pivot => {
                let why = "it has passed its pivot and does not ask for it";
                return Err(diverged(None, why));
            }
        };
        let Some(call) = self.state.call(index) else {
            return Ok(false);
        };
        if !self.called.contains(&index) {
            let why = "it is recorded before this point and was not called";
            return Err(diverged(Some(&call.path), why));
        }
        let Some(answer) = self.answer(index, call) else {
            return Ok(false);
        };
        self.told += 1;
        self.script.deliver(call.path.clone(), answer);
        Ok(true)
    }

    fn answer(&self, index: StepIndex, call: &Call) -> Option<Answer> {
        match &call.kind {
            CallKind::Step { step, .. } => match step {
                Step::Settled { outcome, .. } => Some(Answer::Step(match outcome {
                    StepOutcome::Done(output) => Ok(output.clone()),
                    StepOutcome::FailedNoEffect(failure) => Err(failure.clone()),
                })),
                Step::Undoing { prior, .. } => match prior {
                    Prior::Done(output) => Some(Answer::Step(Ok(output.clone()))),
                    Prior::InDoubt => None,
                },
                Step::Launched { .. } | Step::Undone { .. } => None,
            },
            CallKind::Signal { .. } => {
                let signal = self.state.taken(index)?;
                Some(Answer::Signal(signal.payload.clone()))
            }
            CallKind::Sleep { .. } | CallKind::Now { .. } | CallKind::Random { .. } => {
                Some(Answer::Awake)
            }
        }
    }

    /// Compares the end, as far as both got to one.
    fn conclude(&self) -> Result<(), Divergence> {
        let told_all = self.told == self.state.deliveries().len();
        if let (Some(_), true) = (&self.result, told_all) {
            let calls = (0_u32..).map(StepIndex::new).zip(self.state.calls());
            for (index, call) in calls {
                if !self.called.contains(&index) {
                    let why = "it ends without calling it, which is recorded";
                    return Err(diverged(Some(&call.path), why));
                }
            }
        }
        if self.result.is_some() && !told_all {
            return Err(diverged(None, "it ends before it was told everything"));
        }
        match (self.state.phase(), &self.result) {
            (Phase::Completed { output, .. }, Some(Ok(now))) if output == now => self.no_more(),
            // Its output is not in the history.
            (Phase::CompletedInBlob { .. }, Some(Ok(_))) => self.no_more(),
            (Phase::Completed { .. }, Some(Ok(_))) => {
                Err(diverged(None, "it completes with another output"))
            }
            (Phase::Completed { .. } | Phase::CompletedInBlob { .. }, Some(Err(error))) => Err(
                diverged(None, format!("it completed and now fails: {error}")),
            ),
            (Phase::Completed { .. } | Phase::CompletedInBlob { .. }, None) => {
                let why = "it completed and now waits for more";
                Err(diverged(self.further.first(), why))
            }
            (Phase::Unwinding { cause } | Phase::Compensated { cause, .. }, Some(result)) => {
                unwound(cause, result)
            }
            (
                Phase::Unwinding { .. }
                | Phase::Compensated { .. }
                | Phase::Running
                | Phase::Abandoned { .. },
                None,
            ) => Ok(()),
            // It ends where it had not: it was not told so yet, which is no difference.
            (Phase::Running | Phase::Abandoned { .. }, Some(_)) => Ok(()),
        }
    }

    fn no_more(&self) -> Result<(), Divergence> {
        match self.further.first() {
            None => Ok(()),
            Some(path) => Err(diverged(Some(path), "it is called and was not")),
        }
    }
}

/// Whether a function whose saga has unwound ended as it did then.
fn unwound(cause: &Cause, result: &Result<Payload, SagaError>) -> Result<(), Divergence> {
    match (cause, result) {
        (Cause::Failed(failure), Err(error)) if failure.reason() == error.to_string() => Ok(()),
        (Cause::Failed(failure), Err(error)) => {
            let why = format!("it failed with {failure} and now with {error}");
            Err(diverged(None, why))
        }
        (Cause::Failed(failure), Ok(_)) => {
            let why = format!("it failed with {failure} and now completes");
            Err(diverged(None, why))
        }
        // What ended it came from outside of its function.
        (Cause::Cancelled | Cause::Expired | Cause::Recalled, Ok(_) | Err(_)) => Ok(()),
    }
}
