//! sled's files: syncing what sled itself only hands to the page cache.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::tables::TablesError;

/// The files of one tree, and which of them need no further sync.
#[derive(Debug)]
pub(super) struct SledFiles {
    folder: PathBuf,
    /// Open for as long as the tree: a failed write-back is reported to descriptors that were
    /// open when it happened.
    db: File,
    /// Names that were synced once and are never written again: `conf`, snapshots, blobs.
    synced: HashSet<OsString>,
}

impl SledFiles {
    pub(super) fn open(folder: &Path) -> Result<Self, TablesError> {
        let db = File::open(folder.join("db")).map_err(|e| TablesError::io("open db", &e))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            db,
            synced: HashSet::new(),
        })
    }

    /// Syncs everything sled has written, and the folders that name it.
    pub(super) fn sync(&mut self) -> Result<(), TablesError> {
        let blobs = self.folder.join("blobs");
        for folder in [blobs, self.folder.clone()] {
            let mut named = false;
            let entries =
                std::fs::read_dir(&folder).map_err(|e| TablesError::io("list folder", &e))?;
            for entry in entries {
                let entry = entry.map_err(|e| TablesError::io("list folder", &e))?;
                let name = entry.file_name();
                let written_once = entry.path().is_file() && name != "db";
                if written_once && !self.synced.contains(&name) {
                    sync_path(&entry.path())?;
                    self.synced.insert(name);
                    named = true;
                }
            }
            if named {
                sync_path(&folder)?;
            }
        }
        self.db
            .sync_data()
            .map_err(|e| TablesError::io("sync db", &e))
    }
}

/// Syncs a file or a folder by its path.
pub(super) fn sync_path(path: &Path) -> Result<(), TablesError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| TablesError::io("sync", &e))
}

/// Removes snapshots that sled had not finished: it would take one for a damaged snapshot, at
/// every open. The caller holds the store's lock, so nobody is writing one.
pub(super) fn remove_generating(folder: &Path) -> Result<(), TablesError> {
    let entries = std::fs::read_dir(folder).map_err(|e| TablesError::io("list folder", &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| TablesError::io("list folder", &e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())
                .map_err(|e| TablesError::io("remove unfinished snapshot", &e))?;
        }
    }
    Ok(())
}
