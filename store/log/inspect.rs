//! Inspecting: everything that is wrong with the segments of a folder, not only the first thing.
//!
//! Reads only. What an open would call a torn tail is no finding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_saga::id::{Lsn, StoreId};

use super::batch::Records;
use super::error::Damage;
use super::frame::{Head, PAGE, PAGE_BYTES, payload, peek};
use super::scan::{FrameRead, read_frame};
use super::segment::{HeadVerdict, SegmentHead, sequence_of};
use crate::disk::{Disk, DiskFile};

/// What is wrong with a segment.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    pub(crate) what: String,
}

/// What a log holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inspected {
    pub(crate) segments: u64,
    pub(crate) frames: u64,
    /// The oldest record kept; if there is none, the lsn of the next.
    pub(crate) first: Option<Lsn>,
    /// The newest record.
    pub(crate) last: Option<Lsn>,
    /// Whether something behind the last frame was never finished.
    pub(crate) torn: bool,
}

/// A record where it was found.
pub(crate) struct Seen<'a> {
    pub(crate) file: &'a Path,
    pub(crate) offset: u64,
    pub(crate) lsn: Lsn,
    pub(crate) record: &'a [u8],
}

/// Looks through the log in a folder.
pub(crate) struct Inspection<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) store: Option<StoreId>,
    pub(crate) fault: &'a mut dyn FnMut(Fault),
    pub(crate) seen: &'a mut dyn FnMut(&Seen<'_>),
}

struct Segment {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    head: SegmentHead,
    first: Option<Head>,
}

impl Inspection<'_> {
    /// Looks through it.
    pub(crate) fn run(&mut self, dir: &Path) -> Inspected {
        let mut found = Inspected::default();
        let paths = match self.disk.list(dir) {
            Ok(paths) => paths,
            Err(error) => {
                self.fault(dir, 0, format!("it cannot be listed: {error}"));
                return found;
            }
        };
        let mut numbered: Vec<(u64, PathBuf)> = paths
            .into_iter()
            .filter_map(|path| Some((sequence_of(&path)?, path)))
            .collect();
        numbered.sort();
        if numbered.is_empty() {
            self.fault(dir, 0, "it has no segment".into());
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut before: Option<u64> = None;
        for (sequence, path) in numbered {
            if before.is_some_and(|before| before + 1 != sequence) {
                self.fault(&path, 0, "a segment is missing before it".into());
            }
            before = Some(sequence);
            segments.extend(self.segment(&path, sequence));
        }
        found.segments = segments.len() as u64;
        let begun = segments.iter().rposition(|segment| segment.first.is_some());
        if begun.is_none() && !segments.is_empty() {
            self.fault(dir, 0, Damage::AllFrames.to_string());
        }
        let mut expected: Option<Lsn> = None;
        for (index, segment) in segments.iter().enumerate() {
            let later = segments.get(index + 1..).unwrap_or_default();
            let limit = later.iter().find_map(|later| later.first.as_ref());
            let limit = limit.map(|head| head.first);
            if begun.is_some_and(|begun| index <= begun) {
                expected = self.walk(segment, expected, limit, &mut found);
            }
        }
        found
    }

    fn fault(&mut self, file: &Path, offset: u64, what: String) {
        (self.fault)(Fault {
            file: file.to_path_buf(),
            offset,
            what,
        });
    }

    /// Reads the head and the first frame of a segment.
    fn segment(&mut self, path: &Path, sequence: u64) -> Option<Segment> {
        let opened = self.disk.open(path).and_then(|file| {
            let bytes = file.len()?;
            let mut page = vec![0; PAGE];
            if bytes >= PAGE_BYTES {
                file.read_exact_at(0, &mut page)?;
            }
            Ok((file, bytes, page))
        });
        let (file, bytes, page) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.fault(path, 0, format!("it cannot be read: {error}"));
                return None;
            }
        };
        let head = match SegmentHead::verify(&page) {
            HeadVerdict::Valid(head) if head.sequence == sequence => head,
            HeadVerdict::Valid(_) | HeadVerdict::Invalid => {
                self.fault(path, 0, Damage::Head.to_string());
                return None;
            }
            HeadVerdict::Newer(format) => {
                self.fault(path, 8, format!("its format is {format}, which is newer"));
                return None;
            }
        };
        if self.store.is_some_and(|store| store != head.store) {
            self.fault(path, 16, format!("it is of store {}", head.store));
            return None;
        }
        if bytes < head.bytes {
            self.fault(path, bytes, Damage::Length.to_string());
            return None;
        }
        let mut segment = Segment {
            path: path.to_path_buf(),
            file: Arc::from(file),
            head,
            first: None,
        };
        let mut buffer = Vec::new();
        segment.first = self.frame(&segment, PAGE_BYTES, &mut buffer);
        Some(segment)
    }

    fn frame(&mut self, segment: &Segment, offset: u64, into: &mut Vec<u8>) -> Option<Head> {
        match read_frame(segment.file.as_ref(), &segment.head, offset, into) {
            Ok(FrameRead::Valid(head)) => Some(head),
            Ok(FrameRead::Newer(format)) => {
                let what = format!("a frame of format {format}, which is newer");
                self.fault(&segment.path, offset, what);
                None
            }
            Ok(FrameRead::None) => None,
            Err(error) => {
                self.fault(&segment.path, offset, format!("it cannot be read: {error}"));
                None
            }
        }
    }

    /// Follows the frames of a segment up to `limit`, over what is damaged; answers the lsn that
    /// comes next.
    fn walk(
        &mut self,
        segment: &Segment,
        mut expected: Option<Lsn>,
        limit: Option<Lsn>,
        found: &mut Inspected,
    ) -> Option<Lsn> {
        let mut offset = PAGE_BYTES;
        let mut buffer = Vec::new();
        while limit.is_none_or(|limit| expected.is_none_or(|next| next < limit)) {
            let Some(frame) = self.frame(segment, offset, &mut buffer) else {
                let next = self.next_frame(segment, offset + PAGE_BYTES, &mut buffer);
                let Some(next) = next else {
                    self.ends(segment, offset, expected, limit, found);
                    return limit.or(expected);
                };
                self.fault(&segment.path, offset, Damage::Frame.to_string());
                offset = next;
                expected = None;
                continue;
            };
            if expected.is_some_and(|next| next != frame.first) {
                self.fault(&segment.path, offset, Damage::Order.to_string());
            }
            found.frames += 1;
            found.first.get_or_insert(frame.first);
            let mut lsn = frame.first;
            for record in Records::new(payload(&buffer, &frame)) {
                if limit.is_none_or(|limit| lsn < limit) {
                    found.last = Some(lsn);
                    (self.seen)(&Seen {
                        file: &segment.path,
                        offset,
                        lsn,
                        record,
                    });
                }
                lsn = lsn.next();
            }
            if found.last.is_none() {
                found.last = Some(Lsn::new(frame.first.get().saturating_sub(1)));
            }
            expected = Some(frame.end());
            offset += frame.frame_bytes() as u64;
        }
        expected
    }

    /// What it means that no frame follows.
    fn ends(
        &mut self,
        segment: &Segment,
        offset: u64,
        expected: Option<Lsn>,
        limit: Option<Lsn>,
        found: &mut Inspected,
    ) {
        if limit.is_some() && expected != limit {
            self.fault(&segment.path, offset, Damage::Frame.to_string());
            return;
        }
        let mut page = vec![0; PAGE];
        if offset + PAGE_BYTES <= segment.head.bytes
            && segment.file.read_exact_at(offset, &mut page).is_ok()
        {
            found.torn = page.iter().any(|byte| *byte != 0);
        }
    }

    /// Where the next frame that verifies begins.
    fn next_frame(&mut self, segment: &Segment, from: u64, into: &mut Vec<u8>) -> Option<u64> {
        let mut page = vec![0; PAGE];
        let mut at = from;
        while at + PAGE_BYTES <= segment.head.bytes {
            let read = segment.file.read_exact_at(at, &mut page);
            if read.is_ok() && peek(&page).is_some() && self.frame(segment, at, into).is_some() {
                return Some(at);
            }
            at += PAGE_BYTES;
        }
        None
    }
}
