//! The ledger: what the remote has done, appended and synced line by line by the remote itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use orlop::Digest;

use crate::Problem;
use crate::plan::hex;

/// What the remote did, or is about to do, to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It begins to create it.
    Begin,
    /// It has created it.
    Created,
    /// It has not created it.
    NotCreated,
    /// It has put something else in its place.
    Replaced,
    /// It holds a request back, on purpose, before doing anything.
    HeldBefore,
    /// It holds an answer back, on purpose.
    HeldAfter,
}

impl Deed {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Begin, "begin"),
        (Self::Created, "created"),
        (Self::NotCreated, "not-created"),
        (Self::Replaced, "replaced"),
        (Self::HeldBefore, "held-before"),
        (Self::HeldAfter, "held-after"),
    ];

    fn read(word: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(_, text)| *text == word);
        known.map(|(deed, _)| *deed)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(deed, _)| deed == self);
        f.write_str(known.map_or("", |(_, word)| word))
    }
}

/// One line of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) deed: Deed,
    /// The digest of the content, in hex.
    pub(crate) digest: String,
    pub(crate) object: String,
}

impl Entry {
    pub(crate) fn new(deed: Deed, content: &[u8], object: &str) -> Self {
        Self {
            deed,
            digest: hex(Digest::of(content).as_bytes()),
            object: object.to_owned(),
        }
    }
}

/// The ledger, open for appending.
pub(crate) struct Ledger(File);

impl Ledger {
    /// Opens it, and says of what was begun and not ended how it ended.
    pub(crate) fn open(path: &Path, remote: &Path) -> Result<Self, Problem> {
        let mut begun: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in read(path)? {
            match entry.deed {
                Deed::Begin => {
                    begun.insert(entry.object.clone(), entry);
                }
                Deed::Created | Deed::NotCreated => {
                    begun.remove(&entry.object);
                }
                Deed::Replaced | Deed::HeldBefore | Deed::HeldAfter => {}
            }
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        // What a kill cut off is no entry.
        if std::fs::read(path)?
            .last()
            .is_some_and(|last| *last != b'\n')
        {
            file.write_all(b"\n")?;
        }
        let mut ledger = Self(file);
        for (object, entry) in begun {
            let deed = if remote.join(&object).exists() {
                Deed::Created
            } else {
                Deed::NotCreated
            };
            ledger.append(&Entry { deed, ..entry })?;
        }
        Ok(ledger)
    }

    /// Appends an entry; it is durable once this returns.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let Entry {
            deed,
            digest,
            object,
        } = entry;
        self.0
            .write_all(format!("{deed} {digest} {object}\n").as_bytes())?;
        self.0.sync_data()
    }
}

/// Every entry that was written to its end.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split_inclusive('\n');
    let whole = lines.filter_map(|line| line.strip_suffix('\n'));
    Ok(whole.filter_map(read_line).collect())
}

fn read_line(line: &str) -> Option<Entry> {
    let (word, rest) = line.split_once(' ')?;
    let (digest, object) = rest.split_once(' ')?;
    Some(Entry {
        deed: Deed::read(word)?,
        digest: digest.to_owned(),
        object: object.to_owned(),
    })
}
