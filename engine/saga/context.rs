//! What a saga's function is given.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use orlop_saga::path::{PathError, StepPath};
use orlop_saga::saga::{Bond, CallIntent};
use orlop_saga::time::WallMillis;
use serde::de::DeserializeOwned;

use crate::computation::Computation;
use crate::saga::call::{Sleep, StepCall};
use crate::saga::child::ChildCall;
use crate::saga::script::{Issue, Script};
use crate::saga::select::{Branches, Select};
use crate::saga::signal::SignalWait;
use crate::saga::{Saga, StepError};
use crate::timers::random_of;

/// The calls of a saga before its pivot.
pub struct SagaContext {
    calls: Calls,
}

/// The calls of a saga after its pivot: there is nothing to undo any more.
pub struct ForwardContext {
    calls: Calls,
}

/// A step may still be undone.
pub enum Backward {}
/// Only forward.
pub enum Forward {}

struct Calls {
    script: Arc<Script>,
    /// The prefix of every path here; a bad scope name is told by the first call inside.
    scope: Result<String, PathError>,
}

impl Calls {
    fn path(&self, name: &str) -> Result<StepPath, PathError> {
        let scope = self.scope.as_ref().map_err(Clone::clone)?;
        StepPath::within(scope, name)
    }

    fn scope(&self, name: &str, index: u64) -> Self {
        let scope = self
            .scope
            .clone()
            .and_then(|outer| StepPath::scope(&outer, name, index));
        Self {
            script: Arc::clone(&self.script),
            scope,
        }
    }

    fn step<C: Computation, D>(&self, name: &str, input: C::Input) -> StepCall<C, D> {
        StepCall::new(Arc::clone(&self.script), self.path(name), input)
    }

    fn sleep(&self, name: &str, duration: Duration) -> Sleep {
        Sleep::new(Arc::clone(&self.script), self.path(name), duration)
    }

    fn child<S: Saga, D>(&self, name: &str, input: S::Input, bond: Bond) -> ChildCall<S, D> {
        ChildCall::new(Arc::clone(&self.script), self.path(name), input, bond)
    }

    fn signal<T: DeserializeOwned>(&self, name: &str) -> SignalWait<T> {
        SignalWait::new(Arc::clone(&self.script), self.path(name), name)
    }

    fn now(&self, name: &str) -> Result<WallMillis, StepError> {
        let at = self.script.clock.wall();
        let read = |intent: &CallIntent| match intent {
            CallIntent::Now { at } => Some(*at),
            CallIntent::Step { .. }
            | CallIntent::Sleep { .. }
            | CallIntent::Random { .. }
            | CallIntent::Signal { .. }
            | CallIntent::Child { .. } => None,
        };
        let told = self
            .script
            .note(self.path(name)?, read, CallIntent::Now { at })?;
        Ok(told.unwrap_or(at))
    }

    fn random(&self, name: &str) -> Result<u64, StepError> {
        let value = random_of(self.script.clock.simulated().as_ref());
        let read = |intent: &CallIntent| match intent {
            CallIntent::Random { value } => Some(*value),
            CallIntent::Step { .. }
            | CallIntent::Sleep { .. }
            | CallIntent::Now { .. }
            | CallIntent::Signal { .. }
            | CallIntent::Child { .. } => None,
        };
        let told = self
            .script
            .note(self.path(name)?, read, CallIntent::Random { value })?;
        Ok(told.unwrap_or(value))
    }
}

macro_rules! shared_calls {
    ($context:ident, $direction:ty, $bond:expr) => {
        impl $context {
            /// A step: runs `computation` on `input` once, whatever crashes, and records how it
            /// ended under `name`.
            ///
            /// Nothing happens until the call is awaited. An `External` step without an undo leaves
            /// what it did where the saga is unwound: give it none only if there is nothing to
            /// take back.
            pub fn step<C: Computation>(
                &self,
                name: &str,
                computation: C,
                input: impl Into<C::Input>,
            ) -> StepCall<C, $direction> {
                let _signature = computation;
                self.calls.step(name, input.into())
            }

            /// A child: starts another saga once, whatever crashes, and waits for its outcome as for
            /// that of a step.
            ///
            /// The child has an id, a history and a key ([`Key::of_child`](crate::Key::of_child)) of
            /// its own, and the class, audit tag and trace of this saga. One that was compensated is
            /// an error of the call; one that is stuck shows in this saga. A cancel of this saga
            /// cancels the children that run first.
            ///
            /// Before the pivot a child is adopted: it has no pivot of its own, and if this saga
            /// unwinds after it is done, it unwinds too, by its own undos, in the order of this
            /// saga's intents; or it is given an [`undo`](ChildCall::undo). After the pivot it may
            /// pivot and is not undone.
            pub fn child<S: Saga>(
                &self,
                name: &str,
                input: impl Into<S::Input>,
            ) -> ChildCall<S, $direction> {
                self.calls.child(name, input.into(), $bond)
            }

            /// A context whose calls are told apart by `index`: for loops.
            #[must_use]
            pub fn scope(&self, name: &str, index: u64) -> Self {
                Self {
                    calls: self.calls.scope(name, index),
                }
            }

            /// Sleeps until the wall clock has advanced by `duration`, across restarts. A wall
            /// clock that is set back lengthens the sleep, one set forward shortens it.
            pub fn sleep(&self, name: &str, duration: Duration) -> Sleep {
                self.calls.sleep(name, duration)
            }

            /// Waits for a signal called `name`, sent with [`Tenant::signal`](crate::Tenant::signal)
            /// before or after this call.
            ///
            /// Signals of one name are taken in the order in which they were recorded, by the
            /// waits of that name in the order of their calls; for several, wait in a
            /// [`scope`](Self::scope) each. A wait that is dropped keeps its place: hold on to it,
            /// and await it again.
            pub fn signal<T: DeserializeOwned>(&self, name: &str) -> SignalWait<T> {
                self.calls.signal(name)
            }

            /// Waits for the branch that ends first, on every replay the same.
            ///
            /// The branches are a tuple of two to four, or an array or a vector of one type. They
            /// are polled in their order, so that of several that are ready the first one wins;
            /// outcomes are delivered one at a time in the order of the journal, so that otherwise
            /// the one that was delivered first does. tokio's `select!` draws the order at random
            /// unless it is `biased`, and so does not replay.
            ///
            /// What lost goes on. A step or child that was passed by value is detached: it ends
            /// before the saga does, its failure is no failure of the saga, and its undo runs when
            /// the saga unwinds. To hear of it, pass `&mut` of the future (steps and children:
            /// `into_future()` first) and await or select it again. A sleep that lost does not
            /// hold up the end; a wait for a signal that lost keeps its place.
            pub fn select<B: Branches>(&self, branches: B) -> Select<B> {
                Select::new(branches)
            }

            /// Wall time, the same on every replay.
            ///
            /// # Errors
            /// [`StepError`]: a bad or repeated name.
            pub fn now(&self, name: &str) -> Result<WallMillis, StepError> {
                self.calls.now(name)
            }

            /// A random number, the same on every replay.
            ///
            /// # Errors
            /// [`StepError`]: a bad or repeated name.
            pub fn random(&self, name: &str) -> Result<u64, StepError> {
                self.calls.random(name)
            }
        }
    };
}

shared_calls!(SagaContext, Backward, Bond::Adopted);
shared_calls!(ForwardContext, Forward, Bond::Apart);

impl SagaContext {
    pub(crate) fn new(script: Arc<Script>) -> Self {
        Self {
            calls: Calls {
                script,
                scope: Ok(String::new()),
            },
        }
    }

    /// Passes the point of no return: waits until no step runs, records it, and gives a context
    /// that can only go forward. From there on a cancel is refused and a failure leaves the saga
    /// stuck.
    ///
    /// # Errors
    /// [`StepError::Pivoted`]: the saga has pivoted already. [`StepError::PivotInChild`]: it is a
    /// child that its parent undoes by the child's own undos.
    pub fn pivot(self) -> impl Future<Output = Result<ForwardContext, StepError>> + Send {
        PivotFuture {
            calls: Some(self.calls),
            asked: false,
        }
    }
}

/// The wait for the pivot. Dropping it before takes the wish back.
struct PivotFuture {
    calls: Option<Calls>,
    asked: bool,
}

impl Future for PivotFuture {
    type Output = Result<ForwardContext, StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(calls) = self.calls.take() else {
            return Poll::Pending;
        };
        if !self.asked {
            if let Err(error) = calls.script.issue(Issue::Pivot) {
                return Poll::Ready(Err(error));
            }
            self.asked = true;
        }
        if calls.script.pivot_passed(context.waker()) {
            return Poll::Ready(Ok(ForwardContext { calls }));
        }
        self.calls = Some(calls);
        Poll::Pending
    }
}

impl Drop for PivotFuture {
    fn drop(&mut self) {
        if let (Some(calls), true) = (&self.calls, self.asked) {
            calls.script.withdraw_pivot();
        }
    }
}
