//! Credits: the free slots and staging bytes of a bulkhead, and how much more estimated cost may be
//! out, spread so that tenants do not collide.
//!
//! While nobody waits, what is free lies in shards; a tenant takes from its own and, if that has
//! too little, from the others, and gives back to its own. Once somebody has to wait the bulkhead
//! is *contended*: everything free is recalled to the bulkhead's lock, and who comes goes there.
//!
//! Invariants
//! - Credits are conserved: in a shard, in the pocket of a seat, in the hands of one critical
//!   section, in a pool under the bulkhead's lock, or with a permit.
//! - Who takes credits looks at `contended` after taking, and who gives them back after giving.
//!   If it is set by then, the former puts them back, and either goes to the bulkhead's lock,
//!   recalls what lies in the shards, and hands it on. So nothing that is free is left lying while
//!   somebody waits, and nobody overtakes who waits.
//! - A seat is listed before it takes anything, so whoever begins contention finds every seat that
//!   holds something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use crate::sync::{Mutex, switch_point};
use crate::tenant::TenantAccount;

/// How many shards there are. Tenants of neighbouring slots are in different ones.
const SHARDS: usize = 8;

/// How many more than twice those that were found last may be listed before they are looked at.
const CROWD: usize = 64;

/// What a bulkhead has a bounded amount of, apart from places to wait in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) slots: u64,
    pub(crate) staging: u64,
    /// Estimated cost, where what may be out is bounded by it; nothing otherwise.
    pub(crate) published: u64,
}

impl Amounts {
    pub(crate) const fn add(&mut self, other: Self) {
        self.slots = self.slots.saturating_add(other.slots);
        self.staging = self.staging.saturating_add(other.staging);
        self.published = self.published.saturating_add(other.published);
    }

    /// `count` times as much.
    pub(crate) const fn times(self, count: u64) -> Self {
        Self {
            slots: self.slots.saturating_mul(count),
            staging: self.staging.saturating_mul(count),
            published: self.published.saturating_mul(count),
        }
    }

    /// Whether somebody who waits may be able to start with it.
    pub(crate) const fn lets_start(self) -> bool {
        self.slots > 0 || self.published > 0
    }
}

/// A tenant's seat in this bulkhead, by its place in the tenant's ledger.
pub(crate) type Listed = (Arc<TenantAccount>, u32);

#[derive(Debug, Default)]
struct Shard {
    slots: AtomicU64,
    staging: AtomicU64,
    published: AtomicU64,
    /// Seats that have done something since contention last began, or hold something.
    seats: Mutex<Vec<Listed>>,
}

/// Takes `asked` from `credits`, or nothing.
fn take_from(credits: &AtomicU64, asked: u64) -> bool {
    switch_point();
    let taken = credits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| {
        free.checked_sub(asked)
    });
    taken.is_ok()
}

fn give_to(credits: &AtomicU64, amount: u64) {
    switch_point();
    credits.fetch_add(amount, Ordering::SeqCst);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Credits {
    contended: CachePadded<AtomicBool>,
    shards: [CachePadded<Shard>; SHARDS],
    /// How many seats are listed, and with how many it is time to look who is there still.
    listed: AtomicUsize,
    crowd: AtomicUsize,
}

impl Credits {
    /// With `free` in the shards.
    pub(crate) fn new(free: Amounts) -> Self {
        let credits = Self::contended();
        credits.end_contention(free);
        credits
    }

    /// With nothing in the shards, and contended.
    pub(crate) fn contended() -> Self {
        Self {
            contended: CachePadded::new(AtomicBool::new(true)),
            shards: std::array::from_fn(|_| CachePadded::default()),
            listed: AtomicUsize::new(0),
            crowd: AtomicUsize::new(CROWD),
        }
    }

    /// Whether everybody has to go through the bulkhead's lock.
    #[inline]
    pub(crate) fn is_contended(&self) -> bool {
        switch_point();
        self.contended.load(Ordering::SeqCst)
    }

    fn shard(&self, home: usize) -> &Shard {
        // The remainder is below the length; the first shard stands for what cannot be.
        let [first, ..] = &self.shards;
        self.shards.get(home % SHARDS).unwrap_or(first)
    }

    /// Takes all that is asked for, or nothing.
    #[inline]
    pub(crate) fn take(&self, home: usize, asked: Amounts) -> bool {
        let own = self.shard(home);
        if !take_from(&own.slots, asked.slots) && !self.gather(own, |s| &s.slots, asked.slots) {
            return false;
        }
        let staged = asked.staging == 0
            || take_from(&own.staging, asked.staging)
            || self.gather(own, |s| &s.staging, asked.staging);
        if staged
            && (asked.published == 0
                || take_from(&own.published, asked.published)
                || self.gather(own, |s| &s.published, asked.published))
        {
            return true;
        }
        if staged && asked.staging > 0 {
            give_to(&own.staging, asked.staging);
        }
        give_to(&own.slots, asked.slots);
        false
    }

    /// Gives back to the own shard.
    #[inline]
    pub(crate) fn give(&self, home: usize, amounts: Amounts) {
        let own = self.shard(home);
        if amounts.slots > 0 {
            give_to(&own.slots, amounts.slots);
        }
        if amounts.staging > 0 {
            give_to(&own.staging, amounts.staging);
        }
        if amounts.published > 0 {
            give_to(&own.published, amounts.published);
        }
    }

    /// Takes `asked` out of all shards together, and half of what else the others have into the
    /// own one, so that it does not come for every single one.
    #[cold]
    fn gather(&self, own: &Shard, of: impl Fn(&Shard) -> &AtomicU64, asked: u64) -> bool {
        let mut got = 0;
        for shard in &self.shards {
            switch_point();
            let shard = of(shard);
            let want = asked - got;
            let taken = shard.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| {
                let part = want.max(free / 2).min(free);
                (part > 0).then_some(free - part)
            });
            if let Ok(free) = taken {
                let part = want.max(free / 2).min(free);
                got += part.min(want);
                if part > want {
                    give_to(of(own), part - want);
                }
            }
            if got == asked {
                return true;
            }
        }
        if got > 0 {
            give_to(of(own), got);
        }
        false
    }

    /// Lists a seat, which is told so by whoever has its ledger's lock.
    pub(crate) fn list(&self, home: usize, seat: Listed) {
        switch_point();
        self.shard(home).seats.lock_nested().push(seat);
        self.listed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether so many seats are listed that it is time to look who is there still.
    pub(crate) fn is_crowded(&self) -> bool {
        self.listed.load(Ordering::Relaxed) >= self.crowd.load(Ordering::Relaxed)
    }

    /// Looks at every seat that is listed, and keeps those for which `stays`. Who is listed
    /// meanwhile may be missed.
    pub(crate) fn visit(&self, mut stays: impl FnMut(&Listed) -> bool) {
        let mut gone = 0;
        for shard in &self.shards {
            switch_point();
            let mut seats = std::mem::take(&mut *shard.seats.lock_nested());
            // Without the list's lock: who holds a ledger's may be about to list.
            let were = seats.len();
            seats.retain(&mut stays);
            gone += were - seats.len();
            let mut listed = shard.seats.lock_nested();
            seats.append(&mut listed);
            *listed = seats;
        }
        let left = self
            .listed
            .fetch_sub(gone, Ordering::Relaxed)
            .saturating_sub(gone);
        self.crowd.store(
            left.saturating_mul(2).saturating_add(CROWD),
            Ordering::Relaxed,
        );
    }

    /// Takes every seat off the lists.
    pub(crate) fn unlist_all(&self) -> Vec<Listed> {
        let lists = self.shards.iter();
        lists
            .flat_map(|shard| std::mem::take(&mut *shard.seats.lock_nested()))
            .collect()
    }

    /// From now on everybody goes through the bulkhead's lock, which the caller holds.
    pub(crate) fn begin_contention(&self) {
        switch_point();
        self.contended.store(true, Ordering::SeqCst);
    }

    /// Takes all that lies in the shards. The caller holds the bulkhead's lock.
    pub(crate) fn recall(&self) -> Amounts {
        let mut free = Amounts::default();
        let take_all = |credits: &AtomicU64| {
            switch_point();
            // Mostly there is nothing, and looking leaves the line where it is.
            match credits.load(Ordering::SeqCst) {
                0 => 0,
                _ => credits.swap(0, Ordering::SeqCst),
            }
        };
        for shard in &self.shards {
            free.add(Amounts {
                slots: take_all(&shard.slots),
                staging: take_all(&shard.staging),
                published: take_all(&shard.published),
            });
        }
        free
    }

    /// Spreads `free` and lets everybody take of it. The caller holds the bulkhead's lock.
    pub(crate) fn end_contention(&self, free: Amounts) {
        for (place, shard) in (0_u64..).zip(&self.shards) {
            let part = |of: u64| of / SHARDS as u64 + u64::from(place < of % SHARDS as u64);
            give_to(&shard.slots, part(free.slots));
            give_to(&shard.staging, part(free.staging));
            give_to(&shard.published, part(free.published));
        }
        switch_point();
        self.contended.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(slots: u64, staging: u64) -> Amounts {
        Amounts {
            slots,
            staging,
            published: 0,
        }
    }

    #[test]
    fn whoever_asks_for_all_gets_it_wherever_it_lies() {
        let credits = Credits::new(amounts(13, 1_000));
        assert!(!credits.take(3, amounts(14, 0)));
        assert!(!credits.take(3, amounts(13, 1_001)));
        assert!(credits.take(3, amounts(13, 1_000)));
        assert!(!credits.take(5, amounts(1, 0)));
        credits.give(3, amounts(13, 1_000));
        assert_eq!(credits.recall(), amounts(13, 1_000));
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let credits = Credits::new(amounts(2, 10));
        assert!(!credits.take(0, amounts(1, 11)));
        assert!(!credits.take(7, amounts(3, 1)));
        assert_eq!(credits.recall(), amounts(2, 10));
    }

    #[test]
    fn what_is_refused_for_its_cost_alone_takes_neither_slots_nor_staging() {
        let whole = Amounts {
            published: 100,
            ..amounts(2, 10)
        };
        let credits = Credits::new(whole);
        let dear = Amounts {
            published: 101,
            ..amounts(1, 1)
        };
        assert!(!credits.take(0, dear));
        let cheap = Amounts {
            published: 100,
            ..dear
        };
        assert!(credits.take(0, cheap));
        credits.give(5, cheap);
        assert_eq!(credits.recall(), whole);
    }
}
