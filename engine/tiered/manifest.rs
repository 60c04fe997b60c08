//! Manifests: the list of segments that a table consists of, each list an object of its own.
//!
//! A manifest is immutable and means nothing by itself: a reader comes to it through the table's
//! locator. So one that was put and never located can be taken away without anybody noticing.

use bytes::Bytes;
use object_store::path::Path;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};

use super::name::TableName;
use super::object;
use super::pack::Tiered;
use super::places::{Placed, Places};
use super::record;
use super::segment::StoredSegment;
use super::tombstone::Tombstone;
use crate::computation::{Computation, External, Undo};
use crate::host::{
    Attempt, Found, HostFunction, Late, Reconcile, Reconciled, UndoFunction, Undoing,
};

const MARK: &[u8] = b"orlop manifest 5d0f1a7c22e94b38 v1\n";

/// What a table consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The table.
    pub table: TableName,
    /// Its segments, in the order that the embedder gave them.
    pub segments: Vec<StoredSegment>,
    /// What else the embedder keeps with the list; the pack does not look into it.
    pub notes: Vec<u8>,
}

/// One manifest in the object store: what exactly one put wrote. Meaningful within the tenant and
/// the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ManifestVersion {
    /// What the put is recognised by.
    pub remote_key: RemoteKey,
    /// Which place among those of the put, from 0.
    pub place: u32,
}

/// Why there is no manifest to read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It was taken away, or never was there. Locate the table again.
    #[error("manifest {object} is not in the object store")]
    Gone {
        /// Its object.
        object: Path,
    },
    /// Its object holds something else. Restore it, or roll the table back.
    #[error("object {object} is no manifest that is whole")]
    Damaged {
        /// Its object.
        object: Path,
    },
    /// The object store did not answer, or not with an object of a size that is read. Read again.
    #[error("manifest {object} was not read: {reason}")]
    Unread {
        /// Its object.
        object: Path,
        /// The store's words.
        reason: String,
    },
}

impl Tiered {
    /// The name of the object that holds a manifest.
    pub fn manifest_path(
        &self,
        tenant: TenantId,
        table: &TableName,
        version: &ManifestVersion,
    ) -> Path {
        let ManifestVersion { remote_key, place } = version;
        object::named(&self.options().root, tenant, table.as_bytes())
            .join("manifest")
            .join(format!("{remote_key}.{place}"))
    }

    /// Reads a manifest, and checks that it is whole.
    ///
    /// # Errors
    /// [`ManifestError`]: there is none to be had.
    pub async fn manifest(
        &self,
        tenant: TenantId,
        table: &TableName,
        version: &ManifestVersion,
    ) -> Result<Manifest, ManifestError> {
        let object = self.manifest_path(tenant, table, version);
        let length_max = self.options().segment_bytes_max;
        match object::read(self.store(), &object, length_max).await {
            Ok(None) => Err(ManifestError::Gone { object }),
            Ok(Some(content)) if Tombstone::read(&content).is_some() => {
                Err(ManifestError::Gone { object })
            }
            Ok(Some(content)) => {
                record::unseal(MARK, &content).ok_or(ManifestError::Damaged { object })
            }
            Err(error) => Err(ManifestError::Unread {
                object,
                reason: error.to_string(),
            }),
        }
    }

    fn manifest_places<'a>(
        &'a self,
        tenant: TenantId,
        remote_key: RemoteKey,
        table: &'a TableName,
    ) -> Places<'a, impl Fn(u32) -> Path + Send + Sync + 'a> {
        Places {
            pack: self,
            path: move |place| {
                self.manifest_path(tenant, table, &ManifestVersion { remote_key, place })
            },
        }
    }
}

/// Puts a manifest where no reader looks yet, and reads it back.
#[derive(Clone, Copy, Debug)]
pub struct ManifestPut;

impl Computation for ManifestPut {
    const NAME: &'static str = "manifest_put";
    type Input = Manifest;
    type Output = ManifestVersion;
    type Kind = External;
}

fn sealed(manifest: &Manifest) -> Result<(Bytes, Digest), Failure> {
    let content = record::seal(MARK, manifest, usize::MAX).map_err(Failure::permanent)?;
    let digest = Digest::of(&content);
    Ok((content, digest))
}

fn version(remote_key: RemoteKey, placed: &Placed) -> ManifestVersion {
    let place = placed.place;
    ManifestVersion { remote_key, place }
}

impl HostFunction<ManifestPut> for Tiered {
    async fn run(&self, attempt: Attempt, manifest: Manifest) -> Result<ManifestVersion, Failure> {
        let (content, digest) = sealed(&manifest)?;
        let places = self.manifest_places(attempt.tenant, attempt.remote_key, &manifest.table);
        let placed = places.put_checked(attempt.fence, &content, digest).await?;
        Ok(version(attempt.remote_key, &placed))
    }
}

impl Reconcile<ManifestPut> for Tiered {
    /// Fenced, as the put of a segment is.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, manifest: Manifest) -> Reconciled<ManifestVersion> {
        let digest = match sealed(&manifest) {
            Ok((_, digest)) => digest,
            Err(failure) => return Reconciled::Unknown(failure.reason().to_owned()),
        };
        let places = self.manifest_places(attempt.tenant, attempt.remote_key, &manifest.table);
        match places.fence_off(attempt.fence, digest).await {
            Ok(Some(placed)) => Reconciled::Done(version(attempt.remote_key, &placed)),
            Ok(None) => Reconciled::NotDone,
            Err(reason) => Reconciled::Unknown(reason),
        }
    }
}

/// Takes one manifest away, and keeps it from coming back. As an undo it takes away what its put
/// wrote.
#[derive(Clone, Copy, Debug)]
pub struct ManifestDelete;

impl Undo for ManifestDelete {
    const NAME: &'static str = "manifest_put.undo";
    type Argument = TableName;
    type Step = ManifestPut;
}

impl UndoFunction<ManifestDelete> for Tiered {
    async fn undo(
        &self,
        attempt: Attempt,
        undoing: Undoing<ManifestDelete>,
    ) -> Result<(), Failure> {
        let (tenant, table) = (attempt.tenant, &undoing.argument);
        match &undoing.found {
            Found::Done(version) => self.bury(&self.manifest_path(tenant, table, version)).await,
            Found::InDoubt => {
                let places = self.manifest_places(tenant, undoing.step_key, table);
                places.take_away().await
            }
        }
    }
}

/// Which manifest of which table is to be taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableManifest {
    /// The table.
    pub table: TableName,
    /// The manifest.
    pub manifest: ManifestVersion,
}

impl Computation for ManifestDelete {
    const NAME: &'static str = "manifest_delete";
    type Input = TableManifest;
    type Output = ();
    type Kind = External;
}

impl HostFunction<ManifestDelete> for Tiered {
    async fn run(&self, attempt: Attempt, input: TableManifest) -> Result<(), Failure> {
        let TableManifest { table, manifest } = &input;
        self.bury(&self.manifest_path(attempt.tenant, table, manifest))
            .await
    }
}

impl Reconcile<ManifestDelete> for Tiered {
    /// By time, as the delete of a segment is.
    fn late(&self) -> Late {
        Late::Settles(self.options().delete_settles)
    }

    async fn reconcile(&self, attempt: Attempt, input: TableManifest) -> Reconciled<()> {
        let TableManifest { table, manifest } = &input;
        self.is_buried(&self.manifest_path(attempt.tenant, table, manifest))
            .await
    }
}
