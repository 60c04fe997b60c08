use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::tables::home::{Expected, OpenTablesError, TablesHome};

const STORE: StoreId = StoreId::new([7; 16]);

fn options() -> SledOptions {
    SledOptions {
        cache_bytes: 1 << 20,
        ..SledOptions::default()
    }
}

fn put(key: &[u8], value: &[u8]) -> Change {
    Change::Put {
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

fn remove(key: &[u8]) -> Change {
    Change::Remove { key: key.to_vec() }
}

fn rows(tables: &mut dyn Tables) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, TablesError> {
    let mut rows = BTreeMap::new();
    tables.scan(&[], None, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

/// A closed tree with 600 rows, some of them chunked.
fn closed_tree(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut tables = SledTables::create(path, options(), STORE).unwrap();
    for lsn in 1..=600_u64 {
        let value = vec![u8::try_from(lsn % 251).unwrap(); if lsn % 50 == 0 { 9000 } else { 120 }];
        tables
            .apply(&[put(&lsn.to_be_bytes(), &value)], Lsn::new(lsn))
            .unwrap();
    }
    tables.sync().unwrap();
    let expected = rows(&mut tables).unwrap();
    Box::new(tables).close().unwrap();
    assert_eq!(expected.len(), 600);
    expected
}

/// Trees are closed before they are copied; sled may let go of its files a little later.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    (folder, tree)
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u8, Option<usize>)>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0..300_usize, 4000..4100_usize, 9_000..300_000_usize];
    let change = (0..12_u8, proptest::option::weighted(0.7, length));
    prop_oneof![
        6 => proptest::collection::vec(change, 1..5).prop_map(Step::Apply),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_tree_answers_like_a_map_across_reopens(
        steps in proptest::collection::vec(step(), 1..25)
    ) {
        let (_folder, path) = folder();
        let mut tables = SledTables::create(&path, options(), STORE).unwrap();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut lsn = 0;
        for step in steps {
            match step {
                Step::Apply(changes) => {
                    lsn += 1;
                    let changes: Vec<Change> = changes.into_iter().map(|(key, length)| {
                        let key = vec![b'k'; usize::from(key)];
                        let Some(length) = length else {
                            model.remove(&key);
                            return remove(&key);
                        };
                        let byte = u8::try_from(lsn % 256).unwrap();
                        model.insert(key.clone(), vec![byte; length]);
                        put(&key, &vec![byte; length])
                    }).collect();
                    tables.apply(&changes, Lsn::new(lsn)).unwrap();
                }
                Step::Reopen => {
                    Box::new(tables).close().unwrap();
                    tables = SledTables::open(&path, options(), STORE).unwrap();
                }
            }
            prop_assert_eq!(tables.applied(), Lsn::new(lsn));
            prop_assert_eq!(&rows(&mut tables).unwrap(), &model);
            prop_assert_eq!(tables.sum().rows, model.len() as u64);
        }
    }
}

#[test]
fn no_value_in_a_page_is_over_4_kib_and_replaced_chunks_are_gone() {
    let (_folder, path) = folder();
    let mut tables = SledTables::create(&path, options(), STORE).unwrap();
    for (lsn, length) in [(1, 1 << 20), (2, 700_000), (3, 5_000)] {
        tables
            .apply(&[put(b"key", &vec![3; length])], Lsn::new(lsn))
            .unwrap();
        assert_eq!(tables.get(b"key").unwrap(), Some(vec![3; length]));
    }
    let sizes: Vec<usize> = tables
        .guarded(|db| Ok(db.iter().values().map(|v| v.unwrap().len()).collect()))
        .unwrap();
    // The sentinel, the row, and the two chunks of the last value.
    assert_eq!(sizes.len(), 4);
    assert!(sizes.iter().all(|size| *size <= PAGE_VALUE_BYTES_MAX));
    tables.apply(&[remove(b"key")], Lsn::new(4)).unwrap();
    assert_eq!(tables.guarded(|db| Ok(db.len())).unwrap(), 1);
}

#[test]
fn chunks_of_a_value_that_was_never_named_are_swept_at_open() {
    let (_folder, path) = folder();
    let mut tables = SledTables::create(&path, options(), STORE).unwrap();
    tables
        .apply(&[put(b"key", &[1; 9_000])], Lsn::new(1))
        .unwrap();
    let mut orphans = sled::Batch::default();
    orphans.insert(chunk_key(b"key", 2, 0), vec![0; 100]);
    orphans.insert(chunk_key(b"never", 1, 0), vec![0; 100]);
    let meta = tables.meta;
    tables.commit(orphans, meta).unwrap();
    let before = tables.guarded(|db| Ok(db.len())).unwrap();
    Box::new(tables).close().unwrap();
    let mut tables = SledTables::open(&path, options(), STORE).unwrap();
    assert_eq!(tables.guarded(|db| Ok(db.len())).unwrap(), before - 2);
    assert_eq!(tables.get(b"key").unwrap(), Some(vec![1; 9_000]));
}

#[test]
fn an_unfinished_snapshot_left_behind_does_not_keep_a_tree_from_opening() {
    let (_folder, path) = folder();
    let expected = closed_tree(&path);
    // What a kill while sled opens leaves: it takes this for the newest snapshot.
    let left = path.join("snap.FFFFFFFFFFFFFF00.generating");
    std::fs::write(&left, b"half a snapshot").unwrap();
    let mut tables = SledTables::open(&path, options(), STORE).unwrap();
    assert_eq!(rows(&mut tables).unwrap(), expected);
    assert!(!left.exists());
}

#[test]
fn a_flipped_byte_at_forty_places_never_gives_other_rows_under_the_same_mark() {
    let (folder, path) = folder();
    let expected = closed_tree(&path);
    let length = std::fs::metadata(path.join("db")).unwrap().len();
    let (mut detected, mut went_back) = (0, 0);
    for place in 0..40_u64 {
        let damaged = folder.path().join(format!("damaged-{place}"));
        copy_tree(&path, &damaged);
        let mut bytes = std::fs::read(damaged.join("db")).unwrap();
        bytes[usize::try_from(place * length / 40).unwrap() + 13] ^= 0x40;
        std::fs::write(damaged.join("db"), bytes).unwrap();
        match SledTables::open(&damaged, options(), STORE) {
            Err(TablesError::Damaged { .. }) => detected += 1,
            Err(other) => panic!("place {place}: {other}"),
            Ok(mut tables) => {
                // sled may take the byte for the end of its log: then it is exactly what it was
                // earlier, and says so by its mark, which the checkpoint tells from damage.
                let applied = tables.applied().get();
                let prefix = expected
                    .iter()
                    .filter(|(key, _)| ***key <= applied.to_be_bytes()[..]);
                let opened = rows(&mut tables).unwrap();
                assert!(
                    opened.iter().eq(prefix),
                    "place {place}: other rows at {applied}"
                );
                went_back += u32::from(applied < 600);
            }
        }
    }
    assert!(
        detected + went_back > 20,
        "{detected} detected, {went_back} went back"
    );
}

#[test]
fn a_tree_cut_off_anywhere_never_gives_other_rows_under_the_same_mark() {
    let (folder, path) = folder();
    let expected = closed_tree(&path);
    let length = std::fs::metadata(path.join("db")).unwrap().len();
    let mut noticed = 0;
    for tenth in 0..10_u64 {
        let cut = folder.path().join(format!("cut-{tenth}"));
        copy_tree(&path, &cut);
        let db = std::fs::File::options()
            .write(true)
            .open(cut.join("db"))
            .unwrap();
        db.set_len(length * tenth / 10).unwrap();
        drop(db);
        match SledTables::open(&cut, options(), STORE) {
            Err(TablesError::Damaged { .. }) => noticed += 1,
            Err(other) => panic!("tenth {tenth}: {other}"),
            Ok(mut tables) => {
                let applied = tables.applied().get();
                let prefix = expected
                    .iter()
                    .filter(|(key, _)| ***key <= applied.to_be_bytes()[..]);
                assert!(
                    rows(&mut tables).unwrap().iter().eq(prefix),
                    "tenth {tenth}"
                );
                noticed += u32::from(applied < 600);
            }
        }
    }
    assert!(noticed > 5, "only {noticed} of ten cuts were noticed");
}

#[test]
fn a_truncated_tree_that_opens_empty_is_detected() {
    let (_folder, path) = folder();
    closed_tree(&path);
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let db = std::fs::File::options()
        .write(true)
        .open(path.join("db"))
        .unwrap();
    db.set_len(0).unwrap();
    drop(db);
    let refused = SledTables::open(&path, options(), STORE).unwrap_err();
    assert!(matches!(refused, TablesError::Damaged { .. }), "{refused}");
}

#[test]
fn a_tree_with_one_row_missing_is_detected_by_the_sum() {
    let (_folder, path) = folder();
    let mut tables = SledTables::create(&path, options(), STORE).unwrap();
    tables
        .apply(&[put(b"a", b"1"), put(b"b", b"2")], Lsn::new(1))
        .unwrap();
    tables
        .guarded(|db| Ok(db.remove(row_key(b"a")).unwrap()))
        .unwrap();
    Box::new(tables).close().unwrap();
    let refused = SledTables::open(&path, options(), STORE).unwrap_err();
    assert_eq!(
        refused,
        TablesError::damaged("the tree has 1 rows of 2 bytes, it had 2 of 4")
    );
}

#[test]
fn a_row_that_is_not_what_was_written_poisons_and_is_never_answered() {
    let (_folder, path) = folder();
    let mut tables = SledTables::create(&path, options(), STORE).unwrap();
    tables.apply(&[put(b"a", b"12345")], Lsn::new(1)).unwrap();
    tables
        .guarded(|db| {
            let mut raw = db.get(row_key(b"a")).unwrap().unwrap().to_vec();
            *raw.last_mut().unwrap() ^= 1;
            db.insert(row_key(b"a"), raw).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(
        tables.get(b"a"),
        Err(TablesError::damaged("a row does not match its checksum"))
    );
    assert_eq!(tables.get(b"a"), Err(TablesError::Poisoned));
    assert_eq!(tables.sync(), Err(TablesError::Poisoned));
}

#[test]
fn a_tree_of_another_store_or_without_sentinel_is_refused() {
    let (_folder, path) = folder();
    closed_tree(&path);
    let other = StoreId::new([8; 16]);
    let refused = SledTables::open(&path, options(), other).unwrap_err();
    assert_eq!(
        refused,
        TablesError::damaged(format!("the tree is of store {STORE}"))
    );
    let mut tables = SledTables::open(&path, options(), STORE).unwrap();
    tables
        .guarded(|db| Ok(db.remove(META_KEY).unwrap()))
        .unwrap();
    Box::new(tables).close().unwrap();
    let refused = SledTables::open(&path, options(), STORE).unwrap_err();
    assert_eq!(
        refused,
        TablesError::damaged("the tree opened without its sentinel")
    );
}

#[test]
fn a_value_over_its_bound_changes_nothing() {
    let (_folder, path) = folder();
    let small = SledOptions {
        value_bytes_max: 4096,
        ..options()
    };
    let mut tables = SledTables::create(&path, small, STORE).unwrap();
    let refused = tables.apply(&[put(b"a", b"1"), put(b"b", &[0; 4097])], Lsn::new(1));
    assert_eq!(
        refused,
        Err(TablesError::TooLarge {
            bytes: 4097,
            bytes_max: 4096
        })
    );
    assert_eq!(
        (tables.applied(), tables.get(b"a").unwrap()),
        (Lsn::new(0), None)
    );
}

fn promoted(home: &mut SledHome, lsn: u64) {
    let mut tables = home.fresh().unwrap();
    tables
        .apply(&[put(b"lsn", &lsn.to_be_bytes())], Lsn::new(lsn))
        .unwrap();
    tables.sync().unwrap();
    tables.close().unwrap();
    home.promote().unwrap();
}

fn names(path: &Path, prefix: &str) -> usize {
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with(prefix)
        })
        .count()
}

fn at_least(lsn: u64) -> Expected {
    Expected {
        applied_min: Lsn::new(lsn),
    }
}

#[test]
fn tables_that_went_back_behind_the_checkpoint_are_damaged() {
    let (folder, _) = folder();
    let mut home = SledHome::new(folder.path().join("tables"), options(), STORE);
    promoted(&mut home, 5);
    assert_eq!(home.open(at_least(5)).unwrap().applied(), Lsn::new(5));
    let refused = home.open(at_least(6)).unwrap_err();
    assert!(
        matches!(refused, OpenTablesError::Damaged { .. }),
        "{refused}"
    );
}

#[test]
fn a_tree_that_was_never_promoted_is_not_opened_and_is_cleared_away() {
    let (folder, _) = folder();
    let path = folder.path().join("tables");
    let mut home = SledHome::new(path.clone(), options(), STORE);
    promoted(&mut home, 5);
    drop(home.fresh().unwrap());
    assert_eq!(names(&path, "tree-"), 2);
    let mut home = SledHome::new(path.clone(), options(), STORE);
    assert_eq!(home.open(at_least(0)).unwrap().applied(), Lsn::new(5));
    assert_eq!(names(&path, "tree-"), 1);
}

#[test]
fn missing_pointers_and_folders_are_told_apart_from_damage() {
    let (folder, _) = folder();
    let path = folder.path().join("tables");
    let mut home = SledHome::new(path.clone(), options(), STORE);
    let missing = |home: &mut SledHome| {
        let refused = home.open(at_least(0)).unwrap_err();
        assert!(
            matches!(refused, OpenTablesError::Missing { .. }),
            "{refused}"
        );
    };
    missing(&mut home);
    promoted(&mut home, 1);
    std::fs::write(path.join(folder::CURRENT), b"torn").unwrap();
    missing(&mut home);
    promoted(&mut home, 2);
    home.distrust();
    missing(&mut home);
}

#[test]
fn damaged_trees_are_set_aside_and_their_number_is_bounded() {
    let (folder, _) = folder();
    let path = folder.path().join("tables");
    let mut home = SledHome::new(path.clone(), options(), STORE);
    promoted(&mut home, 1);
    for round in 1..=4_usize {
        home.open(at_least(99)).unwrap_err();
        promoted(&mut home, 1);
        assert_eq!(names(&path, "damaged-"), round.min(2));
        assert_eq!(names(&path, "tree-"), 1);
    }
}

#[test]
fn no_batch_is_over_256_kib_however_much_is_applied_at_once() {
    let (_folder, path) = folder();
    let mut tables = SledTables::create(&path, options(), STORE).unwrap();
    let mut changes: Vec<Change> = (0..2_000_u32)
        .map(|n| put(&n.to_be_bytes(), &[7; 700]))
        .collect();
    changes.push(put(b"long", &vec![9; 2 << 20]));
    tables.apply(&changes, Lsn::new(1)).unwrap();
    assert!(tables.batch_bytes > BATCH_BYTES_MAX / 2);
    assert!(tables.batch_bytes <= BATCH_BYTES_MAX);
    assert_eq!(tables.sum().rows, 2_001);
}

/// As in a host in which a panic ends the process.
fn aborting() -> SledOptions {
    SledOptions {
        panics_abort: true,
        ..options()
    }
}

fn refused_unopened(path: &Path, what: &str) {
    let refused = SledTables::open(path, aborting(), STORE).unwrap_err();
    // Not the words for a panic or an error of sled: it was never called.
    let told = matches!(&refused, TablesError::Damaged { reason } if reason.contains(what));
    assert!(told, "{refused}");
}

#[test]
fn where_panics_abort_only_a_tree_that_is_what_its_close_left_is_opened() {
    let (folder, path) = folder();
    let expected = closed_tree(&path);
    // Closed where panics unwind, nothing says how.
    refused_unopened(&path, "not closed in good order");
    let tables = SledTables::open(&path, options(), STORE).unwrap();
    drop(tables);
    refused_unopened(&path, "not closed in good order");

    let path = folder.path().join("tree-1");
    let mut tables = SledTables::create(&path, aborting(), STORE).unwrap();
    for (key, value) in &expected {
        tables.apply(&[put(key, value)], Lsn::new(1)).unwrap();
    }
    tables.sync().unwrap();
    Box::new(tables).close().unwrap();
    let record = closed::path_of(&path);
    assert!(record.is_file());
    let sound = std::fs::read(path.join("db")).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let mut bytes = sound.clone();
        bytes[random.usize(..sound.len())] ^= 1 << random.u8(..8);
        std::fs::write(path.join("db"), bytes).unwrap();
        refused_unopened(&path, "changed since it was closed");
    }
    std::fs::write(path.join("db"), &sound[..sound.len() - 1]).unwrap();
    refused_unopened(&path, "changed since it was closed");
    std::fs::write(path.join("db"), &sound).unwrap();
    let mut tables = SledTables::open(&path, aborting(), STORE).unwrap();
    assert_eq!(rows(&mut tables).unwrap(), expected);
    // Open, it is not closed: a crash now has it rebuilt.
    assert!(!record.exists());
}
