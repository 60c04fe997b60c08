//! From records to changes: used by the projector while the engine runs and by recovery alike.

use orlop_saga::blob::BlobRef;
use orlop_saga::compat::Format;
use orlop_saga::effect::EffectId;
use orlop_saga::id::Lsn;
use orlop_saga::live::Live;
use orlop_saga::record;
use orlop_saga::time::WallMillis;

use crate::projection;
use crate::projector::ProjectorError;
use crate::tables::{Change, Tables, TablesError};

/// What one record finished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folded {
    /// The key that has its outcome now.
    pub(crate) id: EffectId,
    /// The bytes of its row, unless the tables have it already.
    pub(crate) row_bytes: Option<usize>,
    /// Until when it is kept.
    pub(crate) expires_at: WallMillis,
    /// The blob that it is in, if it is in one.
    pub(crate) blob: Option<BlobRef>,
}

/// The bytes of an outcome's row, if this is how it is written.
fn outcome_bytes(change: &Change) -> Option<usize> {
    match change {
        Change::Put { key, value } if key.first() == Some(&projection::OUTCOMES) => {
            Some(key.len().saturating_add(value.len()))
        }
        Change::Put { .. } | Change::Remove { .. } => None,
    }
}

/// Folds records and gathers the changes that they leave.
pub(crate) struct Applier {
    /// The fold.
    pub(crate) live: Live,
    /// What rows are written in.
    format: Format,
    changes: Vec<Change>,
    bytes: usize,
}

impl Applier {
    pub(crate) fn new(live: Live, format: Format) -> Self {
        Self {
            live,
            format,
            changes: Vec::new(),
            bytes: 0,
        }
    }

    /// Folds the next record. Its changes are gathered if the tables, which have everything up
    /// to `applied`, do not have them.
    pub(crate) fn record(
        &mut self,
        lsn: Lsn,
        bytes: &[u8],
        applied: Lsn,
    ) -> Result<Option<Folded>, ProjectorError> {
        let event =
            record::decode(bytes).map_err(|source| ProjectorError::Record { lsn, source })?;
        let finished = self.live.apply(lsn, &event)?;
        let mut row_bytes = None;
        if lsn > applied {
            let before = self.changes.len();
            projection::project(self.format, &event, finished.as_ref(), &mut self.changes)?;
            let added = self.changes.iter().skip(before).map(Change::byte_len);
            self.bytes = added.fold(self.bytes, usize::saturating_add);
            row_bytes = self.changes.iter().skip(before).find_map(outcome_bytes);
        }
        Ok(finished.map(|finished| Folded {
            id: finished.id,
            row_bytes,
            expires_at: finished.settlement.expires_at,
            blob: projection::blob_of(&finished.settlement),
        }))
    }

    /// Bytes of the changes gathered.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes
    }

    /// Applies what was gathered; the tables then stand where the fold does.
    pub(crate) fn flush(&mut self, tables: &mut dyn Tables) -> Result<Vec<Change>, TablesError> {
        let changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        let applied = self.live.lsn().max(tables.applied());
        if !changes.is_empty() || applied > tables.applied() {
            tables.apply(&changes, applied)?;
        }
        Ok(changes)
    }
}
