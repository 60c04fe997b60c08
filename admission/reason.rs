//! Reasons: what refusals are counted by.

use crate::refusal::{Refusal, RefusalCounts};

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// [`Refusal::StaleTenant`].
    StaleTenant,
    /// [`Refusal::Suspended`].
    Suspended,
    /// [`Refusal::Revoked`].
    Revoked,
    /// [`Refusal::Draining`].
    Draining,
    /// [`Refusal::NotAllowed`].
    NotAllowed,
    /// [`Refusal::Nested`].
    Nested,
    /// [`Refusal::NeverFits`].
    NeverFits,
    /// [`Refusal::Expired`].
    Expired,
    /// [`Refusal::UnknownExclusion`].
    UnknownExclusion,
    /// [`Refusal::PredictedLate`].
    PredictedLate,
    /// [`Refusal::RateLimited`].
    RateLimited,
    /// [`Refusal::BudgetExhausted`].
    BudgetExhausted,
    /// [`Refusal::BudgetPending`].
    BudgetPending,
    /// [`Refusal::EngagementUnknown`].
    EngagementUnknown,
    /// [`Refusal::QuotaExceeded`].
    QuotaExceeded,
    /// [`Refusal::QueueFull`].
    QueueFull,
    /// [`Refusal::QueueTimeout`].
    QueueTimeout,
    /// [`Refusal::Cancelled`].
    Cancelled,
    /// [`Refusal::EngagementNotAllowed`].
    EngagementNotAllowed,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = 19;

    /// All of them; each one's place is [`index`](Self::index).
    pub const ALL: [Self; Self::COUNT] = [
        Self::StaleTenant,
        Self::Suspended,
        Self::Revoked,
        Self::Draining,
        Self::NotAllowed,
        Self::Nested,
        Self::NeverFits,
        Self::Expired,
        Self::UnknownExclusion,
        Self::PredictedLate,
        Self::RateLimited,
        Self::BudgetExhausted,
        Self::BudgetPending,
        Self::EngagementUnknown,
        Self::QuotaExceeded,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Cancelled,
        Self::EngagementNotAllowed,
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name, in metrics and audit trails.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StaleTenant => "stale_tenant",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Draining => "draining",
            Self::NotAllowed => "not_allowed",
            Self::Nested => "nested",
            Self::NeverFits => "never_fits",
            Self::Expired => "expired",
            Self::UnknownExclusion => "unknown_exclusion",
            Self::PredictedLate => "predicted_late",
            Self::RateLimited => "rate_limited",
            Self::BudgetExhausted => "budget_exhausted",
            Self::BudgetPending => "budget_pending",
            Self::EngagementUnknown => "engagement_unknown",
            Self::QuotaExceeded => "quota_exceeded",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Cancelled => "cancelled",
            Self::EngagementNotAllowed => "engagement_not_allowed",
        }
    }
}

impl Refusal {
    /// Its kind.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::StaleTenant { .. } => Reason::StaleTenant,
            Self::Suspended { .. } => Reason::Suspended,
            Self::Revoked { .. } => Reason::Revoked,
            Self::Draining { .. } => Reason::Draining,
            Self::NotAllowed { .. } => Reason::NotAllowed,
            Self::Nested { .. } => Reason::Nested,
            Self::NeverFits { .. } => Reason::NeverFits,
            Self::Expired => Reason::Expired,
            Self::UnknownExclusion { .. } => Reason::UnknownExclusion,
            Self::PredictedLate { .. } => Reason::PredictedLate,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::BudgetExhausted { .. } => Reason::BudgetExhausted,
            Self::BudgetPending { .. } => Reason::BudgetPending,
            Self::EngagementUnknown { .. } => Reason::EngagementUnknown,
            Self::QuotaExceeded { .. } => Reason::QuotaExceeded,
            Self::QueueFull { .. } => Reason::QueueFull,
            Self::QueueTimeout { .. } => Reason::QueueTimeout,
            Self::Cancelled => Reason::Cancelled,
            Self::EngagementNotAllowed { .. } => Reason::EngagementNotAllowed,
        }
    }
}

impl RefusalCounts {
    /// How many were refused for a reason.
    pub const fn of(&self, reason: Reason) -> u64 {
        match reason {
            Reason::StaleTenant => self.stale_tenant,
            Reason::Suspended => self.suspended,
            Reason::Revoked => self.revoked,
            Reason::Draining => self.draining,
            Reason::NotAllowed => self.not_allowed,
            Reason::Nested => self.nested,
            Reason::NeverFits => self.never_fits,
            Reason::Expired => self.expired,
            Reason::UnknownExclusion => self.unknown_exclusion,
            Reason::PredictedLate => self.predicted_late,
            Reason::RateLimited => self.rate_limited,
            Reason::BudgetExhausted => self.budget_exhausted,
            Reason::BudgetPending => self.budget_pending,
            Reason::EngagementUnknown => self.engagement_unknown,
            Reason::QuotaExceeded => self.quota_exceeded,
            Reason::QueueFull => self.queue_full,
            Reason::QueueTimeout => self.queue_timeout,
            Reason::Cancelled => self.cancelled,
            Reason::EngagementNotAllowed => self.engagement_not_allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        let places: Vec<usize> = Reason::ALL.iter().map(|reason| reason.index()).collect();
        assert_eq!(places, (0..Reason::COUNT).collect::<Vec<_>>());
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
    }

    #[test]
    fn a_refusal_is_counted_under_its_reason() {
        let mut counts = RefusalCounts::default();
        counts.count(&Refusal::Expired);
        for reason in Reason::ALL {
            assert_eq!(counts.of(reason), u64::from(reason == Reason::Expired));
        }
        assert_eq!(Refusal::Expired.reason(), Reason::Expired);
    }
}
