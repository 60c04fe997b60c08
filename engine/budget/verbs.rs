//! The verbs of whoever owns the engine: granting, raising, lowering and reconciling budgets.

use std::fmt;
use std::sync::Arc;

use orlop_admission::PurseSnapshot;
use orlop_saga::amount::BusyNanos;
use orlop_saga::budget::BudgetEvent;
use orlop_saga::event::Event;
use orlop_saga::key::Key;
use orlop_saga::tenant::AuditTag;
use orlop_store::log::{AppendError, Purpose};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::core::Core;
use crate::error::{SubmitError, Unavailable};
use crate::handle::Handle;

/// Why a budget was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// As many engagements have a budget as may have one. Nothing was granted. Raise
    /// `budgets.engagements_max`.
    #[error("{engagements_max} engagements have a budget already")]
    Full {
        /// How many may.
        engagements_max: usize,
    },
    /// The engagement has no budget. Nothing changed. Grant it one.
    #[error("engagement {} of organisation {} has no budget", audit.engagement, audit.organisation)]
    Unknown {
        /// Whose budget was meant.
        audit: AuditTag,
    },
    /// The engine takes no work. Nothing changed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The disk failed while it was written: whether it is durable is unknown. Reopen the store
    /// and look.
    #[error("whether the budget is changed is unknown: the disk failed while it was written")]
    Unresolved,
}

impl BudgetError {
    fn of(core: &Core, error: &AppendError) -> Self {
        let failed = core.append_failed(error, Key::new([0; 16]));
        if let SubmitError::Unavailable(why) = failed {
            return why.into();
        }
        if matches!(failed, SubmitError::Interrupted { .. }) {
            return Unavailable::Closed.into();
        }
        Self::Unresolved
    }
}

/// The capability to look after the budgets of all engagements. Cheap to clone.
#[derive(Clone)]
pub struct Budgets {
    core: Handle,
}

impl Budgets {
    pub(crate) const fn new(core: Handle) -> Self {
        Self { core }
    }

    /// Lets an engagement spend `limit` in all, over all tenants and from its first grant on. A
    /// later grant raises or lowers that; what was spent stays spent, and a limit below it is a
    /// debt that the next raise pays first. In force, and durable, when it answers: accepted work
    /// that waits for it goes on at once.
    ///
    /// `limit`: busy nanoseconds, of every bulkhead alike.
    ///
    /// # Errors
    /// [`BudgetError`]: the budget is as it was, unless it says otherwise.
    pub async fn grant(&self, audit: AuditTag, limit: BusyNanos) -> Result<(), BudgetError> {
        self.core.check_open()?;
        self.core.check_format_3("a budget")?;
        let treasury = &self.core.executor.treasury;
        let turn = Arc::clone(&treasury.turn).lock_owned().await;
        let purse = treasury.ask(audit)?;
        let event = BudgetEvent::Granted { audit, limit };
        self.record(turn, event, move |core, is_durable| {
            let treasury = &core.executor.treasury;
            if is_durable {
                treasury.give(core, &purse, limit);
            } else {
                treasury.deny(audit);
            }
        })
        .await
    }

    /// Gives back what processes that crashed had drawn and not recorded as spent. Until then it
    /// counts as spent: some of it probably was, and nobody measured it. Answers how much it was.
    ///
    /// # Errors
    /// [`BudgetError`]: the budget is as it was, unless it says otherwise.
    pub async fn reconcile(&self, audit: AuditTag) -> Result<BusyNanos, BudgetError> {
        self.core.check_open()?;
        let treasury = &self.core.executor.treasury;
        let turn = Arc::clone(&treasury.turn).lock_owned().await;
        let purse = treasury.purse(audit);
        let purse = purse.ok_or(BudgetError::Unknown { audit })?;
        let amount = purse.take_unaccounted();
        if amount == BusyNanos::default() {
            return Ok(amount);
        }
        let event = BudgetEvent::Returned { audit, amount };
        let recorded = self.record(turn, event, move |_, is_durable| {
            if is_durable {
                purse.reconciled(amount);
            } else {
                purse.not_reconciled(amount);
            }
        });
        recorded.await.map(|()| amount)
    }

    /// The budget of one engagement, with what is reserved and not yet recorded; `None` if it has
    /// none.
    pub fn get(&self, audit: AuditTag) -> Option<PurseSnapshot> {
        let purse = self.core.executor.treasury.purse(audit)?;
        Some(purse.snapshot())
    }

    /// All budgets, in the order of organisation and engagement.
    pub fn list(&self) -> Vec<PurseSnapshot> {
        self.core.executor.treasury.snapshots()
    }

    /// Records an event; `then` is told whether it is durable, also if nobody waits any more, and
    /// nobody else is granted anything before.
    async fn record(
        &self,
        turn: OwnedMutexGuard<()>,
        event: BudgetEvent,
        then: impl FnOnce(&Arc<Core>, bool) + Send + 'static,
    ) -> Result<(), BudgetError> {
        let (tell, told) = oneshot::channel();
        self.core.append(
            super::BOOKKEEPER,
            Purpose::Settle,
            &[Event::Budget(event)],
            move |core, result| {
                then(core, result.is_ok());
                drop(turn);
                let _ = tell.send(result.map(drop).map_err(|e| BudgetError::of(core, &e)));
            },
        );
        told.await
            .unwrap_or_else(|_| Err(Unavailable::Closed.into()))
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}
