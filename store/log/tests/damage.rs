//! Torn tails are cut; damage, missing files and other people's files are refused by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_saga::id::{Lsn, StoreId};

use super::rig::{OPTIONS, STORE, Workload, append, batch, dir, no_sink, open_sim};
use crate::disk::{Disk, SimDisk};
use crate::log::frame::{Kind, PAGE_BYTES, Verdict, verify};
use crate::log::scan::{FrameRead, read_frame};
use crate::log::segment::{HeadVerdict, SegmentHead};
use crate::log::{Damage, FileLog, Log, OpenLogError, OpenedLog, Purpose};

/// Where a frame is.
#[derive(Clone, Debug)]
struct Spot {
    path: PathBuf,
    offset: u64,
    bytes: u64,
    kind: Kind,
    first: Lsn,
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut paths = disk.list(&dir()).unwrap();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths
}

fn head_of(disk: &SimDisk, path: &Path) -> SegmentHead {
    let mut page = vec![0; 4096];
    disk.open(path)
        .unwrap()
        .read_exact_at(0, &mut page)
        .unwrap();
    match SegmentHead::verify(&page) {
        HeadVerdict::Valid(head) => head,
        other @ (HeadVerdict::Newer(_) | HeadVerdict::Invalid) => panic!("{path:?}: {other:?}"),
    }
}

/// Every frame that verifies, in order of its place.
fn frames(disk: &SimDisk) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut buffer = Vec::new();
    for path in segments(disk) {
        let head = head_of(disk, &path);
        let file = disk.open(&path).unwrap();
        let mut offset = PAGE_BYTES;
        while let FrameRead::Valid(frame) =
            read_frame(file.as_ref(), &head, offset, &mut buffer).unwrap()
        {
            let bytes = frame.frame_bytes() as u64;
            spots.push(Spot {
                path: path.clone(),
                offset,
                bytes,
                kind: frame.kind,
                first: frame.first,
            });
            offset += bytes;
        }
    }
    spots
}

/// A disk with these batches on it, one frame each; closed cleanly or not.
fn written(workload: &Workload, clean: bool) -> SimDisk {
    let disk = SimDisk::new();
    let log = open_sim(&disk).unwrap().start(no_sink()).unwrap();
    for records in &workload.batches {
        let answer = append(&log, 0, Purpose::New, batch(records));
        answer.recv().unwrap().unwrap();
    }
    if clean {
        log.close().unwrap();
    }
    drop(log);
    disk.crash(0)
}

fn refused(disk: &SimDisk, context: &str) -> OpenLogError {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    match FileLog::open(disk, &dir(), OPTIONS, STORE) {
        Err(error) => error,
        Ok(opened) => panic!("{context}: opened as {opened:?}"),
    }
}

fn overwrite(disk: &SimDisk, path: &Path, offset: u64, bytes: &[u8]) {
    let file = disk.open(path).unwrap();
    file.write_all_at(offset, bytes).unwrap();
    file.sync_data().unwrap();
}

fn assert_corrupt(error: &OpenLogError, path: &Path, at: u64, what: Damage, context: &str) {
    assert!(
        matches!(
            error,
            OpenLogError::Corrupt { file, offset, damage }
                if file == path && *offset == at && *damage == what
        ),
        "{context}: {error:?}"
    );
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_for_good() {
    let workload = Workload::new(&[1, 1, 3], 1400);
    let disk = written(&workload, false);
    let last = frames(&disk).pop().unwrap();
    assert_eq!((last.first, last.bytes), (Lsn::new(3), 2 * PAGE_BYTES));
    let file = disk.open(&last.path).unwrap();
    let mut whole = vec![0; usize::try_from(last.bytes).unwrap()];
    file.read_exact_at(last.offset, &mut whole).unwrap();
    let mut cuts = 0;
    for torn_at in 0..whole.len() {
        let torn = disk.crash(0);
        let mut bytes = whole.clone();
        bytes[torn_at..].fill(0);
        let unharmed = bytes == whole;
        overwrite(&torn, &last.path, last.offset, &bytes);
        let context = format!("torn at {torn_at}");
        let opened = open_sim(&torn).unwrap();
        let expected = if unharmed { 5 } else { 2 };
        assert_eq!(opened.last_lsn().get(), expected, "{context}");
        workload.check(&opened, expected, 1, &context);
        cuts += usize::from(!unharmed);
        if torn_at % 512 == 0 {
            // What was cut does not come back, even if the disk finds it again.
            overwrite(&torn, &last.path, last.offset, &whole);
            assert_eq!(open_sim(&torn).unwrap().last_lsn().get(), expected);
        }
    }
    assert!(cuts > 4096, "{cuts}");
}

#[test]
fn a_flipped_bit_anywhere_before_the_last_frame_is_named() {
    let workload = Workload::new(&[1; 12], 300);
    let disk = written(&workload, false);
    let spots = frames(&disk);
    let (last, before) = spots.split_last().unwrap();
    let paths = segments(&disk);
    assert!(paths.len() >= 3, "{paths:?}");
    for path in paths.iter().filter(|path| **path <= last.path) {
        let mine: Vec<&Spot> = before.iter().filter(|spot| spot.path == *path).collect();
        let end = mine
            .last()
            .map_or(PAGE_BYTES, |spot| spot.offset + spot.bytes);
        // Every byte of the text and the heads, some of the zeros.
        let bytes = (0..end).filter(|at| at % PAGE_BYTES < 380 || at % 61 == 0);
        for at in bytes {
            let flipped = disk.crash(0);
            flipped.flip(path, at, 1 << (at % 8)).unwrap();
            let context = format!("{} flipped at {at}", path.display());
            let error = refused(&flipped, &context);
            let frame = mine
                .iter()
                .find(|spot| (spot.offset..spot.offset + spot.bytes).contains(&at));
            match frame {
                Some(spot) => assert_corrupt(&error, path, spot.offset, Damage::Frame, &context),
                None => assert_corrupt(&error, path, 0, Damage::Head, &context),
            }
        }
    }
}

#[test]
fn damage_to_the_last_batch_is_found_after_a_clean_close() {
    let workload = Workload::new(&[1, 1], 300);
    let disk = written(&workload, true);
    let spots = frames(&disk);
    let [.., last, mark] = spots.as_slice() else {
        panic!("{spots:?}");
    };
    assert_eq!((last.kind, mark.kind), (Kind::Records, Kind::Closed));
    disk.flip(&last.path, last.offset + 100, 4).unwrap();
    let error = refused(&disk, "flipped");
    assert_corrupt(&error, &last.path, last.offset, Damage::Frame, "flipped");
}

#[test]
fn a_missing_segment_in_the_middle_is_named() {
    let disk = written(&Workload::new(&[1; 12], 300), false);
    let paths = segments(&disk);
    disk.remove(&paths[1]).unwrap();
    let error = refused(&disk, "a segment removed");
    assert!(
        matches!(
            &error,
            OpenLogError::Gap { before, after } if *before == paths[0] && *after == paths[2]
        ),
        "{error:?}"
    );
}

#[test]
fn a_segment_cut_short_is_named() {
    let disk = written(&Workload::new(&[1; 12], 300), false);
    for path in segments(&disk) {
        let cut = disk.crash(0);
        let file = cut.open(&path).unwrap();
        let length = file.len().unwrap() - PAGE_BYTES;
        file.set_len(length).unwrap();
        file.sync_data().unwrap();
        assert_corrupt(&refused(&cut, "cut"), &path, length, Damage::Length, "cut");
    }
}

#[test]
fn a_log_without_any_valid_frame_is_not_taken_for_a_new_one() {
    let disk = written(&Workload::new(&[1], 300), false);
    let path = segments(&disk).remove(0);
    for spot in frames(&disk) {
        disk.flip(&spot.path, spot.offset + 20, 1).unwrap();
    }
    let error = refused(&disk, "all frames damaged");
    assert_corrupt(&error, &path, PAGE_BYTES, Damage::AllFrames, "all damaged");
}

#[test]
fn folders_without_a_log_with_one_and_with_another_stores_are_told_apart() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let open = |store| FileLog::open(Arc::clone(&disk), &dir(), OPTIONS, store);
    let missing = open(STORE);
    assert!(matches!(&missing, Err(OpenLogError::Missing { dir: at }) if *at == dir()));
    disk.create_dir(&dir()).unwrap();
    assert!(matches!(open(STORE), Err(OpenLogError::Missing { .. })));
    let _created: OpenedLog = FileLog::create(Arc::clone(&disk), &dir(), OPTIONS, STORE).unwrap();
    let exists = FileLog::create(Arc::clone(&disk), &dir(), OPTIONS, STORE);
    assert!(
        matches!(exists, Err(OpenLogError::Exists { .. })),
        "{exists:?}"
    );
    let stranger = StoreId::new([8; 16]);
    let other = open(stranger);
    assert!(
        matches!(
            &other,
            Err(OpenLogError::OtherStore { found, expected, .. })
                if *found == STORE && *expected == stranger
        ),
        "{other:?}"
    );
}

#[test]
fn a_newer_format_is_named_and_not_taken_for_damage() {
    let disk = written(&Workload::new(&[1], 300), false);
    let path = segments(&disk).remove(0);
    let mut page = vec![0; 4096];
    disk.open(&path)
        .unwrap()
        .read_exact_at(0, &mut page)
        .unwrap();
    page[8] = 2;
    let digest = blake3::hash(&page[..4088]);
    page[4088..].copy_from_slice(&digest.as_bytes()[..8]);
    overwrite(&disk, &path, 0, &page);
    let error = refused(&disk, "newer");
    assert!(
        matches!(
            &error,
            OpenLogError::NewerFormat { file, found: 2, newest: 1 } if *file == path
        ),
        "{error:?}"
    );
}

#[test]
fn a_frame_of_another_life_of_the_file_does_not_verify() {
    let disk = written(&Workload::new(&[1, 1], 300), false);
    let last = frames(&disk).pop().unwrap();
    let head = head_of(&disk, &last.path);
    let mut bytes = vec![0; usize::try_from(last.bytes).unwrap()];
    let file = disk.open(&last.path).unwrap();
    file.read_exact_at(last.offset, &mut bytes).unwrap();
    assert!(matches!(verify(&head.salt, &bytes), Verdict::Valid(_)));
    let mut salt = head.salt;
    salt[31] ^= 1;
    assert_eq!(verify(&salt, &bytes), Verdict::Invalid);
}
