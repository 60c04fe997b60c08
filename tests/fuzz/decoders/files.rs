//! Files: a checkpoint, an export, or rows of the tables.
//!
//! Layout: one byte that says which, then the body of a checkpoint, the frames of an export as
//! pieces (kind, body), or rows as pieces (their prefix, value).

use std::path::Path;

use orlop_saga::compat::Format;
use orlop_store::checkpoint;
use orlop_store::disk::{Disk, SimDisk};
use orlop_store::projection::{self, EXPIRIES, OUTCOMES, SAGAS, TENANTS};
use orlop_store::tables::export::read_export;

use super::{STORE, pieces};

/// The rest is the body of a checkpoint.
pub(crate) const CHECKPOINT: u8 = 0;
/// The rest is the frames of an export.
pub(crate) const EXPORT: u8 = 1;
/// The rest is rows.
pub(crate) const ROWS: u8 = 2;

/// Decodes; says whether anything was accepted.
pub(crate) fn run(input: &[u8]) -> bool {
    let Some((which, rest)) = input.split_first() else {
        return false;
    };
    match *which % 3 {
        CHECKPOINT => read_checkpoint(rest),
        EXPORT => read_frames(rest),
        _ => pieces(rest).into_iter().filter(|row| read_row(row)).count() > 0,
    }
}

fn store_file(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(Path::new(name)).unwrap();
    file.write_all_at(0, bytes).unwrap();
    file.sync_data().unwrap();
}

fn read_checkpoint(body: &[u8]) -> bool {
    let mut sealed = b"orlopCHK".to_vec();
    sealed.extend_from_slice(&1_u32.to_le_bytes());
    sealed.extend_from_slice(&(body.len() as u64).to_le_bytes());
    sealed.extend_from_slice(body);
    let digest = blake3::hash(&sealed);
    sealed.extend_from_slice(digest.as_bytes());
    let disk = SimDisk::new();
    store_file(&disk, "/checkpoint-0000000000000001", &sealed);
    let Ok(found) = checkpoint::find(&disk, Path::new("/"), STORE) else {
        return false;
    };
    assert_eq!(found.newest.is_some(), found.damaged.is_empty());
    let Some(newest) = found.newest else {
        return false;
    };
    let disk = SimDisk::new();
    checkpoint::write(&disk, Path::new("/"), &newest, Format::NEWEST).unwrap();
    let again = checkpoint::find(&disk, Path::new("/"), STORE).unwrap();
    assert_eq!(again.newest, Some(newest));
    true
}

fn read_frames(input: &[u8]) -> bool {
    let mut bytes = b"orlopEXP".to_vec();
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(STORE.as_bytes());
    let mut chain = first_16(blake3::hash(&bytes));
    for piece in pieces(input) {
        let (kind, body) = piece.split_first().unwrap_or((&0, &[]));
        let mut hasher = blake3::Hasher::new();
        hasher.update(&chain).update(&[*kind]).update(body);
        chain = first_16(hasher.finalize());
        let length = u32::try_from(body.len()).unwrap();
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(*kind);
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&chain);
    }
    let disk = SimDisk::new();
    store_file(&disk, "/export", &bytes);
    let mut rows = 0;
    let mut take = |changes: Vec<_>| {
        rows += changes.len();
        Ok(())
    };
    read_export(&disk, Path::new("/export"), STORE, &mut take).is_ok()
}

fn first_16(hash: blake3::Hash) -> [u8; 16] {
    hash.as_bytes()[..16].try_into().unwrap()
}

fn read_row(row: &[u8]) -> bool {
    let Some((prefix, value)) = row.split_first() else {
        return false;
    };
    // As a key, too: whatever a tree holds under a prefix is asked whose it is.
    let known = projection::outcome_id(row).is_some() || projection::expiry_id(row).is_some();
    let decoded = match *prefix {
        OUTCOMES => projection::decode_outcome(value).is_ok(),
        SAGAS => projection::decode_saga(value).is_ok(),
        TENANTS => projection::decode_tenant(value).is_ok(),
        EXPIRIES => projection::decode_expiry(value).is_ok(),
        _ => false,
    };
    known || decoded
}
