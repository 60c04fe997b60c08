//! The engine for code that is not async.
//!
//! A call parks its thread until the answer is there. Nothing that answers runs on the caller's
//! runtime, so calling from inside one neither panics nor deadlocks; it only keeps that thread.

use std::fmt;
use std::future::IntoFuture;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use orlop_store::backup::{Backup, BackupError};

use crate::close::CloseError;
use crate::engine::Engine;
use crate::tenant::{Tenant, TenantError};

/// Waits on this thread for anything that the engine gives to await: a submission, a ticket, a
/// saga.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = orlop::Engine::builder("store").open_blocking()?;
/// let tenant = engine.blocking().tenant("acme")?;
/// let reply = orlop::wait(tenant.submit(orlop::Blake3, "hello"))?;
/// println!("{}", reply.output);
/// # Ok(())
/// # }
/// ```
pub fn wait<T: IntoFuture>(awaitable: T) -> T::Output {
    pollster::block_on(awaitable.into_future())
}

/// Unparks the thread that polls.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread, at most until `deadline`.
pub(crate) fn wait_until<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

/// An [`Engine`] whose calls block.
#[derive(Clone)]
pub struct BlockingEngine {
    engine: Engine,
}

impl BlockingEngine {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// As [`Engine::tenant`].
    ///
    /// # Errors
    /// [`TenantError`]: as there.
    pub fn tenant(&self, label: &str) -> Result<Tenant, TenantError> {
        pollster::block_on(self.engine.tenant(label))
    }

    /// As [`Engine::backup`].
    ///
    /// # Errors
    /// [`BackupError`]: as there.
    pub fn backup(&self, into: impl AsRef<Path>) -> Result<Backup, BackupError> {
        pollster::block_on(self.engine.backup(into))
    }

    /// As [`Engine::close`].
    ///
    /// # Errors
    /// [`CloseError`]: as there.
    pub fn close(&self) -> Result<(), CloseError> {
        pollster::block_on(self.engine.close())
    }
}

impl fmt::Debug for BlockingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockingEngine").field(&self.engine).finish()
    }
}
