//! sled's files cut at every page and with bits flipped: rebuilt, with nothing lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::harness::*;
use super::real::{all_found, filled, options, tree};
use crate::projector::ProjectorOptions;
use crate::store::{Store, StoreOptions};
use crate::tables::SledOptions;

/// Damages a copy of the store, opens it, and looks for everything; whether it was rebuilt.
fn survives(store: &TempDir, damage: impl FnOnce(&Path), context: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    copy(store.path(), folder.path());
    damage(&tree(folder.path()).join("db"));
    let told = Arc::new(Announced::default());
    let opened = Store::open(folder.path(), options(), TestClock::new(), told);
    let (store, recovered) = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
    all_found(&store);
    recovered.tables_rebuilt
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_tree_cut_at_every_page_is_rebuilt_with_nothing_lost() {
    let store = filled();
    let length = std::fs::metadata(tree(store.path()).join("db"))
        .unwrap()
        .len();
    let mut rebuilt = 0;
    for end in (0..length).step_by(4096) {
        let cut = |db: &Path| {
            let file = std::fs::File::options().write(true).open(db).unwrap();
            file.set_len(end).unwrap();
        };
        rebuilt += u64::from(survives(&store, cut, &format!("cut at {end}")));
    }
    // sled makes the file longer than what is in it: some cuts lose nothing.
    assert!(rebuilt > 0, "no cut of {length} bytes was noticed");
}

#[test]
fn bits_flipped_at_two_hundred_places_of_a_tree_lose_nothing() {
    let store = filled();
    let sound = std::fs::read(tree(store.path()).join("db")).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut random = fastrand::Rng::with_seed(11);
    let mut rebuilt = 0;
    for round in 0..200 {
        let (at, bit) = (random.usize(..used), random.u8(..8));
        let flip = |db: &Path| {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(db, bytes).unwrap();
        };
        let context = format!("round {round}: bit {bit} of byte {at}");
        rebuilt += u32::from(survives(&store, flip, &context));
    }
    assert!(rebuilt > 50, "only {rebuilt} of 200 were noticed");
}

#[test]
fn where_panics_abort_a_store_not_closed_in_good_order_is_rebuilt_and_one_that_was_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        sled: SledOptions {
            panics_abort: true,
            ..options().sled
        },
        projector: ProjectorOptions::default(),
        ..options()
    };
    let open = || {
        let told = Arc::new(Announced::default());
        Store::open(folder.path(), options, TestClock::new(), told).unwrap()
    };
    let (store, _) = open();
    for n in 1..=30 {
        append(&store, &[settled(n)]).unwrap();
    }
    store.close(Duration::from_mins(1)).unwrap();
    let (store, recovered) = open();
    assert!(!recovered.tables_rebuilt);
    all_found(&store);
    // What a crash leaves: the record of the close is gone since the tree was opened.
    let crashed = tempfile::tempdir().unwrap();
    copy(folder.path(), crashed.path());
    drop(store);
    let told = Arc::new(Announced::default());
    let opened = Store::open(crashed.path(), options, TestClock::new(), told);
    let (store, recovered) = opened.unwrap();
    let why = recovered.rebuilt_because.unwrap_or_default();
    assert!(why.contains("not closed in good order"), "{why}");
    all_found(&store);
}
