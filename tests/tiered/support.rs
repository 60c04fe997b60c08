//! Local copies, an outside, and engines over both.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use object_store::ObjectStore;
use orlop::tiered::{Eviction, LocalSegments, Segment, SegmentName, Tiered, TieredOptions};
use orlop::{Digest, Engine, Tenant, TenantId};

use crate::outside::Outside;

/// Segments on the own disk, in memory.
#[derive(Debug, Default)]
pub(crate) struct Local {
    segments: Mutex<BTreeMap<(TenantId, SegmentName), Vec<u8>>>,
    /// How many removals have come to a closed gate, and whether it is closed.
    gate: Mutex<(u32, bool)>,
    moved: Condvar,
}

impl Local {
    pub(crate) fn put(&self, tenant: &Tenant, name: &SegmentName, content: &[u8]) {
        let key = (tenant.id(), name.clone());
        self.segments.lock().unwrap().insert(key, content.to_vec());
    }

    pub(crate) fn get(&self, tenant: &Tenant, name: &SegmentName) -> Option<Vec<u8>> {
        let key = (tenant.id(), name.clone());
        self.segments.lock().unwrap().get(&key).cloned()
    }

    /// Has removals wait.
    pub(crate) fn close_gate(&self) {
        self.gate.lock().unwrap().1 = true;
    }

    /// Waits until a removal waits.
    pub(crate) fn wait_for_removal(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.moved.wait_while(gate, |gate| gate.0 == 0).unwrap());
    }

    pub(crate) fn open_gate(&self) {
        self.gate.lock().unwrap().1 = false;
        self.moved.notify_all();
    }
}

impl LocalSegments for Local {
    fn read(&self, tenant: TenantId, name: &SegmentName) -> io::Result<Option<Vec<u8>>> {
        let key = (tenant, name.clone());
        Ok(self.segments.lock().unwrap().get(&key).cloned())
    }

    fn restore(&self, tenant: TenantId, name: &SegmentName, content: &[u8]) -> io::Result<()> {
        let key = (tenant, name.clone());
        self.segments.lock().unwrap().insert(key, content.to_vec());
        Ok(())
    }

    fn remove(&self, tenant: TenantId, name: &SegmentName) -> io::Result<()> {
        let mut gate = self.gate.lock().unwrap();
        if gate.1 {
            gate.0 += 1;
            self.moved.notify_all();
            gate = self.moved.wait_while(gate, |gate| gate.1).unwrap();
        }
        drop(gate);
        self.segments
            .lock()
            .unwrap()
            .remove(&(tenant, name.clone()));
        Ok(())
    }
}

/// A folder, local copies and an outside that engines come and go over.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) local: Arc<Local>,
    pub(crate) outside: Outside,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            local: Arc::default(),
            outside: Outside::default(),
        }
    }

    pub(crate) fn tiered(&self) -> Tiered {
        self.tiered_on(Arc::new(self.outside.clone()))
    }

    pub(crate) fn tiered_on(&self, store: Arc<dyn ObjectStore>) -> Tiered {
        let local: Arc<dyn LocalSegments> = Arc::<Local>::clone(&self.local);
        Tiered::new(store, local, TieredOptions::default())
    }

    pub(crate) fn open(&self) -> Engine {
        self.open_on(Arc::new(self.outside.clone()))
    }

    /// Opens what an engine that was dropped and not closed leaves behind, once it is gone: it
    /// ends in the background.
    pub(crate) fn open_after_drop(&self) -> Engine {
        loop {
            let builder = Engine::builder(self.folder.path().join("store"));
            match self.tiered().bind(builder).open_blocking() {
                Ok(engine) => return engine,
                Err(error) if format!("{error:?}").contains("OpenHere") => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub(crate) fn open_on(&self, store: Arc<dyn ObjectStore>) -> Engine {
        let builder = Engine::builder(self.folder.path().join("store"));
        self.tiered_on(store).bind(builder).open_blocking().unwrap()
    }
}

pub(crate) fn name(name: &str) -> SegmentName {
    SegmentName::new(name).unwrap()
}

pub(crate) fn segment(name: &SegmentName, content: &[u8]) -> Segment {
    Segment {
        name: name.clone(),
        epoch: 1,
        digest: Digest::of(content),
    }
}

pub(crate) fn eviction(name: &SegmentName, content: &[u8]) -> Eviction {
    Eviction {
        name: name.clone(),
        epoch: 1,
        content: content.into(),
    }
}
