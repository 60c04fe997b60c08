//! The meta row: whose tree this is, what has been applied, and the sum of its rows.

use orlop_saga::id::{Lsn, StoreId};

use crate::tables::row::{first_u64, take_u64};
use crate::tables::{RowSum, TablesError};

const MAGIC: &[u8; 8] = b"orlopTB1";

/// The sentinel of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) store: StoreId,
    pub(super) applied: Lsn,
    pub(super) sum: RowSum,
}

impl Meta {
    pub(super) fn empty(store: StoreId) -> Self {
        Self {
            store,
            applied: Lsn::default(),
            sum: RowSum::default(),
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(64);
        raw.extend_from_slice(MAGIC);
        raw.extend_from_slice(self.store.as_bytes());
        for number in [
            self.applied.get(),
            self.sum.rows,
            self.sum.bytes,
            self.sum.checksums,
        ] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = first_u64(blake3::hash(&raw).as_bytes());
        raw.extend_from_slice(&checksum.to_le_bytes());
        raw
    }

    pub(super) fn read(raw: &[u8]) -> Result<Self, TablesError> {
        Self::parse(raw).ok_or_else(|| TablesError::damaged("the sentinel is not what was written"))
    }

    fn parse(raw: &[u8]) -> Option<Self> {
        let (body, checksum) = raw.split_last_chunk::<8>()?;
        if first_u64(blake3::hash(body).as_bytes()) != u64::from_le_bytes(*checksum) {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (store, rest) = rest.split_first_chunk::<16>()?;
        let (applied, rest) = take_u64(rest)?;
        let (rows, rest) = take_u64(rest)?;
        let (bytes, rest) = take_u64(rest)?;
        let (checksums, rest) = take_u64(rest)?;
        rest.is_empty().then_some(Self {
            store: StoreId::new(*store),
            applied: Lsn::new(applied),
            sum: RowSum {
                rows,
                bytes,
                checksums,
            },
        })
    }
}
