//! Locators: which manifest of a table is current.
//!
//! A locator is a row of revisions, 1, 2, 3 and so on, each an object of its own that is created
//! on the condition that nothing is there. Whoever creates the revision after the one it started
//! from has moved the locator, and everybody else who started there has not: that is the
//! compare-and-set, on any store that has a conditional create. The current manifest is that of the
//! last revision that is not void.
//!
//! Invariants
//! - A move is of one revision after its base, past void ones only, and says who made it.
//! - Before a move is made again or given up, the first free revision is made void. What an
//!   earlier attempt still has on the wire is meant for that one, since it found all before it
//!   void: so it is refused, or it was there first and is found.
//! - A move that another one was built upon is never taken back.
//!
//! Revisions stay, some hundred bytes each. They may be swept from the oldest on, but not the
//! first and not the current one, once no move that started there can still be on its way.

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore};
use orlop_saga::id::{Fence, TenantId};
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};

use super::manifest::ManifestVersion;
use super::name::TableName;
use super::object::{self, ReadError};
use super::pack::Tiered;
use super::record;

const MARK: &[u8] = b"orlop locator c3b96e0417fa4d52 v1\n";

/// How many void revisions a move goes past.
const VOID_MAX: u64 = 1024;

/// The longest revision that is read, in bytes.
const REVISION_BYTES_MAX: usize = 4096;

/// What a table's locator says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// Which revision says so.
    pub revision: u64,
    /// The current manifest; `None` once the first publication was rolled back.
    pub manifest: Option<ManifestVersion>,
}

/// Why it is not known which manifest is current. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The last revision is not whole. Moves of the locator are stuck there too, until the object
    /// is restored or removed by hand.
    #[error("object {object} is no revision of a locator that is whole")]
    Damaged {
        /// Its object.
        object: Path,
    },
    /// The object store did not answer. Ask again.
    #[error("the locator was not read: {reason}")]
    Unread {
        /// The store's words.
        reason: String,
    },
}

/// What an object of a locator holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Revision {
    /// From here on this manifest is current.
    Points {
        manifest: Option<ManifestVersion>,
        /// Who moved the locator.
        by: RemoteKey,
    },
    /// Nothing changes here.
    Void {
        /// Whose attempts are kept out.
        of: RemoteKey,
        /// Attempts up to this one; `None`: all of them.
        until: Option<Fence>,
    },
}

/// What stands where a revision may be.
pub(super) enum Standing {
    Absent,
    Revision(Revision),
    /// Nothing that is whole.
    Spoilt,
}

/// The locator of one table.
pub(super) struct Locator<'a> {
    pub(super) pack: &'a Tiered,
    pub(super) tenant: TenantId,
    pub(super) table: &'a TableName,
}

/// How a walk over the revisions after a base ended.
pub(super) enum Walk {
    /// It created what it was to create, at this revision.
    Created(u64),
    /// The move of this key stands at this revision.
    Mine(u64),
    /// Another move stands at this revision.
    Theirs(u64),
    /// A fence of this key that is newer than the walker.
    Fenced,
}

impl Locator<'_> {
    fn prefix(&self) -> Path {
        let root = &self.pack.options().root;
        object::named(root, self.tenant, self.table.as_bytes()).join("locator")
    }

    pub(super) fn path(&self, revision: u64) -> Path {
        self.prefix().join(format!("{revision:020}"))
    }

    fn store(&self) -> &dyn ObjectStore {
        self.pack.store()
    }

    pub(super) async fn read(&self, revision: u64) -> Result<Standing, ReadError> {
        let path = self.path(revision);
        let content = object::read(self.store(), &path, REVISION_BYTES_MAX as u64).await?;
        Ok(match content {
            None => Standing::Absent,
            Some(content) => match record::unseal(MARK, &content) {
                Some(revision) => Standing::Revision(revision),
                None => Standing::Spoilt,
            },
        })
    }

    /// Goes over the revisions after `base`, past the void ones, and creates `revision` at the
    /// first that is free. `by` is the walker's fence; `None` if it is above all of `key`.
    pub(super) async fn walk(
        &self,
        base: u64,
        key: RemoteKey,
        by: Option<Fence>,
        revision: &Revision,
    ) -> Result<Walk, Failure> {
        let content = seal(revision)?;
        for at in base.saturating_add(1)..=base.saturating_add(VOID_MAX) {
            let path = self.path(at);
            match object::create(self.store(), &path, content.clone()).await {
                Ok(()) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(object::write_failure(&error)),
            }
            // Read back also what was just created: a locator that is spoilt is no locator.
            match self.read(at).await.map_err(Failure::in_doubt)? {
                Standing::Revision(found) if found == *revision => return Ok(Walk::Created(at)),
                Standing::Revision(Revision::Points { by: other, .. }) if other == key => {
                    return Ok(Walk::Mine(at));
                }
                Standing::Revision(Revision::Points { .. }) => return Ok(Walk::Theirs(at)),
                Standing::Revision(Revision::Void { of, until }) if of == key => {
                    if by.is_some_and(|by| until.is_none_or(|until| until > by)) {
                        return Ok(Walk::Fenced);
                    }
                }
                Standing::Revision(Revision::Void { .. }) => {}
                // It may be what another move was acknowledged by, before it was damaged.
                Standing::Spoilt => {
                    let why = format!("object {path} is no revision that is whole");
                    return Err(Failure::in_doubt(why));
                }
                Standing::Absent => {
                    let why = format!("object {path} was there and is not");
                    return Err(Failure::in_doubt(why));
                }
            }
        }
        Err(Failure::permanent(format!(
            "{VOID_MAX} revisions after {base} are void"
        )))
    }
}

fn seal(revision: &Revision) -> Result<Bytes, Failure> {
    record::seal(MARK, revision, REVISION_BYTES_MAX / 2).map_err(Failure::permanent)
}

impl Tiered {
    /// Which manifest of a table is current; `None` if there never was one. Costs one listing of
    /// the table's revisions, and one read.
    ///
    /// # Errors
    /// [`LocateError`]: it is not known.
    pub async fn locate(
        &self,
        tenant: TenantId,
        table: &TableName,
    ) -> Result<Option<Located>, LocateError> {
        let pack = self;
        let locator = Locator {
            pack,
            tenant,
            table,
        };
        let unread = |reason: String| LocateError::Unread { reason };
        let prefix = locator.prefix();
        let listed = self.store().list(Some(&prefix));
        let numbers = listed.try_filter_map(async |object| {
            let name = object.location.filename().map(str::parse::<u64>);
            Ok(name.and_then(Result::ok))
        });
        let numbers: Result<Vec<u64>, Error> = numbers.try_collect().await;
        let mut numbers = numbers.map_err(|error| unread(error.to_string()))?;
        numbers.sort_unstable();
        for revision in numbers.into_iter().rev() {
            let standing = locator.read(revision).await;
            match standing.map_err(|error| unread(error.to_string()))? {
                Standing::Revision(Revision::Points { manifest, .. }) => {
                    return Ok(Some(Located { revision, manifest }));
                }
                Standing::Revision(Revision::Void { .. }) | Standing::Absent => {}
                Standing::Spoilt => {
                    let object = locator.path(revision);
                    return Err(LocateError::Damaged { object });
                }
            }
        }
        Ok(None)
    }
}
