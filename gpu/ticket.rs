//! Tickets: the permits of a device, and what the host remembers of each operation.
//!
//! Invariants
//! - Free + taken permits = all permits. A permit is taken before anything is queued and given
//!   back once the completion was observed and its result area is no longer read.
//! - A ticket of another epoch or another life of its permit names nothing.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::buffer::{PinnedWindow, ResultWindow};
use crate::entry::Entry;
use crate::layout::Layout;
use crate::memory::Region;
use crate::slot::join;
use crate::task::{Completion, Ticket};

/// Memory and permits, together because a result guard needs both.
#[derive(Debug)]
pub(crate) struct Permits {
    region: Arc<Region>,
    layout: Layout,
    epoch: u32,
    records: Box<[Mutex<Record>]>,
    free: Mutex<VecDeque<u32>>,
}

/// What waits for a completion.
pub(crate) struct Job {
    pub(crate) done: Arc<dyn Completion>,
    pub(crate) windows: SmallVec<[PinnedWindow; 2]>,
    /// Rare, and so not a part of every record.
    pub(crate) result: Option<Box<ResultWindow>>,
    pub(crate) deadline: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Record {
    life: u32,
    pub(crate) ticket: Ticket,
    pub(crate) state: State,
}

/// Where an operation is, as the host knows it.
pub(crate) enum State {
    /// The permit is free.
    Free,
    /// Waits for ring slots.
    Queued { entry: Box<Entry>, job: Job },
    /// Withdrawn while it waited; its place in the queue is still to be popped.
    Withdrawn,
    /// On the ring or on the device; holds so many slots of the ring.
    InFlight { slots: u64, job: Job },
    /// Over; a guard reads its result area.
    Held,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Free => "Free",
            Self::Queued { .. } => "Queued",
            Self::Withdrawn => "Withdrawn",
            Self::InFlight { .. } => "InFlight",
            Self::Held => "Held",
        })
    }
}

impl Permits {
    pub(crate) fn new(region: Arc<Region>, layout: Layout, epoch: u32) -> Self {
        let count = layout.sizes.tickets;
        let unused = Ticket { wire: 0, serial: 0 };
        let record = |_| {
            Mutex::new(Record {
                life: 0,
                ticket: unused,
                state: State::Free,
            })
        };
        Self {
            region,
            layout,
            epoch,
            records: (0..count).map(record).collect(),
            free: Mutex::new((0..count).collect()),
        }
    }

    /// Permits in all.
    pub(crate) const fn capacity(&self) -> u32 {
        self.layout.sizes.tickets
    }

    /// Permits that are free.
    pub(crate) fn available(&self) -> u32 {
        u32::try_from(self.free.lock().len()).unwrap_or(u32::MAX)
    }

    /// Takes the permit that has been free for longest.
    pub(crate) fn take(&self, serial: u64) -> Option<(u32, Ticket)> {
        let index = self.free.lock().pop_front()?;
        let mut record = self.record(index)?;
        record.life = record.life.wrapping_add(1);
        let bits = self.capacity().trailing_zeros();
        let low = record.life.checked_shl(bits).unwrap_or(0) | index;
        record.ticket = Ticket {
            wire: join(low, self.epoch),
            serial,
        };
        Some((index, record.ticket))
    }

    /// Gives a permit back. The caller took it and uses it no longer.
    pub(crate) fn release(&self, index: u32) {
        if let Some(mut record) = self.record(index) {
            record.state = State::Free;
        }
        self.free.lock().push_back(index);
    }

    pub(crate) fn record(&self, index: u32) -> Option<MutexGuard<'_, Record>> {
        self.records.get(index as usize).map(Mutex::lock)
    }

    /// The record of a ticket from the ring, if it is of this epoch and life.
    pub(crate) fn find(&self, wire: u64) -> Option<(u32, MutexGuard<'_, Record>)> {
        let index = crate::slot::low(wire) & (self.capacity() - 1);
        let record = self.record(index)?;
        (record.ticket.wire == wire).then_some((index, record))
    }

    /// Every permit's index.
    pub(crate) fn indices(&self) -> std::ops::Range<u32> {
        0..self.capacity()
    }
}

/// Reads the result area of a permit; dropping it gives the permit back.
#[derive(Debug)]
pub(crate) struct ResultGuard {
    permits: Arc<Permits>,
    index: u32,
    length: u64,
}

impl ResultGuard {
    /// The caller observed the permit's completion and left it `Held` for this guard.
    pub(crate) fn new(permits: Arc<Permits>, index: u32, length: u64) -> Self {
        Self {
            permits,
            index,
            length,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let layout = &self.permits.layout;
        let length = self.length.min(u64::from(layout.sizes.result_bytes));
        let offset = layout.result_of(u64::from(self.index));
        // SAFETY: the device wrote the area before it posted the completion, which was observed
        // with an acquire fence; the permit is not handed out again before this guard is dropped,
        // so nothing writes there.
        let bytes = unsafe { self.permits.region.bytes(offset, length) };
        bytes.unwrap_or_default()
    }
}

impl Drop for ResultGuard {
    fn drop(&mut self) {
        self.permits.release(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Sizes;

    fn permits() -> Permits {
        let sizes = Sizes {
            entry_slots: 16,
            tickets: 16,
            result_bytes: 64,
            workers: 1,
            arena_bytes: 4096,
        };
        let layout = Layout::of(sizes).unwrap();
        Permits::new(Arc::new(Region::new(layout.total).unwrap()), layout, 7)
    }

    #[test]
    fn a_ticket_of_an_earlier_life_or_epoch_names_nothing() {
        let permits = permits();
        let (index, first) = permits.take(1).unwrap();
        assert!(permits.find(first.wire).is_some());
        assert_eq!(first.epoch(), 7);
        permits.release(index);
        for serial in 2..=16 {
            permits.take(serial).unwrap();
        }
        let (again, second) = permits.take(17).unwrap();
        assert_eq!(again, index);
        assert!(permits.find(first.wire).is_none());
        assert!(permits.find(second.wire).is_some());
        assert!(permits.find(second.wire ^ (1 << 32)).is_none());
        assert!(permits.take(18).is_none());
        assert_eq!(permits.available(), 0);
    }
}
