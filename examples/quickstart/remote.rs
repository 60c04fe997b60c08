//! The remote: a folder of objects, with a ledger of what was done to them.
//!
//! It refuses uploads of one epoch and spoils those of another, so that there is something to
//! compensate. In the first life of the child it also falls silent after some uploads, half of
//! the time before it has stored one and half of the time after, so that the kill meets uploads
//! on the wire of either kind.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use orlop::tiered::Tombstone;
use walkdir::WalkDir;

use crate::ledger::{Deed, Entry, Ledger};
use crate::plan::{CORRUPTED_EPOCH, REFUSED_EPOCH};
use crate::{Places, Problem};

/// See the module.
#[derive(Clone)]
pub(crate) struct Remote {
    inner: LocalFileSystem,
    ledger: Arc<Mutex<Ledger>>,
    uploads: Arc<AtomicUsize>,
    /// After how many uploads it falls silent.
    silent_after: Option<usize>,
    root: PathBuf,
}

impl Remote {
    pub(crate) fn open(places: &Places, silent_after: Option<usize>) -> Result<Self, Problem> {
        sweep(&places.remote)?;
        Ok(Self {
            inner: LocalFileSystem::new_with_prefix(&places.remote)?.with_fsync(true),
            ledger: Arc::new(Mutex::new(Ledger::open(&places.ledger, &places.remote)?)),
            uploads: Arc::default(),
            silent_after,
            root: places.remote.clone(),
        })
    }

    /// Writes into the ledger, where that may block.
    async fn record(&self, entry: Entry) -> Result<()> {
        let ledger = Arc::clone(&self.ledger);
        let append = move || {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.append(&entry)
        };
        let appended = tokio::task::spawn_blocking(append).await?;
        appended.map_err(|source| Error::Generic {
            store: "remote",
            source: source.into(),
        })
    }

    /// Creates an object and says so in the ledger.
    async fn create(
        &self,
        path: &Path,
        content: Vec<u8>,
        options: PutOptions,
    ) -> Result<PutResult> {
        let entry = |deed| Entry::new(deed, &content, path.as_ref());
        self.record(entry(Deed::Begin)).await?;
        let stored = self
            .inner
            .put_opts(path, content.clone().into(), options)
            .await;
        let deed = if stored.is_ok() {
            Deed::Created
        } else {
            Deed::NotCreated
        };
        self.record(entry(deed)).await?;
        stored
    }

    async fn upload(
        &self,
        path: &Path,
        mut content: Vec<u8>,
        options: PutOptions,
    ) -> Result<PutResult> {
        if is_of_epoch(path, REFUSED_EPOCH) {
            return Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "the remote takes no uploads of this epoch".into(),
            });
        }
        if is_of_epoch(path, CORRUPTED_EPOCH)
            && let Some(first) = content.first_mut()
        {
            *first ^= 1;
        }
        let ordinal = self.uploads.fetch_add(1, Ordering::Relaxed);
        let silent = self.silent_after.filter(|after| ordinal >= *after);
        let Some(after) = silent else {
            return self.create(path, content, options).await;
        };
        let held = |deed| Entry::new(deed, &content, path.as_ref());
        if (ordinal - after).is_multiple_of(2) {
            self.record(held(Deed::HeldBefore)).await?;
        } else {
            self.create(path, content.clone(), options).await?;
            self.record(held(Deed::HeldAfter)).await?;
        }
        std::future::pending().await
    }
}

/// Removes what the file system's half of the remote was still writing when it was killed: files
/// that it had not given their names yet. No object has a `#` in its name.
fn sweep(folder: &std::path::Path) -> Result<(), Problem> {
    for entry in WalkDir::new(folder) {
        let entry = entry?;
        let name = entry.file_name().as_encoded_bytes();
        if entry.file_type().is_file() && name.contains(&b'#') {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether the name of an object has this epoch: `tenant/segment/epoch/version`.
fn is_of_epoch(path: &Path, epoch: u64) -> bool {
    let part = path.parts().nth(2);
    part.is_some_and(|part| part.as_ref() == format!("{epoch:020}"))
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.root).finish()
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for Remote {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let content = payload.iter().fold(Vec::new(), |mut all, part| {
            all.extend_from_slice(part);
            all
        });
        let is_tombstone = Tombstone::read(&content).is_some();
        match options.mode {
            PutMode::Create if is_tombstone => self.create(path, content, options).await,
            PutMode::Create => self.upload(path, content, options).await,
            PutMode::Overwrite | PutMode::Update(_) => {
                let entry = Entry::new(Deed::Replaced, &content, path.as_ref());
                let stored = self.inner.put_opts(path, payload, options).await?;
                self.record(entry).await?;
                Ok(stored)
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        _path: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_kept("uploads in parts"))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        use futures_util::StreamExt as _;
        paths.map(|_| Err(not_kept("deletes"))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(not_kept("copies"))
    }
}

/// What the ledger does not know of is not done.
fn not_kept(what: &str) -> Error {
    Error::NotImplemented {
        operation: what.to_owned(),
        implementer: "the remote".to_owned(),
    }
}
