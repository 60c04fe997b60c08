//! The contract of a log: what may be appended, what an answer means, what is called when.
//!
//! Invariants
//! - The log gives lsns without gaps; a batch takes one per record, in order.
//! - A batch is atomic across a crash; batches of one lane keep their order.
//! - A batch is durable before the sink sees it, and the sink has seen it before its
//!   acknowledgement; both happen in lsn order.
//! - Every acknowledgement is called exactly once, outside `append` and outside every lock.

use std::fmt;
use std::sync::Arc;

use orlop_saga::histogram::Histogram;
use orlop_saga::id::Lsn;

use super::{AppendError, Batch, LogError, ReplayError, ReplayLogError, StartLogError};

/// Whose append it is: groups are composed round-robin over lanes. A tenant's slot, usually.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u32);

/// What a batch is for, which decides who is refused first when space runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Takes on work: an intent, a saga's start. Refused first.
    New,
    /// Finishes work already taken on: an outcome, an undo, a close. May use the reserve.
    Settle,
}

/// The lsns of one batch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LsnRange {
    /// The lsn of its first record.
    pub first: Lsn,
    /// The lsn of its last record.
    pub last: Lsn,
}

/// Who is told what became of a batch.
pub trait Acknowledge: Send {
    /// Called exactly once, never from inside [`Log::append`] and never with a lock of the log
    /// held; `append` may be called from here, [`Log::close`] may not.
    ///
    /// Successes arrive on the log's own thread in lsn order: whatever blocks here delays every
    /// batch behind it. `Ok` means durable, and seen by the [`DurableSink`].
    fn acknowledged(self: Box<Self>, result: Result<LsnRange, AppendError>);
}

impl<F: FnOnce(Result<LsnRange, AppendError>) + Send> Acknowledge for F {
    fn acknowledged(self: Box<Self>, result: Result<LsnRange, AppendError>) {
        (*self)(result);
    }
}

/// Whether a log takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogHealth {
    /// It does.
    Healthy,
    /// There is no room for another segment: only [`Purpose::Settle`] is taken, while the reserve
    /// lasts. Left once space was found again.
    Full,
    /// A write or a sync failed: nothing is taken any more. Only reopening leaves this state.
    Poisoned,
    /// It was closed: nothing is taken any more.
    Closed,
}

/// What a log has written since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches that are durable.
    pub batches: u64,
    /// Groups that they were written in: one write and one sync each.
    pub groups: u64,
    /// Bytes of these groups on the disk.
    pub bytes: u64,
    /// How long writing and syncing a group took, in nanoseconds.
    pub syncs: Histogram,
}

/// A journal: batches become durable in order, many at a time.
///
/// Dropping a log without [`close`](Log::close) is safe: what is being written is finished, what
/// only waits is answered with [`AppendError::Closed`], and the threads end.
pub trait Log: Send + Sync + fmt::Debug {
    /// Hands over one batch; `ack` hears once what became of it.
    ///
    /// Never waits for the disk. At the bound of bytes waiting, the batch is refused with
    /// [`AppendError::Backlogged`], a `Settle` later than a `New`.
    fn append(&self, lane: Lane, purpose: Purpose, batch: Batch, ack: Box<dyn Acknowledge>);

    /// The highest lsn such that it and all before it are durable; 0 if there is none.
    fn watermark(&self) -> Lsn;

    /// Whether appends are taken.
    fn health(&self) -> LogHealth;

    /// What it has written; nothing where a log does not count.
    fn stats(&self) -> LogStats {
        LogStats::default()
    }

    /// Frees the segments whose records all lie below `lsn`; the others stay whole, so that
    /// records below `lsn` may still be replayed. Waits for the disk.
    ///
    /// # Errors
    /// [`LogError`]: what was not freed stays and does no harm.
    fn forget_before(&self, lsn: Lsn) -> Result<(), LogError>;

    /// Refuses further appends, makes durable and acknowledges what was accepted, and stops.
    ///
    /// Idempotent: later calls wait for the first and answer the same.
    ///
    /// # Errors
    /// [`LogError`]: the log is stopped all the same. Every batch has had its answer, and those
    /// answered `Ok` are durable.
    fn close(&self) -> Result<(), LogError>;
}

/// Who is given every durable batch: the projector behind the tables.
pub trait DurableSink: Send {
    /// `batch` is durable; its first record has lsn `first`.
    ///
    /// Called on the log's own thread, in lsn order, before the batch is acknowledged. A panic
    /// here poisons the log and leaves the group unresolved.
    fn durable(&mut self, first: Lsn, batch: &Batch);
}

impl<F: FnMut(Lsn, &Batch) + Send> DurableSink for F {
    fn durable(&mut self, first: Lsn, batch: &Batch) {
        self(first, batch);
    }
}

/// Who is given the records found at open.
pub trait Replay {
    /// One record, in lsn order.
    ///
    /// # Errors
    /// [`ReplayError`]: the record is not understood; the replay stops and hands it on.
    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError>;
}

impl<F: FnMut(Lsn, &[u8]) -> Result<(), ReplayError>> Replay for F {
    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError> {
        self(lsn, record)
    }
}

/// A log that was opened and does not run yet: what it holds is durable and can be replayed.
pub trait Opened: Send + fmt::Debug {
    /// The lsn of the oldest record kept; where there is none, the lsn the next append gets.
    fn first_lsn(&self) -> Lsn;

    /// The lsn of the newest record; 0 if there never was one.
    fn last_lsn(&self) -> Lsn;

    /// Hands every record from `from` on to `replay`, in lsn order. May be called again.
    ///
    /// # Errors
    /// [`ReplayLogError`]: the records before the failure were handed over.
    fn replay(&self, from: Lsn, replay: &mut dyn Replay) -> Result<(), ReplayLogError>;

    /// Starts taking appends. `sink` is given every batch appended from now on, none of those that
    /// were found.
    ///
    /// # Errors
    /// [`StartLogError`]: nothing runs; what was found stays durable.
    fn start(self: Box<Self>, sink: Box<dyn DurableSink>) -> Result<Arc<dyn Log>, StartLogError>;
}
