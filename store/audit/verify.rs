//! Trails that are only read: verified, or copied into a backup.

use std::io;
use std::path::{Path, PathBuf};

use orlop_saga::audit::{AuditEntry, AuditEvent, ChainHead};
use orlop_saga::id::StoreId;

use super::frame::{self, PAGE};
use super::{AUDIT, TrailError};
use crate::checkpoint::read_file;
use crate::disk::Disk;

/// What a trail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many entries were removed by its bound: the first that is left is the next one.
    pub pruned: u64,
    /// Its end.
    pub head: ChainHead,
    /// Whether something behind the last frame was never finished. Opening cuts it off.
    pub torn: bool,
}

/// Why a trail does not verify.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It was damaged or tampered with, or cannot be read.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// It ends before a head that was exported: its newest part was removed.
    #[error("the trail ends after {} entries, {} were there when the head was exported", end.entries, expected.entries)]
    Short {
        /// Its end.
        end: ChainHead,
        /// The head that was exported.
        expected: ChainHead,
    },
    /// At the place of a head that was exported it has another one: something up to there was
    /// changed.
    #[error("after {} entries the head was {}, it is {} now", expected.entries, expected.digest, found.digest)]
    Changed {
        /// The head there now.
        found: ChainHead,
        /// The head that was exported.
        expected: ChainHead,
    },
    /// Everything up to the head that was exported was removed by the trail's bound, so that
    /// nothing can be said of it. Export heads more often, or keep more.
    #[error("the first {pruned} entries were removed, the head is that of {}", expected.entries)]
    Pruned {
        /// How many entries were removed.
        pruned: u64,
        /// The head that was exported.
        expected: ChainHead,
    },
}

/// The files of a trail, by the number of entries before them.
pub(super) fn segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    if !disk.exists(dir)? {
        return Ok(Vec::new());
    }
    let mut segments: Vec<(u64, PathBuf)> = disk
        .list(dir)?
        .into_iter()
        .filter_map(|path| Some((first_of(&path)?, path)))
        .collect();
    segments.sort();
    Ok(segments)
}

pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.{AUDIT}"))
}

fn first_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_suffix(".audit")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// One file of a trail, as far as it verifies.
pub(super) struct Scan {
    /// The heads before and after what verifies, if anything does.
    pub(super) ends: Option<(ChainHead, ChainHead)>,
    /// The bytes that verify.
    pub(super) bytes: usize,
    pub(super) torn: bool,
}

/// Reads a file that begins where `expected` says, if that is known. Only the last one may end in
/// something that was never finished.
pub(super) fn scan(
    file: &Path,
    content: &[u8],
    (first, expected): (u64, Option<ChainHead>),
    is_last: bool,
    seen: &mut dyn FnMut(ChainHead, &AuditEntry, ChainHead),
) -> Result<Scan, TrailError> {
    let damaged = |offset: usize, what| TrailError::Damaged {
        file: file.to_path_buf(),
        offset: offset as u64,
        what,
    };
    let (mut at, mut before, mut head) = (0, None, expected);
    while let Some(frame) = content.get(at..).and_then(frame::read) {
        if head.is_some_and(|head| head != frame.before) {
            return Err(damaged(at, "the chain is broken here"));
        }
        if at == 0 && frame.before.entries != first {
            return Err(damaged(at, "it belongs under another name"));
        }
        before = before.or(Some(frame.before));
        let mut link = frame.before;
        for entry in &frame.entries {
            let next = link.after(&entry.encode());
            seen(link, entry, next);
            link = next;
        }
        head = Some(frame.after);
        at += frame.bytes;
    }
    let torn = content.len() > at;
    if torn {
        // What follows was never acknowledged, unless a later frame was.
        let pages = (at / PAGE + 1)..=(content.len() / PAGE);
        let later = pages
            .map(|page| page * PAGE)
            .any(|page| content.get(page..).and_then(frame::read).is_some());
        if later || !is_last {
            return Err(damaged(at, "an entry is damaged or was changed"));
        }
    }
    if before.is_none() && !is_last {
        return Err(damaged(at, "it is empty"));
    }
    Ok(Scan {
        ends: before.zip(head),
        bytes: at,
        torn,
    })
}

/// Reads the trail of a store that is closed, or of a backup, and changes nothing. `seen` gets
/// every entry with its number, from 1.
///
/// - `exported`: a head that was exported when the trail had as many entries as it says.
///
/// # Errors
/// [`VerifyError`]: it is not what was written, or not all of it.
pub fn verify(
    disk: &dyn Disk,
    folder: &Path,
    store: StoreId,
    exported: Option<ChainHead>,
    seen: &mut dyn FnMut(u64, &AuditEntry),
) -> Result<Verified, VerifyError> {
    let dir = folder.join(AUDIT);
    let files = segments(disk, &dir).map_err(TrailError::io("list", &dir))?;
    let mut found = exported.filter(|head| *head == ChainHead::genesis(store));
    let (mut head, mut torn) = (ChainHead::genesis(store), false);
    let pruned = files.first().map_or(0, |(first, _)| *first);
    let mut excused = pruned == 0;
    let mut begins = Vec::new();
    for (index, (first, file)) in files.iter().enumerate() {
        let content = read_file(disk, file).map_err(TrailError::io("read", file))?;
        let expected = (index > 0 || pruned == 0).then_some(head);
        let is_last = index + 1 == files.len();
        begins.extend(frame::read(&content).map(|frame| frame.before));
        let mut each = |before: ChainHead, entry: &AuditEntry, after: ChainHead| {
            for link in [before, after] {
                if exported.is_some_and(|exported| exported.entries == link.entries) {
                    found = Some(link);
                }
            }
            if let AuditEvent::Pruned { through } = &entry.event {
                // The removal may have been cut off half way.
                excused |= begins.contains(through);
            }
            seen(after.entries, entry);
        };
        let scan = scan(file, &content, (*first, expected), is_last, &mut each)?;
        head = scan.ends.map_or(head, |(_, after)| after);
        torn |= scan.torn;
    }
    if !excused {
        return Err(TrailError::Damaged {
            file: dir,
            offset: 0,
            what: "its beginning was removed, and not by its bound",
        }
        .into());
    }
    match (exported, found) {
        (Some(expected), Some(found)) if found != expected => {
            Err(VerifyError::Changed { found, expected })
        }
        (Some(expected), None) if expected.entries < pruned => {
            Err(VerifyError::Pruned { pruned, expected })
        }
        (Some(expected), None) if expected.entries == 0 => Err(VerifyError::Changed {
            found: ChainHead::genesis(store),
            expected,
        }),
        (Some(expected), None) => Err(VerifyError::Short {
            end: head,
            expected,
        }),
        (Some(_) | None, _) => Ok(Verified { pruned, head, torn }),
    }
}

/// Copies a trail that may be appended to meanwhile, but for what is being written; says how many
/// bytes.
///
/// # Errors
/// [`TrailError`]: part of it may have been copied.
pub(crate) fn copy(
    from_disk: &dyn Disk,
    from: &Path,
    disk: &dyn Disk,
    into: &Path,
) -> Result<u64, TrailError> {
    let (source, dir) = (from.join(AUDIT), into.join(AUDIT));
    let files = segments(from_disk, &source).map_err(TrailError::io("list", &source))?;
    if files.is_empty() {
        return Ok(0);
    }
    disk.create_dir(&dir)
        .map_err(TrailError::io("create", &dir))?;
    let mut copied = 0;
    for (first, file) in &files {
        let (content, bytes) = match sound(from_disk, *first, file) {
            Ok(sound) => sound,
            // Removed by the bound since it was listed.
            Err(TrailError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && copied == 0 =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let name = segment_path(&dir, *first);
        let write = || {
            let out = disk.create(&name)?;
            out.write_all_at(0, content.get(..bytes).unwrap_or_default())?;
            out.sync_data()
        };
        write().map_err(TrailError::io("write", &name))?;
        copied += bytes as u64;
    }
    disk.sync_dir(&dir)
        .and_then(|()| disk.sync_dir(into))
        .map_err(TrailError::io("sync", &dir))?;
    Ok(copied)
}

/// A file that may be appended to meanwhile, and how much of it verifies: all, if it is damaged.
fn sound(disk: &dyn Disk, first: u64, file: &Path) -> Result<(Vec<u8>, usize), TrailError> {
    let mut tries = 0;
    loop {
        let content = read_file(disk, file).map_err(TrailError::io("read", file))?;
        match scan(file, &content, (first, None), true, &mut |_, _, _| {}) {
            Ok(scan) => return Ok((content, scan.bytes)),
            // A frame may have been read half written, and one behind it whole.
            Err(TrailError::Damaged { .. }) if tries < 3 => tries += 1,
            // What is damaged is evidence, too.
            Err(TrailError::Damaged { .. }) => {
                let bytes = content.len();
                return Ok((content, bytes));
            }
            Err(error) => return Err(error),
        }
    }
}
