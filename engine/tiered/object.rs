//! Objects: their names, and what can be said of what is stored under one.

use std::borrow::Cow;

use object_store::path::{Path, PathPart};
use object_store::{Error, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};
use orlop_saga::digest::Digest;
use orlop_saga::id::{Fence, TenantId};
use orlop_saga::outcome::Failure;

use super::segment::SegmentVersion;
use super::tombstone::Tombstone;

/// The longest part of a path that file systems take is 255 bytes; some room is left for what
/// stores append while they write.
const PART_BYTES_MAX: usize = 200;

/// The name of a version: `root/tenant/segment/epoch/remote key.place`.
pub(crate) fn path(root: &Path, tenant: TenantId, version: &SegmentVersion) -> Path {
    let SegmentVersion {
        name,
        epoch,
        remote_key,
        place,
    } = version;
    named(root, tenant, name.as_bytes())
        .join(format!("{epoch:020}"))
        .join(format!("{remote_key}.{place}"))
}

/// What the names of all objects of something that a tenant has named begin with. What follows
/// tells segments (an epoch of 20 digits) from everything else (a word).
pub(crate) fn named(root: &Path, tenant: TenantId, name: &[u8]) -> Path {
    root.clone()
        .join(format!("{:016x}", tenant.to_u64()))
        .join(PathPart::from(name_part(name).as_ref()))
}

/// A name as the bytes of one part of a path, which will be percent-encoded where they must be. A
/// long one is cut and told apart by its digest.
fn name_part(whole: &[u8]) -> Cow<'_, [u8]> {
    if PathPart::from(whole).as_ref().len() <= PART_BYTES_MAX {
        return Cow::Borrowed(whole);
    }
    let digest = format!("-{}", Digest::of(whole));
    // An encoded byte takes three.
    let kept = (PART_BYTES_MAX - digest.len()) / 3;
    let head = whole.iter().take(kept).copied();
    Cow::Owned(head.chain(digest.bytes()).collect())
}

/// What is stored under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing.
    Absent,
    /// A tombstone.
    Tombstone(Tombstone),
    /// Bytes.
    Bytes { digest: Digest, length: u64 },
}

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is larger than any segment may be.
    #[error("object {path} has {length} bytes, at most {length_max} are read")]
    TooLarge {
        /// Which.
        path: Path,
        /// Its length.
        length: u64,
        /// The most.
        length_max: u64,
    },
    /// The store said no, or nothing.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Reads the bytes of an object; `None` if there is none.
pub(crate) async fn read(
    store: &dyn ObjectStore,
    path: &Path,
    length_max: u64,
) -> Result<Option<bytes::Bytes>, ReadError> {
    let got = match store.get_opts(path, GetOptions::default()).await {
        Ok(got) => got,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = got.meta.size;
    if length > length_max {
        return Err(ReadError::TooLarge {
            path: path.clone(),
            length,
            length_max,
        });
    }
    Ok(Some(got.bytes().await?))
}

/// Reads and hashes an object.
pub(crate) async fn inspect(
    store: &dyn ObjectStore,
    path: &Path,
    length_max: u64,
) -> Result<Content, ReadError> {
    Ok(match read(store, path, length_max).await? {
        None => Content::Absent,
        Some(bytes) => match Tombstone::read(&bytes) {
            Some(tombstone) => Content::Tombstone(tombstone),
            None => Content::Bytes {
                digest: digest_off_thread(bytes.clone()).await,
                length: bytes.len() as u64,
            },
        },
    })
}

/// Hashes where that may take its time.
pub(crate) async fn digest_off_thread(bytes: bytes::Bytes) -> Digest {
    let kept = bytes.clone();
    let hashing = tokio::task::spawn_blocking(move || Digest::of(&bytes));
    match hashing.await {
        Ok(digest) => digest,
        // The runtime takes no more of it: hash here.
        Err(_) => Digest::of(&kept),
    }
}

/// Creates an object if nothing is there.
pub(crate) async fn create(
    store: &dyn ObjectStore,
    path: &Path,
    content: impl Into<PutPayload>,
) -> Result<(), Error> {
    let options = PutOptions::from(PutMode::Create);
    store
        .put_opts(path, content.into(), options)
        .await
        .map(|_| ())
}

/// Fences a place off if nothing is there.
pub(crate) async fn fence(store: &dyn ObjectStore, path: &Path, by: Fence) -> Result<(), Error> {
    create(store, path, Tombstone::Fenced { by }.content()).await
}

/// Puts a tombstone over whatever is there.
pub(crate) async fn bury(
    store: &dyn ObjectStore,
    path: &Path,
    tombstone: Tombstone,
) -> Result<(), Error> {
    let options = PutOptions::from(PutMode::Overwrite);
    let content = tombstone.content();
    store
        .put_opts(path, content.into(), options)
        .await
        .map(|_| ())
}

/// What a failed write says of its effect. A store that refuses has written nothing; of any other
/// error nobody knows whether the reply was lost or the request.
pub(crate) fn write_failure(error: &Error) -> Failure {
    if is_refusal(error) {
        Failure::permanent(error)
    } else {
        Failure::in_doubt(error)
    }
}

/// What a failed read says. It had no effect in any case.
pub(crate) fn read_failure(error: &ReadError) -> Failure {
    match error {
        ReadError::TooLarge { .. } => Failure::permanent(error),
        ReadError::Store(store) if is_refusal(store) => Failure::permanent(error),
        ReadError::Store(_) => Failure::retryable(error),
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

#[cfg(test)]
mod tests {
    use orlop_saga::id::{Epoch, StoreId};
    use orlop_saga::key::{Key, RemoteKey};
    use proptest::prelude::*;

    use super::*;
    use crate::tiered::SegmentName;

    fn tenant() -> TenantId {
        TenantId::new(3, 1)
    }

    fn version(name: &[u8]) -> SegmentVersion {
        let key = Key::new([1; 16]);
        SegmentVersion {
            name: SegmentName::new(name).unwrap(),
            epoch: 7,
            remote_key: RemoteKey::of_effect(&StoreId::new([9; 16]), tenant(), &key, Epoch::new(0)),
            place: 2,
        }
    }

    #[test]
    fn a_path_has_the_segment_the_epoch_the_remote_key_and_the_place() {
        let version = version(b"page 1");
        let key = version.remote_key;
        assert_eq!(
            path(&Path::from("cold"), tenant(), &version).as_ref(),
            format!("cold/0000000100000003/page 1/00000000000000000007/{key}.2")
        );
    }

    #[test]
    fn names_that_a_path_would_bend_are_kept_apart() {
        let names: [&[u8]; 7] = [b".", b"..", b"a/b", b"a%2Fb", b"a\nb", b"a#1", b"\xff\xfe"];
        let root = Path::default();
        let paths: std::collections::BTreeSet<_> = names
            .iter()
            .map(|name| path(&root, tenant(), &version(name)))
            .collect();
        assert_eq!(paths.len(), names.len());
        for path in paths {
            assert_eq!(path.parts().count(), 4, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_one_short_part_of_a_path_that_can_be_parsed_again(
            name in proptest::collection::vec(any::<u8>(), 1..=1024)
        ) {
            let path = path(&Path::from("r"), tenant(), &version(&name));
            prop_assert_eq!(path.parts().count(), 5);
            prop_assert!(path.parts().all(|part| part.as_ref().len() <= PART_BYTES_MAX));
            prop_assert_eq!(Path::parse(path.as_ref()).unwrap(), path);
        }
    }
}
