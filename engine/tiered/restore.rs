//! Restoring: a version comes back to the local disk, where no copy is.

use orlop_saga::digest::Digest;
use orlop_saga::outcome::Failure;

use super::pack::Tiered;
use super::segment::StoredSegment;
use crate::computation::{Computation, External, Undo};
use crate::host::{Attempt, HostFunction, Late, Reconcile, Reconciled, UndoFunction, Undoing};

/// Brings a version back as the local copy, checked. It fails for good if the version is gone or
/// holds anything else than it should, and if there is a local copy with other content: nothing
/// else may have those bytes. The version stays.
///
/// As an undo it removes a local copy that is what the version holds; any other is left alone.
#[derive(Clone, Copy, Debug)]
pub struct SegmentRestore;

impl Computation for SegmentRestore {
    const NAME: &'static str = "segment_restore";
    type Input = StoredSegment;
    type Output = ();
    type Kind = External;
}

impl Undo for SegmentRestore {
    const NAME: &'static str = "segment_restore.undo";
    type Argument = StoredSegment;
    type Step = Self;
}

impl HostFunction<SegmentRestore> for Tiered {
    async fn run(&self, attempt: Attempt, stored: StoredSegment) -> Result<(), Failure> {
        let tenant = attempt.tenant;
        let content = self.download(tenant, &stored).await?;
        let (name, expected) = (&stored.object.name, stored.digest);
        let keep = self.local().with(tenant, name, move |local, name| {
            match local.read(tenant, name).map_err(Failure::retryable)? {
                None => {
                    let kept = local.restore(tenant, name, &content);
                    kept.map_err(Failure::in_doubt)
                }
                Some(there) => match Digest::of(&there) {
                    digest if digest == expected => Ok(()),
                    digest => Err(Failure::permanent(format!(
                        "the local copy of {name} is {digest}, not {expected}"
                    ))),
                },
            }
        });
        keep.await
    }
}

impl Reconcile<SegmentRestore> for Tiered {
    /// Fenced, as the get of a segment is.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, stored: StoredSegment) -> Reconciled<()> {
        self.is_local(attempt.tenant, &stored).await
    }
}

impl UndoFunction<SegmentRestore> for Tiered {
    async fn undo(
        &self,
        attempt: Attempt,
        undoing: Undoing<SegmentRestore>,
    ) -> Result<(), Failure> {
        let tenant = attempt.tenant;
        let StoredSegment { object, digest, .. } = undoing.argument;
        let remove = self.local().with(tenant, &object.name, move |local, name| {
            match local.read(tenant, name).map_err(Failure::retryable)? {
                Some(content) if Digest::of(&content) == digest => {
                    local.remove(tenant, name).map_err(Failure::in_doubt)
                }
                Some(_) | None => Ok(()),
            }
        });
        remove.await
    }
}
