//! Forking: a new saga that begins with what another one had done before a step.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use orlop_admission::Refusal;
use orlop_saga::audit::Operation;
use orlop_saga::effect::EffectId;
use orlop_saga::id::SagaId;
use orlop_saga::key::{Fingerprint, Key};
use orlop_saga::path::StepPath;
use orlop_saga::saga::{Phase, SagaStart, SagaState};

use super::{ForkError, Operator, ShowError};
use crate::driver::{Birth, Fault, Heritage, Will, check_size};
use crate::error::{SubmitError, Unavailable};
use crate::flight::{Durability, Entrance, Want, Work};
use crate::saga::Saga;
use crate::submission::wait;
use crate::tenant::Tenant;
use crate::ticket::SagaTicket;

/// A fork about to be started; awaited, it is.
#[must_use = "nothing is forked until this is awaited"]
pub struct Forking<S: Saga> {
    operator: Operator,
    from: SagaId,
    at: StepPath,
    key: Key,
    note: Option<String>,
    saga: PhantomData<fn() -> S>,
}

impl Operator {
    /// Starts a saga, under `key`, that begins with what the saga `from` had done before the step
    /// at `at`: its code is told the same outcomes in the same order, and the step and all that
    /// follows run anew, under other remote keys. The input is the original's; the definition is
    /// the one that is registered now. Steps before it that had not ended run anew too. What is
    /// inherited keeps its outcome and the remote key of its effect.
    ///
    /// The fork undoes nothing that it inherits, unless the original is abandoned with it:
    /// [`Forking::abandoning`]. Otherwise the original goes on, or has ended, by itself; if it
    /// unwinds later it undoes what the fork builds upon.
    ///
    /// The key is the original's tenant's, and stands for the same request as a start of the saga
    /// with the original's input: such a start joins or replays the fork. A fork under a key is
    /// the same as one that is there if it is of the same saga, from the same step, and both or
    /// none abandon it; then it is joined or replayed, also when the original is past its
    /// retention. Anything else is a [`SubmitError::Conflict`].
    ///
    /// Awaited, it returns a ticket once the fork is durable.
    ///
    /// # Errors
    /// [`ForkError`]: no saga was started, and the original is as it was.
    pub fn fork<S: Saga>(&self, from: SagaId, at: StepPath, key: Key) -> Forking<S> {
        Forking {
            operator: self.clone(),
            from,
            at,
            key,
            note: None,
            saga: PhantomData,
        }
    }
}

impl<S: Saga> Forking<S> {
    /// Abandons the original, with `note`, in the same write as the fork is started: the fork
    /// undoes what it inherits if it unwinds, and none of it is residue of the original. What the
    /// original did from the step on, or has not ended, is.
    pub fn abandoning(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    async fn started(self) -> Result<SagaTicket<S::Output>, ForkError> {
        let core = &self.operator.core;
        core.check_format("to fork a saga")
            .map_err(SubmitError::from)?;
        let birth = self.birth().await?;
        let fault = match &birth.heritage {
            Heritage::Everything(will) => Some(Arc::clone(&will.fault)),
            Heritage::Nothing | Heritage::Outcomes(_) | Heritage::Gone => None,
        };
        let (tenant, key) = (birth.start.id.tenant, self.key);
        let account = core.tenants.get(tenant);
        let account = account.map_err(|_| {
            let stale = Refusal::StaleTenant { tenant };
            SubmitError::Refused(stale)
        })?;
        let tenant = Tenant {
            core: core.clone(),
            account: Arc::clone(&account),
        };
        let entrance = Entrance {
            id: birth.start.id,
            account,
            deadline: None,
            durability: Durability::Accepted,
            work: Work::Saga(Box::new(birth)),
        };
        let mut seat = core.enter(entrance, Want::Acceptance)?;
        let Some(mut acceptance) = seat.acceptance.take() else {
            return Err(SubmitError::from(Unavailable::Closed).into());
        };
        if let Err(error) = wait(core, key, &mut acceptance, None).await {
            return Err(match fault.and_then(|fault| fault.get().cloned()) {
                Some(fault) => self.told(fault).await,
                None => error.into(),
            });
        }
        // Whoever came first under the key may have started something else.
        if let Some(known) = seat.flight.saga()
            && !self.is_known_as(known).await?
        {
            return Err(SubmitError::Conflict { key }.into());
        }
        Ok(SagaTicket::new(tenant, seat))
    }

    /// What is started under the key, or joined there.
    async fn birth(&self) -> Result<Birth, ForkError> {
        let original = match self.operator.state(self.from).await {
            Ok(state) => Some(state),
            Err(ShowError::Unknown) => None,
            Err(error) => return Err(error.into()),
        };
        let tenant = original.as_ref().map(|state| state.start().id.tenant);
        let tenant = tenant.or(self.operator.scope).ok_or(ForkError::Unknown)?;
        let id = EffectId {
            tenant,
            key: self.key,
        };
        if let Some(known) = self.operator.core.saga_of(id).await
            && let Ok(state) = self.operator.state(known).await
        {
            if !self.is_known_as(known).await? {
                return Err(SubmitError::Conflict { key: self.key }.into());
            }
            let start = state.start().clone();
            let heritage = Heritage::Gone;
            return Ok(Birth { start, heritage });
        }
        let original = original.ok_or(ForkError::Unknown)?;
        let start = self.start(&original)?;
        let heritage = self.heritage(&original, &start)?;
        Ok(Birth { start, heritage })
    }

    /// What the fork begins with, as far as the original can be forked so.
    fn heritage(&self, original: &SagaState, start: &SagaStart) -> Result<Heritage, ForkError> {
        let unwinds = matches!(original.phase(), Phase::Unwinding { .. });
        match &self.note {
            Some(_) if original.ended() => {
                return Err(ForkError::Ended(original.status_kind()));
            }
            None if unwinds || original.doom().is_some() => return Err(ForkError::Unwinding),
            Some(_) | None => {}
        }
        let inherits = original.fork(self.from, &self.at, self.note.is_some())?;
        check_size(&self.operator.core, start, &inherits)?;
        Ok(match &self.note {
            None => Heritage::Outcomes(Box::new(inherits)),
            Some(note) => Heritage::Everything(Will {
                from: self.from,
                at: self.at.clone(),
                note: note.clone(),
                fault: Arc::default(),
            }),
        })
    }

    fn start(&self, original: &SagaState) -> Result<SagaStart, ForkError> {
        let core = &self.operator.core;
        let was = original.start();
        if *was.code.name != *S::NAME {
            let name = was.code.name.clone();
            return Err(ForkError::OtherSaga { name });
        }
        let entry = core.registry.saga(S::NAME);
        let entry = entry.ok_or(SubmitError::Unregistered { name: S::NAME })?;
        Ok(SagaStart {
            id: EffectId {
                tenant: was.id.tenant,
                key: self.key,
            },
            fingerprint: Fingerprint::of(S::NAME, S::INPUT_SCHEMA, &was.input),
            code: entry.reference.clone(),
            input: was.input.clone(),
            class: was.class,
            audit: was.audit,
            trace: was.trace,
            at: core.clock.wall(),
            retention_ms: u64::try_from(S::RETENTION.as_millis()).unwrap_or(u64::MAX),
            paused: false,
            deadline: None,
            parent: None,
        })
    }

    /// Whether a saga is the one that this asks for.
    async fn is_known_as(&self, known: SagaId) -> Result<bool, ForkError> {
        let state = match self.operator.state(known).await {
            Ok(state) => state,
            // It has ended, and its retention just passed.
            Err(ShowError::Unknown) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let same = state.forked_from() == Some((self.from, &self.at))
            && *state.start().code.name == *S::NAME;
        let heir = match self.operator.state(self.from).await {
            Ok(original) => original.heir().map(|heir| heir.saga),
            Err(ShowError::Unknown) => return Ok(same),
            Err(error) => return Err(error.into()),
        };
        Ok(same && (heir == Some(known)) == self.note.is_some())
    }

    /// What the driver found, in words of this verb.
    async fn told(&self, fault: Fault) -> ForkError {
        match fault {
            Fault::Unknown => match self.operator.kept(self.from, Some(Operation::Look)).await {
                Ok(state) => ForkError::Ended(state.status_kind()),
                Err(error) => error.into(),
            },
            fault @ (Fault::Foreign
            | Fault::Ended(_)
            | Fault::Moving
            | Fault::NoSuchStep
            | Fault::NotOpen
            | Fault::OtherCode(_)
            | Fault::Children(_)
            | Fault::TooLarge
            | Fault::NoFork(_)
            | Fault::NotRecorded(_)) => fault.into(),
        }
    }
}

impl<S: Saga> IntoFuture for Forking<S> {
    type Output = Result<SagaTicket<S::Output>, ForkError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.started())
    }
}

impl<S: Saga> fmt::Debug for Forking<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forking")
            .field("from", &self.from)
            .field("at", &self.at)
            .field("key", &self.key)
            .field("abandoning", &self.note)
            .finish_non_exhaustive()
    }
}
