//! Runner: who runs the megakernel over a device's memory.
//!
//! The pump, the hub, control and buffers know the memory and its rings, and nothing of what is at
//! their other end: threads of this process, another process, or a chip. A runner is told that
//! something was written ([`Doorbell`]) and tells its hub that something was posted
//! ([`Listener`](crate::host::Listener)).
//!
//! Invariants
//! - What a runner posts is posted by the protocol alone: the rings are all that crosses.
//! - Once `end` has returned, nothing of the runner touches the memory any longer.

use std::sync::Arc;

use orlop_saga::id::TenantId;

use crate::control::Doorbell;
use crate::entry::Opcode;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow};
use crate::ops::{HostOp, RegisterError};

/// See the module. Its methods are called with no lock of the device held.
pub(crate) trait Runner: Doorbell {
    /// Adds an operation.
    fn register(&self, op: Arc<dyn HostOp>) -> Result<(), RegisterError>;

    /// Fills a tenant's window.
    fn install(
        &self,
        tenant: TenantId,
        window: OpcodeWindow,
        ops: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError>;

    /// Empties windows that are nobody's any more; gives what was in them.
    fn uninstall(&self, windows: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>>;

    /// Whose the operation is, if it is one tenant's.
    fn owner(&self, opcode: Opcode) -> Option<TenantId>;

    /// Fetched and not yet completed, as far as this side knows.
    fn active(&self) -> u64;

    /// How often something that slept was woken.
    fn wakes(&self) -> u64;

    /// How often a publisher's thread ran what it had published.
    fn lends(&self) -> u64 {
        0
    }

    /// The process it runs in, if that is another one and lives.
    fn process(&self) -> Option<u32> {
        None
    }

    /// Whether it puts the result of an entry into the entry's last window where the entry says so.
    fn fills_result_windows(&self) -> bool {
        true
    }

    /// Whether callbacks run on the current thread, so that it cannot wait for its own end.
    fn runs_here(&self) -> bool;

    /// `Stop` was ordered: sees to it that it is heard. Does not wait.
    fn stop(&self);

    /// Waits until nothing of it touches the memory any longer. Idempotent; never called on a
    /// thread that [`runs_here`](Self::runs_here).
    fn end(&self);
}
