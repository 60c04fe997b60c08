//! Starting a saga, and its ticket.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use orlop_saga::effect::EffectId;
use orlop_saga::id::SagaId;
use orlop_saga::key::{Fingerprint, Key};
use orlop_saga::saga::SagaStart;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::trace::TraceContext;
use serde::de::DeserializeOwned;

use crate::driver::CancelError;
use crate::error::{SubmitError, Unavailable};
use crate::flight::{Durability, Entrance, Seat, Want, Work};
use crate::saga::Saga;
use crate::submission::{Reply, Terms, reply, wait};
use crate::tenant::Tenant;

/// A saga about to be started; awaited, it is.
#[must_use = "nothing is started until this is awaited"]
pub struct SagaStarting<S: Saga> {
    tenant: Tenant,
    key: Key,
    input: S::Input,
    terms: Terms,
}

impl<S: Saga> SagaStarting<S> {
    pub(crate) fn new(tenant: Tenant, key: Key, input: S::Input) -> Self {
        Self {
            tenant,
            key,
            input,
            terms: Terms::default(),
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
        let start = SagaStart {
            id,
            fingerprint: Fingerprint::of(S::NAME, S::INPUT_SCHEMA, &input),
            code: entry.reference.clone(),
            input,
            class: self.terms.class,
            audit: self.terms.audit,
            trace: self.terms.trace,
            at: core.clock.wall(),
            retention_ms: u64::try_from(S::RETENTION.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Entrance {
            id,
            account: Arc::clone(&self.tenant.account),
            durability: Durability::Accepted,
            work: Work::Saga(Box::new(start)),
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
            Ok(SagaTicket {
                tenant: self.tenant,
                seat,
                output: PhantomData,
            })
        })
    }
}

/// The caller's side of a saga. Dropping it changes nothing: the saga ends all the same, and
/// whoever starts it again under its key gets its outcome.
#[must_use = "await the ticket for the outcome"]
pub struct SagaTicket<T> {
    tenant: Tenant,
    seat: Seat,
    output: PhantomData<fn() -> T>,
}

impl<T> SagaTicket<T> {
    /// The key it was started under.
    pub fn key(&self) -> Key {
        self.seat.flight.id.key
    }

    /// The run behind the key, if its outcome is not older than this engine's memory of it.
    pub fn id(&self) -> Option<SagaId> {
        self.seat.flight.saga()
    }

    /// Has it unwound: every step that is done or in doubt is undone, newest first. Returns once
    /// the wish is durable.
    ///
    /// # Errors
    /// [`CancelError`]: it goes on as it was.
    pub async fn cancel(&self) -> Result<(), CancelError> {
        if let Err(error) = self.tenant.core.check_process() {
            return Err(CancelError::NotRecorded {
                reason: error.to_string(),
            });
        }
        match self.id() {
            Some(saga) => self.tenant.core.driver.cancel(saga).await,
            None => Err(CancelError::Ended),
        }
    }
}

impl<T: DeserializeOwned + Send + 'static> SagaTicket<T> {
    /// Waits for the outcome, at most for `deadline`. The ticket can be asked again.
    ///
    /// # Errors
    /// [`SubmitError::Failed`]: it was compensated, for this reason; [`SubmitError::Stuck`]: it
    /// does not move until an operator says so.
    pub async fn wait_for(&mut self, deadline: Duration) -> Result<Reply<T>, SubmitError> {
        let arrival = wait(
            &self.tenant.core,
            self.key(),
            &mut self.seat.outcome,
            Some(deadline),
        )
        .await?;
        reply(arrival, self.key(), self.seat.joined)
    }
}

impl<T: DeserializeOwned + Send + 'static> IntoFuture for SagaTicket<T> {
    type Output = Result<Reply<T>, SubmitError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let arrival = wait(&self.tenant.core, self.key(), &mut self.seat.outcome, None).await?;
            reply(arrival, self.key(), self.seat.joined)
        })
    }
}

impl<T> fmt::Debug for SagaTicket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SagaTicket").field(&self.key()).finish()
    }
}
