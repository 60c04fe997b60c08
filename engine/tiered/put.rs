//! Putting: the local copy becomes a version in the object store.
//!
//! The versions of one put have places, 0, 1, 2 and so on. An attempt goes through them in order,
//! past those that were given up before it, and creates its object in the first that is free.
//!
//! Invariants
//! - An attempt creates one object, under the remote key of its own put, and touches no other.
//! - Before a put is made again, the first free place is fenced off. What an earlier attempt still
//!   has on the wire is meant for that place, since it found every place before it taken: so it is
//!   refused, or it was there first and is found.
//! - An attempt that meets a fence newer than itself writes nothing.

use bytes::Bytes;
use object_store::Error;
use object_store::path::Path;
use orlop_saga::digest::Digest;
use orlop_saga::id::Fence;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;

use super::object::{self, Content};
use super::pack::Tiered;
use super::segment::{Segment, SegmentVersion, StoredSegment};
use super::tombstone::Tombstone;
use crate::computation::{Computation, External};
use crate::host::{Attempt, HostFunction, Late, Reconcile, Reconciled};

/// Uploads the local copy of a segment as a version of its own. It fails for good if the local
/// copy is gone, or is not what the digest says.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPut;

impl Computation for SegmentPut {
    const NAME: &'static str = "segment_put";
    type Input = Segment;
    type Output = StoredSegment;
    type Kind = External;
}

/// How many places one put has. Each time that an attempt is given up costs one.
pub(super) const PLACES_MAX: u32 = 1024;

impl HostFunction<SegmentPut> for Tiered {
    async fn run(&self, attempt: Attempt, segment: Segment) -> Result<StoredSegment, Failure> {
        let content = self.local_content(&attempt, &segment).await?;
        for place in 0..PLACES_MAX {
            let stored = StoredSegment {
                object: version(attempt.remote_key, &segment, place),
                digest: segment.digest,
                length: content.len() as u64,
            };
            let path = self.path(attempt.tenant, &stored.object);
            match object::create(self.store(), &path, content.clone()).await {
                Ok(()) => return Ok(stored),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(object::write_failure(&error)),
            }
            match self.already_there(&path, &stored).await? {
                Taken::Done => return Ok(stored),
                Taken::Fenced { by } if by > attempt.fence => {
                    return Err(Failure::permanent("a later attempt has given this one up"));
                }
                Taken::Fenced { .. } => {}
            }
        }
        Err(Failure::permanent(
            "this put was given up too often; put it again under a fresh key",
        ))
    }
}

/// By what a place is taken.
enum Taken {
    /// By the segment: an earlier delivery of the same request.
    Done,
    /// By a fence.
    Fenced { by: Fence },
}

impl Tiered {
    /// Reads and checks the bytes to upload. No effect, so whatever goes wrong is no doubt.
    async fn local_content(&self, attempt: &Attempt, segment: &Segment) -> Result<Bytes, Failure> {
        let tenant = attempt.tenant;
        let length_max = self.options().segment_bytes_max;
        let expected = segment.digest;
        let read = self
            .local()
            .with(tenant, &segment.name, move |local, name| {
                let content = local.read(tenant, name).map_err(Failure::retryable)?;
                let content = content.ok_or_else(|| {
                    Failure::permanent(format!("segment {name} has no local copy to upload"))
                })?;
                let length = content.len() as u64;
                if length > length_max {
                    let why = format!("segment {name} has {length} bytes, over {length_max}");
                    return Err(Failure::permanent(why));
                }
                let digest = Digest::of(&content);
                if digest != expected {
                    let why = format!("the local copy of {name} is {digest}, not {expected}");
                    return Err(Failure::permanent(why));
                }
                if Tombstone::is_like(&content) {
                    let why = format!("segment {name} begins like a tombstone and is not uploaded");
                    return Err(Failure::permanent(why));
                }
                Ok(Bytes::from(content))
            });
        read.await.map_err(without_doubt)
    }

    /// The first place that should be free is taken.
    async fn already_there(&self, path: &Path, stored: &StoredSegment) -> Result<Taken, Failure> {
        let length_max = self.options().segment_bytes_max;
        let content = object::inspect(self.store(), path, length_max).await;
        match content {
            Ok(Content::Bytes { digest, length })
                if digest == stored.digest && length == stored.length =>
            {
                Ok(Taken::Done)
            }
            Ok(Content::Bytes { digest, .. }) => Err(Failure::permanent(format!(
                "object {path} holds {digest}, not {}",
                stored.digest
            ))),
            Ok(Content::Tombstone(Tombstone::Fenced { by })) => Ok(Taken::Fenced { by }),
            Ok(Content::Tombstone(Tombstone::Removed)) => Err(Failure::permanent(
                "what this put wrote was taken away; put it again under a fresh key",
            )),
            Ok(Content::Absent) => Err(Failure::in_doubt(format!(
                "object {path} was there and is not"
            ))),
            Err(error) => Err(Failure::in_doubt(error)),
        }
    }

    /// Has no earlier attempt of this put write any more; what one of them has written, if it is
    /// what it should be.
    async fn fence_off(
        &self,
        attempt: &Attempt,
        segment: &Segment,
    ) -> Result<Option<StoredSegment>, String> {
        let length_max = self.options().segment_bytes_max;
        for place in 0..PLACES_MAX {
            let object = version(attempt.remote_key, segment, place);
            let path = self.path(attempt.tenant, &object);
            match object::fence(self.store(), &path, attempt.fence).await {
                Ok(()) => return Ok(None),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
            let content = object::inspect(self.store(), &path, length_max).await;
            match content.map_err(|error| error.to_string())? {
                Content::Bytes { digest, length } if digest == segment.digest => {
                    return Ok(Some(StoredSegment {
                        object,
                        digest,
                        length,
                    }));
                }
                // What the store spoilt gives way to the fence: nobody was told of this version.
                Content::Bytes { .. } => {
                    let by = attempt.fence;
                    let fence = Tombstone::Fenced { by };
                    let buried = object::bury(self.store(), &path, fence).await;
                    return buried.map(|()| None).map_err(|error| error.to_string());
                }
                Content::Tombstone(_) => {}
                Content::Absent => return Err(format!("object {path} was there and is not")),
            }
        }
        Err(format!("all {PLACES_MAX} places of this put are taken"))
    }
}

impl Reconcile<SegmentPut> for Tiered {
    /// Fenced: before `NotDone` is said, a tombstone stands in the place that an earlier attempt
    /// may still be writing to, and the store refuses to create what exists. No clock is involved.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, segment: Segment) -> Reconciled<StoredSegment> {
        match self.fence_off(&attempt, &segment).await {
            Ok(Some(stored)) => Reconciled::Done(stored),
            Ok(None) => Reconciled::NotDone,
            Err(reason) => Reconciled::Unknown(reason),
        }
    }
}

/// The version of a put in one of its places.
pub(super) fn version(remote_key: RemoteKey, segment: &Segment, place: u32) -> SegmentVersion {
    SegmentVersion {
        name: segment.name.clone(),
        epoch: segment.epoch,
        remote_key,
        place,
    }
}

/// Nothing was written yet: another attempt may go on where this one stopped.
pub(super) fn without_doubt(failure: Failure) -> Failure {
    use orlop_saga::outcome::Disposition;
    match failure.disposition() {
        Disposition::InDoubt => Failure::retryable(failure.reason()),
        Disposition::Permanent | Disposition::Retryable => failure,
    }
}
