//! Tenures: what the engine keeps of each tenant beside its account: whose turn it is to manage it,
//! and who waits until its work has ended.
//!
//! Invariants
//! - What is decided about one tenant takes effect in the order in which it is recorded.
//! - Whoever waits is told of every end after it last looked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
#[cfg(test)]
use orlop_admission::Pace;
use orlop_admission::{Paces, TenantAccount};
use orlop_saga::id::TenantId;
use tokio::sync::{Mutex, Notify};

use crate::core::Core;

/// How often a tenant, or any, was drained in this engine, and how long that was waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainCounts {
    /// How often it was called, and has returned.
    pub calls: u64,
    /// How many of these calls ran out of time.
    pub timeouts: u64,
    /// How long all of them waited together.
    pub waited: Duration,
}

/// One tenant's.
#[derive(Default)]
pub(crate) struct Tenure {
    /// Held from when a decision is checked until it holds, or its record was refused.
    pub(crate) turn: Arc<Mutex<()>>,
    /// Something of the tenant ended, was held, or may be submitted again.
    pub(crate) stirred: Notify,
    drains: Drains,
}

/// Counts of drains.
#[derive(Default)]
struct Drains {
    calls: AtomicU64,
    timeouts: AtomicU64,
    waited_nanos: AtomicU64,
}

impl Tenure {
    pub(crate) fn counts(&self) -> DrainCounts {
        self.drains.counts()
    }
}

impl Drains {
    fn count(&self, timed_out: bool, waited: Duration) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.timeouts
            .fetch_add(u64::from(timed_out), Ordering::Relaxed);
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn counts(&self) -> DrainCounts {
        DrainCounts {
            calls: self.calls.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
            waited: Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed)),
        }
    }
}

/// All tenants'.
#[derive(Default)]
pub(crate) struct Tenures {
    all: DashMap<TenantId, Arc<Tenure>>,
    /// Of every tenant together, lives that have ended included.
    drains: Drains,
    /// How many wait: while nobody does, an end costs one look.
    waiting: AtomicUsize,
}

impl Tenures {
    pub(crate) fn begin(&self, tenant: TenantId) {
        self.all.insert(tenant, Arc::default());
    }

    pub(crate) fn end(&self, tenant: TenantId) {
        self.all.remove(&tenant);
    }

    /// Counts a drain of a tenant that has returned.
    pub(crate) fn drained(&self, tenure: &Tenure, timed_out: bool, waited: Duration) {
        for drains in [&tenure.drains, &self.drains] {
            drains.count(timed_out, waited);
        }
    }

    /// The drains of all tenants.
    pub(crate) fn counts(&self) -> DrainCounts {
        self.drains.counts()
    }

    pub(crate) fn of(&self, tenant: TenantId) -> Option<Arc<Tenure>> {
        self.all.get(&tenant).map(|tenure| Arc::clone(&tenure))
    }

    /// Counts one who waits until the guard is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    /// Something of the tenant ended or was held. Called with no lock held.
    pub(crate) fn stir(&self, tenant: TenantId) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(tenure) = self.of(tenant) {
            tenure.stirred.notify_waiters();
        }
    }
}

/// One who waits.
pub(crate) struct Waiting<'a>(&'a Tenures);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a tenant has unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) moving: usize,
    pub(crate) held: usize,
}

impl Core {
    /// What a tenant has unfinished: effects and sagas, also those with no outcome to keep.
    pub(crate) fn census(account: &TenantAccount) -> Census {
        let Paces { moving, held } = account.paces();
        Census { moving, held }
    }

    /// The same by a look at all that there is.
    #[cfg(test)]
    pub(crate) fn scan(&self, tenant: TenantId) -> Census {
        let mut census = Census::default();
        for table in [&self.flights, &self.ephemeral] {
            let own = table.iter().filter(|entry| entry.key().tenant == tenant);
            // Looked at with no lock of the table held.
            let own: Vec<_> = own.map(|entry| Arc::clone(entry.value())).collect();
            for flight in own {
                match flight.pace() {
                    Some(Pace::Moving) => census.moving += 1,
                    Some(Pace::Held) => census.held += 1,
                    None => {}
                }
            }
        }
        census
    }
}

#[cfg(test)]
mod tests;
