//! Blobs as the projector sees them: which wait to be unlinked, and since when.
//!
//! A blob whose last row is removed is dead, and a row of its own says so until it is unlinked:
//! the tables may be rebuilt from any export that is kept, and those that ended before may name
//! it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use orlop_saga::blob::BlobRef;
use orlop_saga::compat::Format;
use orlop_saga::digest::Digest;
use orlop_saga::id::{Lsn, TenantId};
use orlop_saga::saga::SagaState;

use crate::blob::{Keeper, Ledger, read_blob};
use crate::disk::Disk;
use crate::projection::{self, Retained, RowError};
use crate::tables::{Change, Tables, TablesError};

/// A blob that no outcome names any more.
#[derive(Clone, Copy, Debug)]
struct Dead {
    bytes: u64,
    since: Lsn,
}

/// The dead blobs of a store, as its tables have them.
#[derive(Debug, Default)]
pub(crate) struct DeadBlobs {
    dead: BTreeMap<(TenantId, Digest), Dead>,
    bytes: u64,
}

impl DeadBlobs {
    /// Reads from the tables what names blobs and which are dead.
    pub(crate) fn load(tables: &mut dyn Tables, ledger: &Ledger) -> Result<Self, TablesError> {
        let mut wrong: Option<RowError> = None;
        tables.scan(&[projection::BLOBS], None, &mut |key, value| {
            match projection::decode_blob(key, value) {
                Ok((tenant, blob)) => ledger.found(tenant, blob),
                Err(error) => wrong = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        let mut dead = Self::default();
        tables.scan(&[projection::DEAD_BLOBS], None, &mut |key, value| {
            match projection::decode_dead_blob(key, value) {
                Ok((tenant, blob, since)) => {
                    ledger.found_dead(tenant, blob);
                    dead.insert(tenant, blob, since);
                }
                Err(error) => wrong = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        match wrong {
            None => Ok(dead),
            Some(error) => Err(TablesError::damaged(error.to_string())),
        }
    }

    /// Bytes that unlinking would give back.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn insert(&mut self, tenant: TenantId, blob: BlobRef, since: Lsn) {
        let bytes = blob.bytes;
        let before = self
            .dead
            .insert((tenant, blob.digest), Dead { bytes, since });
        if before.is_none() {
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    fn forget(&mut self, name: (TenantId, Digest)) -> Option<Change> {
        let dead = self.dead.remove(&name)?;
        self.bytes = self.bytes.saturating_sub(dead.bytes);
        Some(Change::Remove {
            key: projection::dead_blob_key(name.0, name.1),
        })
    }

    /// Rows that name these blobs are removed together with `changes`, at `lsn`.
    pub(crate) fn removed(
        &mut self,
        ledger: &Ledger,
        blobs: &[(TenantId, BlobRef)],
        lsn: Lsn,
        changes: &mut Vec<Change>,
    ) -> Result<(), RowError> {
        for (tenant, blob) in blobs {
            if ledger.removed(*tenant, blob.digest) {
                changes.push(Change::Put {
                    key: projection::dead_blob_key(*tenant, blob.digest),
                    value: projection::encode(Format::NEWEST, &(blob.bytes, lsn))?,
                });
                self.insert(*tenant, *blob, lsn);
            }
        }
        Ok(())
    }

    /// Unlinks what died before `exported`, where the oldest export kept ended, and what was never
    /// named. The tables are synced. Answers what changes in them.
    pub(crate) fn unlink(&mut self, keeper: &Keeper, exported: Option<Lsn>) -> Vec<Change> {
        let due = self.dead.iter().filter(|(_, dead)| {
            // One that ended at the same lsn may have ended before.
            exported.is_some_and(|exported| dead.since < exported)
        });
        let mut names: Vec<(TenantId, Digest)> = due.map(|(name, _)| *name).collect();
        let mut orphans = keeper.ledger.take_orphans();
        orphans.retain(|(tenant, blob)| !self.dead.contains_key(&(*tenant, blob.digest)));
        names.extend(orphans.iter().map(|(tenant, blob)| (*tenant, blob.digest)));
        let gone = keeper.unlink(names);
        // One that somebody copies, or that was named again, is looked at again.
        orphans.retain(|(tenant, blob)| keeper.ledger.is_orphan(*tenant, blob.digest));
        keeper.ledger.put_back_orphans(orphans);
        gone.into_iter()
            .filter_map(|name| self.forget(name))
            .collect()
    }
}

/// Where outcomes that are in blobs are read.
#[derive(Debug)]
pub(crate) struct BlobReader {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) store: PathBuf,
}

impl BlobReader {
    /// The outcome with the bytes of its output in the place of the blob.
    pub(crate) fn outcome(
        &self,
        tenant: TenantId,
        mut retained: Retained,
    ) -> Result<Retained, TablesError> {
        if let Some(blob) = projection::blob_of(&retained) {
            let output = self.read(tenant, blob)?;
            retained.outcome = orlop_saga::outcome::Outcome::Done(output);
        }
        Ok(retained)
    }

    /// The saga with the bytes of its output in the place of the blob.
    pub(crate) fn saga(&self, state: SagaState) -> Result<SagaState, TablesError> {
        match state.output_blob() {
            Some(blob) => {
                let output = self.read(state.start().id.tenant, blob)?;
                Ok(state.with_output(output))
            }
            None => Ok(state),
        }
    }

    fn read(
        &self,
        tenant: TenantId,
        blob: BlobRef,
    ) -> Result<orlop_saga::canonical::Payload, TablesError> {
        read_blob(&*self.disk, &self.store, tenant, blob).map_err(|error| TablesError::Blob {
            reason: error.to_string(),
        })
    }
}
