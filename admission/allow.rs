//! Allow lists: which computations a tenant may run, and for which engagements it may work.
//!
//! Invariants
//! - Whoever asks after a change returned is answered by the new list.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_saga::tenant::AuditTag;

use crate::refusal::Refusal;
use crate::sync::Mutex;
use crate::tenant::TenantAccount;

/// What one tenant may run, and for whom: all, unless it was restricted.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    names: List<Box<str>>,
    engagements: List<AuditTag>,
}

#[derive(Debug)]
struct List<T> {
    /// Spares tenants that are not restricted the lock.
    restricted: AtomicBool,
    all: Mutex<Option<Arc<BTreeSet<T>>>>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            restricted: AtomicBool::new(false),
            all: Mutex::default(),
        }
    }
}

impl<T> List<T> {
    fn set(&self, list: Option<BTreeSet<T>>) {
        let mut all = self.all.lock();
        self.restricted.store(list.is_some(), Ordering::Release);
        *all = list.map(Arc::new);
    }

    fn get(&self) -> Option<Arc<BTreeSet<T>>> {
        self.all.lock().clone()
    }

    fn has(&self, is_in: impl FnOnce(&BTreeSet<T>) -> bool) -> bool {
        if !self.restricted.load(Ordering::Acquire) {
            return true;
        }
        self.all.lock().as_deref().is_none_or(is_in)
    }
}

impl TenantAccount {
    /// Restricts the tenant to computations of these names, from now on; `None` for all.
    pub fn allow(&self, names: Option<BTreeSet<Box<str>>>) {
        self.allowed.names.set(names);
    }

    /// The names of the computations that it may run; `None` for all.
    pub fn allowed(&self) -> Option<Arc<BTreeSet<Box<str>>>> {
        self.allowed.names.get()
    }

    /// Whether it may run a computation.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`]: it may not.
    pub fn check_allowed(&self, computation: &str) -> Result<(), Refusal> {
        if self.allowed.names.has(|names| names.contains(computation)) {
            return Ok(());
        }
        Err(Refusal::NotAllowed {
            tenant: self.id(),
            computation: computation.into(),
        })
    }

    /// Restricts the tenant to work for these engagements, from now on; `None` for all.
    pub fn allow_engagements(&self, engagements: Option<BTreeSet<AuditTag>>) {
        self.allowed.engagements.set(engagements);
    }

    /// The engagements that it may work for; `None` for all.
    pub fn engagements(&self) -> Option<Arc<BTreeSet<AuditTag>>> {
        self.allowed.engagements.get()
    }

    /// Whether it may work for an engagement.
    ///
    /// # Errors
    /// [`Refusal::EngagementNotAllowed`]: it may not.
    pub fn check_engagement(&self, audit: AuditTag) -> Result<(), Refusal> {
        if self.allowed.engagements.has(|all| all.contains(&audit)) {
            return Ok(());
        }
        let tenant = self.id();
        Err(Refusal::EngagementNotAllowed { tenant, audit })
    }
}
