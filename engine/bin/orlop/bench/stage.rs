//! A stage: a fresh engine with one tenant, on the real disk.

use std::path::{Path, PathBuf};

use orlop::{Engine, EngineBuilder, Tenant, wait};
use tempfile::TempDir;

use super::{BenchError, idle};

/// See the module.
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    pub(crate) tenant: Tenant,
    folder: TempDir,
}

impl Stage {
    /// Opens the engine and waits until its journal has prepared its space.
    pub(crate) fn new(
        build: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::Folder)?;
        let store = store_in(folder.path());
        let engine = build(Engine::builder(&store)).open_blocking()?;
        let tenant = engine.blocking().tenant("bench")?;
        idle::wait_until_prepared(&store.join("log"))?;
        Ok(Self {
            engine,
            tenant,
            folder,
        })
    }

    /// Where the store is, and other files may be.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes that the journal has written, and in how many groups.
    pub(crate) fn journaled(&self) -> (u64, u64) {
        let journal = self.engine.snapshot().store.journal;
        (journal.bytes, journal.groups)
    }

    /// Closes the engine, and removes its store.
    pub(crate) fn close(self) -> Result<(), BenchError> {
        wait(self.engine.close())?;
        Ok(())
    }
}

/// Where the store of a folder is.
pub(crate) fn store_in(folder: &Path) -> PathBuf {
    folder.join("store")
}
