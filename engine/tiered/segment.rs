//! Segments: what is moved between the tiers, and the versions of it in the object store.

use std::fmt;

use orlop_saga::digest::Digest;
use orlop_saga::key::RemoteKey;
use serde::{Deserialize, Serialize};

use super::name::SegmentName;

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
