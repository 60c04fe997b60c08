//! Segments: what is moved between the tiers, and the versions of it in the object store.

use std::fmt;

use orlop_saga::digest::Digest;
use orlop_saga::key::RemoteKey;
use serde::{Deserialize, Serialize};

/// The name of a segment within its tenant: 1 to 1024 bytes, any bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentName(Vec<u8>);

/// Why bytes are no segment name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There are none.
    #[error("a segment name is empty")]
    Empty,
    /// There are more than [`SegmentName::BYTES_MAX`].
    #[error("a segment name of {bytes} bytes is longer than {bytes_max}")]
    TooLong {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        bytes_max: usize,
    },
}

impl SegmentName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// A name.
    ///
    /// # Errors
    /// [`NameError`]: empty or too long.
    pub fn new(name: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let name = name.into();
        match name.len() {
            0 => Err(NameError::Empty),
            bytes if bytes > Self::BYTES_MAX => Err(NameError::TooLong {
                bytes,
                bytes_max: Self::BYTES_MAX,
            }),
            _ => Ok(Self(name)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SegmentName {
    /// On one line, with everything that is not plain ASCII escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentName(\"{self}\")")
    }
}

/// A segment with the content that it has: sealed, so that name, epoch and digest stand for the
/// same bytes for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Rises whenever the database gives the name to other content.
    pub epoch: u64,
    /// The BLAKE3 digest of its content.
    pub digest: Digest,
}

/// One version in the object store: what exactly one put wrote. Meaningful within
/// the tenant that put it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentVersion {
    /// The segment's name.
    pub name: SegmentName,
    /// The segment's epoch.
    pub epoch: u64,
    /// What the put is recognised by.
    pub remote_key: RemoteKey,
    /// Which place among those of the put, from 0: a place that was given up is never used.
    pub place: u32,
}

impl fmt::Display for SegmentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            epoch,
            remote_key,
            place,
        } = self;
        write!(f, "{name}@{epoch}/{remote_key}.{place}")
    }
}

/// A version and what it is known to hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredSegment {
    /// Which version.
    pub object: SegmentVersion,
    /// The BLAKE3 digest of its content.
    pub digest: Digest,
    /// The length of its content, in bytes.
    pub length: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_to_1024_bytes() {
        assert_eq!(SegmentName::new(""), Err(NameError::Empty));
        assert!(SegmentName::new([0xff; 1024]).is_ok());
        assert_eq!(
            SegmentName::new([b'a'; 1025]),
            Err(NameError::TooLong {
                bytes: 1025,
                bytes_max: 1024
            })
        );
    }

    #[test]
    fn a_name_is_shown_on_one_line_of_ascii() {
        let name = SegmentName::new(b"a\n\xff\"".to_vec()).unwrap();
        assert_eq!(name.to_string(), "a\\n\\xff\\\"");
    }
}
