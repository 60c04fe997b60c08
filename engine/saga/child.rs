//! A child before it is awaited.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use orlop_saga::canonical::{self, EncodeError, Payload};
use orlop_saga::effect::CodeRef;
use orlop_saga::key::Fingerprint;
use orlop_saga::path::{PathError, StepPath};
use orlop_saga::saga::{Bond, UndoIntent};
use serde::Serialize;

use crate::computation::{Computation, External, Undo};
use crate::saga::call::StepFuture;
use crate::saga::context::Backward;
use crate::saga::script::{ChildSpec, Issue, Script};
use crate::saga::{Saga, StepError};

/// A saga as what an [`Undo`] undoes: the undo that a parent gives for its child.
///
/// The undo gets the child's output. Its `step_key` names the parent's call; what the child's own
/// steps wrote has remote keys of theirs, so that the argument has to say what is to be undone.
///
/// ```
/// use orlop::{ChildOf, Saga, SagaContext, SagaError, Undo};
///
/// struct Publish;
///
/// impl Saga for Publish {
///     const NAME: &'static str = "publish";
///     type Input = u64;
///     type Output = String;
///
///     async fn run(&self, _saga: SagaContext, page: u64) -> Result<String, SagaError> {
///         Ok(format!("page {page}"))
///     }
/// }
///
/// #[derive(Clone, Copy)]
/// struct Withdraw;
///
/// impl Undo for Withdraw {
///     const NAME: &'static str = "withdraw";
///     type Argument = u64;
///     type Step = ChildOf<Publish>;
/// }
/// ```
pub struct ChildOf<S>(PhantomData<fn() -> S>);

impl<S> Clone for ChildOf<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for ChildOf<S> {}

impl<S: Saga> Computation for ChildOf<S> {
    const NAME: &'static str = S::NAME;
    const VERSION: u32 = S::VERSION;
    const INPUT_SCHEMA: u32 = S::INPUT_SCHEMA;
    const RETENTION: Duration = S::RETENTION;
    type Input = S::Input;
    type Output = S::Output;
    type Kind = External;
}

/// A child before it is awaited.
#[must_use = "a child is not started until it is awaited"]
pub struct ChildCall<S: Saga, D> {
    script: Arc<Script>,
    path: Result<StepPath, PathError>,
    input: S::Input,
    bond: Bond,
    undo: Result<Option<UndoIntent>, EncodeError>,
    missing_undo: Option<&'static str>,
    direction: PhantomData<fn() -> D>,
}

impl<S: Saga, D> ChildCall<S, D> {
    pub(crate) fn new(
        script: Arc<Script>,
        path: Result<StepPath, PathError>,
        input: S::Input,
        bond: Bond,
    ) -> Self {
        Self {
            script,
            path,
            input,
            bond,
            undo: Ok(None),
            missing_undo: None,
            direction: PhantomData,
        }
    }

    fn issue(self) -> Result<Issue, StepError> {
        let script = self.script;
        let path = self.path?;
        let refused = |source| StepError::Encode {
            path: path.clone(),
            source,
        };
        let undo = self.undo.map_err(refused)?;
        let (Some(entry), None) = (script.registry.saga(S::NAME), self.missing_undo) else {
            // Not the saga's failure: it is paused until an engine has the code.
            return Ok(Issue::Missing(path, self.missing_undo.unwrap_or(S::NAME)));
        };
        let input = encode(&script, &self.input).map_err(refused)?;
        let spec = ChildSpec {
            code: entry.reference.clone(),
            fingerprint: Fingerprint::of(S::NAME, S::INPUT_SCHEMA, &input),
            input,
            retention: S::RETENTION,
            undo,
            bond: self.bond,
        };
        Ok(Issue::Child(path, Arc::new(spec)))
    }
}

fn encode<T: Serialize>(script: &Script, value: &T) -> Result<Payload, EncodeError> {
    canonical::encode(value, script.limits.input_bytes_max)
}

impl<S: Saga> ChildCall<S, Backward> {
    /// Records, before the child starts, how to undo it once it is done. The child is not adopted
    /// then: it may pivot, and its own undos run only while it has not ended.
    pub fn undo<U: Undo<Step = ChildOf<S>>>(
        mut self,
        undo: U,
        argument: impl Into<U::Argument>,
    ) -> Self {
        let _ = undo;
        if self.script.registry.undo(U::NAME).is_none() {
            self.missing_undo = Some(U::NAME);
        }
        self.bond = Bond::Apart;
        self.undo = encode(&self.script, &argument.into()).map(|argument| {
            Some(UndoIntent {
                code: CodeRef::new(U::NAME, U::VERSION),
                argument,
            })
        });
        self
    }
}

impl<S: Saga, D> IntoFuture for ChildCall<S, D> {
    type Output = Result<S::Output, StepError>;
    type IntoFuture = StepFuture<S::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let script = Arc::clone(&self.script);
        StepFuture::new(script, self.issue())
    }
}
