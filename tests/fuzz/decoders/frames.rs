//! Frames: a journal of segments whose pages the input gives.
//!
//! Layout: one byte of flags, then pieces. A piece is a frame without the zeros at its end; an
//! empty piece begins the next segment.

use std::path::Path;
use std::sync::Arc;

use orlop_saga::id::Lsn;
use orlop_saga::record;
use orlop_store::disk::{Disk, SimDisk};
use orlop_store::log::{FileLog, LogOptions, OpenLogError};

use super::{STORE, pieces};

/// The checksums of frames are put right.
pub(crate) const SIGNED: u8 = 1;
/// So are the lengths that frames say they have.
pub(crate) const MEASURED: u8 = 2;

/// More of them cost time and show nothing else.
const SEGMENTS_MAX: u64 = 16;
const PAGE: usize = 4096;
const FRAME_HEAD: usize = 32;
const SALT: [u8; 32] = *b"the salt of every fuzzed segment";
const FOLDER: &str = "/log";

/// Opens what the input describes and replays it twice; how many records there were, unless it was
/// refused.
pub(crate) fn run(input: &[u8]) -> Option<usize> {
    let (flags, rest) = input.split_first()?;
    let disk = SimDisk::new();
    disk.create_dir(Path::new(FOLDER)).unwrap();
    let pieces = pieces(rest);
    let segments = pieces.split(|piece| piece.is_empty());
    for (sequence, segment) in (1..=SEGMENTS_MAX).zip(segments) {
        lay(&disk, sequence, segment, *flags);
    }
    let first = read(&disk).ok()?;
    let again = read(&disk).expect("what was opened opens again");
    assert_eq!(first, again, "a second opening reads something else");
    for (_, record) in &first {
        // Whether it is an event is the record decoder's matter; it must say so and not panic.
        let _ = record::decode(record);
    }
    Some(first.len())
}

fn lay(disk: &SimDisk, sequence: u64, segment: &[&[u8]], flags: u8) {
    let mut bytes = vec![0; PAGE];
    for piece in segment {
        let at = bytes.len();
        bytes.extend_from_slice(piece);
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        let length = piece.len().saturating_sub(FRAME_HEAD);
        if flags & MEASURED != 0 {
            let length = u32::try_from(length).unwrap();
            bytes[at + 8..at + 12].copy_from_slice(&length.to_le_bytes());
        }
        if flags & SIGNED != 0 {
            let mut hasher = blake3::Hasher::new_keyed(&SALT);
            hasher.update(&bytes[at..at + 24]);
            hasher.update(&bytes[at + FRAME_HEAD..]);
            let sum = hasher.finalize();
            bytes[at + 24..at + FRAME_HEAD].copy_from_slice(&sum.as_bytes()[..8]);
        }
    }
    let length = bytes.len() as u64;
    bytes[..8].copy_from_slice(b"ORLOPLOG");
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    bytes[16..32].copy_from_slice(STORE.as_bytes());
    bytes[32..40].copy_from_slice(&sequence.to_le_bytes());
    bytes[40..48].copy_from_slice(&length.to_le_bytes());
    bytes[48..80].copy_from_slice(&SALT);
    let sum = blake3::hash(&bytes[..PAGE - 8]);
    bytes[PAGE - 8..PAGE].copy_from_slice(&sum.as_bytes()[..8]);
    let path = Path::new(FOLDER).join(format!("{sequence:016x}.log"));
    let file = disk.create(&path).unwrap();
    file.write_all_at(0, &bytes).unwrap();
    file.sync_data().unwrap();
}

/// Every record that an opening finds.
fn read(disk: &SimDisk) -> Result<Vec<(Lsn, Vec<u8>)>, OpenLogError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    // Small, so that an input costs little; a frame that is copied at opening always fits.
    let options = LogOptions {
        segment_bytes: 1 << 20,
        first_segment_bytes: 16 << 10,
        group_bytes_max: 64 << 10,
        batch_bytes_max: 64 << 10,
        backlog_bytes_max: 1 << 20,
        reserve_bytes: 0,
    };
    let opened = FileLog::open(disk, Path::new(FOLDER), options, STORE)?;
    let mut records = Vec::new();
    let mut take = |lsn: Lsn, record: &[u8]| {
        records.push((lsn, record.to_vec()));
        Ok(())
    };
    let replayed = opened.replay(opened.first_lsn(), &mut take);
    replayed.expect("a log that opened replays");
    let lsns = (opened.first_lsn().get()..=u64::MAX).zip(&records);
    for (expected, (lsn, _)) in lsns {
        assert_eq!(lsn.get(), expected, "a gap in what is replayed");
    }
    Ok(records)
}
