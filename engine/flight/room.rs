//! Room: whether there is any for one more effect or saga, of the engine and of its tenant.
//!
//! Invariants
//! - No tenant alone takes all the room there is.

use std::sync::atomic::Ordering;

use orlop_admission::{Dimension, Refusal, TenantAccount};

use super::enter::{Entrance, Work};
use crate::core::Core;
use crate::error::SubmitError;
use crate::halfway;

impl Core {
    /// One more is unfinished.
    pub(super) fn count_in(&self, account: &TenantAccount) {
        self.flying.fetch_add(1, Ordering::Relaxed);
        account.count_in();
    }

    /// One has ended.
    pub(super) fn count_out(&self, account: &TenantAccount) {
        self.flying.fetch_sub(1, Ordering::Relaxed);
        account.count_out();
    }

    /// Whether one more may be unfinished.
    pub(super) fn check_room(&self, entrance: &Entrance) -> Result<(), SubmitError> {
        let limits = &self.limits;
        let (own, own_max) = (
            entrance.account.unfinished(),
            limits.unfinished_per_tenant_max,
        );
        if own >= own_max {
            return Err(SubmitError::Overloaded {
                what: "effects and sagas of the tenant unfinished",
                count: own,
                count_max: own_max,
            });
        }
        let (what, count, count_max) = match &entrance.work {
            Work::Effect { .. } => ("effects unfinished", self.flying(), limits.effects_max),
            Work::Saga(_) => ("sagas unfinished", self.driver.sagas(), limits.sagas_max),
        };
        if count >= count_max {
            return Err(SubmitError::Overloaded {
                what,
                count,
                count_max,
            });
        }
        let (mark, limit) = match &entrance.work {
            Work::Effect { .. } => (&self.marks.effects, "limits.effects_max"),
            Work::Saga(_) => (&self.marks.sagas, "limits.sagas_max"),
        };
        halfway::level(mark, limit, count, count_max);
        Ok(())
    }

    /// Whether the tenant may have more outcomes that stay: those in blobs are counted.
    pub(super) fn check_retained(&self, account: &TenantAccount) -> Result<(), SubmitError> {
        let (bytes, bytes_max) = self.store.0.blob_bytes(account.id());
        let quota = account.retained_bytes_max().get();
        if bytes >= quota {
            let (dimension, cap) = (Dimension::TenantRetainedBytes, quota);
            let refusal = Refusal::QuotaExceeded {
                dimension,
                asked: 1,
                used: bytes,
                cap,
            };
            self.executor.audit.refused(account.id(), &refusal);
            return Err(SubmitError::Refused(refusal));
        }
        let number = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (mark, limit) = (
            &self.marks.blob_bytes,
            "store.projector.blobs.tenant_bytes_max",
        );
        halfway::size(mark, limit, number(bytes), number(bytes_max));
        if bytes < bytes_max {
            return Ok(());
        }
        Err(SubmitError::Overloaded {
            what: "bytes of a tenant's blobs",
            count: number(bytes),
            count_max: number(bytes_max),
        })
    }
}
