//! The ledger: what the outside did, in a file that no engine writes, synced line by line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use orlop::{Attempt, RemoteKey};

/// What the outside did, or saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It wrote.
    Put,
    /// It removed.
    Remove,
    /// It only saw a fence.
    See,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) deed: Deed,
    pub(crate) key: String,
    /// Incarnation and attempt of the fence.
    pub(crate) fence: (u64, u32),
    pub(crate) name: String,
}

/// See the module. Clones are the same ledger.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    file: File,
    lines: Vec<Line>,
}

/// What is known of one remote key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) puts: u32,
    pub(crate) removes: u32,
    /// The fence of the last write, which is its output.
    pub(crate) put_by: (u64, u32),
    newest: (u64, u32),
}

impl Line {
    fn text(&self) -> String {
        let deed = match self.deed {
            Deed::Put => "put",
            Deed::Remove => "remove",
            Deed::See => "see",
        };
        let (incarnation, attempt) = self.fence;
        format!(
            "{deed} {} {incarnation} {attempt} {}\n",
            self.key, self.name
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        let deed = match words.next()? {
            "put" => Deed::Put,
            "remove" => Deed::Remove,
            "see" => Deed::See,
            _ => return None,
        };
        let key = words.next()?.to_owned();
        let fence = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let name = words.next()?.to_owned();
        Some(Self {
            deed,
            key,
            fence,
            name,
        })
    }
}

fn known(lines: &[Line]) -> BTreeMap<String, Known> {
    let mut keys: BTreeMap<String, Known> = BTreeMap::new();
    for line in lines {
        let known = keys.entry(line.key.clone()).or_default();
        known.newest = known.newest.max(line.fence);
        known.name.clone_from(&line.name);
        match line.deed {
            Deed::Put => {
                known.puts += 1;
                known.put_by = line.fence;
            }
            Deed::Remove => known.removes += 1,
            Deed::See => {}
        }
    }
    keys
}

impl Ledger {
    /// Opens the ledger of a folder. A line that was cut off did not happen.
    pub(crate) fn open(folder: &Path) -> Self {
        let path = folder.join("outside.ledger");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text[..whole]
            .lines()
            .map(|line| Line::parse(line).unwrap_or_else(|| panic!("{line:?} is no line")))
            .collect();
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path).unwrap();
        file.set_len(whole as u64).unwrap();
        Self(Arc::new(Mutex::new(Open { file, lines })))
    }

    /// Does something unless a newer fence has been seen, and says what is known then.
    pub(crate) fn act(
        &self,
        key: RemoteKey,
        attempt: &Attempt,
        name: &str,
        decide: impl FnOnce(&Known) -> Deed,
    ) -> Option<Known> {
        let mut open = self.0.lock().unwrap();
        let key = key.to_string();
        let fence = (attempt.fence.incarnation.get(), attempt.fence.attempt.get());
        let before = known(&open.lines).remove(&key).unwrap_or_default();
        if fence < before.newest {
            return None;
        }
        let line = Line {
            deed: decide(&before),
            key: key.clone(),
            fence,
            name: name.to_owned(),
        };
        open.file.write_all(line.text().as_bytes()).unwrap();
        open.file.sync_data().unwrap();
        open.lines.push(line);
        known(&open.lines).remove(&key)
    }

    /// Everything, by remote key.
    pub(crate) fn known(&self) -> BTreeMap<String, Known> {
        known(&self.0.lock().unwrap().lines)
    }
}
