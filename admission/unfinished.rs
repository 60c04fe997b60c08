//! Unfinished: how many pieces of work a tenant has begun and not ended, as whoever embeds admission
//! counts them.

use std::sync::atomic::{AtomicUsize, Ordering};

use orlop_saga::amount::ByteCount;

use crate::tenant::TenantAccount;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(AtomicUsize);

impl TenantAccount {
    /// Counts one more piece of work that has begun.
    pub fn count_in(&self) {
        self.unfinished.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that has ended.
    pub fn count_out(&self) {
        self.unfinished.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many were counted in and not out.
    pub fn unfinished(&self) -> usize {
        self.unfinished.0.load(Ordering::Relaxed)
    }

    /// How many bytes may stay stored for it.
    pub fn retained_bytes_max(&self) -> ByteCount {
        self.ledger.lock().quotas.retained_bytes_max
    }
}
