//! The folder of the trees: `CURRENT` names one of `tree-N`; `damaged-N` were set aside.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use orlop_saga::id::StoreId;

use crate::sealed;
use crate::tables::home::{Expected, OpenTablesError, TablesHome};
use crate::tables::sled::closed;
use crate::tables::sled::files::sync_path;
use crate::tables::sled::{SledOptions, SledTables};
use crate::tables::{Tables, TablesError, TablesSize};

pub(super) const CURRENT: &str = "CURRENT";
const CURRENT_NEW: &str = "CURRENT.new";
const CURRENT_KIND: sealed::Kind = sealed::Kind {
    magic: *b"orlopCUR",
    version: 1,
};
const TREE: &str = "tree-";
const DAMAGED: &str = "damaged-";
/// Steady churn settles at 3.4 times the live bytes.
const BLOATED_FACTOR: u64 = 4;

/// The trees of one store, in one folder.
#[derive(Debug)]
pub struct SledHome {
    folder: PathBuf,
    options: SledOptions,
    store: StoreId,
    current: Option<u64>,
    fresh: Option<u64>,
    damaged: bool,
}

impl SledHome {
    /// The trees in `folder`, which is created by the first fresh tree. The caller holds the
    /// store's lock.
    pub fn new(folder: impl Into<PathBuf>, options: SledOptions, store: StoreId) -> Self {
        Self {
            folder: folder.into(),
            options,
            store,
            current: None,
            fresh: None,
            damaged: false,
        }
    }

    fn tree(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{TREE}{number:016x}"))
    }

    /// The numbers of the folders whose name starts with `prefix`, in order.
    fn numbers(&self, prefix: &str) -> Result<Vec<u64>, TablesError> {
        let mut numbers = Vec::new();
        for entry in
            std::fs::read_dir(&self.folder).map_err(|e| TablesError::io("list trees", &e))?
        {
            let entry = entry.map_err(|e| TablesError::io("list trees", &e))?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix))
                .and_then(|digits| u64::from_str_radix(digits, 16).ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The number that `CURRENT` has.
    fn read_current(&self) -> Result<u64, OpenTablesError> {
        let missing = |reason: String| OpenTablesError::Missing { reason };
        let bytes = match std::fs::read(self.folder.join(CURRENT)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing("no file `CURRENT`".into()));
            }
            Err(e) => return Err(OpenTablesError::Failed(TablesError::io("read CURRENT", &e))),
        };
        let body = sealed::unseal(CURRENT_KIND, &bytes)
            .map_err(|e| missing(format!("`CURRENT` cannot be used: {e}")))?;
        let number = body
            .try_into()
            .map_err(|_| missing("`CURRENT` names no tree".into()))?;
        Ok(u64::from_le_bytes(number))
    }

    fn write_current(&self, number: u64) -> Result<(), TablesError> {
        let bytes = sealed::seal(CURRENT_KIND, &number.to_le_bytes());
        let new = self.folder.join(CURRENT_NEW);
        File::create(&new)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, self.folder.join(CURRENT)))
            .map_err(|e| TablesError::io("write CURRENT", &e))?;
        sync_path(&self.folder)
    }

    /// Renames a tree aside and forgets the oldest ones set aside.
    fn quarantine(&self, tree: &Path) -> Result<(), TablesError> {
        let damaged = self.numbers(DAMAGED)?;
        let number = damaged.last().map_or(1, |last| last.saturating_add(1));
        let aside = self.folder.join(format!("{DAMAGED}{number:016x}"));
        std::fs::rename(tree, &aside).map_err(|e| TablesError::io("set tree aside", &e))?;
        let keep = usize::try_from(self.options.quarantined_max).unwrap_or(usize::MAX);
        let drop = damaged.len().saturating_add(1).saturating_sub(keep);
        for number in self.numbers(DAMAGED)?.into_iter().take(drop) {
            remove_tree(&self.folder.join(format!("{DAMAGED}{number:016x}")))?;
        }
        Ok(())
    }

    /// Clears away every tree but the current one: set aside if they may be what was lost.
    fn clear(&self, keep: u64, aside: bool) -> Result<(), TablesError> {
        for number in self.numbers(TREE)? {
            let tree = self.tree(number);
            if number == keep {
                continue;
            }
            if aside {
                self.quarantine(&tree)?;
            } else {
                remove_tree(&tree)?;
            }
        }
        sync_path(&self.folder)
    }
}

impl TablesHome for SledHome {
    fn open(&mut self, expected: Expected) -> Result<Box<dyn Tables>, OpenTablesError> {
        // Until a tree is open, whatever is in the folder is only ever set aside.
        self.damaged = true;
        self.current = None;
        if !self.folder.is_dir() {
            return Err(OpenTablesError::Missing {
                reason: "the folder is missing".into(),
            });
        }
        let number = self.read_current()?;
        let path = self.tree(number);
        if !path.is_dir() {
            return Err(OpenTablesError::Missing {
                reason: format!("{} is missing", path.display()),
            });
        }
        let tables = SledTables::open(&path, self.options, self.store)?;
        if tables.applied() < expected.applied_min {
            return Err(OpenTablesError::Damaged {
                reason: format!(
                    "the tables went back to lsn {}, the checkpoint had them at {}",
                    tables.applied(),
                    expected.applied_min
                ),
            });
        }
        self.clear(number, false)?;
        self.current = Some(number);
        self.damaged = false;
        Ok(Box::new(tables))
    }

    fn fresh(&mut self) -> Result<Box<dyn Tables>, TablesError> {
        std::fs::create_dir_all(&self.folder).map_err(|e| TablesError::io("create folder", &e))?;
        if let Some(parent) = self.folder.parent() {
            sync_path(parent)?;
        }
        self.discard()?;
        let number = self
            .numbers(TREE)?
            .last()
            .map_or(1, |last| last.saturating_add(1));
        let tables = SledTables::create(&self.tree(number), self.options, self.store)?;
        self.fresh = Some(number);
        sync_path(&self.folder)?;
        Ok(Box::new(tables))
    }

    fn promote(&mut self) -> Result<(), TablesError> {
        let Some(number) = self.fresh.take() else {
            return Err(TablesError::damaged("there is no fresh tree to promote"));
        };
        self.write_current(number)?;
        self.current = Some(number);
        let aside = std::mem::replace(&mut self.damaged, false);
        self.clear(number, aside)
    }

    fn discard(&mut self) -> Result<(), TablesError> {
        match self.fresh.take() {
            Some(number) => remove_tree(&self.tree(number)),
            None => Ok(()),
        }
    }

    fn distrust(&mut self) {
        let removed = std::fs::remove_file(self.folder.join(CURRENT)).map_err(|e| e.to_string());
        let synced = sync_path(&self.folder).map_err(|e| e.to_string());
        if let Err(error) = removed.and(synced) {
            tracing::warn!(%error, "a tree that failed may be opened again");
        }
    }

    fn is_bloated(&self, size: TablesSize) -> bool {
        let bound = size.live_bytes.saturating_mul(BLOATED_FACTOR);
        size.file_bytes > bound.max(self.options.bloated_bytes_min)
    }
}

/// The folder of the current tree. Nothing is changed.
///
/// # Errors
/// [`OpenTablesError`]: there is none, or it cannot be told.
pub(crate) fn current_tree(folder: &Path) -> Result<PathBuf, OpenTablesError> {
    let home = SledHome::new(folder, SledOptions::default(), StoreId::new([0; 16]));
    let tree = home.tree(home.read_current()?);
    if tree.is_dir() {
        return Ok(tree);
    }
    Err(OpenTablesError::Missing {
        reason: format!("{} is missing", tree.display()),
    })
}

fn remove_tree(path: &Path) -> Result<(), TablesError> {
    closed::forget(path)?;
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(TablesError::io("remove tree", &e)),
    }
}
