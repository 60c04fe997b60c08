//! Lines: what waits in front of a bulkhead, of one tenant and class, in its order. Where budgets
//! are asked for, of one payer too: whoever waits for a budget is in nobody else's way.
//!
//! Book-keeping under the lock of the waiting room: nothing here asks, calls or sleeps.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use orlop_saga::id::TenantId;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::Monotonic;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::bulkhead::Core;
use crate::engagement::Payer;
use crate::held::BulkheadId;
use crate::lift::Lift;
use crate::refusal::{Refusal, Scope};
use crate::request::{Lane, Request};
use crate::waiting::Place;

/// Which line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LineKey {
    pub(crate) bulkhead: BulkheadId,
    pub(crate) tenant: TenantId,
    /// `None` is the reserved lane, which is FIFO per tenant.
    class: Option<Class>,
    /// `None`: nobody is asked to pay.
    payer: Option<AuditTag>,
}

impl LineKey {
    pub(crate) fn of(bulkhead: BulkheadId, request: &Request<'_>) -> Self {
        Self {
            bulkhead,
            tenant: request.tenant.id(),
            class: match request.lane {
                Lane::Ordinary => Some(request.class),
                Lane::Reserved => None,
            },
            payer: match (request.lane, request.payer) {
                (Lane::Reserved, _) | (Lane::Ordinary, Payer::Anybody) => None,
                (Lane::Ordinary, Payer::Purse(_) | Payer::Unknown) => Some(request.audit),
            },
        }
    }
}

/// Why the head of a line was refused, and when.
#[derive(Clone, Debug)]
pub(crate) struct Blocked {
    pub(crate) refusal: Refusal,
    pub(crate) lift: Lift,
    /// When to ask again, if it is a matter of time.
    pub(crate) at: Option<Monotonic>,
}

impl Blocked {
    /// Whether nobody else in front of the bulkhead would pass either.
    pub(crate) const fn is_for_all(&self) -> bool {
        matches!(
            self.refusal,
            Refusal::QueueFull {
                scope: Scope::Bulkhead,
                ..
            }
        )
    }
}

/// See the module.
pub(crate) struct Line {
    key: LineKey,
    pub(crate) bulkhead: Weak<Core>,
    /// By serial number. The head may be on its way through the bulkhead's door.
    pub(crate) places: BTreeMap<u64, Arc<Place>>,
    /// Somebody asks on behalf of the head.
    pub(crate) asking: bool,
    /// Something may have changed since the head was asked for last.
    pub(crate) again: bool,
    pub(crate) blocked: Option<Blocked>,
    /// How often something had been given back when its head was asked for last.
    pub(crate) asked_at: u64,
    /// Its place among those that wait for something of the bulkhead.
    turn: Option<u64>,
    /// Its place among those that wait for time to pass.
    alarm: Option<(Monotonic, u64)>,
    /// Its place among those that wait for a budget, and whose.
    purse: Option<(AuditTag, u64)>,
}

/// All lines of a room.
#[derive(Default)]
pub(crate) struct Lines {
    of: FxHashMap<TenantId, SmallVec<[Line; 1]>>,
    /// Lines that wait for something of a bulkhead, whose turn is next in front.
    turns: FxHashMap<BulkheadId, BTreeMap<u64, LineKey>>,
    /// Lines that wait for time to pass.
    alarms: BTreeMap<(Monotonic, u64), LineKey>,
    /// Lines that wait for a budget, by whose and by whose turn is next.
    purses: FxHashMap<AuditTag, BTreeMap<u64, LineKey>>,
    /// The same ones, by bulkhead.
    poor: FxHashMap<BulkheadId, BTreeMap<u64, LineKey>>,
    serial: u64,
}

impl Lines {
    pub(crate) fn get(&mut self, key: LineKey) -> Option<&mut Line> {
        let lines = self.of.get_mut(&key.tenant)?;
        lines.iter_mut().find(|line| line.key == key)
    }

    pub(crate) fn get_or_new(&mut self, key: LineKey, bulkhead: &Arc<Core>) -> &mut Line {
        let lines = self.of.entry(key.tenant).or_default();
        let at = lines.iter().position(|line| line.key == key);
        let at = at.unwrap_or_else(|| {
            lines.push(Line {
                key,
                bulkhead: Arc::downgrade(bulkhead),
                places: BTreeMap::new(),
                asking: false,
                again: false,
                blocked: None,
                asked_at: 0,
                turn: None,
                alarm: None,
                purse: None,
            });
            lines.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just now")]
        &mut lines[at]
    }

    /// Forgets a line; those who wait in it are never asked for.
    pub(crate) fn forget(&mut self, key: LineKey) {
        self.unwatch(key);
        if let Some(lines) = self.of.get_mut(&key.tenant) {
            lines.retain(|line| line.key != key);
            if lines.is_empty() {
                self.of.remove(&key.tenant);
            }
        }
    }

    /// Nothing is watched for a line any more.
    fn unwatch(&mut self, key: LineKey) {
        let Some(line) = self.get(key) else {
            return;
        };
        let (turn, alarm) = (line.turn.take(), line.alarm.take());
        let purse = line.purse.take();
        if let Some(alarm) = alarm {
            self.alarms.remove(&alarm);
        }
        if let Some(turn) = turn {
            remove(&mut self.turns, &key.bulkhead, turn);
        }
        if let Some((audit, turn)) = purse {
            remove(&mut self.purses, &audit, turn);
            remove(&mut self.poor, &key.bulkhead, turn);
        }
    }

    /// The lines of a tenant that `which` chooses.
    pub(crate) fn of_tenant(
        &self,
        tenant: TenantId,
        which: impl Fn(&Line) -> bool,
    ) -> SmallVec<[LineKey; 4]> {
        let lines = self.of.get(&tenant).into_iter().flatten();
        lines
            .filter(|line| which(line))
            .map(|line| line.key)
            .collect()
    }

    /// Every line.
    pub(crate) fn keys(&self) -> Vec<LineKey> {
        let lines = self.of.values().flatten();
        lines.map(|line| line.key).collect()
    }

    /// Books that the head of a line was refused, and what is watched for it.
    pub(crate) fn block(&mut self, key: LineKey, blocked: Blocked) {
        self.unwatch(key);
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let Some(line) = self.get(key) else {
            return;
        };
        let alarm = blocked.at.map(|at| (at, serial));
        let turn = (blocked.lift == Lift::Bulkhead).then_some(serial);
        let purse = match blocked.lift {
            Lift::Budget(audit) => Some((audit, serial)),
            Lift::Bulkhead | Lift::Tenant | Lift::After(_) | Lift::Command => None,
        };
        (line.alarm, line.turn, line.purse) = (alarm, turn, purse);
        line.blocked = Some(blocked);
        if let Some(alarm) = alarm {
            self.alarms.insert(alarm, key);
        }
        if let Some(turn) = turn {
            self.turns
                .entry(key.bulkhead)
                .or_default()
                .insert(turn, key);
        }
        if let Some((audit, turn)) = purse {
            let of_audit = self.purses.entry(audit).or_default();
            of_audit.insert(turn, key);
            let of_bulkhead = self.poor.entry(key.bulkhead).or_default();
            of_bulkhead.insert(turn, key);
        }
    }

    /// The lines that wait for the budget of `audit`, whose turn is next in front.
    pub(crate) fn of_purse(&self, audit: AuditTag) -> SmallVec<[LineKey; 4]> {
        let lines = self.purses.get(&audit).into_iter();
        lines.flat_map(BTreeMap::values).copied().collect()
    }

    /// The line in front of a bulkhead that has waited longest for a budget.
    pub(crate) fn poorest(&self, bulkhead: BulkheadId) -> Option<LineKey> {
        self.poor.get(&bulkhead)?.values().next().copied()
    }

    /// How many lines wait for something of a bulkhead.
    pub(crate) fn turns(&self, bulkhead: BulkheadId) -> usize {
        self.turns.get(&bulkhead).map_or(0, BTreeMap::len)
    }

    /// The line that has waited longest for something of a bulkhead, of those behind the turn
    /// `after`; and its turn. If it is refused once more, its turn comes last.
    pub(crate) fn next_of(
        &self,
        bulkhead: BulkheadId,
        after: Option<u64>,
    ) -> Option<(u64, LineKey)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.turns.get(&bulkhead)?.range((from, Bound::Unbounded));
        behind.next().map(|(turn, key)| (*turn, *key))
    }

    /// When the next line is to be asked for again.
    pub(crate) fn next_alarm(&self) -> Option<Monotonic> {
        self.alarms.keys().next().map(|(at, _)| *at)
    }

    /// A line whose time has come at `now`.
    pub(crate) fn take_alarm(&mut self, now: Monotonic) -> Option<LineKey> {
        let entry = self.alarms.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let key = entry.remove();
        if let Some(line) = self.get(key) {
            line.alarm = None;
        }
        Some(key)
    }

    /// Takes every place.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<Place>> {
        let lines = std::mem::take(self).of.into_values().flatten();
        lines.flat_map(|line| line.places.into_values()).collect()
    }
}

/// Takes a turn out of a list, and the list away with its last one.
fn remove<K: Eq + Hash>(lists: &mut FxHashMap<K, BTreeMap<u64, LineKey>>, of: &K, turn: u64) {
    if let Some(turns) = lists.get_mut(of) {
        turns.remove(&turn);
        if turns.is_empty() {
            lists.remove(of);
        }
    }
}

impl Line {
    pub(crate) fn head(&self) -> Option<&Arc<Place>> {
        self.places.values().next()
    }

    /// Whether it waits for its tenant to give something back.
    pub(crate) fn waits_for_tenant(&self) -> bool {
        let lift = self.blocked.as_ref().map(|blocked| blocked.lift);
        lift == Some(Lift::Tenant)
    }

    /// Whether it waits for something to be given back, or to be paid in.
    pub(crate) fn waits_for_room(&self) -> bool {
        match self.blocked.as_ref().map(|blocked| blocked.lift) {
            Some(Lift::Bulkhead | Lift::Tenant | Lift::Budget(_)) => true,
            Some(Lift::After(_) | Lift::Command) | None => false,
        }
    }
}
