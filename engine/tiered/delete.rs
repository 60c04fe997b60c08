//! Deleting: exactly one version is taken away, and kept from coming back.
//!
//! A tombstone takes the place of the content, in one write. Were the object removed instead, a
//! request of the put that lingers somewhere could create it again.

use orlop_saga::outcome::Failure;

use super::pack::Tiered;
use super::put::SegmentPut;
use super::segment::{Segment, SegmentVersion};
use crate::computation::{Computation, External, Undo};
use crate::host::{
    Attempt, Found, HostFunction, Late, Reconcile, Reconciled, UndoFunction, Undoing,
};

/// Takes one version away; one that is not there is kept from appearing. As an undo it takes away
/// what its put wrote.
#[derive(Clone, Copy, Debug)]
pub struct SegmentDelete;

impl Computation for SegmentDelete {
    const NAME: &'static str = "segment_delete";
    type Input = SegmentVersion;
    type Output = ();
    type Kind = External;
}

impl Undo for SegmentDelete {
    const NAME: &'static str = "segment_put.undo";
    type Argument = Segment;
    type Step = SegmentPut;
}

impl HostFunction<SegmentDelete> for Tiered {
    async fn run(&self, attempt: Attempt, version: SegmentVersion) -> Result<(), Failure> {
        self.bury(&self.path(attempt.tenant, &version)).await
    }
}

impl Reconcile<SegmentDelete> for Tiered {
    /// By time: nothing in the store stops a delete that lingers. It is harmless whenever it
    /// comes, since a version is never written again, but until then nobody can say that it
    /// will not come.
    fn late(&self) -> Late {
        Late::Settles(self.options().delete_settles)
    }

    async fn reconcile(&self, attempt: Attempt, version: SegmentVersion) -> Reconciled<()> {
        self.is_buried(&self.path(attempt.tenant, &version)).await
    }
}

impl UndoFunction<SegmentDelete> for Tiered {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<SegmentDelete>) -> Result<(), Failure> {
        match &undoing.found {
            Found::Done(stored) => self.bury(&self.path(attempt.tenant, &stored.object)).await,
            Found::InDoubt => {
                let (step, segment) = (undoing.step_key, &undoing.argument);
                let places = self.segment_places(attempt.tenant, step, segment);
                places.take_away().await
            }
        }
    }
}
