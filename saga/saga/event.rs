//! What happens to a saga, as the journal tells it.

use serde::{Deserialize, Serialize};

use super::child::{Bond, Parent};
use super::fork::{Heir, Inheritance};
use super::signal::SignalId;
use crate::amount::BusyNanos;
use crate::blob::BlobRef;
use crate::canonical::Payload;
use crate::effect::{CodeRef, EffectId};
use crate::id::{Fence, StepIndex};
use crate::key::Fingerprint;
use crate::outcome::Failure;
use crate::path::StepPath;
use crate::step::StepOutcome;
use crate::tenant::{AuditTag, Class};
use crate::time::WallMillis;
use crate::trace::TraceContext;

/// How a saga was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaStart {
    /// Whose it is and the key it was started under.
    pub id: EffectId,
    /// What the key stands for.
    pub fingerprint: Fingerprint,
    /// Its definition, pinned.
    pub code: CodeRef,
    /// Its canonical input.
    pub input: Payload,
    /// The urgency of its steps among the tenant's own work.
    pub class: Class,
    /// Who pays.
    pub audit: AuditTag,
    /// The caller's trace.
    pub trace: TraceContext,
    /// When it was started.
    pub at: WallMillis,
    /// How long its outcome is kept, from its end, in milliseconds.
    pub retention_ms: u64,
    /// Whether nothing of it runs before an operator resumes it.
    pub paused: bool,
    /// When it has to have passed its pivot or ended, if it has to.
    pub deadline: Option<WallMillis>,
    /// Whose child it is.
    pub parent: Option<Parent>,
}

/// How a step would be undone, recorded before the step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoIntent {
    /// The undo, pinned.
    pub code: CodeRef,
    /// Its canonical argument.
    pub argument: Payload,
}

/// A call as it is first recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallIntent {
    /// A computation is about to be run.
    Step {
        /// The computation, pinned.
        code: CodeRef,
        /// What was asked of it.
        fingerprint: Fingerprint,
        /// Its first attempt.
        fence: Fence,
        /// How to undo it.
        undo: Option<UndoIntent>,
    },
    /// The saga sleeps.
    Sleep {
        /// Until when.
        until: WallMillis,
    },
    /// The saga asked for the time.
    Now {
        /// The answer.
        at: WallMillis,
    },
    /// The saga asked for a random number.
    Random {
        /// The answer.
        value: u64,
    },
    /// The saga waits for a signal.
    Signal {
        /// The signal's name.
        name: Box<str>,
    },
    /// Another saga is about to be started.
    Child {
        /// Its definition, pinned.
        code: CodeRef,
        /// What was asked of it.
        fingerprint: Fingerprint,
        /// The parent's engine.
        fence: Fence,
        /// The parent's own undo for it.
        undo: Option<UndoIntent>,
        /// How it is taken back.
        bond: Bond,
    },
}

/// Why a saga unwinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its code ended in an error.
    Failed(Failure),
    /// It was cancelled.
    Cancelled,
    /// Its deadline passed before its pivot.
    Expired,
    /// It had ended well, and its parent unwinds.
    Recalled,
}

/// Why a saga is paused. It continues when an operator resumes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseReason {
    /// Its definition or a computation that it used is missing or has another version.
    Definition(String),
    /// Its code did not do what the journal says it did.
    Nondeterminism(String),
    /// Its code panicked.
    Panicked(String),
    /// It was started so.
    AtStart,
    /// An operator said so, in these words.
    Operator(String),
    /// Recovery crashed, so it is played alone: the process died so many times while it was. It
    /// goes on by itself.
    Probation {
        /// How many times.
        crashes: u32,
    },
    /// The process died so many times while its code was played alone.
    Suspect {
        /// How many times.
        crashes: u32,
    },
}

/// Why a saga does not move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Paused.
    Paused(PauseReason),
    /// Retries are exhausted, or nobody could tell what happened.
    Stuck(String),
}

/// What happened to a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SagaEvent {
    /// It was started.
    Started(Box<SagaStart>),
    /// Its code made a call; the call's index is the number of calls before it.
    Called {
        /// Where in the saga.
        path: StepPath,
        /// What.
        intent: CallIntent,
    },
    /// Another attempt of a step is about to be started.
    Relaunched {
        /// Which step.
        step: StepIndex,
        /// The attempt.
        fence: Fence,
        /// Whether it only asks the outside what became of the last one.
        asks: bool,
    },
    /// A step ended.
    Settled {
        /// Which step.
        step: StepIndex,
        /// The attempt that settled it.
        fence: Fence,
        /// How.
        outcome: StepOutcome,
        /// What it cost.
        cost: BusyNanos,
    },
    /// A sleep is over.
    Woke {
        /// Which call.
        step: StepIndex,
    },
    /// From here on only forward.
    Pivoted,
    /// Somebody asked for it to be cancelled.
    CancelRequested,
    /// Its done and in-doubt steps are being undone.
    UnwindingStarted {
        /// Why.
        cause: Cause,
    },
    /// An attempt to undo a step is about to be started.
    UndoLaunched {
        /// Which step.
        step: StepIndex,
        /// The attempt.
        fence: Fence,
    },
    /// A step's undo is done.
    Undone {
        /// Which step.
        step: StepIndex,
        /// The attempt that undid it.
        fence: Fence,
        /// What it cost.
        cost: BusyNanos,
    },
    /// It does not move until an operator says so.
    Held(Hold),
    /// An operator had it continue.
    Resumed,
    /// It ended well.
    Completed {
        /// The canonical bytes of its output.
        output: Payload,
        /// When.
        at: WallMillis,
    },
    /// Everything it did before its pivot is undone.
    Compensated {
        /// When.
        at: WallMillis,
    },
    /// Somebody sent it a signal.
    Signalled {
        /// The signal's name.
        name: Box<str>,
        /// What a repetition is recognised by.
        id: SignalId,
        /// Its canonical bytes.
        payload: Payload,
    },
    /// Its deadline passed. Before its pivot it unwinds, after it it is late.
    DeadlinePassed {
        /// When that was noticed.
        at: WallMillis,
    },
    /// Its parent has ended: it will not be recalled.
    Released,
    /// An operator gave it up: what it did remains.
    Abandoned {
        /// The operator's words.
        note: String,
        /// When.
        at: WallMillis,
        /// Who undoes what it did, if a fork does.
        heir: Option<Heir>,
    },
    /// An operator gave a step that did not end its output.
    Skipped {
        /// Which step.
        step: StepIndex,
        /// Above every attempt of it.
        fence: Fence,
        /// The canonical bytes of the output.
        output: Payload,
        /// The operator's words.
        note: String,
    },
    /// An operator took an undo that did not end for done.
    UndoSkipped {
        /// Which step's.
        step: StepIndex,
        /// Above every attempt of it.
        fence: Fence,
        /// The operator's words.
        note: String,
    },
    /// An operator has a step tried again that failed after the pivot.
    Reopened {
        /// Which step.
        step: StepIndex,
        /// Above every attempt of it.
        fence: Fence,
    },
    /// It begins with what another saga did. In one batch with its start.
    Forked(Box<Inheritance>),
    /// It ended well, and its output is in a blob of the tenant.
    CompletedInBlob {
        /// What names the canonical bytes of its output.
        output: BlobRef,
        /// When.
        at: WallMillis,
    },
    /// Recovery crashed before, so it is about to be played alone.
    Probed,
    /// It was played alone, and the process lives.
    Acquitted,
}
