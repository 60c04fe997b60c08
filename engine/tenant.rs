//! Tenants: the capability to submit, and the one to manage.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use dashmap::mapref::entry::Entry;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use orlop_admission::{
    Quotas, RegisterError, TenantAccount, TenantError as AdmissionError, TenantSnapshot,
};
use orlop_gpu::{BufferRef, Device, InstallError};
use orlop_saga::audit::{Object, Operation};
use orlop_saga::digest::Digest;
use orlop_saga::effect::EffectId;
use orlop_saga::event::Event;
use orlop_saga::id::TenantId;
use orlop_saga::key::Key;
use orlop_saga::tenant::{LabelError, TenantEvent, TenantLabel};
use orlop_store::log::Purpose;
use tokio::sync::oneshot;

use crate::batch::Batch;
use crate::buffer::{self, Buffer, BufferError, BufferUse, Desk, Eviction};
use crate::computation::Computation;
use crate::core::Core;
use crate::driver::CancelError;
use crate::error::Unavailable;
use crate::halfway;
use crate::handle::Handle;
use crate::ledger::Ledger;
use crate::operator::Operator;
use crate::saga::Saga;
use crate::start::SagaStarting;
use crate::submission::{Awaited, Enqueued, Submission};
use crate::terms;

/// The capability to submit on behalf of one tenant. Cheap to clone; it cannot be forged, and it
/// cannot manage.
#[derive(Clone)]
pub struct Tenant {
    pub(crate) core: Handle,
    pub(crate) account: Arc<TenantAccount>,
}

/// The capability to manage one tenant: suspend, resume, quotas, operators' verbs.
#[derive(Clone)]
pub struct TenantManager {
    tenant: Tenant,
}

/// Why there is no handle of a tenant, or why managing it failed. Nothing changed, unless said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TenantError {
    /// The text is no label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// No place or no id for it, most likely because `limits.tenants_max` is reached.
    #[error(transparent)]
    Register(#[from] orlop_admission::RegisterError),
    /// The engine takes no work.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Whether the change is durable is unknown: the disk failed. It does not hold as long as the
    /// engine is open. Reopen the store and look.
    #[error("whether the tenant was changed is unknown: the disk failed while it was written")]
    Unresolved,
    /// It has work that has not ended. Drain it, and resolve what is held.
    #[error("tenant {tenant} has {moving} effects and sagas that move, {held} are held")]
    Unfinished {
        /// The tenant.
        tenant: TenantId,
        /// How many still move.
        moving: usize,
        /// How many wait for an operator.
        held: usize,
    },
    /// An allow list names more computations than it may, or something that is no name.
    #[error("an allow list has up to {names_max} names of 1 to {name_bytes_max} bytes")]
    AllowList {
        /// How many names it may have.
        names_max: usize,
        /// How long one may be.
        name_bytes_max: usize,
    },
    /// A tenant is to be bound to more engagements than it may.
    #[error("a tenant is bound to at most {engagements_max} engagements")]
    Engagements {
        /// How many it may be.
        engagements_max: usize,
    },
    /// The device has no room for its [own opcodes](crate::EngineBuilder::opcodes): lives that
    /// have left still have something in flight. Retry once that has ended.
    #[error(transparent)]
    Opcodes(#[from] InstallError),
    /// The tenant's state does not allow it.
    #[error(transparent)]
    State(#[from] AdmissionError),
}

/// A registration on its way to the disk, shared by all who asked for it.
pub(crate) type Registering = Shared<BoxFuture<'static, Result<Arc<TenantAccount>, TenantError>>>;

impl Core {
    /// The tenant of this label, registered durably at its first mention.
    pub(crate) async fn tenant(
        self: &Arc<Self>,
        label: &str,
    ) -> Result<Arc<TenantAccount>, TenantError> {
        self.check_open()?;
        let label = TenantLabel::new(label)?;
        let registering = match self.labels.entry(label.clone()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(vacant) => {
                let registering = self.register(label.clone(), Quotas::UNLIMITED)?;
                vacant.insert(registering).clone()
            }
        };
        self.registered(label, registering).await
    }

    async fn registered(
        &self,
        label: TenantLabel,
        registering: Registering,
    ) -> Result<Arc<TenantAccount>, TenantError> {
        let registered = registering.clone().await;
        if registered.is_err() {
            self.labels
                .remove_if(&label, |_, known| known.ptr_eq(&registering));
        }
        registered
    }

    /// A tenant that there was not, with quotas.
    pub(crate) async fn new_tenant(
        self: &Arc<Self>,
        label: &str,
        quotas: Quotas,
    ) -> Result<Arc<TenantAccount>, TenantError> {
        self.check_open()?;
        let label = TenantLabel::new(label)?;
        let (registering, is_new) = match self.labels.entry(label.clone()) {
            Entry::Occupied(known) => (known.get().clone(), false),
            Entry::Vacant(vacant) => {
                let registering = self.register(label.clone(), quotas)?;
                (vacant.insert(registering).clone(), true)
            }
        };
        let account = self.registered(label, registering).await?;
        if is_new {
            return Ok(account);
        }
        let (holder, state) = (account.id(), account.state());
        Err(RegisterError::LabelTaken { holder, state }.into())
    }

    fn register(
        self: &Arc<Self>,
        label: TenantLabel,
        quotas: Quotas,
    ) -> Result<Registering, TenantError> {
        let terms = terms::of(&quotas);
        let restricted = !self.allow_by_default;
        if restricted || !terms.is_empty() {
            self.check_format_3("a tenant with quotas or an allow list")?;
        }
        let account = self.tenants.register_next(label.clone(), quotas)?;
        if restricted {
            account.allow(Some(BTreeSet::new()));
        }
        let tenant = account.id();
        // Slots are given in order; the table of labels is locked here.
        let (count, max) = (tenant.slot() as usize + 1, self.limits.tenants_max as usize);
        halfway::level(&self.marks.tenants, "limits.tenants_max", count, max);
        self.enter_device(tenant);
        if let Err(error) = self.give_opcodes(&account) {
            // Nobody has heard of it yet.
            self.retract(&account);
            return Err(error.into());
        }
        let mut events = vec![Event::Tenant(TenantEvent::Registered { tenant, label })];
        if !terms.is_empty() {
            events.push(Event::Tenant(TenantEvent::QuotasChanged { tenant, terms }));
        }
        if restricted {
            let allowed = Some(BTreeSet::new());
            events.push(Event::Tenant(TenantEvent::AllowListChanged {
                tenant,
                allowed,
            }));
        }
        let (tell, told) = oneshot::channel();
        let registered = Arc::clone(&account);
        self.append(tenant, Purpose::New, &events, move |core, result| {
            let answer = match result {
                Ok(_) => Ok(registered),
                Err(error) => {
                    // Nothing of it is known to be durable, and nothing was submitted under it.
                    core.retract(&registered);
                    // Here, and not by who waits for it: maybe nobody does any more. The label is in
                    // the table: it was locked until then.
                    core.labels.remove(registered.label());
                    Err(core.undecided(&error))
                }
            };
            let _ = tell.send(answer);
        });
        Ok(told
            .map(|answer| answer.unwrap_or(Err(TenantError::Unresolved)))
            .boxed()
            .shared())
    }
}

impl Core {
    /// A tenant found in the store.
    pub(crate) fn adopt(&self, account: Arc<TenantAccount>) {
        self.enter_device(account.id());
        if let Err(error) = self.give_opcodes(&account) {
            // What it has on the device for itself is refused there; the rest goes on.
            tracing::error!(tenant = %account.id(), %error, "the device has no room for its opcodes");
        }
        let label = account.label().clone();
        let known = futures_util::future::ready(Ok(account)).boxed().shared();
        self.labels.insert(label, known);
    }

    /// Ends this life of a tenant in memory.
    pub(crate) fn retract(&self, account: &Arc<TenantAccount>) {
        let tenant = account.id();
        let ended = self.tenants.unregister(account);
        debug_assert!(ended.is_ok(), "{ended:?}");
        self.executor.cache.clear(tenant);
        // The device refuses the tenant from now on.
        if let Err(error) = self.executor.device.revoke_tenant_generation(tenant) {
            tracing::error!(%tenant, %error, "the device did not know the tenant");
        }
        self.tenures.end(tenant);
    }

    fn enter_device(&self, tenant: TenantId) {
        self.tenures.begin(tenant);
        self.executor.cache.enter(tenant);
        if let Err(error) = self.executor.device.register_tenant_generation(tenant) {
            // Its device work is refused as stale; the rest goes on.
            tracing::error!(%tenant, %error, "the device does not take the tenant");
        }
    }
}

impl Tenant {
    /// Its id: slot and generation.
    pub fn id(&self) -> TenantId {
        self.account.id()
    }

    /// Its name.
    pub fn label(&self) -> &str {
        self.account.label().as_str()
    }

    /// Runs a computation once per key, and waits for its outcome.
    ///
    /// A `Pure` computation derives its key from its input: equal submissions join or replay. An
    /// `External` one does not compile without [`Submission::key`]. Nothing happens until the
    /// submission is awaited; dropping the future withdraws the work if nobody else waits for it
    /// and it does not run yet.
    pub fn submit<C: Computation>(
        &self,
        computation: C,
        input: impl Into<C::Input>,
    ) -> Submission<C, C::Kind, Awaited> {
        Submission::new(self.clone(), computation, input.into())
    }

    /// Accepts a computation: once the returned [`Ticket`](crate::Ticket) exists, the work is done
    /// whatever becomes of the caller or the process.
    pub fn enqueue<C: Computation>(
        &self,
        computation: C,
        input: impl Into<C::Input>,
    ) -> Submission<C, C::Kind, Enqueued> {
        Submission::new(self.clone(), computation, input.into())
    }

    /// Runs many computations, each under a key derived from its input and with an outcome of its
    /// own. What gets a slot at once is published as one run of ring entries with one wake; the
    /// outcomes ride in shared groups of the journal.
    pub fn submit_batch<C: Computation<Kind = crate::Pure>>(
        &self,
        computation: C,
        inputs: impl IntoIterator<Item = impl Into<C::Input>>,
    ) -> Batch<C> {
        Batch::new(
            self.clone(),
            computation,
            inputs.into_iter().map(Into::into).collect(),
        )
    }

    /// Starts a saga under a key: once the returned [`SagaTicket`](crate::SagaTicket) exists, it
    /// completes or is compensated, whatever becomes of the process.
    pub fn start<S: Saga>(&self, key: Key, input: impl Into<S::Input>) -> SagaStarting<S> {
        SagaStarting::new(self.clone(), key, input.into())
    }

    /// Puts bytes onto the device, under their digest. They are copied and hashed on the calling
    /// thread: for large buffers call it where that may be waited for.
    ///
    /// # Errors
    /// [`BufferError`]: nothing was put.
    pub fn buffer(&self, bytes: &[u8]) -> Result<Buffer, BufferError> {
        self.core.check_open()?;
        buffer::put(self.desk(&self.device()), bytes)
    }

    /// Puts bytes into the tenant's cache on the device, under their digest. No handle keeps them
    /// there: they count against its quotas, make way when it needs the room for something else,
    /// and come back from the engine's [`BufferSource`](crate::BufferSource), which must have them,
    /// when work names them. What is longer than `limits.cached_bytes_per_tenant_max` does not stay.
    ///
    /// Copies and hashes on the calling thread, as [`buffer`](Self::buffer) does.
    ///
    /// # Errors
    /// [`BufferError`]: nothing was put.
    pub fn cache(&self, bytes: &[u8]) -> Result<BufferRef, BufferError> {
        self.core.check_open()?;
        if self.core.executor.source.is_none() {
            return Err(BufferError::NoSource);
        }
        let buffer = buffer::put(self.desk(&self.device()), bytes)?;
        self.core.executor.cache.keep(&buffer);
        Ok(buffer.reference())
    }

    /// Brings the bytes of this digest onto the device from the engine's
    /// [`BufferSource`](crate::BufferSource), unless they are there, and holds them. Blocks for as
    /// long as the source does.
    ///
    /// # Errors
    /// [`BufferError`]: nothing is held. [`Lost`](BufferError::Lost): the source does not have it.
    pub fn fetch(&self, digest: &Digest) -> Result<Buffer, BufferError> {
        self.core.check_open()?;
        let device = self.device();
        let desk = self.desk(&device);
        if let Some(buffer) = buffer::share(desk, digest)? {
            return Ok(buffer);
        }
        let source = self.core.executor.source.as_deref();
        buffer::load(desk, source, digest, false).map_err(|error| error.0)
    }

    /// Has a buffer leave the tenant's cache, unless work uses it.
    pub fn evict(&self, digest: &Digest) -> Eviction {
        self.core.executor.cache.evict(self.id(), digest)
    }

    /// What the tenant has in its cache, and what became of what it asked for.
    pub fn cached(&self) -> BufferUse {
        self.core.executor.cache.counts(self.id())
    }

    fn device(&self) -> Arc<Device> {
        self.core.executor.device.current()
    }

    fn desk<'a>(&'a self, device: &'a Arc<Device>) -> Desk<'a> {
        let executor = &self.core.executor;
        Desk {
            device,
            cache: &executor.cache,
            tenant: self.account.id(),
            account: Some(&self.account),
        }
    }
}

impl TenantManager {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant }
    }

    /// The capability to submit alone.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What it holds and what was refused.
    pub fn snapshot(&self) -> TenantSnapshot {
        self.tenant.account.snapshot()
    }

    /// Bytes of its outcomes that are kept, in the key table and in blobs: what counts against
    /// [`Quotas::retained_bytes_max`]. Given back once an outcome is past its retention and has been
    /// removed.
    pub fn retained_bytes(&self) -> u64 {
        self.tenant.core.retained_bytes(self.tenant.id())
    }

    /// The ledger of this tenant: what it has spent for whom.
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.tenant.core.clone(), Some(self.tenant.id()))
    }

    /// The capability to look after the sagas of this tenant.
    pub fn operator(&self) -> Operator {
        Operator::new(self.tenant.core.clone(), Some(self.tenant.id()))
    }

    /// Cancels the saga that was started under `key`, held or not, also when its code is gone.
    ///
    /// # Errors
    /// [`CancelError`]: it goes on as it was.
    pub async fn cancel_saga(&self, key: Key) -> Result<(), CancelError> {
        let core = &self.tenant.core;
        let id = EffectId {
            tenant: self.tenant.id(),
            key,
        };
        let flight = core.flights.get(&id).map(|entry| Arc::clone(entry.value()));
        let unknown = flight.is_none();
        let saga = flight.and_then(|flight| flight.saga());
        let cancelled = core.cancel_saga(id, saga).await;
        if unknown && cancelled == Err(CancelError::Ended) {
            let audit = &core.executor.audit;
            audit.suspect(id.tenant, Operation::Cancel, Object::Key(key));
        }
        cancelled
    }

    /// Has a stuck effect tried again, all its attempts free again; false if it is not stuck.
    pub fn retry(&self, key: Key) -> bool {
        let core = &self.tenant.core;
        let id = EffectId {
            tenant: self.tenant.id(),
            key,
        };
        let flight = core.flights.get(&id).or_else(|| core.ephemeral.get(&id));
        let flight = flight.map(|entry| Arc::clone(entry.value()));
        if flight.is_none() {
            let audit = &core.executor.audit;
            audit.suspect(id.tenant, Operation::Change, Object::Key(key));
        }
        flight.is_some_and(|flight| match flight.saga() {
            Some(saga) if flight.is_stuck() => {
                core.driver.resume(saga);
                true
            }
            Some(_) => false,
            None => flight.release(core),
        })
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenant")
            .field(&self.id())
            .field(&self.label())
            .finish()
    }
}

impl fmt::Debug for TenantManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TenantManager")
            .field(&self.tenant.label())
            .finish()
    }
}
