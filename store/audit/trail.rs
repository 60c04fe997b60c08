//! The trail, open for appending.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_saga::audit::{AuditEntry, AuditEvent, ChainHead};
use orlop_saga::id::StoreId;

use super::frame;
use super::verify::{scan, segment_path, segments};
use super::{AUDIT, TrailError};
use crate::checkpoint::read_file;
use crate::disk::{Disk, DiskFile};
use crate::folder::Folder;

/// Bounds of a trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrailOptions {
    /// How large a file gets before the next one is begun, in bytes.
    pub segment_bytes: u64,
    /// How many bytes are kept before the oldest file is removed; the newest is always kept.
    pub retained_bytes_max: u64,
}

impl Default for TrailOptions {
    /// Files of 1 MiB, 64 MiB in all.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 20,
            retained_bytes_max: 64 << 20,
        }
    }
}

#[derive(Debug)]
struct Segment {
    first: ChainHead,
    path: PathBuf,
    bytes: u64,
}

#[derive(Debug)]
struct Active {
    file: Box<dyn DiskFile>,
    segment: Segment,
}

/// A trail, open for appending. Nothing is created before the first entry.
#[derive(Debug)]
pub struct Trail {
    disk: Arc<dyn Disk>,
    store: PathBuf,
    dir: PathBuf,
    options: TrailOptions,
    head: ChainHead,
    sealed: VecDeque<Segment>,
    active: Option<Active>,
    failed: bool,
    /// The lock of the folder, given back by whoever lets go of it last.
    hold: Option<Arc<Folder>>,
}

impl Trail {
    /// Opens the trail of a store: makes durable what it finds of the newest file, and cuts what
    /// was never finished there.
    ///
    /// # Errors
    /// [`TrailError`]: nothing that was acknowledged was changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        store: StoreId,
        options: TrailOptions,
    ) -> Result<Self, TrailError> {
        let mut trail = Self {
            disk,
            store: folder.to_path_buf(),
            dir: folder.join(AUDIT),
            options,
            head: ChainHead::genesis(store),
            sealed: VecDeque::new(),
            active: None,
            failed: false,
            hold: None,
        };
        trail.find()?;
        Ok(trail)
    }

    pub(crate) fn holding(mut self, hold: Option<Arc<Folder>>) -> Self {
        self.hold = hold;
        self
    }

    fn find(&mut self) -> Result<(), TrailError> {
        let dir = self.dir.clone();
        let files = segments(&*self.disk, &dir).map_err(TrailError::io("list", &dir))?;
        let mut before = files
            .first()
            .is_none_or(|(first, _)| *first == 0)
            .then_some(self.head);
        for (index, (first, path)) in files.iter().enumerate() {
            let content = read_file(&*self.disk, path).map_err(TrailError::io("read", path))?;
            let is_last = index + 1 == files.len();
            let found = scan(path, &content, (*first, before), is_last, &mut |_, _, _| {})?;
            let Some((begins, ends)) = found.ends else {
                if index == 0 && *first > 0 {
                    return Err(TrailError::Damaged {
                        file: path.clone(),
                        offset: 0,
                        what: "nothing is left of the trail",
                    });
                }
                // The first frame of a new file never ended.
                self.disk
                    .remove(path)
                    .and_then(|()| self.disk.sync_dir(&dir))
                    .map_err(TrailError::io("remove", path))?;
                break;
            };
            let segment = Segment {
                first: begins,
                path: path.clone(),
                bytes: found.bytes as u64,
            };
            (before, self.head) = (Some(ends), ends);
            if is_last {
                let bytes = content.get(..found.bytes).unwrap_or_default();
                let file = self.renew(path, bytes)?;
                self.active = Some(Active { file, segment });
            } else {
                self.sealed.push_back(segment);
            }
        }
        Ok(())
    }

    /// Writes a file anew under its name. What was found may be in the page cache alone: syncing
    /// it there would prove nothing after a sync that failed.
    fn renew(&self, path: &Path, bytes: &[u8]) -> Result<Box<dyn DiskFile>, TrailError> {
        let new = path.with_extension("new");
        let write = || {
            if self.disk.exists(&new)? {
                self.disk.remove(&new)?;
            }
            let file = self.disk.create(&new)?;
            file.write_all_at(0, bytes)?;
            file.sync_data()?;
            self.disk.rename(&new, path)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        write().map_err(TrailError::io("renew", path))
    }

    /// The place after its last entry.
    pub fn head(&self) -> ChainHead {
        self.head
    }

    /// Bytes that it has on the disk.
    pub fn bytes(&self) -> u64 {
        let active = self
            .active
            .as_ref()
            .map_or(0, |active| active.segment.bytes);
        self.sealed
            .iter()
            .map(|segment| segment.bytes)
            .sum::<u64>()
            .saturating_add(active)
    }

    /// Appends entries; they are durable once this returns. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`TrailError`]: some of the entries may be durable; nothing more is appended.
    pub fn append(&mut self, entries: &[AuditEntry]) -> Result<ChainHead, TrailError> {
        if self.failed {
            return Err(TrailError::Failed);
        }
        let appended = self.append_all(entries);
        self.failed = appended.is_err();
        appended.map(|()| self.head)
    }

    fn append_all(&mut self, entries: &[AuditEntry]) -> Result<(), TrailError> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let mut encoded: Vec<Vec<u8>> = entries.iter().map(AuditEntry::encode).collect();
        let mut pruned = Vec::new();
        if self.is_full() {
            pruned = self.rotate();
            if let Some(through) = self.first_kept(&pruned) {
                let entry = AuditEntry {
                    event: AuditEvent::Pruned { through },
                    ..first.clone()
                };
                encoded.insert(0, entry.encode());
            }
        }
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let (bytes, after, taken) = frame::seal(self.head, rest);
            self.write(&bytes)?;
            self.head = after;
            rest = rest.get(taken..).unwrap_or_default();
        }
        // Only once the entry that says so is durable.
        self.remove(&pruned)
    }

    fn is_full(&self) -> bool {
        let bytes = self.active.as_ref().map(|active| active.segment.bytes);
        bytes.is_some_and(|bytes| bytes >= self.options.segment_bytes)
    }

    /// Ends the active file; gives those that are beyond the bound.
    fn rotate(&mut self) -> Vec<Segment> {
        let full = self.active.take().map(|active| active.segment);
        self.sealed.extend(full);
        let mut pruned = Vec::new();
        while self.bytes() > self.options.retained_bytes_max && self.sealed.len() > 1 {
            pruned.extend(self.sealed.pop_front());
        }
        pruned
    }

    fn first_kept(&self, pruned: &[Segment]) -> Option<ChainHead> {
        if pruned.is_empty() {
            return None;
        }
        self.sealed.front().map(|segment| segment.first)
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), TrailError> {
        let active = match self.active.take() {
            Some(active) => active,
            None => self.begin()?,
        };
        let active = self.active.insert(active);
        let segment = &mut active.segment;
        active
            .file
            .write_all_at(segment.bytes, frame)
            .and_then(|()| active.file.sync_data())
            .map_err(TrailError::io("write", &segment.path))?;
        segment.bytes += frame.len() as u64;
        Ok(())
    }

    fn begin(&self) -> Result<Active, TrailError> {
        let path = segment_path(&self.dir, self.head.entries);
        let create = || {
            if !self.disk.exists(&self.dir)? {
                self.disk.create_dir(&self.dir)?;
                self.disk.sync_dir(&self.store)?;
            }
            let file = self.disk.create(&path)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        let file = create().map_err(TrailError::io("create", &path))?;
        let first = self.head;
        let segment = Segment {
            first,
            path,
            bytes: 0,
        };
        Ok(Active { file, segment })
    }

    fn remove(&self, segments: &[Segment]) -> Result<(), TrailError> {
        for segment in segments {
            self.disk
                .remove(&segment.path)
                .map_err(TrailError::io("remove", &segment.path))?;
        }
        if segments.is_empty() {
            return Ok(());
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(TrailError::io("sync", &self.dir))
    }
}
