//! Classes: how the classes of one tenant share what the tenant gets.
//!
//! Start-time fair by weight and cost, as tenants and groups are. A class that begins to wait
//! starts at the tenant's virtual time, and of equal starts the more urgent goes first: urgent
//! work that comes now and then is next, urgent work that floods keeps to its weight.
//!
//! Invariants
//! - Virtual time never goes back; a refund moves no class before it.
//! - No class starves: while it waits its start stands still, and every turn of another class
//!   moves that one on.

use orlop_saga::tenant::Class;

use crate::turns::{Virtual, Weight};

/// What the classes of a tenant get of what the tenant gets, beside one another.
///
/// A weight is 1 to [`Weight::MAX`]; a class alone gets everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassWeights {
    /// The weight of [`Class::Interactive`].
    pub interactive: Weight,
    /// The weight of [`Class::Standard`].
    pub standard: Weight,
    /// The weight of [`Class::Batch`].
    pub batch: Weight,
}

impl ClassWeights {
    /// The weight of `class`.
    pub const fn of(&self, class: Class) -> Weight {
        match class {
            Class::Interactive => self.interactive,
            Class::Standard => self.standard,
            Class::Batch => self.batch,
        }
    }
}

impl Default for ClassWeights {
    /// 16 to 4 to 1.
    fn default() -> Self {
        Self {
            interactive: Weight::SIXTEEN,
            standard: Weight::FOUR,
            batch: Weight::ONE,
        }
    }
}

/// One value for each class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClass<T> {
    interactive: T,
    standard: T,
    batch: T,
}

impl<T: Copy> PerClass<T> {
    pub(crate) const fn get(&self, class: Class) -> T {
        match class {
            Class::Interactive => self.interactive,
            Class::Standard => self.standard,
            Class::Batch => self.batch,
        }
    }

    pub(crate) const fn get_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Standard => &mut self.standard,
            Class::Batch => &mut self.batch,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Tag {
    finish: Virtual,
    /// Virtual time when it began to wait.
    floor: Virtual,
}

/// The classes of one tenant in virtual time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClassTurns {
    now: Virtual,
    tags: PerClass<Tag>,
}

impl ClassTurns {
    /// `class`, which had nothing waiting, has now.
    pub(crate) const fn enter(&mut self, class: Class) {
        self.tags.get_mut(class).floor = self.now;
    }

    fn start(&self, class: Class) -> Virtual {
        let tag = self.tags.get(class);
        tag.floor.max(tag.finish)
    }

    /// Whose turn it is, of those for which `waits`.
    pub(crate) fn first(&self, waits: impl Fn(Class) -> bool) -> Option<Class> {
        let waiting = Class::ALL.into_iter().filter(|&class| waits(class));
        // The first of equals is the more urgent.
        waiting.min_by_key(|&class| self.start(class))
    }

    /// `class` is served, after it waited or at once, and charged `cost`.
    pub(crate) fn charge(&mut self, class: Class, waited: bool, cost: u64, weight: Weight) {
        let start = if waited {
            self.start(class)
        } else {
            self.now.max(self.tags.get(class).finish)
        };
        self.now = self.now.max(start);
        self.tags.get_mut(class).finish = start.saturating_add(weight.virtual_of(cost));
    }

    /// `class` has something in flight that it was not charged for here.
    pub(crate) fn owe(&mut self, class: Class, cost: u64, weight: Weight) {
        let from = self.now.max(self.tags.get(class).finish);
        self.tags.get_mut(class).finish = from.saturating_add(weight.virtual_of(cost));
    }

    /// What `class` was charged turned out to be `actual` and not `charged`.
    pub(crate) fn correct(&mut self, class: Class, weight: Weight, charged: u64, actual: u64) {
        let now = self.now;
        let finish = &mut self.tags.get_mut(class).finish;
        if actual >= charged {
            *finish = finish.saturating_add(weight.virtual_of(actual - charged));
        } else {
            let refunded = finish.saturating_sub(weight.virtual_of(charged - actual));
            *finish = refunded.max((*finish).min(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(turns: &mut ClassTurns, rounds: u32) -> [u32; 3] {
        let weights = ClassWeights::default();
        let mut served = [0; 3];
        for _ in 0..rounds {
            let class = turns.first(|_| true).unwrap();
            turns.charge(class, true, 100, weights.of(class));
            served[class as usize] += 1;
        }
        served
    }

    #[test]
    fn backlogged_classes_share_by_weight_and_none_starves() {
        let served = serve(&mut ClassTurns::default(), 2_100);
        for (count, expected) in served.iter().zip([1_600_u32, 400, 100]) {
            assert!(count.abs_diff(expected) <= 2, "{served:?}");
        }
    }

    #[test]
    fn urgent_work_that_comes_now_and_then_is_next() {
        let mut turns = ClassTurns::default();
        let weights = ClassWeights::default();
        for _ in 0..100 {
            for _ in 0..30 {
                let class = turns.first(|class| class != Class::Interactive).unwrap();
                turns.charge(class, true, 100, weights.of(class));
            }
            turns.enter(Class::Interactive);
            assert_eq!(turns.first(|_| true), Some(Class::Interactive));
            turns.charge(Class::Interactive, true, 100, weights.interactive);
        }
    }

    #[test]
    fn having_been_idle_earns_a_class_nothing() {
        let mut turns = ClassTurns::default();
        for _ in 0..1_000 {
            turns.charge(Class::Batch, true, 100, Weight::ONE);
        }
        for class in [Class::Interactive, Class::Standard] {
            turns.enter(class);
        }
        let served = serve(&mut turns, 210);
        for (count, expected) in served.iter().zip([160_u32, 40, 10]) {
            assert!(count.abs_diff(expected) <= 2, "{served:?}");
        }
    }
}
