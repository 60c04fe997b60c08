//! Expiry: which waiting request runs out of time next.
//!
//! A heap whose entries are forgotten lazily: what was granted or withdrawn stays in it until it
//! comes to the front, or until most of the heap is stale and it is swept. Withdrawing is
//! therefore O(1), and the heap stays within a constant factor of what waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use orlop_saga::time::Monotonic;

use crate::queue::EntryKey;
use crate::request::Lane;

/// Which waiting request an alarm is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lane: Lane,
    pub(crate) entry: EntryKey,
    /// Tells apart those that wait in the same place one after the other.
    pub(crate) serial: u64,
}

#[derive(Clone, Copy, Debug)]
struct Alarm {
    at: Monotonic,
    place: Place,
}

impl Alarm {
    const fn order(&self) -> (Monotonic, u64) {
        (self.at, self.place.serial)
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Expiries {
    heap: BinaryHeap<Reverse<Alarm>>,
}

impl Expiries {
    /// The heap is swept once it holds this many more than twice what waits.
    const SLACK: usize = 64;

    /// Notes that `place` runs out of time `at`. `waiting` bounds how many places are live and
    /// `is_live` tells which, and whether that is when they still do.
    pub(crate) fn note(
        &mut self,
        at: Monotonic,
        place: Place,
        waiting: usize,
        is_live: impl Fn(&Place, Monotonic) -> bool,
    ) {
        self.heap.push(Reverse(Alarm { at, place }));
        if self.heap.len() > waiting.saturating_mul(2).saturating_add(Self::SLACK) {
            self.heap
                .retain(|Reverse(alarm)| is_live(&alarm.place, alarm.at));
        }
    }

    /// When the next live place runs out of time.
    pub(crate) fn next(
        &mut self,
        is_live: impl Fn(&Place, Monotonic) -> bool,
    ) -> Option<Monotonic> {
        loop {
            let Reverse(alarm) = *self.heap.peek()?;
            if is_live(&alarm.place, alarm.at) {
                return Some(alarm.at);
            }
            self.heap.pop();
        }
    }

    /// Takes a live place whose time is up at `now`.
    pub(crate) fn take(
        &mut self,
        now: Monotonic,
        is_live: impl Fn(&Place, Monotonic) -> bool,
    ) -> Option<Place> {
        if self.next(is_live)? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(alarm)| alarm.place)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::ClassWeights;
    use crate::conflicts::ConflictMatrix;
    use crate::exclusion::Exclusion;
    use crate::queue::{FairQueue, OwnerKey, Piece};
    use crate::share::Share;
    use orlop_saga::id::TenantId;
    use orlop_saga::tenant::Class;

    fn place(serial: u64) -> Place {
        let exclusion = Exclusion::new(ConflictMatrix::default(), 0);
        let mut queue = FairQueue::new(1, ClassWeights::default(), exclusion);
        Place {
            lane: Lane::Ordinary,
            entry: queue.push(
                OwnerKey(TenantId::new(1, 1)),
                Share::ORDINARY,
                Piece {
                    class: Class::Standard,
                    slots: 1,
                    exclusion: None,
                    cost: 0,
                },
                (),
            ),
            serial,
        }
    }

    #[test]
    fn withdrawn_places_do_not_pile_up() {
        let mut expiries = Expiries::default();
        for serial in 0..10_000 {
            let is_live = |place: &Place, _| place.serial == serial;
            expiries.note(
                Monotonic::new(1_000_000 - serial),
                place(serial),
                1,
                is_live,
            );
            assert!(expiries.len() <= Expiries::SLACK + 2);
        }
    }

    #[test]
    fn what_left_its_place_is_neither_next_nor_taken() {
        let mut expiries = Expiries::default();
        for serial in 0..4 {
            expiries.note(Monotonic::new(serial), place(serial), 4, |_, _| true);
        }
        let odd = |place: &Place, _| place.serial % 2 == 1;
        assert_eq!(expiries.next(odd), Some(Monotonic::new(1)));
        assert_eq!(expiries.take(Monotonic::new(0), odd), None);
        assert_eq!(expiries.take(Monotonic::new(9), odd), Some(place(1)));
        assert_eq!(expiries.take(Monotonic::new(9), odd), Some(place(3)));
        assert_eq!(expiries.take(Monotonic::new(9), odd), None);
    }
}
