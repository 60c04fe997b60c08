//! The store on real files: reopening without closing, and every way the tables can be damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_saga::id::Incarnation;
use tempfile::TempDir;

use super::harness::*;
use crate::folder::FolderError;
use crate::log::LogOptions;
use crate::projector::ProjectorOptions;
use crate::store::{OpenError, Recovered, Store, StoreOptions};
use crate::tables::SledOptions;

pub(super) fn options() -> StoreOptions {
    StoreOptions {
        log: LogOptions {
            segment_bytes: 1 << 20,
            first_segment_bytes: 64 << 10,
            group_bytes_max: 64 << 10,
            batch_bytes_max: 64 << 10,
            reserve_bytes: 0,
            ..LogOptions::default()
        },
        sled: SledOptions {
            cache_bytes: 1 << 20,
            ..SledOptions::default()
        },
        ..StoreOptions::default()
    }
}

fn open(path: &Path) -> Result<(Store, Recovered), OpenError> {
    let told = Arc::new(Announced::default());
    Store::open(path, options(), TestClock::new(), told)
}

/// A closed store with 30 outcomes, an export after 15, and a checkpoint after all.
pub(super) fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    for n in 1..=30 {
        append(&store, &[settled(n)]).unwrap();
        if n == 15 {
            export(&store).unwrap();
        }
    }
    store.close(Duration::from_mins(1)).unwrap();
    folder
}

pub(super) fn all_found(store: &Store) {
    for n in 1..=30 {
        assert!(store.maybe_retained(tenant(), key(n)), "{n}");
        assert_eq!(lookup(store, n), Ok(Some(settlement(n, START_MS))));
    }
}

/// The folder of the one tree there is.
pub(super) fn tree(store: &Path) -> PathBuf {
    let mut trees = std::fs::read_dir(store.join("tables"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("tree-")
        });
    let tree = trees.next().unwrap();
    assert!(trees.next().is_none());
    tree
}

#[test]
fn a_store_dropped_without_closing_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=4_u64 {
        let (store, recovered) = open(folder.path()).unwrap();
        assert_eq!(recovered.incarnation, Incarnation::new(round));
        assert!(!recovered.tables_rebuilt);
        for n in (1..(round - 1) * 10).filter(|n| n % 10 != 0) {
            assert!(lookup(&store, n).unwrap().is_some(), "{round} {n}");
        }
        for n in (round - 1) * 10 + 1..round * 10 {
            append(&store, &[settled(n)]).unwrap();
        }
        if round == 2 {
            checkpoint(&store).unwrap();
        }
        drop(store);
    }
}

#[test]
fn a_deleted_folder_of_tables_is_rebuilt_and_reported() {
    let folder = filled();
    std::fs::remove_dir_all(folder.path().join("tables")).unwrap();
    let (store, recovered) = open(folder.path()).unwrap();
    assert!(recovered.tables_rebuilt);
    assert_eq!(
        recovered.rebuilt_because.as_deref(),
        Some("there are no tables: the folder is missing")
    );
    all_found(&store);
    store.close(Duration::from_mins(1)).unwrap();
    let (store, recovered) = open(folder.path()).unwrap();
    assert!(!recovered.tables_rebuilt);
    all_found(&store);
}

#[test]
fn a_truncated_tree_is_rebuilt_and_the_damaged_one_set_aside() {
    let folder = filled();
    let db = tree(folder.path()).join("db");
    std::fs::File::options()
        .write(true)
        .open(db)
        .unwrap()
        .set_len(0)
        .unwrap();
    let (store, recovered) = open(folder.path()).unwrap();
    assert!(recovered.tables_rebuilt);
    all_found(&store);
    assert!(
        folder
            .path()
            .join("tables/damaged-0000000000000001")
            .is_dir()
    );
}

#[test]
fn a_flipped_byte_in_the_tree_never_loses_an_outcome() {
    let folder = filled();
    let db = tree(folder.path()).join("db");
    let sound = std::fs::read(&db).unwrap();
    // sled preallocates nothing: what is written is at the front.
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let mut rebuilt = 0;
    for place in 0..8 {
        let db = tree(folder.path()).join("db");
        let mut bytes = std::fs::read(&db).unwrap();
        let at = (used * place / 8 + 17).min(bytes.len() - 1);
        bytes[at] ^= 0x20;
        std::fs::write(&db, bytes).unwrap();
        let (store, recovered) = open(folder.path()).unwrap();
        rebuilt += u32::from(recovered.tables_rebuilt);
        all_found(&store);
        store.close(Duration::from_mins(1)).unwrap();
    }
    assert!(rebuilt > 0);
}

#[test]
fn an_unfinished_snapshot_of_sled_needs_no_rebuilding() {
    let folder = filled();
    let left = tree(folder.path()).join("snap.0000000000000FFF.generating");
    std::fs::write(&left, b"half").unwrap();
    let (store, recovered) = open(folder.path()).unwrap();
    assert!(!recovered.tables_rebuilt && !left.exists());
    all_found(&store);
}

#[test]
fn a_store_open_in_this_process_is_not_opened_again_until_it_is_closed_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(
        matches!(refused, OpenError::Folder(FolderError::OpenHere { .. })),
        "{refused}"
    );
    store.close(Duration::from_mins(1)).unwrap();
    let (other, _) = open(folder.path()).unwrap();
    drop(store);
    assert!(matches!(
        open(folder.path()),
        Err(OpenError::Folder(FolderError::OpenHere { .. }))
    ));
    drop(other);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn bloated_tables_move_to_a_fresh_tree_and_keep_every_row() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    for n in 1..=30 {
        append(&store, &[settled(n)]).unwrap();
    }
    store.close(Duration::from_mins(1)).unwrap();
    let before = tree(folder.path());
    let options = StoreOptions {
        sled: SledOptions {
            bloated_bytes_min: 1,
            ..options().sled
        },
        projector: ProjectorOptions {
            checkpoint_bytes: 1,
            ..ProjectorOptions::default()
        },
        ..options()
    };
    let told = Arc::new(Announced::default());
    let (store, _) = Store::open(folder.path(), options, TestClock::new(), told).unwrap();
    append(&store, &[accepted(500)]).unwrap();
    checkpoint(&store).unwrap();
    all_found(&store);
    store.close(Duration::from_mins(1)).unwrap();
    assert_ne!(tree(folder.path()), before);
    let (store, recovered) = open(folder.path()).unwrap();
    assert!(!recovered.tables_rebuilt);
    all_found(&store);
}

#[test]
fn an_option_out_of_bounds_is_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let bad = StoreOptions {
        projector: ProjectorOptions {
            group_bytes_max: (256 << 10) + 1,
            ..ProjectorOptions::default()
        },
        ..options()
    };
    let told = Arc::new(Announced::default());
    let refused = Store::open(&path, bad, TestClock::new(), told).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Options {
                option: "group_bytes_max",
                ..
            }
        ),
        "{refused}"
    );
    assert!(!path.exists());
}
