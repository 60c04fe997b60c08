//! Room: whether there is any for one more effect or saga, of the engine and of its tenant.
//!
//! Invariants
//! - No tenant alone takes all the room there is.

use std::sync::atomic::Ordering;

use orlop_admission::{Dimension, Refusal, TenantAccount};
use orlop_saga::id::TenantId;

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

    /// What a tenant has retained: the rows of its outcomes, and the blobs that they are in.
    pub(crate) fn retained_bytes(&self, tenant: TenantId) -> u64 {
        let (blobs, _) = self.store.0.blob_bytes(tenant);
        blobs.saturating_add(self.store.0.outcome_bytes(tenant))
    }

    /// Whether the tenant may have more outcomes that stay.
    pub(super) fn check_retained(&self, account: &TenantAccount) -> Result<(), SubmitError> {
        let quota = account.retained_bytes_max().get();
        // Most have none, and need not be looked up.
        let retained = (quota < u64::MAX).then(|| self.retained_bytes(account.id()));
        if let Some(used) = retained.filter(|used| *used >= quota) {
            let (dimension, cap) = (Dimension::TenantRetainedBytes, quota);
            let refusal = Refusal::QuotaExceeded {
                dimension,
                asked: 1,
                used,
                cap,
            };
            self.executor.audit.refused(account.id(), &refusal);
            return Err(SubmitError::Refused(refusal));
        }
        let (bytes, bytes_max) = self.store.0.blob_bytes(account.id());
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
