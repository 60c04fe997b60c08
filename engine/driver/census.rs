//! The census: how many sagas are in which state, and how many came into each.

use std::sync::atomic::{AtomicU64, Ordering};

use orlop_saga::saga::StatusKind;

use super::run::Run;

/// How many sagas are where, as far as that is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SagaCounts {
    now: [u64; StatusKind::COUNT],
    entered: [u64; StatusKind::COUNT],
}

impl SagaCounts {
    /// How many are in this state now. One that ended is counted for a moment only.
    pub fn now(&self, status: StatusKind) -> u64 {
        self.now.get(status.index()).copied().unwrap_or_default()
    }

    /// How many times one came into this state since the engine was opened; those that were found
    /// in it did not.
    pub fn entered(&self, status: StatusKind) -> u64 {
        self.entered
            .get(status.index())
            .copied()
            .unwrap_or_default()
    }
}

impl Run {
    /// Is counted where it is if it was found in the store: nobody tells of that.
    pub(super) fn be_found(&mut self, census: &Census) {
        if let (None, Some(status)) = (self.counted, &self.shown) {
            census.found(&mut self.counted, status.kind());
        }
    }
}

/// Counted by the driver alone; others only look.
#[derive(Debug, Default)]
pub(crate) struct Census {
    now: [AtomicU64; StatusKind::COUNT],
    entered: [AtomicU64; StatusKind::COUNT],
}

impl Census {
    /// A saga is in a state; `counted` is where it was counted before.
    fn found(&self, counted: &mut Option<StatusKind>, status: StatusKind) {
        let before = counted.replace(status);
        if before == Some(status) {
            return;
        }
        if let Some(count) = self.now.get(status.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.minus(before);
    }

    /// A saga came into a state.
    pub(super) fn entered(&self, counted: &mut Option<StatusKind>, status: StatusKind) {
        self.found(counted, status);
        if let Some(count) = self.entered.get(status.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A saga is not looked after any more.
    pub(super) fn left(&self, counted: &mut Option<StatusKind>) {
        self.minus(counted.take());
    }

    fn minus(&self, status: Option<StatusKind>) {
        if let Some(count) = status.and_then(|status| self.now.get(status.index())) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> SagaCounts {
        let read = |counts: &[AtomicU64; StatusKind::COUNT]| {
            StatusKind::ALL.map(|status| {
                let count = counts.get(status.index());
                count.map_or(0, |count| count.load(Ordering::Relaxed))
            })
        };
        SagaCounts {
            now: read(&self.now),
            entered: read(&self.entered),
        }
    }
}
