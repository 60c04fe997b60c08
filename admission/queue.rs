//! The fair queue: who is next.
//!
//! FIFO within (tenant, class); within a tenant by urgency, with a bound on how often a class is
//! passed over; round-robin over the tenants that have something they may start. A tenant at its
//! own bound is out of the round until its bound lifts, so it costs the others nothing.
//!
//! The queue knows neither clocks nor grantees. It is told what starts and what ends, because who
//! may be next depends on what each tenant has in flight.
//!
//! Invariants
//! - The round holds exactly the lanes whose head fits their tenant's bound.
//! - `front` changes nothing: the answer stays the same until something is pushed, removed,
//!   taken or ended, so whoever is in front and needs more than is free keeps the turn.
//! - A lane exists while it has something queued or in flight.

use std::collections::HashMap;

use orlop_saga::tenant::Class;
use slab::Slab;

use crate::links::{Linked, Links, List};

/// How often a class with something queued is passed over before it is next in its lane.
pub(crate) const PASSED_OVER_MAX: u32 = 8;

/// Names a tenant for as long as it has a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnerKey(pub(crate) usize);

/// Names a lane: one tenant's share of this queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneKey(usize);

/// Names a place in the queue. Reused after the place is left: pair it with a serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryKey(usize);

/// One value for each class.
#[derive(Clone, Copy, Debug, Default)]
struct PerClass<T> {
    interactive: T,
    standard: T,
    batch: T,
}

impl<T: Copy> PerClass<T> {
    const fn get(&self, class: Class) -> T {
        match class {
            Class::Interactive => self.interactive,
            Class::Standard => self.standard,
            Class::Batch => self.batch,
        }
    }

    const fn get_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Standard => &mut self.standard,
            Class::Batch => &mut self.batch,
        }
    }
}

#[derive(Debug)]
struct Entry<W> {
    item: W,
    lane: usize,
    class: Class,
    slots: u32,
    links: Links,
}

impl<W> Linked for Entry<W> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
struct Lane {
    owner: OwnerKey,
    in_flight: u64,
    queued: u32,
    waiting: PerClass<List>,
    passed_over: PerClass<u32>,
    in_round: bool,
    links: Links,
}

impl Lane {
    /// The class whose head is next: one that was passed over too often, else the most urgent.
    fn next_class(&self) -> Option<Class> {
        let mut next: Option<Class> = None;
        let mut overdue = PASSED_OVER_MAX;
        for class in Class::ALL {
            if self.waiting.get(class).is_empty() {
                continue;
            }
            let passed_over = self.passed_over.get(class);
            if passed_over >= overdue {
                // `>=`: among equals the less urgent, which has fewer ways to be next.
                overdue = passed_over;
                next = Some(class);
            } else if next.is_none() {
                next = Some(class);
            }
        }
        next
    }

    /// Books that `class` was next: the less urgent ones that wait were passed over.
    fn book_turn(&mut self, class: Class) {
        for other in Class::ALL {
            let waits = !self.waiting.get(other).is_empty();
            let passed_over = self.passed_over.get_mut(other);
            if other == class || !waits {
                *passed_over = 0;
            } else if other > class {
                *passed_over = passed_over.saturating_add(1);
            }
        }
    }
}

impl Linked for Lane {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// What waits for one pool of slots, in the order in which it is to start.
#[derive(Debug)]
pub(crate) struct FairQueue<W> {
    entries: Slab<Entry<W>>,
    lanes: Slab<Lane>,
    lane_of: HashMap<OwnerKey, usize>,
    round: List,
    slots_per_owner_max: u64,
}

impl<W> FairQueue<W> {
    /// An empty queue in which a tenant may have `slots_per_owner_max` slots in flight.
    pub(crate) fn new(slots_per_owner_max: u32) -> Self {
        Self {
            entries: Slab::new(),
            lanes: Slab::new(),
            lane_of: HashMap::new(),
            round: List::default(),
            slots_per_owner_max: u64::from(slots_per_owner_max),
        }
    }

    /// How many entries wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries of `owner` wait.
    pub(crate) fn queued_of(&self, owner: OwnerKey) -> u32 {
        self.lane(owner).map_or(0, |lane| lane.queued)
    }

    /// Whether work of `owner` that needs `slots` may start at once: nobody who could start is
    /// overtaken, and it stays within the tenant's bound.
    pub(crate) fn may_start(&self, owner: OwnerKey, slots: u32) -> bool {
        let (queued, in_flight) = self
            .lane(owner)
            .map_or((0, 0), |lane| (lane.queued, lane.in_flight));
        self.round.is_empty() && queued == 0 && self.fits(in_flight, slots)
    }

    /// Books work that starts without having waited.
    pub(crate) fn start(&mut self, owner: OwnerKey, slots: u32) -> LaneKey {
        let key = self.lane_or_new(owner);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.in_flight = lane.in_flight.saturating_add(u64::from(slots));
        }
        self.refresh(key);
        LaneKey(key)
    }

    /// Queues `item` behind what `owner` already has waiting in `class`.
    pub(crate) fn push(&mut self, owner: OwnerKey, class: Class, slots: u32, item: W) -> EntryKey {
        let lane_key = self.lane_or_new(owner);
        let key = self.entries.insert(Entry {
            item,
            lane: lane_key,
            class,
            slots,
            links: Links::default(),
        });
        if let Some(lane) = self.lanes.get_mut(lane_key) {
            lane.queued = lane.queued.saturating_add(1);
            lane.waiting
                .get_mut(class)
                .push_back(&mut self.entries, key);
        }
        self.refresh(lane_key);
        EntryKey(key)
    }

    /// Who is next, and how many slots it needs.
    pub(crate) fn front(&self) -> Option<(EntryKey, u32)> {
        let (key, slots) = self.head_of(self.round.front()?)?;
        Some((EntryKey(key), slots))
    }

    /// Looks at what waits under `key`.
    pub(crate) fn get(&self, key: EntryKey) -> Option<&W> {
        self.entries.get(key.0).map(|entry| &entry.item)
    }

    /// Starts what waits under `key`, which is in front: it leaves the queue, its slots count as
    /// in flight, and its tenant goes to the end of the round.
    pub(crate) fn take(&mut self, key: EntryKey) -> Option<(LaneKey, W)> {
        let entry = self.unlink(key)?;
        if let Some(lane) = self.lanes.get_mut(entry.lane) {
            lane.in_flight = lane.in_flight.saturating_add(u64::from(entry.slots));
            lane.book_turn(entry.class);
        }
        self.leave_round(entry.lane);
        self.refresh(entry.lane);
        Some((LaneKey(entry.lane), entry.item))
    }

    /// Withdraws what waits under `key`.
    pub(crate) fn remove(&mut self, key: EntryKey) -> Option<W> {
        let entry = self.unlink(key)?;
        self.refresh(entry.lane);
        Some(entry.item)
    }

    /// Books that work which had started has ended.
    pub(crate) fn end(&mut self, lane: LaneKey, slots: u32) {
        if let Some(lane) = self.lanes.get_mut(lane.0) {
            debug_assert!(
                lane.in_flight >= u64::from(slots),
                "more ended than started"
            );
            lane.in_flight = lane.in_flight.saturating_sub(u64::from(slots));
        }
        self.refresh(lane.0);
    }

    /// Anything that waits, of `owner` or of anyone.
    pub(crate) fn any_of(&self, owner: Option<OwnerKey>) -> Option<EntryKey> {
        let Some(owner) = owner else {
            return self.entries.iter().next().map(|(key, _)| EntryKey(key));
        };
        let key = *self.lane_of.get(&owner)?;
        self.head_of(key).map(|(key, _)| EntryKey(key))
    }

    fn lane(&self, owner: OwnerKey) -> Option<&Lane> {
        self.lane_of
            .get(&owner)
            .and_then(|&key| self.lanes.get(key))
    }

    fn lane_or_new(&mut self, owner: OwnerKey) -> usize {
        let lanes = &mut self.lanes;
        *self.lane_of.entry(owner).or_insert_with(|| {
            lanes.insert(Lane {
                owner,
                in_flight: 0,
                queued: 0,
                waiting: PerClass::default(),
                passed_over: PerClass::default(),
                in_round: false,
                links: Links::default(),
            })
        })
    }

    fn head_of(&self, lane: usize) -> Option<(usize, u32)> {
        let lane = self.lanes.get(lane)?;
        let key = lane.waiting.get(lane.next_class()?).front()?;
        Some((key, self.entries.get(key)?.slots))
    }

    fn fits(&self, in_flight: u64, slots: u32) -> bool {
        in_flight.saturating_add(u64::from(slots)) <= self.slots_per_owner_max
    }

    fn unlink(&mut self, key: EntryKey) -> Option<Entry<W>> {
        let (lane_key, class) = self
            .entries
            .get(key.0)
            .map(|entry| (entry.lane, entry.class))?;
        if let Some(lane) = self.lanes.get_mut(lane_key) {
            lane.queued = lane.queued.saturating_sub(1);
            lane.waiting.get_mut(class).unlink(&mut self.entries, key.0);
            if lane.waiting.get(class).is_empty() {
                *lane.passed_over.get_mut(class) = 0;
            }
        }
        self.entries.try_remove(key.0)
    }

    fn leave_round(&mut self, key: usize) {
        if self.lanes.get(key).is_some_and(|lane| lane.in_round) {
            self.round.unlink(&mut self.lanes, key);
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.in_round = false;
            }
        }
    }

    /// Puts the lane into the round or takes it out, by whether its head may start; forgets a
    /// lane that has nothing left.
    fn refresh(&mut self, key: usize) {
        let Some(lane) = self.lanes.get(key) else {
            return;
        };
        let head = self.head_of(key);
        let may_start = head.is_some_and(|(_, slots)| self.fits(lane.in_flight, slots));
        if may_start && !lane.in_round {
            self.round.push_back(&mut self.lanes, key);
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.in_round = true;
            }
        } else if !may_start {
            let gone = (lane.queued == 0 && lane.in_flight == 0).then_some(lane.owner);
            self.leave_round(key);
            if let Some(owner) = gone {
                self.lane_of.remove(&owner);
                self.lanes.try_remove(key);
            }
        }
    }
}
