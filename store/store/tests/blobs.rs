//! Blobs: where long outcomes are, when their files go, and what a crash leaves of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use orlop_saga::blob::BlobRef;
use orlop_saga::canonical::Payload;
use orlop_saga::effect::EffectEvent;
use orlop_saga::event::Event;
use orlop_saga::id::{Lsn, SagaId, TenantId};
use orlop_saga::outcome::Outcome;
use orlop_saga::saga::{Phase, SagaEvent};
use orlop_saga::time::WallMillis;

use super::harness::*;
use crate::blob::{BlobOptions, blob_path};
use crate::disk::{Disk, Failure, Occurrence, Operation, SimDisk};
use crate::log::{AppendError, FileLog, LogOptions, LsnRange, OpenLogError, Purpose};
use crate::projector::ProjectorOptions;
use crate::store::{OpenError, Parts, Recovered, Store};
use crate::tables::sim::SimShelf;
use crate::tables::{SimHome, TablesError};

const LONG: usize = 5_000;
const SOON: Duration = Duration::from_mins(1);

fn options() -> ProjectorOptions {
    ProjectorOptions {
        // Retention runs when a checkpoint is asked for, and only then.
        retention_pause_ms: 86_400_000,
        blobs: BlobOptions {
            bytes_min: 4096,
            ..BlobOptions::default()
        },
        ..ProjectorOptions::default()
    }
}

/// One disk for the journal, the checkpoints and the blobs; tables beside it.
struct Rig {
    disk: SimDisk,
    shelf: SimShelf,
    clock: Arc<TestClock>,
}

impl Rig {
    fn new() -> Self {
        Self {
            disk: SimDisk::new(),
            shelf: SimShelf::new(),
            clock: TestClock::new(),
        }
    }

    fn open(&self) -> Result<(Store, Recovered), OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let log = LogOptions {
            segment_bytes: 64 << 10,
            first_segment_bytes: 32 << 10,
            group_bytes_max: 16 << 10,
            batch_bytes_max: 16 << 10,
            backlog_bytes_max: 64 << 10,
            reserve_bytes: 0,
        };
        let dir = Path::new("/log");
        let opened = match FileLog::open(disk.clone(), dir, log, STORE) {
            Err(OpenLogError::Missing { .. }) => FileLog::create(disk.clone(), dir, log, STORE)?,
            other => other?,
        };
        let parts = Parts {
            store: STORE,
            log: Box::new(opened),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        };
        let told = Arc::new(Announced::default());
        Store::open_with(parts, options(), self.clock.clone(), told)
    }

    fn crash(&self, seed: u64) -> Self {
        self.disk.power_off_after(0);
        self.shelf.crash(seed);
        Self {
            disk: self.disk.crash(seed),
            shelf: self.shelf.clone(),
            clock: self.clock.clone(),
        }
    }

    /// The files of blobs, of every tenant.
    fn blobs(&self) -> Vec<PathBuf> {
        let root = Path::new("/blobs");
        if !self.disk.exists(root).unwrap() {
            return Vec::new();
        }
        let folders = self.disk.list(root).unwrap();
        folders
            .iter()
            .flat_map(|dir| self.disk.list(dir).unwrap())
            .collect()
    }
}

/// Bytes that say which they are, too long for a record.
fn output(content: u64) -> Payload {
    let mut bytes = vec![u8::try_from(content % 251).unwrap(); LONG];
    bytes[..8].copy_from_slice(&content.to_le_bytes());
    Payload::new(bytes)
}

fn long(n: u64, content: u64, at_ms: u64) -> Event {
    let mut settlement = settlement(n, at_ms);
    settlement.outcome = Outcome::Done(output(content));
    Event::Effect {
        id: id(n),
        event: EffectEvent::Settled(Box::new(settlement)),
    }
}

fn append_of(store: &Store, who: TenantId, events: &[Event]) -> Result<LsnRange, AppendError> {
    let (sender, receiver) = mpsc::channel();
    let ack = move |result| sender.send(result).unwrap();
    let sent = store.append_of(who, Purpose::Settle, events, Box::new(ack));
    if sent.is_err() {
        return Err(AppendError::Closed);
    }
    receiver.recv().unwrap_or(Err(AppendError::Closed))
}

fn keep(store: &Store, n: u64, content: u64) -> Result<LsnRange, AppendError> {
    append_of(store, tenant(), &[long(n, content, START_MS)])
}

/// The bytes found under a key.
fn found(store: &Store, n: u64) -> Option<Payload> {
    match lookup(store, n).unwrap()?.outcome {
        Outcome::Done(output) => Some(output),
        other @ (Outcome::Failed(_) | Outcome::Blob(_)) => panic!("{other:?}"),
    }
}

/// A record that takes the journal further: exports end at another lsn.
fn go_on(store: &Store) {
    append(store, &[accepted(9_000 + store.health().watermark.get())]).unwrap();
}

#[test]
fn a_long_outcome_is_in_a_file_named_by_its_digest_and_found_again_after_a_restart() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    keep(&store, 1, 7).unwrap();
    append_of(&store, tenant(), &[settled(2)]).unwrap();
    let name = BlobRef::of(&output(7)).digest;
    let path = blob_path(Path::new("/"), tenant(), name);
    assert_eq!(rig.blobs(), [path]);
    checkpoint(&store).unwrap();
    assert_eq!(found(&store, 1), Some(output(7)));
    assert_eq!(store.blob_bytes(tenant()).0, LONG as u64);
    store.close(SOON).unwrap();
    // Neither the journal nor the tables have the bytes.
    let journal = rig.disk.list(Path::new("/log")).unwrap();
    assert!(!journal.is_empty());
    let rows: usize = rig.shelf.rows().values().map(Vec::len).sum();
    assert!(rows < LONG, "{rows}");
    let (store, _) = rig.open().unwrap();
    assert_eq!(found(&store, 1), Some(output(7)));
    assert_eq!(lookup(&store, 2), Ok(Some(settlement(2, START_MS))));
    assert_eq!(store.blob_bytes(tenant()).0, LONG as u64);
}

#[test]
fn the_output_of_a_saga_is_kept_in_a_blob_too() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    let mut events = saga(4);
    let completed = SagaEvent::Completed {
        output: output(4),
        at: WallMillis::new(START_MS),
    };
    events[1] = Event::Saga {
        id: SagaId::new(4),
        event: completed,
    };
    append_of(&store, tenant(), &events).unwrap();
    checkpoint(&store).unwrap();
    assert_eq!(rig.blobs().len(), 1);
    assert_eq!(found(&store, 4), Some(output(4)));
    let (sender, receiver) = mpsc::channel();
    let answer = move |found| sender.send(found).unwrap();
    store.lookup_saga(SagaId::new(4), Box::new(answer));
    let state = receiver.recv().unwrap().unwrap().unwrap();
    let expected = Phase::Completed {
        output: output(4),
        at: WallMillis::new(START_MS),
    };
    assert_eq!(state.phase(), &expected);
    rig.clock.pass(RETENTION_MS + 1);
    go_on(&store);
    checkpoint(&store).unwrap();
    go_on(&store);
    export(&store).unwrap();
    assert!(rig.blobs().is_empty());
}

#[test]
fn equal_outputs_of_one_tenant_share_a_file_until_the_last_expires_and_tenants_share_none() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    keep(&store, 1, 7).unwrap();
    append_of(&store, tenant(), &[long(2, 7, START_MS + 10)]).unwrap();
    assert_eq!(rig.blobs().len(), 1);
    let other = TenantId::new(4, 2);
    let Event::Effect { mut id, event } = long(3, 7, START_MS) else {
        panic!("an effect");
    };
    id.tenant = other;
    append_of(&store, other, &[Event::Effect { id, event }]).unwrap();
    assert_eq!(rig.blobs().len(), 2);
    assert_eq!(store.blob_bytes(other).0, LONG as u64);
    rig.clock.pass(RETENTION_MS);
    checkpoint(&store).unwrap();
    go_on(&store);
    export(&store).unwrap();
    assert_eq!(rig.blobs().len(), 1);
    assert_eq!(found(&store, 2), Some(output(7)));
    assert_eq!(store.blob_bytes(other).0, 0);
    rig.clock.pass(10);
    checkpoint(&store).unwrap();
    go_on(&store);
    export(&store).unwrap();
    assert!(rig.blobs().is_empty());
    assert_eq!(store.blob_bytes(tenant()).0, 0);
}

#[test]
fn a_blob_outlives_every_export_that_tables_could_be_rebuilt_from_and_name_it() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    keep(&store, 1, 7).unwrap();
    export(&store).unwrap();
    rig.clock.pass(RETENTION_MS + 1);
    go_on(&store);
    checkpoint(&store).unwrap();
    // The row is gone; the export has it.
    assert_eq!(lookup(&store, 1), Ok(None));
    assert!(!store.maybe_retained(tenant(), key(1)));
    assert_eq!(rig.blobs().len(), 1);
    // Also across a restart, where the file is no leftover.
    store.close(SOON).unwrap();
    let (store, _) = rig.open().unwrap();
    assert_eq!(rig.blobs().len(), 1);
    // Tables rebuilt from that export name it again, and find it, should the clock have gone back.
    store.close(SOON).unwrap();
    rig.shelf.lose_all();
    rig.clock.jump_to(START_MS);
    let (store, recovered) = rig.open().unwrap();
    assert!(recovered.tables_rebuilt);
    assert_eq!(found(&store, 1), Some(output(7)));
    store.close(SOON).unwrap();
    rig.clock.jump_to(START_MS + RETENTION_MS + 1);
    let (store, _) = rig.open().unwrap();
    checkpoint(&store).unwrap();
    go_on(&store);
    export(&store).unwrap();
    assert!(rig.blobs().is_empty());
    assert!(rig.shelf.rows().keys().all(|key| key[0] != b'd'));
}

#[test]
fn whoever_copies_the_store_keeps_every_blob_where_it_is() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    keep(&store, 1, 7).unwrap();
    rig.clock.pass(RETENTION_MS + 1);
    checkpoint(&store).unwrap();
    let hold = store.hold_blobs();
    assert_eq!(hold.bytes_of(tenant()), LONG as u64);
    go_on(&store);
    export(&store).unwrap();
    assert_eq!(rig.blobs().len(), 1);
    drop(hold);
    checkpoint(&store).unwrap();
    assert!(rig.blobs().is_empty());
}

#[test]
fn a_blob_that_is_damaged_or_missing_is_told_and_nothing_else_suffers() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    keep(&store, 1, 7).unwrap();
    append(&store, &[settled(2)]).unwrap();
    checkpoint(&store).unwrap();
    let blob = rig.blobs().pop().unwrap();
    let told = |store: &Store| match lookup(store, 1) {
        Err(TablesError::Blob { reason }) => reason,
        other => panic!("{other:?}"),
    };
    for offset in [0, 2_000, LONG as u64 - 1] {
        rig.disk.flip(&blob, offset, 1).unwrap();
        assert!(told(&store).contains("other bytes"));
        rig.disk.flip(&blob, offset, 1).unwrap();
    }
    assert_eq!(found(&store, 1), Some(output(7)));
    rig.disk.open(&blob).unwrap().set_len(4_999).unwrap();
    assert!(told(&store).contains("4999 bytes"));
    rig.disk.remove(&blob).unwrap();
    assert!(told(&store).contains("missing"));
    assert_eq!(lookup(&store, 2), Ok(Some(settlement(2, START_MS))));
    assert!(store.health().projector.is_none());
    // It has no bearing on its expiry.
    rig.clock.pass(RETENTION_MS + 1);
    checkpoint(&store).unwrap();
    assert_eq!(lookup(&store, 1), Ok(None));
    store.close(SOON).unwrap();
}

#[test]
fn an_output_whose_blob_cannot_be_written_is_kept_in_its_record() {
    for operation in [
        Operation::Create,
        Operation::Write,
        Operation::Rename,
        Operation::CreateDir,
    ] {
        for failure in [Failure::NoSpace, Failure::Device, Failure::Short] {
            let rig = Rig::new();
            let (store, _) = rig.open().unwrap();
            keep(&store, 1, 1).unwrap();
            let blobs = rig.blobs().len();
            // The journal's janitor may be the one that meets it: then nothing is told.
            rig.disk.fail(Some(operation), Occurrence::Only(0), failure);
            let kept = append_of(&store, TenantId::new(8, 1), &[long_of(8, 2)]);
            rig.disk.heal();
            if kept.is_err() {
                continue;
            }
            checkpoint(&store).unwrap();
            assert!(rig.blobs().len() <= blobs + 1);
            store.close(SOON).unwrap();
            let after = rig.crash(3);
            let (store, _) = after.open().unwrap();
            let (sender, receiver) = mpsc::channel();
            let answer = move |found| sender.send(found).unwrap();
            store.lookup(TenantId::new(8, 1), key(1), Box::new(answer));
            let retained = receiver.recv().unwrap().unwrap().unwrap();
            assert_eq!(retained.outcome, Outcome::Done(output(2)));
            assert_eq!(found(&store, 1), Some(output(1)));
        }
    }
}

/// A long outcome of key 1 of another tenant.
fn long_of(slot: u32, content: u64) -> Event {
    let Event::Effect { mut id, event } = long(1, content, START_MS) else {
        panic!("an effect");
    };
    id.tenant = TenantId::new(slot, 1);
    Event::Effect { id, event }
}

#[test]
fn a_batch_that_the_journal_refused_leaves_no_blob_after_the_next_checkpoint() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    // Two records of 9,000 bytes beside the blob: over the journal's bound for a batch.
    let mut wide = vec![long(1, 7, START_MS)];
    for n in 2..=5 {
        let mut settlement = settlement(n, START_MS);
        settlement.outcome = Outcome::Done(Payload::new(vec![1; 4_095]));
        wide.push(Event::Effect {
            id: id(n),
            event: EffectEvent::Settled(Box::new(settlement)),
        });
    }
    let refused = append_of(&store, tenant(), &wide).unwrap_err();
    assert!(
        matches!(refused, AppendError::TooLarge { .. }),
        "{refused:?}"
    );
    assert_eq!(rig.blobs().len(), 1);
    checkpoint(&store).unwrap();
    assert!(rig.blobs().is_empty());
    assert_eq!(store.blob_bytes(tenant()).0, 0);
}

/// Keeps outcomes, lets some expire, exports; answers what was acknowledged and not expired since.
fn course(rig: &Rig) -> (Vec<u64>, bool) {
    let Ok((store, _)) = rig.open() else {
        return (Vec::new(), false);
    };
    let mut kept = Vec::new();
    let mut whole = true;
    for n in 1..=3 {
        match keep(&store, n, n) {
            Ok(_) => kept.push(n),
            Err(_) => whole = false,
        }
    }
    whole &= checkpoint(&store).is_ok();
    rig.clock.pass(RETENTION_MS + 1);
    kept.clear();
    for n in 4..=5 {
        // The first of them has the bytes of one that has expired.
        match append_of(&store, tenant(), &[long(n, n - 1, START_MS + RETENTION_MS)]) {
            Ok(_) => kept.push(n),
            Err(_) => whole = false,
        }
    }
    whole &= checkpoint(&store).is_ok();
    whole &= export(&store).is_ok();
    whole &= store.close(SOON).is_ok();
    (kept, whole)
}

#[test]
fn a_power_cut_at_every_operation_leaves_no_outcome_without_its_blob_and_leaks_none() {
    for cut in 0.. {
        let mut through = false;
        for seed in 0..3 {
            let rig = Rig::new();
            rig.disk.power_off_after(cut);
            let (kept, whole) = course(&rig);
            through |= whole;
            let after = rig.crash(seed * 1_000 + cut);
            let (store, _) = after.open().unwrap_or_else(|e| panic!("cut {cut}: {e}"));
            for n in &kept {
                assert_eq!(found(&store, *n), Some(output(n - 1)), "cut {cut}, key {n}");
            }
            for n in 1..=5 {
                // Whatever else is found is whole.
                let _ = found(&store, n);
            }
            checkpoint(&store).unwrap();
            go_on(&store);
            export(&store).unwrap();
            let named: std::collections::BTreeSet<_> = (1..=5)
                .filter_map(|n| found(&store, n))
                .map(|output| blob_path(Path::new("/"), tenant(), BlobRef::of(&output).digest))
                .collect();
            let files: std::collections::BTreeSet<_> = after.blobs().into_iter().collect();
            assert_eq!(files, named, "cut {cut}");
            store.close(SOON).unwrap();
        }
        if through {
            assert!(cut > 60, "the course does too little: {cut} operations");
            return;
        }
    }
}

#[test]
fn what_a_crash_left_before_the_record_is_swept_at_open() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    keep(&store, 1, 7).unwrap();
    checkpoint(&store).unwrap();
    store.close(SOON).unwrap();
    let kept = rig.blobs();
    let dir = kept[0].parent().unwrap();
    let leftovers = [
        blob_path(Path::new("/"), tenant(), BlobRef::of(&output(8)).digest),
        dir.join("half.new"),
    ];
    for file in &leftovers {
        rig.disk.create(file).unwrap();
    }
    assert_eq!(rig.blobs().len(), 3);
    let (store, recovered) = rig.open().unwrap();
    assert_eq!(rig.blobs(), kept);
    assert!(recovered.live.lsn() > Lsn::new(0));
    assert_eq!(found(&store, 1), Some(output(7)));
}

#[test]
fn bytes_that_come_again_after_a_crash_undid_the_note_that_their_blob_is_gone_are_written_again() {
    let mut undone = 0;
    for seed in 0..16 {
        let rig = Rig::new();
        let (store, _) = rig.open().unwrap();
        keep(&store, 1, 7).unwrap();
        rig.clock.pass(RETENTION_MS + 1);
        checkpoint(&store).unwrap();
        go_on(&store);
        let hold = store.hold_blobs();
        export(&store).unwrap();
        drop(hold);
        checkpoint(&store).unwrap();
        assert!(rig.blobs().is_empty());
        // The tables may go back to before the unlinking: they say the blob is still there.
        let after = rig.crash(seed);
        drop(store);
        let (store, _) = after.open().unwrap();
        undone += u32::from(store.blob_bytes(tenant()).0 > 0);
        let again = long(2, 7, START_MS + RETENTION_MS);
        append_of(&store, tenant(), &[again]).unwrap();
        checkpoint(&store).unwrap();
        assert_eq!(found(&store, 2), Some(output(7)), "seed {seed}");
        store.close(SOON).unwrap();
    }
    assert!(undone > 0, "no crash undid it");
}

#[test]
fn bytes_whose_blob_is_damaged_or_missing_are_written_again_when_they_come_again() {
    for missing in [false, true] {
        let rig = Rig::new();
        let (store, _) = rig.open().unwrap();
        keep(&store, 1, 7).unwrap();
        checkpoint(&store).unwrap();
        let blob = rig.blobs().pop().unwrap();
        if missing {
            rig.disk.remove(&blob).unwrap();
        } else {
            rig.disk.flip(&blob, 9, 1).unwrap();
        }
        assert!(lookup(&store, 1).is_err());
        keep(&store, 2, 7).unwrap();
        checkpoint(&store).unwrap();
        assert_eq!(found(&store, 2), Some(output(7)), "missing: {missing}");
        assert_eq!(found(&store, 1), Some(output(7)), "missing: {missing}");
    }
}

#[test]
fn a_blob_that_nothing_names_and_that_was_held_goes_at_the_next_checkpoint() {
    let rig = Rig::new();
    let (store, _) = rig.open().unwrap();
    let mut wide = vec![long(1, 7, START_MS), long(2, 8, START_MS)];
    for n in 3..=6 {
        let mut settlement = settlement(n, START_MS);
        settlement.outcome = Outcome::Done(Payload::new(vec![1; 4_095]));
        wide.push(Event::Effect {
            id: id(n),
            event: EffectEvent::Settled(Box::new(settlement)),
        });
    }
    append_of(&store, tenant(), &wide).unwrap_err();
    assert_eq!(rig.blobs().len(), 2);
    let hold = store.hold_blobs();
    checkpoint(&store).unwrap();
    assert_eq!(rig.blobs().len(), 2);
    drop(hold);
    checkpoint(&store).unwrap();
    assert!(rig.blobs().is_empty());
    assert_eq!(store.blob_bytes(tenant()).0, 0);
}
