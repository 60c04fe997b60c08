//! Segments: files of a fixed size that frames are written into, front to back.
//!
//! The first page is the head; its layout up to the format, and its checksum, hold for every
//! format to come:
//!
//! ```text
//! 0   magic "ORLOPLOG"    16  store id, 16 bytes    40  size of the segment, u64
//! 8   format, u32         32  sequence, u64         48  salt, 32 bytes
//! 12  zero, u32                                   4088  checksum, u64: BLAKE3 of what precedes
//! ```
//!
//! Invariants
//! - A segment gets its name only once its head, its size and (at open) its first frame are
//!   durable, and it is written to only once its name is durable.
//! - Sequences have no gap: a file that is not there was lost, not never made.
//! - Each life of a file has a salt of its own, so no frame of an earlier life verifies.

use std::io;
use std::path::{Path, PathBuf};

use orlop_saga::id::StoreId;

use super::frame::{PAGE, PAGE_BYTES, Salt, cut_to_u64, field, put};
use crate::disk::{Disk, DiskFile};

/// The newest format of segments known.
pub(super) const SEGMENT_FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"ORLOPLOG";
const CHECKSUM_AT: usize = PAGE - 8;
const SUFFIX: &str = ".log";

/// The file kept for the day the disk is full.
pub(super) const RESERVE_NAME: &str = "reserve";
/// A freed segment that waits to become the next one.
pub(super) const RECYCLED_NAME: &str = "recycled.tmp";

/// What the head of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) store: StoreId,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    pub(super) salt: Salt,
}

/// What a head page turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeadVerdict {
    Valid(SegmentHead),
    Newer(u32),
    Invalid,
}

fn checksum(page: &[u8]) -> u64 {
    cut_to_u64(&blake3::hash(page.get(..CHECKSUM_AT).unwrap_or_default()))
}

impl SegmentHead {
    fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let fields = [
            (0, &MAGIC[..]),
            (8, &SEGMENT_FORMAT.to_le_bytes()),
            (16, self.store.as_bytes()),
            (32, &self.sequence.to_le_bytes()),
            (40, &self.bytes.to_le_bytes()),
            (48, &self.salt),
        ];
        for (at, field) in fields {
            put(&mut page, at, field);
        }
        let sum = checksum(&page);
        put(&mut page, CHECKSUM_AT, &sum.to_le_bytes());
        page
    }

    /// Verifies a head page.
    pub(super) fn verify(page: &[u8]) -> HeadVerdict {
        Self::parse(page).unwrap_or(HeadVerdict::Invalid)
    }

    fn parse(page: &[u8]) -> Option<HeadVerdict> {
        let sum = u64::from_le_bytes(field(page, CHECKSUM_AT)?);
        if field::<8>(page, 0)? != MAGIC || sum != checksum(page) {
            return None;
        }
        let format = u32::from_le_bytes(field(page, 8)?);
        if format > SEGMENT_FORMAT {
            return Some(HeadVerdict::Newer(format));
        }
        Some(HeadVerdict::Valid(Self {
            store: StoreId::new(field(page, 16)?),
            sequence: u64::from_le_bytes(field(page, 32)?),
            bytes: u64::from_le_bytes(field(page, 40)?),
            salt: field(page, 48)?,
        }))
    }
}

/// The path of a segment.
pub(super) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}{SUFFIX}"))
}

/// The sequence in a segment's name; `None` for any other file.
pub(super) fn sequence_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let hex = digits
        .bytes()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 16 || !hex {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Whether a file is a leftover of something that was never finished.
pub(super) fn is_leftover(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

/// A segment that frames are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) head: SegmentHead,
    /// Where the next frame begins.
    pub(super) end: u64,
}

impl Segment {
    /// Whether a frame of `frame_bytes` still fits in front of the mark of a clean close.
    pub(super) fn fits(&self, frame_bytes: u64) -> bool {
        self.end + frame_bytes + PAGE_BYTES <= self.head.bytes
    }
}

/// What a new segment is made of.
pub(super) enum Source {
    /// A new file of this size.
    Fresh(u64),
    /// A file that has its space already, in the same folder.
    Recycle(PathBuf),
}

/// Why a segment was not made. None has the name; a file without use may be left.
#[derive(Debug)]
pub(super) enum MakeError {
    /// There is no space for it.
    NoSpace(io::Error),
    /// The disk failed.
    Failed(io::Error),
}

/// Whether an error says that space ran out.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Encodes the first frame of a segment under its salt.
pub(super) type FirstFrame<'a> = &'a dyn Fn(&Salt) -> Vec<u8>;

/// Where segments are made.
pub(super) struct Maker<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) dir: &'a Path,
    pub(super) store: StoreId,
}

impl Maker<'_> {
    /// Makes a segment, durable under its name. `first` encodes its first frame under its salt;
    /// without one the segment is empty.
    pub(super) fn make(
        &self,
        sequence: u64,
        source: &Source,
        first: Option<FirstFrame<'_>>,
    ) -> Result<Segment, MakeError> {
        let building = self.dir.join(format!("{sequence:016x}.tmp"));
        let path = match source {
            Source::Fresh(_) => &building,
            Source::Recycle(path) => path,
        };
        let filled = self.fill(path, sequence, source, first);
        let renamed = filled.and_then(|segment| {
            self.disk.rename(path, &segment.path)?;
            Ok(segment)
        });
        let segment = match renamed {
            Ok(segment) => segment,
            Err(error) if is_no_space(&error) => {
                // What it took is given back; if that fails, the next attempt begins with it. One
                // that was to be used again may have failed to sync: it is not tried twice.
                let _ = self.disk.remove(path);
                return Err(MakeError::NoSpace(error));
            }
            Err(error) => return Err(MakeError::Failed(error)),
        };
        // From here on the name exists: what a failure leaves of it only an open can tell.
        self.disk.sync_dir(self.dir).map_err(MakeError::Failed)?;
        Ok(segment)
    }

    fn fill(
        &self,
        path: &Path,
        sequence: u64,
        source: &Source,
        first: Option<FirstFrame<'_>>,
    ) -> io::Result<Segment> {
        let (file, bytes) = match source {
            Source::Fresh(bytes) => (self.fresh(path, *bytes)?, *bytes),
            Source::Recycle(path) => {
                let file = self.disk.open(path)?;
                let bytes = file.len()?;
                (file, bytes)
            }
        };
        let mut salt = Salt::default();
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let head = SegmentHead {
            store: self.store,
            sequence,
            bytes,
            salt,
        };
        file.write_all_at(0, &head.encode())?;
        let mut end = PAGE_BYTES;
        if let Some(first) = first {
            let frame = first(&salt);
            file.write_all_at(end, &frame)?;
            end += frame.len() as u64;
        }
        file.sync_data()?;
        Ok(Segment {
            path: segment_path(self.dir, sequence),
            file,
            head,
            end,
        })
    }

    /// A new file full of zeros. One left from an earlier attempt is not used again: its pages may
    /// have failed to sync.
    fn fresh(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        if self.disk.exists(path)? {
            self.disk.remove(path)?;
        }
        let file = self.disk.create(path)?;
        file.preallocate(bytes)?;
        Ok(file)
    }

    /// Makes the reserve: a file that has its space, under its name.
    pub(super) fn make_reserve(&self, bytes: u64) -> Result<(), MakeError> {
        let building = self.dir.join("reserve.tmp");
        let made = self.fresh(&building, bytes).and_then(|file| {
            file.sync_data()?;
            self.disk.rename(&building, &self.dir.join(RESERVE_NAME))
        });
        match made {
            Ok(()) => self.disk.sync_dir(self.dir).map_err(MakeError::Failed),
            Err(error) if is_no_space(&error) => {
                let _ = self.disk.remove(&building);
                Err(MakeError::NoSpace(error))
            }
            Err(error) => Err(MakeError::Failed(error)),
        }
    }

    /// Whether the reserve is there with this size; removes one of another size.
    pub(super) fn has_reserve(&self, bytes: u64) -> io::Result<bool> {
        let path = self.dir.join(RESERVE_NAME);
        if !self.disk.exists(&path)? {
            return Ok(false);
        }
        if bytes != 0 && self.disk.open(&path)?.len()? == bytes {
            return Ok(true);
        }
        self.disk.remove(&path)?;
        Ok(false)
    }
}
