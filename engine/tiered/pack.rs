//! The pack: what its computations share, and their binding to an engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use orlop_saga::id::TenantId;

use super::compact::CompactionPublish;
use super::delete::SegmentDelete;
use super::evict::Evict;
use super::get::SegmentGet;
use super::local::{LocalCopies, LocalSegments};
use super::manifest::{ManifestDelete, ManifestPut};
use super::object;
use super::put::SegmentPut;
use super::range::SymbolGetRange;
use super::recall::EvictionRollback;
use super::restore::SegmentRestore;
use super::retire::RetireLocal;
use super::rollback::CompactionRollback;
use super::segment::SegmentVersion;
use super::stat::SegmentStat;
use super::symbols::{SymbolDeleteBatch, SymbolPutBatch};
use super::update::{LocatorRestore, LocatorUpdate};
use crate::builder::EngineBuilder;

/// Bounds of the pack.
#[derive(Clone, Debug)]
pub struct TieredOptions {
    /// What every object name begins with. Engines with stores of their own need roots of their
    /// own.
    pub root: Path,
    /// The longest segment, in bytes. A segment is in memory while it is moved.
    pub segment_bytes_max: u64,
    /// How long one attempt of a step of a saga of the pack may take before it counts as lost.
    pub attempt_timeout: Duration,
    /// How long a delete may linger on its way to the store. Until then a delete that nobody
    /// knows the end of and whose object is still there is not believed to be lost.
    pub delete_settles: Duration,
}

impl Default for TieredOptions {
    /// 256 MiB segments, 5 minutes for an attempt, 3 minutes for a delete.
    fn default() -> Self {
        Self {
            root: Path::default(),
            segment_bytes_max: 256 << 20,
            attempt_timeout: Duration::from_mins(5),
            delete_settles: Duration::from_mins(3),
        }
    }
}

/// The code behind the pack's computations: an object store and the local copies.
#[derive(Clone)]
pub struct Tiered {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    local: LocalCopies,
    options: TieredOptions,
}

impl Tiered {
    /// Moves segments between `local` and `store`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        local: Arc<dyn LocalSegments>,
        options: TieredOptions,
    ) -> Self {
        let local = LocalCopies::new(local);
        Self {
            shared: Arc::new(Shared {
                store,
                local,
                options,
            }),
        }
    }

    /// Binds every computation of the pack, its undos and its sagas.
    pub fn bind(&self, builder: EngineBuilder) -> EngineBuilder {
        let attempt_timeout = self.shared.options.attempt_timeout;
        builder
            .external(SegmentPut, self.clone())
            .external(SegmentGet, self.clone())
            .external(SegmentStat, self.clone())
            .external(SegmentDelete, self.clone())
            .external(RetireLocal, self.clone())
            .undo(SegmentDelete, self.clone())
            .external(SegmentRestore, self.clone())
            .undo(SegmentRestore, self.clone())
            .saga_with_counter(
                Evict::new(attempt_timeout),
                EvictionRollback::new(attempt_timeout),
            )
            .external(ManifestPut, self.clone())
            .external(ManifestDelete, self.clone())
            .undo(ManifestDelete, self.clone())
            .external(LocatorUpdate, self.clone())
            .undo(LocatorRestore, self.clone())
            .saga_with_counter(
                CompactionPublish::new(attempt_timeout),
                CompactionRollback::new(attempt_timeout),
            )
            .external(SymbolPutBatch, self.clone())
            .external(SymbolDeleteBatch, self.clone())
            .undo(SymbolDeleteBatch, self.clone())
            .external(SymbolGetRange, self.clone())
    }

    /// The name of the object that holds a version of this tenant.
    pub fn path(&self, tenant: TenantId, version: &SegmentVersion) -> Path {
        object::path(&self.shared.options.root, tenant, version)
    }

    pub(crate) fn store(&self) -> &dyn ObjectStore {
        &*self.shared.store
    }

    pub(crate) fn local(&self) -> &LocalCopies {
        &self.shared.local
    }

    pub(crate) fn options(&self) -> &TieredOptions {
        &self.shared.options
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered")
            .field("store", &self.shared.store)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}
