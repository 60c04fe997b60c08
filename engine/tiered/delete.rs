//! Deleting: exactly one version is taken away, and kept from coming back.
//!
//! A tombstone takes the place of the content, in one write. Were the object removed instead, a
//! request of the put that lingers somewhere could create it again.

use object_store::Error;
use orlop_saga::outcome::Failure;

use super::object::{self, Content};
use super::pack::Tiered;
use super::put::{self, PLACES_MAX, SegmentPut};
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
        let buried = object::bury(self.store(), &path, Tombstone::Removed).await;
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
            Ok(
                Content::Absent
                | Content::Bytes { .. }
                | Content::Tombstone(Tombstone::Fenced { .. }),
            ) => Reconciled::NotDone,
            Err(error) => Reconciled::Unknown(error.to_string()),
        }
    }
}

impl UndoFunction<SegmentDelete> for Tiered {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<SegmentDelete>) -> Result<(), Failure> {
        match &undoing.found {
            // Every place before it is fenced off, and no attempt went on to the next.
            Found::Done(stored) => {
                let path = self.path(attempt.tenant, &stored.object);
                let buried = object::bury(self.store(), &path, Tombstone::Removed).await;
                buried.map_err(|error| object::write_failure(&error))
            }
            Found::InDoubt => self.undo_in_doubt(&attempt, &undoing).await,
        }
    }
}

impl Tiered {
    /// Takes away what an attempt of the put wrote, wherever it did, and fences off the first free
    /// place, which is where another one may still be writing to.
    async fn undo_in_doubt(
        &self,
        attempt: &Attempt,
        undoing: &Undoing<SegmentDelete>,
    ) -> Result<(), Failure> {
        for place in 0..PLACES_MAX {
            let version = put::version(undoing.step_key, &undoing.argument, place);
            let path = self.path(attempt.tenant, &version);
            match object::fence(self.store(), &path, attempt.fence).await {
                Ok(()) => return Ok(()),
                Err(Error::AlreadyExists { .. }) => {
                    let buried = object::bury(self.store(), &path, Tombstone::Removed).await;
                    buried.map_err(|error| object::write_failure(&error))?;
                }
                Err(error) => return Err(object::write_failure(&error)),
            }
        }
        Err(Failure::permanent(format!(
            "all {PLACES_MAX} places of the put are taken"
        )))
    }
}
