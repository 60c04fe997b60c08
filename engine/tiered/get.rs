//! Getting: a version comes back to the local disk.

use bytes::Bytes;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use orlop_saga::outcome::Failure;

use super::object;
use super::pack::Tiered;
use super::put::without_doubt;
use super::segment::StoredSegment;
use super::stat::{check, gone};
use super::tombstone::Tombstone;
use crate::computation::{Computation, External};
use crate::host::{Attempt, HostFunction, Late, Reconcile, Reconciled};

/// Downloads a version, checks it, and has the embedder keep it as the local copy. The version
/// stays. It fails for good if the version is gone or holds anything else than it should; the
/// local copy is then as it was.
#[derive(Clone, Copy, Debug)]
pub struct SegmentGet;

impl Computation for SegmentGet {
    const NAME: &'static str = "segment_get";
    type Input = StoredSegment;
    type Output = ();
    type Kind = External;
}

impl HostFunction<SegmentGet> for Tiered {
    async fn run(&self, attempt: Attempt, stored: StoredSegment) -> Result<(), Failure> {
        let tenant = attempt.tenant;
        let content = self.download(tenant, &stored).await?;
        let name = &stored.object.name;
        let keep = self.local().with(tenant, name, move |local, name| {
            local
                .restore(tenant, name, &content)
                .map_err(Failure::in_doubt)
        });
        keep.await
    }
}

impl Tiered {
    /// The content of a version, checked.
    pub(super) async fn download(
        &self,
        tenant: TenantId,
        stored: &StoredSegment,
    ) -> Result<Bytes, Failure> {
        let path = self.path(tenant, &stored.object);
        let length_max = self.options().segment_bytes_max;
        let read = object::read(self.store(), &path, length_max).await;
        let content = read
            .map_err(|error| object::read_failure(&error))?
            .filter(|content| Tombstone::read(content).is_none())
            .ok_or_else(|| gone(stored))?;
        let digest = object::digest_off_thread(content.clone()).await;
        check(stored, digest, content.len() as u64)?;
        Ok(content)
    }

    /// Whether the local copy is what a version holds, for who does not know the end of bringing
    /// it back.
    pub(super) async fn is_local(
        &self,
        tenant: TenantId,
        stored: &StoredSegment,
    ) -> Reconciled<()> {
        let (name, expected) = (&stored.object.name, stored.digest);
        let look = self.local().with(tenant, name, move |local, name| {
            let content = local.read(tenant, name).map_err(Failure::retryable)?;
            Ok(content.is_some_and(|content| Digest::of(&content) == expected))
        });
        match look.await.map_err(without_doubt) {
            Ok(true) => Reconciled::Done(()),
            Ok(false) => Reconciled::NotDone,
            Err(failure) => Reconciled::Unknown(failure.reason().to_owned()),
        }
    }
}

impl Reconcile<SegmentGet> for Tiered {
    /// Fenced: attempts end with their process, and operations on one local copy are in a row, so
    /// that none is on its way once the copy was looked at.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, stored: StoredSegment) -> Reconciled<()> {
        self.is_local(attempt.tenant, &stored).await
    }
}
