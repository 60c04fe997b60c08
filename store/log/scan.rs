//! Scanning: which frames a folder holds, and whether something between them is missing.
//!
//! Only the last frame of a log can be unfinished after a crash, since a frame is written only once
//! the one before it was synced. Therefore a frame that does not verify is a torn tail where
//! nothing valid follows, and damage everywhere else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_saga::id::{Lsn, StoreId};

use super::error::{Damage, OpenLogError};
use super::frame::{FORMAT, Head, PAGE, PAGE_BYTES, Verdict, peek, verify};
use super::segment::{HeadVerdict, SEGMENT_FORMAT, SegmentHead, sequence_of};
use crate::disk::{Disk, DiskFile};

/// Bytes read at a time where frames are searched for.
const SEARCH_BYTES: u64 = 1 << 20;

/// A segment as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) head: SegmentHead,
    /// Its first frame; `None` for a segment that was prepared and never finished a frame.
    pub(super) first: Option<Head>,
}

/// What a read at the place of a frame gave.
#[derive(Debug)]
pub(super) enum FrameRead {
    /// A frame, with its bytes in the buffer.
    Valid(Head),
    /// A frame of a newer format.
    Newer(u16),
    /// No frame, or none that verifies.
    None,
}

/// Reads the frame at `offset` into `into`.
pub(super) fn read_frame(
    file: &dyn DiskFile,
    head: &SegmentHead,
    offset: u64,
    into: &mut Vec<u8>,
) -> io::Result<FrameRead> {
    if offset + PAGE_BYTES > head.bytes {
        return Ok(FrameRead::None);
    }
    into.resize(PAGE, 0);
    file.read_exact_at(offset, into)?;
    let Some((_, bytes)) = peek(into) else {
        return Ok(FrameRead::None);
    };
    if bytes as u64 > head.bytes - offset {
        return Ok(FrameRead::None);
    }
    into.resize(bytes, 0);
    if let Some(rest) = into.get_mut(PAGE..) {
        file.read_exact_at(offset + PAGE_BYTES, rest)?;
    }
    Ok(match verify(&head.salt, into) {
        Verdict::Valid(frame) => FrameRead::Valid(frame),
        Verdict::Newer(format) => FrameRead::Newer(format),
        Verdict::Invalid => FrameRead::None,
    })
}

/// The end of what a log holds.
#[derive(Debug)]
pub(super) struct Tail {
    /// Which of the found segments has the last frame.
    pub(super) segment: usize,
    /// That frame.
    pub(super) frame: Head,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

pub(super) fn io_error(
    operation: &'static str,
    file: &Path,
) -> impl FnOnce(io::Error) -> OpenLogError {
    let file = file.to_path_buf();
    move |source| OpenLogError::Io {
        operation,
        file,
        source,
    }
}

fn corrupt(file: &Path, offset: u64, damage: Damage) -> OpenLogError {
    OpenLogError::Corrupt {
        file: file.to_path_buf(),
        offset,
        damage,
    }
}

fn newer(file: &Path, found: u32, newest: u32) -> OpenLogError {
    OpenLogError::NewerFormat {
        file: file.to_path_buf(),
        found,
        newest,
    }
}

/// Finds the segments among `paths`, in order, and reads their heads and first frames.
pub(super) fn find_segments(
    disk: &dyn Disk,
    paths: &[PathBuf],
    store: StoreId,
) -> Result<Vec<Found>, OpenLogError> {
    let mut segments: Vec<Found> = Vec::new();
    let mut numbered: Vec<(u64, &PathBuf)> = paths
        .iter()
        .filter_map(|path| Some((sequence_of(path)?, path)))
        .collect();
    numbered.sort_unstable();
    for (sequence, path) in numbered {
        let segment = read_segment(disk, path, sequence, store)?;
        if let Some(before) = segments.last()
            && before.head.sequence + 1 != sequence
        {
            return Err(OpenLogError::Gap {
                before: before.path.clone(),
                after: segment.path,
            });
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn read_segment(
    disk: &dyn Disk,
    path: &Path,
    sequence: u64,
    store: StoreId,
) -> Result<Found, OpenLogError> {
    let file: Arc<dyn DiskFile> = Arc::from(disk.open(path).map_err(io_error("open", path))?);
    let bytes = file.len().map_err(io_error("length", path))?;
    let mut page = vec![0; PAGE];
    if bytes < PAGE_BYTES {
        return Err(corrupt(path, bytes, Damage::Length));
    }
    file.read_exact_at(0, &mut page)
        .map_err(io_error("read", path))?;
    let head = match SegmentHead::verify(&page) {
        HeadVerdict::Valid(head) => head,
        HeadVerdict::Newer(found) => return Err(newer(path, found, SEGMENT_FORMAT)),
        HeadVerdict::Invalid => return Err(corrupt(path, 0, Damage::Head)),
    };
    if head.store != store {
        return Err(OpenLogError::OtherStore {
            file: path.to_path_buf(),
            found: head.store,
            expected: store,
        });
    }
    if head.sequence != sequence {
        return Err(corrupt(path, 0, Damage::Head));
    }
    // A segment has its whole size before it has its name.
    if bytes < head.bytes {
        return Err(corrupt(path, bytes, Damage::Length));
    }
    let mut found = Found {
        path: path.to_path_buf(),
        file,
        head,
        first: None,
    };
    found.first = frame_at(&found, PAGE_BYTES, &mut page)?;
    Ok(found)
}

/// Reads the frame at `offset` of a segment that was found.
fn frame_at(
    segment: &Found,
    offset: u64,
    into: &mut Vec<u8>,
) -> Result<Option<Head>, OpenLogError> {
    let read = read_frame(segment.file.as_ref(), &segment.head, offset, into);
    match read.map_err(io_error("read", &segment.path))? {
        FrameRead::Valid(frame) => Ok(Some(frame)),
        FrameRead::Newer(format) => Err(newer(&segment.path, format.into(), FORMAT.into())),
        FrameRead::None => Ok(None),
    }
}

/// Verifies every frame that counts and finds the last one.
pub(super) fn find_tail(segments: &[Found]) -> Result<Tail, OpenLogError> {
    let begun = segments.iter().rposition(|found| found.first.is_some());
    let (Some(last), Some(lowest)) = (begun, segments.first()) else {
        let file = segments.first().map(|found| found.path.clone());
        let file = file.unwrap_or_default();
        return Err(corrupt(&file, PAGE_BYTES, Damage::AllFrames));
    };
    let mut buffer = Vec::new();
    let mut expected = lowest.first.as_ref().map_or(Lsn::new(0), |head| head.first);
    for (index, segment) in segments.iter().enumerate().take(last) {
        let limit = segments
            .get(index + 1)
            .and_then(|next| next.first.as_ref())
            .map(|head| head.first);
        // Only segments after the last frame may be without one.
        let (Some(_), Some(limit)) = (&segment.first, limit) else {
            let bad = if segment.first.is_none() {
                index
            } else {
                index + 1
            };
            let path = segments.get(bad).map_or(&segment.path, |bad| &bad.path);
            return Err(corrupt(path, PAGE_BYTES, Damage::Frame));
        };
        let walk = walk(segment, expected, Some(limit), &mut buffer)?;
        if walk.next != limit {
            return Err(corrupt(&segment.path, walk.offset, Damage::Frame));
        }
        expected = limit;
    }
    let Some(segment) = segments.get(last) else {
        return Err(corrupt(&lowest.path, PAGE_BYTES, Damage::AllFrames));
    };
    let walk = walk(segment, expected, None, &mut buffer)?;
    let Some((at, frame)) = walk.last else {
        return Err(corrupt(&segment.path, PAGE_BYTES, Damage::AllFrames));
    };
    search(segment, walk.offset, walk.offset, &mut buffer)?;
    for later in segments.iter().skip(last + 1) {
        search(later, PAGE_BYTES, PAGE_BYTES, &mut buffer)?;
    }
    let mut bytes = Vec::new();
    match frame_at(segment, at, &mut bytes)? {
        Some(again) if again == frame => Ok(Tail {
            segment: last,
            frame,
            bytes,
        }),
        Some(_) | None => Err(corrupt(&segment.path, at, Damage::Frame)),
    }
}

/// How far the frames of a segment follow each other.
struct Walk {
    /// The first byte after them.
    offset: u64,
    /// The lsn that would come next.
    next: Lsn,
    /// The last of them, and where it is.
    last: Option<(u64, Head)>,
}

/// Follows the frames of a segment up to `limit`, where the next segment takes over: what lies at
/// or above it here was copied there, or was torn.
fn walk(
    segment: &Found,
    expected: Lsn,
    limit: Option<Lsn>,
    buffer: &mut Vec<u8>,
) -> Result<Walk, OpenLogError> {
    let mut walk = Walk {
        offset: PAGE_BYTES,
        next: expected,
        last: None,
    };
    while limit.is_none_or(|limit| walk.next < limit) {
        let Some(frame) = frame_at(segment, walk.offset, buffer)? else {
            break;
        };
        let beyond = limit.is_some_and(|limit| frame.end() > limit);
        if frame.first != walk.next || beyond {
            return Err(corrupt(&segment.path, walk.offset, Damage::Order));
        }
        walk.last = Some((walk.offset, frame));
        walk.next = frame.end();
        walk.offset += frame.frame_bytes() as u64;
    }
    Ok(walk)
}

/// Refuses a log in which a frame verifies at or after `from`: then what does not verify at `bad`
/// is no torn tail.
fn search(segment: &Found, from: u64, bad: u64, buffer: &mut Vec<u8>) -> Result<(), OpenLogError> {
    let mut chunk = Vec::new();
    let mut at = from;
    while at < segment.head.bytes {
        let bytes = SEARCH_BYTES.min(segment.head.bytes - at);
        chunk.resize(usize::try_from(bytes).unwrap_or(PAGE), 0);
        let read = segment.file.read_exact_at(at, &mut chunk);
        read.map_err(io_error("read", &segment.path))?;
        for (index, page) in chunk.chunks(PAGE).enumerate() {
            let offset = at + index as u64 * PAGE_BYTES;
            if peek(page).is_some() && frame_at(segment, offset, buffer)?.is_some() {
                return Err(corrupt(&segment.path, bad, Damage::Frame));
            }
        }
        at += bytes;
    }
    Ok(())
}
