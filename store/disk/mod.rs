//! Disks: the file operations a store needs, on real files or in memory.
//!
//! The model of what survives is the page cache's, not the programmer's: written bytes may reach
//! the disk at any time, page by page, or never, until a sync says they have; names likewise, until
//! their folder is synced; and after a *failed* sync nobody knows which pages arrived, while a
//! later sync of the same pages may succeed without writing them.
//!
//! Invariants
//! - No operation retries a sync.
//! - [`SimDisk`] never gives back after a crash what was neither synced nor possibly written.

mod faulty;
mod file;
mod read_only;
mod sim;
mod sim_image;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use faulty::FaultyDisk;
pub use file::FileDisk;
pub use read_only::ReadOnlyDisk;
pub use sim::{Failure, Occurrence, Operation, SimDisk};

/// Folders and files.
///
/// Every error is the system's; nothing is retried. Names become durable by
/// [`sync_dir`](Disk::sync_dir) only.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates an empty file for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken: nothing was created or truncated.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same folder, replacing the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The paths of everything directly in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether a file or folder has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Creates a folder; its parent must exist.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable: creations, renames and removals.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Several threads may use it; offsets are explicit.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `into.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`; grows the file if need be.
    ///
    /// # Errors
    /// Any part of the bytes may have been written.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file or grows it with a hole.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes the file at least `bytes` long and writes zeros over the first `bytes` of it, so that
    /// overwriting them later needs no space and no change of metadata. Not synced.
    ///
    /// # Errors
    /// `StorageFull` as early as the file system can tell.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable (`fdatasync`).
    ///
    /// # Errors
    /// Unknown pages are durable, and a later success would prove nothing about them.
    fn sync_data(&self) -> io::Result<()>;

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            match self.read_at(at, rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    at += read as u64;
                    rest = rest.get_mut(read..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
