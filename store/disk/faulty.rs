//! A disk in front of another one that fails when it is told to, and watches how its users take it.
//!
//! Where [`SimDisk`](super::SimDisk) decides what is left after the power went, this one works on
//! any disk, the operating system's too: an operation that is to fail is not passed on, but for
//! the first half of a short write.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::sim::{Fault, failed};
use super::{Disk, DiskFile, Failure, Occurrence, Operation};

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    operations: u64,
    failures: u64,
    files: u64,
    names: HashMap<PathBuf, u64>,
    /// Files a sync of which has failed, and the names they had then.
    unsynced: HashMap<u64, PathBuf>,
    resynced: HashSet<PathBuf>,
}

impl State {
    fn begin(&mut self, operation: Operation) -> io::Result<()> {
        match self.meets(operation) {
            Some(failure) => Err(failed(failure)),
            None => Ok(()),
        }
    }

    fn meets(&mut self, operation: Operation) -> Option<Failure> {
        self.operations += 1;
        let mut failure = None;
        for fault in &mut self.faults {
            failure = failure.or(fault.meets(operation));
        }
        self.failures += u64::from(failure.is_some());
        failure
    }

    /// The file that has this name, known from now on.
    fn file(&mut self, path: &Path) -> u64 {
        let next = self.files + 1;
        let file = *self.names.entry(path.to_path_buf()).or_insert(next);
        self.files = self.files.max(file);
        file
    }
}

/// A disk that can be made to fail. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

impl FaultyDisk {
    /// In front of `inner`; nothing fails yet.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Makes operations fail; `None` counts operations of every kind. A failed operation does
    /// nothing, but for [`Failure::Short`], which writes the first half.
    pub fn fail(&self, operation: Option<Operation>, occurrence: Occurrence, failure: Failure) {
        let fault = Fault::new(operation, occurrence, failure);
        self.state.lock().faults.push(fault);
    }

    /// Forgets every planned fault.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Forgets which syncs have failed: whoever uses the disk from now on is somebody else, who
    /// believes nothing that was written before.
    pub fn change_hands(&self) {
        self.state.lock().unsynced.clear();
    }

    /// How many operations were begun.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// How many operations were made to fail.
    pub fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    /// Files that were synced again after a sync of them had failed, by the names they had when it
    /// did: whoever does that believes pages that are nowhere but in the cache.
    pub fn resynced(&self) -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> = self.state.lock().resynced.iter().cloned().collect();
        names.sort();
        names
    }

    fn handle(&self, path: &Path, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let file = self.state.lock().file(path);
        Box::new(FaultyFile {
            disk: self.clone(),
            path: path.to_path_buf(),
            file,
            inner,
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.state.lock().begin(Operation::Create)?;
        let inner = self.inner.create(path)?;
        self.state.lock().names.remove(path);
        Ok(self.handle(path, inner))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.state.lock().begin(Operation::Open)?;
        let inner = self.inner.open(path)?;
        Ok(self.handle(path, inner))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.lock().begin(Operation::Rename)?;
        self.inner.rename(from, to)?;
        let mut state = self.state.lock();
        if let Some(file) = state.names.remove(from) {
            state.names.insert(to.to_path_buf(), file);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state.lock().begin(Operation::Remove)?;
        self.inner.remove(path)?;
        self.state.lock().names.remove(path);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.state.lock().begin(Operation::Look)?;
        self.inner.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.state.lock().begin(Operation::Look)?;
        self.inner.exists(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.state.lock().begin(Operation::CreateDir)?;
        self.inner.create_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state.lock().begin(Operation::SyncDir)?;
        self.inner.sync_dir(dir)
    }
}

/// One open file of a faulty disk.
#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: u64,
    inner: Box<dyn DiskFile>,
}

impl FaultyFile {
    fn begin(&self, operation: Operation) -> io::Result<()> {
        self.disk.state.lock().begin(operation)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.begin(Operation::Read)?;
        self.inner.read_at(offset, into)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let met = self.disk.state.lock().meets(Operation::Write);
        let Some(failure) = met else {
            return self.inner.write_all_at(offset, bytes);
        };
        if failure == Failure::Short {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            self.inner.write_all_at(offset, half)?;
        }
        Err(failed(failure))
    }

    fn len(&self) -> io::Result<u64> {
        self.begin(Operation::Look)?;
        self.inner.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.begin(Operation::SetLen)?;
        self.inner.set_len(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.begin(Operation::Preallocate)?;
        self.inner.preallocate(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = {
            let mut state = self.disk.state.lock();
            if let Some(name) = state.unsynced.get(&self.file).cloned() {
                state.resynced.insert(name);
            }
            state.begin(Operation::Sync)
        };
        let synced = begun.and_then(|()| self.inner.sync_data());
        if synced.is_err() {
            let mut state = self.disk.state.lock();
            state.unsynced.insert(self.file, self.path.clone());
        }
        synced
    }
}
