//! Host functions: the code behind computations that run on the host, and behind undos.
//!
//! Invariants
//! - A function owns a slot of its bulkhead from start to observed end.
//! - An output over the limit is a permanent failure, not a truncated outcome.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use orlop_saga::canonical::{self, Payload};
use orlop_saga::id::{Fence, SagaId, TenantId};
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use orlop_saga::path::StepPath;
use orlop_saga::step::Prior;
use orlop_saga::trace::TraceContext;

use crate::computation::{Computation, External, Kind, Pure, Undo};
use crate::lease::Pulse;

/// The bulkhead of asynchronous host functions that name no other.
pub const HOST_IO: &str = "host-io";
/// The bulkhead of blocking host functions that name no other.
pub const HOST_CPU: &str = "host-cpu";

/// What an attempt knows of itself.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What the outside recognises this work by: the same on every attempt.
    pub remote_key: RemoteKey,
    /// This attempt among all of its work: the outside refuses an older one.
    pub fence: Fence,
    /// On whose behalf.
    pub tenant: TenantId,
    /// The saga and the step, if it is one.
    pub step: Option<(SagaId, StepPath)>,
    /// The trace it belongs to.
    pub trace: TraceContext,
    pub(crate) cancel: Arc<AtomicBool>,
    pub(crate) pulse: Arc<Pulse>,
}

impl Attempt {
    /// Whether nobody wants the result any more, or its lease is over. A long attempt looks from
    /// time to time and ends with a retryable failure if it had no effect yet.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.pulse.is_stopped()
    }

    /// Says that it is alive: its [`Lease`](crate::Lease), if it has one, begins anew.
    pub fn heartbeat(&self) {
        self.pulse.beat();
    }

    /// A name that no other attempt of this work has, for what only the winner's counts of. All of
    /// one work's begin with its remote key and a `.`, so that a sweep finds them.
    pub fn name(&self) -> String {
        format!(
            "{}.{}-{}",
            self.remote_key, self.fence.incarnation, self.fence.attempt
        )
    }
}

/// Asynchronous code behind a computation. Runs on the engine's own runtime (tokio, with its
/// timers and I/O enabled), never on the embedder's.
pub trait HostFunction<C: Computation>: Send + Sync + 'static {
    /// Runs one attempt.
    ///
    /// # Errors
    /// A [`Failure`] says what is known of the effect: permanent, retryable, or in doubt.
    fn run(
        &self,
        attempt: Attempt,
        input: C::Input,
    ) -> impl Future<Output = Result<C::Output, Failure>> + Send;

    /// The bulkhead whose slots it takes.
    fn bulkhead(&self) -> &'static str {
        HOST_IO
    }
}

/// Blocking code behind a `Pure` computation: runs on a thread that may block.
pub trait BlockingFunction<C: Computation<Kind = Pure>>: Send + Sync + 'static {
    /// Runs one attempt.
    ///
    /// # Errors
    /// A [`Failure`] says what is known of the effect.
    fn run(&self, attempt: &Attempt, input: C::Input) -> Result<C::Output, Failure>;

    /// The bulkhead whose slots it takes.
    fn bulkhead(&self) -> &'static str {
        HOST_CPU
    }
}

/// What the outside says of an attempt that nobody heard the end of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled<T> {
    /// It happened; this is its output.
    Done(T),
    /// It did not happen and, under the computation's fence, will not.
    NotDone,
    /// The outside cannot tell. Asked again later, then stuck.
    Unknown(String),
}

/// How a late attempt of an `External` computation is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The outside refuses an older fence.
    Fenced,
    /// Every attempt writes under a name of its own, [`Attempt::name`], and only the winner's
    /// counts. Where there was more than one, or one whose end nobody saw, [`Reconcile::sweep`]
    /// removes what the losers left before the outcome is believed or an undo is begun.
    AttemptScoped,
    /// An attempt has its effect within this time or never: before, `NotDone` is not believed.
    Settles(Duration),
}

/// How to find out what became of an `External` computation.
pub trait Reconcile<C: Computation<Kind = External>>: Send + Sync + 'static {
    /// How a late attempt is stopped.
    fn late(&self) -> Late;

    /// Asks the outside. `attempt` has the fence of the attempt that would run next.
    fn reconcile(
        &self,
        attempt: Attempt,
        input: C::Input,
    ) -> impl Future<Output = Reconciled<C::Output>> + Send;

    /// Removes what attempts of `attempt.remote_key` with an older fence left under names of their
    /// own, but for what has become part of the effect. Only called where late attempts are
    /// [`Late::AttemptScoped`], and then as often as it takes: code that answers so has to have it.
    ///
    /// # Errors
    /// A [`Failure`], which is one more question that nobody answered: swept again, then stuck.
    fn sweep(&self, attempt: Attempt) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = attempt;
        async { Err(Failure::permanent("the computation has no sweep")) }
    }
}

/// What an undo is given.
pub struct Undoing<U: Undo> {
    /// What was recorded when the step was intended.
    pub argument: U::Argument,
    /// What the outside recognises the step by.
    pub step_key: RemoteKey,
    /// What is known of the step.
    pub found: Found<<U::Step as Computation>::Output>,
}

/// What an undo finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The step is done, with this output.
    Done(T),
    /// The step may have happened. Undo what of it there is, and keep a late attempt out.
    InDoubt,
}

/// Asynchronous code behind an undo.
pub trait UndoFunction<U: Undo>: Send + Sync + 'static {
    /// Runs one attempt to undo a step. `attempt.remote_key` is the undo's own.
    ///
    /// # Errors
    /// A [`Failure`]: retried unless permanent, then the saga is stuck with its residue named.
    fn undo(
        &self,
        attempt: Attempt,
        undoing: Undoing<U>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The bulkhead whose slots it takes.
    fn bulkhead(&self) -> &'static str {
        HOST_IO
    }
}

/// What one erased call gives back.
pub(crate) type Called = BoxFuture<'static, Result<Payload, Failure>>;
/// What one erased reconciliation gives back.
pub(crate) type Asked = BoxFuture<'static, Reconciled<Payload>>;

/// [`HostFunction`] with its types erased.
pub(crate) trait AsyncCode: Send + Sync {
    fn call(self: Arc<Self>, attempt: Attempt, input: Payload, output_max: usize) -> Called;
}

/// [`BlockingFunction`] with its types erased.
pub(crate) trait BlockingCode: Send + Sync {
    fn call(
        &self,
        attempt: &Attempt,
        input: &Payload,
        output_max: usize,
    ) -> Result<Payload, Failure>;
}

/// [`Reconcile`] with its types erased.
pub(crate) trait ReconcileCode: Send + Sync {
    fn ask(self: Arc<Self>, attempt: Attempt, input: Payload, output_max: usize) -> Asked;
    fn sweep(self: Arc<Self>, attempt: Attempt) -> BoxFuture<'static, Result<(), Failure>>;
}

/// [`UndoFunction`] with its types erased.
pub(crate) trait UndoCode: Send + Sync {
    fn call(
        self: Arc<Self>,
        attempt: Attempt,
        argument: Payload,
        step_key: RemoteKey,
        prior: Prior,
    ) -> BoxFuture<'static, Result<(), Failure>>;
}

/// A function with the signature it is bound to.
pub(crate) struct Bound<S, F> {
    function: F,
    signature: std::marker::PhantomData<fn() -> S>,
}

impl<S, F> Bound<S, F> {
    pub(crate) fn new(function: F) -> Self {
        Self {
            function,
            signature: std::marker::PhantomData,
        }
    }
}

fn input_of<T: serde::de::DeserializeOwned>(payload: &Payload) -> Result<T, Failure> {
    canonical::decode(payload).map_err(Failure::permanent)
}

pub(crate) fn output_of<T: serde::Serialize>(
    output: &T,
    output_max: usize,
) -> Result<Payload, Failure> {
    canonical::encode(output, output_max).map_err(Failure::permanent)
}

impl<C: Computation, F: HostFunction<C>> AsyncCode for Bound<C, F> {
    fn call(self: Arc<Self>, attempt: Attempt, input: Payload, output_max: usize) -> Called {
        Box::pin(async move {
            let input = input_of::<C::Input>(&input)?;
            let output = self.function.run(attempt, input).await?;
            output_of(&output, output_max).map_err(|failure| {
                if C::Kind::EXTERNAL {
                    // It happened: that its output cannot be kept does not undo it.
                    Failure::in_doubt(failure.reason())
                } else {
                    failure
                }
            })
        })
    }
}

impl<C: Computation<Kind = Pure>, F: BlockingFunction<C>> BlockingCode for Bound<C, F> {
    fn call(
        &self,
        attempt: &Attempt,
        input: &Payload,
        output_max: usize,
    ) -> Result<Payload, Failure> {
        let output = self.function.run(attempt, input_of::<C::Input>(input)?)?;
        output_of(&output, output_max)
    }
}

impl<C: Computation<Kind = External>, F: Reconcile<C>> ReconcileCode for Bound<C, F> {
    fn ask(self: Arc<Self>, attempt: Attempt, input: Payload, output_max: usize) -> Asked {
        Box::pin(async move {
            let input = match canonical::decode::<C::Input>(&input) {
                Ok(input) => input,
                Err(error) => return Reconciled::Unknown(error.to_string()),
            };
            match self.function.reconcile(attempt, input).await {
                Reconciled::Done(output) => match canonical::encode(&output, output_max) {
                    Ok(output) => Reconciled::Done(output),
                    Err(error) => Reconciled::Unknown(error.to_string()),
                },
                Reconciled::NotDone => Reconciled::NotDone,
                Reconciled::Unknown(reason) => Reconciled::Unknown(reason),
            }
        })
    }

    fn sweep(self: Arc<Self>, attempt: Attempt) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move { self.function.sweep(attempt).await })
    }
}

impl<U: Undo, F: UndoFunction<U>> UndoCode for Bound<U, F> {
    fn call(
        self: Arc<Self>,
        attempt: Attempt,
        argument: Payload,
        step_key: RemoteKey,
        prior: Prior,
    ) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            let found = match prior {
                Prior::Done(output) => Found::Done(input_of(&output)?),
                Prior::InDoubt => Found::InDoubt,
            };
            let argument = input_of(&argument)?;
            self.function
                .undo(
                    attempt,
                    Undoing {
                        argument,
                        step_key,
                        found,
                    },
                )
                .await
        })
    }
}
