//! The calls of a saga, and where it is: the parts of its state.

use serde::{Deserialize, Serialize};

use super::child::Bond;
use super::event::{Cause, UndoIntent};
use super::fork::{Heir, Origin};
use crate::amount::BusyNanos;
use crate::blob::BlobRef;
use crate::canonical::Payload;
use crate::effect::CodeRef;
use crate::id::StepIndex;
use crate::key::Fingerprint;
use crate::path::StepPath;
use crate::step::Step;
use crate::time::WallMillis;

/// One call of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Where in the saga.
    pub path: StepPath,
    /// What and how far.
    pub kind: CallKind,
}

/// What a call is and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "nearly every call is a step")]
pub enum CallKind {
    /// A computation.
    Step {
        /// The computation, pinned.
        code: CodeRef,
        /// What was asked of it.
        fingerprint: Fingerprint,
        /// How to undo it.
        undo: Option<UndoIntent>,
        /// How far it is.
        step: Step,
        /// How often it, or its undo once that was started, has been started since an operator
        /// last had the saga go on; starts that a clean close interrupted do not count.
        runs: u32,
        /// Set if it is a child: a saga of its own.
        child: Option<Bond>,
        /// What else is known of its attempts.
        trail: Trail,
    },
    /// A sleep.
    Sleep {
        /// Until when.
        until: WallMillis,
        /// Whether it is over.
        over: bool,
    },
    /// The time, as it was told.
    Now {
        /// The answer.
        at: WallMillis,
    },
    /// A random number, as it was told.
    Random {
        /// The answer.
        value: u64,
    },
    /// A wait for a signal.
    Signal {
        /// The signal's name.
        name: Box<str>,
        /// Whether it took one.
        over: bool,
    },
}

/// What the attempts of a step left behind, beside how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// What they cost, as far as they ended.
    pub cost: BusyNanos,
    /// Whether the newest attempt only asks the outside.
    pub asking: bool,
    /// How many questions were lost with the process since an operator last had the saga go on.
    pub lost_asks: u32,
    /// How many runs were, likewise.
    pub lost_runs: u32,
    /// The words of the operator who gave it its output, or took its undo for done.
    pub note: Option<String>,
    /// What its remote key is made of, if another saga ran it.
    pub origin: Option<Origin>,
}

/// What a saga's code is told, in the order in which it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// A step, a sleep, a child or a wait for a signal is over.
    Call(StepIndex),
    /// The pivot is durable.
    Pivot,
}

/// Where a saga is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Forward.
    Running,
    /// Backward.
    Unwinding {
        /// Why.
        cause: Cause,
    },
    /// It ended well.
    Completed {
        /// The canonical bytes of its output.
        output: Payload,
        /// When.
        at: WallMillis,
    },
    /// Everything it did is undone.
    Compensated {
        /// Why.
        cause: Cause,
        /// When.
        at: WallMillis,
    },
    /// An operator gave it up: what it did remains, or is a fork's to undo.
    Abandoned {
        /// The operator's words.
        note: String,
        /// When.
        at: WallMillis,
        /// Who undoes what it did, if a fork does.
        heir: Option<Heir>,
    },
    /// It ended well, and its output is in a blob of the tenant.
    CompletedInBlob {
        /// What names the canonical bytes of its output.
        output: BlobRef,
        /// When.
        at: WallMillis,
    },
}
