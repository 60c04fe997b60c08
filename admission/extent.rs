//! Extents: how much a tenant has of everything that its quotas bound.

use crate::refusal::{Dimension, Refusal};
use crate::tenant::Quotas;

/// An amount in every dimension that is held and given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) slots: u64,
    pub(crate) staging: u64,
    pub(crate) buffers: u64,
    pub(crate) device: u64,
    pub(crate) kernels: u64,
    pub(crate) retained: u64,
}

impl Held {
    /// What `quotas` allow.
    pub(crate) const fn of(quotas: &Quotas) -> Self {
        Self {
            slots: quotas.slots_max,
            staging: quotas.staging_bytes_max.get(),
            buffers: quotas.buffers_max,
            device: quotas.device_bytes_max.get(),
            kernels: quotas.kernels_max,
            retained: quotas.retained_bytes_max.get(),
        }
    }

    const fn all(&self) -> [u64; 6] {
        [
            self.slots,
            self.staging,
            self.buffers,
            self.device,
            self.kernels,
            self.retained,
        ]
    }

    const fn each(&mut self) -> [&mut u64; 6] {
        [
            &mut self.slots,
            &mut self.staging,
            &mut self.buffers,
            &mut self.device,
            &mut self.kernels,
            &mut self.retained,
        ]
    }

    /// Whether it is of slots and staging alone, as that of most work is.
    #[inline]
    const fn is_plain(&self) -> bool {
        self.buffers | self.device | self.kernels | self.retained == 0
    }

    /// `count` times as much, if there is such a number.
    #[inline]
    pub(crate) fn checked_times(mut self, count: u64) -> Option<Self> {
        for own in self.each() {
            *own = own.checked_mul(count)?;
        }
        Some(self)
    }

    /// `count` times as much.
    #[inline]
    pub(crate) fn times(mut self, count: u64) -> Self {
        for own in self.each() {
            *own = own.saturating_mul(count);
        }
        self
    }

    /// Whether `asked` beside this stays within `cap`. Who asks for nothing gets it.
    #[inline]
    pub(crate) fn has_room(&self, asked: &Self, cap: &Self) -> bool {
        let fits = |used: u64, asked: u64, cap: u64| {
            asked == 0 || used.checked_add(asked).is_some_and(|sum| sum <= cap)
        };
        if asked.is_plain() {
            return fits(self.slots, asked.slots, cap.slots)
                && fits(self.staging, asked.staging, cap.staging);
        }
        let mut all = self.all().into_iter().zip(asked.all()).zip(cap.all());
        all.all(|((used, asked), cap)| fits(used, asked, cap))
    }

    /// The bounds of `asked` beside this, in the order in which they are told.
    pub(crate) fn bounds(self, asked: Self, cap: Self) -> impl Iterator<Item = Bound> {
        let dimensions = [
            Dimension::TenantSlots,
            Dimension::TenantStagingBytes,
            Dimension::TenantBuffers,
            Dimension::TenantDeviceBytes,
            Dimension::TenantKernels,
            Dimension::TenantRetainedBytes,
        ];
        let all = self.all().into_iter().zip(asked.all()).zip(cap.all());
        dimensions
            .into_iter()
            .zip(all)
            .map(|(dimension, ((used, asked), cap))| Bound {
                dimension,
                asked,
                used,
                cap,
            })
    }

    #[inline]
    pub(crate) fn add(&mut self, other: &Self) {
        if other.is_plain() {
            self.slots = self.slots.saturating_add(other.slots);
            self.staging = self.staging.saturating_add(other.staging);
            return;
        }
        for (own, other) in self.each().into_iter().zip(other.all()) {
            *own = own.saturating_add(other);
        }
    }

    /// Takes `other` away; says whether there was as much.
    #[inline]
    pub(crate) fn subtract(&mut self, other: &Self) -> bool {
        if other.is_plain() {
            let all = self.slots >= other.slots && self.staging >= other.staging;
            self.slots = self.slots.saturating_sub(other.slots);
            self.staging = self.staging.saturating_sub(other.staging);
            return all;
        }
        let mut all = true;
        for (own, other) in self.each().into_iter().zip(other.all()) {
            all &= *own >= other;
            *own = own.saturating_sub(other);
        }
        all
    }
}

/// An amount beside its bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) dimension: Dimension,
    pub(crate) asked: u64,
    pub(crate) used: u64,
    pub(crate) cap: u64,
}

impl Bound {
    pub(crate) const fn never_fits(self) -> Refusal {
        Refusal::NeverFits {
            dimension: self.dimension,
            asked: self.asked,
            cap: self.cap,
        }
    }

    pub(crate) fn exceeded(self) -> Option<Refusal> {
        let fits = self.asked == 0
            || self
                .used
                .checked_add(self.asked)
                .is_some_and(|sum| sum <= self.cap);
        (!fits).then_some(Refusal::QuotaExceeded {
            dimension: self.dimension,
            asked: self.asked,
            used: self.used,
            cap: self.cap,
        })
    }
}
