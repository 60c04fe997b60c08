//! Signals: telling a running saga something, once.

use futures_util::future::BoxFuture;
use orlop_admission::Refusal;
use orlop_saga::audit::{Object, Operation};
use orlop_saga::canonical::EncodeError;
use orlop_saga::effect::EffectId;
use orlop_saga::id::SagaId;
use orlop_saga::key::Key;
use orlop_saga::path::{PathError, StepPath};
use orlop_saga::saga::SignalId;
use serde::Serialize;

use crate::driver::Sending;
use crate::error::Unavailable;
use crate::tenant::Tenant;

/// Which saga of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaRef {
    /// The one that was started under this key.
    Key(Key),
    /// The one of this id.
    Id(SagaId),
}

impl From<Key> for SagaRef {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}

impl From<SagaId> for SagaRef {
    fn from(id: SagaId) -> Self {
        Self::Id(id)
    }
}

/// What became of a signal. In both cases it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// It was recorded, and is delivered to the first wait of its name that has none.
    Recorded,
    /// It was recorded before, under the same id.
    Repeated,
}

/// Why a signal was not recorded. In every case but [`SignalError::NotRecorded`] the saga was told
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The tenant may not submit at the moment. See the refusal.
    #[error("not admitted: {0}")]
    Refused(#[from] Refusal),
    /// The engine takes no work.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The name is no step name, so that no saga can wait for it. Use another.
    #[error(transparent)]
    Name(#[from] PathError),
    /// The payload has no canonical bytes, or more than `limits.input_bytes_max`. Put large data
    /// into a buffer.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// No saga of this tenant can be told anything under this key or id: there never was one, it
    /// has ended, or it unwinds. Nothing to do.
    #[error("no saga of this tenant is there to be told")]
    NotRunning,
    /// The saga was sent another signal under this id: another name or payload. Use another id.
    #[error("signal {id} was another one; nothing was recorded")]
    Conflict {
        /// The id.
        id: SignalId,
    },
    /// A bound on the signals of one saga is reached, counted from its start. Send it less, or
    /// raise the bound.
    #[error("{what}: {count} of {count_max}")]
    Full {
        /// Which bound.
        what: &'static str,
        /// How much there would be.
        count: u64,
        /// How much there may be.
        count_max: u64,
    },
    /// Whether it is durable is unknown, or the engine closes. Send it again, under the same id.
    #[error("the signal could not be recorded: {reason}")]
    NotRecorded {
        /// What the journal said.
        reason: String,
    },
}

impl SignalError {
    /// Whether the same signal may be recorded later with nobody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Unavailable(why) => match why {
                Unavailable::DiskFull | Unavailable::Backlogged => true,
                Unavailable::Closed
                | Unavailable::Poisoned
                | Unavailable::Format(_)
                | Unavailable::Forked { .. } => false,
            },
            Self::NotRecorded { .. } => true,
            Self::Name(_)
            | Self::Encode(_)
            | Self::NotRunning
            | Self::Conflict { .. }
            | Self::Full { .. } => false,
        }
    }
}

impl Tenant {
    /// Sends a signal to one of this tenant's sagas, which waits for it with
    /// [`SagaContext::signal`](crate::SagaContext::signal) or will. Returns once it is durable.
    ///
    /// - `id`: what a repetition is recognised by as long as the saga has not ended, also after a
    ///   wait took the signal and after a restart.
    ///
    /// A saga that is paused or stuck is told when it goes on.
    ///
    /// # Errors
    /// [`SignalError`]: it was not recorded, or nobody knows.
    pub fn signal<T: Serialize>(
        &self,
        saga: impl Into<SagaRef>,
        name: &str,
        id: SignalId,
        payload: &T,
    ) -> BoxFuture<'static, Result<Signalled, SignalError>> {
        let sending = self.sending(name, id, payload);
        let (tenant, saga) = (self.clone(), saga.into());
        Box::pin(async move {
            let sending = sending?;
            let core = &tenant.core;
            let found = match saga {
                SagaRef::Id(saga) => Some(saga),
                SagaRef::Key(key) => {
                    let tenant = tenant.id();
                    let flight = core.flights.get(&EffectId { tenant, key });
                    let known = flight.as_ref().map(|flight| flight.saga());
                    drop(flight);
                    if known.is_none() {
                        let audit = &core.executor.audit;
                        audit.suspect(tenant, Operation::Signal, Object::Key(key));
                    }
                    known.flatten()
                }
            };
            match found {
                Some(saga) => core.driver.signal(saga, sending).await,
                None => Err(SignalError::NotRunning),
            }
        })
    }

    fn sending<T: Serialize>(
        &self,
        name: &str,
        id: SignalId,
        payload: &T,
    ) -> Result<Sending, SignalError> {
        self.core.check_open()?;
        self.core.check_format("a signal")?;
        self.account
            .check()
            .inspect_err(|refusal| self.core.executor.audit.refused(self.id(), refusal))?;
        let _waited_for = StepPath::root(name)?;
        let bytes_max = self.core.limits.input_bytes_max;
        let payload = orlop_saga::canonical::encode(payload, bytes_max)?;
        Ok(Sending {
            tenant: self.id(),
            name: name.into(),
            id,
            payload,
        })
    }
}
