//! Books: what a tenant has queued and in flight in one lane.

use orlop_saga::amount::ByteCount;

use crate::extent::Held;

/// What a tenant holds in one lane, over all bulkheads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Requests that wait.
    pub queued: u64,
    /// Permits that were granted and not given back.
    pub in_flight: u64,
    /// Slots of both.
    pub slots: u64,
    /// Staging bytes of both.
    pub staging: ByteCount,
    /// Buffers of both.
    pub buffers: u64,
    /// Bytes of device memory of both.
    pub device: ByteCount,
    /// Kernels of both.
    pub kernels: u64,
    /// Bytes that stay stored, of both.
    pub retained: ByteCount,
}

/// What is held in one lane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Books {
    queued: u64,
    in_flight: u64,
    pub(super) held: Held,
}

impl Books {
    #[inline]
    pub(super) fn reserve(&mut self, held: &Held, count: u64, waits: bool) {
        if waits {
            self.queued = self.queued.saturating_add(count);
        } else {
            self.in_flight = self.in_flight.saturating_add(count);
        }
        self.held.add(held);
    }

    pub(super) fn dispatch(&mut self) {
        debug_assert!(self.queued > 0, "dispatched what does not wait");
        self.queued = self.queued.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_add(1);
    }

    #[inline]
    pub(super) fn release(&mut self, held: &Held, count: u64, waited: bool) {
        let counted = if waited {
            &mut self.queued
        } else {
            &mut self.in_flight
        };
        debug_assert!(*counted >= count, "released more than was held");
        *counted = counted.saturating_sub(count);
        let held = self.held.subtract(held);
        debug_assert!(held, "released more than was held");
    }

    pub(super) fn snapshot(&self) -> Holding {
        Holding {
            queued: self.queued,
            in_flight: self.in_flight,
            slots: self.held.slots,
            staging: ByteCount::new(self.held.staging),
            buffers: self.held.buffers,
            device: ByteCount::new(self.held.device),
            kernels: self.held.kernels,
            retained: ByteCount::new(self.held.retained),
        }
    }
}
