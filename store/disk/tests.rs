//! The simulated disk loses what a real one may lose, and nothing else.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use super::{Disk, DiskFile, Failure, FileDisk, Occurrence, Operation, SimDisk};

const PAGE: usize = 4096;

fn content(disk: &SimDisk, path: &Path) -> Option<Vec<u8>> {
    let file = disk.open(path).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    Some(bytes)
}

/// A file of ones, durable, and its handle.
fn ones(disk: &SimDisk, path: &Path) -> Box<dyn DiskFile> {
    let file = disk.create(path).unwrap();
    file.write_all_at(0, &[1; PAGE]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file
}

fn survivors(disk: &SimDisk, path: &Path) -> BTreeSet<Option<Vec<u8>>> {
    (0..64)
        .map(|seed| content(&disk.crash(seed), path))
        .collect()
}

#[test]
fn synced_bytes_survive_every_crash_and_unsynced_ones_only_some() {
    let (disk, path) = (SimDisk::new(), Path::new("/file"));
    let file = ones(&disk, path);
    assert_eq!(
        survivors(&disk, path),
        BTreeSet::from([Some(vec![1; PAGE])])
    );
    file.write_all_at(0, &[2; PAGE]).unwrap();
    assert_eq!(content(&disk, path), Some(vec![2; PAGE]));
    let found = survivors(&disk, path);
    assert!(found.contains(&Some(vec![1; PAGE])) && found.contains(&Some(vec![2; PAGE])));
    assert!(found.len() > 2, "no page was torn");
    file.sync_data().unwrap();
    assert_eq!(
        survivors(&disk, path),
        BTreeSet::from([Some(vec![2; PAGE])])
    );
}

#[test]
fn after_a_failed_sync_only_writing_again_makes_a_page_durable() {
    let (disk, path) = (SimDisk::new(), Path::new("/file"));
    let file = ones(&disk, path);
    file.write_all_at(0, &[2; PAGE]).unwrap();
    disk.fail(Some(Operation::Sync), Occurrence::Only(0), Failure::Device);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(
        content(&disk, path),
        Some(vec![2; PAGE]),
        "the cache has it"
    );
    assert!(survivors(&disk, path).contains(&Some(vec![1; PAGE])));
    file.write_all_at(0, &[2; PAGE]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(
        survivors(&disk, path),
        BTreeSet::from([Some(vec![2; PAGE])])
    );
}

#[test]
fn names_survive_every_crash_only_once_their_folder_is_synced() {
    let disk = SimDisk::new();
    let (root, old, new) = (Path::new("/"), Path::new("/old"), Path::new("/new"));
    let _file = ones(&disk, old);
    disk.rename(old, new).unwrap();
    let there = |disk: &SimDisk| (disk.exists(old).unwrap(), disk.exists(new).unwrap());
    let found: BTreeSet<_> = (0..64).map(|seed| there(&disk.crash(seed))).collect();
    assert_eq!(found, BTreeSet::from([(true, false), (false, true)]));
    disk.sync_dir(root).unwrap();
    disk.remove(new).unwrap();
    let found: BTreeSet<_> = (0..64).map(|seed| there(&disk.crash(seed))).collect();
    assert_eq!(found, BTreeSet::from([(false, true), (false, false)]));
}

#[test]
fn a_fault_meets_the_operation_it_was_planned_for() {
    let (disk, path) = (SimDisk::new(), Path::new("/file"));
    let file = ones(&disk, path);
    disk.fail(
        Some(Operation::Write),
        Occurrence::Only(1),
        Failure::NoSpace,
    );
    file.write_all_at(0, &[2]).unwrap();
    let error = file.write_all_at(0, &[3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    file.write_all_at(0, &[4]).unwrap();
    disk.fail(Some(Operation::Write), Occurrence::From(0), Failure::Short);
    assert!(file.write_all_at(0, &[5; 2]).is_err());
    let bytes = content(&disk, path).unwrap();
    assert_eq!(bytes[..2], [5, 1], "half of a short write arrives");
    disk.power_off_after(1);
    assert!(disk.exists(path).is_ok());
    assert!(disk.exists(path).is_err());
    assert!(content(&disk.crash(0), path).is_some());
}

#[test]
fn real_files_are_created_once_filled_with_zeros_and_listed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, path) = (FileDisk, dir.path().join("b"));
    let file = disk.create(&path).unwrap();
    assert_eq!(
        disk.create(&path).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    file.write_all_at(0, &[1; 10]).unwrap();
    file.preallocate(1 << 21).unwrap();
    file.sync_data().unwrap();
    let mut bytes = vec![1; 1 << 21];
    disk.open(&path)
        .unwrap()
        .read_exact_at(0, &mut bytes)
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    let end = file.read_exact_at(1 << 21, &mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
    let renamed = dir.path().join("a");
    let _other = disk.create(&dir.path().join("c")).unwrap();
    disk.rename(&path, &renamed).unwrap();
    disk.sync_dir(dir.path()).unwrap();
    assert_eq!(
        disk.list(dir.path()).unwrap(),
        [renamed, dir.path().join("c")]
    );
}
