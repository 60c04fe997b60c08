use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::disk::{Failure, Occurrence, Operation, SimDisk};
use crate::tables::copy::RowCopy;
use crate::tables::sim::{SimHome, SimShelf};
use crate::tables::{Tables, TablesHome};

const STORE: StoreId = StoreId::new([5; 16]);

fn put(key: u8, byte: u8) -> Change {
    Change::Put {
        key: vec![key],
        value: vec![byte; 20],
    }
}

fn end() -> ExportEnd {
    ExportEnd {
        lsn: Lsn::new(0),
        rows: 2,
        bytes: 42,
        checksums: 9,
        live: Live::default(),
    }
}

fn written(disk: &SimDisk) -> PathBuf {
    let name = PathBuf::from("/export-1");
    let mut writer =
        ExportWriter::create(disk, "/export.new".into(), STORE, Format::NEWEST).unwrap();
    writer.changes(&[put(1, 1)]).unwrap();
    writer
        .changes(&[put(2, 2), Change::Remove { key: vec![3] }])
        .unwrap();
    writer.finish(disk, &name, STORE, &end()).unwrap();
    name
}

fn read(disk: &SimDisk, path: &Path) -> Result<(ExportEnd, Vec<Change>), ExportError> {
    let mut all = Vec::new();
    let end = read_export(disk, path, STORE, &mut |changes| {
        all.extend(changes);
        Ok(())
    })?;
    Ok((end, all))
}

#[test]
fn an_export_whose_name_may_not_be_on_the_disk_does_not_stand_for_the_one_before() {
    let disk = SimDisk::new();
    let occurrence = Occurrence::Only(0);
    disk.fail(Some(Operation::SyncDir), occurrence, Failure::Device);
    let writer = ExportWriter::create(&disk, "/export.new".into(), STORE, Format::NEWEST).unwrap();
    let name = PathBuf::from("/export-2");
    let refused = writer.finish(&disk, &name, STORE, &end()).unwrap_err();
    assert!(
        matches!(
            refused,
            ExportError::Io {
                operation: "sync",
                ..
            }
        ),
        "{refused}"
    );
    assert!(!disk.exists(&name).unwrap());
}

#[test]
fn an_export_is_read_back_as_it_was_written() {
    let disk = SimDisk::new();
    let path = written(&disk);
    let (read_end, changes) = read(&disk, &path).unwrap();
    assert_eq!(read_end, end());
    assert_eq!(
        changes,
        [put(1, 1), put(2, 2), Change::Remove { key: vec![3] }]
    );
    assert!(!disk.exists(Path::new("/export.new")).unwrap());
}

#[test]
fn every_flipped_byte_and_every_cut_of_an_export_is_refused() {
    let disk = SimDisk::new();
    let path = written(&disk);
    let length = disk.open(&path).unwrap().len().unwrap();
    for offset in 0..length {
        disk.flip(&path, offset, 1).unwrap();
        let refused = read(&disk, &path).unwrap_err();
        assert!(
            matches!(
                refused,
                ExportError::Damaged { .. } | ExportError::Newer { .. }
            ),
            "{offset}: {refused}"
        );
        disk.flip(&path, offset, 1).unwrap();
    }
    assert!(read(&disk, &path).is_ok());
    for cut in (0..length).rev() {
        disk.open(&path).unwrap().set_len(cut).unwrap();
        let refused = read(&disk, &path).unwrap_err();
        assert!(
            matches!(refused, ExportError::Damaged { .. }),
            "{cut}: {refused}"
        );
    }
}

#[test]
fn an_export_of_another_store_is_refused() {
    let disk = SimDisk::new();
    let path = written(&disk);
    let other = StoreId::new([6; 16]);
    let refused = read_export(&disk, &path, other, &mut |_| Ok(())).unwrap_err();
    assert!(
        matches!(refused, ExportError::OtherStore { found, .. } if found == STORE),
        "{refused}"
    );
}

#[test]
fn an_export_has_its_name_only_when_it_is_whole_at_every_power_cut() {
    let mut finished = false;
    for operations in 0..100 {
        let disk = SimDisk::new();
        disk.power_off_after(operations);
        let written = ExportWriter::create(&disk, "/export.new".into(), STORE, Format::NEWEST)
            .and_then(|mut w| {
                w.changes(&[put(1, 1)])?;
                w.finish(&disk, Path::new("/export-1"), STORE, &end())
            });
        for seed in 0..8 {
            let after = disk.crash(seed);
            let named = after.exists(Path::new("/export-1")).unwrap();
            assert!(
                named || written.is_err(),
                "an export that was reported is gone"
            );
            if named {
                assert_eq!(read(&after, Path::new("/export-1")).unwrap().0, end());
            }
        }
        finished |= written.is_ok();
    }
    assert!(finished);
}

fn all(tables: &mut dyn Tables) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    tables
        .scan(&[], None, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

proptest! {
    /// Between two slices anything may change, on either side of where the copy is.
    #[test]
    fn a_copy_made_while_rows_change_ends_with_the_same_rows(
        before in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..60),
        during in proptest::collection::vec(
            proptest::collection::vec((any::<u8>(), proptest::option::of(any::<u8>())), 0..6),
            0..30,
        ),
        slice in 1..200_usize,
    ) {
        let mut from = SimHome::new(SimShelf::new()).fresh().unwrap();
        let mut to = SimHome::new(SimShelf::new()).fresh().unwrap();
        let before: Vec<Change> = before.into_iter().map(|(k, v)| put(k, v)).collect();
        from.apply(&before, Lsn::new(1)).unwrap();
        let mut copy = RowCopy::new();
        let mut during = during.into_iter();
        while !copy.is_done() {
            to.apply(&copy.step(&mut *from, slice).unwrap(), Lsn::new(0)).unwrap();
            let changes: Vec<Change> = during.next().unwrap_or_default().into_iter()
                .map(|(key, value)| match value {
                    Some(value) => put(key, value),
                    None => Change::Remove { key: vec![key] },
                })
                .collect();
            from.apply(&changes, Lsn::new(1)).unwrap();
            to.apply(&copy.passed(&changes), Lsn::new(0)).unwrap();
        }
        prop_assert_eq!(all(&mut *from), all(&mut *to));
        prop_assert_eq!(from.sum(), to.sum());
    }
}
