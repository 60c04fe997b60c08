//! The platter: what a disk holds while changes are made to it, and what it may hold after its
//! power was lost.
//!
//! The model: what was synced is kept. Of a file, each page of 4 KiB that was written since is, for
//! itself, as it was after any of the writes, or torn: its first sectors of 512 B are new. The
//! length is any that the file had. A name that was made, moved or removed since its folder was
//! synced is kept or not; that of a folder is its parent's. A file's sync is no sync of its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tape::{Event, Node};

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const SECTORS: usize = PAGE / SECTOR;

type Page = Arc<[u8; PAGE]>;
type Names = BTreeMap<(Node, String), Node>;

/// A disk with a store on it.
pub(crate) struct Platter {
    files: HashMap<Node, Content>,
    /// Names that a loss of power keeps.
    names: Names,
    /// Changes of names since, in order.
    changes: Vec<Change>,
    zeros: Page,
}

/// What one file has been since it was synced.
#[derive(Default)]
struct Content {
    /// Each page after each write to it, the durable one first.
    pages: BTreeMap<u64, Vec<Page>>,
    /// Each length, the durable one first.
    lengths: Vec<u64>,
    /// Pages with more than one version.
    dirty: BTreeSet<u64>,
}

#[derive(Clone)]
enum Change {
    Made {
        at: (Node, String),
        node: Node,
    },
    Moved {
        from: (Node, String),
        to: (Node, String),
        node: Node,
    },
    Removed {
        at: (Node, String),
    },
}

/// What of the changes that were not synced a loss of power keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Nothing,
    Everything,
    /// So many of a hundred, each for itself.
    Some(u8),
}

impl Keeps {
    fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u8(0..10) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Some(10),
            3 => Self::Some(90),
            _ => Self::Some(50),
        }
    }

    fn one(self, random: &mut fastrand::Rng) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some(percent) => random.u8(0..100) < percent,
        }
    }
}

/// A disk whose power was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// Folders, parents first.
    folders: Vec<(Node, Node, String)>,
    files: Vec<ImageFile>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ImageFile {
    node: Node,
    folder: Node,
    name: String,
    bytes: u64,
    pages: Vec<(u64, Page)>,
}

impl Platter {
    pub(crate) fn new() -> Self {
        Self {
            files: HashMap::new(),
            names: BTreeMap::new(),
            changes: Vec::new(),
            zeros: Arc::new([0; PAGE]),
        }
    }

    /// Makes one change.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::CreatedFile { folder, name, node } => {
                let fresh = Content {
                    lengths: vec![0],
                    ..Content::default()
                };
                self.files.insert(*node, fresh);
                let at = (*folder, name.clone());
                self.changes.push(Change::Made { at, node: *node });
            }
            Event::CreatedFolder { folder, name, node } | Event::Linked { folder, name, node } => {
                let at = (*folder, name.clone());
                self.changes.push(Change::Made { at, node: *node });
            }
            Event::Renamed { from, to, node } => self.changes.push(Change::Moved {
                from: from.clone(),
                to: to.clone(),
                node: *node,
            }),
            Event::Removed { folder, name } => {
                let at = (*folder, name.clone());
                self.changes.push(Change::Removed { at });
            }
            Event::Wrote { node, offset, data } => self.write(*node, *offset, data),
            Event::WroteZeros {
                node,
                offset,
                bytes,
            } => {
                let zeros = vec![0; usize::try_from(*bytes).unwrap_or_default()];
                self.write(*node, *offset, &zeros);
            }
            Event::SetLength { node, bytes } => self.set_length(*node, *bytes),
            Event::Synced { node } => self.sync(*node),
            Event::Settled => self.settle(),
            Event::Said(_) | Event::Outside(_) => {}
        }
    }

    fn write(&mut self, node: Node, offset: u64, data: &[u8]) {
        let Some(file) = self.files.get_mut(&node) else {
            return;
        };
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let start = usize::try_from(at % PAGE as u64).unwrap_or_default();
            let (now, later) = rest.split_at(rest.len().min(PAGE - start));
            file.change(at / PAGE as u64, &self.zeros, |page| {
                if let Some(part) = page.get_mut(start..start + now.len()) {
                    part.copy_from_slice(now);
                }
            });
            at += now.len() as u64;
            rest = later;
        }
        if at > file.length() {
            file.lengths.push(at);
        }
    }

    fn set_length(&mut self, node: Node, bytes: u64) {
        let Some(file) = self.files.get_mut(&node) else {
            return;
        };
        // What is cut off and grown again is zeros.
        let kept = usize::try_from(bytes % PAGE as u64).unwrap_or_default();
        let cut: Vec<u64> = file
            .pages
            .range(bytes / PAGE as u64..)
            .map(|(at, _)| *at)
            .collect();
        for at in cut {
            let from = if at == bytes / PAGE as u64 { kept } else { 0 };
            file.change(at, &self.zeros, |page| {
                page.get_mut(from..).unwrap_or_default().fill(0);
            });
        }
        file.lengths.push(bytes);
    }

    fn sync(&mut self, node: Node) {
        if let Some(file) = self.files.get_mut(&node) {
            file.settle();
            return;
        }
        for change in std::mem::take(&mut self.changes) {
            if change.is_in(node) {
                change.apply(&mut self.names);
            } else {
                self.changes.push(change);
            }
        }
    }

    fn settle(&mut self) {
        self.files.values_mut().for_each(Content::settle);
        for change in std::mem::take(&mut self.changes) {
            change.apply(&mut self.names);
        }
    }

    /// What a loss of power leaves.
    pub(crate) fn cut(&self, random: &mut fastrand::Rng) -> Image {
        let (names, pages) = (Keeps::draw(random), Keeps::draw(random));
        let mut kept = self.names.clone();
        // In order up to some point, as a journal of names keeps them, or each for itself.
        let ordered = random.bool();
        let until = random.usize(0..=self.changes.len());
        for (at, change) in self.changes.iter().enumerate() {
            let keeps = match names {
                Keeps::Some(_) if ordered => at < until,
                Keeps::Some(_) | Keeps::Nothing | Keeps::Everything => names.one(random),
            };
            if keeps {
                change.apply(&mut kept);
            }
        }
        let mut image = Image::default();
        self.gather(0, &kept, pages, random, &mut image);
        image
    }

    fn gather(
        &self,
        folder: Node,
        names: &Names,
        keeps: Keeps,
        random: &mut fastrand::Rng,
        image: &mut Image,
    ) {
        let inside = names.range((folder, String::new())..(folder + 1, String::new()));
        for ((_, name), node) in inside {
            if let Some(file) = self.files.get(node) {
                let (bytes, pages) = file.cut(keeps, &self.zeros, random);
                image.files.push(ImageFile {
                    node: *node,
                    folder,
                    name: name.clone(),
                    bytes,
                    pages,
                });
            } else {
                image.folders.push((*node, folder, name.clone()));
                self.gather(*node, names, keeps, random, image);
            }
        }
    }
}

impl Content {
    fn length(&self) -> u64 {
        self.lengths.last().copied().unwrap_or_default()
    }

    fn change(&mut self, at: u64, zeros: &Page, change: impl FnOnce(&mut [u8; PAGE])) {
        let versions = self
            .pages
            .entry(at)
            .or_insert_with(|| vec![Arc::clone(zeros)]);
        let mut page = versions.last().map_or([0; PAGE], |page| **page);
        change(&mut page);
        versions.push(Arc::new(page));
        self.dirty.insert(at);
    }

    fn settle(&mut self) {
        for at in std::mem::take(&mut self.dirty) {
            if let Some(versions) = self.pages.get_mut(&at) {
                versions.drain(..versions.len().saturating_sub(1));
            }
        }
        self.lengths.drain(..self.lengths.len().saturating_sub(1));
    }

    fn cut(
        &self,
        keeps: Keeps,
        zeros: &Page,
        random: &mut fastrand::Rng,
    ) -> (u64, Vec<(u64, Page)>) {
        let lengths = self.lengths.len().saturating_sub(1);
        let at = match keeps {
            Keeps::Nothing => 0,
            Keeps::Everything => lengths,
            Keeps::Some(_) => random.usize(0..=lengths),
        };
        let bytes = self.lengths.get(at).copied().unwrap_or_default();
        let mut pages = Vec::with_capacity(self.pages.len());
        for (at, versions) in &self.pages {
            if at.saturating_mul(PAGE as u64) >= bytes {
                break;
            }
            let page = pick(versions, keeps, random).unwrap_or_else(|| Arc::clone(zeros));
            pages.push((*at, page));
        }
        (bytes, pages)
    }
}

/// One page as a loss of power may leave it.
fn pick(versions: &[Page], keeps: Keeps, random: &mut fastrand::Rng) -> Option<Page> {
    let last = versions.len().checked_sub(1)?;
    if last == 0 || !keeps.one(random) {
        return versions.first().cloned();
    }
    let at = match keeps {
        Keeps::Everything => last,
        Keeps::Nothing | Keeps::Some(_) => random.usize(1..=last),
    };
    let page = versions.get(at)?;
    if keeps == Keeps::Everything || random.u8(0..6) > 0 {
        return Some(Arc::clone(page));
    }
    let before = versions.get(at - 1)?;
    let new = random.usize(1..SECTORS) * SECTOR;
    let mut torn = **before;
    torn.get_mut(..new)?.copy_from_slice(page.get(..new)?);
    Some(Arc::new(torn))
}

impl Change {
    fn is_in(&self, node: Node) -> bool {
        match self {
            Self::Made { at, .. } | Self::Removed { at } => at.0 == node,
            Self::Moved { from, to, .. } => from.0 == node || to.0 == node,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Made { at, node } => {
                names.insert(at.clone(), *node);
            }
            Self::Moved { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
            Self::Removed { at } => {
                names.remove(at);
            }
        }
    }
}

impl Image {
    /// Writes it to an empty folder.
    pub(crate) fn write(&self, root: &Path) -> io::Result<()> {
        let mut paths: HashMap<Node, PathBuf> = HashMap::from([(0, root.to_owned())]);
        for (node, folder, name) in &self.folders {
            let path = paths.get(folder).map(|folder| folder.join(name));
            let path = path.unwrap_or_else(|| root.join(name));
            std::fs::create_dir(&path)?;
            paths.insert(*node, path);
        }
        for file in &self.files {
            let Some(folder) = paths.get(&file.folder) else {
                continue;
            };
            let opened = File::create(folder.join(&file.name))?;
            opened.set_len(file.bytes)?;
            for (at, page) in &file.pages {
                let offset = at * PAGE as u64;
                let bytes = usize::try_from(file.bytes - offset)
                    .unwrap_or(PAGE)
                    .min(PAGE);
                let part = page.get(..bytes).unwrap_or_default();
                if part.iter().any(|byte| *byte != 0) {
                    opened.write_all_at(part, offset)?;
                }
            }
        }
        Ok(())
    }

    /// The changes that make it.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (node, folder, name) in &self.folders {
            events.push(Event::CreatedFolder {
                folder: *folder,
                name: name.clone(),
                node: *node,
            });
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let (folder, name, node) = (file.folder, file.name.clone(), file.node);
            if !seen.insert(node) {
                events.push(Event::Linked { folder, name, node });
                continue;
            }
            events.push(Event::CreatedFile { folder, name, node });
            for (at, page) in &file.pages {
                if page.iter().all(|byte| *byte == 0) {
                    continue;
                }
                let offset = at * PAGE as u64;
                let data = page.to_vec();
                events.push(Event::Wrote { node, offset, data });
            }
            let bytes = file.bytes;
            events.push(Event::SetLength { node, bytes });
        }
        events.push(Event::Settled);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(name: &str, node: Node) -> Event {
        Event::CreatedFile {
            folder: 0,
            name: name.to_owned(),
            node,
        }
    }

    fn wrote(node: Node, byte: u8, bytes: usize) -> Event {
        Event::Wrote {
            node,
            offset: 0,
            data: vec![byte; bytes],
        }
    }

    fn platter(events: &[Event]) -> Platter {
        let mut platter = Platter::new();
        for event in events {
            platter.apply(event);
        }
        platter
    }

    /// What the files hold in each of many images.
    fn images(events: &[Event]) -> BTreeSet<Vec<(String, Vec<u8>)>> {
        let platter = platter(events);
        let mut random = fastrand::Rng::with_seed(1);
        let mut found = BTreeSet::new();
        for _ in 0..600 {
            let folder = tempfile::tempdir().unwrap();
            platter.cut(&mut random).write(folder.path()).unwrap();
            let mut files = Vec::new();
            for entry in std::fs::read_dir(folder.path()).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                files.push((name, std::fs::read(entry.path()).unwrap()));
            }
            files.sort();
            found.insert(files);
        }
        found
    }

    fn only(name: &str, content: Vec<u8>) -> BTreeSet<Vec<(String, Vec<u8>)>> {
        BTreeSet::from([vec![(name.to_owned(), content)]])
    }

    #[test]
    fn what_was_synced_with_its_folder_is_kept_in_every_image() {
        let synced = [
            created("a", 1),
            wrote(1, 7, 5000),
            Event::Synced { node: 1 },
            Event::Synced { node: 0 },
        ];
        assert_eq!(images(&synced), only("a", vec![7; 5000]));
    }

    #[test]
    fn a_name_whose_folder_was_not_synced_is_in_some_images_only() {
        let found = images(&[created("a", 1), wrote(1, 7, 10), Event::Synced { node: 1 }]);
        let kept = vec![("a".to_owned(), vec![7; 10])];
        assert_eq!(found, BTreeSet::from([Vec::new(), kept]));
    }

    #[test]
    fn a_page_that_was_not_synced_is_old_new_or_torn_at_a_sector() {
        let written = [
            created("a", 1),
            wrote(1, 1, PAGE),
            Event::Settled,
            wrote(1, 2, PAGE),
        ];
        let mut found: BTreeSet<usize> = BTreeSet::new();
        for image in images(&written) {
            let content = &image[0].1;
            let new = content.iter().take_while(|byte| **byte == 2).count();
            assert_eq!(content[new..], vec![1; PAGE - new]);
            assert_eq!(content.len(), PAGE);
            found.insert(new);
        }
        let expected: BTreeSet<usize> = (0..=SECTORS).map(|sectors| sectors * SECTOR).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pages_of_one_write_are_kept_each_for_itself() {
        let written = [created("a", 1), Event::Settled, wrote(1, 2, 2 * PAGE)];
        let whole = |image: &Vec<(String, Vec<u8>)>| {
            let content = &image[0].1;
            (content.len() == 2 * PAGE).then(|| {
                let pages = content.chunks(PAGE);
                pages
                    .map(|page| page.iter().all(|byte| *byte == 2))
                    .collect()
            })
        };
        let found: BTreeSet<Vec<bool>> = images(&written).iter().filter_map(whole).collect();
        let all = [[false, false], [false, true], [true, false], [true, true]];
        assert_eq!(found, all.map(Vec::from).into());
    }

    #[test]
    fn a_rename_that_was_not_synced_leaves_the_old_name_or_the_new_one() {
        let renamed = [
            created("old", 1),
            wrote(1, 1, 10),
            created("new", 2),
            wrote(2, 2, 10),
            Event::Settled,
            Event::Renamed {
                from: (0, "old".to_owned()),
                to: (0, "new".to_owned()),
                node: 1,
            },
        ];
        let before = vec![
            ("new".to_owned(), vec![2; 10]),
            ("old".to_owned(), vec![1; 10]),
        ];
        let after = vec![("new".to_owned(), vec![1; 10])];
        assert_eq!(images(&renamed), BTreeSet::from([before, after]));
    }

    #[test]
    fn the_events_of_an_image_make_the_same_image() {
        let written = [
            created("a", 1),
            wrote(1, 3, 9000),
            Event::CreatedFolder {
                folder: 0,
                name: "b".to_owned(),
                node: 2,
            },
            Event::Settled,
            wrote(1, 4, 5000),
        ];
        let image = platter(&written).cut(&mut fastrand::Rng::with_seed(3));
        let again = platter(&image.events()).cut(&mut fastrand::Rng::with_seed(4));
        let folder = tempfile::tempdir().unwrap();
        let content = |image: &Image, name: &str| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            image.write(&folder).unwrap();
            assert!(folder.join("b").is_dir());
            std::fs::read(folder.join("a")).unwrap()
        };
        assert_eq!(content(&image, "one"), content(&again, "two"));
    }
}
