//! What a simulated disk holds: per file what is cached and what may have reached the medium, per
//! name likewise, and what of it a crash leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// The unit in which unsynced bytes arrive or do not.
const PAGE: usize = 4096;
/// The unit within a torn page.
const SECTOR: usize = 512;
/// How many earlier versions of an unsynced page are remembered as possibly written.
const VERSIONS_MAX: usize = 3;

/// One file.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What a read returns.
    pub(super) cached: Vec<u8>,
    /// What the last successful syncs put on the medium.
    durable: Vec<u8>,
    /// Pages that the next successful sync writes.
    dirty: BTreeSet<usize>,
    /// Versions of a page that may or may not be on the medium: overwritten before a sync, or
    /// left by a failed one. Only rewriting the page and a successful sync settles it.
    versions: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths that may be on the medium after a failed sync.
    lengths: Vec<usize>,
    length_dirty: bool,
}

/// A page of `bytes`, zeros where it ends before.
fn page_of(bytes: &[u8], page: usize) -> Vec<u8> {
    let start = (page * PAGE).min(bytes.len());
    let end = (page * PAGE + PAGE).min(bytes.len());
    let mut copy = bytes.get(start..end).unwrap_or_default().to_vec();
    copy.resize(PAGE, 0);
    copy
}

/// Puts a page into `bytes`, which grows as needed.
fn put_page(bytes: &mut Vec<u8>, page: usize, content: &[u8]) {
    let (start, end) = (page * PAGE, page * PAGE + PAGE);
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(target) = bytes.get_mut(start..end) {
        target.copy_from_slice(content);
    }
}

impl Inode {
    pub(super) fn write(&mut self, offset: usize, content: &[u8]) {
        if content.is_empty() {
            return;
        }
        let end = offset + content.len();
        for page in offset / PAGE..end.div_ceil(PAGE) {
            self.touch(page);
        }
        if self.cached.len() < end {
            self.cached.resize(end, 0);
            self.length_dirty = true;
        }
        if let Some(target) = self.cached.get_mut(offset..end) {
            target.copy_from_slice(content);
        }
    }

    pub(super) fn set_len(&mut self, length: usize) {
        let old = self.cached.len();
        // The last page changes where it is cut; whole pages beyond follow from the length.
        for page in length.min(old) / PAGE..old.max(length).div_ceil(PAGE) {
            self.touch(page);
        }
        self.cached.resize(length, 0);
        self.length_dirty |= length != old;
    }

    fn touch(&mut self, page: usize) {
        if !self.dirty.insert(page) {
            let versions = self.versions.entry(page).or_default();
            if versions.len() < VERSIONS_MAX {
                versions.push(page_of(&self.cached, page));
            }
        }
    }

    pub(super) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            put_page(&mut self.durable, page, &page_of(&self.cached, page));
            self.versions.remove(&page);
        }
        if self.length_dirty {
            self.lengths.clear();
            self.length_dirty = false;
        }
        if self.lengths.is_empty() {
            self.durable.resize(self.cached.len(), 0);
        }
    }

    /// A sync that failed: its pages are clean now as the cache sees it, and unknown on the medium.
    pub(super) fn fail_sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            let cached = page_of(&self.cached, page);
            self.versions.entry(page).or_default().push(cached);
        }
        if self.length_dirty {
            self.lengths.push(self.cached.len());
            self.length_dirty = false;
        }
    }

    /// What the medium holds after the power went.
    fn survivor(&self, rng: &mut Rng) -> Self {
        let mut content = self.durable.clone();
        let unsettled: BTreeSet<usize> = self
            .dirty
            .iter()
            .chain(self.versions.keys())
            .copied()
            .collect();
        for page in unsettled {
            let mut choices = self.versions.get(&page).cloned().unwrap_or_default();
            choices.push(page_of(&self.durable, page));
            if self.dirty.contains(&page) {
                choices.push(page_of(&self.cached, page));
            }
            put_page(&mut content, page, &arrived(&choices, rng));
        }
        let mut lengths = self.lengths.clone();
        lengths.push(self.durable.len());
        if self.length_dirty {
            lengths.push(self.cached.len());
        }
        let length = pick(&lengths, rng).copied().unwrap_or_default();
        content.resize(length, 0);
        Self {
            cached: content.clone(),
            durable: content,
            ..Self::default()
        }
    }
}

fn pick<'a, T>(choices: &'a [T], rng: &mut Rng) -> Option<&'a T> {
    choices.get(rng.usize(..choices.len().max(1)))
}

/// A page of which one of `choices` arrived whole, or which is torn: sectors of any, some noise.
fn arrived(choices: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let whole = pick(choices, rng).cloned().unwrap_or_default();
    if rng.u8(..3) != 0 {
        return whole;
    }
    let mut torn = whole;
    for (index, sector) in torn.chunks_exact_mut(SECTOR).enumerate() {
        if rng.u8(..8) == 0 {
            rng.fill(sector);
        } else if let Some(choice) = pick(choices, rng)
            && let Some(other) = choice.get(index * SECTOR..(index + 1) * SECTOR)
        {
            sector.copy_from_slice(other);
        }
    }
    torn
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

/// A change of a folder that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn names(&self) -> [&Path; 2] {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => [path, path],
            Self::Rename(from, to, _) => [from, to],
        }
    }

    fn shares_a_name(&self, other: &Self) -> bool {
        self.names().iter().any(|name| other.names().contains(name))
    }
}

#[derive(Clone, Debug)]
struct Pending {
    dir: PathBuf,
    change: Change,
    /// A sync of the folder failed on it: only a later change of the same name settles it.
    unknown: bool,
}

/// Files and names, cached and durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending: Vec<Pending>,
    next_inode: u64,
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    match change {
        Change::Link(path, node) => {
            names.insert(path.clone(), *node);
        }
        Change::Unlink(path) => {
            names.remove(path);
        }
        Change::Rename(from, to, node) => {
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
    }
}

impl Image {
    fn change(&mut self, dir: &Path, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(Pending {
            dir: dir.to_path_buf(),
            change,
            unknown: false,
        });
    }

    pub(super) fn link(&mut self, dir: &Path, path: &Path, dir_node: bool) -> u64 {
        self.next_inode += 1;
        let inode = self.next_inode;
        let node = if dir_node {
            Node::Dir
        } else {
            self.inodes.insert(inode, Inode::default());
            Node::File(inode)
        };
        self.change(dir, Change::Link(path.to_path_buf(), node));
        inode
    }

    pub(super) fn unlink(&mut self, dir: &Path, path: &Path) {
        self.change(dir, Change::Unlink(path.to_path_buf()));
    }

    pub(super) fn rename(&mut self, dir: &Path, from: &Path, to: &Path, node: Node) {
        self.change(
            dir,
            Change::Rename(from.to_path_buf(), to.to_path_buf(), node),
        );
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let mut left: Vec<Pending> = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if pending.dir == dir && !pending.unknown {
                // What nobody knew of these names before is settled with them.
                left.retain(|older| !older.change.shares_a_name(&pending.change));
                apply(&mut self.durable_names, &pending.change);
            } else {
                left.push(pending);
            }
        }
        self.pending = left;
    }

    pub(super) fn fail_sync_dir(&mut self, dir: &Path) {
        for pending in &mut self.pending {
            // A folder is never made again, so that nothing could settle it: its creation is the
            // next sync's, as it is where folders are journaled in order.
            let is_folder = matches!(pending.change, Change::Link(_, Node::Dir));
            pending.unknown |= pending.dir == dir && !is_folder;
        }
    }

    /// What is there after the power went and came back.
    pub(super) fn survivor(&self, rng: &mut Rng) -> Self {
        let mut names = self.durable_names.clone();
        for pending in &self.pending {
            if rng.bool() {
                apply(&mut names, &pending.change);
            }
        }
        let folders: BTreeSet<PathBuf> = names
            .iter()
            .filter(|(_, node)| **node == Node::Dir)
            .map(|(path, _)| path.clone())
            .collect();
        names.retain(|path, _| {
            path.ancestors()
                .skip(1)
                .all(|above| above.parent().is_none() || folders.contains(above))
        });
        let inodes = self
            .inodes
            .iter()
            .map(|(inode, file)| (*inode, file.survivor(rng)))
            .collect();
        Self {
            inodes,
            durable_names: names.clone(),
            names,
            pending: Vec::new(),
            next_inode: self.next_inode,
        }
    }
}
