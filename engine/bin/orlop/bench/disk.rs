//! The disk alone: what a write and its `fdatasync` take in a file that was filled before.
//!
//! The limit of everything durable. The file lies where stores are measured, is preallocated and
//! zero-filled as the journal's segments are, and is written from its beginning to its end again
//! and again, on whole pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::BenchError;

const FILE_BYTES: u64 = 64 << 20;
/// What a journal's frame is padded to.
const PAGE_BYTES: usize = 4096;

/// A file of its own.
pub(crate) struct Disk {
    file: File,
    at: u64,
    bytes: Vec<u8>,
}

impl Disk {
    /// Makes the file in a folder.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self, BenchError> {
        Self::made(&folder.join(name)).map_err(BenchError::Disk)
    }

    fn made(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self {
            file,
            at: 0,
            bytes: Vec::new(),
        })
    }

    /// Writes so many bytes, rounded up to whole pages, and syncs them.
    pub(crate) fn write(&mut self, bytes: usize) -> Result<(), BenchError> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        self.bytes.resize(bytes, 0x5a);
        if self.at + bytes as u64 > FILE_BYTES {
            self.at = 0;
        }
        let written = self.file.write_all_at(&self.bytes, self.at);
        written
            .and_then(|()| self.file.sync_data())
            .map_err(BenchError::Disk)?;
        self.at += bytes as u64;
        Ok(())
    }
}

/// Has another file written and synced all along, as somebody else's journal would be.
pub(crate) fn disturbed<T>(
    folder: &Path,
    pause: Duration,
    work: impl FnOnce() -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    let mut other = Disk::new(folder, "other")?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                other.write(64 << 10)?;
                thread::park_timeout(pause);
            }
            Ok(())
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        match disturbing.join() {
            Ok(Ok(())) => done,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BenchError::NothingRan),
        }
    })
}
