//! The engine's own runtime: timers, asynchronous host functions, threads that may block.
//!
//! It is never the embedder's, so that a stalled or single-threaded runtime of the host stalls
//! nothing here, and it is never dropped in a place where tokio would panic.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use orlop_saga::time::Clock;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::timers::{Sleeping, Timers};

/// See the module.
pub(crate) struct OwnRuntime {
    handle: Handle,
    timers: Timers,
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    /// Starts `threads` threads, and up to `blocking_max` more while something blocks. Its timers
    /// follow `clock`.
    pub(crate) fn start(
        threads: usize,
        blocking_max: usize,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(blocking_max.max(1))
            .thread_name("orlop-io")
            .enable_all()
            .build()?;
        Ok(Self {
            timers: Timers::new(runtime.handle().clone(), clock),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(future);
    }

    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.handle.spawn_blocking(work);
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// A sleep that may be awaited on any runtime, or none.
    pub(crate) fn sleep(&self, wait: Duration) -> Sleeping {
        self.timers.sleep(wait)
    }

    /// Calls `work` once `wait` has passed, unless the runtime ends before.
    pub(crate) fn after(&self, wait: Duration, work: impl FnOnce() + Send + 'static) {
        self.timers.after(wait, work);
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait, and so may be called on any thread, its own ones included.
            runtime.shutdown_background();
        }
    }
}
