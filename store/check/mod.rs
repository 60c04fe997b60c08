//! Checks: everything in the folder of a closed store is read and compared, nothing is changed.
//!
//! Every frame, record, checkpoint, export, row and blob is verified. The journal is folded from
//! the oldest checkpoint or export that it still reaches, the fold is compared with the others,
//! and what it finished must be in the tables. The tables are opened on a copy, since opening sled
//! writes.
//!
//! What cannot be told: damage to the very last group of a journal that was not closed cleanly looks
//! like a write that never finished, and a bit in space that sled does not use changes nothing.
//!
//! Absent: a check of a store that is open. Back it up; the backup is read back.

mod fold;
mod report;
mod tables;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use orlop_saga::id::StoreId;
use orlop_saga::time::WallMillis;

use self::fold::Snapshot;
pub use self::report::{Finding, Report};
use crate::audit::{self, AUDIT, TrailError, VerifyError};
use crate::checkpoint;
use crate::disk::{Disk, ReadOnlyDisk};
use crate::folder::{self, FORMAT, LOCK, LOG, TABLES};
use crate::log::{Fault, Inspection};
use crate::projector::exports;
use crate::tables::export::read_export;

const OF_JOURNAL: &str = "restore the store from a backup";
const OF_CHECKPOINT: &str = "open the store: it goes on from the other one or from an export";
const OF_TRAIL: &str =
    "keep the folder as evidence and move it away: until then nothing more is added to the trail";
const OF_EXPORT: &str =
    "open the store and back it up: an export is needed once the tables are lost";

/// How a store is checked.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// In which folder the tables are copied, to be opened there; the copy is removed.
    pub scratch: PathBuf,
    /// The most findings that are kept.
    pub findings_max: usize,
    /// The time now: what expired before it may be gone.
    pub now: WallMillis,
}

/// Why a store was not checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// There is nothing that is a store's. Correct the path.
    #[error("{path} is not a store: it has neither FORMAT nor a journal")]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// It is open. Close it, or back it up and check the backup.
    #[error("{path} is open; close it, or back it up: a backup is read back")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused. Correct the cause.
    #[error("{operation} failed in {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Checks the closed store in a folder.
///
/// # Errors
/// [`CheckError`]: it was not looked at. That something is wrong is no error but a finding.
pub fn check(path: &Path, options: &CheckOptions) -> Result<Report, CheckError> {
    let disk = ReadOnlyDisk;
    let there = |name: &str| disk.exists(&path.join(name)).unwrap_or(false);
    if !there(FORMAT) && !there(LOG) {
        return Err(CheckError::NotAStore {
            path: path.to_path_buf(),
        });
    }
    let _lock = lock(path)?;
    let mut check = Check {
        disk: &disk,
        path,
        options,
        report: Report::default(),
    };
    check.run();
    Ok(check.report)
}

/// Keeps openers out without writing, where there is a file to lock.
fn lock(path: &Path) -> Result<Option<File>, CheckError> {
    let Ok(file) = File::open(path.join(LOCK)) else {
        return Ok(None);
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(CheckError::Locked {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(CheckError::Io {
            operation: "lock",
            path: path.to_path_buf(),
            source,
        }),
    }
}

struct Check<'a> {
    disk: &'a dyn Disk,
    path: &'a Path,
    options: &'a CheckOptions,
    report: Report,
}

impl Check<'_> {
    fn run(&mut self) {
        let store = self.format();
        self.report.store = store;
        let mut faults: Vec<Fault> = Vec::new();
        let mut more = 0_u64;
        let max = self.options.findings_max;
        let inspected = Inspection {
            disk: self.disk,
            store,
            fault: &mut |fault| {
                if faults.len() < max {
                    faults.push(fault);
                } else {
                    more += 1;
                }
            },
            seen: &mut |_| {},
        }
        .run(&self.path.join(LOG));
        for fault in faults {
            self.find(fault.file, Some(fault.offset), fault.what, OF_JOURNAL);
        }
        self.report.more += more;
        self.report.segments = inspected.segments;
        self.report.frames = inspected.frames;
        self.report.torn = inspected.torn;
        self.report.last = inspected.last.unwrap_or_default();
        let Some(store) = store else {
            return;
        };
        self.trail(store);
        let mut snapshots = self.checkpoints(store);
        let newest = snapshots.iter().map(|snapshot| snapshot.live.lsn()).max();
        snapshots.extend(self.exports(store));
        let tables = self.tables(store, newest, inspected.last);
        self.fold(&inspected, snapshots, tables);
    }

    fn find(
        &mut self,
        file: impl Into<PathBuf>,
        offset: Option<u64>,
        what: impl Into<String>,
        advice: &'static str,
    ) {
        if self.report.findings.len() >= self.options.findings_max {
            self.report.more += 1;
            return;
        }
        self.report.findings.push(Finding {
            file: file.into(),
            offset,
            what: what.into(),
            advice,
        });
    }

    /// Whose store it is and what it is written in.
    fn format(&mut self) -> Option<StoreId> {
        match folder::read_format(self.path) {
            Ok((store, format)) => {
                self.report.format = Some(format);
                Some(store)
            }
            Err(error) => {
                self.find(self.path.join(FORMAT), None, error.to_string(), OF_JOURNAL);
                None
            }
        }
    }

    fn trail(&mut self, store: StoreId) {
        let folder = self.path.join(AUDIT);
        match audit::verify(self.disk, self.path, store, None, &mut |_, _| {}) {
            Ok(trail) if self.disk.exists(&folder).unwrap_or(false) => {
                self.report.audit_head = Some(trail.head);
            }
            Ok(_) => {}
            Err(VerifyError::Trail(TrailError::Damaged { file, offset, what })) => {
                self.find(file, Some(offset), what, OF_TRAIL);
            }
            Err(error) => self.find(folder, None, error.to_string(), OF_TRAIL),
        }
    }

    fn checkpoints(&mut self, store: StoreId) -> Vec<Snapshot> {
        let files = match checkpoint::list(self.disk, self.path) {
            Ok(files) => files,
            Err(error) => {
                self.find(self.path, None, error.to_string(), OF_CHECKPOINT);
                return Vec::new();
            }
        };
        let mut snapshots = Vec::new();
        for (lsn, file) in files {
            match checkpoint::read(self.disk, &file, store) {
                Ok(checkpoint) if checkpoint.live.lsn() == lsn => {
                    self.report.checkpoints += 1;
                    snapshots.push(Snapshot {
                        file,
                        live: checkpoint.live,
                        advice: OF_CHECKPOINT,
                    });
                }
                Ok(_) => self.find(file, None, "its name has another lsn", OF_CHECKPOINT),
                Err(what) => self.find(file, None, what, OF_CHECKPOINT),
            }
        }
        snapshots
    }

    fn exports(&mut self, store: StoreId) -> Vec<Snapshot> {
        let files = match exports(self.disk, self.path) {
            Ok(files) => files,
            Err(error) => {
                self.find(self.path, None, error.to_string(), OF_EXPORT);
                return Vec::new();
            }
        };
        let mut snapshots = Vec::new();
        for (lsn, file) in files {
            match read_export(self.disk, &file, store, &mut |_| Ok(())) {
                Ok(end) if end.lsn == lsn && end.live.lsn() == lsn => {
                    self.report.exports += 1;
                    snapshots.push(Snapshot {
                        file,
                        live: end.live,
                        advice: OF_EXPORT,
                    });
                }
                Ok(_) => self.find(file, None, "its name has another lsn", OF_EXPORT),
                Err(error) => self.find(file, None, error.to_string(), OF_EXPORT),
            }
        }
        snapshots
    }

    fn tables_folder(&self) -> PathBuf {
        self.path.join(TABLES)
    }
}
