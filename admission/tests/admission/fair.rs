//! The fair order once more, with plain maps: every level is searched whole for the earliest start.

use std::collections::HashMap;
use std::hash::Hash;

use orlop_admission::{ClassWeights, GroupId, Share, Weight};
use orlop_saga::tenant::Class;

/// One child of a level.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    finish: u128,
    floor: u128,
    /// Since when it waits, if it does.
    since: Option<u64>,
}

/// The children of one node.
#[derive(Debug)]
struct Level<K> {
    now: u128,
    entered: u64,
    places: HashMap<K, Place>,
}

impl<K> Default for Level<K> {
    fn default() -> Self {
        Self {
            now: 0,
            entered: 0,
            places: HashMap::new(),
        }
    }
}

fn virtual_of(cost: u64, weight: Weight) -> u128 {
    u128::from(cost) * (1 << 20) / u128::from(weight.get())
}

impl<K: Copy + Eq + Hash> Level<K> {
    fn place(&mut self, key: K) -> &mut Place {
        self.places.entry(key).or_default()
    }

    /// Those that wait, in the order of their turns.
    fn order(&self) -> Vec<K> {
        let waiting = self.places.iter().filter_map(|(key, place)| {
            let since = place.since?;
            Some((place.floor.max(place.finish), since, *key))
        });
        let mut order: Vec<(u128, u64, K)> = waiting.collect();
        order.sort_by_key(|(start, since, _)| (*start, *since));
        order.into_iter().map(|(.., key)| key).collect()
    }

    fn set_waiting(&mut self, key: K, waits: bool) {
        let (now, entered) = (self.now, self.entered);
        let place = self.place(key);
        if waits && place.since.is_none() {
            place.floor = now;
            place.since = Some(entered);
            self.entered += 1;
        } else if !waits {
            place.since = None;
        }
    }

    fn charge(&mut self, key: K, cost: u64, weight: Weight) {
        let now = self.now;
        let place = self.place(key);
        let start = match place.since.take() {
            Some(_) => place.floor.max(place.finish),
            None => now.max(place.finish),
        };
        place.finish = start + virtual_of(cost, weight);
        self.now = now.max(start);
    }

    fn owe(&mut self, key: K, cost: u64, weight: Weight) {
        let now = self.now;
        let place = self.place(key);
        place.finish = now.max(place.finish) + virtual_of(cost, weight);
    }

    fn correct(&mut self, key: K, charged: u64, actual: u64, weight: Weight) {
        let now = self.now;
        let place = self.place(key);
        if actual >= charged {
            place.finish += virtual_of(actual - charged, weight);
        } else {
            let least = place.finish.min(now);
            let refund = virtual_of(charged - actual, weight);
            place.finish = place.finish.saturating_sub(refund).max(least);
        }
    }
}

/// Who is next among the lives of a pool.
#[derive(Debug, Default)]
pub struct Fair {
    groups: Level<GroupId>,
    lives: HashMap<GroupId, Level<usize>>,
    shares: HashMap<usize, Share>,
}

impl Fair {
    pub fn set_share(&mut self, life: usize, share: Share) {
        self.shares.insert(life, share);
    }

    pub fn share(&self, life: usize) -> Share {
        self.shares.get(&life).copied().unwrap_or_default()
    }

    /// The lives that wait, in the order of their turns.
    pub fn order(&self) -> Vec<usize> {
        let groups = self.groups.order().into_iter();
        groups
            .flat_map(|group| self.lives[&group].order())
            .collect()
    }

    pub fn set_waiting(&mut self, life: usize, waits: bool) {
        let group = self.share(life).group;
        let level = self.lives.entry(group).or_default();
        level.set_waiting(life, waits);
        let any = !level.order().is_empty();
        self.groups.set_waiting(group, any);
    }

    pub fn charge(&mut self, life: usize, cost: u64) {
        let share = self.share(life);
        let level = self.lives.entry(share.group).or_default();
        level.charge(life, cost, share.weight);
        let any = !level.order().is_empty();
        self.groups.charge(share.group, cost, share.group_weight);
        self.groups.set_waiting(share.group, any);
    }

    /// What a life has in flight from before anybody waited.
    pub fn owe(&mut self, life: usize, cost: u64) {
        let share = self.share(life);
        let level = self.lives.entry(share.group).or_default();
        level.owe(life, cost, share.weight);
        self.groups.owe(share.group, cost, share.group_weight);
    }

    pub fn correct(&mut self, life: usize, charged: u64, actual: u64) {
        let share = self.share(life);
        let level = self.lives.entry(share.group).or_default();
        level.correct(life, charged, actual, share.weight);
        self.groups
            .correct(share.group, charged, actual, share.group_weight);
    }

    /// Nobody has anything any more.
    pub fn reset(&mut self) {
        self.groups = Level::default();
        self.lives.clear();
    }
}

/// Who is next among the classes of a life.
#[derive(Debug, Default)]
pub struct Classes {
    level: Level<Class>,
    weights: ClassWeights,
}

impl Classes {
    pub fn of(weights: ClassWeights) -> Self {
        Self {
            weights,
            ..Self::default()
        }
    }

    /// Of equal starts the more urgent is first.
    pub fn first(&self) -> Option<Class> {
        let waiting = self.level.places.iter().filter_map(|(class, place)| {
            place.since?;
            Some((place.floor.max(place.finish), *class))
        });
        waiting.min().map(|(_, class)| class)
    }

    pub fn set_waiting(&mut self, class: Class, waits: bool) {
        self.level.set_waiting(class, waits);
    }

    pub fn charge(&mut self, class: Class, cost: u64) {
        let waits = self.level.place(class).since;
        self.level.charge(class, cost, self.weights.of(class));
        // It keeps its floor: only one that had nothing waiting begins to wait anew.
        self.level.place(class).since = waits;
    }

    pub fn owe(&mut self, class: Class, cost: u64) {
        self.level.owe(class, cost, self.weights.of(class));
    }

    pub fn correct(&mut self, class: Class, charged: u64, actual: u64) {
        let weight = self.weights.of(class);
        self.level.correct(class, charged, actual, weight);
    }
}
