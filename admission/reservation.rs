//! Reservations: what a tenant keeps outside any permit, within its quotas.
//!
//! Invariants
//! - A reservation belongs to one life of a tenant and is given back to that one, whatever has
//!   become of it; a later life of the slot is never credited.
//! - It gives back what it still has, once: there is no way to release what is not held.

use std::fmt;
use std::sync::Arc;

use orlop_saga::amount::ByteCount;

use crate::extent::{Bound, Held};
use crate::outbox::Outbox;
use crate::refusal::{Dimension, Refusal};
use crate::tenant::TenantAccount;

/// An amount in every dimension that can be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// Staging bytes.
    pub staging: ByteCount,
    /// Buffers on devices.
    pub buffers: u64,
    /// Bytes of device memory.
    pub device: ByteCount,
    /// Bytes that stay stored.
    pub retained: ByteCount,
}

impl Kept {
    /// `bytes` of staging.
    pub fn staging(bytes: ByteCount) -> Self {
        Self {
            staging: bytes,
            ..Self::default()
        }
    }

    /// One buffer of `bytes` on a device.
    pub fn buffer(bytes: ByteCount) -> Self {
        Self {
            buffers: 1,
            device: bytes,
            ..Self::default()
        }
    }

    /// `bytes` that stay stored.
    pub fn retained(bytes: ByteCount) -> Self {
        Self {
            retained: bytes,
            ..Self::default()
        }
    }

    const fn held(&self) -> Held {
        Held {
            slots: 0,
            staging: self.staging.get(),
            buffers: self.buffers,
            device: self.device.get(),
            kernels: 0,
            retained: self.retained.get(),
        }
    }

    pub(crate) const fn of(held: &Held) -> Self {
        Self {
            staging: ByteCount::new(held.staging),
            buffers: held.buffers,
            device: ByteCount::new(held.device),
            retained: ByteCount::new(held.retained),
        }
    }
}

/// Why nothing was given back: the reservation is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The reservation has less than that. Nothing was given back; release no more than it has.
    #[error("{asked} {dimension} to be released, {held} are held")]
    Underflow {
        /// Of what.
        dimension: Dimension,
        /// How much was to be released.
        asked: u64,
        /// How much is held.
        held: u64,
    },
}

/// What one life of a tenant keeps. Dropping it gives it back.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    account: Arc<TenantAccount>,
    held: Held,
}

impl Reservation {
    /// Whose it is.
    pub const fn tenant(&self) -> &Arc<TenantAccount> {
        &self.account
    }

    /// What it has.
    pub const fn kept(&self) -> Kept {
        Kept::of(&self.held)
    }

    /// Gives a part of it back.
    ///
    /// # Errors
    /// [`ReleaseError`]: nothing was given back.
    pub fn release(&mut self, part: Kept) -> Result<(), ReleaseError> {
        let part = part.held();
        let mut rest = self.held;
        if !rest.subtract(&part) {
            let mut bounds = Held::default().bounds(part, self.held);
            let beyond = bounds.find(|bound| bound.asked > bound.cap);
            return beyond.map_or(Ok(()), |bound| {
                Err(ReleaseError::Underflow {
                    dimension: bound.dimension,
                    asked: bound.asked,
                    held: bound.cap,
                })
            });
        }
        self.held = rest;
        self.account.give_back_kept(&part);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.give_back_kept(&self.held);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("tenant", &self.account.id())
            .field("kept", &self.kept())
            .finish_non_exhaustive()
    }
}

impl TenantAccount {
    /// Reserves `kept` outside any permit, all of it or nothing, beside what permits hold.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was reserved; the tenant is not active, or a quota is exceeded.
    pub fn reserve(self: &Arc<Self>, kept: Kept) -> Result<Reservation, Refusal> {
        let held = kept.held();
        let mut ledger = self.ledger.lock();
        if let Some(refusal) = Refusal::of_state(ledger.state, self.id()) {
            return Err(refusal);
        }
        let (used, cap) = (ledger.used(), ledger.cap);
        let beyond = used.bounds(held, cap).find(|bound| bound.asked > bound.cap);
        let exceeded = || used.bounds(held, cap).find_map(Bound::exceeded);
        if let Some(refusal) = beyond.map(Bound::never_fits).or_else(exceeded) {
            return Err(refusal);
        }
        ledger.kept.add(&held);
        Ok(Reservation {
            account: Arc::clone(self),
            held,
        })
    }

    fn give_back_kept(&self, held: &Held) {
        let mut outbox = Outbox::default();
        {
            let mut ledger = self.ledger.lock();
            let had = ledger.kept.subtract(held);
            debug_assert!(had, "gave back more than was reserved");
            for seat in &ledger.seats {
                seat.core.freed(self.id(), &mut outbox);
            }
        }
        outbox.deliver();
    }
}
