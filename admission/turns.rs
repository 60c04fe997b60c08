//! Turns: the order in which the children of one node share what it gets.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996). Every child has a tag in virtual time; the
//! one with the smallest start is next; what it is charged moves its finish on by cost over
//! weight, and its next start is not before that.
//!
//! Invariants
//! - Virtual time never goes back.
//! - A child that begins to wait starts at virtual time or at its last finish, whichever is later:
//!   having been idle earns no credit, and having been ahead is not forgotten.
//! - A refund moves nobody before virtual time.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

/// A point in virtual time: nanoseconds of cost at weight 1, in fractions of `1 / SCALE`.
pub(crate) type Virtual = u128;

/// Fractions of a nanosecond, so that large weights do not round small costs to nothing.
const SCALE: Virtual = 1 << 20;

/// How much more than its siblings a child may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The weight of whoever was given none.
    pub const ONE: Self = Self(NonZeroU32::MIN);
    pub(crate) const FOUR: Self = Self(NonZeroU32::MIN.saturating_add(3));
    pub(crate) const SIXTEEN: Self = Self(NonZeroU32::MIN.saturating_add(15));
    /// The largest weight.
    pub const MAX: u32 = 1 << 16;

    /// `weight` times the share of a sibling of weight 1; `None` for 0 and beyond [`Self::MAX`].
    pub const fn new(weight: u32) -> Option<Self> {
        if weight > Self::MAX {
            return None;
        }
        match NonZeroU32::new(weight) {
            Some(weight) => Some(Self(weight)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    pub(crate) fn virtual_of(self, cost: u64) -> Virtual {
        Virtual::from(cost) * SCALE / Virtual::from(self.get())
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// Where one child is in virtual time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tag {
    finish: Virtual,
    /// Virtual time when it began to wait; while it waits, it starts no earlier.
    floor: Virtual,
    /// Its place among those that wait.
    place: Option<(Virtual, u64)>,
}

/// The children of one node that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    now: Virtual,
    serial: u64,
    waiting: BTreeSet<(Virtual, u64, usize)>,
    /// Children that do nothing and are still ahead of virtual time.
    resting: BTreeSet<(Virtual, usize)>,
}

impl Turns {
    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<usize> {
        self.waiting.first().map(|&(_, _, key)| key)
    }

    /// Those that wait, in the order of their turns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|&(_, _, key)| key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// `key` begins to wait; no effect if it waits already.
    pub(crate) fn enter(&mut self, key: usize, tag: &mut Tag) {
        if tag.place.is_some() {
            return;
        }
        tag.floor = self.now;
        self.place(key, tag);
    }

    fn place(&mut self, key: usize, tag: &mut Tag) {
        // Behind those with the same start: equal costs of equal weights take turns.
        let place = (tag.floor.max(tag.finish), self.serial);
        self.serial = self.serial.wrapping_add(1);
        self.waiting.insert((place.0, place.1, key));
        tag.place = Some(place);
    }

    /// `key` does not wait any more; no effect if it did not.
    pub(crate) fn leave(&mut self, key: usize, tag: &mut Tag) {
        if let Some((start, serial)) = tag.place.take() {
            self.waiting.remove(&(start, serial, key));
        }
    }

    /// `key`, which has left, is served: it is charged `cost`, and virtual time moves to its start.
    pub(crate) fn charge(&mut self, tag: &mut Tag, start: Start, cost: u64, weight: Weight) {
        let start = match start {
            Start::Waited(start) => start,
            Start::AtOnce => self.now.max(tag.finish),
        };
        self.now = self.now.max(start);
        tag.finish = start.saturating_add(weight.virtual_of(cost));
    }

    /// A child has something in flight that it was not charged for here: it is behind by that.
    pub(crate) fn owe(&self, tag: &mut Tag, cost: u64, weight: Weight) {
        let from = self.now.max(tag.finish);
        tag.finish = from.saturating_add(weight.virtual_of(cost));
    }

    /// What `key` was charged turned out to be `actual` and not `charged`.
    pub(crate) fn correct(
        &mut self,
        key: usize,
        tag: &mut Tag,
        weight: Weight,
        charged: u64,
        actual: u64,
    ) {
        let was = tag.finish;
        if actual >= charged {
            tag.finish = was.saturating_add(weight.virtual_of(actual - charged));
        } else {
            let refunded = was.saturating_sub(weight.virtual_of(charged - actual));
            tag.finish = refunded.max(was.min(self.now));
        }
        let start = tag.floor.max(tag.finish);
        if let Some((old, serial)) = tag.place
            && start != old
        {
            self.waiting.remove(&(old, serial, key));
            self.waiting.insert((start, serial, key));
            tag.place = Some((start, serial));
        }
    }

    /// `key` has nothing left to wait or to run for. Says whether it can be forgotten at once; if
    /// not, [`Self::rested`] names it once it can.
    pub(crate) fn rest(&mut self, key: usize, tag: &Tag) -> bool {
        tag.finish <= self.now || {
            self.resting.insert((tag.finish, key));
            false
        }
    }

    /// `key`, which rested, is back.
    pub(crate) fn wake(&mut self, key: usize, tag: &Tag) {
        self.resting.remove(&(tag.finish, key));
    }

    /// A child that rests and is no longer ahead: to be forgotten.
    pub(crate) fn rested(&mut self) -> Option<usize> {
        let &(finish, _) = self.resting.first()?;
        if finish > self.now {
            return None;
        }
        self.resting.pop_first().map(|(_, key)| key)
    }
}

/// Where a child's turn began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// It waited, and started here.
    Waited(Virtual),
    /// It did not wait.
    AtOnce,
}

impl Tag {
    /// Where its turn begins, if it is served now.
    pub(crate) fn start(&self) -> Start {
        self.place
            .map_or(Start::AtOnce, |(start, _)| Start::Waited(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(of: u32) -> Weight {
        Weight::new(of).unwrap()
    }

    /// Serves whoever is first `rounds` times; how often each child was served.
    fn serve(
        turns: &mut Turns,
        tags: &mut [Tag],
        weights: &[u32],
        costs: &[u64],
        rounds: u32,
    ) -> Vec<u32> {
        let mut served = vec![0; tags.len()];
        for _ in 0..rounds {
            let key = turns.first().unwrap();
            let tag = &mut tags[key];
            let start = tag.start();
            turns.leave(key, tag);
            turns.charge(tag, start, costs[key], weight(weights[key]));
            turns.enter(key, tag);
            served[key] += 1;
        }
        served
    }

    #[test]
    fn backlogged_children_share_by_weight_whatever_one_turn_costs() {
        let (mut turns, mut tags) = (Turns::default(), [Tag::default(); 3]);
        for (key, tag) in tags.iter_mut().enumerate() {
            turns.enter(key, tag);
        }
        let served = serve(&mut turns, &mut tags, &[1, 2, 1], &[100, 100, 400], 700);
        // By cost: 1 to 2 to 1. By turns: 4 to 8 to 1.
        for (count, expected) in served.iter().zip([215, 431, 54]) {
            assert!(count.abs_diff(expected) <= 2, "{served:?}");
        }
    }

    #[test]
    fn having_been_idle_earns_nothing() {
        let (mut turns, mut tags) = (Turns::default(), [Tag::default(); 2]);
        turns.enter(0, &mut tags[0]);
        serve(&mut turns, &mut tags, &[1, 1], &[100, 100], 1000);
        turns.enter(1, &mut tags[1]);
        let served = serve(&mut turns, &mut tags, &[1, 1], &[100, 100], 100);
        assert!(served[0].abs_diff(served[1]) <= 1, "{served:?}");
    }

    #[test]
    fn leaving_while_ahead_and_coming_back_forgives_nothing() {
        let (mut turns, mut tags) = (Turns::default(), [Tag::default(); 2]);
        turns.enter(0, &mut tags[0]);
        turns.enter(1, &mut tags[1]);
        // The first has a turn of 1,000 times the others' cost, leaves and comes back.
        let start = tags[0].start();
        turns.leave(0, &mut tags[0]);
        turns.charge(&mut tags[0], start, 100_000, Weight::ONE);
        assert!(!turns.rest(0, &tags[0]));
        turns.wake(0, &tags[0]);
        turns.enter(0, &mut tags[0]);
        let served = serve(&mut turns, &mut tags, &[1, 1], &[100, 100], 1000);
        assert_eq!(served, [0, 1000]);
    }

    #[test]
    fn a_cost_that_was_understated_is_paid_at_the_correction() {
        let (mut turns, mut tags) = (Turns::default(), [Tag::default(); 2]);
        turns.enter(0, &mut tags[0]);
        turns.enter(1, &mut tags[1]);
        serve(&mut turns, &mut tags, &[1, 1], &[100, 100], 2);
        turns.correct(0, &mut tags[0], Weight::ONE, 100, 2_100);
        let served = serve(&mut turns, &mut tags, &[1, 1], &[100, 100], 20);
        assert_eq!(served, [0, 20]);
    }

    #[test]
    fn a_refund_moves_nobody_before_virtual_time() {
        let (mut turns, mut tags) = (Turns::default(), [Tag::default(); 2]);
        turns.enter(0, &mut tags[0]);
        turns.enter(1, &mut tags[1]);
        serve(&mut turns, &mut tags, &[1, 1], &[1_000, 1_000], 100);
        for _ in 0..50 {
            turns.correct(0, &mut tags[0], Weight::ONE, 1_000, 0);
        }
        let served = serve(&mut turns, &mut tags, &[1, 1], &[1_000, 1_000], 100);
        assert!(served[0].abs_diff(served[1]) <= 2, "{served:?}");
    }

    #[test]
    fn who_rests_is_forgotten_once_virtual_time_has_caught_up() {
        let (mut turns, mut tags) = (Turns::default(), [Tag::default(); 2]);
        turns.charge(&mut tags[0], Start::AtOnce, 500, Weight::ONE);
        assert!(!turns.rest(0, &tags[0]));
        assert_eq!(turns.rested(), None);
        turns.enter(1, &mut tags[1]);
        serve(&mut turns, &mut tags, &[1, 1], &[100, 100], 6);
        assert_eq!(turns.rested(), Some(0));
        assert_eq!(turns.rested(), None);
    }
}
