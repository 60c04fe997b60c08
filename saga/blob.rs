//! Blobs: what names an output that is kept in a file of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::canonical::Payload;
use crate::digest::Digest;

/// A reference to canonical bytes kept outside the journal and the tables.
///
/// The file belongs to the tenant of the record that names it; the reference alone opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// The digest of the bytes, which is what they are verified by.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}

impl BlobRef {
    /// The reference of some bytes.
    pub fn of(payload: &Payload) -> Self {
        Self {
            digest: Digest::of(payload.as_bytes()),
            bytes: payload.len() as u64,
        }
    }
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.digest, self.bytes)
    }
}
