//! What a tree's files were when it was closed, for hosts in which a panic cannot be caught.
//!
//! sled panics on most damage while it opens. Where panics unwind that is caught; a host built
//! with `panic = "abort"` would die of it, at every start. There a tree is opened only if every
//! file is, byte for byte, what a close in good order left; any other is rebuilt.
//!
//! The file `tree-N.closed` beside the tree names each file with its length and digest. It is
//! removed, durably, before the tree is opened.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::sync_path;
use super::{LOCK_PAUSE, LOCK_TRIES_MAX};
use crate::sealed;
use crate::tables::TablesError;

const KIND: sealed::Kind = sealed::Kind {
    magic: *b"orlopCLO",
    version: 1,
};

/// A file's name in the tree, its length and its digest.
type Entry = (String, u64, [u8; 32]);

/// The file that says how `tree` was closed.
pub(super) fn path_of(tree: &Path) -> PathBuf {
    tree.with_extension("closed")
}

/// Records what the files of a tree are, now that it is closed.
pub(super) fn record(tree: &Path) -> Result<(), TablesError> {
    wait_until_let_go(tree);
    let write = || -> io::Result<()> {
        let body = postcard::to_stdvec(&entries(tree)?).map_err(io::Error::other)?;
        let name = path_of(tree);
        let new = tree.with_extension("closing");
        let mut file = File::create(&new)?;
        file.write_all(&sealed::seal(KIND, &body))?;
        file.sync_all()?;
        std::fs::rename(&new, &name)
    };
    write().map_err(|e| TablesError::io("record a close", &e))?;
    tree.parent().map_or(Ok(()), sync_path)
}

/// Compares the files of a tree with what they were when it was closed.
///
/// # Errors
/// [`TablesError::Damaged`]: it was not closed in good order, or was changed since.
pub(super) fn check(tree: &Path) -> Result<(), TablesError> {
    let bytes = match std::fs::read(path_of(tree)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(TablesError::damaged(
                "the tree was not closed in good order, and here a panic cannot be caught",
            ));
        }
        Err(e) => return Err(TablesError::io("read how the tree was closed", &e)),
    };
    let changed = || TablesError::damaged("the tree was changed since it was closed");
    let body = sealed::unseal(KIND, &bytes).map_err(|_| changed())?;
    let recorded: Vec<Entry> = postcard::from_bytes(body).map_err(|_| changed())?;
    let found = entries(tree).map_err(|e| TablesError::io("read the tree", &e))?;
    if recorded == found {
        Ok(())
    } else {
        Err(changed())
    }
}

/// Removes the record, durably: from now on the tree changes.
pub(super) fn forget(tree: &Path) -> Result<(), TablesError> {
    match std::fs::remove_file(path_of(tree)) {
        Ok(()) => tree.parent().map_or(Ok(()), sync_path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(TablesError::io("forget how the tree was closed", &e)),
    }
}

/// sled's threads may write a little longer than the tree lives; they hold its lock for as long.
fn wait_until_let_go(tree: &Path) {
    for _ in 0..LOCK_TRIES_MAX {
        let locked = File::open(tree.join("db")).map(|db| db.try_lock().is_ok());
        if locked.unwrap_or(true) {
            return;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Every file of a tree, in the order of their names.
fn entries(tree: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for folder in [tree.to_path_buf(), tree.join("blobs")] {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if !path.is_file() {
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            let length = io::copy(&mut File::open(&path)?, &mut hasher)?;
            let name = path.strip_prefix(tree).unwrap_or(&path);
            let name = name.to_string_lossy().into_owned();
            entries.push((name, length, *hasher.finalize().as_bytes()));
        }
    }
    entries.sort();
    Ok(entries)
}
