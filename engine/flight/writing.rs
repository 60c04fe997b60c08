//! Writing: what an intent costs of its tenant's share of the journal.
//!
//! Only a tenant whose share is bounded is asked: for others nothing is measured. What is recorded
//! later about accepted work, its outcome and its undo among that, is never in the way.

use std::sync::Arc;

use orlop_admission::{Refusal, TenantAccount};
use orlop_saga::amount::ByteCount;
use orlop_saga::effect::EffectEvent;
use orlop_saga::event::Event;
use orlop_saga::id::SagaId;
use orlop_saga::record;
use orlop_saga::saga::{SagaEvent, SagaStart};

use super::{Durability, Flight, State};
use crate::core::Core;

impl Core {
    /// The bytes of a record, if its tenant's share of the journal is bounded; otherwise none.
    fn share_of(&self, account: &TenantAccount, event: impl FnOnce() -> Event) -> ByteCount {
        if account.journal_burst().is_none() {
            return ByteCount::default();
        }
        let record = record::encode(self.store.0.format(), &event());
        // What has no bytes is refused when it is written.
        record.map_or(ByteCount::default(), |record| ByteCount::of(&record))
    }

    /// Counts the start of a saga.
    pub(super) fn write_start(
        &self,
        account: &TenantAccount,
        start: &SagaStart,
    ) -> Result<(), Refusal> {
        let bytes = self.share_of(account, || Event::Saga {
            id: SagaId::default(),
            event: SagaEvent::Started(Box::new(start.clone())),
        });
        let written = account.write(bytes, self.clock.monotonic());
        written.inspect_err(|refusal| self.executor.audit.refused(account.id(), refusal))
    }
}

impl Flight {
    /// The bytes of the intent, if there is to be one and they were not counted before.
    pub(super) fn intent_bytes(&self, core: &Core, state: &mut State) -> ByteCount {
        let accepted = state.durability == Durability::Accepted;
        let Some(plain) = state.plain() else {
            return ByteCount::default();
        };
        if plain.counted || !(accepted || plain.records) {
            return ByteCount::default();
        }
        let id = self.id;
        let request = &plain.request;
        core.share_of(&self.account, || Event::Effect {
            id,
            event: EffectEvent::Accepted(Box::new(request.clone())),
        })
    }

    /// The request for a permit was taken, with what it writes.
    pub(super) fn count_written(&self) {
        let mut state = self.state.lock();
        let intent = state.durability == Durability::Accepted;
        if let Some(plain) = state.plain() {
            plain.counted |= intent || plain.records;
        }
    }

    /// Counts the intent of work that asked for its permit when nobody wanted one.
    pub(super) fn write_later(&self, core: &Arc<Core>, state: &mut State) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut state.durability, Durability::Accepted);
        let bytes = self.intent_bytes(core, state);
        state.durability = before;
        self.account
            .write(bytes, core.clock.monotonic())
            .inspect_err(|refusal| core.executor.audit.refused(self.id.tenant, refusal))?;
        if let Some(plain) = state.plain() {
            plain.counted = true;
        }
        Ok(())
    }
}
