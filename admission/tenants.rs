//! The registry: which tenants there are, and the right to change them.
//!
//! Invariants
//! - A slot has one life at a time: it is taken again only when the last life was unregistered
//!   and holds nothing any more, and then under a later generation.
//! - A label has one life at a time, by the same rule, so re-registering cannot double what a
//!   tenant may hold.
//! - Lock order: registry, then bulkhead, then ledger. The registry's lock is not held while
//!   bulkheads are swept.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use orlop_saga::id::TenantId;
use orlop_saga::tenant::TenantLabel;

use crate::bulkhead::Core;
use crate::drain::{Drain, Gated, Queued};
use crate::extent::Held;
use crate::outbox::Outbox;
use crate::refusal::{Refusal, Scope};
use crate::sync::Mutex;
use crate::tenant::{Quotas, TenantAccount, TenantCommand, TenantSnapshot, TenantState};
use crate::waiting::WaitingRoom;

/// Why a tenant was not registered. Nothing changed in any of these cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Every slot is taken. Unregister a tenant, or open with a larger capacity.
    #[error("all {tenants_max} places for tenants are taken")]
    Full {
        /// How many there are.
        tenants_max: u32,
    },
    /// The id's slot is beyond the capacity. Open with a larger one.
    #[error("tenant {tenant} needs a slot beyond the capacity of {tenants_max}")]
    SlotOutOfRange {
        /// The id.
        tenant: TenantId,
        /// How many slots there are.
        tenants_max: u32,
    },
    /// The slot's last life is registered, or still holds something. Take another id.
    #[error("the slot of tenant {tenant} belongs to {holder}")]
    SlotTaken {
        /// The id.
        tenant: TenantId,
        /// Who has it.
        holder: TenantId,
    },
    /// The slot has had this life, or a later one. Take another id.
    #[error("tenant {tenant} is not newer than the slot's last life, {last_generation}")]
    StaleGeneration {
        /// The id.
        tenant: TenantId,
        /// The generation of the slot's last life.
        last_generation: u32,
    },
    /// A tenant of this name is registered, or its last life still holds something. Use it, or
    /// wait until it has drained.
    #[error("the label belongs to tenant {holder}, which is {state}")]
    LabelTaken {
        /// Who has it.
        holder: TenantId,
        /// Its state.
        state: TenantState,
    },
}

/// Why a tenant was not changed. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TenantError {
    /// The life is not the slot's present one, or not of this registry. Look the tenant up anew.
    #[error("tenant {tenant} is not registered")]
    Stale {
        /// The id that was given.
        tenant: TenantId,
    },
    /// What was asked for makes no sense in the tenant's state.
    #[error("tenant {tenant} is {state}")]
    Refused {
        /// The tenant.
        tenant: TenantId,
        /// Its state.
        state: TenantState,
    },
}

/// The capacity asked for cannot be provided; no registry was made. Ask for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tenants} tenants asked for, at most {tenants_max} are supported")]
pub struct CapacityError {
    /// How many were asked for.
    pub tenants: u32,
    /// How many are supported.
    pub tenants_max: u32,
}

#[derive(Debug, Default)]
struct Slot {
    last_generation: u32,
    account: Option<Arc<TenantAccount>>,
}

impl Slot {
    /// The life that has the slot: registered, or unregistered and still holding something.
    fn holder(&self) -> Option<&Arc<TenantAccount>> {
        self.account.as_ref().filter(|account| {
            let ledger = account.ledger.lock_nested();
            match ledger.state {
                TenantState::Active
                | TenantState::Suspended
                | TenantState::Draining
                | TenantState::Revoked => true,
                TenantState::Unregistered => {
                    ledger.gate.live() > 0 || ledger.kept != Held::default()
                }
            }
        })
    }
}

/// All tenants of an engine.
#[derive(Debug)]
pub struct Tenants {
    #[expect(
        clippy::struct_field_names,
        reason = "what it is called in the options"
    )]
    tenants_max: u32,
    registry: Mutex<Registry>,
    room: OnceLock<WaitingRoom>,
}

#[derive(Debug, Default)]
struct Registry {
    slots: Vec<Slot>,
    /// The slot of the last life of each label; the life may have ended.
    slot_of: HashMap<TenantLabel, u32>,
    /// Slots without a registered life; the last one may still hold something.
    idle: BTreeSet<u32>,
}

impl Registry {
    fn account(&self, slot: u32) -> Option<&Arc<TenantAccount>> {
        self.slots.get(slot as usize)?.account.as_ref()
    }

    fn holder(&self, slot: u32) -> Option<&Arc<TenantAccount>> {
        self.slots.get(slot as usize)?.holder()
    }

    fn last_generation(&self, slot: u32) -> u32 {
        self.slots
            .get(slot as usize)
            .map_or(0, |slot| slot.last_generation)
    }

    /// A slot nobody has, and its next generation.
    fn vacant(&self, tenants_max: u32) -> Result<TenantId, RegisterError> {
        let recycled = self.idle.iter().find_map(|&slot| {
            let generation = self.last_generation(slot).checked_add(1)?;
            self.holder(slot)
                .is_none()
                .then(|| TenantId::new(slot, generation))
        });
        let fresh = || {
            let slot = u32::try_from(self.slots.len()).ok()?;
            (slot < tenants_max).then(|| TenantId::new(slot, 1))
        };
        recycled
            .or_else(fresh)
            .ok_or(RegisterError::Full { tenants_max })
    }

    fn check(&self, label: &TenantLabel, id: TenantId, tenants_max: u32) -> Option<RegisterError> {
        if id.slot() >= tenants_max {
            return Some(RegisterError::SlotOutOfRange {
                tenant: id,
                tenants_max,
            });
        }
        if let Some(holder) = self.holder(id.slot()) {
            return Some(RegisterError::SlotTaken {
                tenant: id,
                holder: holder.id(),
            });
        }
        let last_generation = self.last_generation(id.slot());
        if id.generation() <= last_generation {
            return Some(RegisterError::StaleGeneration {
                tenant: id,
                last_generation,
            });
        }
        let same_label = self.slot_of.get(label).and_then(|&slot| self.holder(slot));
        same_label.map(|holder| RegisterError::LabelTaken {
            holder: holder.id(),
            state: holder.ledger.lock_nested().state,
        })
    }

    /// Has a place for a slot.
    fn reach(&mut self, slot: u32) {
        while self.slots.len() <= slot as usize {
            self.idle.extend(u32::try_from(self.slots.len()));
            self.slots.push(Slot::default());
        }
    }

    fn remember(&mut self, ended: TenantId) {
        self.reach(ended.slot());
        if let Some(slot) = self.slots.get_mut(ended.slot() as usize) {
            slot.last_generation = slot.last_generation.max(ended.generation());
        }
    }

    fn insert(&mut self, label: TenantLabel, id: TenantId, quotas: Quotas) -> Arc<TenantAccount> {
        self.reach(id.slot());
        self.idle.remove(&id.slot());
        let ended = self
            .account(id.slot())
            .map(|account| account.label().clone());
        if let Some(ended) = ended
            && self.slot_of.get(&ended) == Some(&id.slot())
        {
            self.slot_of.remove(&ended);
        }
        self.slot_of.insert(label.clone(), id.slot());
        let account = Arc::new(TenantAccount::new(id, label, quotas));
        if let Some(slot) = self.slots.get_mut(id.slot() as usize) {
            slot.last_generation = id.generation();
            slot.account = Some(Arc::clone(&account));
        }
        account
    }
}

impl Tenants {
    /// The most tenants that a registry can be made for.
    pub const TENANTS_MAX: u32 = 1 << 20;

    /// A registry for up to `tenants_max` tenants at a time. 0 means none.
    ///
    /// # Errors
    /// [`CapacityError`]: more than [`Self::TENANTS_MAX`].
    pub fn new(tenants_max: u32) -> Result<Self, CapacityError> {
        if tenants_max > Self::TENANTS_MAX {
            return Err(CapacityError {
                tenants: tenants_max,
                tenants_max: Self::TENANTS_MAX,
            });
        }
        Ok(Self {
            tenants_max,
            registry: Mutex::default(),
            room: OnceLock::new(),
        })
    }

    /// The id that a new tenant should get: a slot nobody has, and its next generation. Nothing
    /// is reserved: of two callers who register it, the second is refused.
    ///
    /// # Errors
    /// [`RegisterError::Full`].
    pub fn next_id(&self) -> Result<TenantId, RegisterError> {
        self.registry.lock().vacant(self.tenants_max)
    }

    /// Registers a tenant under an id: one from [`Self::next_id`], or one found in the journal.
    ///
    /// # Errors
    /// [`RegisterError`]: nobody was registered.
    pub fn register(
        &self,
        label: TenantLabel,
        id: TenantId,
        quotas: Quotas,
    ) -> Result<Arc<TenantAccount>, RegisterError> {
        self.insert(&mut self.registry.lock(), label, id, quotas)
    }

    /// Registers a tenant under the next free id.
    ///
    /// # Errors
    /// [`RegisterError`]: nobody was registered.
    pub fn register_next(
        &self,
        label: TenantLabel,
        quotas: Quotas,
    ) -> Result<Arc<TenantAccount>, RegisterError> {
        let mut registry = self.registry.lock();
        let id = registry.vacant(self.tenants_max)?;
        self.insert(&mut registry, label, id, quotas)
    }

    /// Remembers a life that has ended and was found in the journal: the slot's next life is of a
    /// later generation.
    ///
    /// # Errors
    /// [`RegisterError::SlotOutOfRange`]: nothing changed.
    pub fn remember(&self, ended: TenantId) -> Result<(), RegisterError> {
        if ended.slot() >= self.tenants_max {
            return Err(RegisterError::SlotOutOfRange {
                tenant: ended,
                tenants_max: self.tenants_max,
            });
        }
        self.registry.lock().remember(ended);
        Ok(())
    }

    fn insert(
        &self,
        registry: &mut Registry,
        label: TenantLabel,
        id: TenantId,
        quotas: Quotas,
    ) -> Result<Arc<TenantAccount>, RegisterError> {
        match registry.check(&label, id, self.tenants_max) {
            Some(error) => Err(error),
            None => Ok(registry.insert(label, id, quotas)),
        }
    }

    /// The present life of the tenant that `id` names.
    ///
    /// # Errors
    /// [`TenantError::Stale`].
    pub fn get(&self, id: TenantId) -> Result<Arc<TenantAccount>, TenantError> {
        let registry = self.registry.lock();
        registry
            .account(id.slot())
            .filter(|account| {
                account.id() == id
                    && account.ledger.lock_nested().state != TenantState::Unregistered
            })
            .cloned()
            .ok_or(TenantError::Stale { tenant: id })
    }

    /// Changes what a tenant may reserve from now on. What it holds, it keeps.
    ///
    /// # Errors
    /// [`TenantError::Stale`]: nothing changed.
    pub fn set_quotas(
        &self,
        account: &Arc<TenantAccount>,
        quotas: Quotas,
    ) -> Result<(), TenantError> {
        self.own(account)?;
        account.set_quotas(quotas);
        self.changed(account.id());
        Ok(())
    }

    /// Whether a tenant can be told this now. Changes nothing: for whoever records a decision before
    /// it takes effect, and lets nobody else decide about the tenant in between.
    ///
    /// # Errors
    /// [`TenantError`]: it would be refused.
    pub fn check(
        &self,
        account: &Arc<TenantAccount>,
        command: TenantCommand,
    ) -> Result<(), TenantError> {
        self.own(account)?;
        let (tenant, state) = (account.id(), account.state());
        match state.after(command) {
            Some(_) => Ok(()),
            None => Err(TenantError::Refused { tenant, state }),
        }
    }

    /// Refuses the tenant's ordinary work until it is resumed. What waits is refused as
    /// [`Refusal::Suspended`] before this returns; what is in flight goes on.
    ///
    /// # Errors
    /// [`TenantError`]: nothing changed; it is draining, revoked or unregistered.
    pub fn suspend(&self, account: &Arc<TenantAccount>) -> Result<(), TenantError> {
        let tenant = account.id();
        self.command(account, TenantCommand::Suspend)?;
        sweep(account, &Refusal::Suspended { tenant });
        Ok(())
    }

    /// Lets a suspended or draining tenant submit again. A drain that was not done ends as
    /// interrupted.
    ///
    /// # Errors
    /// [`TenantError`]: nothing changed; it is revoked or unregistered.
    pub fn resume(&self, account: &Arc<TenantAccount>) -> Result<(), TenantError> {
        self.command(account, TenantCommand::Resume).map(drop)
    }

    /// Refuses the tenant's ordinary work for good. What waits is refused as
    /// [`Refusal::Revoked`] before this returns; what is in flight and the reserved lane go on.
    ///
    /// # Errors
    /// [`TenantError::Stale`]: nothing changed.
    pub fn revoke(&self, account: &Arc<TenantAccount>) -> Result<(), TenantError> {
        let tenant = account.id();
        self.command(account, TenantCommand::Revoke)?;
        sweep(account, &Refusal::Revoked { tenant });
        Ok(())
    }

    /// Refuses the tenant's ordinary work, and tells when nothing of the tenant is queued or in
    /// flight any more. The reserved lane stays open: to shut it too, unregister.
    ///
    /// A revoked or unregistered tenant stays so; the drain then only waits.
    ///
    /// # Errors
    /// [`TenantError::Stale`]: nothing changed; not of this registry.
    pub fn drain(
        &self,
        account: &Arc<TenantAccount>,
        queued: Queued,
    ) -> Result<Drain, TenantError> {
        let generation = self.command(account, TenantCommand::Drain)?;
        match queued {
            Queued::Serve => {}
            Queued::Refuse => {
                let scope = Scope::Tenant;
                sweep(account, &Refusal::Draining { scope });
            }
        }
        Ok(Drain::new(Gated::Tenant(Arc::clone(account)), generation))
    }

    /// Ends this life of the tenant: every request is refused from now on, the reserved lane's
    /// too. What waits in the ordinary lane is refused as [`Refusal::StaleTenant`] before this
    /// returns. What is in flight, or waits in the reserved lane, goes on and stays counted;
    /// slot and label are free when it has ended. Doing it again does nothing.
    ///
    /// # Errors
    /// [`TenantError::Stale`]: nothing changed; not of this registry.
    pub fn unregister(&self, account: &Arc<TenantAccount>) -> Result<(), TenantError> {
        let tenant = account.id();
        self.command(account, TenantCommand::Unregister)?;
        let mut registry = self.registry.lock();
        // Unless the slot has a later life already, by another caller of this.
        if registry.last_generation(tenant.slot()) == tenant.generation() {
            registry.idle.insert(tenant.slot());
        }
        drop(registry);
        sweep(account, &Refusal::StaleTenant { tenant });
        Ok(())
    }

    /// Refuses all ordinary work that the tenant has queued, as [`Refusal::Cancelled`]. Returns
    /// how many requests that were.
    ///
    /// # Errors
    /// [`TenantError::Stale`]: nothing changed.
    pub fn cancel_queued(&self, account: &Arc<TenantAccount>) -> Result<u64, TenantError> {
        self.own(account)?;
        Ok(sweep(account, &Refusal::Cancelled))
    }

    /// Writes a snapshot of every tenant, and of every life that ended and still holds
    /// something. Clears `into` first; allocates nothing while its capacity suffices.
    pub fn snapshot_into(&self, into: &mut Vec<TenantSnapshot>) {
        into.clear();
        let registry = self.registry.lock();
        into.extend(
            registry
                .slots
                .iter()
                .filter_map(Slot::holder)
                .map(|account| account.snapshot()),
        );
    }

    /// Has `room` told when a tenant is changed. To be called once, before anything waits.
    pub fn tell(&self, room: &WaitingRoom) {
        let _first = self.room.set(room.clone());
    }

    fn changed(&self, tenant: TenantId) {
        if let Some(room) = self.room.get() {
            room.changed(tenant);
        }
    }

    /// Refuses accounts of other registries and lives that have ended.
    fn own(&self, account: &Arc<TenantAccount>) -> Result<(), TenantError> {
        let registry = self.registry.lock();
        registry
            .account(account.id().slot())
            .is_some_and(|own| {
                Arc::ptr_eq(own, account)
                    && account.ledger.lock_nested().state != TenantState::Unregistered
            })
            .then_some(())
            .ok_or(TenantError::Stale {
                tenant: account.id(),
            })
    }

    fn command(
        &self,
        account: &Arc<TenantAccount>,
        command: TenantCommand,
    ) -> Result<u64, TenantError> {
        // What ended may be waited for, and ended again, though its slot may have a later life.
        let ended = account.state() == TenantState::Unregistered;
        if !ended {
            self.own(account)?;
        }
        let mut outbox = Outbox::default();
        let moved = account.ledger.lock().apply(command, &mut outbox);
        outbox.deliver();
        self.changed(account.id());
        let tenant = account.id();
        moved.map_err(|state| match state {
            TenantState::Unregistered => TenantError::Stale { tenant },
            TenantState::Active
            | TenantState::Suspended
            | TenantState::Draining
            | TenantState::Revoked => TenantError::Refused { tenant, state },
        })
    }
}

/// Refuses what `account` has waiting in the ordinary lanes.
///
/// The state was changed before: whoever was admitted under the old one is in a queue by the time
/// its bulkhead's lock is free, and so is found here.
fn sweep(account: &Arc<TenantAccount>, reason: &Refusal) -> u64 {
    let bulkheads: Vec<Arc<Core>> = {
        let ledger = account.ledger.lock();
        ledger
            .seats
            .iter()
            .map(|seat| Arc::clone(&seat.core))
            .collect()
    };
    bulkheads
        .iter()
        .map(|core| core.sweep(account, reason))
        .sum()
}
