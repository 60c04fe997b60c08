//! Parking: tenants that are out of turn because what they have next waits for an exclusion group.

use orlop_saga::tenant::Class;

use super::{FairQueue, Lane};
use crate::conflicts::ExclusionId;

/// Exclusion groups of one lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parked {
    /// Those of its heads that could start but for other groups.
    leads: u64,
    /// Those of them that wait for others to end, and since when.
    waits: u64,
    since: u64,
}

impl<W> FairQueue<W> {
    /// Whether `group` is one of those that are told apart here.
    pub(crate) const fn knows(&self, group: ExclusionId) -> bool {
        self.exclusion.has(group)
    }

    /// Whether an exclusion group is held.
    pub(crate) const fn excludes(&self) -> bool {
        self.exclusion.is_held()
    }

    /// The exclusion groups of heads of a lane that could start but for other groups.
    fn groups_of_heads(&self, lane: &Lane) -> u64 {
        let heads = Class::ALL.into_iter();
        let heads = heads.filter_map(|class| self.head(lane, class));
        let fitting = heads.filter(|(_, piece)| self.fits(lane.in_flight, piece.slots));
        let groups = fitting.filter_map(|(_, piece)| piece.exclusion);
        groups.fold(0, |mask, group| mask | group.bit())
    }

    /// Has lanes that wait for an exclusion group which is free now wait for their turn.
    pub(super) fn wake_freed(&mut self) {
        if !self.exclusion.anybody_waits() {
            return;
        }
        while let Some(lane) = self.exclusion.freed() {
            self.refresh(lane);
        }
    }

    /// Books which exclusion groups the heads of a lane are of, and which of those they wait for.
    pub(super) fn park(&mut self, key: usize) {
        let Some(lane) = self.lanes.get(key) else {
            return;
        };
        let (parked, leads) = (lane.parked, self.groups_of_heads(lane));
        if parked.leads == 0 && leads == 0 {
            return;
        }
        // First, so that a group of its own that others must not overtake counts.
        self.exclusion.lead(parked.leads, leads);
        let waits = self.exclusion.blocked_of(leads);
        let since = if parked.waits == 0 {
            self.exclusion.now()
        } else {
            parked.since
        };
        self.exclusion.wait(key, since, parked.waits, waits);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.parked = Parked {
                leads,
                waits,
                since,
            };
        }
    }
}
