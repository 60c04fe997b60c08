//! A wait for a signal.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use orlop_saga::canonical;
use orlop_saga::path::{PathError, StepPath};
use serde::de::DeserializeOwned;

use crate::saga::StepError;
use crate::saga::call::State;
use crate::saga::script::{Answer, Issue, Script};

/// A wait for a signal. Dropping it does not take the wait back: it takes the next signal of its
/// name all the same, and nobody reads it.
#[must_use = "a wait does nothing until it is awaited"]
pub struct SignalWait<T> {
    script: Arc<Script>,
    state: State,
    payload: PhantomData<fn() -> T>,
}

impl<T> SignalWait<T> {
    pub(crate) fn new(script: Arc<Script>, path: Result<StepPath, PathError>, name: &str) -> Self {
        let issue = path
            .map(|path| Issue::Signal(path, name.into()))
            .map_err(StepError::from);
        Self {
            script,
            state: State::ready(issue),
            payload: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Future for SignalWait<T> {
    type Output = Result<T, StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (path, answer) = match this.state.poll(&this.script, context) {
            Poll::Ready(Ok(answered)) => answered,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        match answer {
            Answer::Signal(payload) => Poll::Ready(
                canonical::decode(&payload).map_err(|source| StepError::Decode { path, source }),
            ),
            // Two kinds of call at one path: the driver has parked the saga.
            Answer::Step(_) | Answer::Awake => Poll::Pending,
        }
    }
}
