//! Places: the names that one put may use for its object, one after the other.
//!
//! The versions of one put have places, 0, 1, 2 and so on. An attempt goes through them in order,
//! past those that were given up before it, and creates its object in the first that is free.
//!
//! Invariants
//! - An attempt creates one object, under the remote key of its own put, and touches no other.
//! - Before a put is made again, the first free place is fenced off. What an earlier attempt still
//!   has on the wire is meant for that place, since it found every place before it taken: so it is
//!   refused, or it was there first and is found.
//! - An attempt that meets a fence newer than itself, or something that was taken away, writes
//!   nothing.

use bytes::Bytes;
use object_store::Error;
use object_store::path::Path;
use orlop_saga::digest::Digest;
use orlop_saga::id::Fence;
use orlop_saga::outcome::{Disposition, Failure};

use super::object::{self, Content};
use super::pack::Tiered;
use super::tombstone::Tombstone;
use crate::host::Reconciled;

/// How many places one put has. Each time that an attempt is given up costs one.
pub(super) const PLACES_MAX: u32 = 1024;

/// The places of one put.
pub(super) struct Places<'a, F> {
    /// Where objects are.
    pub(super) pack: &'a Tiered,
    /// The name of the object in a place.
    pub(super) path: F,
}

/// What a put has written.
pub(super) struct Placed {
    /// In which place.
    pub(super) place: u32,
    /// How many bytes.
    pub(super) length: u64,
}

/// By what a place is taken.
enum Taken {
    /// By what is put: an earlier delivery of the same request.
    Done,
    /// By a fence.
    Fenced { by: Fence },
}

impl<F: Fn(u32) -> Path + Send + Sync> Places<'_, F> {
    /// Creates the object in the first place that is free, on behalf of the attempt `by`.
    pub(super) async fn put(
        &self,
        by: Fence,
        content: &Bytes,
        digest: Digest,
    ) -> Result<Placed, Failure> {
        let length = content.len() as u64;
        for place in 0..PLACES_MAX {
            let path = (self.path)(place);
            match object::create(self.pack.store(), &path, content.clone()).await {
                Ok(()) => return Ok(Placed { place, length }),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(object::write_failure(&error)),
            }
            match self.taken(&path, digest).await? {
                Taken::Done => return Ok(Placed { place, length }),
                Taken::Fenced { by: newer } if newer > by => {
                    return Err(Failure::permanent("a later attempt has given this one up"));
                }
                Taken::Fenced { .. } => {}
            }
        }
        Err(Failure::permanent(
            "this put was given up too often; put it again under a fresh key",
        ))
    }

    /// The same, read back before it is believed: what the store spoilt is in doubt.
    pub(super) async fn put_checked(
        &self,
        by: Fence,
        content: &Bytes,
        digest: Digest,
    ) -> Result<Placed, Failure> {
        let placed = self.put(by, content, digest).await?;
        match self.taken(&(self.path)(placed.place), digest).await? {
            Taken::Done => Ok(placed),
            Taken::Fenced { .. } => Err(Failure::in_doubt("a later attempt has fenced this off")),
        }
    }

    /// The first place that should be free is taken.
    async fn taken(&self, path: &Path, digest: Digest) -> Result<Taken, Failure> {
        match self.inspect(path).await {
            Ok(Content::Bytes { digest: found, .. }) if found == digest => Ok(Taken::Done),
            // An earlier delivery that the store spoilt: reconciliation clears it away.
            Ok(Content::Bytes { digest: found, .. }) => Err(Failure::in_doubt(format!(
                "object {path} holds {found}, not {digest}"
            ))),
            Ok(Content::Tombstone(Tombstone::Fenced { by })) => Ok(Taken::Fenced { by }),
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
    pub(super) async fn fence_off(
        &self,
        by: Fence,
        digest: Digest,
    ) -> Result<Option<Placed>, String> {
        let store = self.pack.store();
        for place in 0..PLACES_MAX {
            let path = (self.path)(place);
            match object::fence(store, &path, by).await {
                Ok(()) => return Ok(None),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
            let content = self.inspect(&path).await;
            match content.map_err(|error| error.to_string())? {
                Content::Bytes {
                    digest: found,
                    length,
                } if found == digest => return Ok(Some(Placed { place, length })),
                // What the store spoilt gives way to the fence: nobody was told of this version.
                Content::Bytes { .. } => {
                    let buried = object::bury(store, &path, Tombstone::Fenced { by }).await;
                    return buried.map(|()| None).map_err(|error| error.to_string());
                }
                Content::Tombstone(_) => {}
                Content::Absent => return Err(format!("object {path} was there and is not")),
            }
        }
        Err(format!("all {PLACES_MAX} places of this put are taken"))
    }

    /// Takes away what an attempt of the put wrote, wherever it did, and has no attempt write any
    /// more: the first free place, which is where one may still be writing to, is closed for good.
    pub(super) async fn take_away(&self) -> Result<(), Failure> {
        let store = self.pack.store();
        for place in 0..PLACES_MAX {
            let path = (self.path)(place);
            match object::create(store, &path, Tombstone::Removed.content()).await {
                Ok(()) => return Ok(()),
                Err(Error::AlreadyExists { .. }) => {
                    let buried = object::bury(store, &path, Tombstone::Removed).await;
                    buried.map_err(|error| object::write_failure(&error))?;
                }
                Err(error) => return Err(object::write_failure(&error)),
            }
        }
        Err(Failure::permanent(format!(
            "all {PLACES_MAX} places of the put are taken"
        )))
    }

    async fn inspect(&self, path: &Path) -> Result<Content, object::ReadError> {
        let length_max = self.pack.options().segment_bytes_max;
        object::inspect(self.pack.store(), path, length_max).await
    }
}

impl Tiered {
    /// Takes away the object in one place: every place before it is fenced off, and no attempt
    /// went on to the next. No failure is for good: what a store that refuses still has must go
    /// once it does not, and past a pivot a failure for good would have to stay.
    pub(super) async fn bury(&self, path: &Path) -> Result<(), Failure> {
        let buried = object::bury(self.store(), path, Tombstone::Removed).await;
        buried.map_err(|error| match object::write_failure(&error).disposition() {
            Disposition::Permanent | Disposition::Retryable => Failure::retryable(error),
            Disposition::InDoubt => Failure::in_doubt(error),
        })
    }

    /// Whether an object was taken away, for who does not know the end of a delete.
    pub(super) async fn is_buried(&self, path: &Path) -> Reconciled<()> {
        let length_max = self.options().segment_bytes_max;
        match object::inspect(self.store(), path, length_max).await {
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
