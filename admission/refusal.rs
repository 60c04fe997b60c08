//! Refusals: why a request was not admitted, or why it no longer waits.

use std::sync::Arc;
use std::time::Duration;

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use orlop_saga::tenant::AuditTag;

use crate::conflicts::ExclusionId;
use crate::tenant::TenantState;

/// Something that is counted against a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dimension {
    /// Slots that the tenant has queued or in flight, over all bulkheads.
    TenantSlots,
    /// Staging bytes that the tenant has reserved, over all bulkheads.
    TenantStagingBytes,
    /// Buffers that the tenant holds and reserves.
    TenantBuffers,
    /// Bytes of device memory that the tenant holds and reserves.
    TenantDeviceBytes,
    /// Kernels of the tenant, queued or running.
    TenantKernels,
    /// Bytes that stay stored for the tenant.
    TenantRetainedBytes,
    /// Bytes that the tenant writes to the journal at once.
    TenantJournalBytes,
    /// Slots of one lane of the bulkhead.
    BulkheadSlots,
    /// Slots that one tenant may have in flight in the bulkhead.
    BulkheadTenantSlots,
    /// Staging bytes reserved in one lane of the bulkhead.
    BulkheadStagingBytes,
    /// Lines of the ledger: one for each tenant and engagement that it ever worked for.
    LedgerLines,
}

impl std::fmt::Display for Dimension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TenantSlots => "slots of the tenant",
            Self::TenantStagingBytes => "staging bytes of the tenant",
            Self::TenantBuffers => "buffers of the tenant",
            Self::TenantDeviceBytes => "bytes of device memory of the tenant",
            Self::TenantKernels => "kernels of the tenant",
            Self::TenantRetainedBytes => "retained bytes of the tenant",
            Self::TenantJournalBytes => "journal bytes of the tenant",
            Self::BulkheadSlots => "slots of the bulkhead",
            Self::BulkheadTenantSlots => "slots of one tenant in the bulkhead",
            Self::BulkheadStagingBytes => "staging bytes of the bulkhead",
            Self::LedgerLines => "lines of the ledger",
        })
    }
}

/// Whose bound or state it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The tenant's own.
    Tenant,
    /// The bulkhead's, shared by all tenants.
    Bulkhead,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tenant => "tenant",
            Self::Bulkhead => "bulkhead",
        })
    }
}

/// Why a request does not run. Nothing ran, and nothing is reserved for it any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The tenant was unregistered; its slot may already belong to another. Nothing was reserved.
    /// Obtain a handle of the tenant's present life.
    #[error("tenant {tenant} is no longer registered")]
    StaleTenant {
        /// The life that ended.
        tenant: TenantId,
    },
    /// The tenant is suspended; what it had queued was withdrawn. Retry once it was resumed.
    #[error("tenant {tenant} is suspended")]
    Suspended {
        /// The tenant.
        tenant: TenantId,
    },
    /// The tenant was revoked; what it had queued was withdrawn. It admits no more ordinary work.
    #[error("tenant {tenant} is revoked")]
    Revoked {
        /// The tenant.
        tenant: TenantId,
    },
    /// The tenant or the bulkhead takes no new work and finishes what it has. Retry once it was
    /// resumed.
    #[error("the {scope} is draining")]
    Draining {
        /// Which of the two.
        scope: Scope,
    },
    /// The tenant may not run this computation. Nothing is reserved, and it did not run. Have it
    /// allowed, or do without.
    #[error("tenant {tenant} may not run computation {computation:?}")]
    NotAllowed {
        /// The tenant.
        tenant: TenantId,
        /// The computation's name.
        computation: Arc<str>,
    },
    /// The tenant may not work for this engagement. Nothing is reserved, and it did not run. Have it
    /// allowed, or submit under one that is.
    #[error(
        "tenant {tenant} may not work for engagement {} of organisation {}",
        audit.engagement, audit.organisation
    )]
    EngagementNotAllowed {
        /// The tenant.
        tenant: TenantId,
        /// Who was to pay.
        audit: AuditTag,
    },
    /// The caller already holds a permit of this bulkhead, so waiting for another one could wait
    /// for itself. Nothing was queued. Acquire before entering the computation, or elsewhere.
    #[error("a permit of bulkhead {bulkhead} was asked for by work that holds one")]
    Nested {
        /// The bulkhead's name.
        bulkhead: Arc<str>,
    },
    /// More than the bound as it stands now, so it could not be admitted even if all was idle.
    /// Nothing was reserved. Ask for less, or raise the bound.
    #[error("{asked} {dimension} asked for, at most {cap} can ever be granted")]
    NeverFits {
        /// What there is not enough of.
        dimension: Dimension,
        /// How much was asked for.
        asked: u64,
        /// The whole bound.
        cap: u64,
    },
    /// The deadline has passed; the work never started. A retry needs a later deadline.
    #[error("the deadline passed before the work could start")]
    Expired,
    /// By what is queued ahead of it and what it is known to cost, it would not be done by its
    /// deadline. The work never started. Retry with a deadline as far ahead, after that time.
    #[error("it would be done {} us after its deadline", retry_after.as_micros())]
    PredictedLate {
        /// By how much it would have been late: by then as much of what is ahead is done.
        retry_after: Duration,
    },
    /// The bulkhead has no such exclusion group. Nothing was reserved. Take the group from the
    /// conflict matrix of this bulkhead.
    #[error("bulkhead {bulkhead} has no exclusion group {group}")]
    UnknownExclusion {
        /// The bulkhead's name.
        bulkhead: Arc<str>,
        /// The group's place in a matrix.
        group: ExclusionId,
    },
    /// It asks more often than its rate allows. Nothing was reserved. Retry after that time.
    #[error("over the rate of the tenant, {} us too early", retry_after.as_micros())]
    RateLimited {
        /// When the next request passes, if no other one of the tenant does before.
        retry_after: Duration,
    },
    /// The budget of whoever pays does not cover what it is expected to cost. Nothing was reserved.
    /// Retry once work that is reserved for has cost less than expected, or raise the budget.
    #[error(
        "{asked} asked for, {remaining} remain of the budget of {limit} of engagement {} of \
         organisation {}",
        audit.engagement, audit.organisation
    )]
    BudgetExhausted {
        /// Who was to pay.
        audit: AuditTag,
        /// What it is expected to cost.
        asked: BusyNanos,
        /// What is left; 0 in debt.
        remaining: BusyNanos,
        /// The whole budget.
        limit: BusyNanos,
    },
    /// The budget covers it, and the next part of it is on its way to the disk. Nothing was
    /// reserved. Retry at once; an engine does so by itself.
    #[error(
        "the budget of engagement {} of organisation {} is being drawn",
        audit.engagement, audit.organisation
    )]
    BudgetPending {
        /// Who is to pay.
        audit: AuditTag,
    },
    /// Budgets are on, and whoever was to pay has none. Nothing was reserved. Grant the engagement
    /// a budget, or submit under one that has.
    #[error(
        "engagement {} of organisation {} has no budget",
        audit.engagement, audit.organisation
    )]
    EngagementUnknown {
        /// Who was to pay.
        audit: AuditTag,
    },
    /// Together with what is reserved now it would exceed a bound. Nothing was reserved. Retry
    /// once some of it is given back.
    #[error("{asked} {dimension} asked for, {used} of {cap} are in use")]
    QuotaExceeded {
        /// What there is not enough of.
        dimension: Dimension,
        /// How much was asked for.
        asked: u64,
        /// How much is reserved already.
        used: u64,
        /// The bound.
        cap: u64,
    },
    /// There is no place left to wait in. Nothing was reserved. Retry once something was granted.
    #[error("the queue of the {scope} is full: {queued} of {queued_max}")]
    QueueFull {
        /// Whose queue it is.
        scope: Scope,
        /// How many requests wait in it.
        queued: u32,
        /// How many may.
        queued_max: u32,
    },
    /// It waited as long as the bulkhead lets a request wait; the work never started. Retry.
    #[error("not granted within {} ms", waited.as_millis())]
    QueueTimeout {
        /// How long it waited.
        waited: Duration,
    },
    /// All that the tenant had queued was withdrawn on request; the work never started.
    #[error("withdrawn while queued")]
    Cancelled,
}

impl Refusal {
    /// Whether the same request may be admitted later without anybody changing it. Accepted work
    /// waits for that, also for an operator who resumes a tenant or grants a budget.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Suspended { .. }
            | Self::Draining { .. }
            | Self::RateLimited { .. }
            | Self::PredictedLate { .. }
            | Self::BudgetExhausted { .. }
            | Self::BudgetPending { .. }
            | Self::EngagementUnknown { .. }
            | Self::QuotaExceeded { .. }
            | Self::QueueFull { .. }
            | Self::QueueTimeout { .. } => true,
            Self::StaleTenant { .. }
            | Self::Revoked { .. }
            | Self::NotAllowed { .. }
            | Self::EngagementNotAllowed { .. }
            | Self::Nested { .. }
            | Self::NeverFits { .. }
            | Self::UnknownExclusion { .. }
            | Self::Expired
            | Self::Cancelled => false,
        }
    }

    /// Whether it is the tenant's state, or its having ended, that is in the way.
    pub const fn is_of_state(&self) -> bool {
        match self {
            Self::StaleTenant { .. }
            | Self::Suspended { .. }
            | Self::Revoked { .. }
            | Self::Draining {
                scope: Scope::Tenant,
            } => true,
            Self::Draining {
                scope: Scope::Bulkhead,
            }
            | Self::Nested { .. }
            | Self::NeverFits { .. }
            | Self::Expired
            | Self::PredictedLate { .. }
            | Self::UnknownExclusion { .. }
            | Self::NotAllowed { .. }
            | Self::EngagementNotAllowed { .. }
            | Self::RateLimited { .. }
            | Self::BudgetExhausted { .. }
            | Self::BudgetPending { .. }
            | Self::EngagementUnknown { .. }
            | Self::QuotaExceeded { .. }
            | Self::QueueFull { .. }
            | Self::QueueTimeout { .. }
            | Self::Cancelled => false,
        }
    }

    /// Why a tenant in `state` is refused ordinary work, if it is.
    pub(crate) const fn of_state(state: TenantState, tenant: TenantId) -> Option<Self> {
        match state {
            TenantState::Active => None,
            TenantState::Suspended => Some(Self::Suspended { tenant }),
            TenantState::Draining => Some(Self::Draining {
                scope: Scope::Tenant,
            }),
            TenantState::Revoked => Some(Self::Revoked { tenant }),
            TenantState::Unregistered => Some(Self::StaleTenant { tenant }),
        }
    }
}

/// How many requests were refused, by reason. Counts since the bulkhead was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalCounts {
    /// [`Refusal::StaleTenant`].
    pub stale_tenant: u64,
    /// [`Refusal::Suspended`].
    pub suspended: u64,
    /// [`Refusal::Revoked`].
    pub revoked: u64,
    /// [`Refusal::Draining`].
    pub draining: u64,
    /// [`Refusal::NotAllowed`].
    pub not_allowed: u64,
    /// [`Refusal::EngagementNotAllowed`].
    pub engagement_not_allowed: u64,
    /// [`Refusal::Nested`].
    pub nested: u64,
    /// [`Refusal::NeverFits`].
    pub never_fits: u64,
    /// [`Refusal::Expired`].
    pub expired: u64,
    /// [`Refusal::PredictedLate`].
    pub predicted_late: u64,
    /// [`Refusal::UnknownExclusion`].
    pub unknown_exclusion: u64,
    /// [`Refusal::RateLimited`].
    pub rate_limited: u64,
    /// [`Refusal::BudgetExhausted`].
    pub budget_exhausted: u64,
    /// [`Refusal::BudgetPending`].
    pub budget_pending: u64,
    /// [`Refusal::EngagementUnknown`].
    pub engagement_unknown: u64,
    /// [`Refusal::QuotaExceeded`].
    pub quota_exceeded: u64,
    /// [`Refusal::QueueFull`].
    pub queue_full: u64,
    /// [`Refusal::QueueTimeout`].
    pub queue_timeout: u64,
    /// [`Refusal::Cancelled`].
    pub cancelled: u64,
}

impl RefusalCounts {
    /// The sum over all reasons.
    pub const fn total(&self) -> u64 {
        self.stale_tenant
            + self.suspended
            + self.revoked
            + self.draining
            + self.not_allowed
            + self.engagement_not_allowed
            + self.nested
            + self.never_fits
            + self.expired
            + self.predicted_late
            + self.unknown_exclusion
            + self.rate_limited
            + self.budget_exhausted
            + self.budget_pending
            + self.engagement_unknown
            + self.quota_exceeded
            + self.queue_full
            + self.queue_timeout
            + self.cancelled
    }

    pub(crate) const fn add(&mut self, other: &Self) {
        self.stale_tenant = self.stale_tenant.saturating_add(other.stale_tenant);
        self.suspended = self.suspended.saturating_add(other.suspended);
        self.revoked = self.revoked.saturating_add(other.revoked);
        self.draining = self.draining.saturating_add(other.draining);
        self.nested = self.nested.saturating_add(other.nested);
        self.never_fits = self.never_fits.saturating_add(other.never_fits);
        self.expired = self.expired.saturating_add(other.expired);
        self.predicted_late = self.predicted_late.saturating_add(other.predicted_late);
        self.unknown_exclusion = self
            .unknown_exclusion
            .saturating_add(other.unknown_exclusion);
        self.rate_limited = self.rate_limited.saturating_add(other.rate_limited);
        self.budget_exhausted = self.budget_exhausted.saturating_add(other.budget_exhausted);
        self.budget_pending = self.budget_pending.saturating_add(other.budget_pending);
        self.engagement_unknown = self
            .engagement_unknown
            .saturating_add(other.engagement_unknown);
        self.quota_exceeded = self.quota_exceeded.saturating_add(other.quota_exceeded);
        self.queue_full = self.queue_full.saturating_add(other.queue_full);
        self.queue_timeout = self.queue_timeout.saturating_add(other.queue_timeout);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
    }

    pub(crate) const fn count(&mut self, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::StaleTenant { .. } => &mut self.stale_tenant,
            Refusal::Suspended { .. } => &mut self.suspended,
            Refusal::Revoked { .. } => &mut self.revoked,
            Refusal::Draining { .. } => &mut self.draining,
            Refusal::NotAllowed { .. } => &mut self.not_allowed,
            Refusal::EngagementNotAllowed { .. } => &mut self.engagement_not_allowed,
            Refusal::Nested { .. } => &mut self.nested,
            Refusal::NeverFits { .. } => &mut self.never_fits,
            Refusal::Expired => &mut self.expired,
            Refusal::PredictedLate { .. } => &mut self.predicted_late,
            Refusal::UnknownExclusion { .. } => &mut self.unknown_exclusion,
            Refusal::RateLimited { .. } => &mut self.rate_limited,
            Refusal::BudgetExhausted { .. } => &mut self.budget_exhausted,
            Refusal::BudgetPending { .. } => &mut self.budget_pending,
            Refusal::EngagementUnknown { .. } => &mut self.engagement_unknown,
            Refusal::QuotaExceeded { .. } => &mut self.quota_exceeded,
            Refusal::QueueFull { .. } => &mut self.queue_full,
            Refusal::QueueTimeout { .. } => &mut self.queue_timeout,
            Refusal::Cancelled => &mut self.cancelled,
        };
        *counter = counter.saturating_add(1);
    }
}
