//! Unfinished: how many pieces of work a tenant has begun and not ended, as whoever embeds admission
//! counts them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use orlop_saga::amount::ByteCount;

use crate::tenant::TenantAccount;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    all: AtomicUsize,
    /// What moves in the low half, what is held in the high half: one word, so that whoever looks
    /// while something changes from one to the other sees it once.
    paces: AtomicU64,
}

/// How many pieces of work are of which kind, at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paces {
    /// Those that will end by themselves.
    pub moving: usize,
    /// Those that wait for somebody.
    pub held: usize,
}

/// Of which kind a piece of work is that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It will end by itself.
    Moving,
    /// It waits for somebody.
    Held,
}

impl Pace {
    /// One piece of work of this kind, in the word that counts them.
    const fn one(self) -> u64 {
        match self {
            Self::Moving => 1,
            Self::Held => 1 << 32,
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
        let one = |pace: Option<Pace>| pace.map_or(0, Pace::one);
        let change = one(now).wrapping_sub(one(before));
        self.unfinished.paces.fetch_add(change, Ordering::SeqCst);
    }

    /// How many pieces of work are of which kind.
    pub fn paces(&self) -> Paces {
        let paces = self.unfinished.paces.load(Ordering::SeqCst);
        let half = |word: u64| usize::try_from(word & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        Paces {
            moving: half(paces),
            held: half(paces >> 32),
        }
    }

    /// How many bytes may stay stored for it.
    pub fn retained_bytes_max(&self) -> ByteCount {
        self.ledger.lock().quotas.retained_bytes_max
    }
}
