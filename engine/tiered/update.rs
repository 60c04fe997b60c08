//! Moving a locator: a manifest becomes current, if the one it was made from still is.

use orlop_saga::id::Fence;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};

use super::locator::{Locator, Revision, Standing, Walk};
use super::manifest::ManifestVersion;
use super::name::TableName;
use super::pack::Tiered;
use crate::computation::{Computation, External, Undo};
use crate::host::{
    Attempt, Found, HostFunction, Late, Reconcile, Reconciled, UndoFunction, Undoing,
};

/// What is to become of a locator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatorMove {
    /// Of which table.
    pub table: TableName,
    /// The revision that must be current; 0 where there is none yet.
    pub base: u64,
    /// The manifest that is to be current.
    pub manifest: Option<ManifestVersion>,
}

/// What became of a locator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatorMoved {
    /// The revision that is current now.
    pub revision: u64,
    /// The manifest that was current at the base.
    pub previous: Option<ManifestVersion>,
}

/// Moves a locator, if it stands where the caller says. It fails for good if somebody else has
/// moved it.
#[derive(Clone, Copy, Debug)]
pub struct LocatorUpdate;

impl Computation for LocatorUpdate {
    const NAME: &'static str = "locator_update";
    type Input = LocatorMove;
    type Output = LocatorMoved;
    type Kind = External;
}

impl Locator<'_> {
    /// The manifest that a revision points to.
    async fn manifest_at(&self, base: u64) -> Result<Option<ManifestVersion>, Failure> {
        if base == 0 {
            return Ok(None);
        }
        let path = self.path(base);
        match self.read(base).await.map_err(Failure::retryable)? {
            Standing::Revision(Revision::Points { manifest, .. }) => Ok(manifest),
            Standing::Revision(Revision::Void { .. }) | Standing::Absent => {
                Err(Failure::permanent(format!(
                    "there is no revision {base}: {path} is void or absent"
                )))
            }
            Standing::Spoilt => Err(Failure::permanent(format!(
                "object {path} is no revision that is whole"
            ))),
        }
    }

    /// Has no attempt of a move write any more, up to a fence or at all; the revision it made, if
    /// it made one.
    async fn close(
        &self,
        base: u64,
        key: RemoteKey,
        until: Option<Fence>,
    ) -> Result<Option<u64>, Failure> {
        let void = Revision::Void { of: key, until };
        // All that counts is who moved the locator; older fences are gone past.
        match self.walk(base, key, None, &void).await? {
            Walk::Mine(at) => Ok(Some(at)),
            Walk::Created(_) | Walk::Theirs(_) | Walk::Fenced => Ok(None),
        }
    }
}

impl HostFunction<LocatorUpdate> for Tiered {
    async fn run(&self, attempt: Attempt, input: LocatorMove) -> Result<LocatorMoved, Failure> {
        let LocatorMove {
            table,
            base,
            manifest,
        } = &input;
        let locator = self.locator(&attempt, table);
        let previous = locator.manifest_at(*base).await?;
        let key = attempt.remote_key;
        let revision = Revision::Points {
            manifest: manifest.clone(),
            by: key,
        };
        match locator
            .walk(*base, key, Some(attempt.fence), &revision)
            .await?
        {
            Walk::Created(revision) | Walk::Mine(revision) => {
                Ok(LocatorMoved { revision, previous })
            }
            Walk::Theirs(at) => Err(Failure::permanent(format!(
                "the locator of {table} has gone on from revision {base} to {at}"
            ))),
            Walk::Fenced => Err(Failure::permanent("a later attempt has given this one up")),
        }
    }
}

impl Tiered {
    fn locator<'a>(&'a self, attempt: &Attempt, table: &'a TableName) -> Locator<'a> {
        Locator {
            pack: self,
            tenant: attempt.tenant,
            table,
        }
    }
}

impl Reconcile<LocatorUpdate> for Tiered {
    /// Fenced: before `NotDone` is said, the revision that an earlier attempt may still be
    /// writing to is taken, and the store refuses to create what exists.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: LocatorMove) -> Reconciled<LocatorMoved> {
        let locator = self.locator(&attempt, &input.table);
        let asked = async {
            let closed = locator
                .close(input.base, attempt.remote_key, Some(attempt.fence))
                .await?;
            let Some(revision) = closed else {
                return Ok(None);
            };
            let previous = locator.manifest_at(input.base).await?;
            Ok::<_, Failure>(Some(LocatorMoved { revision, previous }))
        };
        match asked.await {
            Ok(Some(moved)) => Reconciled::Done(moved),
            Ok(None) => Reconciled::NotDone,
            Err(failure) => Reconciled::Unknown(failure.reason().to_owned()),
        }
    }
}

/// Moves a locator back to the manifest before, by one more revision. If somebody has built upon
/// the move, nothing is changed, and the undo fails for good.
#[derive(Clone, Copy, Debug)]
pub struct LocatorRestore;

impl Undo for LocatorRestore {
    const NAME: &'static str = "locator_update.undo";
    type Argument = LocatorMove;
    type Step = LocatorUpdate;
}

impl UndoFunction<LocatorRestore> for Tiered {
    async fn undo(
        &self,
        attempt: Attempt,
        undoing: Undoing<LocatorRestore>,
    ) -> Result<(), Failure> {
        let LocatorMove { table, base, .. } = &undoing.argument;
        let locator = self.locator(&attempt, table);
        let (at, previous) = match undoing.found {
            Found::Done(LocatorMoved { revision, previous }) => (revision, previous),
            Found::InDoubt => match locator.close(*base, undoing.step_key, None).await? {
                Some(at) => (at, locator.manifest_at(*base).await?),
                None => return Ok(()),
            },
        };
        // Every attempt of this undo writes the same: the fence would tell nothing apart.
        let by = attempt.remote_key;
        let back = Revision::Points {
            manifest: previous,
            by,
        };
        match locator.walk(at, by, None, &back).await? {
            Walk::Created(_) | Walk::Mine(_) | Walk::Fenced => Ok(()),
            Walk::Theirs(later) => Err(Failure::permanent(format!(
                "revision {at} of the locator of {table} cannot be taken back: {later} was built \
                 upon it"
            ))),
        }
    }
}
