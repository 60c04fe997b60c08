//! Rings: slots in the shared memory, addressed by a position that only ever rises.

use std::sync::Arc;

use crate::memory::Region;
use crate::slot::{Sequence, Slot, SlotData};

/// One ring. Cheap to clone; holds no position, each side keeps its own.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    region: Arc<Region>,
    offset: u64,
    slots: u32,
}

impl Ring {
    /// The ring of `slots` slots (a power of two) at `offset`, if it lies in the region.
    pub(crate) fn new(region: Arc<Region>, offset: u64, slots: u32) -> Option<Self> {
        region.slots(offset, u64::from(slots))?;
        slots.is_power_of_two().then_some(Self {
            region,
            offset,
            slots,
        })
    }

    pub(crate) const fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots from `position` to the end of the ring.
    pub(crate) fn until_end(&self, position: u64) -> u64 {
        u64::from(self.slots) - (position & u64::from(self.slots - 1))
    }

    pub(crate) fn write(&self, position: u64, data: &SlotData) {
        if let Some(slot) = self.slot(position) {
            slot.write(Sequence::of(position, self.slots), data);
        }
    }

    pub(crate) fn read(&self, position: u64) -> Option<SlotData> {
        self.slot(position)?
            .read(Sequence::of(position, self.slots))
    }

    pub(crate) fn hints(&self, position: u64) -> bool {
        let sequence = Sequence::of(position, self.slots);
        self.slot(position).is_some_and(|slot| slot.hints(sequence))
    }

    fn slot(&self, position: u64) -> Option<&Slot> {
        let index = usize::try_from(position & u64::from(self.slots - 1)).ok()?;
        self.region
            .slots(self.offset, u64::from(self.slots))?
            .get(index)
    }
}
