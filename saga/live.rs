//! The fold of everything unfinished.
//!
//! Recovery folds the journal from the last checkpoint with [`Live::apply`]; the projector folds
//! it while the engine runs and writes it out as the next checkpoint. What is finished leaves the
//! fold as a [`Finished`] and belongs to the tables from then on.

mod backup;
mod standing;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::standing::Standing;
use crate::budget::{Books, Entry};
use crate::effect::{Effect, EffectEvent, EffectId, IllegalEvent, Next, Settlement};
use crate::event::Event;
use crate::id::{Incarnation, Lsn, SagaId, TenantId};
use crate::saga::{SagaEvent, SagaState};
use crate::tenancy::Tenancies;
use crate::tenant::{AuditTag, TenantEvent, TenantLabel};

/// Everything unfinished, as the journal up to [`Live::lsn`] left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub(crate) lsn: Lsn,
    pub(crate) incarnation: Incarnation,
    pub(crate) standing: Standing,
    pub(crate) outside_ahead: bool,
    pub(crate) saga_last: SagaId,
    pub(crate) tenants: BTreeMap<TenantId, TenantLabel>,
    pub(crate) effects: BTreeMap<EffectId, Effect>,
    pub(crate) sagas: BTreeMap<SagaId, SagaState>,
    pub(crate) books: Books,
    pub(crate) tenancies: Tenancies,
    /// The saga whose turn to be played alone came last in this opening.
    pub(crate) played: Option<SagaId>,
}

/// What left the fold: a key has its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whose key.
    pub id: EffectId,
    /// The outcome and what answers for it.
    pub settlement: Box<Settlement>,
    /// The whole history, if it was a saga.
    pub saga: Option<Box<SagaState>>,
}

/// Why a journal does not fold. Nothing of the event was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// Not the next record.
    #[error("record {got} follows record {last}")]
    Gap {
        /// The last record that was applied.
        last: Lsn,
        /// The record that came.
        got: Lsn,
    },
    /// An event that the state of an effect does not allow.
    #[error("record {lsn}, effect of tenant {}: {source}", id.tenant)]
    Effect {
        /// Where.
        lsn: Lsn,
        /// Whose.
        id: EffectId,
        /// What.
        source: IllegalEvent,
    },
    /// An event that the state of a saga does not allow.
    #[error("record {lsn}, saga {id}: {source}")]
    Saga {
        /// Where.
        lsn: Lsn,
        /// Which.
        id: SagaId,
        /// What.
        source: IllegalEvent,
    },
    /// An incarnation or a tenant that is not newer than what is known.
    #[error("record {lsn}: {what} is not new")]
    NotNew {
        /// Where.
        lsn: Lsn,
        /// What was repeated.
        what: &'static str,
    },
}

impl Live {
    /// The last record applied.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The incarnation of the last opening.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// How the last opening stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The largest saga id ever given.
    pub fn saga_last(&self) -> SagaId {
        self.saga_last
    }

    /// All tenants.
    pub fn tenants(&self) -> &BTreeMap<TenantId, TenantLabel> {
        &self.tenants
    }

    /// The unfinished effects.
    pub fn effects(&self) -> &BTreeMap<EffectId, Effect> {
        &self.effects
    }

    /// The unfinished sagas.
    pub fn sagas(&self) -> &BTreeMap<SagaId, SagaState> {
        &self.sagas
    }

    /// What was decided about the tenants.
    pub fn tenancies(&self) -> &Tenancies {
        &self.tenancies
    }

    /// Budgets and the ledger.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Applies the next record; says what it finished.
    ///
    /// # Errors
    /// [`FoldError`]: the record is not the next one, or the state does not allow it.
    pub fn apply(&mut self, lsn: Lsn, event: &Event) -> Result<Option<Finished>, FoldError> {
        if lsn != self.lsn.next() {
            return Err(FoldError::Gap {
                last: self.lsn,
                got: lsn,
            });
        }
        let paid = self.payer(event);
        let finished = match event {
            Event::Opened { incarnation, .. } => {
                if *incarnation <= self.incarnation {
                    return Err(FoldError::NotNew {
                        lsn,
                        what: "the incarnation",
                    });
                }
                if self.standing != Standing::Closed {
                    let before = self.incarnation;
                    for (id, saga) in &mut self.sagas {
                        // Whose turn had not come killed nobody.
                        saga.crashed(before, self.played == Some(*id));
                    }
                    let effects = self.effects.values_mut();
                    effects.for_each(|effect| effect.crashed(before));
                }
                // Without a saga there is none to be suspected.
                self.standing = if self.sagas.is_empty() {
                    Standing::Open
                } else {
                    self.standing.opened()
                };
                self.incarnation = *incarnation;
                self.played = None;
                None
            }
            Event::Tenant(event) => {
                self.tenant(event)
                    .map_err(|what| FoldError::NotNew { lsn, what })?;
                None
            }
            Event::Effect { id, event } => self.effect(lsn, *id, event)?,
            Event::Saga { id, event } => self.saga(lsn, *id, event)?,
            Event::Closed { .. } => {
                let now = self.incarnation;
                self.standing = Standing::Closed;
                self.sagas.values_mut().for_each(|saga| saga.closed(now));
                self.effects
                    .values_mut()
                    .for_each(|effect| effect.closed(now));
                None
            }
            Event::Recovered => {
                self.standing = self.standing.recovered();
                None
            }
            Event::Budget(event) => {
                let tenants = &self.tenants;
                self.books
                    .apply(event, |tenant| tenants.get(&tenant).cloned());
                None
            }
        };
        self.book(event, paid);
        self.lsn = lsn;
        Ok(finished)
    }

    /// Who ran the work whose cost rides in `event`, and who pays.
    fn payer(&self, event: &Event) -> Option<(TenantId, AuditTag)> {
        match event {
            Event::Effect {
                id,
                event: EffectEvent::Settled(settlement),
            } => Some((id.tenant, settlement.audit)),
            Event::Saga {
                id,
                event: SagaEvent::Settled { .. } | SagaEvent::Undone { .. },
            } => {
                let start = self.sagas.get(id)?.start();
                Some((start.id.tenant, start.audit))
            }
            Event::Opened { .. }
            | Event::Tenant(_)
            | Event::Effect { .. }
            | Event::Saga { .. }
            | Event::Closed { .. }
            | Event::Recovered
            | Event::Budget(_) => None,
        }
    }

    /// Books what rode in `event`, which was applied.
    fn book(&mut self, event: &Event, paid: Option<(TenantId, AuditTag)>) {
        let (cost, entry) = match event {
            Event::Effect {
                event: EffectEvent::Settled(settlement),
                ..
            } => (settlement.cost, Entry::Outcome),
            Event::Saga {
                event: SagaEvent::Settled { cost, .. },
                ..
            } => (*cost, Entry::Outcome),
            Event::Saga {
                event: SagaEvent::Undone { cost, .. },
                ..
            } => (*cost, Entry::Undo),
            Event::Opened { .. }
            | Event::Tenant(_)
            | Event::Effect { .. }
            | Event::Saga { .. }
            | Event::Closed { .. }
            | Event::Recovered
            | Event::Budget(_) => return,
        };
        if let Some((tenant, audit)) = paid {
            let tenants = &self.tenants;
            self.books.book(tenant, audit, cost, entry, |tenant| {
                tenants.get(&tenant).cloned()
            });
        }
    }

    fn tenant(&mut self, event: &TenantEvent) -> Result<(), &'static str> {
        let tenant = event.tenant();
        if let TenantEvent::Registered { label, .. } = event {
            if self.tenants.contains_key(&tenant) || self.tenancies.has_ended(tenant) {
                return Err("the tenant");
            }
            self.end_earlier(tenant)?;
            self.tenants.insert(tenant, label.clone());
            return Ok(());
        }
        if !self.tenants.contains_key(&tenant) {
            return Err("what was decided about a tenant");
        }
        self.tenancies.apply(event);
        if let TenantEvent::Unregistered { .. } = event {
            self.tenants.remove(&tenant);
        }
        Ok(())
    }

    /// Ends the life that had the slot before `tenant`: nobody is given a slot before that was
    /// decided, but the record of it may have found no room in the journal.
    fn end_earlier(&mut self, tenant: TenantId) -> Result<(), &'static str> {
        let slot = tenant.slot();
        let lives = TenantId::new(slot, 0)..=TenantId::new(slot, u32::MAX);
        let Some(holder) = self.tenants.range(lives).map(|(id, _)| *id).next() else {
            return Ok(());
        };
        if holder > tenant {
            return Err("the tenant");
        }
        self.tenants.remove(&holder);
        self.tenancies
            .apply(&TenantEvent::Unregistered { tenant: holder });
        Ok(())
    }

    fn effect(
        &mut self,
        lsn: Lsn,
        id: EffectId,
        event: &EffectEvent,
    ) -> Result<Option<Finished>, FoldError> {
        let state = self.effects.get(&id).cloned();
        let next = Effect::apply(state, event.clone()).map_err(|source| FoldError::Effect {
            lsn,
            id,
            source,
        })?;
        Ok(match next {
            Next::Live(effect) => {
                self.effects.insert(id, effect);
                None
            }
            Next::Settled(settlement) => {
                self.effects.remove(&id);
                Some(Finished {
                    id,
                    settlement,
                    saga: None,
                })
            }
            Next::Withdrawn => {
                self.effects.remove(&id);
                None
            }
        })
    }

    fn saga(
        &mut self,
        lsn: Lsn,
        id: SagaId,
        event: &SagaEvent,
    ) -> Result<Option<Finished>, FoldError> {
        if let SagaEvent::Started(start) = event {
            // Ids are given in order, but the log takes turns between tenants: a later one may be
            // recorded first.
            if self.sagas.contains_key(&id) {
                return Err(FoldError::NotNew {
                    lsn,
                    what: "the saga",
                });
            }
            self.saga_last = self.saga_last.max(id);
            self.sagas.insert(id, SagaState::new(start.clone()));
            return Ok(None);
        }
        let unknown = IllegalEvent {
            state: "unknown",
            event: "moved",
        };
        let state = self.sagas.get_mut(&id).ok_or(FoldError::Saga {
            lsn,
            id,
            source: unknown,
        })?;
        state
            .apply(event)
            .map_err(|source| FoldError::Saga { lsn, id, source })?;
        if event.begins_turn() {
            self.played = Some(id);
        }
        let Some(settlement) = state.settlement(id) else {
            return Ok(None);
        };
        let effect = state.start().id;
        let saga = self.sagas.remove(&id).map(Box::new);
        Ok(Some(Finished {
            id: effect,
            settlement: Box::new(settlement),
            saga,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Payload;
    use crate::effect::CodeRef;
    use crate::key::{Fingerprint, Key};
    use crate::saga::SagaStart;
    use crate::tenant::{AuditTag, Class};
    use crate::time::WallMillis;
    use crate::trace::TraceContext;

    fn started(saga: u64, slot: u32) -> Event {
        let input = Payload::default();
        Event::Saga {
            id: SagaId::new(saga),
            event: SagaEvent::Started(Box::new(SagaStart {
                id: EffectId {
                    tenant: TenantId::new(slot, 1),
                    key: Key::named("k"),
                },
                fingerprint: Fingerprint::of("saga", 1, &input),
                code: CodeRef::new("saga", 1),
                input,
                class: Class::Standard,
                audit: AuditTag::default(),
                trace: TraceContext::default(),
                at: WallMillis::new(0),
                retention_ms: 10,
                paused: false,
                deadline: None,
                parent: None,
            })),
        }
    }

    #[test]
    fn sagas_of_several_tenants_are_recorded_in_any_order_and_none_twice() {
        let mut live = Live::default();
        live.apply(Lsn::new(1), &started(2, 1)).unwrap();
        live.apply(Lsn::new(2), &started(1, 2)).unwrap();
        assert_eq!(live.saga_last(), SagaId::new(2));
        assert_eq!(live.sagas().len(), 2);
        let twice = live.apply(Lsn::new(3), &started(1, 2));
        assert_eq!(
            twice,
            Err(FoldError::NotNew {
                lsn: Lsn::new(3),
                what: "the saga"
            })
        );
    }
}
