//! Operators: whoever looks after sagas that do not end by themselves.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the capability and its verbs |
//! | `list` | what is unfinished, in pages |
//! | `record` | one saga, with every call that it made |
//! | `fork` | a new saga that begins with what one has done |
//! | `feed` | what changes, as it becomes durable |
//! | `drain` | what takes no new runs |
//! | `error` | why a verb did nothing |
//!
//! Invariants
//! - An operator of one tenant learns nothing of another's sagas: they are unknown to it.
//! - A verb that answered is durable; a crash before may or may not have it, and asking again is
//!   harmless.

mod drain;
mod error;
mod feed;
mod fork;
mod list;
mod record;

use std::fmt;

use orlop_saga::audit::{Object, Operation};
use orlop_saga::canonical;
use orlop_saga::effect::EffectId;
use orlop_saga::history::History;
use orlop_saga::id::{SagaId, TenantId};
use orlop_saga::key::Key;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{SagaState, StatusKind};
use orlop_saga::tenant::AuditTag;
use tokio::sync::oneshot;

pub(crate) use self::drain::Drains;
pub use self::drain::{DrainError, Drained};
pub use self::error::{
    AbandonError, ForkError, ListError, PauseError, ResumeError, RetryError, ShowError, SkipError,
    SkipUndoError, SubscribeError,
};
pub(crate) use self::feed::Feed;
pub use self::feed::{Notice, Subscription};
pub use self::fork::Forking;
pub use self::list::{SagaPage, SagaQuery, SagaSummary};
pub use self::record::{Abandoned, CallRecord, ResidueRecord, SagaRecord};
use crate::computation::Computation;
use crate::core::Core;
use crate::driver::{Fault, Message, Order, Verb, Wish};
use crate::handle::Handle;

/// The capability to look after sagas: of one tenant, or of all. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    core: Handle,
    scope: Option<TenantId>,
}

impl Operator {
    pub(crate) fn new(core: Handle, scope: Option<TenantId>) -> Self {
        Self { core, scope }
    }

    /// Sagas that have not ended, in the order of their ids: one page of them.
    ///
    /// A page may have fewer than were asked for, also none, and still name a next one: only so
    /// many are looked at for each.
    ///
    /// # Errors
    /// [`ListError`]: nothing was listed.
    pub async fn list(&self, query: SagaQuery) -> Result<SagaPage, ListError> {
        query.check()?;
        self.core.check_process()?;
        if let (Some(scope), Some(tenant)) = (self.scope, query.tenant)
            && scope != tenant
        {
            let (tag, object) = (AuditTag::default(), Object::SagasOf(tenant));
            let audit = &self.core.executor.audit;
            audit.denied(scope, tag, Operation::Look, object, Some(tenant));
        }
        let (tell, told) = oneshot::channel();
        self.core.driver.tell(Message::List {
            scope: self.scope,
            query: Box::new(query),
            tell,
        });
        told.await.map_err(|_| ListError::Closed)
    }

    /// The run behind a key of the operator's tenant, ended or not, as long as its outcome is
    /// kept; `None` for an operator of all tenants, to whom a key alone names nothing.
    pub async fn find(&self, key: Key) -> Option<SagaId> {
        let tenant = self.scope?;
        let found = self.core.saga_of(EffectId { tenant, key }).await;
        if found.is_none() {
            let audit = &self.core.executor.audit;
            audit.suspect(tenant, Operation::Look, Object::Key(key));
        }
        found
    }

    /// One saga with every call that it made, ended or not, as long as its outcome is kept.
    ///
    /// # Errors
    /// [`ShowError`]: there is nothing to show.
    pub async fn show(&self, saga: SagaId) -> Result<SagaRecord, ShowError> {
        let state = self.state(saga).await?;
        Ok(SagaRecord::new(&self.core, saga, &state))
    }

    /// The history of one saga, ended or not, as long as its outcome is kept: for
    /// [`History::encode`], and to be replayed elsewhere.
    ///
    /// # Errors
    /// [`ShowError`]: there is nothing to export.
    pub async fn export(&self, saga: SagaId) -> Result<History, ShowError> {
        Ok(History {
            store: self.core.store_id,
            saga,
            exported_at: self.core.clock.wall(),
            state: *self.state(saga).await?,
        })
    }

    /// Everything that changes from now on, told once it is durable. At most `capacity` notices
    /// wait, 1 to 65,536; a subscriber that is slower is told how many it missed, and holds nobody
    /// up.
    ///
    /// # Errors
    /// [`SubscribeError`]: nobody is subscribed.
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, SubscribeError> {
        self.core.check_open()?;
        let max = self.core.limits.subscribers_max;
        self.core.feed.subscribe(self.scope, capacity, max)
    }

    /// Stops a saga until it is resumed, also across restarts. What runs ends first; nothing new
    /// is begun. One that is held already stays held for its own reason.
    ///
    /// # Errors
    /// [`PauseError`]: it goes on.
    pub async fn pause(&self, saga: SagaId, note: impl Into<String>) -> Result<(), PauseError> {
        let note = note.into();
        Ok(self.order(saga, Order::Pause { note }).await?)
    }

    /// Has a paused or stuck saga go on, all attempts free again. One that moves just moves on.
    ///
    /// # Errors
    /// [`ResumeError`]: it is as it was.
    pub async fn resume(&self, saga: SagaId) -> Result<(), ResumeError> {
        Ok(self.order(saga, Order::Resume).await?)
    }

    /// Has the step that a saga is stuck at tried again, or its undo. A step that failed for good
    /// after the pivot is run again as if it had not failed, as long as the saga's code was told
    /// nothing more since.
    ///
    /// # Errors
    /// [`RetryError`]: it is as it was.
    pub async fn retry(&self, saga: SagaId, path: StepPath) -> Result<(), RetryError> {
        Ok(self.order(saga, Order::Retry { path }).await?)
    }

    /// Gives a step that a held saga is stuck at an output, as if it had run, and has the saga go
    /// on. Recorded as what it is, with `note`. No attempt of the step is believed any more.
    ///
    /// # Errors
    /// [`SkipError`]: it is as it was.
    pub async fn skip<C: Computation>(
        &self,
        saga: SagaId,
        path: StepPath,
        computation: C,
        output: C::Output,
        note: impl Into<String>,
    ) -> Result<(), SkipError> {
        let _ = computation;
        let output = canonical::encode(&output, self.core.limits.output_bytes_max)?;
        let order = Order::Skip {
            path,
            code: C::NAME,
            output,
            note: note.into(),
        };
        Ok(self.order(saga, order).await?)
    }

    /// Takes the undo that a held saga is stuck at for done, because it was done by hand, and has
    /// the saga go on unwinding. Recorded as what it is, with `note`.
    ///
    /// # Errors
    /// [`SkipUndoError`]: it is as it was.
    pub async fn skip_undo(
        &self,
        saga: SagaId,
        path: StepPath,
        note: impl Into<String>,
    ) -> Result<(), SkipUndoError> {
        let note = note.into();
        Ok(self.order(saga, Order::SkipUndo { path, note }).await?)
    }

    /// Gives a saga up: it ends as it is, its key has `note` as a failure for its outcome, and
    /// every step whose effect may remain is named. An attempt that runs is asked to stop and not
    /// believed. A child that is abandoned is a failed call of its parent.
    ///
    /// Asked again, it names the same.
    ///
    /// # Errors
    /// [`AbandonError`]: it is as it was.
    pub async fn abandon(
        &self,
        saga: SagaId,
        note: impl Into<String>,
    ) -> Result<Abandoned, AbandonError> {
        let note = note.into();
        match self.order(saga, Order::Abandon { note }).await {
            Ok(()) | Err(Fault::Ended(StatusKind::Abandoned)) => {}
            Err(fault) => return Err(fault.into()),
        }
        let state = self.state(saga).await.map_err(AbandonError::from)?;
        Ok(Abandoned::new(&self.core, saga, &state))
    }

    /// Has the driver do something; a saga that it does not have may have ended.
    async fn order(&self, saga: SagaId, order: Order) -> Result<(), Fault> {
        let lacking = match &order {
            Order::Pause { .. } => Some("a pause by an operator"),
            Order::Skip { .. } | Order::SkipUndo { .. } => Some("to skip a step or an undo"),
            Order::Abandon { .. } => Some("to abandon a saga"),
            Order::Resume | Order::Retry { .. } => None,
        };
        if let Some(what) = lacking {
            let checked = self.core.check_format(what);
            checked.map_err(|error| Fault::NotRecorded(error.to_string()))?;
        }
        let (tell, told) = oneshot::channel();
        self.wish(saga, Verb::Order(order, tell))?;
        let answer = told.await.unwrap_or_else(|_| Err(ended_first()));
        match answer {
            // Whoever asks must not tell the two apart, not even by the time that it takes.
            Err(fault @ (Fault::Unknown | Fault::Foreign)) => {
                match self.kept(saga, audited(&fault, Operation::Change)).await {
                    Ok(state) => Err(Fault::Ended(state.status_kind())),
                    Err(ShowError::Unknown | ShowError::Lookup { .. }) => Err(Fault::Unknown),
                    Err(ShowError::Unavailable(why)) => Err(Fault::NotRecorded(why.to_string())),
                }
            }
            answer => answer,
        }
    }

    fn wish(&self, saga: SagaId, verb: Verb) -> Result<(), Fault> {
        let forked = |error: crate::error::Unavailable| Fault::NotRecorded(error.to_string());
        self.core.check_process().map_err(forked)?;
        let scope = self.scope;
        let wish = Box::new(Wish { scope, verb });
        self.core.driver.tell(Message::Operate { saga, wish });
        Ok(())
    }

    /// A saga's state: of the driver, or as it was kept when it ended.
    async fn state(&self, saga: SagaId) -> Result<Box<SagaState>, ShowError> {
        self.core.check_process()?;
        let (tell, told) = oneshot::channel();
        let asked = self.wish(saga, Verb::Show(tell));
        let mut audited_as = Some(Operation::Look);
        if asked.is_ok() {
            match told.await {
                Ok(Ok(state)) => return Ok(state),
                Ok(Err(fault)) => audited_as = audited(&fault, Operation::Look),
                Err(_) => {}
            }
        }
        self.kept(saga, audited_as).await
    }

    /// The state that an ended saga left in the tables. If it is another tenant's, that is audited
    /// as `operation`.
    async fn kept(
        &self,
        saga: SagaId,
        operation: Option<Operation>,
    ) -> Result<Box<SagaState>, ShowError> {
        let state = self.core.kept_saga(saga).await?;
        let owner = state.start().id.tenant;
        let Some(stranger) = self.scope.filter(|scope| *scope != owner) else {
            return Ok(state);
        };
        if let Some(operation) = operation {
            let (tag, object) = (AuditTag::default(), Object::Saga(saga));
            let audit = &self.core.executor.audit;
            audit.denied(stranger, tag, operation, object, Some(owner));
        }
        Err(ShowError::Unknown)
    }
}

/// As what it is audited that something turns out to be another tenant's, unless it was already.
fn audited(fault: &Fault, operation: Operation) -> Option<Operation> {
    (*fault != Fault::Foreign).then_some(operation)
}

fn ended_first() -> Fault {
    Fault::NotRecorded("the engine ended first".to_owned())
}

impl Core {
    /// The state of a saga that ended and is kept.
    pub(crate) async fn kept_saga(&self, saga: SagaId) -> Result<Box<SagaState>, ShowError> {
        let (tell, told) = oneshot::channel();
        let answer = move |found| {
            let _ = tell.send(found);
        };
        self.store.0.lookup_saga(saga, Box::new(answer));
        match told.await {
            Ok(Ok(Some(state))) => Ok(Box::new(state)),
            Ok(Ok(None)) => Err(ShowError::Unknown),
            Ok(Err(error)) => Err(ShowError::Lookup {
                reason: error.to_string(),
            }),
            Err(_) => Err(ShowError::Lookup {
                reason: "the engine ended first".to_owned(),
            }),
        }
    }

    /// The saga behind a key, ended or not.
    pub(crate) async fn saga_of(&self, id: EffectId) -> Option<SagaId> {
        let flight = self.flights.get(&id).map(|entry| entry.value().clone());
        if let Some(saga) = flight.and_then(|flight| flight.saga()) {
            return Some(saga);
        }
        let (tell, told) = oneshot::channel();
        let answer = move |found| {
            let _ = tell.send(found);
        };
        self.store.lookup(id, Box::new(answer));
        told.await.ok()?.ok()??.saga
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
