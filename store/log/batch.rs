//! Batches: the records that become durable together, or not at all.

use std::fmt;

/// Bytes in front of every record: its length, little-endian.
const PREFIX_BYTES: usize = 4;

/// An atomic list of encoded records, in one contiguous buffer.
///
/// After a crash either every record of a batch is there or none is. Each record is stored behind
/// its length (u32, little-endian), which is also how a frame holds it, so that composing a frame
/// is one copy per batch.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// A batch without records. Appending it as it is answers
    /// [`AppendError::Empty`](super::AppendError::Empty).
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            count: 0,
        }
    }

    /// A batch without records that has room for `bytes` of them, prefixes included.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            count: 0,
        }
    }

    /// Adds one record at the end. It may be empty.
    ///
    /// Never fails: whether the batch is too large is answered when it is appended.
    pub fn push(&mut self, record: &[u8]) {
        // A length that saturates belongs to a batch far over any `batch_bytes_max`: it is refused.
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(record);
        self.count = self.count.saturating_add(1);
    }

    /// How many records it has; each takes one lsn.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether it has no record.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its size in a frame: the records and 4 bytes in front of each.
    pub const fn byte_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The records, in the order they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone + fmt::Debug {
        Records::new(&self.bytes)
    }

    /// The encoded records.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("records", &self.count)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// The records in a buffer of length-prefixed records. Ends early where the buffer is cut short.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Reads the records of `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet; empty at the end of a well-formed buffer.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (prefix, rest) = self.rest.split_first_chunk::<PREFIX_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
        let (record, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_pushed_in_order() {
        let mut batch = Batch::new();
        for record in [&b"one"[..], b"", b"three"] {
            batch.push(record);
        }
        let records: Vec<&[u8]> = batch.iter().collect();
        assert_eq!(records, [&b"one"[..], b"", b"three"]);
        assert_eq!((batch.len(), batch.byte_len()), (3, 3 * 4 + 8));
    }

    #[test]
    fn records_of_a_buffer_cut_short_end_before_the_cut() {
        let mut batch = Batch::new();
        batch.push(b"whole");
        batch.push(b"cut");
        let cut = &batch.as_bytes()[..batch.as_bytes().len() - 1];
        let mut records = Records::new(cut);
        assert_eq!(records.next(), Some(&b"whole"[..]));
        assert_eq!(records.next(), None);
        assert!(!records.rest().is_empty());
    }
}
