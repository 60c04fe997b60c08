//! Errors of submitting, of registering, and of options.

use std::sync::Arc;

use orlop_admission::Refusal;
use orlop_saga::canonical::{DecodeError, EncodeError};
use orlop_saga::compat::NotInFormat;
use orlop_saga::effect::Withdrawal;
use orlop_saga::key::Key;
use orlop_saga::outcome::Failure;
use orlop_saga::tenant::LabelError;

/// Why a submission has no outcome, or an outcome that is a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No code is bound to the computation or saga. Nothing was kept. Bind it when the engine is
    /// built.
    #[error(
        "nothing is registered as {name:?}; nothing was kept; bind it when the engine is built"
    )]
    Unregistered {
        /// The name that was asked for.
        name: &'static str,
    },
    /// The input has no canonical bytes, or more than the limit. Nothing was kept. Put large data
    /// into a buffer and pass its reference.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The key stands for another request, in flight or within retention. Nothing was kept. Use
    /// another key, or submit what was submitted under it.
    #[error("key {key} already stands for another request; nothing was kept; use another key")]
    Conflict {
        /// The key.
        key: Key,
    },
    /// Admission refused it. Nothing ran and the key is unknown; the refusal says when a retry
    /// may help.
    #[error("not admitted: {0}")]
    Refused(#[from] Refusal),
    /// No new runs of the saga are taken, because an operator drains its definition. Nothing was
    /// kept. Start it again after the upgrade.
    #[error("saga {name:?} is being drained; nothing was kept; start it again later")]
    Draining {
        /// The saga's name.
        name: Box<str>,
    },
    /// A bound of the engine itself is reached. Nothing was kept. Retry once work has finished.
    #[error("{what}: {count} of {count_max}")]
    Overloaded {
        /// Which bound.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
    /// It failed for good: this is its outcome, kept and replayed like any other.
    #[error("it failed for good: {0}")]
    Failed(Failure),
    /// Its attempts failed without effect and are used up. No outcome is kept: the key is unknown
    /// and may be submitted again.
    #[error("every attempt failed without effect, the last one with: {0}")]
    Exhausted(Failure),
    /// It was withdrawn before it had an outcome. The key is unknown.
    #[error("withdrawn before it had an outcome: {0:?}")]
    Withdrawn(Withdrawal),
    /// Nobody can tell whether it happened, or, of a saga, it is held: paused or stuck. It waits
    /// for an operator, who has it go on; submitting its key again does not run it again.
    #[error("key {key} waits for an operator: {reason}")]
    Stuck {
        /// Its key.
        key: Key,
        /// What an operator should know.
        reason: Arc<str>,
    },
    /// The caller's deadline passed. The effect may still run for others, or if it was accepted.
    #[error("the caller's deadline passed")]
    Expired,
    /// The disk failed while the outcome was written: it may have happened. Reopen the store and
    /// submit the same key: what is durable is replayed, what is not runs once more.
    #[error("whether key {key} is settled is unknown: the disk failed while it was written")]
    Unresolved {
        /// Its key.
        key: Key,
    },
    /// The engine was closed before the outcome. Accepted work and sagas go on at the next open;
    /// anything else may be submitted again then, under the same key.
    #[error("the engine was closed before key {key} had an outcome")]
    Interrupted {
        /// Its key.
        key: Key,
    },
    /// The engine takes no work. Nothing was kept.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The tables could not be read, so nobody can tell whether the key has an outcome. Nothing
    /// ran. Close and reopen the store: damaged tables are rebuilt from the log.
    #[error("the outcome of key {key} cannot be looked up: {reason}")]
    Lookup {
        /// Its key.
        key: Key,
        /// What the tables said.
        reason: Arc<str>,
    },
    /// It is done, and the blob that its output is in is missing or damaged. Nothing ran, and
    /// nothing of it runs again within its retention. Restore the file that the reason names from
    /// a backup and submit the key again.
    #[error("the output of key {key} cannot be read: {reason}")]
    Damaged {
        /// Its key.
        key: Key,
        /// Which file, and what is wrong with it.
        reason: Arc<str>,
    },
    /// The recorded output is no value of the computation's output type: the type changed under
    /// the same name.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl SubmitError {
    /// Whether the same submission may succeed later with nobody changing it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Overloaded { .. }
            | Self::Draining { .. }
            | Self::Exhausted(_)
            | Self::Expired => true,
            Self::Withdrawn(why) => match why {
                Withdrawal::Cancelled => false,
                Withdrawal::Expired | Withdrawal::Refused | Withdrawal::Exhausted => true,
            },
            Self::Unavailable(why) => match why {
                Unavailable::DiskFull | Unavailable::Backlogged => true,
                Unavailable::Poisoned
                | Unavailable::Closed
                | Unavailable::Format(_)
                | Unavailable::Forked { .. } => false,
            },
            Self::Unregistered { .. }
            | Self::Encode(_)
            | Self::Conflict { .. }
            | Self::Failed(_)
            | Self::Stuck { .. }
            | Self::Unresolved { .. }
            | Self::Lookup { .. }
            | Self::Damaged { .. }
            | Self::Interrupted { .. }
            | Self::Decode(_) => false,
        }
    }
}

/// Why the engine takes no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// A write or a sync failed. Close the engine and open the store again.
    #[error("the store is poisoned by a disk failure; close it and open it again")]
    Poisoned,
    /// No space is left for new work. Outcomes and undo still fit. Free space and retry.
    #[error(
        "no space is left on the disk for new work; nothing was kept; free space and submit again"
    )]
    DiskFull,
    /// The disk does not keep up with the journal. Retry later.
    #[error("the disk does not keep up with the journal")]
    Backlogged,
    /// The engine is closing or closed.
    #[error("the engine is closed; nothing was kept; open it again")]
    Closed,
    /// The store is kept in an older format, which cannot say what was asked for. Nothing was kept.
    /// Open the store with `upgrade`, after which an older version cannot open it, or do without.
    #[error("{0}; nothing was kept; open the store with `upgrade`, or do without")]
    Format(NotInFormat),
    /// The process is a fork of the one that opened the engine: its threads are not here. Open
    /// the store in one of the two only, after the fork.
    #[error(
        "the engine belongs to process {opened_by}, this is its fork {process}; nothing was done; open the store in one of the two only, after the fork"
    )]
    Forked {
        /// Who opened it.
        opened_by: u32,
        /// Who asks.
        process: u32,
    },
}

/// Why code was not bound to a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is taken, by a computation, an undo or a saga.
    #[error("{name:?} is registered twice; nothing was opened; register it once")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
    /// A name is 1 to 128 bytes without control characters.
    #[error("{name:?} is no name for code")]
    BadName {
        /// The name.
        name: &'static str,
    },
    /// The code names a bulkhead that the options do not have.
    #[error("{name:?} runs in bulkhead {bulkhead:?}, which does not exist")]
    NoBulkhead {
        /// The code's name.
        name: String,
        /// The bulkhead's.
        bulkhead: String,
    },
    /// Only a computation that is registered can be assigned to an exclusion group. Nothing was
    /// opened; register it first.
    #[error("{name:?} is not registered, so it can be in no exclusion group")]
    NotRegistered {
        /// The computation's name.
        name: &'static str,
    },
    /// The conflict matrix of the code's bulkhead has no such group. Nothing was opened; name the
    /// group in the bulkhead's options.
    #[error("{name:?} is in exclusion group {group:?}, which bulkhead {bulkhead:?} does not have")]
    NoExclusion {
        /// The code's name.
        name: String,
        /// The bulkhead's.
        bulkhead: String,
        /// The group's.
        group: String,
    },
    /// The text is no label of a tenant, so nobody can have opcodes under it. Nothing was opened.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A tenant was given opcodes of its own twice. Nothing was opened; say once how many.
    #[error("tenant {tenant:?} was given opcodes of its own twice")]
    OpcodesTwice {
        /// The tenant's label.
        tenant: String,
    },
    /// All tenants together were given more opcodes than there are. Nothing was opened; give less.
    #[error("{asked} opcodes were given to tenants, there are {count_max}")]
    OpcodesFull {
        /// How many were given.
        asked: u64,
        /// How many there are.
        count_max: u32,
    },
    /// A private computation's opcode is not among those that its tenant was given. Nothing was
    /// opened; number it below `count`, or give the tenant more.
    #[error("{name:?} has opcode {asked} of its tenant's {count}")]
    OpcodeOutOfRange {
        /// The computation's name.
        name: &'static str,
        /// Its number.
        asked: u32,
        /// How many the tenant was given.
        count: u32,
    },
    /// Two private computations of one tenant have one opcode. Nothing was opened; number one of
    /// them anew.
    #[error("{name:?} has opcode {local} of its tenant's, which is taken by {by:?}")]
    OpcodeTaken {
        /// The computation's name.
        name: &'static str,
        /// Its number.
        local: u32,
        /// Whose it is.
        by: &'static str,
    },
    /// A private computation gives no operation for the device. Nothing was opened; give it one.
    #[error("{name:?} is private and gives no operation")]
    NoOperation {
        /// The computation's name.
        name: &'static str,
    },
}

/// An option out of its range. Nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {name} is {value}, it may be {min} to {max}")]
pub struct OptionError {
    /// Which option.
    pub name: &'static str,
    /// Its value.
    pub value: usize,
    /// The smallest value.
    pub min: usize,
    /// The largest value.
    pub max: usize,
}
