//! Why an engine was not opened.

use orlop_admission::OptionsError as BulkheadError;
use orlop_gpu::OpenError as DeviceError;
use orlop_store::store::OpenError as StoreError;

use crate::error::{OptionError, RegisterError};

/// Why an engine was not opened. Nothing runs, and the store is unlocked and as it was, but for
/// what was made durable of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Code was registered in a way that cannot be.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// An option is out of its range.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A bulkhead's options contradict each other.
    #[error(transparent)]
    Bulkhead(#[from] BulkheadError),
    /// Two bulkheads have one name.
    #[error("two bulkheads are called {name:?}")]
    BulkheadTwice {
        /// The name.
        name: String,
    },
    /// One of the engine's own bulkheads was renamed away.
    #[error("the options have no bulkhead called {name:?}")]
    NoBulkhead {
        /// The name.
        name: &'static str,
    },
    /// Undos or reconciliations run in a bulkhead that reserves no slot for them: they would never
    /// be admitted. Set its `reserved_slots`.
    #[error("bulkhead {name:?} runs undos or reconciliations and reserves no slot")]
    NothingReserved {
        /// The name.
        name: String,
    },
    /// The store has unfinished work of a tenant that it does not know. Please report it.
    #[error("unfinished work of tenant {tenant}, which the store does not know")]
    UnknownTenant {
        /// The tenant.
        tenant: orlop_saga::id::TenantId,
    },
    /// The device cannot be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The store cannot be opened: it is none, it is held by somebody else, it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tenant found in the store does not fit into the options.
    #[error("a tenant of the store cannot be registered: {0}")]
    Tenant(#[from] orlop_admission::RegisterError),
    /// More tenants are allowed than can be.
    #[error(transparent)]
    Tenants(#[from] orlop_admission::CapacityError),
    /// The system gave no thread.
    #[error("a thread could not be started")]
    Thread {
        /// What it said.
        source: std::io::Error,
    },
    /// One of our own invariants is broken. Please report it.
    #[error("opening panicked")]
    Panicked,
}
