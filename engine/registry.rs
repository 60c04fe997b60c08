//! The registry: which code is bound to which name.
//!
//! Fixed when the engine opens, so that looking a name up takes no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use orlop_admission::ExclusionId;
use orlop_saga::effect::CodeRef;
use orlop_saga::tenant::TenantLabel;

use crate::device::DeviceCode;
use crate::error::RegisterError;
use crate::host::{AsyncCode, BlockingCode, Late, ReconcileCode, UndoCode};
use crate::opcodes::Packs;
use crate::saga::SagaCode;

/// A computation and the code bound to it.
pub(crate) struct Code {
    pub(crate) reference: CodeRef,
    /// Dense, in order of registration: what admission knows it by.
    pub(crate) ordinal: u32,
    pub(crate) external: bool,
    pub(crate) retention: Duration,
    pub(crate) bulkhead: Box<str>,
    /// The only tenant that it exists for; everybody if none.
    pub(crate) owner: Option<TenantLabel>,
    /// Its exclusion group in its bulkhead.
    pub(crate) exclusion: Option<Exclusive>,
    pub(crate) binding: Binding,
    pub(crate) reconcile: Option<Arc<dyn ReconcileCode>>,
    /// How a late attempt is stopped, for `External` code; asked once.
    pub(crate) late: Option<Late>,
}

/// An exclusion group by its name, and by its id once the bulkhead is known.
pub(crate) struct Exclusive {
    pub(crate) group: Box<str>,
    pub(crate) id: Option<ExclusionId>,
}

/// Where and how a computation runs.
pub(crate) enum Binding {
    /// An opcode of the device.
    Device(Arc<dyn DeviceCode>),
    /// A future on the engine's runtime.
    Async(Arc<dyn AsyncCode>),
    /// A thread that may block.
    Blocking(Arc<dyn BlockingCode>),
}

/// An undo and the code bound to it.
pub(crate) struct UndoEntry {
    pub(crate) reference: CodeRef,
    pub(crate) ordinal: u32,
    pub(crate) bulkhead: Box<str>,
    pub(crate) code: Arc<dyn UndoCode>,
}

/// A saga's definition.
pub(crate) struct SagaEntry {
    pub(crate) reference: CodeRef,
    pub(crate) code: Arc<dyn SagaCode>,
    /// The saga that takes it back after its pivot.
    pub(crate) counter: Option<Box<str>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    codes: HashMap<Box<str>, Arc<Code>>,
    undos: HashMap<Box<str>, Arc<UndoEntry>>,
    sagas: HashMap<Box<str>, Arc<SagaEntry>>,
    /// Operations that belong to one tenant each.
    pub(crate) packs: Packs,
    names: u32,
}

impl Registry {
    pub(crate) fn code(&self, name: &str) -> Option<Arc<Code>> {
        self.codes.get(name).map(Arc::clone)
    }

    pub(crate) fn undo(&self, name: &str) -> Option<Arc<UndoEntry>> {
        self.undos.get(name).map(Arc::clone)
    }

    pub(crate) fn saga(&self, name: &str) -> Option<Arc<SagaEntry>> {
        self.sagas.get(name).map(Arc::clone)
    }

    /// The bulkheads that are asked for, to be checked against those that exist.
    pub(crate) fn bulkheads(&self) -> impl Iterator<Item = (&str, &str)> {
        let codes = self
            .codes
            .values()
            .map(|code| (&*code.reference.name, &*code.bulkhead));
        codes.chain(
            self.undos
                .values()
                .map(|undo| (&*undo.reference.name, &*undo.bulkhead)),
        )
    }

    /// Assigns a computation that is registered to an exclusion group of its bulkhead.
    pub(crate) fn exclude(&mut self, name: &'static str, group: &str) -> Result<(), RegisterError> {
        let code = self.codes.get_mut(name).and_then(Arc::get_mut);
        let code = code.ok_or(RegisterError::NotRegistered { name })?;
        let group = group.into();
        code.exclusion = Some(Exclusive { group, id: None });
        Ok(())
    }

    /// Finds every exclusion group that is named, by the name of its bulkhead and its own.
    pub(crate) fn resolve_exclusions(
        &mut self,
        find: impl Fn(&str, &str) -> Option<ExclusionId>,
    ) -> Result<(), RegisterError> {
        for code in self.codes.values_mut().filter_map(Arc::get_mut) {
            if let Some(exclusion) = &mut code.exclusion {
                exclusion.id = find(&code.bulkhead, &exclusion.group);
                if exclusion.id.is_none() {
                    return Err(RegisterError::NoExclusion {
                        name: code.reference.name.to_string(),
                        bulkhead: code.bulkhead.to_string(),
                        group: exclusion.group.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The bulkheads in which undos run.
    pub(crate) fn undo_bulkheads(&self) -> impl Iterator<Item = &str> {
        self.undos.values().map(|undo| &*undo.bulkhead)
    }

    /// Takes a name; computations, undos and sagas share one namespace, so that no journal entry
    /// can be read two ways.
    pub(crate) fn claim(&mut self, name: &'static str) -> Result<u32, RegisterError> {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return Err(RegisterError::BadName { name });
        }
        let taken = self.codes.contains_key(name)
            || self.undos.contains_key(name)
            || self.sagas.contains_key(name);
        if taken {
            return Err(RegisterError::Duplicate { name });
        }
        let ordinal = self.names;
        self.names += 1;
        Ok(ordinal)
    }

    pub(crate) fn add_code(&mut self, code: Code) {
        self.codes
            .insert(code.reference.name.clone(), Arc::new(code));
    }

    pub(crate) fn add_undo(&mut self, undo: UndoEntry) {
        self.undos
            .insert(undo.reference.name.clone(), Arc::new(undo));
    }

    pub(crate) fn add_saga(&mut self, saga: SagaEntry) {
        self.sagas
            .insert(saga.reference.name.clone(), Arc::new(saga));
    }
}
