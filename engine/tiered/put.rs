//! Putting: the local copy becomes a version in the object store.
//!
//! Invariants
//! - An attempt creates one object, under the name of its own remote key and ordinal, and touches
//!   no other.
//! - At most one attempt of a put is not fenced: another one runs only after a reconciliation has
//!   put a tombstone under the name of every earlier one.

use bytes::Bytes;
use object_store::Error;
use orlop_saga::digest::Digest;
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

impl HostFunction<SegmentPut> for Tiered {
    async fn run(&self, attempt: Attempt, segment: Segment) -> Result<StoredSegment, Failure> {
        let content = self.local_content(&attempt, &segment).await?;
        let stored = StoredSegment {
            object: version(&attempt, &segment, attempt.fence.attempt.get()),
            digest: segment.digest,
            length: content.len() as u64,
        };
        let path = self.path(attempt.tenant, &stored.object);
        match object::create(self.store(), &path, content).await {
            Ok(()) => Ok(stored),
            Err(Error::AlreadyExists { .. }) => self.already_there(&path, stored).await,
            Err(error) => Err(object::write_failure(&error)),
        }
    }
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

    /// The name of this very attempt is taken: by an earlier delivery of the same request, or
    /// because the attempt is not wanted any more.
    async fn already_there(
        &self,
        path: &object_store::path::Path,
        stored: StoredSegment,
    ) -> Result<StoredSegment, Failure> {
        let length_max = self.options().segment_bytes_max;
        let content = object::inspect(self.store(), path, length_max).await;
        match content {
            Ok(Content::Bytes { digest, length })
                if digest == stored.digest && length == stored.length =>
            {
                Ok(stored)
            }
            Ok(Content::Bytes { digest, .. }) => Err(Failure::permanent(format!(
                "object {path} holds {digest}, not {}",
                stored.digest
            ))),
            Ok(Content::Tombstone(Tombstone::Fenced)) => Err(Failure::retryable(format!(
                "attempt {} of this put was given up before it wrote; another attempt or a \
                 fresh key may",
                stored.object.attempt
            ))),
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
        let mut found = None;
        for earlier in 1..attempt.fence.attempt.get() {
            let object = version(attempt, segment, earlier);
            let path = self.path(attempt.tenant, &object);
            let fence = Tombstone::Fenced.content();
            match object::create(self.store(), &path, fence).await {
                Ok(()) => continue,
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
            let content = object::inspect(self.store(), &path, length_max).await;
            match content.map_err(|error| error.to_string())? {
                Content::Bytes { digest, length } if digest == segment.digest => {
                    found = Some(StoredSegment {
                        object,
                        digest,
                        length,
                    });
                }
                // What the store spoilt is taken away: nobody was ever told of this version.
                Content::Bytes { .. } => {
                    let buried = object::bury(self.store(), &path).await;
                    buried.map_err(|error| error.to_string())?;
                }
                Content::Tombstone(_) => {}
                Content::Absent => return Err(format!("object {path} was there and is not")),
            }
        }
        Ok(found)
    }
}

impl Reconcile<SegmentPut> for Tiered {
    /// Fenced: before `NotDone` is said, a tombstone stands under the name of every earlier
    /// attempt, and the store refuses to create what exists. No clock is involved.
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

/// The version that one attempt of a put writes.
fn version(attempt: &Attempt, segment: &Segment, ordinal: u32) -> SegmentVersion {
    SegmentVersion {
        name: segment.name.clone(),
        epoch: segment.epoch,
        remote_key: attempt.remote_key,
        attempt: ordinal,
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
