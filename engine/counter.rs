//! Counter-sagas: taking back what a saga did after its point of no return.
//!
//! A saga that has passed its pivot is not unwound. What it did is taken back by another saga,
//! with a key, a history and undos of its own, that is registered as its counter.

use std::sync::Arc;

use orlop_saga::canonical::{self, DecodeError};
use orlop_saga::effect::{EffectId, Settlement};
use orlop_saga::id::SagaId;
use orlop_saga::key::Key;
use orlop_saga::outcome::Outcome;
use orlop_saga::saga::{SagaState, StatusKind};
use orlop_saga::tenant::AuditTag;
use tokio::sync::oneshot;

use crate::core::Core;
use crate::driver::CancelError;
use crate::error::SubmitError;
use crate::flight::Arrival;
use crate::operator::{Operator, ShowError};
use crate::saga::Saga;
use crate::submission::reply;
use crate::tenant::Tenant;
use crate::ticket::SagaTicket;

/// A saga that takes back what `S` did after its pivot.
pub trait CounterSaga<S: Saga>: Saga {
    /// What it is given to take `original` back; `None` if there is nothing that it can do.
    fn input(original: Original<S>) -> Option<Self::Input>;
}

/// A saga that is to be taken back.
#[derive(Debug)]
pub struct Original<S: Saga> {
    /// Which run.
    pub saga: SagaId,
    /// The key it was started under.
    pub key: Key,
    /// What it was given.
    pub input: S::Input,
    /// What it gave back; `None` if it was abandoned after its pivot.
    pub output: Option<S::Output>,
}

/// Why a saga is not taken back. No counter-saga was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RollBackError {
    /// Nothing is known under the key, or it is past its retention.
    #[error("no saga is known under key {key}")]
    Unknown {
        /// The key.
        key: Key,
    },
    /// What stands under the key is another saga, so its input is of another type.
    #[error("key {key} stands for saga {name:?}")]
    OtherSaga {
        /// The key.
        key: Key,
        /// The saga's name.
        name: Box<str>,
    },
    /// It has not ended: two sagas would work against each other. Wait for its end, or abandon it.
    #[error("the saga has not ended: {0:?}")]
    NotEnded(StatusKind),
    /// It did nothing that remains, or never passed its pivot. A cancel unwinds one that runs.
    #[error("the saga left nothing behind its pivot")]
    Nothing,
    /// The counter-saga says that it can do nothing about it.
    #[error("the counter-saga can do nothing about it")]
    Declined,
    /// Its input is no value of the saga's type any more.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Its output cannot be had, or the counter-saga cannot be started.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It cannot be looked up.
    #[error("the saga cannot be looked up: {reason}")]
    Lookup {
        /// Why.
        reason: String,
    },
}

impl Tenant {
    /// Starts the counter-saga `C` of the saga `S` that ended under `key`. Its own key is derived
    /// from `key` and the run, so that however often this is asked for, a run is taken back once,
    /// and a later run under the same key is another one. Who paid for the run pays for taking it
    /// back.
    ///
    /// # Errors
    /// [`RollBackError`]: no counter-saga was started.
    pub async fn roll_back<S: Saga, C: CounterSaga<S>>(
        &self,
        key: Key,
    ) -> Result<SagaTicket<C::Output>, RollBackError> {
        let (original, audit) = self.original::<S>(key).await?;
        let saga = original.saga.get();
        let input = C::input(original).ok_or(RollBackError::Declined)?;
        let counter = Key::named(&format!("{} of {key} run {saga}", C::NAME));
        Ok(self.start::<C>(counter, input).audit(audit).await?)
    }

    async fn original<S: Saga>(&self, key: Key) -> Result<(Original<S>, AuditTag), RollBackError> {
        let operator = Operator::new(self.core.clone(), Some(self.id()));
        let unknown = || RollBackError::Unknown { key };
        let saga = operator.find(key).await.ok_or_else(unknown)?;
        let shown = operator.export(saga).await;
        let state: SagaState = shown
            .map_err(|error| match error {
                ShowError::Unknown => unknown(),
                ShowError::Lookup { reason } => RollBackError::Lookup { reason },
                ShowError::Unavailable(why) => SubmitError::from(why).into(),
            })?
            .state;
        if *state.start().code.name != *S::NAME {
            let name = state.start().code.name.clone();
            return Err(RollBackError::OtherSaga { key, name });
        }
        let input = || canonical::decode::<S::Input>(&state.start().input);
        let output = match state.status_kind() {
            StatusKind::Completed => {
                // Read and not started again: past its retention that would be another run.
                let tenant = self.id();
                let kept = self.core.settlement_of(EffectId { tenant, key }).await;
                let kept = kept.filter(|kept| kept.saga == Some(saga));
                let settlement = Arc::new(kept.ok_or_else(unknown)?);
                let replayed = true;
                let arrival = Arrival::Settled {
                    settlement,
                    replayed,
                };
                Some(reply(arrival, key, false)?.output)
            }
            StatusKind::Abandoned if state.pivoted() => None,
            StatusKind::Abandoned | StatusKind::Compensated => return Err(RollBackError::Nothing),
            kind @ (StatusKind::Running
            | StatusKind::Unwinding
            | StatusKind::Paused
            | StatusKind::Stuck) => return Err(RollBackError::NotEnded(kind)),
        };
        let original = Original {
            saga,
            key,
            input: input()?,
            output,
        };
        Ok((original, state.start().audit))
    }
}

impl Core {
    /// Cancels a saga; one that has completed is only taken back by its counter-saga.
    pub(crate) async fn cancel_saga(
        &self,
        id: EffectId,
        saga: Option<SagaId>,
    ) -> Result<(), CancelError> {
        if let Err(error) = self.check_process() {
            return Err(CancelError::NotRecorded {
                reason: error.to_string(),
            });
        }
        let cancelled = match saga {
            Some(saga) => self.driver.cancel(saga).await,
            None => Err(CancelError::Ended),
        };
        if cancelled != Err(CancelError::Ended) {
            return cancelled;
        }
        let completed = self.settlement_of(id).await.filter(|settlement| {
            let done = match settlement.outcome {
                Outcome::Done(_) | Outcome::Blob(_) => true,
                Outcome::Failed(_) => false,
            };
            done && settlement.saga.is_some()
        });
        let counter = completed.and_then(|settlement| self.counter_of(&settlement.code.name));
        match counter {
            Some(counter) => Err(CancelError::RollbackRequired {
                counter: Some(counter),
            }),
            None => cancelled,
        }
    }

    /// The name of the counter-saga that is registered for a saga.
    pub(crate) fn counter_of(&self, saga: &str) -> Option<Box<str>> {
        self.registry.saga(saga)?.counter.clone()
    }

    /// The outcome under a key, as it is told or kept.
    async fn settlement_of(&self, id: EffectId) -> Option<Settlement> {
        let flight = self.flights.get(&id).map(|entry| entry.value().clone());
        if let Some(known) = flight.and_then(|flight| flight.known()) {
            return Some(Settlement::clone(&known));
        }
        let (tell, told) = oneshot::channel();
        let answer = move |found| {
            let _ = tell.send(found);
        };
        self.store.lookup(id, Box::new(answer));
        told.await.ok()?.ok()?
    }
}
