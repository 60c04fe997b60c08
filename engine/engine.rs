//! The engine: what an embedder opens.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use orlop_admission::{BulkheadSnapshot, PurseSnapshot, Quotas, TenantSnapshot};
use orlop_gpu::{Choice, DeviceSnapshot};
use orlop_saga::audit::ChainHead;
use orlop_store::backup::{Backup, BackupError};
use orlop_store::projector::ProjectorError;
use orlop_store::store::StoreHealth;
use tokio::sync::oneshot;

use crate::audit::AuditCounts;
use crate::blocking::BlockingEngine;
use crate::budget::Budgets;
use crate::builder::EngineBuilder;
use crate::close::CloseError;
use crate::core::Core;
use crate::driver::SagaCounts;
use crate::handle::Handle;
use crate::ledger::Ledger;
use crate::meter::BulkheadMeter;
use crate::operator::Operator;
use crate::recover::Recovery;
use crate::tenant::{Tenant, TenantError, TenantManager};
use crate::tenure::DrainCounts;

/// An open engine. Cheap to clone; the store stays open until [`close`](Self::close) or until the
/// last engine, tenant and ticket are dropped.
#[derive(Clone)]
pub struct Engine {
    pub(crate) core: Handle,
    recovery: Arc<Recovery>,
}

/// What an engine does at this moment, and what it has done since it was opened.
///
/// Each part is of one instant; the parts are read one after the other.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineSnapshot {
    /// Keys in flight, or whose outcome the tables do not have yet.
    pub effects: usize,
    /// Unfinished sagas, held ones included.
    pub sagas: usize,
    /// How many of these sagas have their functions in memory.
    pub sagas_resident: usize,
    /// How many are passivated: of these there is their recorded state alone.
    pub sagas_passivated: usize,
    /// Sagas by state.
    pub saga_counts: SagaCounts,
    /// Every tenant, and every life that ended and still holds something.
    pub tenants: Vec<TenantSnapshot>,
    /// How tenants were drained.
    pub drains: DrainCounts,
    /// Every engagement's budget, drawn and spent, by organisation and engagement.
    pub budgets: Vec<PurseSnapshot>,
    /// Accepted effects and attempts of sagas that wait in front of their bulkheads for a refusal
    /// to pass.
    pub waiting: usize,
    /// Every bulkhead, by name.
    pub bulkheads: Vec<BulkheadSnapshot>,
    /// What work in them cost, in the same order.
    pub meters: Vec<BulkheadMeter>,
    /// The device of this moment, since it was opened.
    pub device: DeviceSnapshot,
    /// How many devices were lost before it.
    pub device_losses: u64,
    /// The process that it runs in, if that is not this one.
    pub device_process: Option<u32>,
    /// The store.
    pub store: StoreHealth,
    /// What was denied and refused.
    pub audit: AuditCounts,
}

impl Engine {
    /// Begins to build an engine whose store is in the folder `path`, created if it is missing or
    /// empty.
    pub fn builder(path: impl AsRef<Path>) -> EngineBuilder {
        EngineBuilder::in_folder(path.as_ref())
    }

    pub(crate) fn new(core: Arc<Core>, recovery: Recovery) -> Self {
        Self {
            core: Handle::new(core),
            recovery: Arc::new(recovery),
        }
    }

    /// What device work runs on, and why.
    pub fn device_choice(&self) -> Choice {
        self.core.executor.device.current().choice().clone()
    }

    /// The capability to submit for the tenant called `label`, which is registered durably at its
    /// first mention.
    ///
    /// # Errors
    /// [`TenantError`]: there is no such tenant, and none was registered.
    pub async fn tenant(&self, label: &str) -> Result<Tenant, TenantError> {
        let account = self.core.tenant(label).await?;
        Ok(Tenant {
            core: self.core.clone(),
            account,
        })
    }

    /// Registers the tenant called `label` durably, with quotas; there must be none of that name.
    ///
    /// # Errors
    /// [`TenantError::Register`] with [`LabelTaken`](crate::TenantRegisterError::LabelTaken):
    /// there is one, which is as it was. Otherwise none was registered.
    pub async fn register(
        &self,
        label: &str,
        quotas: Quotas,
    ) -> Result<TenantManager, TenantError> {
        let account = self.core.new_tenant(label, quotas).await?;
        Ok(TenantManager::new(Tenant {
            core: self.core.clone(),
            account,
        }))
    }

    /// The capability to manage the tenant called `label`.
    ///
    /// # Errors
    /// [`TenantError`]: as for [`tenant`](Self::tenant).
    pub async fn manage(&self, label: &str) -> Result<TenantManager, TenantError> {
        Ok(TenantManager::new(self.tenant(label).await?))
    }

    /// The capability to look after the sagas of all tenants.
    pub fn operator(&self) -> Operator {
        Operator::new(self.core.clone(), None)
    }

    /// The capability to grant budgets to engagements.
    pub fn budgets(&self) -> Budgets {
        Budgets::new(self.core.clone())
    }

    /// The ledger of all tenants: what each has spent for whom.
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.core.clone(), None)
    }

    /// The same engine for code that is not async. Its calls block their thread; they may be made
    /// anywhere, also inside a runtime.
    pub fn blocking(&self) -> BlockingEngine {
        BlockingEngine::new(self.clone())
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// What it does at this moment.
    pub fn snapshot(&self) -> EngineSnapshot {
        let mut snapshot = EngineSnapshot {
            effects: 0,
            sagas: 0,
            sagas_resident: 0,
            sagas_passivated: 0,
            saga_counts: SagaCounts::default(),
            tenants: Vec::new(),
            drains: DrainCounts::default(),
            budgets: Vec::new(),
            waiting: 0,
            bulkheads: Vec::new(),
            meters: Vec::new(),
            device: DeviceSnapshot::default(),
            device_losses: 0,
            device_process: None,
            store: self.core.store.0.health(),
            audit: AuditCounts::default(),
        };
        self.snapshot_into(&mut snapshot);
        snapshot
    }

    /// The same into a snapshot that is there already: allocates only if there are more tenants
    /// or budgets than before.
    pub fn snapshot_into(&self, into: &mut EngineSnapshot) {
        let core = &*self.core;
        into.effects = core.flying();
        into.sagas = core.driver.sagas();
        into.sagas_resident = core.driver.resident().min(into.sagas);
        into.sagas_passivated = into.sagas.saturating_sub(into.sagas_resident);
        into.saga_counts = core.driver.census.counts();
        core.tenants.snapshot_into(&mut into.tenants);
        into.drains = core.tenures.counts();
        core.executor.treasury.snapshot_into(&mut into.budgets);
        into.waiting = core.executor.room.len();
        into.bulkheads.clear();
        into.meters.clear();
        for gate in core.executor.bulkheads.values() {
            into.bulkheads.push(gate.bulkhead().snapshot());
            let name = Arc::clone(gate.bulkhead().name());
            into.meters.push(gate.meters.read(name));
        }
        into.bulkheads.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        into.meters.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        loop {
            into.device_losses = core.executor.device.losses();
            let device = core.executor.device.current();
            device.snapshot_into(&mut into.device);
            into.device_process = device.process();
            // A process that is counted as lost is not shown as the one after its loss.
            if into.device_losses == core.executor.device.losses() {
                break;
            }
        }
        into.store = core.store.0.health();
        into.audit = core.executor.audit.counts();
    }

    /// The end of the audit trail: everything of it so far is durable. `None` if none is written.
    ///
    /// Kept elsewhere, it is what [`verify_audit`](crate::verify_audit) compares the trail with.
    pub fn audit_head(&self) -> Option<ChainHead> {
        self.core.executor.audit.head()
    }

    /// Hands everything that was audited before the call to every sink, and to the trail, durably.
    pub async fn flush_audit(&self) {
        self.core.executor.audit.flush().await;
    }

    /// Writes a checkpoint, so that the next open replays less.
    ///
    /// # Errors
    /// [`ProjectorError`]: there is none; the journal has everything.
    pub async fn checkpoint(&self) -> Result<(), ProjectorError> {
        let (tell, told) = oneshot::channel();
        self.core.store.0.checkpoint(Box::new(move |result| {
            let _ = tell.send(result);
        }));
        told.await
            .unwrap_or(Err(ProjectorError::Closed))
            .map(|_| ())
    }

    /// Writes a backup into a folder that is new or empty, while the engine works: everything that
    /// was acknowledged before the call is in it, at one place of the journal. It is read back
    /// before it counts as one. [`restore`](crate::restore) and [`clone_store`](crate::clone_store)
    /// make a store of it.
    ///
    /// # Errors
    /// [`BackupError`]: there is no backup in the folder; what is there never opens as a store.
    pub async fn backup(&self, into: impl AsRef<Path>) -> Result<Backup, BackupError> {
        let (tell, told) = oneshot::channel();
        let (core, into) = (self.core.clone(), into.as_ref().to_path_buf());
        let thread = std::thread::Builder::new().name("orlop-backup".to_owned());
        let spawned = thread.spawn(move || {
            // If nobody waits any more, the backup is there all the same.
            let _ = tell.send(core.store.0.backup(&into));
        });
        if let Err(source) = spawned {
            return Err(BackupError::Thread { source });
        }
        told.await.unwrap_or(Err(BackupError::Closed))
    }

    /// Closes: refuses new work, waits for attempts that run as long as `close_timeout` says,
    /// writes a checkpoint, unlocks the store. Accepted work and sagas go on at the next open.
    /// May be called more than once, and by several.
    ///
    /// # Errors
    /// [`CloseError`]: it is closed all the same, and what was acknowledged is durable.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.core.close().await
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("recovery", &self.recovery)
            .finish_non_exhaustive()
    }
}
