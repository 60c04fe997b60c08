//! The fair queue: who is next.
//!
//! FIFO within (tenant, class); within a tenant by urgency, with a bound on how often a class is
//! passed over; between tenants, and between groups of tenants, start-time fair by weight and
//! cost. A tenant at its own bound is out of turn until its bound lifts, so it costs the others
//! nothing.
//!
//! The queue knows neither clocks nor grantees. It is told what starts, at what estimated cost,
//! and what ends, at what measured one.
//!
//! Invariants
//! - Those lanes wait for a turn whose head fits their tenant's bound, and those groups that have
//!   such a lane.
//! - `front` changes nothing: the answer stays the same until something is pushed, removed,
//!   taken or ended.
//! - A lane is forgotten only when it has nothing queued or in flight and is not ahead of the
//!   others, or when nobody has anything.

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use orlop_saga::tenant::Class;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::links::{Linked, Links, List};
use crate::share::{GroupId, Share};
use crate::turns::{Tag, Turns, Weight};

/// How often a class with something queued is passed over before it is next in its lane.
pub(crate) const PASSED_OVER_MAX: u32 = 8;

/// One life of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnerKey(pub(crate) TenantId);

/// What was booked when work started: its lane, and what the lane was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Booking {
    lane: usize,
    slots: u32,
    charged: u64,
}

impl Booking {
    /// What it was estimated to cost.
    pub(crate) const fn charged(self) -> BusyNanos {
        BusyNanos::new(self.charged)
    }
}

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
    /// How many went ahead of it while it was in front.
    overtaken: u32,
    links: Links,
}

impl<W> Linked for Entry<W> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// One tenant's part of the queue.
#[derive(Debug)]
struct Lane {
    owner: OwnerKey,
    group: usize,
    weight: Weight,
    /// Its place among the lanes of its group.
    tag: Tag,
    in_flight: u64,
    queued: u32,
    waiting: PerClass<List>,
    passed_over: PerClass<u32>,
    /// Whether it has nothing queued or in flight.
    idle: bool,
}

/// Tenants that share what their group gets.
#[derive(Debug)]
struct Group {
    weight: Weight,
    /// Its place among the groups.
    tag: Tag,
    turns: Turns,
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

/// What waits for one pool of slots, in the order in which it is to start.
#[derive(Debug)]
pub(crate) struct FairQueue<W> {
    entries: Slab<Entry<W>>,
    lanes: Slab<Lane>,
    lane_of: FxHashMap<OwnerKey, usize>,
    groups: Slab<Group>,
    group_of: FxHashMap<GroupId, usize>,
    turns: Turns,
    /// Lanes that are not idle.
    busy: usize,
    slots_per_owner_max: u64,
}

impl<W> FairQueue<W> {
    /// An empty queue in which a tenant may have `slots_per_owner_max` slots in flight.
    pub(crate) fn new(slots_per_owner_max: u32) -> Self {
        Self {
            entries: Slab::new(),
            lanes: Slab::new(),
            lane_of: FxHashMap::default(),
            groups: Slab::new(),
            group_of: FxHashMap::default(),
            turns: Turns::default(),
            busy: 0,
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
        self.turns.is_empty() && queued == 0 && self.fits(in_flight, slots)
    }

    /// Books work that starts without having waited.
    pub(crate) fn start(
        &mut self,
        owner: OwnerKey,
        share: Share,
        slots: u32,
        cost: BusyNanos,
    ) -> Booking {
        let key = self.lane_or_new(owner, share);
        let booking = self.book(key, slots, cost);
        self.refresh(key);
        booking
    }

    /// Queues `item` behind what `owner` already has waiting in `class`.
    pub(crate) fn push(
        &mut self,
        owner: OwnerKey,
        share: Share,
        class: Class,
        slots: u32,
        item: W,
    ) -> EntryKey {
        let lane_key = self.lane_or_new(owner, share);
        let key = self.entries.insert(Entry {
            item,
            lane: lane_key,
            class,
            slots,
            overtaken: 0,
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
        let group = self.groups.get(self.turns.first()?)?;
        let (key, slots) = self.head_of(group.turns.first()?)?;
        Some((EntryKey(key), slots))
    }

    /// Who would be next if those in front of it did not wait, among the first `lanes` of them,
    /// and needs no more than `slots`.
    pub(crate) fn next_within(&self, slots: u32, lanes: usize) -> Option<EntryKey> {
        let groups = self.turns.iter().filter_map(|key| self.groups.get(key));
        let heads = groups
            .flat_map(|group| group.turns.iter())
            .take(lanes)
            .filter_map(|lane| self.head_of(lane));
        let mut small = heads.filter(|(_, needs)| *needs <= slots);
        small.next().map(|(key, _)| EntryKey(key))
    }

    /// How many went ahead of what waits under `key`.
    pub(crate) fn overtaken(&self, key: EntryKey) -> u32 {
        self.entries.get(key.0).map_or(0, |entry| entry.overtaken)
    }

    /// Books that one goes ahead of what waits under `key`.
    pub(crate) fn overtake(&mut self, key: EntryKey) {
        if let Some(entry) = self.entries.get_mut(key.0) {
            entry.overtaken = entry.overtaken.saturating_add(1);
        }
    }

    /// Looks at what waits under `key`.
    pub(crate) fn get(&self, key: EntryKey) -> Option<&W> {
        self.entries.get(key.0).map(|entry| &entry.item)
    }

    /// Starts what waits under `key`, the head of its lane: it leaves the queue, its slots count
    /// as in flight, and its tenant and group are charged `cost`.
    pub(crate) fn take(&mut self, key: EntryKey, cost: BusyNanos) -> Option<(Booking, W)> {
        let entry = self.unlink(key)?;
        if let Some(lane) = self.lanes.get_mut(entry.lane) {
            lane.book_turn(entry.class);
        }
        let booking = self.book(entry.lane, entry.slots, cost);
        self.refresh(entry.lane);
        Some((booking, entry.item))
    }

    /// Withdraws what waits under `key`.
    pub(crate) fn remove(&mut self, key: EntryKey) -> Option<W> {
        let entry = self.unlink(key)?;
        self.refresh(entry.lane);
        Some(entry.item)
    }

    /// Books that work which had started has ended, and corrects what it was charged to what it
    /// cost, if that was measured.
    pub(crate) fn end(&mut self, booking: Booking, actual: Option<BusyNanos>) {
        let Booking {
            lane: key,
            slots,
            charged,
        } = booking;
        if let Some(lane) = self.lanes.get_mut(key) {
            debug_assert!(
                lane.in_flight >= u64::from(slots),
                "more ended than started"
            );
            lane.in_flight = lane.in_flight.saturating_sub(u64::from(slots));
            if let (Some(actual), Some(group)) = (actual, self.groups.get_mut(lane.group)) {
                let actual = actual.get();
                let turns = &mut group.turns;
                turns.correct(key, &mut lane.tag, lane.weight, charged, actual);
                let (key, weight) = (lane.group, group.weight);
                self.turns
                    .correct(key, &mut group.tag, weight, charged, actual);
            }
        }
        self.refresh(key);
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

    /// The lane of `owner`, which is about to have something. Its weight is the one of `share`
    /// from now on; its group is, if it has nothing queued or in flight.
    fn lane_or_new(&mut self, owner: OwnerKey, share: Share) -> usize {
        let group_key = self.group_or_new(share);
        let known = self.lane_of.get(&owner).copied();
        let key = known.unwrap_or_else(|| {
            let key = self.lanes.insert(Lane {
                owner,
                group: group_key,
                weight: share.weight,
                tag: Tag::default(),
                in_flight: 0,
                queued: 0,
                waiting: PerClass::default(),
                passed_over: PerClass::default(),
                idle: true,
            });
            self.lane_of.insert(owner, key);
            key
        });
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.weight = share.weight;
            if lane.idle {
                lane.idle = false;
                self.busy += 1;
                if let Some(group) = self.groups.get_mut(lane.group) {
                    group.turns.wake(key, &lane.tag);
                }
                if lane.group != group_key {
                    // Another group, another virtual time.
                    lane.group = group_key;
                    lane.tag = Tag::default();
                }
            }
        }
        key
    }

    fn group_or_new(&mut self, share: Share) -> usize {
        let groups = &mut self.groups;
        let key = *self.group_of.entry(share.group).or_insert_with(|| {
            groups.insert(Group {
                weight: share.group_weight,
                tag: Tag::default(),
                turns: Turns::default(),
            })
        });
        if let Some(group) = self.groups.get_mut(key) {
            group.weight = share.group_weight;
        }
        key
    }

    /// Counts `slots` of a lane as in flight and charges lane and group for their turn.
    fn book(&mut self, key: usize, slots: u32, cost: BusyNanos) -> Booking {
        let charged = cost.get();
        let booking = Booking {
            lane: key,
            slots,
            charged,
        };
        let Some(lane) = self.lanes.get_mut(key) else {
            return booking;
        };
        lane.in_flight = lane.in_flight.saturating_add(u64::from(slots));
        let Some(group) = self.groups.get_mut(lane.group) else {
            return booking;
        };
        let start = lane.tag.start();
        group.turns.leave(key, &mut lane.tag);
        group
            .turns
            .charge(&mut lane.tag, start, charged, lane.weight);
        let start = group.tag.start();
        self.turns.leave(lane.group, &mut group.tag);
        self.turns
            .charge(&mut group.tag, start, charged, group.weight);
        let group_key = lane.group;
        if !group.turns.is_empty() {
            self.turns.enter(group_key, &mut group.tag);
        }
        self.forget_rested(group_key);
        booking
    }

    fn forget_rested(&mut self, group: usize) {
        while let Some(key) = self
            .groups
            .get_mut(group)
            .and_then(|group| group.turns.rested())
        {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: usize) {
        if let Some(lane) = self.lanes.try_remove(key) {
            self.lane_of.remove(&lane.owner);
        }
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

    /// Has the lane wait for a turn or not, by whether its head may start, and its group by
    /// whether one of its lanes waits; puts a lane to rest that has nothing left.
    fn refresh(&mut self, key: usize) {
        let Some((_, slots)) = self.head_of(key) else {
            self.out_of_turn(key);
            self.rest(key);
            return;
        };
        let in_flight = self.lanes.get(key).map_or(0, |lane| lane.in_flight);
        if !self.fits(in_flight, slots) {
            self.out_of_turn(key);
            return;
        }
        if let Some(lane) = self.lanes.get_mut(key)
            && let Some(group) = self.groups.get_mut(lane.group)
        {
            group.turns.enter(key, &mut lane.tag);
            self.turns.enter(lane.group, &mut group.tag);
        }
    }

    fn out_of_turn(&mut self, key: usize) {
        if let Some(lane) = self.lanes.get_mut(key)
            && let Some(group) = self.groups.get_mut(lane.group)
        {
            group.turns.leave(key, &mut lane.tag);
            if group.turns.is_empty() {
                self.turns.leave(lane.group, &mut group.tag);
            }
        }
    }

    fn rest(&mut self, key: usize) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.in_flight > 0 || lane.idle {
            return;
        }
        lane.idle = true;
        self.busy -= 1;
        if self.busy == 0 {
            // Whoever is ahead is ahead of nobody: virtual time begins anew.
            self.lanes.clear();
            self.lane_of.clear();
            self.groups.clear();
            self.group_of.clear();
            self.turns = Turns::default();
            return;
        }
        let group = self.groups.get_mut(lane.group);
        if group.is_none_or(|group| group.turns.rest(key, &lane.tag)) {
            self.forget(key);
        }
    }
}
