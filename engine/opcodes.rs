//! Opcodes of tenants' own: which tenant gets how many, what is in them, and who sees it.
//!
//! Given by label before the engine opens, so that what was accepted finds them after a restart;
//! each life of a tenant gets a window of its own on the device.
//!
//! Invariants
//! - A computation with an owner is, to any other tenant, one that was never registered.

use std::collections::HashMap;
use std::sync::Arc;

use orlop_admission::TenantAccount;
use orlop_gpu::{HostOp, InstallError, LocalOpcode, OpcodeWindow, WINDOWED_OPCODES_MAX};
use orlop_saga::audit::{Object, Operation};
use orlop_saga::id::TenantId;
use orlop_saga::tenant::{AuditTag, TenantLabel};

use crate::core::Core;
use crate::error::RegisterError;
use crate::registry::{Binding, Code};
use crate::tenant::TenantManager;

/// What one tenant has to itself.
#[derive(Default)]
struct Pack {
    /// How many opcodes, once that was said.
    count: Option<u32>,
    ops: Vec<(LocalOpcode, Arc<dyn HostOp>)>,
    /// The computations that the operations are bound to, in the same order.
    names: Vec<&'static str>,
}

/// What each tenant has to itself.
#[derive(Default)]
pub(crate) struct Packs(HashMap<TenantLabel, Pack>);

impl Packs {
    /// Gives a tenant so many opcodes.
    pub(crate) fn reserve(&mut self, label: TenantLabel, count: u32) -> Result<(), RegisterError> {
        let tenant = label.as_str().to_owned();
        let pack = self.0.entry(label).or_default();
        if pack.count.replace(count).is_some() {
            return Err(RegisterError::OpcodesTwice { tenant });
        }
        Ok(())
    }

    /// Puts an operation among a tenant's own.
    pub(crate) fn add(
        &mut self,
        label: TenantLabel,
        local: LocalOpcode,
        name: &'static str,
        op: Option<Arc<dyn HostOp>>,
    ) -> Result<(), RegisterError> {
        let op = op.ok_or(RegisterError::NoOperation { name })?;
        let pack = self.0.entry(label).or_default();
        let mut taken = pack.ops.iter().zip(&pack.names);
        if let Some((_, by)) = taken.find(|((other, _), _)| *other == local) {
            let (local, by) = (local.get(), *by);
            return Err(RegisterError::OpcodeTaken { name, local, by });
        }
        pack.ops.push((local, op));
        pack.names.push(name);
        Ok(())
    }

    /// Whether every operation lies in its tenant's window, and all windows fit.
    pub(crate) fn check(&self) -> Result<(), RegisterError> {
        for pack in self.0.values() {
            let count = pack.count.unwrap_or(0);
            for ((local, _), name) in pack.ops.iter().zip(&pack.names) {
                if local.get() >= count {
                    let (name, asked) = (*name, local.get());
                    return Err(RegisterError::OpcodeOutOfRange { name, asked, count });
                }
            }
        }
        let counts = self.0.values().filter_map(|pack| pack.count);
        let asked = counts.map(u64::from).sum();
        if asked > u64::from(WINDOWED_OPCODES_MAX) {
            let count_max = WINDOWED_OPCODES_MAX;
            return Err(RegisterError::OpcodesFull { asked, count_max });
        }
        Ok(())
    }
}

impl Code {
    /// Whether there is such a computation as far as this tenant knows.
    pub(crate) fn is_seen_by(&self, account: &TenantAccount) -> bool {
        let owner = self.owner.as_ref();
        owner.is_none_or(|owner| owner == account.label())
    }
}

impl Core {
    /// Gives a life that was just registered its window on the device, if its label has one.
    pub(crate) fn give_opcodes(&self, account: &TenantAccount) -> Result<(), InstallError> {
        let pack = self.registry.packs.0.get(account.label());
        if let Some(pack) = pack
            && let Some(count) = pack.count.filter(|count| *count > 0)
        {
            let device = self.executor.device.current();
            device.install_ops(account.id(), count, &pack.ops)?;
        }
        Ok(())
    }

    /// Whether this tenant may run the code; if it is another's, that is audited.
    pub(crate) fn check_seen(&self, account: &TenantAccount, tag: AuditTag, code: &Code) -> bool {
        let is_seen = code.is_seen_by(account);
        if !is_seen
            && let Some(owner) = code.owner.as_ref().and_then(|label| self.life_of(label))
            && let Binding::Device(device) = &code.binding
            && let Some(window) = self.executor.device.current().opcode_window(owner)
            && let Some(local) = device.local()
            && let Ok(opcode) = window.global(local)
        {
            let (audit, object) = (&self.executor.audit, Object::Opcode(opcode.get()));
            audit.denied(account.id(), tag, Operation::Run, object, Some(owner));
        }
        is_seen
    }

    /// Who is called so now.
    fn life_of(&self, label: &TenantLabel) -> Option<TenantId> {
        let known = self.labels.get(label)?;
        let account = known.peek()?.as_ref().ok()?;
        Some(account.id())
    }
}

impl TenantManager {
    /// The opcodes that it has to itself on the device, if it was given any with
    /// [`EngineBuilder::opcodes`](crate::EngineBuilder::opcodes).
    pub fn opcodes(&self) -> Option<OpcodeWindow> {
        let tenant = self.tenant();
        let device = tenant.core.executor.device.current();
        device.opcode_window(tenant.id())
    }
}
