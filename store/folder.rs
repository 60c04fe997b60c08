//! The folder of a store: whose it is, in which format, and who has it open.
//!
//! | name | what |
//! | --- | --- |
//! | `FORMAT` | magic, format version, store id, checksum; written last when a store is created |
//! | `FORMAT.new` | a creation or an upgrade that has not ended |
//! | `LOCK` | locked while the store is open; names the holder |
//! | `log/`, `tables/`, `checkpoint-*`, `export-*` | the store itself |
//!
//! Invariants
//! - One opener at a time: the lock keeps other processes out, the registry this one, and the
//!   process id a forked child.
//! - A folder with anything else in it and no `FORMAT` is never written to.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use orlop_saga::compat::Format;
use orlop_saga::id::StoreId;
use orlop_saga::time::WallMillis;
use parking_lot::Mutex;

use crate::sealed::{self, UnsealError};

pub(crate) const FORMAT: &str = "FORMAT";
pub(crate) const FORMAT_NEW: &str = "FORMAT.new";
pub(crate) const LOCK: &str = "LOCK";
pub(crate) const LOG: &str = "log";
pub(crate) const TABLES: &str = "tables";
const KIND: sealed::Kind = kind(Format::NEWEST);

/// The version of the file `FORMAT` is the format of the store.
const fn kind(format: Format) -> sealed::Kind {
    sealed::Kind {
        magic: *b"orlopFMT",
        version: format.number() as u32,
    }
}

/// The folders open in this process, by canonical path, with the process that opened them.
static OPEN: Mutex<Option<HashMap<PathBuf, u32>>> = Mutex::new(None);

/// Who has a store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// When it opened the store.
    pub since: WallMillis,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} since {} ms", self.pid, self.since.get())
    }
}

/// Why a folder was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// There is no such folder. Create the store, or correct the path.
    #[error("{path} does not exist")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path is a file. Correct it.
    #[error("{path} is not a folder")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The folder has files and no `FORMAT`. Correct the path, or use an empty folder.
    #[error(
        "{path} is not a store: it has {entry} and no FORMAT; nothing was changed; give an empty folder"
    )]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        entry: String,
    },
    /// A newer version of the library created it. Open it with that version.
    #[error(
        "{path} has format {format}, this version reads up to {format_max}; nothing was changed; open it with the version that wrote it"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The newest that is read here.
        format_max: u32,
    },
    /// `FORMAT` is not what was written. Restore it from a backup.
    #[error("FORMAT of {path} cannot be used: {source}")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: UnsealError,
    },
    /// Another process has it open. Wait for it to end, or end it.
    #[error("{path} is open in {}; nothing was opened; end it first", holder.map_or("another process".to_owned(), |h| h.to_string()))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who, as far as it could be read.
        holder: Option<Holder>,
    },
    /// This process has it open already. Share that store, or close it.
    #[error(
        "{path} is already open in this process; nothing was opened; share that engine, or close it first"
    )]
    OpenHere {
        /// The folder.
        path: PathBuf,
    },
    /// This process may not use it. Correct its owner or mode.
    #[error("no permission to {operation} in {path}")]
    Permission {
        /// What was attempted.
        operation: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// The disk is full. Free some space.
    #[error("no space to {operation} in {path}; free space and open again")]
    DiskFull {
        /// What was attempted.
        operation: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// The system refused otherwise.
    #[error("{operation} failed in {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl FolderError {
    fn of(path: &Path, operation: &'static str, source: io::Error) -> Self {
        let path = path.to_path_buf();
        let kind = source.kind();
        if matches!(
            kind,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
        ) {
            Self::Permission { operation, path }
        } else if matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            Self::DiskFull { operation, path }
        } else if kind == ErrorKind::NotADirectory {
            Self::NotADirectory { path }
        } else {
            Self::Io {
                operation,
                path,
                source,
            }
        }
    }
}

/// The store was opened by the process that this one was forked from. Nothing was done: its
/// threads are not here. Open another store in the child, or fork before opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store was opened by process {opened_by}, this is its child {pid}")]
pub struct Forked {
    /// The process that opened it.
    pub opened_by: u32,
    /// This one.
    pub pid: u32,
}

/// A store's folder, locked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    store: StoreId,
    format: Format,
    fresh: bool,
    lock: File,
    pid: u32,
}

impl Folder {
    /// Locks the folder of a store, or with `create` an empty one to be a store's.
    ///
    /// # Errors
    /// [`FolderError`]: it is not locked, and nothing but perhaps an empty `LOCK` was added.
    pub fn open(path: &Path, create: bool, now: WallMillis) -> Result<Self, FolderError> {
        Self::prepare(path, create)?;
        let canonical =
            std::fs::canonicalize(path).map_err(|e| FolderError::of(path, "find the folder", e))?;
        let entry = Entry::reserve(canonical)?;
        let path = entry.path();
        has_format(path, create)?;
        let mut lock = take_lock(path)?;
        // Whoever held the lock before may have created the store meanwhile.
        let (store, format, fresh) = if has_format(path, create)? {
            let (store, format) = read_format(path)?;
            // Left by an upgrade that was cut off. Should `FORMAT` ever be lost, it must not make
            // this look like a creation to be begun anew.
            remove_if_there(&path.join(FORMAT_NEW))
                .map_err(|e| FolderError::of(path, "remove FORMAT.new", e))?;
            (store, format, false)
        } else {
            (begin(path)?, Format::NEWEST, true)
        };
        let pid = std::process::id();
        write_holder(&mut lock, Holder { pid, since: now })
            .map_err(|e| FolderError::of(path, "write LOCK", e))?;
        Ok(Self {
            path: entry.keep(),
            store,
            format,
            fresh,
            lock,
            pid,
        })
    }

    /// Makes sure that there is a folder.
    fn prepare(path: &Path, create: bool) -> Result<(), FolderError> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(FolderError::NotADirectory {
                path: path.to_path_buf(),
            }),
            Err(e) if e.kind() == ErrorKind::NotFound && create => std::fs::create_dir_all(path)
                .map_err(|e| FolderError::of(path, "create the folder", e)),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(FolderError::Missing {
                path: path.to_path_buf(),
            }),
            Err(e) => Err(FolderError::of(path, "find the folder", e)),
        }
    }

    /// The canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the log.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The folder of the tables.
    pub fn tables(&self) -> PathBuf {
        self.path.join(TABLES)
    }

    /// Whose folder it is.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// What the store was written in when it was opened.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Moves the store on to the newest format: an older version cannot open it from then on.
    ///
    /// # Errors
    /// [`FolderError`]: it is in one of the two formats.
    pub fn upgrade(&self) -> Result<(), FolderError> {
        if self.format == Format::NEWEST {
            return Ok(());
        }
        let write = || {
            write_new(&self.path, self.store)?;
            std::fs::rename(self.path.join(FORMAT_NEW), self.path.join(FORMAT))?;
            sync_folder(&self.path)
        };
        write().map_err(|e| FolderError::of(&self.path, "upgrade FORMAT", e))
    }

    /// Whether a store is being created in it.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Ends the creation: from now on it is a store.
    ///
    /// # Errors
    /// [`FolderError`]: it is created anew at the next open.
    pub fn finish(&self) -> Result<(), FolderError> {
        let rename = || {
            std::fs::rename(self.path.join(FORMAT_NEW), self.path.join(FORMAT))?;
            sync_folder(&self.path)?;
            self.path.parent().map_or(Ok(()), sync_folder)
        };
        rename().map_err(|e| FolderError::of(&self.path, "write FORMAT", e))
    }

    /// The process that opened it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    #[cfg(test)]
    pub(crate) fn opened_by(mut self, pid: u32) -> Self {
        self.pid = pid;
        self
    }
}

/// Refuses a process other than the one that opened the store.
pub(crate) fn check_process(opened_by: u32) -> Result<(), Forked> {
    let pid = std::process::id();
    if pid == opened_by {
        Ok(())
    } else {
        Err(Forked { opened_by, pid })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A forked child shares the lock: unlocking here would take it from the parent.
        if check_process(self.pid).is_err() {
            return;
        }
        // Closing the file unlocks it too, unless a child still has it.
        let _ = self.lock.unlock();
        if let Some(open) = OPEN.lock().as_mut() {
            open.remove(&self.path);
        }
    }
}

/// A place in the registry, given back unless kept.
struct Entry {
    path: PathBuf,
    kept: bool,
}

impl Entry {
    fn reserve(path: PathBuf) -> Result<Self, FolderError> {
        let pid = std::process::id();
        let mut open = OPEN.lock();
        let open = open.get_or_insert_default();
        // An entry of another process was inherited by a fork; the lock decides.
        if open.get(&path) == Some(&pid) {
            return Err(FolderError::OpenHere { path });
        }
        open.insert(path.clone(), pid);
        Ok(Self { path, kept: false })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.kept
            && let Some(open) = OPEN.lock().as_mut()
        {
            open.remove(&self.path);
        }
    }
}

/// Whether the folder is a store; an error if it is something else.
fn has_format(path: &Path, create: bool) -> Result<bool, FolderError> {
    let listed = |e| FolderError::of(path, "list the folder", e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(listed)? {
        names.push(entry.map_err(listed)?.file_name());
    }
    let has = |name: &str| names.iter().any(|other| other == name);
    if has(FORMAT) {
        return Ok(true);
    }
    if !create {
        return Err(FolderError::NotAStore {
            path: path.to_path_buf(),
            entry: "nothing of a store".into(),
        });
    }
    let unfinished = has(FORMAT_NEW);
    let foreign = names.iter().find(|name| {
        let of_creation = *name == LOG || *name == TABLES;
        !(*name == LOCK || *name == FORMAT_NEW || (unfinished && of_creation))
    });
    match foreign {
        None => Ok(false),
        Some(entry) => Err(FolderError::NotAStore {
            path: path.to_path_buf(),
            entry: entry.to_string_lossy().into_owned(),
        }),
    }
}

fn take_lock(path: &Path) -> Result<File, FolderError> {
    let mut lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|e| FolderError::of(path, "open LOCK", e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(FolderError::Locked {
            path: path.to_path_buf(),
            holder: read_holder(&mut lock),
        }),
        Err(TryLockError::Error(e)) => Err(FolderError::of(path, "lock LOCK", e)),
    }
}

/// Names the holder as text, so that a person can read it too.
fn write_holder(lock: &mut File, holder: Holder) -> io::Result<()> {
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{} {}", holder.pid, holder.since.get())
}

fn read_holder(lock: &mut File) -> Option<Holder> {
    let mut text = String::new();
    lock.take(128).read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    Some(Holder {
        pid: words.next()?.parse().ok()?,
        since: WallMillis::new(words.next()?.parse().ok()?),
    })
}

pub(crate) fn read_format(path: &Path) -> Result<(StoreId, Format), FolderError> {
    let damaged = |source| FolderError::Damaged {
        path: path.to_path_buf(),
        source,
    };
    let bytes =
        std::fs::read(path.join(FORMAT)).map_err(|e| FolderError::of(path, "read FORMAT", e))?;
    match sealed::unseal_versioned(KIND, &bytes) {
        Ok((version, body)) => {
            let format = u8::try_from(version).ok().and_then(Format::of_number);
            let store = body.try_into().map(StoreId::new).ok();
            store.zip(format).ok_or(damaged(UnsealError::Damaged))
        }
        Err(UnsealError::Newer {
            version,
            version_max,
        }) => Err(FolderError::Newer {
            path: path.to_path_buf(),
            format: version,
            format_max: version_max,
        }),
        Err(source @ (UnsealError::Foreign | UnsealError::Damaged)) => Err(damaged(source)),
    }
}

/// Begins the creation of a store, in place of one that did not end.
fn begin(path: &Path) -> Result<StoreId, FolderError> {
    let failed = |e| FolderError::of(path, "begin a store", e);
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| failed(io::Error::other(e.to_string())))?;
    let write = || {
        for name in [LOG, TABLES] {
            match std::fs::remove_dir_all(path.join(name)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        write_new(path, StoreId::new(id))
    };
    write().map_err(failed)?;
    Ok(StoreId::new(id))
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes what is to be `FORMAT`.
fn write_new(path: &Path, store: StoreId) -> io::Result<()> {
    let mut file = File::create(path.join(FORMAT_NEW))?;
    file.write_all(&format_bytes(store))?;
    file.sync_all()?;
    sync_folder(path)
}

/// The bytes of `FORMAT`, for a store in the newest format.
pub(crate) fn format_bytes(store: StoreId) -> Vec<u8> {
    sealed::seal(KIND, store.as_bytes())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
