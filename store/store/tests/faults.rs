//! Every operation on the disk fails once, or from then on: open, work, checkpoint, export, close
//! and the next open, with journal, checkpoints, exports and blobs on the one disk that fails.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use orlop_saga::canonical::Payload;
use orlop_saga::effect::EffectEvent;
use orlop_saga::event::Event;
use orlop_saga::outcome::Outcome;

use super::harness::*;
use crate::blob::BlobOptions;
use crate::disk::{Disk, Failure, FaultyDisk, FileDisk, Occurrence, Operation, SimDisk};
use crate::log::{AppendError, FileLog, LogOptions, LsnRange, OpenLogError, Purpose};
use crate::projector::{ProjectorError, ProjectorOptions};
use crate::store::{AppendRefused, OpenError, Parts, Recovered, Store};
use crate::tables::SimHome;
use crate::tables::sim::SimShelf;

const SOON: Duration = Duration::from_mins(1);

/// A disk that fails, whatever it is, and tables that do not.
struct Rig {
    disk: FaultyDisk,
    folder: PathBuf,
    shelf: SimShelf,
    backlog_bytes_max: u64,
}

impl Rig {
    fn on(disk: Arc<dyn Disk>, folder: &Path) -> Self {
        Self {
            disk: FaultyDisk::new(disk),
            folder: folder.to_path_buf(),
            shelf: SimShelf::new(),
            backlog_bytes_max: 32 << 10,
        }
    }

    fn open(&self) -> Result<(Store, Recovered), OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let options = LogOptions {
            segment_bytes: 32 << 10,
            first_segment_bytes: 16 << 10,
            group_bytes_max: 8 << 10,
            batch_bytes_max: 12 << 10,
            backlog_bytes_max: 64 << 10,
            reserve_bytes: 32 << 10,
        };
        let dir = self.folder.join("log");
        let opened = match FileLog::open(disk.clone(), &dir, options, STORE) {
            Err(OpenLogError::Missing { .. }) => {
                FileLog::create(disk.clone(), &dir, options, STORE)?
            }
            other => other?,
        };
        let parts = Parts {
            store: STORE,
            log: Box::new(opened),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: self.folder.clone(),
        };
        let projector = ProjectorOptions {
            backlog_bytes_max: self.backlog_bytes_max,
            blobs: BlobOptions {
                bytes_min: 4096,
                ..BlobOptions::default()
            },
            ..ProjectorOptions::default()
        };
        let told = Arc::new(Announced::default());
        Store::open_with(parts, projector, TestClock::new(), told)
    }
}

/// Every third outcome is long enough for a blob.
fn outcome(n: u64) -> Outcome {
    let bytes = if n.is_multiple_of(3) { 5_000 } else { 300 };
    Outcome::Done(Payload::new(vec![u8::try_from(n % 251).unwrap(); bytes]))
}

fn event(n: u64) -> Event {
    let mut settlement = settlement(n, START_MS);
    settlement.outcome = outcome(n);
    Event::Effect {
        id: id(n),
        event: EffectEvent::Settled(Box::new(settlement)),
    }
}

fn try_append(store: &Store, n: u64) -> Result<LsnRange, AppendError> {
    let (sender, receiver) = mpsc::channel();
    let ack = move |result| sender.send(result).unwrap();
    let sent = store.append_of(tenant(), Purpose::Settle, &[event(n)], Box::new(ack));
    sent.unwrap();
    let answer = receiver.recv().expect("every batch is answered");
    assert!(receiver.recv().is_err(), "{n} was answered twice");
    answer
}

/// What one life of the store said.
#[derive(Default)]
struct Said {
    acknowledged: Vec<u64>,
    unresolved: u64,
    whole: bool,
}

/// Opens, appends, checkpoints, exports, closes; goes on as long as it is let.
fn life(rig: &Rig, from: u64) -> Said {
    let mut said = Said::default();
    let Ok((store, _)) = rig.open() else {
        return said;
    };
    said.whole = true;
    let mut poisoned = false;
    for n in from..from + 9 {
        match try_append(&store, n) {
            Ok(_) => {
                assert!(!poisoned, "{n} was acknowledged by a poisoned journal");
                said.acknowledged.push(n);
            }
            Err(AppendError::Unresolved) => {
                assert!(
                    !poisoned,
                    "{n} is unresolved after the journal was poisoned"
                );
                said.unresolved += 1;
                poisoned = true;
            }
            Err(AppendError::Poisoned) => poisoned = true,
            Err(AppendError::Full) => {}
            Err(other) => panic!("an answer that fits no fault: {other}"),
        }
        said.whole &= match n - from {
            3 => checkpoint(&store).is_ok(),
            6 => export(&store).is_ok(),
            _ => true,
        };
    }
    said.whole &= store.close(SOON).is_ok();
    said
}

fn all_found(rig: &Rig, acknowledged: &[u64], context: &str) {
    let (store, _) = rig.open().unwrap_or_else(|e| panic!("{context}: {e}"));
    for n in acknowledged {
        let found = lookup(&store, *n).unwrap().map(|found| found.outcome);
        assert_eq!(found, Some(outcome(*n)), "{context}: {n}");
    }
    let closed = store.close(SOON);
    assert!(closed.is_ok(), "{context}: {closed:?}");
}

/// Fails every operation of two lives of a store in turn, and checks a third one, in the same life
/// of the machine and after the power went.
fn fail_every_operation(failure: Failure, occurrence: fn(u64) -> Occurrence) {
    let mut unresolved = 0;
    for nth in 0.. {
        let sim = SimDisk::new();
        let rig = Rig::on(Arc::new(sim.clone()), Path::new("/"));
        let context = format!("{failure:?} at {:?}", occurrence(nth));
        // The medium's own fault, so that a failed sync leaves pages that nobody knows.
        sim.fail(None, occurrence(nth), failure);
        let first = life(&rig, 1);
        rig.disk.change_hands();
        let second = life(&rig, 21);
        assert_eq!(rig.disk.resynced(), Vec::<PathBuf>::new(), "{context}");
        let reached = sim.operations() > nth;
        sim.heal();
        rig.disk.change_hands();
        unresolved += first.unresolved + second.unresolved;
        let acknowledged = [first.acknowledged, second.acknowledged].concat();
        if !reached {
            assert!(first.whole && second.whole, "{context}");
            assert_eq!(acknowledged.len(), 18);
            assert!(nth > 200, "the lives do too little: {nth} operations");
            break;
        }
        all_found(&rig, &acknowledged, &context);
        sim.power_off_after(0);
        rig.shelf.crash(nth);
        let after = Rig {
            disk: FaultyDisk::new(Arc::new(sim.crash(nth))),
            shelf: rig.shelf.clone(),
            ..rig
        };
        all_found(&after, &acknowledged, &context);
    }
    assert!(unresolved > 0, "no fault met a group of the journal");
}

#[test]
fn a_device_error_at_every_operation_once_loses_nothing_acknowledged() {
    fail_every_operation(Failure::Device, Occurrence::Only);
}

#[test]
fn a_device_error_from_every_operation_on_loses_nothing_acknowledged() {
    fail_every_operation(Failure::Device, Occurrence::From);
}

#[test]
fn a_full_disk_at_every_operation_once_loses_nothing_acknowledged() {
    fail_every_operation(Failure::NoSpace, Occurrence::Only);
}

#[test]
fn a_full_disk_from_every_operation_on_loses_nothing_acknowledged() {
    fail_every_operation(Failure::NoSpace, Occurrence::From);
}

#[test]
fn a_short_write_at_every_operation_loses_nothing_acknowledged() {
    fail_every_operation(Failure::Short, Occurrence::Only);
}

/// On the system's own files every seventh operation, as each costs a few real syncs.
#[test]
fn errors_on_real_files_lose_nothing_acknowledged_and_nothing_is_synced_twice() {
    for failure in [Failure::Device, Failure::NoSpace, Failure::Short] {
        for nth in (0..).step_by(7) {
            let folder = tempfile::tempdir().unwrap();
            let rig = Rig::on(Arc::new(FileDisk), folder.path());
            rig.disk.fail(None, Occurrence::Only(nth), failure);
            let said = life(&rig, 1);
            let reached = rig.disk.failures() > 0;
            assert_eq!(rig.disk.resynced(), Vec::<PathBuf>::new());
            rig.disk.heal();
            let context = format!("{failure:?} at {nth}");
            all_found(&rig, &said.acknowledged, &context);
            if !reached {
                assert!(said.whole && nth > 60, "{nth} operations");
                break;
            }
        }
    }
}

#[test]
fn a_checkpoint_or_export_without_space_stops_nothing_and_comes_once_there_is_some() {
    for operation in [Operation::Create, Operation::Write, Operation::Rename] {
        let sim = SimDisk::new();
        let rig = Rig::on(Arc::new(sim.clone()), Path::new("/"));
        let (store, _) = rig.open().unwrap();
        try_append(&store, 1).unwrap();
        sim.fail(Some(operation), Occurrence::From(0), Failure::NoSpace);
        for asked in [checkpoint(&store), export(&store)] {
            let refused = asked.unwrap_err();
            assert!(
                matches!(
                    refused,
                    ProjectorError::Checkpoint(_) | ProjectorError::Export(_)
                ),
                "{operation:?}: {refused}"
            );
            assert!(store.health().projector.is_none(), "{operation:?}");
        }
        sim.heal();
        let left = sim.list(Path::new("/")).unwrap();
        let unfinished = |path: &PathBuf| path.extension().is_some_and(|new| new == "new");
        assert!(!left.iter().any(unfinished), "{left:?}");
        try_append(&store, 2).unwrap();
        export(&store).unwrap();
        checkpoint(&store).unwrap();
        for n in [1, 2] {
            let found = lookup(&store, n).unwrap().map(|found| found.outcome);
            assert_eq!(found, Some(outcome(n)), "{operation:?}");
        }
        store.close(SOON).unwrap();
    }
}

#[test]
fn once_the_tables_have_failed_new_work_is_refused_at_the_bound_of_what_is_not_in_them() {
    let rig = Rig::on(Arc::new(SimDisk::new()), Path::new("/"));
    let (store, _) = rig.open().unwrap();
    rig.shelf.fail_after(0);
    let mut written = 0;
    let refused = loop {
        let (sender, receiver) = mpsc::channel();
        let ack = move |result| sender.send(result).unwrap();
        let events = [event(written * 3 + 1)];
        match store.append_of(tenant(), Purpose::New, &events, Box::new(ack)) {
            Ok(()) => receiver.recv().unwrap().map(drop).unwrap(),
            Err(refused) => break refused,
        }
        written += 1;
        assert!(written < 1_000, "the backlog has no bound");
    };
    assert!(matches!(refused, AppendRefused::Backlogged { .. }));
    assert!(store.health().projector.is_some());
    // What was accepted may still end.
    let n = written * 3 + 1;
    try_append(&store, n).unwrap();
    drop(store);
    rig.shelf.crash(1);
    let acknowledged: Vec<u64> = (0..=written).map(|n| n * 3 + 1).collect();
    all_found(&rig, &acknowledged, "after the tables failed");
}
