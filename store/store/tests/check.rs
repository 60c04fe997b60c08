//! Checks of closed stores: a sound one has no finding, and damage planted in any file of one has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_saga::canonical::Payload;
use orlop_saga::compat::Format;
use orlop_saga::effect::EffectEvent;
use orlop_saga::event::Event;
use orlop_saga::id::{Incarnation, SagaId};
use orlop_saga::outcome::Outcome;
use orlop_saga::time::{Clock, WallMillis};
use tempfile::TempDir;

use super::harness::*;
use crate::check::{CheckError, CheckOptions, Report, check};
use crate::checkpoint as checkpoints;
use crate::disk::FileDisk;
use crate::log::{LogOptions, Purpose};
use crate::projection;
use crate::store::{Store, StoreOptions};
use crate::tables::sled::current_tree;
use crate::tables::{Change, SledOptions, SledTables, Tables};

const PAGE: usize = 4096;

fn open(path: &Path) -> Store {
    let mut options = StoreOptions {
        log: LogOptions {
            segment_bytes: 256 << 10,
            first_segment_bytes: 64 << 10,
            group_bytes_max: 64 << 10,
            batch_bytes_max: 64 << 10,
            reserve_bytes: 0,
            ..LogOptions::default()
        },
        ..StoreOptions::default()
    };
    options.projector.blobs.bytes_min = 4096;
    let told = Arc::new(Announced::default());
    Store::open(path, options, TestClock::new(), told)
        .unwrap()
        .0
}

fn report(store: &Path) -> Report {
    let scratch = tempfile::tempdir().unwrap();
    let options = CheckOptions {
        scratch: scratch.path().to_path_buf(),
        findings_max: 100,
        now: TestClock::new().wall(),
    };
    let report = check(store, &options).unwrap();
    // Nothing is left of the copy of the tables.
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    report
}

/// A closed store with outcomes in the journal, an export, checkpoints, blobs, and work that has
/// not ended.
fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    for n in 1..=40 {
        append(&store, &[settled(n)]).unwrap();
        if n == 20 {
            export(&store).unwrap();
        }
    }
    for n in 50..53 {
        let mut settlement = settlement(n, START_MS);
        settlement.outcome = Outcome::Done(Payload::new(vec![7; 5_000]));
        let event = Event::Effect {
            id: id(n),
            event: EffectEvent::Settled(Box::new(settlement)),
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let ack = move |result| sender.send(result).unwrap();
        store
            .append_of(tenant(), Purpose::Settle, &[event], Box::new(ack))
            .unwrap();
        receiver.recv().unwrap().unwrap();
    }
    append(&store, &saga(77)).unwrap();
    append(&store, &[accepted(101)]).unwrap();
    checkpoint(&store).unwrap();
    append(&store, &[settled(41)]).unwrap();
    store.close(Duration::from_mins(1)).unwrap();
    folder
}

fn has_extension(file: &Path, wanted: &str) -> bool {
    file.extension()
        .is_some_and(|extension| extension == wanted)
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_sound_store_has_no_finding_and_is_left_as_it_was() {
    let folder = filled();
    let path = folder.path().join("store");
    let before: Vec<(PathBuf, Vec<u8>)> = files(&path)
        .into_iter()
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect();
    let report = report(&path);
    assert_eq!(report.findings, []);
    assert!(!report.torn);
    assert_eq!(
        (report.checkpoints, report.exports, report.blobs),
        (2, 1, 3)
    );
    assert!(report.records >= 20 && report.rows > 80, "{report:?}");
    let after: Vec<PathBuf> = files(&path);
    assert_eq!(after.len(), before.len());
    for (file, bytes) in before {
        assert_eq!(fs::read(&file).unwrap(), bytes, "{}", file.display());
    }
}

#[test]
fn a_store_that_is_open_is_refused_and_one_that_was_not_closed_is_checked() {
    let folder = filled();
    let path = folder.path().join("store");
    let store = open(&path);
    let options = CheckOptions {
        scratch: folder.path().to_path_buf(),
        findings_max: 100,
        now: WallMillis::new(START_MS),
    };
    let refused = check(&path, &options).unwrap_err();
    assert!(matches!(refused, CheckError::Locked { .. }), "{refused}");
    append(&store, &[settled(60)]).unwrap();
    // What a killed process leaves.
    let left = folder.path().join("left");
    for file in files(&path) {
        let target = left.join(file.strip_prefix(&path).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    assert_eq!(report(&left).findings, []);
    let refused = check(folder.path(), &options).unwrap_err();
    assert!(matches!(refused, CheckError::NotAStore { .. }), "{refused}");
}

/// The pages of a segment that count: its head and its frames, but for the last one, which could
/// also be a write that never finished.
fn pages_of_segment(bytes: &[u8]) -> Vec<usize> {
    let begins = |page: &[u8]| page.starts_with(b"OFRM");
    let last = bytes.chunks(PAGE).rposition(begins);
    let used = bytes
        .chunks(PAGE)
        .position(|page| page.iter().all(|byte| *byte == 0));
    let end = last.unwrap_or(0).min(used.unwrap_or(usize::MAX));
    (0..end.max(1)).collect()
}

#[test]
fn a_flipped_bit_in_any_region_of_any_file_but_the_tables_is_found_where_it_is() {
    let folder = filled();
    let path = folder.path().join("store");
    let (mut kinds, mut flips) = (std::collections::BTreeSet::new(), 0);
    for file in files(&path) {
        let name = file
            .strip_prefix(&path)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let sound = fs::read(&file).unwrap();
        let kind = name.split(['-', '/']).next().unwrap().to_owned();
        let offsets: Vec<usize> = if name.starts_with("log/") && has_extension(&file, "log") {
            let pages = pages_of_segment(&sound);
            pages
                .iter()
                .flat_map(|page| [0, 9, 40, 4095].map(|at| page * PAGE + at))
                .collect()
        } else if name == "LOCK" || name.starts_with("tables/tree-") || has_extension(&file, "tmp")
        {
            continue;
        } else {
            let step = sound.len() / 9 + 1;
            (0..sound.len())
                .step_by(step)
                .chain([sound.len() - 1])
                .collect()
        };
        kinds.insert(kind);
        for at in offsets {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&file, &damaged).unwrap();
            let report = report(&path);
            let named = report
                .findings
                .iter()
                .any(|finding| file.starts_with(&finding.file));
            assert!(named, "{name} at {at}: {:?}", report.findings);
            if has_extension(&file, "log") {
                let page = (at / PAGE * PAGE) as u64;
                let near = |offset: u64| offset <= page && page < offset + (64 << 10);
                let found = report.findings.iter().any(|f| f.offset.is_some_and(near));
                assert!(found, "{name} at {at}: {:?}", report.findings);
            }
            flips += 1;
        }
        fs::write(&file, &sound).unwrap();
    }
    println!("{flips} flips in {kinds:?}");
    for kind in ["FORMAT", "log", "checkpoint", "export", "blobs", "tables"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    assert_eq!(report(&path).findings, []);
}

#[test]
fn tables_that_lost_a_row_or_are_damaged_or_gone_are_found() {
    let folder = filled();
    let path = folder.path().join("store");
    let tree = files(&path.join("tables"))
        .into_iter()
        .find(|file| file.ends_with("db"))
        .unwrap();
    let sound = fs::read(&tree).unwrap();
    let mut found = 0;
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let offsets: Vec<usize> = (0..20).map(|n| used * n / 20).collect();
    for at in &offsets {
        let mut damaged = sound.clone();
        damaged[*at] ^= 1 << (at % 8);
        fs::write(&tree, &damaged).unwrap();
        // A bit that sled does not use changes nothing that can be read.
        found += u32::from(!report(&path).is_sound());
    }
    assert!(found >= 15, "{found} of {}", offsets.len());
    fs::write(&tree, &sound[..sound.len() / 2]).unwrap();
    let half = report(&path);
    assert!(
        half.findings
            .iter()
            .all(|f| f.file.starts_with(path.join("tables")))
    );
    assert!(!half.is_sound());
    fs::write(&tree, &sound).unwrap();
    assert_eq!(report(&path).findings, []);
    fs::remove_dir_all(path.join("tables")).unwrap();
    let gone = report(&path);
    assert_eq!(gone.findings.len(), 1);
    assert!(
        gone.findings[0].to_string().contains("rebuilt"),
        "{}",
        gone.findings[0]
    );
}

/// What each file says is whole; only together are they wrong.
#[test]
fn an_outcome_that_the_journal_has_and_the_tables_lack_is_found() {
    let folder = filled();
    let path = folder.path().join("store");
    let tree = current_tree(&path.join("tables")).unwrap();
    let id_of_store = report(&path).store.unwrap();
    let mut tables = SledTables::open(&tree, SledOptions::default(), id_of_store).unwrap();
    let applied = tables.applied();
    let change = Change::Remove {
        key: projection::outcome_key(id(41)),
    };
    tables.apply(&[change], applied).unwrap();
    tables.sync().unwrap();
    drop(tables);
    let found = report(&path).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains("outcome"), "{}", found[0]);
}

#[test]
fn a_checkpoint_that_is_whole_and_says_something_else_than_the_journal_is_found() {
    let folder = filled();
    let path = folder.path().join("store");
    let store = report(&path).store.unwrap();
    let mut newest = checkpoints::find(&FileDisk, &path, store)
        .unwrap()
        .newest
        .unwrap();
    newest
        .live
        .restore(Incarnation::new(1_000), SagaId::new(1_000));
    let lsn = newest.live.lsn();
    let file = path.join(format!("checkpoint-{:016x}", lsn.get()));
    fs::remove_file(&file).unwrap();
    checkpoints::write(&FileDisk, &path, &newest, Format::NEWEST).unwrap();
    let found = report(&path).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, file);
}

#[test]
fn a_missing_segment_and_a_missing_blob_are_found() {
    let folder = filled();
    let path = folder.path().join("store");
    drop(open(&path));
    let segments: Vec<PathBuf> = files(&path.join("log"))
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
        .collect();
    let blob = files(&path.join("blobs")).remove(0);
    let bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    let without = report(&path);
    assert!(
        without.findings.iter().any(|finding| finding.file == blob),
        "{without:?}"
    );
    fs::write(&blob, bytes).unwrap();
    if segments.len() > 2 {
        fs::remove_file(&segments[1]).unwrap();
        assert!(!report(&path).is_sound());
    }
}
