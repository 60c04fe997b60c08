//! Backups of a store that works, and stores made from them: what is in them, and that a crash or
//! a flipped bit leaves no half of one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use orlop_saga::canonical::Payload;
use orlop_saga::effect::{Effect, EffectEvent};
use orlop_saga::event::Event;
use orlop_saga::id::{Incarnation, Lsn, StoreId, TenantId};
use orlop_saga::key::Key;
use orlop_saga::outcome::Outcome;
use orlop_saga::time::Clock;
use parking_lot::Mutex;

use super::harness::*;
use crate::backup::{Backup, BackupError, Restore, RestoreError, Restored, verify};
use crate::blob::BlobOptions;
use crate::checkpoint::read_file;
use crate::disk::{Disk, FileDisk, SimDisk};
use crate::folder::{Folder, FolderError};
use crate::log::{FileLog, LogOptions, Purpose};
use crate::projector::{Projected, ProjectorOptions, export_path};
use crate::store::{OpenError, Parts, Recovered, Store};
use crate::tables::SimHome;
use crate::tables::sim::SimShelf;

const BACKUP: &str = "/backup";
const NEW: &str = "/new";

fn options() -> ProjectorOptions {
    ProjectorOptions {
        retention_pause_ms: 86_400_000,
        blobs: BlobOptions {
            bytes_min: 4096,
            ..BlobOptions::default()
        },
        ..ProjectorOptions::default()
    }
}

fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        first_segment_bytes: 32 << 10,
        group_bytes_max: 16 << 10,
        batch_bytes_max: 16 << 10,
        backlog_bytes_max: 64 << 10,
        reserve_bytes: 0,
    }
}

/// An outcome that is kept in a blob.
fn append_long(store: &Store, n: u64) {
    let mut settlement = settlement(n, START_MS);
    settlement.outcome = Outcome::Done(long(n));
    let event = Event::Effect {
        id: id(n),
        event: EffectEvent::Settled(Box::new(settlement)),
    };
    let (sender, receiver) = mpsc::channel();
    let ack = move |result| sender.send(result).unwrap();
    store
        .append_of(tenant(), Purpose::Settle, &[event], Box::new(ack))
        .unwrap();
    receiver.recv().unwrap().unwrap();
}

fn long(n: u64) -> Payload {
    Payload::new(vec![u8::try_from(n % 251).unwrap(); 6_000])
}

/// A store with outcomes 1 to 20, of which 5, 10, 15 and 20 are blobs, a saga that ended, and two
/// effects that were accepted, the second of them external.
fn filled(machine: &Machine) -> Store {
    let (store, _) = machine.open(options()).unwrap();
    for n in 1..=20 {
        if n % 5 == 0 {
            append_long(&store, n);
        } else {
            append(&store, &[settled(n)]).unwrap();
        }
    }
    append(&store, &saga(77)).unwrap();
    append(&store, &[accepted(101)]).unwrap();
    append(&store, &[external(102)]).unwrap();
    store
}

fn external(n: u64) -> Event {
    let mut event = accepted(n);
    if let Event::Effect {
        event: EffectEvent::Accepted(request),
        ..
    } = &mut event
    {
        request.external = true;
    }
    event
}

fn restore(disk: &SimDisk) -> Restore {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Restore {
        from_disk: Arc::clone(&disk),
        disk,
        log: log_options(),
        now: TestClock::new().wall(),
        incarnation_min: None,
    }
}

/// Opens what was restored, with tables that are to be filled.
fn open_new(disk: &SimDisk, store: StoreId) -> Result<(Store, Recovered), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let folder = PathBuf::from(NEW);
    let log = FileLog::open(disk.clone(), &folder.join("log"), log_options(), store)?;
    let parts = Parts {
        store,
        log: Box::new(log),
        home: Box::new(SimHome::new(SimShelf::new())),
        disk,
        folder,
    };
    let told = Arc::new(Announced::default());
    Store::open_with(parts, options(), TestClock::new(), told)
}

fn has_all(store: &Store, recovered: &Recovered) {
    for n in 1..=20 {
        let found = lookup(store, n)
            .unwrap()
            .unwrap_or_else(|| panic!("{n} is lost"));
        let mut expected = settlement(n, START_MS);
        if n % 5 == 0 {
            expected.outcome = Outcome::Done(long(n));
        }
        assert_eq!(found, expected);
    }
    assert!(recovered.live.effects().contains_key(&id(101)));
    assert!(recovered.live.effects().contains_key(&id(102)));
}

#[test]
fn a_backup_taken_while_the_store_is_written_to_has_all_that_was_acknowledged_before_it() {
    let machine = Machine::new();
    let store = filled(&machine);
    let stop = AtomicBool::new(false);
    let backup = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 1_000;
            loop {
                append(&store, &[settled(n)]).unwrap();
                n += 1;
                if stop.load(Ordering::Relaxed) {
                    return n;
                }
            }
        });
        let backup = store.backup(Path::new(BACKUP)).unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 1_000);
        backup
    });
    assert_eq!(verify(&machine.disk, Path::new(BACKUP)).unwrap(), backup);
    assert_eq!((backup.store, backup.blobs), (STORE, 4));
    let made = restore(&machine.disk);
    let restored = made.restore(Path::new(BACKUP), Path::new(NEW)).unwrap();
    assert_eq!(restored.store, STORE);
    let (new, recovered) = open_new(&machine.disk, STORE).unwrap();
    has_all(&new, &recovered);
    // What was appended behind the backup's lsn is not in it, and what was before is.
    let last = recovered.live.lsn().get();
    assert_eq!(last, backup.lsn.get() + 1, "only the opening follows");
}

#[test]
fn an_export_of_another_backup_of_the_store_is_not_restored() {
    let machine = Machine::new();
    let store = filled(&machine);
    let first = store.backup(Path::new(BACKUP)).unwrap();
    append(&store, &[settled(1_000)]).unwrap();
    let later = store.backup(Path::new("/later")).unwrap();
    let name = export_path(Path::new(BACKUP), first.lsn);
    let other = export_path(Path::new("/later"), later.lsn);
    let bytes = read_file(&machine.disk, &other).unwrap();
    machine.disk.remove(&name).unwrap();
    let file = machine.disk.create(&name).unwrap();
    file.write_all_at(0, &bytes).unwrap();
    let made = restore(&machine.disk).restore(Path::new(BACKUP), Path::new(NEW));
    let refused = made.unwrap_err();
    assert!(
        matches!(
            &refused,
            RestoreError::Backup(BackupError::Mismatch { file, .. }) if *file == name
        ),
        "{refused}"
    );
    assert!(!machine.disk.exists(Path::new("/new/FORMAT")).unwrap());
}

/// Stops the projector after a group, for as long as the test wants.
struct Gate(Mutex<mpsc::Receiver<()>>);

impl Projected for Gate {
    fn projected(&self, _keys: &[(TenantId, Key)], _lsn: Lsn) {
        // Open for good once the test has let go of the other end.
        let _ = self.0.lock().recv();
    }
}

#[test]
fn a_backup_that_is_asked_for_while_an_export_is_under_way_comes_after_it() {
    let machine = Machine::new();
    let (open, gate) = mpsc::channel();
    let options = ProjectorOptions {
        checkpoint_bytes: 600 << 10,
        export_bytes_min: 1,
        blobs: BlobOptions::default(),
        ..options()
    };
    let gate = Arc::new(Gate(Mutex::new(gate)));
    let (store, _) = machine.open_told(options, gate).unwrap();
    // One group of more than several slices of an export, met by the gate at its end.
    let events: Vec<Event> = (1..=250).map(wide).collect();
    append(&store, &events).unwrap();
    let (tell, told) = mpsc::channel();
    let answer = move |exported| tell.send(exported).unwrap();
    machine.disk.create_dir(Path::new(BACKUP)).unwrap();
    let inner = &store.inner;
    inner.projector.backup(BACKUP.into(), Box::new(answer));
    drop(open);
    let exported = told.recv_timeout(Duration::from_mins(1));
    let exported = exported.expect("nobody answers").unwrap();
    assert!(exported.lsn.get() >= 250);
    assert_eq!(machine.files("export-").len(), 1, "no export was under way");
}

fn wide(n: u64) -> Event {
    let mut settlement = settlement(n, START_MS);
    settlement.outcome = Outcome::Done(Payload::new(vec![7; 4_000]));
    Event::Effect {
        id: id(n),
        event: EffectEvent::Settled(Box::new(settlement)),
    }
}

#[test]
fn a_restored_store_is_beyond_the_fences_and_sagas_of_the_original_and_doubts_the_outside() {
    let machine = Machine::new();
    let store = filled(&machine);
    store.backup(Path::new(BACKUP)).unwrap();
    let made = restore(&machine.disk);
    let restored = made.restore(Path::new(BACKUP), Path::new(NEW)).unwrap();
    assert_eq!(restored.incarnation, Incarnation::new(START_MS));
    let (new, recovered) = open_new(&machine.disk, STORE).unwrap();
    assert_eq!(recovered.incarnation, Incarnation::new(START_MS + 1));
    assert!(recovered.live.outside_ahead());
    assert_eq!(recovered.live.saga_last().get(), START_MS << 20);
    let effects = recovered.live.effects();
    assert!(matches!(
        effects.get(&id(101)),
        Some(Effect::Accepted { .. })
    ));
    assert!(matches!(
        effects.get(&id(102)),
        Some(Effect::Launched { .. })
    ));
    drop(new);
    let floor = Restore {
        incarnation_min: Some(Incarnation::new(9_000_000)),
        ..made
    };
    let into = Path::new("/other");
    let restored = floor.restore(Path::new(BACKUP), into).unwrap();
    assert_eq!(restored.incarnation, Incarnation::new(9_000_000));
}

#[test]
fn a_clone_has_an_id_of_its_own_keeps_outcomes_and_parks_what_changes_the_outside() {
    let machine = Machine::new();
    let store = filled(&machine);
    store.backup(Path::new(BACKUP)).unwrap();
    let made = restore(&machine.disk);
    let cloned = made.clone_store(Path::new(BACKUP), Path::new(NEW)).unwrap();
    assert_ne!(cloned.store, STORE);
    let (new, recovered) = open_new(&machine.disk, cloned.store).unwrap();
    has_all(&new, &recovered);
    assert!(!recovered.live.outside_ahead());
    let effects = recovered.live.effects();
    assert!(matches!(
        effects.get(&id(101)),
        Some(Effect::Accepted { .. })
    ));
    let Some(Effect::Stuck { reason, .. }) = effects.get(&id(102)) else {
        panic!("{:?}", effects.get(&id(102)));
    };
    assert!(reason.contains(&STORE.to_string()), "{reason}");
    drop(new);
    // The files are another store's now.
    assert!(open_new(&machine.disk, STORE).is_err());
}

#[test]
fn a_folder_that_is_not_empty_is_neither_backed_up_nor_restored_into() {
    let machine = Machine::new();
    let store = filled(&machine);
    store.backup(Path::new(BACKUP)).unwrap();
    let again = store.backup(Path::new(BACKUP)).unwrap_err();
    assert!(matches!(again, BackupError::NotEmpty { .. }), "{again}");
    assert!(verify(&machine.disk, Path::new(BACKUP)).is_ok());
    let made = restore(&machine.disk);
    made.restore(Path::new(BACKUP), Path::new(BACKUP))
        .unwrap_err();
    assert!(verify(&machine.disk, Path::new(BACKUP)).is_ok());
}

/// Runs `act` again and again with the power failing one operation later each time, until it gets
/// through; `judge` says what each crash left. Answers how many crashes there were.
fn at_every_operation(
    prepare: impl Fn() -> (Machine, Store),
    act: impl Fn(&Machine, &Store) -> bool,
    judge: impl Fn(&SimDisk, bool),
) -> u64 {
    for after in 0.. {
        let (machine, store) = prepare();
        machine.disk.power_off_after(after);
        let done = act(&machine, &store);
        for seed in 0..2 {
            judge(&machine.disk.crash(seed), done);
        }
        if done {
            return after;
        }
    }
    unreachable!("it gets through in the end")
}

#[test]
fn a_crash_at_every_operation_of_a_backup_leaves_no_backup_or_a_whole_one() {
    let prepare = || {
        let machine = Machine::new();
        let store = filled(&machine);
        checkpoint(&store).unwrap();
        (machine, store)
    };
    let act = |_: &Machine, store: &Store| store.backup(Path::new(BACKUP)).is_ok();
    let judge = |disk: &SimDisk, done: bool| {
        let backup = Path::new(BACKUP);
        let is_there = disk.exists(&backup.join("BACKUP")).unwrap();
        assert!(is_there || !done, "it was told to be there");
        assert_eq!(verify(disk, backup).is_ok(), is_there);
        assert!(!disk.exists(&backup.join("FORMAT")).unwrap());
    };
    let crashes = at_every_operation(prepare, act, judge);
    println!("{crashes} crashes");
    assert!(crashes > 50);
}

#[test]
fn a_crash_at_every_operation_of_a_restore_leaves_no_store_or_a_whole_one() {
    let prepare = || {
        let machine = Machine::new();
        let store = filled(&machine);
        store.backup(Path::new(BACKUP)).unwrap();
        (machine, store)
    };
    let act = |machine: &Machine, _: &Store| {
        let restored = restore(&machine.disk).restore(Path::new(BACKUP), Path::new(NEW));
        restored.is_ok()
    };
    let judge = |disk: &SimDisk, done: bool| {
        let new = Path::new(NEW);
        let is_there = disk.exists(&new.join("FORMAT")).unwrap();
        assert!(is_there || !done, "it was told to be there");
        if is_there {
            let (store, recovered) = open_new(disk, STORE).unwrap();
            has_all(&store, &recovered);
        } else if disk.exists(new).unwrap() && !disk.list(new).unwrap().is_empty() {
            // Without it a store would be created over what is there.
            assert!(disk.exists(&new.join("RESTORE.new")).unwrap());
        }
        assert!(verify(disk, Path::new(BACKUP)).is_ok());
    };
    let crashes = at_every_operation(prepare, act, judge);
    println!("{crashes} crashes");
    assert!(crashes > 50);
}

#[test]
fn a_flipped_bit_in_any_file_of_a_backup_is_found() {
    let machine = Machine::new();
    let store = filled(&machine);
    store.backup(Path::new(BACKUP)).unwrap();
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(BACKUP)];
    while let Some(folder) = folders.pop() {
        for path in machine.disk.list(&folder).unwrap() {
            match machine.disk.open(&path) {
                Ok(file) => files.push((path, file.len().unwrap())),
                Err(_) => folders.push(path),
            }
        }
    }
    assert_eq!(files.len(), 6, "{files:?}");
    for (path, length) in files {
        for at in (0..length).step_by(usize::try_from(length / 40 + 1).unwrap()) {
            let mask = 1 << (at % 8);
            machine.disk.flip(&path, at, mask).unwrap();
            let found = verify(&machine.disk, Path::new(BACKUP));
            assert!(found.is_err(), "{} at {at}", path.display());
            machine.disk.flip(&path, at, mask).unwrap();
        }
    }
    assert!(verify(&machine.disk, Path::new(BACKUP)).is_ok());
}

/// What a crash at the worst moments leaves, on real files.
#[test]
fn neither_a_backup_nor_an_unfinished_restore_opens_as_a_store() {
    let temp = tempfile::tempdir().unwrap();
    for (names, entry) in [
        (&["BACKUP", "export-1"][..], "BACKUP"),
        (&["BACKUP.new", "export.new"], "BACKUP.new"),
        (&["RESTORE.new", "FORMAT.new"], "RESTORE.new"),
    ] {
        let path = temp.path().join(entry);
        std::fs::create_dir(&path).unwrap();
        for name in names {
            FileDisk.create(&path.join(name)).unwrap();
        }
        let refused = Folder::open(&path, true, TestClock::new().wall()).unwrap_err();
        assert!(
            matches!(refused, FolderError::NotAStore { .. }),
            "{refused}"
        );
    }
}

#[test]
fn a_store_that_is_closed_writes_no_backup_and_one_that_was_restored_twice_goes_on_rising() {
    let machine = Machine::new();
    let store = filled(&machine);
    let Backup { lsn, .. } = store.backup(Path::new(BACKUP)).unwrap();
    let made = restore(&machine.disk);
    let Restored { incarnation, .. } = made.restore(Path::new(BACKUP), Path::new(NEW)).unwrap();
    let (new, _) = open_new(&machine.disk, STORE).unwrap();
    let second = new.backup(Path::new("/second")).unwrap();
    assert!(second.lsn > lsn && second.incarnation > incarnation);
    let again = made
        .restore(Path::new("/second"), Path::new("/third"))
        .unwrap();
    assert!(again.incarnation >= second.incarnation);
    new.close(std::time::Duration::from_mins(1)).unwrap();
    let closed = new.backup(Path::new("/closed")).unwrap_err();
    assert!(matches!(closed, BackupError::Closed), "{closed}");
}
