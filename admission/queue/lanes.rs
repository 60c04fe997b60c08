//! Lanes: how a tenant comes to have one, and when it is forgotten.

use super::backlog::Backlog;
use super::parking::Parked;
use super::{FairQueue, Group, Lane, OwnerKey};
use crate::classes::{ClassTurns, PerClass};
use crate::share::Share;
use crate::turns::{Tag, Turns};

impl<W> FairQueue<W> {
    /// Nobody waits any more: whoever is ahead is ahead of nobody, and virtual time begins anew.
    pub(crate) fn forget_all(&mut self) {
        debug_assert!(self.entries.is_empty(), "somebody waits");
        self.busy = 0;
        self.lanes.clear();
        self.lane_of.clear();
        self.groups.clear();
        self.group_of.clear();
        self.turns = Turns::default();
        self.exclusion.reset();
    }

    /// The lane of `owner`, which is about to have something. Its weight is the one of `share`
    /// from now on; its group is, if it has nothing queued or in flight.
    pub(super) fn lane_or_new(&mut self, owner: OwnerKey, share: Share) -> usize {
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
                classes: ClassTurns::default(),
                backlog: PerClass::default(),
                parked: Parked::default(),
                idle: true,
            });
            self.lane_of.insert(owner, key);
            key
        });
        self.reweigh(key, share.weight);
        if let Some(lane) = self.lanes.get_mut(key)
            && lane.idle
        {
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
        key
    }

    fn group_or_new(&mut self, share: Share) -> usize {
        let groups = &mut self.groups;
        let key = *self.group_of.entry(share.group).or_insert_with(|| {
            groups.insert(Group {
                weight: share.group_weight,
                tag: Tag::default(),
                turns: Turns::default(),
                backlog: Backlog::default(),
            })
        });
        self.reweigh_group(key, share.group_weight);
        key
    }

    pub(super) fn forget_rested(&mut self, group: usize) {
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

    pub(super) fn rest(&mut self, key: usize) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.in_flight > 0 || lane.queued > 0 || lane.idle {
            return;
        }
        lane.idle = true;
        // Nor is any of its classes ahead of another.
        lane.classes = ClassTurns::default();
        self.busy -= 1;
        if self.busy == 0 {
            self.forget_all();
            return;
        }
        let group = self.groups.get_mut(lane.group);
        if group.is_none_or(|group| group.turns.rest(key, &lane.tag)) {
            self.forget(key);
        }
    }
}
