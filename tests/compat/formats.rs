//! What a store is written in: the format that it has, until it is told to move on.

use std::fs;
use std::path::{Path, PathBuf};

use orlop::store::disk::FileDisk;
use orlop::store::log::{FileLog, LogOptions};
use orlop::store::tables::{SledOptions, SledTables, Tables};
use orlop::{
    Engine, Format, Key, NotInFormat, SignalError, SignalId, StoreId, SubmitError, Unavailable,
    WallMillis, wait,
};
use orlop_saga::compat::Persisted;
use orlop_saga::event::Event;
use orlop_saga::live::Live;

use crate::opens::{COMMITTED, Found, goes_on, replays};
use crate::pages::Pages;
use crate::world::{Double, Fill, Plan, SLEEPS, builder, options};

fn version_1() -> Found {
    Found::new(&Pages::decode(COMMITTED[0].1))
}

/// The number in the file `FORMAT`: the format of the store.
fn format_of(store: &Path) -> u32 {
    let bytes = fs::read(store.join("FORMAT")).unwrap();
    u32::from_le_bytes(bytes[8..12].try_into().unwrap())
}

fn files(store: &Path, prefix: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(prefix)
    };
    let found: Vec<PathBuf> = paths.filter(named).collect();
    assert!(!found.is_empty(), "{prefix}");
    found
}

/// Reads everything that is in a closed store with what version 1 could read.
fn reads_as_version_1(store: &Path, id: StoreId) {
    assert_eq!(format_of(store), 1);
    let log_options = LogOptions {
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    let disk = std::sync::Arc::new(FileDisk);
    let log = FileLog::open(disk, &store.join("log"), log_options, id).unwrap();
    let mut records = 0;
    let mut read = |_, record: &[u8]| {
        assert_eq!(record[0], 1);
        let (_, rest) = Event::take_v1(&record[1..]).unwrap();
        assert!(rest.is_empty());
        records += 1;
        Ok(())
    };
    log.replay(log.first_lsn(), &mut read).unwrap();
    assert!(records > 20, "{records}");
    for file in files(store, "checkpoint-") {
        let bytes = fs::read(file).unwrap();
        // Behind the head of a sealed file: format, store id, time and bytes, then the fold.
        assert_eq!((bytes[8], bytes[20]), (1, 1));
        let body = &bytes[21..bytes.len() - 32];
        let fixed = orlop_saga::compat::take::<(StoreId, WallMillis, u64)>(body).unwrap();
        let (_, rest) = Live::take_v1(fixed.1).unwrap();
        assert!(rest.is_empty());
    }
    // One was written since: the one that the fixture came with is no longer kept.
    let exports = files(store, "export-");
    let first = store.join("export-000000000000002a");
    assert!(!exports.contains(&first), "{exports:?}");
    assert!(!store.join("export.new").exists());
    for file in exports {
        let bytes = fs::read(file).unwrap();
        let mut at = 28;
        while at < bytes.len() {
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(bytes[at + 5], 1);
            at += 5 + usize::try_from(length).unwrap() + 16;
        }
    }
    let tree = files(&store.join("tables"), "tree-").pop().unwrap();
    let mut tables = SledTables::open(&tree, SledOptions::default(), id).unwrap();
    let mut rows = 0;
    let mut visit = |_: &[u8], value: &[u8]| {
        assert_eq!(value[0], 1);
        rows += 1;
        std::ops::ControlFlow::Continue(())
    };
    tables.scan(&[], None, &mut visit).unwrap();
    assert!(rows > 10, "{rows}");
}

fn work(engine: &Engine, found: &Found) {
    replays(engine, &found.world);
    goes_on(engine, &found.world);
    let tenant = engine.blocking().tenant("acme").unwrap();
    // Longer than what would be kept in a blob.
    wait(tenant.submit(Fill, 33_000_u32)).unwrap();
    wait(
        engine
            .blocking()
            .tenant("third")
            .unwrap()
            .submit(Double, 7_u64),
    )
    .unwrap();
}

#[test]
fn a_store_of_version_1_is_written_so_that_version_1_reads_it() {
    let found = version_1();
    let engine = found.open();
    assert_eq!(engine.recovery().format, Format::V1);
    let id = engine.recovery().store_id;
    work(&engine, &found);
    engine.blocking().close().unwrap();
    reads_as_version_1(&found.store, id);
    assert!(!found.store.join("blobs").exists());
}

#[test]
fn an_upgraded_store_stays_upgraded_and_keeps_all_that_it_had() {
    let found = version_1();
    let mut upgrading = options();
    upgrading.store.upgrade = true;
    let opening = builder(&found.store, &found.world).options(upgrading);
    let engine = opening.open_blocking().unwrap();
    assert_eq!(engine.recovery().format, Format::V3);
    assert_eq!(format_of(&found.store), 3);
    work(&engine, &found);
    engine.blocking().close().unwrap();
    let engine = found.open();
    assert_eq!(engine.recovery().format, Format::V3);
    replays(&engine, &found.world);
    engine.blocking().close().unwrap();
    assert!(found.store.join("blobs").exists());
}

#[test]
fn what_version_1_cannot_say_is_refused_by_name_and_nothing_else_suffers() {
    let found = version_1();
    let engine = found.open();
    let tenant = engine.blocking().tenant("acme").unwrap();
    let starting = tenant
        .start::<Plan>(Key::named("paused"), ("paused".to_owned(), SLEEPS))
        .paused();
    let refused = wait(starting).unwrap_err();
    let Unavailable::Format(NotInFormat { what, needed, .. }) = unavailable(refused) else {
        panic!("another refusal");
    };
    assert!(what.contains("starts paused"), "{what}");
    assert_eq!(needed, Format::V2);
    let signal = tenant.signal(Key::named("sleeping"), "go", SignalId::fresh(), &1_u8);
    let refused = wait(signal).unwrap_err();
    let format = matches!(refused, SignalError::Unavailable(Unavailable::Format(_)));
    assert!(format, "{refused}");
    assert!(refused.to_string().contains("upgrade"), "{refused}");
    assert!(!refused.is_retryable());
    // The engine works, and so does the saga.
    work(&engine, &found);
    engine.blocking().close().unwrap();
}

fn unavailable(error: SubmitError) -> Unavailable {
    match error {
        SubmitError::Unavailable(why) => why,
        other => panic!("{other:?}"),
    }
}
