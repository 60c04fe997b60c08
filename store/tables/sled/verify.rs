//! Reading every row at open: sled can open with rows missing and say nothing.

use std::ops::ControlFlow;

use crate::tables::row::{Envelope, checksum};
use crate::tables::sled::{BATCH_BYTES_MAX, CHUNK, SledTables, fault, row_key};
use crate::tables::{RowSum, Tables, TablesError};

/// Compares every row with its checksum and all of them with the sum beside the applied mark,
/// then sweeps chunks that no row names.
pub(super) fn verify(tables: &mut SledTables) -> Result<(), TablesError> {
    let mut found = RowSum::default();
    tables.scan(&[], None, &mut |key, value| {
        found = found.with(key, value.len() as u64, checksum(key, value));
        ControlFlow::Continue(())
    })?;
    let expected = tables.sum();
    if found != expected {
        return Err(TablesError::damaged(format!(
            "the tree has {} rows of {} bytes, it had {} of {}",
            found.rows, found.bytes, expected.rows, expected.bytes
        )));
    }
    while sweep(tables)? {}
    Ok(())
}

/// Removes up to one batch of orphaned chunks; true if there may be more.
fn sweep(tables: &mut SledTables) -> Result<bool, TablesError> {
    let (orphans, bytes) = tables.guarded(|db| {
        let mut orphans = sled::Batch::default();
        let mut bytes: usize = 0;
        for item in db.range([CHUNK]..) {
            let (physical, _) = item.map_err(|e| fault("sweep", &e))?;
            if physical.first() != Some(&CHUNK) || bytes > BATCH_BYTES_MAX / 2 {
                break;
            }
            if !is_named(db, &physical)? {
                bytes = bytes.saturating_add(physical.len());
                orphans.remove(physical);
            }
        }
        Ok((orphans, bytes))
    })?;
    if bytes > 0 {
        let meta = tables.meta;
        tables.commit(orphans, meta)?;
    }
    Ok(bytes > BATCH_BYTES_MAX / 2)
}

/// Whether the row that a chunk belongs to names it.
fn is_named(db: &sled::Db, physical: &[u8]) -> Result<bool, TablesError> {
    let parts = physical
        .get(1..)
        .and_then(|rest| rest.split_last_chunk::<4>())
        .and_then(|(rest, index)| Some((rest.split_last_chunk::<8>()?, index)));
    let Some(((key, generation), index)) = parts else {
        return Err(TablesError::damaged("a chunk has no whole key"));
    };
    let Some(raw) = db.get(row_key(key)).map_err(|e| fault("sweep", &e))? else {
        return Ok(false);
    };
    Ok(match Envelope::read(&raw)? {
        Envelope::Inline { .. } => false,
        Envelope::Chunked {
            generation: named,
            chunks,
            ..
        } => named == u64::from_be_bytes(*generation) && u32::from_be_bytes(*index) < chunks,
    })
}
