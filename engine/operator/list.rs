//! Lists: what has not ended, in pages.

use orlop_saga::id::{SagaId, TenantId};
use orlop_saga::key::Key;
use orlop_saga::saga::{SagaStatus, StatusKind};
use orlop_saga::time::WallMillis;

use super::ListError;

/// Which sagas are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaQuery {
    /// Only those in this status.
    pub status: Option<StatusKind>,
    /// Only those of this definition.
    pub name: Option<Box<str>>,
    /// Only those of this version of it.
    pub version: Option<u32>,
    /// Only those of this tenant.
    pub tenant: Option<TenantId>,
    /// Only those with a larger id: [`SagaPage::next`] of the page before.
    pub after: Option<SagaId>,
    /// How many at most, 1 to 1000.
    pub limit: usize,
}

impl Default for SagaQuery {
    /// The first hundred of all.
    fn default() -> Self {
        Self {
            status: None,
            name: None,
            version: None,
            tenant: None,
            after: None,
            limit: 100,
        }
    }
}

impl SagaQuery {
    pub(super) const LIMIT_MAX: usize = 1000;

    pub(super) fn check(&self) -> Result<(), ListError> {
        if (1..=Self::LIMIT_MAX).contains(&self.limit) {
            Ok(())
        } else {
            Err(ListError::Limit {
                limit: self.limit,
                limit_max: Self::LIMIT_MAX,
            })
        }
    }

    pub(crate) fn matches(&self, saga: &SagaSummary) -> bool {
        let kind = saga.status.kind();
        self.status.is_none_or(|wanted| wanted == kind)
            && self.is_of(saga.tenant, &saga.name, saga.version)
    }

    /// Whether it is a saga of this definition and this tenant that is asked for.
    pub(crate) fn is_of(&self, tenant: TenantId, name: &str, version: u32) -> bool {
        let wanted = self.name.as_ref();
        wanted.is_none_or(|wanted| **wanted == *name)
            && self.version.is_none_or(|wanted| wanted == version)
            && self.tenant.is_none_or(|wanted| wanted == tenant)
    }
}

/// One saga, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaSummary {
    /// Which one.
    pub saga: SagaId,
    /// Whose.
    pub tenant: TenantId,
    /// The key it was started under.
    pub key: Key,
    /// Its definition.
    pub name: Box<str>,
    /// The version that it runs.
    pub version: u32,
    /// Where it is, as far as that is durable.
    pub status: SagaStatus,
    /// When it was started.
    pub started_at: WallMillis,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SagaPage {
    /// The sagas, in the order of their ids.
    pub sagas: Vec<SagaSummary>,
    /// How many more were looked at of the same definition whose start is not durable yet.
    pub starting: u64,
    /// What the next page comes after; `None` if this is the last.
    pub next: Option<SagaId>,
}
