//! What the proofs share: small bounds, three kinds of log, and a workload that knows every lsn.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use orlop_saga::id::{Lsn, StoreId};

use crate::disk::{Disk, FileDisk, SimDisk};
use crate::log::{
    AppendError, Batch, FileLog, Lane, Log, LogOptions, LsnRange, OpenLogError, Opened, OpenedLog,
    Purpose, SimLogDisk,
};

pub(super) const STORE: StoreId = StoreId::new([7; 16]);

/// Six frames of a page to a segment, two to the first one after an open.
pub(super) const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 32 << 10,
    first_segment_bytes: 16 << 10,
    group_bytes_max: 8 << 10,
    batch_bytes_max: 8 << 10,
    backlog_bytes_max: 16 << 10,
    reserve_bytes: 0,
};

/// A place where a log can be opened again and again.
pub(super) trait Place {
    fn open(&self) -> Box<dyn Opened>;
}

pub(super) fn open_in(disk: &Arc<dyn Disk>, dir: &Path) -> Result<OpenedLog, OpenLogError> {
    match FileLog::open(Arc::clone(disk), dir, OPTIONS, STORE) {
        Err(OpenLogError::Missing { .. }) => FileLog::create(Arc::clone(disk), dir, OPTIONS, STORE),
        other => other,
    }
}

#[derive(Debug)]
pub(super) struct OnFiles {
    dir: tempfile::TempDir,
}

impl Place for OnFiles {
    fn open(&self) -> Box<dyn Opened> {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk);
        Box::new(open_in(&disk, &self.dir.path().join("log")).unwrap())
    }
}

impl Place for SimDisk {
    fn open(&self) -> Box<dyn Opened> {
        Box::new(open_sim(self).unwrap())
    }
}

impl Place for SimLogDisk {
    fn open(&self) -> Box<dyn Opened> {
        Box::new(SimLogDisk::open(self, OPTIONS))
    }
}

/// One place of each kind.
pub(super) fn places() -> Vec<Box<dyn Place>> {
    let dir = tempfile::tempdir().unwrap();
    vec![
        Box::new(OnFiles { dir }),
        Box::new(SimDisk::new()),
        Box::new(SimLogDisk::new()),
    ]
}

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/log")
}

pub(super) fn open_sim(disk: &SimDisk) -> Result<OpenedLog, OpenLogError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_in(&disk, &dir())
}

pub(super) fn batch(records: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::new();
    for record in records {
        batch.push(record);
    }
    batch
}

pub(super) type Answer = Receiver<Result<LsnRange, AppendError>>;

/// Appends and gives the place where the answer arrives; it disconnects if none ever comes.
pub(super) fn append(log: &dyn Log, lane: u32, purpose: Purpose, batch: Batch) -> Answer {
    let (sender, receiver) = bounded(2);
    let ack = Box::new(move |result| sender.send(result).unwrap());
    log.append(Lane(lane), purpose, batch, ack);
    receiver
}

/// Batches whose records say which they are; on one lane, the lsn of each follows.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) batches: Vec<Vec<Vec<u8>>>,
}

impl Workload {
    /// One batch for each count of records, each record of about `bytes` bytes.
    pub(super) fn new(counts: &[usize], bytes: usize) -> Self {
        let record = |batch: usize, index: usize, of: usize| {
            let mut record = format!("batch {batch}, record {index} of {of};").into_bytes();
            record.resize(record.len().max(bytes), b'.');
            record
        };
        let batches = counts.iter().enumerate();
        let batches =
            batches.map(|(at, of)| (0..*of).map(|index| record(at, index, *of)).collect());
        Self {
            batches: batches.collect(),
        }
    }

    /// The lsn of the last record of the first `batches` batches.
    pub(super) fn last(&self, batches: usize) -> u64 {
        self.batches
            .iter()
            .take(batches)
            .map(|batch| batch.len() as u64)
            .sum()
    }

    /// Checks what a log holds: no gap, nothing invented, whole batches, all that was promised.
    pub(super) fn check(&self, opened: &dyn Opened, promised: u64, oldest_max: u64, context: &str) {
        let mut found = Vec::new();
        let first = opened.first_lsn();
        opened
            .replay(first, &mut |lsn: Lsn, record: &[u8]| {
                found.push((lsn.get(), record.to_vec()));
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{context}: replay failed: {error}"));
        let last = opened.last_lsn().get();
        assert!(
            first.get() <= oldest_max,
            "{context}: freed too much: {first}"
        );
        assert!(last >= promised, "{context}: lost: {last} of {promised}");
        let mut records = self.batches.iter().flatten().zip(1_u64..);
        let expected: Vec<(u64, Vec<u8>)> = records
            .by_ref()
            .filter(|(_, lsn)| (first.get()..=last).contains(lsn))
            .map(|(record, lsn)| (lsn, record.clone()))
            .collect();
        assert!(
            found == expected,
            "{context}: other records than were appended"
        );
        let whole = (0..=self.batches.len()).any(|batches| self.last(batches) == last);
        assert!(whole, "{context}: half a batch survived: {last}");
    }
}

/// A sink that is not interested.
pub(super) fn no_sink() -> Box<dyn crate::log::DurableSink> {
    Box::new(|_: Lsn, _: &Batch| {})
}
