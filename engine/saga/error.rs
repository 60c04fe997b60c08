//! Why a step or a saga did not go on.

use std::fmt;

use orlop_saga::canonical::{DecodeError, EncodeError};
use orlop_saga::outcome::Failure;
use orlop_saga::path::{PathError, StepPath};

/// Why a step gave no output. In every case but [`StepError::Failed`] and [`StepError::Decode`] it
/// was not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// It failed for good and had no effect; its retries are used up. Handle it, or return it to
    /// have the saga unwound.
    #[error("step {path} failed: {failure}")]
    Failed {
        /// Which step.
        path: StepPath,
        /// Its last failure.
        failure: Failure,
    },
    /// A path was called twice in one execution. Put calls in a loop into a `scope`.
    #[error("step {path} is called twice")]
    DuplicateStep {
        /// Which path.
        path: StepPath,
    },
    /// A name that cannot be part of a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The input or the undo's argument has no canonical bytes.
    #[error("step {path}: {source}")]
    Encode {
        /// Which step.
        path: StepPath,
        /// Why.
        source: EncodeError,
    },
    /// The recorded output is no value of the computation's output type: the type changed without
    /// a new version.
    #[error("step {path}: {source}")]
    Decode {
        /// Which step.
        path: StepPath,
        /// Why.
        source: DecodeError,
    },
    /// A pivot in a child that its parent undoes by the child's own undos. Give the child an undo at
    /// its call, or call it after the parent's pivot.
    #[error("a pivot in a child whose parent has no undo for it")]
    PivotInChild,
    /// A step or child that would be undone, or a second pivot, after the pivot: from there on only
    /// forward.
    #[error("{what} after the pivot")]
    Pivoted {
        /// What was asked for.
        what: &'static str,
    },
}

/// Why a saga's code ends without an output. Before the pivot it is unwound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SagaError {
    /// A step gave no output.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The saga's own code gave up.
    #[error("{reason}")]
    Failed {
        /// Its own words.
        reason: String,
    },
}

impl SagaError {
    /// The saga's own code gives up.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed {
            reason: reason.to_string(),
        }
    }
}
