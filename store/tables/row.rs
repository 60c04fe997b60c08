//! Rows: how a value is enveloped, and the sum that tells whether any row is missing.
//!
//! An enveloped value is `1, checksum (8 bytes, little endian), value`, or, when it is longer
//! than a page should be, `2, checksum, chunk generation (8), length (8), chunks (4)` with its
//! bytes in rows of their own.
//!
//! Invariants
//! - The checksum covers the key, so that a value found under another key is damage.
//! - The sum is of all rows; a tree that opens with rows missing has another sum.

use crate::tables::TablesError;

const INLINE: u8 = 1;
const CHUNKED: u8 = 2;

/// The number of rows, their bytes, and the wrapping sum of their checksums.
///
/// Independent of the order in which rows were written; kept beside the applied mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// The number of rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The wrapping sum of their checksums.
    pub checksums: u64,
}

impl RowSum {
    /// With one more row.
    #[must_use]
    pub fn with(self, key: &[u8], value_bytes: u64, checksum: u64) -> Self {
        Self {
            rows: self.rows.wrapping_add(1),
            bytes: self
                .bytes
                .wrapping_add(key.len() as u64)
                .wrapping_add(value_bytes),
            checksums: self.checksums.wrapping_add(checksum),
        }
    }

    /// With one row less.
    #[must_use]
    pub fn without(self, key: &[u8], value_bytes: u64, checksum: u64) -> Self {
        Self {
            rows: self.rows.wrapping_sub(1),
            bytes: self
                .bytes
                .wrapping_sub(key.len() as u64)
                .wrapping_sub(value_bytes),
            checksums: self.checksums.wrapping_sub(checksum),
        }
    }
}

/// The checksum of one row: the first 8 bytes of BLAKE3 over the key's length, key and value.
pub fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    first_u64(hasher.finalize().as_bytes())
}

/// The first 8 bytes of a digest as a number.
pub(crate) fn first_u64(digest: &[u8; 32]) -> u64 {
    digest
        .first_chunk::<8>()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

/// What the row of a key holds: the value itself, or where its chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope<'a> {
    /// The value is in the row.
    Inline { checksum: u64, value: &'a [u8] },
    /// The value is in `chunks` rows of `generation`.
    Chunked {
        checksum: u64,
        generation: u64,
        length: u64,
        chunks: u32,
    },
}

impl<'a> Envelope<'a> {
    /// Reads an enveloped value; the checksum is not yet compared.
    pub(crate) fn read(raw: &'a [u8]) -> Result<Self, TablesError> {
        let short = || TablesError::damaged("a row is shorter than its envelope");
        let (kind, rest) = raw.split_first().ok_or_else(short)?;
        let (checksum, rest) = take_u64(rest).ok_or_else(short)?;
        match *kind {
            INLINE => Ok(Self::Inline {
                checksum,
                value: rest,
            }),
            CHUNKED => {
                let (generation, rest) = take_u64(rest).ok_or_else(short)?;
                let (length, rest) = take_u64(rest).ok_or_else(short)?;
                let chunks = rest.try_into().map_err(|_| short())?;
                Ok(Self::Chunked {
                    checksum,
                    generation,
                    length,
                    chunks: u32::from_le_bytes(chunks),
                })
            }
            kind => Err(TablesError::damaged(format!(
                "a row is of unknown kind {kind}"
            ))),
        }
    }

    /// The bytes to store.
    pub(crate) fn write(&self) -> Vec<u8> {
        match self {
            Self::Inline { checksum, value } => {
                let mut raw = Vec::with_capacity(value.len().saturating_add(9));
                raw.push(INLINE);
                raw.extend_from_slice(&checksum.to_le_bytes());
                raw.extend_from_slice(value);
                raw
            }
            Self::Chunked {
                checksum,
                generation,
                length,
                chunks,
            } => {
                let mut raw = Vec::with_capacity(29);
                raw.push(CHUNKED);
                raw.extend_from_slice(&checksum.to_le_bytes());
                raw.extend_from_slice(&generation.to_le_bytes());
                raw.extend_from_slice(&length.to_le_bytes());
                raw.extend_from_slice(&chunks.to_le_bytes());
                raw
            }
        }
    }

    /// The checksum the row was written with.
    pub(crate) fn checksum(&self) -> u64 {
        match self {
            Self::Inline { checksum, .. } | Self::Chunked { checksum, .. } => *checksum,
        }
    }

    /// The length of the value in bytes.
    pub(crate) fn value_bytes(&self) -> u64 {
        match self {
            Self::Inline { value, .. } => value.len() as u64,
            Self::Chunked { length, .. } => *length,
        }
    }
}

/// Splits a little-endian number off the front.
pub(crate) fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*first), rest))
}
