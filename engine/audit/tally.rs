//! Tallies: what one tenant was denied and refused in one interval.
//!
//! Counting and taking acquire and release: see `Auditor::wake`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use orlop_admission::Reason;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tally {
    told: AtomicU32,
    examined: AtomicU32,
    suppressed: AtomicU64,
    refused: [AtomicU64; Reason::COUNT],
}

impl Tally {
    /// Whether one more attempt is told by itself.
    pub(super) fn tell(&self, max: u32) -> bool {
        take(&self.told, max)
    }

    /// Whether one more attempt is looked into.
    pub(super) fn examine(&self, max: u32) -> bool {
        take(&self.examined, max)
    }

    pub(super) fn suppress(&self) {
        self.suppressed.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn refuse(&self, reason: Reason) {
        if let Some(count) = self.refused.get(reason.index()) {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Begins a new interval; gives how many attempts were only counted.
    pub(super) fn turn(&self) -> u64 {
        self.told.swap(0, Ordering::AcqRel);
        self.examined.swap(0, Ordering::AcqRel);
        self.suppressed.swap(0, Ordering::AcqRel)
    }

    /// Takes the counts of refusals.
    pub(super) fn take_refused(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL
            .into_iter()
            .zip(&self.refused)
            .map(|(reason, count)| (reason, count.swap(0, Ordering::AcqRel)))
            .filter(|(_, count)| *count > 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        let counts = self.refused.iter().chain([&self.suppressed]);
        let attempts = [&self.told, &self.examined];
        counts
            .into_iter()
            .all(|count| count.load(Ordering::Relaxed) == 0)
            && attempts
                .iter()
                .all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

/// Counts up to a bound, and not beyond: it must not come round again.
fn take(count: &AtomicU32, max: u32) -> bool {
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < max).then_some(count + 1)
        })
        .is_ok()
}
