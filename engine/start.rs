//! Starting a saga, and its ticket.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use orlop_saga::effect::EffectId;
use orlop_saga::key::{Fingerprint, Key};
use orlop_saga::saga::SagaStart;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::trace::TraceContext;

use crate::error::{SubmitError, Unavailable};
use crate::flight::{Durability, Entrance, Want, Work};
use crate::saga::Saga;
use crate::submission::{Terms, wait};
use crate::tenant::Tenant;
use crate::ticket::SagaTicket;

/// A saga about to be started; awaited, it is.
#[must_use = "nothing is started until this is awaited"]
pub struct SagaStarting<S: Saga> {
    tenant: Tenant,
    key: Key,
    input: S::Input,
    terms: Terms,
    paused: bool,
    finish_within: Option<Duration>,
}

impl<S: Saga> SagaStarting<S> {
    pub(crate) fn new(tenant: Tenant, key: Key, input: S::Input) -> Self {
        Self {
            tenant,
            key,
            input,
            terms: Terms::default(),
            paused: false,
            finish_within: None,
        }
    }

    /// How urgent its steps are among the tenant's own work.
    pub fn class(mut self, class: Class) -> Self {
        self.terms.class = class;
        self
    }

    /// Who pays.
    pub fn audit(mut self, audit: AuditTag) -> Self {
        self.terms.audit = audit;
        self
    }

    /// The trace it belongs to; persisted with it.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.terms.trace = trace;
        self
    }

    /// Nothing of it runs before it is resumed, with [`TenantManager::retry`]. Its ticket is told
    /// `Stuck` until then.
    ///
    /// [`TenantManager::retry`]: crate::TenantManager::retry
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Has it unwound if it has neither ended nor passed its pivot after `duration`. After its
    /// pivot it goes on, and is recorded as late. What undoes it is not bound by this.
    ///
    /// The deadline is journaled as wall time: while the store is open a wall clock that is set
    /// does not move it, while it is closed time passes by the wall clock. Of several starts under
    /// one key the first one's counts.
    pub fn finish_within(mut self, duration: Duration) -> Self {
        self.finish_within = Some(duration);
        self
    }

    fn entrance(&self) -> Result<Entrance, SubmitError> {
        let core = &self.tenant.core;
        let entry = core
            .registry
            .saga(S::NAME)
            .ok_or(SubmitError::Unregistered { name: S::NAME })?;
        let input = core.encode(&self.input, S::NAME)?;
        let id = EffectId {
            tenant: self.tenant.id(),
            key: self.key,
        };
        let at = core.clock.wall();
        let start = SagaStart {
            id,
            fingerprint: Fingerprint::of(S::NAME, S::INPUT_SCHEMA, &input),
            code: entry.reference.clone(),
            input,
            class: self.terms.class,
            audit: self.terms.audit,
            trace: self.terms.trace,
            at,
            retention_ms: u64::try_from(S::RETENTION.as_millis()).unwrap_or(u64::MAX),
            paused: self.paused,
            deadline: self.finish_within.map(|duration| at.after(duration)),
            parent: None,
        };
        Ok(Entrance {
            id,
            account: Arc::clone(&self.tenant.account),
            deadline: None,
            durability: Durability::Accepted,
            work: Work::Saga(Box::new(start.into())),
        })
    }
}

impl<S: Saga> IntoFuture for SagaStarting<S> {
    type Output = Result<SagaTicket<S::Output>, SubmitError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let core = Arc::clone(&self.tenant.core);
            let mut seat = core.enter(self.entrance()?, Want::Acceptance)?;
            let Some(mut acceptance) = seat.acceptance.take() else {
                return Err(Unavailable::Closed.into());
            };
            wait(&core, self.key, &mut acceptance, None).await?;
            Ok(SagaTicket::new(self.tenant, seat))
        })
    }
}
