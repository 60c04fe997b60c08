//! Opening: what a folder holds is verified, made durable, and only then spoken of.
//!
//! What a read returns may be in the page cache alone. A process that died before its sync, or
//! whose sync failed, leaves pages there that the disk never got, and a failed sync marks them
//! clean: syncing the same file again succeeds and writes nothing. Only writing the bytes again
//! helps. Which bytes? Each frame was synced before the next one was written, so all but the last
//! frame are known to be on the disk, and the last one is what is written again: into a *new* file,
//! synced under a temporary name, then renamed and its folder synced. Old segments are never
//! written to again, so a crash in the middle of opening cannot harm what was acknowledged, and no
//! block that just failed is trusted again.
//!
//! The new segment takes over at the lsn of its first frame: what an older segment has at or above
//! it, the torn tail included, does not count from then on, whatever the disk makes of it later.
//!
//! Invariants
//! - Before the new segment is durable under its name, nothing that was found is answered, and
//!   nothing but files without a valid frame is removed.
//! - Every segment but those prepared ahead begins with a frame that says its lsn.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_saga::id::{Lsn, StoreId};

use super::batch::Records;
use super::file::FileLog;
use super::frame::{FrameBuffer, Head, Kind, PAGE_BYTES, Salt, payload};
use super::scan::{Found, FrameRead, Tail, find_segments, find_tail, io_error, read_frame};
use super::segment::{
    MakeError, Maker, RESERVE_NAME, Segment, SegmentHead, Source, is_leftover, segment_path,
    sequence_of,
};
use super::{
    DurableSink, Log, LogOptions, OpenLogError, Opened, Replay, ReplayLogError, StartLogError,
};
use crate::disk::{Disk, DiskFile};

/// A segment whose records are kept, and up to where they count.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) head: SegmentHead,
    pub(super) file: Arc<dyn DiskFile>,
    /// The lsn at which the next segment takes over.
    pub(super) end: Lsn,
}

/// A [`FileLog`] that was opened and does not run yet. What it holds is durable.
///
/// Keep other openers out of the folder for as long as this, or the log it becomes, lives.
pub struct OpenedLog {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) store: StoreId,
    /// The segments before the one that is written to.
    pub(super) kept: Vec<Kept>,
    pub(super) active: Segment,
    first: Lsn,
    /// The lsn of the next record.
    pub(super) next: Lsn,
}

impl fmt::Debug for OpenedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedLog")
            .field("dir", &self.dir)
            .field("first", &self.first)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Creates a log whose first record will be `lsn` in a folder that has none; creates the folder if
/// need be.
pub(super) fn create(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    store: StoreId,
    lsn: Lsn,
) -> Result<OpenedLog, OpenLogError> {
    options.check()?;
    if !disk.exists(dir).map_err(io_error("look", dir))? {
        disk.create_dir(dir).map_err(io_error("create", dir))?;
    }
    // The folder may be left from an attempt that was cut off before this.
    if let Some(parent) = dir.parent() {
        let here = Path::new(".");
        let parent = if parent.as_os_str().is_empty() {
            here
        } else {
            parent
        };
        disk.sync_dir(parent).map_err(io_error("sync", parent))?;
    }
    let paths = disk.list(dir).map_err(io_error("list", dir))?;
    if paths.iter().any(|path| sequence_of(path).is_some()) {
        return Err(OpenLogError::Exists {
            dir: dir.to_path_buf(),
        });
    }
    remove_leftovers(disk.as_ref(), &paths)?;
    let first = First {
        sequence: 1,
        copied: None,
        lsn,
    };
    let active = first.make(disk.as_ref(), dir, &options, store)?;
    Ok(OpenedLog {
        disk,
        dir: dir.to_path_buf(),
        options,
        store,
        kept: Vec::new(),
        active,
        first: lsn,
        next: lsn,
    })
}

/// Opens the log in a folder and makes durable what it holds.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    store: StoreId,
) -> Result<OpenedLog, OpenLogError> {
    options.check()?;
    if !disk.exists(dir).map_err(io_error("look", dir))? {
        return Err(OpenLogError::Missing {
            dir: dir.to_path_buf(),
        });
    }
    let paths = disk.list(dir).map_err(io_error("list", dir))?;
    let mut segments = find_segments(disk.as_ref(), &paths, store)?;
    if segments.is_empty() {
        return Err(OpenLogError::Missing {
            dir: dir.to_path_buf(),
        });
    }
    let tail = find_tail(&segments)?;
    let first_of = |found: &Found| found.first.as_ref().map(|head| head.first);
    let oldest = segments.first().and_then(first_of);
    let begins = segments.get(tail.segment).and_then(first_of);

    remove_leftovers(disk.as_ref(), &paths)?;
    let unused = segments.split_off(tail.segment + 1);
    for found in unused.iter().rev() {
        remove_durably(disk.as_ref(), dir, &found.path)?;
    }
    // Where nothing precedes the last frame in its segment, its copy replaces the whole file.
    let replaces = begins == Some(tail.frame.first);
    let sequence = segments.last().map_or(1, |last| last.head.sequence);
    let sequence = if replaces { sequence } else { sequence + 1 };
    if replaces {
        segments.pop();
    }
    let next = tail.frame.end();
    let first = First {
        sequence,
        lsn: tail.frame.first,
        copied: (tail.frame.kind == Kind::Records).then_some(&tail),
    };
    let taken_over = first.lsn;
    let active = first.make(disk.as_ref(), dir, &options, store)?;
    let kept = kept(segments, taken_over);
    Ok(OpenedLog {
        disk,
        dir: dir.to_path_buf(),
        options,
        store,
        kept,
        active,
        first: oldest.unwrap_or(taken_over),
        next,
    })
}

/// The older segments, each up to where the next one takes over, the last up to `end`.
fn kept(segments: Vec<Found>, end: Lsn) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::with_capacity(segments.len());
    let mut upper = end;
    for found in segments.into_iter().rev() {
        let begins = found.first.as_ref().map_or(upper, |head| head.first);
        kept.push(Kept {
            path: found.path,
            head: found.head,
            file: found.file,
            end: upper,
        });
        upper = begins;
    }
    kept.reverse();
    kept
}

fn remove_leftovers(disk: &dyn Disk, paths: &[PathBuf]) -> Result<(), OpenLogError> {
    for path in paths.iter().filter(|path| is_leftover(path)) {
        disk.remove(path).map_err(io_error("remove", path))?;
    }
    Ok(())
}

/// Removes a file and syncs its folder, so that of several removals none overtakes another.
fn remove_durably(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), OpenLogError> {
    disk.remove(path).map_err(io_error("remove", path))?;
    disk.sync_dir(dir).map_err(io_error("sync", dir))
}

/// The first frame of the segment that an open begins.
struct First<'a> {
    sequence: u64,
    lsn: Lsn,
    /// The frame to copy; without one, a mark that says the lsn.
    copied: Option<&'a Tail>,
}

impl First<'_> {
    fn make(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        options: &LogOptions,
        store: StoreId,
    ) -> Result<Segment, OpenLogError> {
        let copied = self.copied.map_or(0, |tail| tail.bytes.len() as u64);
        // The head, the frame, and as much room again for a small frame and the closing mark.
        let least = copied + 4 * PAGE_BYTES;
        let bytes = options.first_segment_bytes.max(least);
        let maker = Maker { disk, dir, store };
        let frame = |salt: &Salt| self.encode(salt);
        let mut made = maker.make(self.sequence, &Source::Fresh(bytes), Some(&frame));
        if matches!(made, Err(MakeError::NoSpace(_)))
            && let Some(reserve) = reserve(disk, dir, least)?
        {
            // Kept for such a day: a full disk must not keep what was accepted from ending.
            made = maker.make(self.sequence, &Source::Recycle(reserve), Some(&frame));
        }
        made.map_err(|error| {
            let (MakeError::NoSpace(source) | MakeError::Failed(source)) = error;
            io_error("make", &segment_path(dir, self.sequence))(source)
        })
    }

    fn encode(&self, salt: &Salt) -> Vec<u8> {
        let mut buffer = FrameBuffer::default();
        buffer.clear();
        let kind = match self.copied {
            Some(tail) => {
                buffer.push_raw(payload(&tail.bytes, &tail.frame), tail.frame.records);
                Kind::Records
            }
            None => Kind::Opened,
        };
        buffer.seal(salt, kind, self.lsn).to_vec()
    }
}

/// The reserve, if it is there and has so many bytes.
fn reserve(disk: &dyn Disk, dir: &Path, least: u64) -> Result<Option<PathBuf>, OpenLogError> {
    let path = dir.join(RESERVE_NAME);
    if !disk.exists(&path).map_err(io_error("look", &path))? {
        return Ok(None);
    }
    let file = disk.open(&path).map_err(io_error("open", &path))?;
    let bytes = file.len().map_err(io_error("measure", &path))?;
    Ok((bytes >= least).then_some(path))
}

impl OpenedLog {
    /// The lsn of the oldest record kept; where there is none, the lsn the next append gets.
    pub fn first_lsn(&self) -> Lsn {
        self.first
    }

    /// The lsn of the newest record; 0 if there never was one.
    pub fn last_lsn(&self) -> Lsn {
        Lsn::new(self.next.get().saturating_sub(1))
    }

    /// Hands every record from `from` on to `replay`, in lsn order. May be called again.
    ///
    /// # Errors
    /// [`ReplayLogError`]: the records before the failure were handed over.
    pub fn replay(&self, from: Lsn, replay: &mut dyn Replay) -> Result<(), ReplayLogError> {
        let from = from.max(Lsn::new(1));
        if from < self.first {
            return Err(ReplayLogError::Forgotten {
                from,
                first: self.first,
            });
        }
        let mut reader = Reader {
            from,
            buffer: Vec::new(),
            next: None,
        };
        for kept in self.kept.iter().filter(|kept| kept.end > from) {
            let place = Place {
                path: &kept.path,
                file: kept.file.as_ref(),
                head: &kept.head,
                end: kept.end,
            };
            reader.segment(&place, replay)?;
        }
        let place = Place {
            path: &self.active.path,
            file: self.active.file.as_ref(),
            head: &self.active.head,
            end: self.next,
        };
        reader.segment(&place, replay)
    }

    /// Starts taking appends. `sink` is given every batch appended from now on, none of those that
    /// were found.
    ///
    /// # Errors
    /// [`StartLogError`]: nothing runs; what was found stays durable.
    pub fn start(self, sink: Box<dyn DurableSink>) -> Result<FileLog, StartLogError> {
        FileLog::start(self, sink)
    }
}

impl Opened for OpenedLog {
    fn first_lsn(&self) -> Lsn {
        OpenedLog::first_lsn(self)
    }

    fn last_lsn(&self) -> Lsn {
        OpenedLog::last_lsn(self)
    }

    fn replay(&self, from: Lsn, replay: &mut dyn Replay) -> Result<(), ReplayLogError> {
        OpenedLog::replay(self, from, replay)
    }

    fn start(self: Box<Self>, sink: Box<dyn DurableSink>) -> Result<Arc<dyn Log>, StartLogError> {
        Ok(Arc::new(OpenedLog::start(*self, sink)?))
    }
}

/// A segment to be replayed up to `end`.
struct Place<'a> {
    path: &'a Path,
    file: &'a dyn DiskFile,
    head: &'a SegmentHead,
    end: Lsn,
}

/// Reads segments again that were verified at open.
struct Reader {
    from: Lsn,
    buffer: Vec<u8>,
    /// The lsn that must come next; `None` before the first frame.
    next: Option<Lsn>,
}

impl Reader {
    fn segment(
        &mut self,
        place: &Place<'_>,
        replay: &mut dyn Replay,
    ) -> Result<(), ReplayLogError> {
        let mut offset = PAGE_BYTES;
        while self.next.is_none_or(|next| next < place.end) {
            let read = read_frame(place.file, place.head, offset, &mut self.buffer);
            let read = read.map_err(|source| ReplayLogError::Io {
                file: place.path.to_path_buf(),
                offset,
                source,
            })?;
            let frame = match read {
                FrameRead::Valid(frame) if self.next.is_none_or(|next| next == frame.first) => {
                    frame
                }
                FrameRead::Valid(_) | FrameRead::Newer(_) | FrameRead::None => {
                    return Err(ReplayLogError::Corrupt {
                        file: place.path.to_path_buf(),
                        offset,
                    });
                }
            };
            self.frame(&frame, replay)?;
            self.next = Some(frame.end());
            offset += frame.frame_bytes() as u64;
        }
        Ok(())
    }

    fn frame(&self, frame: &Head, replay: &mut dyn Replay) -> Result<(), ReplayLogError> {
        let mut lsn = frame.first;
        for record in Records::new(payload(&self.buffer, frame)) {
            if lsn >= self.from {
                replay.record(lsn, record)?;
            }
            lsn = lsn.next();
        }
        Ok(())
    }
}
