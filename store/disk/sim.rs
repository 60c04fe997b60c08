//! A disk in memory that loses what a real one may lose, and fails when it is told to.
//!
//! A crash is two steps: the power goes (every later operation fails), then [`SimDisk::crash`]
//! draws, from a seed, one of the images that the medium may be left with: each unsynced page is
//! old, new or torn by sectors (with noise in some), each unsynced name change happened or not.
//! Without `crash` the same disk models a process that died: what it wrote is still in the cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::sim_image::{Image, Node};
use super::{Disk, DiskFile};

/// What an operation is, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Disk::create`].
    Create,
    /// [`Disk::open`].
    Open,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::list`], [`Disk::exists`] and [`DiskFile::len`].
    Look,
    /// [`Disk::create_dir`].
    CreateDir,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_all_at`].
    Write,
    /// [`DiskFile::set_len`].
    SetLen,
    /// [`DiskFile::preallocate`].
    Preallocate,
    /// [`DiskFile::sync_data`].
    Sync,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// `EIO`. A sync leaves the state of its pages unknown; anything else does nothing.
    Device,
    /// `ENOSPC`; else like `Device`.
    NoSpace,
    /// `EIO` after the first half of a write; like `Device` for what is not a write.
    Short,
}

/// Which operations a fault meets. Counted from 0, since the fault was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occurrence {
    /// Only this one.
    Only(u64),
    /// This one and all after it.
    From(u64),
}

/// A planned failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// `None` for every kind.
    operation: Option<Operation>,
    occurrence: Occurrence,
    failure: Failure,
    seen: u64,
}

impl Fault {
    pub(super) fn new(
        operation: Option<Operation>,
        occurrence: Occurrence,
        failure: Failure,
    ) -> Self {
        Self {
            operation,
            occurrence,
            failure,
            seen: 0,
        }
    }

    /// Counts an operation; says how it is to fail, if it is.
    pub(super) fn meets(&mut self, operation: Operation) -> Option<Failure> {
        if self.operation.is_some_and(|only| only != operation) {
            return None;
        }
        let index = self.seen;
        self.seen += 1;
        let met = match self.occurrence {
            Occurrence::Only(nth) => index == nth,
            Occurrence::From(nth) => index >= nth,
        };
        met.then_some(self.failure)
    }
}

#[derive(Debug, Default)]
struct State {
    image: Image,
    faults: Vec<Fault>,
    operations: u64,
    power_off_at: Option<u64>,
}

/// How far an operation gets.
enum Progress {
    Whole,
    Failed(Failure),
    /// It takes effect, in the cache, and then the power is gone.
    PowerGoes,
}

impl State {
    fn begin(&mut self, operation: Operation) -> io::Result<Progress> {
        let index = self.operations;
        self.operations += 1;
        if let Some(at) = self.power_off_at {
            if index > at {
                return Err(no_power());
            }
            if index == at {
                return Ok(Progress::PowerGoes);
            }
        }
        let mut failure = None;
        for fault in &mut self.faults {
            failure = failure.or(fault.meets(operation));
        }
        Ok(failure.map_or(Progress::Whole, Progress::Failed))
    }

    /// For what has no effect on the image when it fails.
    fn run<T>(
        &mut self,
        operation: Operation,
        effect: impl FnOnce(&mut Image) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.begin(operation)? {
            Progress::Whole => effect(&mut self.image),
            Progress::Failed(failure) => Err(failed(failure)),
            Progress::PowerGoes => {
                effect(&mut self.image)?;
                Err(no_power())
            }
        }
    }
}

/// What the system says of such a failure.
pub(super) fn failed(failure: Failure) -> io::Error {
    match failure {
        Failure::Device | Failure::Short => Errno::IO.into(),
        Failure::NoSpace => Errno::NOSPC.into(),
    }
}

fn no_power() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn parent_of(path: &Path) -> io::Result<PathBuf> {
    path.parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn folder(image: &Image, dir: &Path) -> io::Result<()> {
    if dir.parent().is_none() || image.names.get(dir) == Some(&Node::Dir) {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk with one folder, `/`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes operations fail; `None` counts operations of every kind.
    pub fn fail(&self, operation: Option<Operation>, occurrence: Occurrence, failure: Failure) {
        let fault = Fault::new(operation, occurrence, failure);
        self.0.lock().faults.push(fault);
    }

    /// Forgets every planned fault. What they did to unsynced pages stays.
    pub fn heal(&self) {
        self.0.lock().faults.clear();
    }

    /// How many operations were begun.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Lets `operations` more operations pass. The one after takes effect in the cache only and
    /// fails, and so does everything later: its caller never learns what became of it.
    pub fn power_off_after(&self, operations: u64) {
        let mut state = self.0.lock();
        state.power_off_at = Some(state.operations + operations);
    }

    /// A disk of its own, with power, as a crash now may leave it: one draw for each seed.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let image = self.0.lock().image.survivor(&mut rng);
        Self(Arc::new(Mutex::new(State {
            image,
            ..State::default()
        })))
    }

    /// Changes one byte of a file behind everyone's back, in the cache and on the medium.
    ///
    /// # Errors
    /// `NotFound` if there is no such file or byte.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.0.lock();
        let image = &mut state.image;
        let Some(Node::File(inode)) = image.names.get(path).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let file = image.inodes.get_mut(&inode);
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::NotFound)?;
        let byte = file
            .cached
            .get(at)
            .copied()
            .ok_or(io::ErrorKind::NotFound)?;
        file.write(at, &[byte ^ mask]);
        file.sync();
        Ok(())
    }

    fn handle(&self, inode: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            inode,
        })
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let dir = parent_of(path)?;
        let inode = self.0.lock().run(Operation::Create, |image| {
            folder(image, &dir)?;
            if image.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(image.link(&dir, path, false))
        })?;
        Ok(self.handle(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self
            .0
            .lock()
            .run(Operation::Open, |image| match image.names.get(path) {
                Some(Node::File(inode)) => Ok(*inode),
                Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            })?;
        Ok(self.handle(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let dir = parent_of(to)?;
        if parent_of(from)? != dir {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.0.lock().run(Operation::Rename, |image| {
            match image.names.get(from).copied() {
                Some(node @ Node::File(_)) => {
                    image.rename(&dir, from, to, node);
                    Ok(())
                }
                Some(Node::Dir) => Err(io::ErrorKind::Unsupported.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let dir = parent_of(path)?;
        self.0
            .lock()
            .run(Operation::Remove, |image| match image.names.get(path) {
                Some(Node::File(_)) => {
                    image.unlink(&dir, path);
                    Ok(())
                }
                Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.lock().run(Operation::Look, |image| {
            folder(image, dir)?;
            let inside = image.names.keys();
            Ok(inside
                .filter(|path| path.parent() == Some(dir))
                .cloned()
                .collect())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0
            .lock()
            .run(Operation::Look, |image| Ok(image.names.contains_key(path)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let dir = parent_of(path)?;
        self.0.lock().run(Operation::CreateDir, |image| {
            folder(image, &dir)?;
            if image.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            image.link(&dir, path, true);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.begin(Operation::SyncDir)? {
            Progress::Whole => {
                folder(&state.image, dir)?;
                state.image.sync_dir(dir);
                Ok(())
            }
            Progress::Failed(failure) => {
                state.image.fail_sync_dir(dir);
                Err(failed(failure))
            }
            // Which of the changes arrive is for the crash to draw.
            Progress::PowerGoes => Err(no_power()),
        }
    }
}

/// One open file of a simulated disk.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl SimFile {
    fn run<T>(
        &self,
        operation: Operation,
        effect: impl FnOnce(&mut super::sim_image::Inode) -> T,
    ) -> io::Result<T> {
        self.disk.0.lock().run(operation, |image| {
            let file = image.inodes.get_mut(&self.inode);
            Ok(effect(file.ok_or(io::ErrorKind::NotFound)?))
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let at = index(offset)?;
        self.run(Operation::Read, |file| {
            let found = file.cached.get(at..).unwrap_or_default();
            let read = found.len().min(into.len());
            if let (Some(into), Some(found)) = (into.get_mut(..read), found.get(..read)) {
                into.copy_from_slice(found);
            }
            read
        })
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = index(offset)?;
        let mut state = self.disk.0.lock();
        let progress = state.begin(Operation::Write)?;
        let file = state.image.inodes.get_mut(&self.inode);
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        match progress {
            Progress::Whole => {
                file.write(at, bytes);
                Ok(())
            }
            Progress::Failed(failure) => {
                if failure == Failure::Short {
                    file.write(at, bytes.get(..bytes.len() / 2).unwrap_or_default());
                }
                Err(failed(failure))
            }
            Progress::PowerGoes => {
                file.write(at, bytes);
                Err(no_power())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.run(Operation::Look, |file| file.cached.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let length = index(bytes)?;
        self.run(Operation::SetLen, |file| file.set_len(length))
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let length = index(bytes)?;
        self.run(Operation::Preallocate, |file| {
            file.write(0, &vec![0; length]);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let progress = state.begin(Operation::Sync)?;
        let file = state.image.inodes.get_mut(&self.inode);
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        match progress {
            Progress::Whole => {
                file.sync();
                Ok(())
            }
            Progress::Failed(failure) => {
                file.fail_sync();
                Err(failed(failure))
            }
            // Which of the pages arrive is for the crash to draw.
            Progress::PowerGoes => Err(no_power()),
        }
    }
}
