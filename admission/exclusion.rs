//! Exclusion: which groups are held, which wait for others to end, and who is held back for whom.
//!
//! Invariants
//! - Two groups that conflict are never held together.
//! - A group that waits is overtaken by groups that conflict with it a bounded number of times;
//!   after that those are held back until it has started. Of two such groups that conflict, the
//!   one that has waited longer is held back by nobody, so one of them always goes on.

use std::collections::BTreeSet;

use crate::conflicts::{ConflictMatrix, ExclusionId};

/// What is known of one group.
#[derive(Debug, Default)]
struct Group {
    /// Permits out.
    held: u64,
    /// How many of conflicting groups started while it waited.
    overtaken: u32,
    /// When it had been overtaken too often, in the order of such events.
    claimed: Option<u64>,
    /// Tenants that have a head of it which could start but for other groups.
    heads: u64,
    /// The tenants whose head waits for it, in the order in which they began to.
    waiting: BTreeSet<(u64, usize)>,
}

impl Group {
    /// From now on it is not overtaken any more, if it was too often; whether it was.
    fn claim(&mut self, overtakes_max: u32, serial: &mut u64) -> bool {
        if self.overtaken >= overtakes_max && self.claimed.is_none() {
            *serial += 1;
            self.claimed = Some(*serial);
        }
        self.claimed.is_some()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exclusion {
    matrix: ConflictMatrix,
    groups: Box<[Group]>,
    /// Groups that are held.
    held: u64,
    /// Groups for which somebody waits.
    waiting: u64,
    /// Groups that were overtaken too often.
    claims: u64,
    overtakes_max: u32,
    serial: u64,
}

/// The places of the bits that are set.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        bit
    })
}

impl Exclusion {
    pub(crate) fn new(matrix: ConflictMatrix, overtakes_max: u32) -> Self {
        Self {
            groups: (0..matrix.len()).map(|_| Group::default()).collect(),
            matrix,
            held: 0,
            waiting: 0,
            claims: 0,
            overtakes_max,
            serial: 0,
        }
    }

    /// Whether `group` is one of the matrix.
    pub(crate) const fn has(&self, group: ExclusionId) -> bool {
        self.matrix.has(group)
    }

    /// Whether somebody waits for a group.
    pub(crate) const fn anybody_waits(&self) -> bool {
        self.waiting != 0
    }

    /// Whether any group is held.
    pub(crate) const fn is_held(&self) -> bool {
        self.held != 0
    }

    /// Since when `group` may not be overtaken any more, if something of it is next somewhere.
    fn claim(&self, index: usize) -> Option<u64> {
        let group = self.groups.get(index)?;
        group.claimed.filter(|_| group.heads > 0)
    }

    /// Whether work of `group` must not start now.
    pub(crate) fn blocks(&self, group: Option<ExclusionId>) -> bool {
        group.is_some_and(|group| self.is_blocked(group.index()))
    }

    /// Those of `groups` of which work must not start now.
    pub(crate) fn blocked_of(&self, groups: u64) -> u64 {
        let blocked = bits(groups).filter(|&index| self.is_blocked(index));
        blocked.fold(0, |mask, index| mask | 1 << index)
    }

    fn is_blocked(&self, index: usize) -> bool {
        let row = self.matrix.row(index);
        if row & self.held != 0 {
            return true;
        }
        let own = self.claim(index).unwrap_or(u64::MAX);
        bits(row & self.claims)
            .any(|other| other != index && self.claim(other).is_some_and(|claim| claim < own))
    }

    /// Books that work of `group` started.
    pub(crate) fn hold(&mut self, group: Option<ExclusionId>) {
        let Some(started) = group.map(ExclusionId::index) else {
            return;
        };
        self.held |= 1 << started;
        if let Some(group) = self.groups.get_mut(started) {
            group.held = group.held.saturating_add(1);
            (group.overtaken, group.claimed) = (0, None);
            self.claims &= !(1 << started);
        }
        for other in bits(self.matrix.row(started) & self.waiting) {
            if let (Some(group), true) = (self.groups.get_mut(other), other != started) {
                group.overtaken = group.overtaken.saturating_add(1);
                if group.claim(self.overtakes_max, &mut self.serial) {
                    self.claims |= 1 << other;
                }
            }
        }
    }

    /// Books that work of `group` ended.
    pub(crate) fn release(&mut self, group: Option<ExclusionId>) {
        let Some(index) = group.map(ExclusionId::index) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(index) {
            debug_assert!(group.held > 0, "a group was released that is not held");
            group.held = group.held.saturating_sub(1);
            if group.held == 0 {
                self.held &= !(1 << index);
            }
        }
    }

    /// When a tenant begins to wait.
    pub(crate) const fn now(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// `lane` waits from `since` on, for the groups of `after` and no longer for those of `before`.
    pub(crate) fn wait(&mut self, lane: usize, since: u64, before: u64, after: u64) {
        for index in bits(before ^ after) {
            let Some(group) = self.groups.get_mut(index) else {
                continue;
            };
            let bit = 1 << index;
            if after & bit != 0 {
                group.waiting.insert((since, lane));
                if group.claim(self.overtakes_max, &mut self.serial) {
                    self.claims |= bit;
                }
                self.waiting |= bit;
            } else {
                group.waiting.remove(&(since, lane));
                if group.waiting.is_empty() {
                    self.waiting &= !bit;
                }
            }
        }
    }

    /// A tenant has heads of the groups of `after`, and no longer of those of `before`.
    pub(crate) fn lead(&mut self, before: u64, after: u64) {
        for index in bits(before ^ after) {
            if let Some(group) = self.groups.get_mut(index) {
                group.heads = if after >> index & 1 == 1 {
                    group.heads.saturating_add(1)
                } else {
                    group.heads.saturating_sub(1)
                };
            }
        }
    }

    /// A tenant that waits for a group which need not be waited for any more.
    pub(crate) fn freed(&self) -> Option<usize> {
        let mut free = bits(self.waiting).filter(|&index| !self.is_blocked(index));
        let group = self.groups.get(free.next()?)?;
        group.waiting.first().map(|&(_, lane)| lane)
    }

    /// Nobody waits or runs any more.
    pub(crate) fn reset(&mut self) {
        for group in &mut self.groups {
            debug_assert!(group.held == 0, "a group is held by nobody");
            *group = Group::default();
        }
        (self.held, self.waiting, self.claims) = (0, 0, 0);
    }
}
