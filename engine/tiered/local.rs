//! Local copies: what the embedder keeps of its segments, and one operation at a time on each.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

use orlop_saga::id::TenantId;
use orlop_saga::outcome::Failure;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::name::SegmentName;

/// The segments on the embedder's own disk. Calls may block.
///
/// What a call did must be durable when it returns: the object store's copy is given up, or the
/// saga ended, on its word.
pub trait LocalSegments: Send + Sync + 'static {
    /// The content of a segment; `None` if it is not here.
    ///
    /// # Errors
    /// It could not be read; asked again later.
    fn read(&self, tenant: TenantId, name: &SegmentName) -> io::Result<Option<Vec<u8>>>;

    /// Keeps a segment, in place of whatever is here under its name; all of it or nothing.
    ///
    /// # Errors
    /// It is not known to be kept; tried again later.
    fn restore(&self, tenant: TenantId, name: &SegmentName, content: &[u8]) -> io::Result<()>;

    /// Removes a segment. One that is not here is removed.
    ///
    /// # Errors
    /// It is not known to be removed; tried again later.
    fn remove(&self, tenant: TenantId, name: &SegmentName) -> io::Result<()>;
}

/// How many operations on local copies may run side by side, at most.
const LANES: usize = 64;

/// Local copies, with the operations that change one in a row.
///
/// An operation holds its lane until the embedder's code has returned, also when whoever waited
/// for it has given up: so whoever has the lane knows that no older operation comes late. Those
/// of an earlier process are over: the store is locked by one process at a time.
pub(crate) struct LocalCopies {
    segments: Arc<dyn LocalSegments>,
    lanes: Vec<Arc<Mutex<()>>>,
}

impl LocalCopies {
    pub(crate) fn new(segments: Arc<dyn LocalSegments>) -> Self {
        Self {
            segments,
            lanes: (0..LANES).map(|_| Arc::default()).collect(),
        }
    }

    /// Runs the embedder's code on a thread that may block, with the lane of the segment held.
    ///
    /// # Errors
    /// [`Failure`]: what `work` said, or in doubt if it panicked.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        tenant: TenantId,
        name: &SegmentName,
        work: impl FnOnce(&dyn LocalSegments, &SegmentName) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let lane = self.lane(tenant, name).await;
        let (segments, name) = (Arc::clone(&self.segments), name.clone());
        let working = tokio::task::spawn_blocking(move || {
            let result = work(&*segments, &name);
            drop(lane);
            result
        });
        match working.await {
            Ok(result) => result,
            Err(error) => Err(Failure::in_doubt(error)),
        }
    }

    async fn lane(&self, tenant: TenantId, name: &SegmentName) -> Option<OwnedMutexGuard<()>> {
        let mut hasher = DefaultHasher::new();
        (tenant, name).hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default();
        match self.lanes.get(index) {
            Some(lane) => Some(Arc::clone(lane).lock_owned().await),
            None => None,
        }
    }
}
