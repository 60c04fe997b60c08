//! One call of a saga on its way.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use orlop_saga::canonical;
use orlop_saga::effect::CodeRef;
use orlop_saga::key::Fingerprint;
use orlop_saga::path::{PathError, StepPath};
use orlop_saga::saga::UndoIntent;
use serde::de::DeserializeOwned;

use crate::computation::{Computation, Undo};
use crate::lease::{Bounds, Lease};
use crate::options::RetryPolicy;
use crate::saga::StepError;
use crate::saga::context::Backward;
use crate::saga::script::{Answer, Issue, Script, StepSpec};

/// A step before it is awaited.
#[must_use = "a step does nothing until it is awaited"]
pub struct StepCall<C: Computation, D> {
    script: Arc<Script>,
    path: Result<StepPath, PathError>,
    input: C::Input,
    undo: Result<Option<UndoIntent>, StepError>,
    missing_undo: Option<&'static str>,
    retry: RetryPolicy,
    bounds: Bounds,
    direction: PhantomData<fn() -> D>,
}

impl<C: Computation, D> StepCall<C, D> {
    pub(crate) fn new(
        script: Arc<Script>,
        path: Result<StepPath, PathError>,
        input: C::Input,
    ) -> Self {
        let (retry, bounds) = (script.limits.retry, script.limits.bounds());
        Self {
            script,
            path,
            input,
            undo: Ok(None),
            missing_undo: None,
            retry,
            bounds,
            direction: PhantomData,
        }
    }

    /// How often and how patiently failures without effect are tried again.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How long one attempt may take. An `External` attempt that takes longer is in doubt.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.bounds.timeout = Some(timeout);
        self
    }

    /// How long one attempt may go without a [`heartbeat`](crate::Attempt::heartbeat), and what
    /// follows if it does.
    pub fn lease(mut self, lease: Lease) -> Self {
        self.bounds.lease = Some(lease);
        self
    }

    fn issue(self) -> (Arc<Script>, Result<Issue, StepError>) {
        let script = Arc::clone(&self.script);
        let issue = self.into_issue(&script);
        (script, issue)
    }

    fn into_issue(self, script: &Script) -> Result<Issue, StepError> {
        let path = self.path?;
        let undo = self.undo?;
        let (Some(code), None) = (script.registry.code(C::NAME), self.missing_undo) else {
            // Not the saga's failure: it is paused until an engine has the code.
            return Ok(Issue::Missing(path, self.missing_undo.unwrap_or(C::NAME)));
        };
        let input =
            canonical::encode(&self.input, script.limits.input_bytes_max).map_err(|source| {
                StepError::Encode {
                    path: path.clone(),
                    source,
                }
            })?;
        let fingerprint = Fingerprint::of(C::NAME, C::INPUT_SCHEMA, &input);
        let (retry, bounds) = (self.retry, self.bounds);
        let spec = StepSpec {
            code,
            input,
            fingerprint,
            undo,
            retry,
            bounds,
        };
        Ok(Issue::Step(path, Arc::new(spec)))
    }
}

impl<C: Computation> StepCall<C, Backward> {
    /// Records, before the step runs, how to undo it. At unwinding the undo gets the argument,
    /// the step's remote key, and what is known of the step.
    pub fn undo<U: Undo<Step = C>>(mut self, undo: U, argument: impl Into<U::Argument>) -> Self {
        let _ = undo;
        if self.script.registry.undo(U::NAME).is_none() {
            self.missing_undo = Some(U::NAME);
        }
        self.undo = self.undo_intent::<U>(&argument.into()).map(Some);
        self
    }

    fn undo_intent<U: Undo<Step = C>>(
        &self,
        argument: &U::Argument,
    ) -> Result<UndoIntent, StepError> {
        let argument = canonical::encode(argument, self.script.limits.input_bytes_max);
        let argument = match (argument, &self.path) {
            (Ok(argument), _) => argument,
            (Err(_), Err(error)) => return Err(error.clone().into()),
            (Err(source), Ok(path)) => {
                return Err(StepError::Encode {
                    path: path.clone(),
                    source,
                });
            }
        };
        Ok(UndoIntent {
            code: CodeRef::new(U::NAME, U::VERSION),
            argument,
        })
    }
}

impl<C: Computation, D> IntoFuture for StepCall<C, D> {
    type Output = Result<C::Output, StepError>;
    type IntoFuture = StepFuture<C::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (script, issue) = self.issue();
        StepFuture::new(script, issue)
    }
}

pub(super) enum State {
    Ready(Option<Result<Issue, StepError>>),
    Waiting(StepPath),
}

impl State {
    /// A call that was not made yet.
    pub(super) fn ready(issue: Result<Issue, StepError>) -> Self {
        Self::Ready(Some(issue))
    }

    /// Makes the call at the first poll, and asks for its answer at each.
    pub(super) fn poll(
        &mut self,
        script: &Script,
        context: &Context<'_>,
    ) -> Poll<Result<(StepPath, Answer), StepError>> {
        if let Self::Ready(issue) = self {
            let Some(issue) = issue.take() else {
                return Poll::Pending;
            };
            match issue.and_then(|issue| register(script, issue)) {
                Ok(path) => *self = Self::Waiting(path),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Self::Waiting(path) = self else {
            return Poll::Pending;
        };
        match script.answer(path, context.waker()) {
            Some(answer) => Poll::Ready(Ok((path.clone(), answer))),
            None => Poll::Pending,
        }
    }
}

/// A step that is running. Dropping it does not stop the step: its outcome is recorded and the
/// saga does not end before.
#[must_use = "a step does nothing until it is awaited"]
pub struct StepFuture<T> {
    script: Arc<Script>,
    state: State,
    output: PhantomData<fn() -> T>,
}

impl<T> StepFuture<T> {
    pub(crate) fn new(script: Arc<Script>, issue: Result<Issue, StepError>) -> Self {
        Self {
            script,
            state: State::ready(issue),
            output: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Future for StepFuture<T> {
    type Output = Result<T, StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (path, answer) = match this.state.poll(&this.script, context) {
            Poll::Ready(Ok(answered)) => answered,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        match answer {
            Answer::Step(Ok(output)) => Poll::Ready(
                canonical::decode(&output).map_err(|source| StepError::Decode { path, source }),
            ),
            Answer::Step(Err(failure)) => Poll::Ready(Err(StepError::Failed { path, failure })),
            // Two kinds of call at one path: the driver has parked the saga.
            Answer::Awake | Answer::Signal(_) => Poll::Pending,
        }
    }
}

fn register(script: &Script, issue: Issue) -> Result<StepPath, StepError> {
    let path = match &issue {
        Issue::Step(path, _)
        | Issue::Sleep(path, _)
        | Issue::Signal(path, _)
        | Issue::Child(path, _)
        | Issue::Note(path, _)
        | Issue::Missing(path, _) => path.clone(),
        Issue::Pivot => {
            return Err(StepError::Pivoted {
                what: "a pivot as a step",
            });
        }
    };
    script.issue(issue)?;
    Ok(path)
}

/// A durable sleep.
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    script: Arc<Script>,
    state: State,
}

impl Sleep {
    pub(crate) fn new(
        script: Arc<Script>,
        path: Result<StepPath, PathError>,
        duration: Duration,
    ) -> Self {
        let until = script.clock.wall().after(duration);
        let issue = path
            .map(|path| Issue::Sleep(path, until))
            .map_err(StepError::from);
        Self {
            script,
            state: State::Ready(Some(issue)),
        }
    }
}

impl Future for Sleep {
    type Output = Result<(), StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (_, answer) = match this.state.poll(&this.script, context) {
            Poll::Ready(Ok(answered)) => answered,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        match answer {
            Answer::Awake => Poll::Ready(Ok(())),
            Answer::Step(_) | Answer::Signal(_) => Poll::Pending,
        }
    }
}
