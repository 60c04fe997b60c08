//! Putting: the local copy becomes a version in the object store.

use bytes::Bytes;
use object_store::path::Path;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;

use super::pack::Tiered;
use super::places::{Placed, Places};
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
        let places = self.segment_places(attempt.tenant, attempt.remote_key, &segment);
        let placed = places.put(attempt.fence, &content, segment.digest).await?;
        Ok(stored(attempt.remote_key, &segment, &placed))
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

    /// The places of the put of a segment under a remote key.
    pub(super) fn segment_places<'a>(
        &'a self,
        tenant: TenantId,
        remote_key: RemoteKey,
        segment: &'a Segment,
    ) -> Places<'a, impl Fn(u32) -> Path + Send + Sync + 'a> {
        Places {
            pack: self,
            path: move |place| self.path(tenant, &version(remote_key, segment, place)),
        }
    }
}

impl Reconcile<SegmentPut> for Tiered {
    /// Fenced: before `NotDone` is said, a tombstone stands in the place that an earlier attempt
    /// may still be writing to, and the store refuses to create what exists. No clock is involved.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, segment: Segment) -> Reconciled<StoredSegment> {
        let places = self.segment_places(attempt.tenant, attempt.remote_key, &segment);
        match places.fence_off(attempt.fence, segment.digest).await {
            Ok(Some(placed)) => Reconciled::Done(stored(attempt.remote_key, &segment, &placed)),
            Ok(None) => Reconciled::NotDone,
            Err(reason) => Reconciled::Unknown(reason),
        }
    }
}

fn stored(remote_key: RemoteKey, segment: &Segment, placed: &Placed) -> StoredSegment {
    StoredSegment {
        object: version(remote_key, segment, placed.place),
        digest: segment.digest,
        length: placed.length,
    }
}

/// The version of a put in one of its places.
fn version(remote_key: RemoteKey, segment: &Segment, place: u32) -> SegmentVersion {
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
