//! Residents: the sagas whose functions are in memory, and which of them are dropped.
//!
//! A saga that is dropped is passivated: what is left of it is its fold. It is played again from
//! its beginning when there is something to tell it.
//!
//! Invariants
//! - Only a function that waits, and was told everything there is, is dropped.
//! - Above a bound of 0 no function is dropped while an attempt of its saga runs or waits to: it
//!   would be played again in a moment. At 0 every function is dropped as soon as it waits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use orlop_saga::id::SagaId;

use super::Driver;
use super::run::Run;

/// See the module.
pub(super) struct Residents {
    max: usize,
    count: usize,
    turn: u64,
    /// What may be dropped, by when it was last active.
    waiting: BTreeMap<u64, SagaId>,
}

/// What is known here of one saga.
#[derive(Default)]
pub(super) struct Residence {
    counted: bool,
    turn: Option<u64>,
}

impl Residents {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            count: 0,
            turn: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// A saga was active just now; drops the functions of those that were longest idle, if there
    /// are too many.
    pub(super) fn moved(&mut self, driver: &Driver, runs: &mut BTreeMap<SagaId, Run>, id: SagaId) {
        if let Some(run) = runs.get_mut(&id) {
            self.left(run);
            self.turn += 1;
            let resident = run.is_resident();
            run.residence.counted = resident;
            self.count += usize::from(resident);
            if run.may_rest(self.max == 0) {
                run.residence.turn = Some(self.turn);
                self.waiting.insert(self.turn, id);
            }
        }
        while self.count > self.max {
            let Some((_, id)) = self.waiting.pop_first() else {
                break;
            };
            if let Some(run) = runs.get_mut(&id) {
                run.passivate();
                run.residence = Residence::default();
                self.count = self.count.saturating_sub(1);
            }
        }
        driver.resident.store(self.count, Ordering::Relaxed);
    }

    /// Forgets what was known of a saga.
    pub(super) fn left(&mut self, run: &mut Run) {
        let residence = std::mem::take(&mut run.residence);
        self.count = self.count.saturating_sub(usize::from(residence.counted));
        if let Some(turn) = residence.turn {
            self.waiting.remove(&turn);
        }
    }
}

impl Run {
    fn is_resident(&self) -> bool {
        self.player
            .as_ref()
            .is_some_and(|playing| playing.future.is_some())
    }

    /// Whether its function may be dropped: it waits, and was told everything.
    fn may_rest(&self, over_attempts: bool) -> bool {
        let told_all = self.player.as_ref().is_some_and(|playing| {
            playing.future.is_some() && playing.told == self.state.deliveries().len()
        });
        told_all && (over_attempts || self.active.is_empty())
    }

    fn passivate(&mut self) {
        let told = self.player.as_ref().map(|playing| playing.told);
        self.bury();
        self.resting = told;
    }

    /// Whether it is passivated and there is nothing new to tell it.
    pub(super) fn rests(&self) -> bool {
        self.resting == Some(self.state.deliveries().len())
    }
}
