//! Deleting: exactly one version is taken away, and kept from coming back.
//!
//! A tombstone takes the place of the content, in one write. Were the object removed instead, a
//! request of the put that lingers somewhere could create it again.

use object_store::Error;
use orlop_saga::outcome::Failure;

use super::object::{self, Content};
use super::pack::Tiered;
use super::put::SegmentPut;
use super::segment::{Segment, SegmentVersion};
use super::tombstone::Tombstone;
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
        let path = self.path(attempt.tenant, &version);
        let buried = object::bury(self.store(), &path).await;
        buried.map_err(|error| object::write_failure(&error))
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
        let path = self.path(attempt.tenant, &version);
        let length_max = self.options().segment_bytes_max;
        match object::inspect(self.store(), &path, length_max).await {
            Ok(Content::Tombstone(Tombstone::Removed)) => Reconciled::Done(()),
            Ok(Content::Absent | Content::Bytes { .. } | Content::Tombstone(Tombstone::Fenced)) => {
                Reconciled::NotDone
            }
            Err(error) => Reconciled::Unknown(error.to_string()),
        }
    }
}

impl UndoFunction<SegmentDelete> for Tiered {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<SegmentDelete>) -> Result<(), Failure> {
        match &undoing.found {
            // Every attempt before the one that is done has been fenced off.
            Found::Done(stored) => {
                let path = self.path(attempt.tenant, &stored.object);
                let buried = object::bury(self.store(), &path).await;
                buried.map_err(|error| object::write_failure(&error))
            }
            Found::InDoubt => self.undo_in_doubt(&attempt, &undoing).await,
        }
    }
}

impl Tiered {
    /// Stops every attempt of the put, and takes away what one of them wrote. The ordinals of the
    /// undo's own attempts follow those of the put.
    async fn undo_in_doubt(
        &self,
        attempt: &Attempt,
        undoing: &Undoing<SegmentDelete>,
    ) -> Result<(), Failure> {
        for earlier in 1..attempt.fence.attempt.get() {
            let version = SegmentVersion {
                name: undoing.argument.name.clone(),
                epoch: undoing.argument.epoch,
                remote_key: undoing.step_key,
                attempt: earlier,
            };
            let path = self.path(attempt.tenant, &version);
            let fence = Tombstone::Fenced.content();
            match object::create(self.store(), &path, fence).await {
                Ok(()) => {}
                Err(Error::AlreadyExists { .. }) => object::bury(self.store(), &path)
                    .await
                    .map_err(|error| object::write_failure(&error))?,
                Err(error) => return Err(object::write_failure(&error)),
            }
        }
        Ok(())
    }
}
