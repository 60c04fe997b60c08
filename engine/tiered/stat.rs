//! Verifying: a version is read back, all of it.

use orlop_saga::outcome::Failure;

use super::object::{self, Content};
use super::pack::Tiered;
use super::segment::StoredSegment;
use crate::computation::{Computation, External};
use crate::host::{Attempt, HostFunction, Late, Reconcile, Reconciled};

/// Reads a version back and checks its length and its digest. It fails for good if the version is
/// gone or holds anything else.
///
/// What a store remembers of a digest says what it was sent; only the bytes say what it has. So
/// this costs a read of the whole segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentStat;

impl Computation for SegmentStat {
    const NAME: &'static str = "segment_stat";
    type Input = StoredSegment;
    type Output = ();
    type Kind = External;
}

impl HostFunction<SegmentStat> for Tiered {
    async fn run(&self, attempt: Attempt, stored: StoredSegment) -> Result<(), Failure> {
        let path = self.path(attempt.tenant, &stored.object);
        let length_max = self.options().segment_bytes_max;
        let content = object::inspect(self.store(), &path, length_max).await;
        match content.map_err(|error| object::read_failure(&error))? {
            Content::Bytes { digest, length } => check(&stored, digest, length),
            Content::Absent | Content::Tombstone(_) => Err(gone(&stored)),
        }
    }
}

/// Whether content is what a version should hold.
pub(super) fn check(
    stored: &StoredSegment,
    digest: orlop_saga::digest::Digest,
    length: u64,
) -> Result<(), Failure> {
    if length != stored.length {
        let (object, expected) = (&stored.object, stored.length);
        let why = format!("{object} has {length} bytes, not {expected}");
        return Err(Failure::permanent(why));
    }
    if digest != stored.digest {
        let (object, expected) = (&stored.object, stored.digest);
        let why = format!("{object} holds {digest}, not {expected}");
        return Err(Failure::permanent(why));
    }
    Ok(())
}

pub(super) fn gone(stored: &StoredSegment) -> Failure {
    Failure::permanent(format!("{} is not in the object store", stored.object))
}

impl Reconcile<SegmentStat> for Tiered {
    /// A read has no effect that could come late.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, _stored: StoredSegment) -> Reconciled<()> {
        Reconciled::NotDone
    }
}
