//! Lifts: what has to happen before a request that was refused may pass.

use std::time::Duration;

use orlop_saga::tenant::AuditTag;

use crate::refusal::{Dimension, Refusal, Scope};

/// What a refusal waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lift {
    /// Something in the bulkhead is given back, by any tenant.
    Bulkhead,
    /// Something of the tenant is given back, in any bulkhead.
    Tenant,
    /// This much time passes.
    After(Duration),
    /// Somebody changes the tenant.
    Command,
    /// Something comes into the purse of whoever pays, or there is one.
    Budget(AuditTag),
}

impl Refusal {
    /// What lifts it; `None` if waiting does not help.
    pub(crate) const fn lift(&self) -> Option<Lift> {
        match self {
            Self::RateLimited { retry_after } => Some(Lift::After(*retry_after)),
            Self::QuotaExceeded { dimension, .. } => Some(match dimension {
                Dimension::TenantSlots
                | Dimension::TenantStagingBytes
                | Dimension::TenantBuffers
                | Dimension::TenantDeviceBytes
                | Dimension::TenantKernels
                | Dimension::TenantRetainedBytes
                | Dimension::TenantJournalBytes => Lift::Tenant,
                Dimension::BulkheadSlots
                | Dimension::BulkheadTenantSlots
                | Dimension::BulkheadStagingBytes => Lift::Bulkhead,
                Dimension::LedgerLines => Lift::Command,
            }),
            Self::QueueFull { scope, .. } => Some(match scope {
                Scope::Tenant => Lift::Tenant,
                Scope::Bulkhead => Lift::Bulkhead,
            }),
            Self::QueueTimeout { .. } => Some(Lift::Tenant),
            Self::Suspended { .. }
            | Self::Draining {
                scope: Scope::Tenant,
            } => Some(Lift::Command),
            Self::BudgetExhausted { audit, .. }
            | Self::BudgetPending { audit }
            | Self::EngagementUnknown { audit } => Some(Lift::Budget(*audit)),
            // A bulkhead drains for good, or is resumed by whoever knows that something waits.
            Self::Draining {
                scope: Scope::Bulkhead,
            }
            | Self::StaleTenant { .. }
            | Self::Revoked { .. }
            | Self::NotAllowed { .. }
            | Self::EngagementNotAllowed { .. }
            | Self::Nested { .. }
            | Self::NeverFits { .. }
            | Self::Expired
            | Self::PredictedLate { .. }
            | Self::UnknownExclusion { .. }
            | Self::Cancelled => None,
        }
    }
}
