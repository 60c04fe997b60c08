//! Signals on their way into a saga.

use std::sync::Arc;

use orlop_saga::audit::{Object, Operation};
use orlop_saga::canonical::Payload;
use orlop_saga::id::TenantId;
use orlop_saga::saga::{SagaEvent, SignalId};
use orlop_saga::tenant::AuditTag;
use orlop_store::log::LogHealth;

use super::Tell;
use super::run::{Deed, Run};
use crate::core::Core;
use crate::error::Unavailable;
use crate::signal::{SignalError, Signalled};

/// A signal that somebody sends.
pub(crate) struct Sending {
    /// On whose behalf.
    pub(crate) tenant: TenantId,
    pub(crate) name: Box<str>,
    pub(crate) id: SignalId,
    pub(crate) payload: Payload,
}

impl Run {
    /// Records a signal; whoever sent it is told once it is durable.
    pub(super) fn signal(
        &mut self,
        core: &Arc<Core>,
        sending: Sending,
        tell: Tell<Result<Signalled, SignalError>>,
    ) {
        match self.take_signal(core, sending) {
            // A repetition, too, is told only once the first one is durable.
            Ok(signalled) => self.then(Deed::Signalled(signalled, tell)),
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    }

    fn take_signal(
        &mut self,
        core: &Arc<Core>,
        sending: Sending,
    ) -> Result<Signalled, SignalError> {
        // To a tenant another one's saga is none.
        let owner = self.flight.id.tenant;
        if sending.tenant != owner {
            let tag = AuditTag::default();
            core.executor.audit.denied(
                sending.tenant,
                tag,
                Operation::Signal,
                Object::Saga(self.id),
                Some(owner),
            );
            return Err(SignalError::NotRunning);
        }
        if !self.state.hears_signals() {
            return Err(SignalError::NotRunning);
        }
        if let Some(known) = self.state.signal(sending.id) {
            let same = known.name == sending.name && known.payload == sending.payload;
            return if same {
                Ok(Signalled::Repeated)
            } else {
                Err(SignalError::Conflict { id: sending.id })
            };
        }
        self.has_room(core, sending.payload.len() as u64)?;
        let recorded = self.record(SagaEvent::Signalled {
            name: sending.name,
            id: sending.id,
            payload: sending.payload,
        });
        if recorded {
            Ok(Signalled::Recorded)
        } else {
            Err(SignalError::NotRunning)
        }
    }

    /// Whether another signal of so many bytes is within every bound, and on a disk with room:
    /// what is left of a full one is for what was begun.
    fn has_room(&self, core: &Core, bytes: u64) -> Result<(), SignalError> {
        let limits = &core.limits;
        let open = self.state.open_steps() as u64 + 2;
        let outcomes = open.saturating_mul(limits.output_bytes_max as u64);
        let bounds = [
            (
                "signals of one saga",
                self.state.signals().len() as u64 + 1,
                limits.saga_signals_max as u64,
            ),
            (
                "bytes of the signals of one saga",
                self.state.signal_bytes().saturating_add(bytes),
                limits.saga_signal_bytes_max as u64,
            ),
            (
                "bytes of one saga",
                self.state
                    .payload_bytes()
                    .saturating_add(bytes)
                    .saturating_add(outcomes),
                limits.saga_bytes_max as u64,
            ),
        ];
        for (what, count, count_max) in bounds {
            if count > count_max {
                return Err(SignalError::Full {
                    what,
                    count,
                    count_max,
                });
            }
        }
        match core.store.0.log_health() {
            LogHealth::Full => Err(Unavailable::DiskFull.into()),
            LogHealth::Poisoned => Err(Unavailable::Poisoned.into()),
            LogHealth::Closed => Err(Unavailable::Closed.into()),
            LogHealth::Healthy => Ok(()),
        }
    }
}
