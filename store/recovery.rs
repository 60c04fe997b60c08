//! Recovery: from what a crash left to a fold and tables that stand where the log ends.
//!
//! Invariants
//! - The fold comes from a checkpoint, an export or nothing at all, and the log from there on.
//! - Tables that cannot be believed are rebuilt beside the old ones and take their place only
//!   when they are complete and synced.
//! - Tables or a checkpoint ahead of the log mean that the log lost what was durable: refused.

use std::path::{Path, PathBuf};

use orlop_saga::compat::Format;
use orlop_saga::id::{Lsn, StoreId};
use orlop_saga::live::Live;

use crate::checkpoint::{self, CheckpointError};
use crate::disk::Disk;
use crate::log::{Opened, ReplayError, ReplayLogError};
use crate::projection;
use crate::projector::{Applier, ProjectorError, exports, restore};
use crate::retained::RetainedKeys;
use crate::tables::export::ExportError;
use crate::tables::{Expected, OpenTablesError, Tables, TablesError, TablesHome};

/// Why nothing could be recovered. Nothing that was there is lost or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// No checkpoint could be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tables could not be read or rebuilt.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// No export could be read, and the tables need one. Restore the store from a backup.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The log could not be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayLogError),
    /// The log ends before what a checkpoint or the tables have: it has lost what was durable.
    /// Restore the store from a backup.
    #[error("the log ends at {log_last}, but the store had reached {reached}")]
    LogBehind {
        /// The last record of the log.
        log_last: Lsn,
        /// How far the store was.
        reached: Lsn,
    },
    /// The log starts after what any checkpoint or export has. Restore the store from a backup.
    #[error("the log starts at {log_first}, and nothing is left that reaches up to it")]
    NoStart {
        /// The first record of the log.
        log_first: Lsn,
    },
}

/// What was recovered.
pub(crate) struct Recovery {
    pub(crate) live: Live,
    pub(crate) tables: Box<dyn Tables>,
    pub(crate) checkpointed: Option<Lsn>,
    pub(crate) rebuilt: Option<String>,
    pub(crate) replayed_records: u64,
    pub(crate) replayed_bytes: u64,
    /// Bytes of the journal since the newest export, and the size of that.
    pub(crate) unexported_bytes: u64,
    pub(crate) export_bytes: u64,
}

/// Where recovery looks.
pub(crate) struct Sources<'a> {
    pub(crate) store: StoreId,
    /// What rows are written in.
    pub(crate) format: Format,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) folder: &'a Path,
    pub(crate) log: &'a dyn Opened,
    pub(crate) group_bytes_max: u64,
}

/// The fold and tables to replay the log onto.
struct Base {
    live: Live,
    tables: Box<dyn Tables>,
    rebuilt: Option<String>,
}

impl Sources<'_> {
    /// Recovers; rebuilds the tables if it must.
    pub(crate) fn recover(&self, home: &mut dyn TablesHome) -> Result<Recovery, RecoveryError> {
        let found = checkpoint::find(self.disk, self.folder, self.store)?;
        let checkpointed = found
            .newest
            .as_ref()
            .map(|checkpoint| checkpoint.live.lsn());
        let unexported = found
            .newest
            .as_ref()
            .map_or(0, |found| found.unexported_bytes);
        let newest = found.newest.map(|checkpoint| checkpoint.live);
        let base = self.base(newest, home)?;
        let reached = base.tables.applied().max(base.live.lsn());
        if reached > self.log.last_lsn() {
            return Err(RecoveryError::LogBehind {
                log_last: self.log.last_lsn(),
                reached,
            });
        }
        let mut recovery = self.replay(base, checkpointed)?;
        recovery.export_bytes = self.export_bytes()?;
        if recovery.rebuilt.is_none() {
            // Replayed from the checkpoint; otherwise from the export itself.
            let before = unexported.saturating_add(recovery.replayed_bytes);
            recovery.unexported_bytes = before;
        }
        if recovery.rebuilt.is_some() {
            home.promote()?;
        }
        // They would count as kept; what they said is known again.
        checkpoint::remove(self.disk, found.damaged)?;
        Ok(recovery)
    }

    /// The size of the newest export.
    fn export_bytes(&self) -> Result<u64, ExportError> {
        let Some((_, file)) = exports(self.disk, self.folder)?.pop() else {
            return Ok(0);
        };
        let length = self.disk.open(&file).and_then(|open| open.len());
        length.map_err(|source| ExportError::Io {
            operation: "measure",
            file,
            source,
        })
    }

    /// The tables as they are, with a fold that is not ahead of them; otherwise rebuilt ones.
    fn base(&self, newest: Option<Live>, home: &mut dyn TablesHome) -> Result<Base, RecoveryError> {
        let live = match newest {
            Some(live) => Some(live),
            None => self.fold_without_checkpoint()?,
        };
        let applied_min = live.as_ref().map_or(Lsn::new(0), Live::lsn);
        let reason = match home.open(Expected { applied_min }) {
            Ok(tables) => match live {
                Some(live) => {
                    return Ok(Base {
                        live,
                        tables,
                        rebuilt: None,
                    });
                }
                None => {
                    return Err(RecoveryError::NoStart {
                        log_first: self.log.first_lsn(),
                    });
                }
            },
            Err(OpenTablesError::Failed(error)) => return Err(error.into()),
            Err(error @ (OpenTablesError::Missing { .. } | OpenTablesError::Damaged { .. })) => {
                error.to_string()
            }
        };
        self.rebuild(home, reason)
    }

    /// What a checkpoint would have said: the fold of an export, or of a log from its start.
    fn fold_without_checkpoint(&self) -> Result<Option<Live>, RecoveryError> {
        for (_, path) in exports(self.disk, self.folder)?.into_iter().rev() {
            let read =
                crate::tables::export::read_export(self.disk, &path, self.store, &mut |_| Ok(()));
            match read {
                Ok(end) => return Ok(Some(end.live)),
                Err(ExportError::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((self.log.first_lsn() <= Lsn::new(1)).then(Live::default))
    }

    /// Fresh tables from the newest sound export, or empty ones if the log has everything.
    fn rebuild(&self, home: &mut dyn TablesHome, reason: String) -> Result<Base, RecoveryError> {
        let mut last: Option<ExportError> = None;
        let candidates: Vec<(Lsn, PathBuf)> = exports(self.disk, self.folder)?;
        for (lsn, path) in candidates.into_iter().rev() {
            if lsn.next() < self.log.first_lsn() {
                continue;
            }
            let mut tables = home.fresh()?;
            match restore(self.disk, &path, self.store, &mut *tables) {
                Ok(live) => {
                    return Ok(Base {
                        live,
                        tables,
                        rebuilt: Some(reason),
                    });
                }
                Err(error) => {
                    tables.close()?;
                    last = Some(error);
                }
            }
        }
        if self.log.first_lsn() <= Lsn::new(1) {
            return Ok(Base {
                live: Live::default(),
                tables: home.fresh()?,
                rebuilt: Some(reason),
            });
        }
        Err(last.map_or(
            RecoveryError::NoStart {
                log_first: self.log.first_lsn(),
            },
            RecoveryError::Export,
        ))
    }

    /// Folds the log from the base on and applies what the tables lack.
    fn replay(&self, base: Base, checkpointed: Option<Lsn>) -> Result<Recovery, RecoveryError> {
        let mut tables = base.tables;
        let from = base.live.lsn().next();
        let in_tables = tables.applied();
        let mut applier = Applier::new(base.live, self.format);
        let (mut records, mut bytes) = (0_u64, 0_u64);
        if from <= self.log.last_lsn() {
            let mut fold = |lsn: Lsn, record: &[u8]| -> Result<(), ReplayError> {
                let refuse = |error: ProjectorError| ReplayError::new(lsn, error);
                applier.record(lsn, record, in_tables).map_err(refuse)?;
                records = records.saturating_add(1);
                bytes = bytes.saturating_add(record.len() as u64);
                // The mark may rise only where the fold is not behind the tables.
                if applier.byte_len() as u64 >= self.group_bytes_max {
                    applier.flush(&mut *tables).map_err(|e| refuse(e.into()))?;
                }
                Ok(())
            };
            self.log.replay(from, &mut fold)?;
        }
        applier.flush(&mut *tables)?;
        if base.rebuilt.is_some() {
            tables.sync()?;
        }
        Ok(Recovery {
            live: applier.live,
            tables,
            checkpointed,
            rebuilt: base.rebuilt,
            replayed_records: records,
            replayed_bytes: bytes,
            unexported_bytes: bytes,
            export_bytes: 0,
        })
    }
}

/// Fills the set of retained keys from the tables.
pub(crate) fn fill(retained: &RetainedKeys, tables: &mut dyn Tables) -> Result<(), TablesError> {
    tables.scan(&[projection::OUTCOMES], None, &mut |key, value| {
        if let Some(id) = projection::outcome_id(key) {
            retained.insert(id, key.len().saturating_add(value.len()));
        }
        std::ops::ControlFlow::Continue(())
    })
}
