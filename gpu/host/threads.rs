//! Threads: the host megakernel's workers as threads of this process.

use std::sync::Arc;
use std::thread::JoinHandle;

use orlop_saga::id::TenantId;
use parking_lot::Mutex;

use super::HostKernel;
use crate::control::Doorbell;
use crate::entry::Opcode;
use crate::hub::Hub;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow};
use crate::ops::{HostOp, RegisterError};
use crate::options::OpenError;
use crate::runner::Runner;

/// See the module.
pub(crate) struct HostThreads {
    kernel: Arc<HostKernel>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl HostThreads {
    /// Nothing runs before [`HostThreads::start`].
    pub(crate) fn new(kernel: HostKernel) -> Self {
        Self {
            kernel: Arc::new(kernel),
            threads: Mutex::default(),
        }
    }

    /// Starts the workers.
    pub(crate) fn start(&self, hub: &Arc<Hub>) -> Result<(), OpenError> {
        self.kernel.listen(Hub::as_listener(hub));
        for worker in 0..hub.layout.sizes.workers {
            let kernel = Arc::clone(&self.kernel);
            // Kept until the worker is gone: what it posts is delivered even if the device was
            // dropped on another worker.
            let hub = Arc::clone(hub);
            let thread = std::thread::Builder::new().name(format!("orlop-device-{worker}"));
            let thread = thread.spawn(move || {
                kernel.run(worker);
                drop(hub);
            });
            let thread = thread.map_err(|source| OpenError::Thread { worker, source })?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }
}

impl Doorbell for HostThreads {
    fn entries_written(&self) {
        self.kernel.entries_written();
    }

    fn short_entries_written(&self) {
        self.kernel.short_entries_written();
    }

    fn orders_written(&self) {
        self.kernel.orders_written();
    }
}

impl Runner for HostThreads {
    fn register(&self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        self.kernel.register(op)
    }

    fn install(
        &self,
        tenant: TenantId,
        window: OpcodeWindow,
        ops: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError> {
        self.kernel.install(tenant, window, ops)
    }

    fn uninstall(&self, windows: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>> {
        self.kernel.uninstall(windows)
    }

    fn owner(&self, opcode: Opcode) -> Option<TenantId> {
        self.kernel.owner(opcode)
    }

    fn active(&self) -> u64 {
        self.kernel.active()
    }

    fn lends(&self) -> u64 {
        self.kernel.lends()
    }

    fn wakes(&self) -> u64 {
        self.kernel.wakes()
    }

    fn runs_here(&self) -> bool {
        self.kernel.runs_here()
    }

    fn stop(&self) {
        self.kernel.wake_all();
    }

    fn end(&self) {
        // Held while joining, so that a second closer waits for the first.
        let mut threads = self.threads.lock();
        for thread in threads.drain(..) {
            // A worker catches what it runs; it has no panic of its own to report.
            let _ = thread.join();
        }
        self.kernel.wait_for_loans();
    }
}
