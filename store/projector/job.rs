//! Jobs: the long copies of all rows, done in slices between other work.
//!
//! Only one runs at a time. Ending an export reads it back, and ending a move syncs the fresh
//! tree: both hold up lookups for as long as the disk takes.

use std::path::{Path, PathBuf};

use orlop_saga::compat::Format;
use orlop_saga::id::{Incarnation, Lsn, StoreId};
use orlop_saga::live::Live;

use crate::disk::Disk;
use crate::projector::{Answer, ProjectorError};
use crate::tables::copy::RowCopy;
use crate::tables::export::{ExportEnd, ExportError, ExportWriter, read_export};
use crate::tables::{Change, Tables, TablesError, TablesHome};

const PREFIX: &str = "export-";
const NEW: &str = "export.new";
/// Bytes of rows copied before other work goes first.
const SLICE_BYTES: usize = 192 << 10;

/// A copy under way.
pub(super) enum Job {
    Export {
        copy: RowCopy,
        writer: ExportWriter,
    },
    Move {
        copy: RowCopy,
        fresh: Box<dyn Tables>,
    },
    /// An export for a backup, into a folder that is not the store's.
    Backup {
        copy: RowCopy,
        writer: ExportWriter,
        folder: PathBuf,
        answer: Answer<Exported, ProjectorError>,
    },
}

/// An export that was written for a backup.
#[derive(Clone, Debug)]
pub(crate) struct Exported {
    /// The file.
    pub(crate) file: PathBuf,
    /// Everything up to here is in it.
    pub(crate) lsn: Lsn,
    /// Its size.
    pub(crate) bytes: u64,
    /// The incarnation it was written by.
    pub(crate) incarnation: Incarnation,
}

impl Job {
    pub(super) fn export(
        disk: &dyn Disk,
        folder: &Path,
        store: StoreId,
        format: Format,
    ) -> Result<Self, ProjectorError> {
        Ok(Self::Export {
            copy: RowCopy::new(),
            writer: ExportWriter::create(disk, folder.join(NEW), store, format)?,
        })
    }

    /// The same into `folder`, for whoever waits for the answer; gives the answer back on failure.
    pub(super) fn backup(
        disk: &dyn Disk,
        folder: PathBuf,
        store: StoreId,
        format: Format,
        answer: Answer<Exported, ProjectorError>,
    ) -> Result<Self, (ProjectorError, Answer<Exported, ProjectorError>)> {
        match ExportWriter::create(disk, folder.join(NEW), store, format) {
            Ok(writer) => Ok(Self::Backup {
                copy: RowCopy::new(),
                writer,
                folder,
                answer,
            }),
            Err(error) => Err((error.into(), answer)),
        }
    }

    pub(super) fn move_rows(home: &mut dyn TablesHome) -> Result<Self, ProjectorError> {
        Ok(Self::Move {
            copy: RowCopy::new(),
            fresh: home.fresh()?,
        })
    }

    /// Copies the next slice; true once every row has been copied.
    pub(super) fn step(&mut self, tables: &mut dyn Tables) -> Result<bool, ProjectorError> {
        match self {
            Self::Export { copy, writer } | Self::Backup { copy, writer, .. } => {
                writer.changes(&copy.step(tables, SLICE_BYTES)?)?;
                Ok(copy.is_done())
            }
            Self::Move { copy, fresh } => {
                let slice = copy.step(tables, SLICE_BYTES)?;
                fresh.apply(&slice, Lsn::default())?;
                Ok(copy.is_done())
            }
        }
    }

    /// Passes on what changed in rows that were copied already.
    pub(super) fn follow(&mut self, changes: &[Change]) -> Result<(), ProjectorError> {
        match self {
            Self::Export { copy, writer } | Self::Backup { copy, writer, .. } => {
                writer.changes(&copy.passed(changes))?;
            }
            Self::Move { copy, fresh } => {
                let passed = copy.passed(changes);
                if !passed.is_empty() {
                    fresh.apply(&passed, Lsn::default())?;
                }
            }
        }
        Ok(())
    }
}

/// Ends an export of `tables`, where the fold is `live`; answers its size in bytes.
pub(super) fn end_export(
    writer: ExportWriter,
    disk: &dyn Disk,
    folder: &Path,
    store: StoreId,
    tables: &dyn Tables,
    live: &Live,
) -> Result<u64, ProjectorError> {
    let sum = tables.sum();
    let end = ExportEnd {
        lsn: tables.applied(),
        rows: sum.rows,
        bytes: sum.bytes,
        checksums: sum.checksums,
        live: live.clone(),
    };
    let bytes = writer.byte_len();
    let name = export_path(folder, end.lsn);
    writer.finish(disk, &name, store, &end)?;
    Ok(bytes)
}

/// Ends an export for a backup.
pub(super) fn end_backup(
    writer: ExportWriter,
    disk: &dyn Disk,
    folder: &Path,
    store: StoreId,
    tables: &dyn Tables,
    live: &Live,
) -> Result<Exported, ProjectorError> {
    let bytes = end_export(writer, disk, folder, store, tables, live)?;
    let lsn = tables.applied();
    Ok(Exported {
        file: export_path(folder, lsn),
        lsn,
        bytes,
        incarnation: live.incarnation(),
    })
}

/// Gives back what an export took that was given up; if that fails, the next one begins with it.
pub(super) fn remove_unfinished(disk: &dyn Disk, folder: &Path) {
    if let Err(error) = disk.remove(&folder.join(NEW))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "an export that was given up is left");
    }
}

/// Where the export at `lsn` is.
pub(crate) fn export_path(folder: &Path, lsn: Lsn) -> PathBuf {
    folder.join(format!("{PREFIX}{:016x}", lsn.get()))
}

/// Ends a move into `fresh`: it is compared with `tables`, synced, and takes their place.
pub(super) fn end_move(
    mut fresh: Box<dyn Tables>,
    tables: &mut Option<Box<dyn Tables>>,
    home: &mut dyn TablesHome,
) -> Result<(), ProjectorError> {
    let Some(old) = tables else {
        return Err(TablesError::Closed.into());
    };
    fresh.apply(&[], old.applied())?;
    if fresh.sum() != old.sum() {
        return Err(TablesError::damaged("moved rows do not match those left behind").into());
    }
    fresh.sync()?;
    if let Some(old) = tables.replace(fresh) {
        old.close()?;
    }
    home.promote()?;
    Ok(())
}

/// The exports in a folder by lsn, oldest first.
pub(crate) fn list(disk: &dyn Disk, folder: &Path) -> Result<Vec<(Lsn, PathBuf)>, ExportError> {
    let paths = disk.list(folder).map_err(|source| ExportError::Io {
        operation: "list",
        file: folder.to_path_buf(),
        source,
    })?;
    let mut exports: Vec<(Lsn, PathBuf)> = paths
        .into_iter()
        .filter_map(|path| {
            let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            Some((Lsn::new(u64::from_str_radix(digits, 16).ok()?), path))
        })
        .collect();
    exports.sort();
    Ok(exports)
}

/// Removes all but the newest `kept` exports; answers the lsn of the oldest that is left.
pub(super) fn prune(disk: &dyn Disk, folder: &Path, kept: u32) -> Result<Option<Lsn>, ExportError> {
    let mut exports = list(disk, folder)?;
    let kept = usize::try_from(kept.max(1)).unwrap_or(usize::MAX);
    while exports.len() > kept {
        let (_, file) = exports.remove(0);
        disk.remove(&file).map_err(|source| ExportError::Io {
            operation: "remove",
            file,
            source,
        })?;
    }
    Ok(exports.first().map(|(lsn, _)| *lsn))
}

/// Fills fresh tables from an export; answers the fold that belongs to them.
pub(crate) fn restore(
    disk: &dyn Disk,
    path: &Path,
    store: StoreId,
    tables: &mut dyn Tables,
) -> Result<Live, ExportError> {
    let end = read_export(disk, path, store, &mut |changes| {
        tables
            .apply(&changes, Lsn::default())
            .map_err(|e| ExportError::Refused {
                reason: e.to_string(),
            })
    })?;
    let refused = |e: TablesError| ExportError::Refused {
        reason: e.to_string(),
    };
    tables.apply(&[], end.lsn).map_err(refused)?;
    if tables.sum() == end.sum() && end.live.lsn() == end.lsn {
        Ok(end.live)
    } else {
        Err(ExportError::Refused {
            reason: "the rows do not have the sum that the export states".into(),
        })
    }
}
