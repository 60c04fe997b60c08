//! Errors of a log, one enum per operation.

use std::io;
use std::path::PathBuf;

use orlop_saga::compat::NotInFormat;
use orlop_saga::id::{Lsn, StoreId};

/// Why a batch is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The write or the sync of its group failed: it may or may not be durable, wholly or not at
    /// all. Nothing was told to the sink. Reopen the log, then look for it before doing it again.
    #[error("the disk failed while the batch was written, so whether it is durable is unknown")]
    Unresolved,
    /// An earlier write or sync failed. Nothing of this batch was written. Reopen the log.
    #[error("the log is poisoned by an earlier disk failure")]
    Poisoned,
    /// There is no space for another segment. Nothing of this batch was written. Free space, or
    /// let [`forget_before`](super::Log::forget_before) free segments, and append again.
    #[error("no space is left for another segment of the log")]
    Full,
    /// The disk does not keep up: too many bytes wait already. Nothing of this batch was written.
    /// Append again once batches that were handed over before have been acknowledged.
    #[error("{bytes} bytes wait for the disk already, {bytes_max} may")]
    Backlogged {
        /// Bytes waiting when the batch came.
        bytes: u64,
        /// The most that may wait for a batch of this purpose.
        bytes_max: u64,
    },
    /// The batch can never be appended as it is. Nothing of it was written. Split it, or open the
    /// log with a larger `batch_bytes_max`.
    #[error("a batch of {bytes} bytes is larger than {bytes_max}")]
    TooLarge {
        /// Its size with the length of each record.
        bytes: u64,
        /// The most a batch may have.
        bytes_max: u64,
    },
    /// The batch has no record, so no lsn could name it. Nothing was written; there is nothing to
    /// append again.
    #[error("the batch has no record")]
    Empty,
    /// The store's format cannot say what the batch has. Nothing of it was written. Upgrade the
    /// store, or do without.
    #[error(transparent)]
    NotInFormat(#[from] NotInFormat),
    /// The log was closed or dropped before the batch was written. Nothing of it was written.
    /// Append it to the log once it is open again.
    #[error("the log is closed")]
    Closed,
}

impl AppendError {
    /// Whether the very same batch may be appended to the same log again.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full | Self::Backlogged { .. } => true,
            Self::Unresolved
            | Self::Poisoned
            | Self::TooLarge { .. }
            | Self::Empty
            | Self::NotInFormat(_)
            | Self::Closed => false,
        }
    }
}

/// Why a log was not stopped cleanly, or did not free what it could.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A write or a sync failed, now or before. Nothing was synced again and nothing more was
    /// freed. Reopen the log.
    #[error("the log is poisoned by a disk failure")]
    Poisoned,
    /// The log is closed. Nothing was freed. Reopen it.
    #[error("the log is closed")]
    Closed,
    /// Called from an acknowledgement or the sink, on a thread this call would have to wait for.
    /// Nothing was done. Call it from another thread.
    #[error("called on the log's own thread, which cannot wait for itself")]
    OwnThread,
}

/// What a replay's receiver has against a record.
#[derive(Debug, thiserror::Error)]
#[error("record {lsn} is not understood")]
pub struct ReplayError {
    /// The record's lsn.
    pub lsn: Lsn,
    /// What is wrong with it.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl ReplayError {
    /// The record at `lsn` is refused because of `source`.
    pub fn new(lsn: Lsn, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            lsn,
            source: source.into(),
        }
    }
}

/// Why a replay ended early. Nothing on the disk was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayLogError {
    /// Records that were asked for have been freed. None was handed over. Start from an export
    /// that reaches up to `first`.
    #[error("replay from {from} was asked for, the oldest record kept is {first}")]
    Forgotten {
        /// Where the replay was to start.
        from: Lsn,
        /// The oldest record kept.
        first: Lsn,
    },
    /// The disk could not be read; the records before were handed over. Try again, then restore.
    #[error("{file} cannot be read at {offset}")]
    Io {
        /// The segment.
        file: PathBuf,
        /// The byte in it.
        offset: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What was sound at open no longer is; the records before were handed over. Restore the
    /// folder from a backup.
    #[error("{file} is damaged at {offset}")]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// The first byte of the damaged frame.
        offset: u64,
    },
    /// The receiver refused a record; the records before were handed over and kept.
    #[error("the replay was stopped by its receiver")]
    Refused(#[from] ReplayError),
}

/// Why a log was not opened. No record was lost or changed by the attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenLogError {
    /// An option is out of bounds. The disk was not touched. Correct the option.
    #[error("log option {option} is {value}, must be from {least} to {most}")]
    Options {
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// The folder has no segment: no log was ever created here, or all of it was deleted. Nothing
    /// was created. Create the log if the store is new, else restore the folder from a backup.
    #[error("{dir} has no log")]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder already has segments, so no log was created over them. Open it instead.
    #[error("{dir} already has a log")]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// A frame or a segment's head does not verify although valid frames follow, or must follow.
    /// Nothing was changed. Restore the folder from a backup: bytes that were durable are gone.
    #[error("{file} is damaged at {offset}: {damage}")]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// The first byte of what does not verify.
        offset: u64,
        /// What does not verify.
        damage: Damage,
    },
    /// A segment is missing between two others. Nothing was changed. Put the missing file back, or
    /// restore the folder from a backup.
    #[error("a segment is missing between {before} and {after}")]
    Gap {
        /// The last segment before the gap.
        before: PathBuf,
        /// The first one behind it.
        after: PathBuf,
    },
    /// A segment belongs to another store. Nothing was changed. Check which folder was mounted.
    #[error("{file} belongs to store {found}, not to {expected}")]
    OtherStore {
        /// The segment.
        file: PathBuf,
        /// Whose it is.
        found: StoreId,
        /// Whose it should be.
        expected: StoreId,
    },
    /// A segment was written by a newer version. Nothing was changed. Open it with that version.
    #[error("{file} has format {found}, the newest known here is {newest}")]
    NewerFormat {
        /// The segment.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this version reads.
        newest: u32,
    },
    /// The disk refused an operation. Records found stay where they were. Correct the cause (space,
    /// rights, the device) and open again.
    #[error("{operation} failed on {file}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file or folder.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The head of a segment.
    #[error("the segment's head does not verify")]
    Head,
    /// A file that is shorter than the segment it holds.
    #[error("the file is cut short")]
    Length,
    /// A frame with valid frames behind it.
    #[error("a frame does not verify although a later one does")]
    Frame,
    /// The whole log: its newest segment has no valid frame, and it is not a new log.
    #[error("no frame verifies, and older segments are gone")]
    AllFrames,
    /// Frames verify but do not follow each other.
    #[error("frames do not follow each other")]
    Order,
}

/// Why a log did not start. What was found stays durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartLogError {
    /// The system gave no thread. Nothing runs. Raise the limit of threads and open again.
    #[error("no thread could be started for the log")]
    Thread(#[source] io::Error),
}
