//! Allow lists: which computations a tenant may run.
//!
//! Invariants
//! - Whoever asks after a change returned is answered by the new list.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::refusal::Refusal;
use crate::sync::Mutex;
use crate::tenant::TenantAccount;

/// What one tenant may run: all, unless it was restricted.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    /// Spares tenants that are not restricted the lock.
    restricted: AtomicBool,
    names: Mutex<Option<Arc<BTreeSet<Box<str>>>>>,
}

impl TenantAccount {
    /// Restricts the tenant to computations of these names, from now on; `None` for all.
    pub fn allow(&self, names: Option<BTreeSet<Box<str>>>) {
        let mut allowed = self.allowed.names.lock();
        self.allowed
            .restricted
            .store(names.is_some(), Ordering::Release);
        *allowed = names.map(Arc::new);
    }

    /// The names of the computations that it may run; `None` for all.
    pub fn allowed(&self) -> Option<Arc<BTreeSet<Box<str>>>> {
        self.allowed.names.lock().clone()
    }

    /// Whether it may run a computation.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`]: it may not.
    pub fn check_allowed(&self, computation: &str) -> Result<(), Refusal> {
        if !self.allowed.restricted.load(Ordering::Acquire) {
            return Ok(());
        }
        match &*self.allowed.names.lock() {
            Some(names) if !names.contains(computation) => Err(Refusal::NotAllowed {
                tenant: self.id(),
                computation: computation.into(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}
