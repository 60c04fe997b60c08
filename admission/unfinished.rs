//! Unfinished: how many pieces of work a tenant has begun and not ended, as whoever embeds admission
//! counts them.

use std::sync::atomic::{AtomicUsize, Ordering};

use orlop_saga::amount::ByteCount;

use crate::tenant::TenantAccount;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    all: AtomicUsize,
    moving: AtomicUsize,
    held: AtomicUsize,
}

/// Of which kind a piece of work is that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It will end by itself.
    Moving,
    /// It waits for somebody.
    Held,
}

impl Unfinished {
    const fn of(&self, pace: Pace) -> &AtomicUsize {
        match pace {
            Pace::Moving => &self.moving,
            Pace::Held => &self.held,
        }
    }
}

impl TenantAccount {
    /// Counts one more piece of work that has begun.
    pub fn count_in(&self) {
        self.unfinished.all.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that has ended.
    pub fn count_out(&self) {
        self.unfinished.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many were counted in and not out.
    pub fn unfinished(&self) -> usize {
        self.unfinished.all.load(Ordering::Relaxed)
    }

    /// A piece of work is of another kind than before, or begins or ends.
    pub fn count_pace(&self, before: Option<Pace>, now: Option<Pace>) {
        if before == now {
            return;
        }
        // In this order: whoever looks from between sees it twice and never misses it.
        if let Some(now) = now {
            self.unfinished.of(now).fetch_add(1, Ordering::SeqCst);
        }
        if let Some(before) = before {
            self.unfinished.of(before).fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// How many pieces of work are of a kind.
    pub fn of_pace(&self, pace: Pace) -> usize {
        self.unfinished.of(pace).load(Ordering::SeqCst)
    }

    /// How many bytes may stay stored for it.
    pub fn retained_bytes_max(&self) -> ByteCount {
        self.ledger.lock().quotas.retained_bytes_max
    }
}
