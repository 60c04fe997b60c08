//! The fair queue: who is next.
//!
//! FIFO within (tenant, class); between the classes of a tenant, between tenants, and between groups
//! of tenants, start-time fair by weight and cost. A tenant at its own bound is out of turn until
//! its bound lifts, so it costs the others nothing. Who waits for an exclusion group is out of
//! turn until that is free, and then bounded by how often it was overtaken.
//!
//! The queue knows neither clocks nor grantees. It is told what starts, at what estimated cost,
//! and what ends, at what measured one.
//!
//! Invariants
//! - Those lanes wait for a turn whose head may start, and those groups that have such a lane;
//!   what an exclusion group that has been taken since makes untrue is put right by `front`.
//! - `front` has no effect that shows: its answer stays the same until something is pushed,
//!   removed, taken or ended.
//! - A lane is forgotten only when it has nothing queued or in flight and is not ahead of the
//!   others, or when nobody has anything.

mod backlog;
mod lanes;
mod parking;

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use orlop_saga::tenant::Class;
use rustc_hash::FxHashMap;
use slab::Slab;

pub(crate) use self::backlog::Ahead;
use self::backlog::Backlog;
use self::parking::Parked;
use crate::classes::{ClassTurns, ClassWeights, PerClass};
use crate::conflicts::ExclusionId;
use crate::exclusion::Exclusion;
use crate::links::{Linked, Links, List};
use crate::share::{GroupId, Share};
use crate::turns::{Tag, Turns, Weight};

/// One life of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnerKey(pub(crate) TenantId);

/// What was booked when work started, and what its tenant was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Booking {
    mark: Mark,
    slots: u32,
    charged: u64,
}

/// What of a booking is neither cost nor slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    class: Class,
    exclusion: Option<ExclusionId>,
    /// Whether the cost was known, and not guessed.
    known: bool,
}

impl Mark {
    /// The booking with it.
    #[inline]
    pub(crate) const fn booking(self, slots: u32, charged: BusyNanos) -> Booking {
        Booking {
            mark: self,
            slots,
            charged: charged.get(),
        }
    }
}

impl Booking {
    /// Work that starts while nobody waits, at a `cost` that is `known` or guessed.
    #[inline]
    pub(crate) const fn at_once(class: Class, slots: u32, cost: BusyNanos, known: bool) -> Self {
        let mark = Mark {
            class,
            exclusion: None,
            known,
        };
        mark.booking(slots, cost)
    }

    pub(crate) const fn mark(self) -> Mark {
        self.mark
    }

    /// Whether what it was estimated to cost had been measured before.
    pub(crate) const fn is_known(self) -> bool {
        self.mark.known
    }

    pub(crate) const fn class(self) -> Class {
        self.mark.class
    }

    /// What it was estimated to cost.
    pub(crate) const fn charged(self) -> BusyNanos {
        BusyNanos::new(self.charged)
    }
}

/// Names a place in the queue. Reused after the place is left: pair it with a serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryKey(usize);

/// What starts or waits, as far as the order of the queue depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) class: Class,
    pub(crate) slots: u32,
    pub(crate) exclusion: Option<ExclusionId>,
    /// What it is known to cost, for predictions; nothing, if that is not known.
    pub(crate) cost: u64,
}

#[derive(Debug)]
struct Entry<W> {
    item: W,
    lane: usize,
    piece: Piece,
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
    classes: ClassTurns,
    backlog: PerClass<u64>,
    parked: Parked,
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
    backlog: Backlog,
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
    backlog: Backlog,
    classes: ClassWeights,
    exclusion: Exclusion,
    /// Lanes that are not idle.
    busy: usize,
    slots_per_owner_max: u64,
}

impl<W> FairQueue<W> {
    /// An empty queue in which a tenant may have `slots_per_owner_max` slots in flight.
    pub(crate) fn new(
        slots_per_owner_max: u32,
        classes: ClassWeights,
        exclusion: Exclusion,
    ) -> Self {
        Self {
            entries: Slab::new(),
            lanes: Slab::new(),
            lane_of: FxHashMap::default(),
            groups: Slab::new(),
            group_of: FxHashMap::default(),
            turns: Turns::default(),
            backlog: Backlog::default(),
            classes,
            exclusion,
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

    /// Whether work of `owner` may start at once: nobody who could start is overtaken, nothing
    /// that it conflicts with runs, and it stays within the tenant's bound.
    pub(crate) fn may_start(
        &self,
        owner: OwnerKey,
        slots: u32,
        exclusion: Option<ExclusionId>,
    ) -> bool {
        let (queued, in_flight) = self
            .lane(owner)
            .map_or((0, 0), |lane| (lane.queued, lane.in_flight));
        self.turns.is_empty()
            && queued == 0
            && self.fits(in_flight, slots)
            && !self.exclusion.blocks(exclusion)
    }

    /// Books work that starts without having waited.
    pub(crate) fn start(
        &mut self,
        owner: OwnerKey,
        share: Share,
        piece: Piece,
        cost: BusyNanos,
    ) -> Booking {
        let key = self.lane_or_new(owner, share);
        let booking = self.book(key, piece, false, cost);
        self.refresh(key);
        self.wake_freed();
        booking
    }

    /// Queues `item` behind what `owner` already has waiting in the class.
    pub(crate) fn push(
        &mut self,
        owner: OwnerKey,
        share: Share,
        piece: Piece,
        item: W,
    ) -> EntryKey {
        let lane_key = self.lane_or_new(owner, share);
        let key = self.entries.insert(Entry {
            item,
            lane: lane_key,
            piece,
            overtaken: 0,
            links: Links::default(),
        });
        self.enlist(lane_key, piece);
        if let Some(lane) = self.lanes.get_mut(lane_key) {
            let waiting = lane.waiting.get_mut(piece.class);
            if waiting.is_empty() {
                lane.classes.enter(piece.class);
            }
            waiting.push_back(&mut self.entries, key);
        }
        self.refresh(lane_key);
        EntryKey(key)
    }

    /// Who is next, and how many slots it needs.
    pub(crate) fn front(&mut self) -> Option<(EntryKey, u32)> {
        loop {
            let lane = self.groups.get(self.turns.first()?)?.turns.first()?;
            if let Some((key, slots)) = self.startable(lane) {
                return Some((EntryKey(key), slots));
            }
            // It waits for what started since it came to wait for its turn.
            self.refresh(lane);
            self.wake_freed();
        }
    }

    /// Who would be next if those in front of it did not wait, among the first `lanes` of them,
    /// and needs no more than `slots`.
    pub(crate) fn next_within(&self, slots: u32, lanes: usize) -> Option<EntryKey> {
        let groups = self.turns.iter().filter_map(|key| self.groups.get(key));
        let heads = groups
            .flat_map(|group| group.turns.iter())
            .filter_map(|lane| self.startable(lane))
            .take(lanes);
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

    /// What waits under `key`, to be changed in what its place does not depend on.
    pub(crate) fn get_mut(&mut self, key: EntryKey) -> Option<&mut W> {
        self.entries.get_mut(key.0).map(|entry| &mut entry.item)
    }

    /// Starts what waits under `key`, the head of its lane: it leaves the queue, its slots count
    /// as in flight, and its tenant and group are charged `cost`.
    pub(crate) fn take(&mut self, key: EntryKey, cost: BusyNanos) -> Option<(Booking, W)> {
        let entry = self.unlink(key)?;
        let booking = self.book(entry.lane, entry.piece, true, cost);
        self.refresh(entry.lane);
        self.wake_freed();
        Some((booking, entry.item))
    }

    /// Withdraws what waits under `key`.
    pub(crate) fn remove(&mut self, key: EntryKey) -> Option<W> {
        let entry = self.unlink(key)?;
        self.refresh(entry.lane);
        self.wake_freed();
        Some(entry.item)
    }

    /// Books that work which had started has ended, and corrects what it was charged to what it
    /// cost, if that was measured.
    pub(crate) fn end(&mut self, owner: OwnerKey, booking: Booking, actual: Option<BusyNanos>) {
        self.exclusion.release(booking.mark.exclusion);
        let Some(&key) = self.lane_of.get(&owner) else {
            debug_assert!(false, "what ended was not in flight");
            return;
        };
        if let Some(lane) = self.lanes.get_mut(key) {
            let slots = u64::from(booking.slots);
            debug_assert!(lane.in_flight >= slots, "more ended than started");
            lane.in_flight = lane.in_flight.saturating_sub(slots);
            if let (Some(actual), Some(group)) = (actual, self.groups.get_mut(lane.group)) {
                let (charged, actual) = (booking.charged, actual.get());
                let class = booking.class();
                let weight = self.classes.of(class);
                lane.classes.correct(class, weight, charged, actual);
                let turns = &mut group.turns;
                turns.correct(key, &mut lane.tag, lane.weight, charged, actual);
                let (key, weight) = (lane.group, group.weight);
                self.turns
                    .correct(key, &mut group.tag, weight, charged, actual);
            }
        }
        self.refresh(key);
        self.wake_freed();
    }

    /// Counts what `owner` has in flight from before anybody waited: nobody owed anything then, and
    /// now it counts against whoever has it.
    pub(crate) fn seed(
        &mut self,
        owner: OwnerKey,
        share: Share,
        slots: u64,
        charged: PerClass<u64>,
    ) {
        let key = self.lane_or_new(owner, share);
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        lane.in_flight = lane.in_flight.saturating_add(slots);
        for class in Class::ALL {
            let weight = self.classes.of(class);
            lane.classes.owe(class, charged.get(class), weight);
        }
        let sum = Class::ALL.into_iter().map(|class| charged.get(class));
        let sum = sum.fold(0, u64::saturating_add);
        if let Some(group) = self.groups.get_mut(lane.group) {
            group.turns.owe(&mut lane.tag, sum, lane.weight);
            self.turns.owe(&mut group.tag, sum, group.weight);
        }
    }

    /// Anything that waits, of `owner` or of anyone.
    pub(crate) fn any_of(&self, owner: Option<OwnerKey>) -> Option<EntryKey> {
        let Some(owner) = owner else {
            return self.entries.iter().next().map(|(key, _)| EntryKey(key));
        };
        let lane = self.lane(owner)?;
        let mut fronts = Class::ALL.into_iter().map(|class| lane.waiting.get(class));
        fronts.find_map(List::front).map(EntryKey)
    }

    fn lane(&self, owner: OwnerKey) -> Option<&Lane> {
        self.lane_of
            .get(&owner)
            .and_then(|&key| self.lanes.get(key))
    }

    /// Counts a piece of a lane as in flight, and charges class, lane and group for their turn.
    fn book(&mut self, key: usize, piece: Piece, waited: bool, cost: BusyNanos) -> Booking {
        let charged = cost.get();
        let Piece {
            class,
            exclusion,
            slots,
            ..
        } = piece;
        let mark = Mark {
            class,
            exclusion,
            known: false,
        };
        let booking = mark.booking(slots, cost);
        self.exclusion.hold(exclusion);
        let Some(lane) = self.lanes.get_mut(key) else {
            return booking;
        };
        lane.in_flight = lane.in_flight.saturating_add(u64::from(slots));
        let weight = self.classes.of(class);
        lane.classes.charge(class, waited, charged, weight);
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

    /// The head of `class` in a lane.
    fn head(&self, lane: &Lane, class: Class) -> Option<(usize, Piece)> {
        let key = lane.waiting.get(class).front()?;
        Some((key, self.entries.get(key)?.piece))
    }

    /// Whoever is next in a lane: of the classes whose head waits for no exclusion group, the one
    /// whose turn it is. Nobody, if that one is beyond the tenant's bound.
    fn startable(&self, lane: usize) -> Option<(usize, u32)> {
        let lane = self.lanes.get(lane)?;
        let free = |class| {
            let head = self.head(lane, class);
            head.is_some_and(|(_, piece)| !self.exclusion.blocks(piece.exclusion))
        };
        let (key, piece) = self.head(lane, lane.classes.first(free)?)?;
        self.fits(lane.in_flight, piece.slots)
            .then_some((key, piece.slots))
    }

    fn fits(&self, in_flight: u64, slots: u32) -> bool {
        in_flight.saturating_add(u64::from(slots)) <= self.slots_per_owner_max
    }

    fn unlink(&mut self, key: EntryKey) -> Option<Entry<W>> {
        let (lane_key, piece) = self
            .entries
            .get(key.0)
            .map(|entry| (entry.lane, entry.piece))?;
        self.delist(lane_key, piece);
        if let Some(lane) = self.lanes.get_mut(lane_key) {
            let waiting = lane.waiting.get_mut(piece.class);
            waiting.unlink(&mut self.entries, key.0);
        }
        self.entries.try_remove(key.0)
    }

    /// Has the lane wait for a turn or not, by whether something of it may start, and its group by
    /// whether one of its lanes waits; puts a lane to rest that has nothing left.
    fn refresh(&mut self, key: usize) {
        self.park(key);
        if self.startable(key).is_none() {
            self.out_of_turn(key);
            self.rest(key);
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
}
