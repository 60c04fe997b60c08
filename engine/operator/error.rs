//! Why a verb did nothing.

use orlop_saga::canonical::EncodeError;
use orlop_saga::saga::{NoFork, StatusKind};

use crate::driver::Fault;
use crate::error::{SubmitError, Unavailable};

/// Why nothing was listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// A page has 1 to so many sagas. Ask for fewer.
    #[error("a page of {limit} sagas, it may have 1 to {limit_max}")]
    Limit {
        /// What was asked for.
        limit: usize,
        /// The most.
        limit_max: usize,
    },
    /// The engine has ended. Open it again.
    #[error("the engine has ended")]
    Closed,
    /// The engine is another process's.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why there is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShowError {
    /// There is no such saga, it is another tenant's, or it ended and is past its retention.
    #[error("no such saga")]
    Unknown,
    /// The tables could not be read. Close and reopen the store: they are rebuilt.
    #[error("the saga cannot be looked up: {reason}")]
    Lookup {
        /// What they said.
        reason: String,
    },
    /// The engine is another process's.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why nobody is subscribed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// From 1 to so many notices may wait. Ask for another number.
    #[error("{capacity} notices may wait, it may be 1 to {capacity_max}")]
    Capacity {
        /// What was asked for.
        capacity: usize,
        /// The most.
        capacity_max: usize,
    },
    /// There are as many subscribers as there may be. Drop one, or raise
    /// `limits.subscribers_max`.
    #[error("there are {subscribers_max} subscribers already")]
    TooMany {
        /// How many there may be.
        subscribers_max: usize,
    },
    /// The engine takes no work.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// One enum per verb: what all have in common, what is its own, and what it makes of the faults
/// that only it can meet.
macro_rules! verb_error {
    (
        $(#[$doc:meta])* $name:ident { $($own:tt)* }
        $($fault:pat => $made:expr,)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[non_exhaustive]
        pub enum $name {
            /// There is no such saga, it is another tenant's, or it ended and is past its
            /// retention. Nothing was changed.
            #[error("no such saga")]
            Unknown,
            /// It has ended, so there is nothing to be done to it.
            #[error("the saga has ended: {0:?}")]
            Ended(StatusKind),
            /// Whether the wish is durable is unknown, or the engine takes none. Ask again; after
            /// a reopening look first.
            #[error("it could not be recorded: {reason}")]
            NotRecorded {
                /// What the journal or the engine said.
                reason: String,
            },
            $($own)*
        }

        impl From<Fault> for $name {
            #[allow(unreachable_patterns, reason = "what is a verb's own comes first")]
            fn from(fault: Fault) -> Self {
                match fault {
                    $($fault => $made,)*
                    Fault::Unknown | Fault::Foreign => Self::Unknown,
                    Fault::Ended(status) => Self::Ended(status),
                    Fault::NotRecorded(reason) => Self::NotRecorded { reason },
                    Fault::Moving
                    | Fault::NoSuchStep
                    | Fault::NotOpen
                    | Fault::OtherCode(_)
                    | Fault::Children(_)
                    | Fault::TooLarge
                    | Fault::NoFork(_) => Self::NotRecorded {
                        reason: format!("internal: {fault:?}"),
                    },
                }
            }
        }
    };
}

verb_error! {
    /// Why a saga was not paused. It goes on as it was.
    PauseError {}
}

verb_error! {
    /// Why a saga was not resumed. It is as it was.
    ResumeError {}
}

verb_error! {
    /// Why a step was not tried again. The saga is as it was.
    RetryError {
        /// It moves by itself. Wait, or pause it first.
        #[error("the saga is not held")]
        Moving,
        /// It has no step of this path. A child is operated on as the saga that it is.
        #[error("the saga has no such step")]
        NoSuchStep,
        /// The step has ended, and its end was acted upon. Fork the saga from it instead.
        #[error("the step has ended")]
        NotOpen,
    }
    Fault::Moving => Self::Moving,
    Fault::NoSuchStep => Self::NoSuchStep,
    Fault::NotOpen => Self::NotOpen,
}

verb_error! {
    /// Why a step was not skipped. The saga is as it was.
    SkipError {
        /// It moves by itself. Wait, or pause it first.
        #[error("the saga is not held")]
        Moving,
        /// It has no step of this path. A child is operated on as the saga that it is.
        #[error("the saga has no such step")]
        NoSuchStep,
        /// The step has ended, or the saga unwinds.
        #[error("the step does not wait for an output")]
        NotOpen,
        /// The step runs another computation: the output would be of another type.
        #[error("the step runs {name:?}")]
        OtherComputation {
            /// What it runs.
            name: String,
        },
        /// The output leaves no room within `limits.saga_bytes_max`.
        #[error("the saga's history leaves no room for the output")]
        TooLarge,
        /// The output has no canonical bytes, or too many.
        #[error("{0}")]
        Encode(#[from] EncodeError),
    }
    Fault::Moving => Self::Moving,
    Fault::NoSuchStep => Self::NoSuchStep,
    Fault::NotOpen => Self::NotOpen,
    Fault::OtherCode(name) => Self::OtherComputation { name },
    Fault::TooLarge => Self::TooLarge,
}

verb_error! {
    /// Why an undo was not skipped. The saga is as it was.
    SkipUndoError {
        /// It moves by itself. Wait, or pause it first.
        #[error("the saga is not held")]
        Moving,
        /// It has no step of this path. A child is operated on as the saga that it is.
        #[error("the saga has no such step")]
        NoSuchStep,
        /// It is not the undo that is next.
        #[error("it is not the undo that is next")]
        NotOpen,
    }
    Fault::Moving => Self::Moving,
    Fault::NoSuchStep => Self::NoSuchStep,
    Fault::NotOpen => Self::NotOpen,
}

verb_error! {
    /// Why a saga was not abandoned. It is as it was.
    AbandonError {
        /// Children of it run. Cancel or abandon them first.
        #[error("{running} children of the saga run")]
        Children {
            /// How many.
            running: usize,
        },
    }
    Fault::Children(running) => Self::Children { running },
}

verb_error! {
    /// Why a saga was not forked. No saga was started, and the original is as it was.
    ForkError {
        /// It is another saga: its input and output are of other types.
        #[error("the saga is {name:?}")]
        OtherSaga {
            /// Which one.
            name: Box<str>,
        },
        /// It unwinds, and would undo what the fork inherits. Have it abandoned with the fork.
        #[error("the saga unwinds")]
        Unwinding,
        /// There can be no fork from this step.
        #[error("{0}")]
        NoFork(#[from] NoFork),
        /// Children of it run, and it is to be abandoned. Cancel or abandon them first.
        #[error("{running} children of the saga run")]
        Children {
            /// How many.
            running: usize,
        },
        /// What the fork would begin with leaves no room within `limits.saga_bytes_max`, or does
        /// not fit into one batch of the journal. Fork it from an earlier step.
        #[error("what the fork would begin with is too large")]
        TooLarge,
        /// The key does not take it: it stands for something else, or nothing new is taken.
        #[error("{0}")]
        Submit(#[from] SubmitError),
    }
    Fault::NoFork(why) => Self::NoFork(why),
    Fault::Children(running) => Self::Children { running },
    Fault::TooLarge => Self::TooLarge,
}

impl From<ShowError> for ForkError {
    fn from(error: ShowError) -> Self {
        match error {
            ShowError::Unknown => Self::Unknown,
            ShowError::Lookup { reason } => Self::NotRecorded { reason },
            ShowError::Unavailable(why) => Self::Submit(why.into()),
        }
    }
}

impl From<ShowError> for AbandonError {
    fn from(error: ShowError) -> Self {
        match error {
            ShowError::Unknown => Self::Unknown,
            ShowError::Lookup { reason } => Self::NotRecorded { reason },
            ShowError::Unavailable(why) => Self::NotRecorded {
                reason: why.to_string(),
            },
        }
    }
}
