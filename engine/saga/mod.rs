//! Sagas as an embedder writes them: an async function whose calls are journaled by path.
//!
//! | file | noun |
//! | --- | --- |
//! | `context` | what the function is given: steps, scopes, sleep, time, random, pivot |
//! | `call` | one step on its way: its undo, its retries, its future |
//! | `child` | a saga of its own, and its undo |
//! | `signal` | a wait for a signal |
//! | `select` | the first of several branches |
//! | `script` | the ledger between the function and the driver |
//! | `error` | why a step or a saga did not go on |

mod call;
mod child;
mod context;
mod error;
pub(crate) mod script;
mod select;
mod signal;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use orlop_saga::canonical::{self, Payload};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use call::{Sleep, StepCall, StepFuture};
pub use child::{ChildCall, ChildOf};
pub use context::{ForwardContext, SagaContext};
pub use error::{SagaError, StepError};
pub use select::{Branches, Select, Selected};
pub use signal::SignalWait;

/// A saga: named, versioned code that chains steps, each recorded before it runs and with how to
/// undo it.
///
/// The function is run again from its beginning after a crash, and is told what its recorded
/// calls answered. So it must do the same thing again: it decides by its input and by what its
/// calls return, takes time and randomness from its context, and awaits nothing else. `select!`
/// and unordered collections of steps that race are decided alike on replay as long as they
/// decide by which call ended first and not at random (tokio's `select!` polls in random order
/// unless it is `biased`).
pub trait Saga: Send + Sync + 'static {
    /// The name it is registered, journaled and deduplicated under.
    const NAME: &'static str;
    /// Rises when the code changes what it does. A run keeps the version that it started with;
    /// when another one is registered, it is paused.
    const VERSION: u32 = 1;
    /// Rises when the meaning of the input's encoding changes; part of every key.
    const INPUT_SCHEMA: u32 = 1;
    /// How long the outcome is kept and replayed, from the saga's end.
    const RETENTION: Duration = Duration::from_hours(24);
    /// What it is given.
    type Input: Serialize + DeserializeOwned + Send + 'static;
    /// What it gives back.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// The code.
    ///
    /// # Errors
    /// Before the pivot an error unwinds the saga: every step that is done or in doubt is undone,
    /// newest first. After it an error leaves the saga stuck.
    fn run(
        &self,
        saga: SagaContext,
        input: Self::Input,
    ) -> impl Future<Output = Result<Self::Output, SagaError>> + Send;
}

/// [`Saga`] with its types erased.
pub(crate) trait SagaCode: Send + Sync {
    fn start(
        self: Arc<Self>,
        context: SagaContext,
        input: Payload,
        output_max: usize,
    ) -> BoxFuture<'static, Result<Payload, SagaError>>;
}

impl<S: Saga> SagaCode for S {
    fn start(
        self: Arc<Self>,
        context: SagaContext,
        input: Payload,
        output_max: usize,
    ) -> BoxFuture<'static, Result<Payload, SagaError>> {
        Box::pin(async move {
            let input = canonical::decode(&input).map_err(SagaError::failed)?;
            let output = self.run(context, input).await?;
            canonical::encode(&output, output_max).map_err(SagaError::failed)
        })
    }
}
