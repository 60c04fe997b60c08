//! The ledger: what every tenant has spent for whom, as the journal has it.
//!
//! Invariants
//! - A figure never falls and no line is ever removed: not by unregistering a tenant, not by a later
//!   life of its slot or its label, not by a restart, a rebuild or an upgrade.
//! - Whoever has the ledger of one tenant is given that tenant's lines and no others.

mod csv;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use orlop_saga::amount::BusyNanos;
use orlop_saga::audit::{Object, Operation};
use orlop_saga::budget::Books;
use orlop_saga::id::TenantId;
use orlop_saga::key::Key;
use orlop_saga::tenant::AuditTag;
use orlop_store::projector::ProjectorError;
use tokio::sync::oneshot;

use crate::error::{SubmitError, Unavailable};
use crate::handle::Handle;

/// The capability to read the ledger: of one tenant, or of all. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    core: Handle,
    scope: Option<TenantId>,
}

/// What one life of a tenant has spent for one engagement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerLine {
    /// The life of the tenant that ran the work.
    pub tenant: TenantId,
    /// Its name; `None` if it was not registered any more when the line began.
    pub label: Option<String>,
    /// Who pays.
    pub audit: AuditTag,
    /// What work cost, undo aside.
    pub spent: BusyNanos,
    /// What undo cost.
    pub undone: BusyNanos,
    /// How many outcomes, undos included, had a cost. What attempts cost that left no outcome of
    /// their own is in `spent` and not counted here.
    pub outcomes: u64,
}

impl LedgerLine {
    /// What it cost in all.
    pub const fn total(&self) -> BusyNanos {
        self.spent.saturating_add(self.undone)
    }
}

/// What was spent for one engagement, over all tenants that the ledger is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerTotal {
    /// Who pays.
    pub audit: AuditTag,
    /// What work cost, undo aside.
    pub spent: BusyNanos,
    /// What undo cost.
    pub undone: BusyNanos,
    /// How many outcomes, undos included, had a cost.
    pub outcomes: u64,
}

/// Why nothing was read from the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The engine takes no work, or the store's format has no ledger.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The tenant is another one than the ledger's. Ask the engine's owner.
    #[error("the ledger of tenant {scope} has no lines of tenant {asked}")]
    Foreign {
        /// Whose ledger it is.
        scope: TenantId,
        /// Whose lines were asked for.
        asked: TenantId,
    },
    /// The disk failed. Reopen the store.
    #[error("the ledger cannot be read: {0}")]
    Store(ProjectorError),
    /// What was exported could not be written. What was written so far is no whole export.
    #[error("the export cannot be written: {0}")]
    Write(#[source] std::io::Error),
}

impl Ledger {
    pub(crate) const fn new(core: Handle, scope: Option<TenantId>) -> Self {
        Self { core, scope }
    }

    /// All lines, in the order of tenant, organisation and engagement. Everything that was
    /// acknowledged, and everything that was measured before the call, is in them.
    ///
    /// # Errors
    /// [`LedgerError`]: nothing was read.
    pub async fn lines(&self) -> Result<Vec<LedgerLine>, LedgerError> {
        let books = self.books().await?;
        let mine = |tenant| self.scope.is_none_or(|scope| scope == tenant);
        let lines = books.lines().iter().filter(|(key, _)| mine(key.tenant));
        let line = lines.map(|(key, line)| LedgerLine {
            tenant: key.tenant,
            label: line.label.as_ref().map(|label| label.as_str().to_owned()),
            audit: key.audit,
            spent: line.spent,
            undone: line.undone,
            outcomes: line.outcomes,
        });
        Ok(line.collect())
    }

    /// The lines of one life of a tenant.
    ///
    /// # Errors
    /// [`LedgerError::Foreign`]: the ledger is of another tenant.
    pub async fn lines_of(&self, tenant: TenantId) -> Result<Vec<LedgerLine>, LedgerError> {
        if let Some(scope) = self.scope
            && scope != tenant
        {
            let (tag, object) = (AuditTag::default(), Object::Ledger(tenant));
            let audit = &self.core.executor.audit;
            audit.denied(scope, tag, Operation::Look, object, Some(tenant));
            return Err(LedgerError::Foreign {
                scope,
                asked: tenant,
            });
        }
        let mut lines = self.lines().await?;
        lines.retain(|line| line.tenant == tenant);
        Ok(lines)
    }

    /// One sum for each engagement of each organisation, in that order.
    ///
    /// # Errors
    /// [`LedgerError`]: nothing was read.
    pub async fn totals(&self) -> Result<Vec<LedgerTotal>, LedgerError> {
        let mut totals: BTreeMap<AuditTag, LedgerTotal> = BTreeMap::new();
        for line in self.lines().await? {
            let total = totals.entry(line.audit).or_insert(LedgerTotal {
                audit: line.audit,
                spent: BusyNanos::default(),
                undone: BusyNanos::default(),
                outcomes: 0,
            });
            total.spent = total.spent.saturating_add(line.spent);
            total.undone = total.undone.saturating_add(line.undone);
            total.outcomes = total.outcomes.saturating_add(line.outcomes);
        }
        Ok(totals.into_values().collect())
    }

    /// Writes all lines as comma-separated values (RFC 4180), a header first; answers how many
    /// lines. Columns, which keep their names and their order; later versions add behind them:
    ///
    /// | column | meaning |
    /// | --- | --- |
    /// | `tenant_slot`, `tenant_generation` | the life of the tenant |
    /// | `tenant_label` | its name; empty if unknown |
    /// | `organisation`, `engagement` | who pays |
    /// | `spent_ns` | what work cost, undo aside, in busy nanoseconds |
    /// | `undone_ns` | what undo cost |
    /// | `total_ns` | both |
    /// | `outcomes` | how many outcomes had a cost |
    ///
    /// # Errors
    /// [`LedgerError`]: what was written so far is no whole export.
    pub async fn export_csv(&self, into: impl Write) -> Result<usize, LedgerError> {
        let lines = self.lines().await?;
        csv::write(&lines, into).map_err(LedgerError::Write)?;
        Ok(lines.len())
    }

    async fn books(&self) -> Result<Books, LedgerError> {
        self.core.check_process()?;
        self.core.check_format_3("a ledger")?;
        let (tell, told) = oneshot::channel();
        let treasury = &self.core.executor.treasury;
        treasury.flush_then(&self.core, move |result| {
            let _ = tell.send(result);
        });
        match told.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let failed = self.core.append_failed(&error, Key::new([0; 16]));
                if let SubmitError::Unavailable(why) = failed {
                    return Err(why.into());
                }
                let closed = matches!(failed, SubmitError::Interrupted { .. });
                let why = if closed {
                    Unavailable::Closed
                } else {
                    Unavailable::Poisoned
                };
                return Err(why.into());
            }
            Err(_) => return Err(Unavailable::Closed.into()),
        }
        let (tell, told) = oneshot::channel();
        self.core.store.0.books(Box::new(move |books| {
            let _ = tell.send(books);
        }));
        match told.await {
            Ok(books) => books.map_err(LedgerError::Store),
            Err(_) => Err(Unavailable::Closed.into()),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
