//! Handles: what keeps an engine open.
//!
//! Every engine, tenant and ticket holds one. When the last is dropped without a close, the
//! engine ends in the background: nothing acknowledged is lost, what was accepted goes on at the
//! next open.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::core::Core;

/// See the module.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Held>);

struct Held {
    core: Arc<Core>,
}

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self(Arc::new(Held { core }))
    }
}

impl Deref for Handle {
    type Target = Arc<Core>;

    fn deref(&self) -> &Arc<Core> {
        &self.0.core
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.core.is_forked() {
            // Its threads are in the parent: whatever waits for them here would wait for ever.
            std::mem::forget(Arc::clone(&self.core));
            return;
        }
        if self.core.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = Arc::clone(&self.core);
        // Threads are joined on the way, which the dropping one may not be allowed to wait for.
        let ending = std::thread::Builder::new().name("orlop-end".to_owned());
        let spawned = ending.spawn(move || core.end());
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to end the engine with; its threads stay");
        }
    }
}
