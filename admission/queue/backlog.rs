//! Backlogs: how much is queued at each level, and so how much goes ahead of what comes now.
//!
//! Kept as sums, so that a prediction costs the same however much waits.

use orlop_saga::tenant::Class;

use super::{FairQueue, Lane, OwnerKey, Piece};
use crate::share::Share;
use crate::turns::Weight;

/// What waits below one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    /// What it is known to cost.
    cost: u64,
    /// The weights of the children that have some of it, together.
    weight: u64,
}

impl Backlog {
    /// What this node is served until a child of `weight`, which may have no backlog yet, was
    /// served `ahead`.
    fn until(self, ahead: u64, weight: u64, backlogged: bool) -> u64 {
        let others = if backlogged { 0 } else { weight };
        let sum = u128::from(self.weight.saturating_add(others));
        let shared = u128::from(ahead) * sum / u128::from(weight.max(1));
        // However it is shared, no more goes ahead than there is.
        u64::try_from(shared).unwrap_or(u64::MAX).min(self.cost)
    }
}

/// What goes ahead of a request that comes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Of everybody, itself included.
    pub(crate) all: u64,
    /// Of its own tenant.
    pub(crate) own: u64,
}

impl Lane {
    fn cost(&self) -> u64 {
        let costs = Class::ALL.map(|class| self.backlog.get(class));
        costs.into_iter().fold(0, u64::saturating_add)
    }
}

impl<W> FairQueue<W> {
    /// What is known to go ahead of a request of `owner` in `class`, if everybody who waits gets
    /// the share that is theirs and nobody else comes.
    pub(crate) fn ahead(&self, owner: OwnerKey, share: Share, class: Class) -> Ahead {
        let lane = self.lane(owner).filter(|lane| lane.queued > 0);
        let own = lane.map_or(0, |lane| {
            let waits = |other| other == class || !lane.waiting.get(other).is_empty();
            let waiting = Class::ALL.into_iter().filter(|&other| waits(other));
            let weights = waiting.map(|other| u64::from(self.classes.of(other).get()));
            let node = Backlog {
                cost: lane.cost(),
                weight: weights.sum(),
            };
            let weight = u64::from(self.classes.of(class).get());
            node.until(lane.backlog.get(class), weight, true)
        });
        let group = match lane {
            Some(lane) => Some(lane.group),
            None => self.group_of.get(&share.group).copied(),
        };
        let group = group.and_then(|key| self.groups.get(key));
        let of_group = group.map_or(0, |group| {
            let weight = u64::from(share.weight.get());
            group.backlog.until(own, weight, lane.is_some())
        });
        let weight = u64::from(share.group_weight.get());
        let backlogged = group.is_some_and(|group| group.backlog.weight > 0);
        let all = self.backlog.until(of_group, weight, backlogged);
        Ahead { all, own }
    }

    /// Counts a piece that begins to wait.
    pub(super) fn enlist(&mut self, lane: usize, piece: Piece) {
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        let first = lane.queued == 0;
        lane.queued = lane.queued.saturating_add(1);
        let backlog = lane.backlog.get_mut(piece.class);
        *backlog = backlog.saturating_add(piece.cost);
        let Some(group) = self.groups.get_mut(lane.group) else {
            return;
        };
        if first && group.backlog.weight == 0 {
            self.backlog.weight += u64::from(group.weight.get());
        }
        if first {
            group.backlog.weight += u64::from(lane.weight.get());
        }
        group.backlog.cost = group.backlog.cost.saturating_add(piece.cost);
        self.backlog.cost = self.backlog.cost.saturating_add(piece.cost);
    }

    /// Counts a piece that waits no more.
    pub(super) fn delist(&mut self, lane: usize, piece: Piece) {
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        lane.queued = lane.queued.saturating_sub(1);
        let last = lane.queued == 0;
        let backlog = lane.backlog.get_mut(piece.class);
        *backlog = backlog.saturating_sub(piece.cost);
        let Some(group) = self.groups.get_mut(lane.group) else {
            return;
        };
        if last {
            group.backlog.weight -= u64::from(lane.weight.get());
        }
        if last && group.backlog.weight == 0 {
            self.backlog.weight -= u64::from(group.weight.get());
        }
        group.backlog.cost = group.backlog.cost.saturating_sub(piece.cost);
        self.backlog.cost = self.backlog.cost.saturating_sub(piece.cost);
    }

    /// A lane has another weight from now on.
    pub(super) fn reweigh(&mut self, lane: usize, weight: Weight) {
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        let before = std::mem::replace(&mut lane.weight, weight);
        if let (true, Some(group)) = (lane.queued > 0, self.groups.get_mut(lane.group)) {
            let sum = &mut group.backlog.weight;
            *sum = *sum - u64::from(before.get()) + u64::from(weight.get());
        }
    }

    /// A group has another weight from now on.
    pub(super) fn reweigh_group(&mut self, group: usize, weight: Weight) {
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        let before = std::mem::replace(&mut group.weight, weight);
        if group.backlog.weight > 0 {
            let sum = &mut self.backlog.weight;
            *sum = *sum - u64::from(before.get()) + u64::from(weight.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::ClassWeights;
    use crate::conflicts::ConflictMatrix;
    use crate::exclusion::Exclusion;
    use orlop_saga::amount::BusyNanos;
    use orlop_saga::id::TenantId;

    fn queue() -> FairQueue<()> {
        let exclusion = Exclusion::new(ConflictMatrix::default(), 0);
        FairQueue::new(100, ClassWeights::default(), exclusion)
    }

    fn piece(class: Class, cost: u64) -> Piece {
        Piece {
            class,
            slots: 1,
            exclusion: None,
            cost,
        }
    }

    fn owner(slot: u32) -> OwnerKey {
        OwnerKey(TenantId::new(slot, 1))
    }

    #[test]
    fn a_tenant_with_nothing_queued_waits_for_nobody_s_backlog() {
        let mut queue = queue();
        for _ in 0..100 {
            queue.push(owner(0), Share::ORDINARY, piece(Class::Standard, 10), ());
        }
        let ahead = queue.ahead(owner(1), Share::ORDINARY, Class::Standard);
        assert_eq!(ahead, Ahead { all: 0, own: 0 });
    }

    #[test]
    fn what_a_tenant_has_queued_takes_as_long_as_its_share_makes_it() {
        let mut queue = queue();
        for _ in 0..100 {
            queue.push(owner(0), Share::ORDINARY, piece(Class::Standard, 10), ());
            queue.push(owner(1), Share::ORDINARY, piece(Class::Standard, 10), ());
        }
        let three = Share {
            weight: Weight::new(3).unwrap(),
            ..Share::ORDINARY
        };
        for _ in 0..12 {
            queue.push(owner(2), three, piece(Class::Standard, 10), ());
        }
        // 120 of its own, at three fifths.
        let ahead = queue.ahead(owner(2), three, Class::Standard);
        assert_eq!(ahead, Ahead { all: 200, own: 120 });
        // And no more than all there is, however small a share is.
        let ahead = queue.ahead(owner(0), Share::ORDINARY, Class::Standard);
        assert_eq!(ahead.all, 2_120);
    }

    #[test]
    fn a_class_waits_for_its_own_backlog_by_its_weight() {
        let mut queue = queue();
        for _ in 0..100 {
            queue.push(owner(0), Share::ORDINARY, piece(Class::Batch, 10), ());
        }
        let of = |queue: &FairQueue<()>, class| queue.ahead(owner(0), Share::ORDINARY, class).own;
        assert_eq!(of(&queue, Class::Interactive), 0);
        assert_eq!(of(&queue, Class::Batch), 1_000);
        for _ in 0..16 {
            queue.push(owner(0), Share::ORDINARY, piece(Class::Interactive, 10), ());
        }
        // 160 at sixteen seventeenths.
        assert_eq!(of(&queue, Class::Interactive), 170);
    }

    #[test]
    fn sums_are_back_at_nothing_when_all_was_taken_or_withdrawn() {
        let mut queue = queue();
        let group = Share {
            group: crate::share::GroupId::new(1),
            group_weight: Weight::new(7).unwrap(),
            ..Share::ORDINARY
        };
        let heavier = Share {
            weight: Weight::new(9).unwrap(),
            ..group
        };
        let other = queue.push(owner(0), Share::ORDINARY, piece(Class::Batch, 10), ());
        let mut keys = Vec::new();
        for share in [group, heavier, group] {
            keys.push(queue.push(owner(1), share, piece(Class::Standard, 10), ()));
        }
        let (booking, ()) = queue.take(keys[0], BusyNanos::new(10)).unwrap();
        queue.remove(keys[1]).unwrap();
        queue.remove(keys[2]).unwrap();
        queue.end(owner(1), booking, None);
        assert_eq!((queue.backlog.cost, queue.backlog.weight), (10, 1));
        queue.remove(other).unwrap();
        assert_eq!((queue.backlog.cost, queue.backlog.weight), (0, 0));
    }
}
