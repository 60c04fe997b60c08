//! Looking a key up: what the tables say it stands for decides who joins, conflicts or runs.
//!
//! While they are asked nobody knows what the key stands for, so callers with different requests
//! sit side by side. The first of them that is still there when the key turns out to be unknown
//! has its request run; only then do the others conflict, with something that is in flight.

use std::sync::Arc;

use orlop_saga::effect::{Settlement, Withdrawal};
use orlop_saga::key::Fingerprint;
use orlop_store::tables::TablesError;

use super::enter::{Entrance, Want, Work};
use super::wait;
use super::{Arrival, Durability, Flight, Phase, State, Subject};
use crate::core::Core;
use crate::driver::Birth;
use crate::error::SubmitError;

/// A request that came while the tables were asked about another one of the same key.
pub(super) struct Rival {
    work: Work,
    durability: Durability,
}

impl Rival {
    fn fingerprint(&self) -> Fingerprint {
        self.work.fingerprint()
    }
}

impl State {
    /// Keeps a request that may yet be the one that runs.
    pub(super) fn rival(&mut self, entrance: &Entrance) {
        let fingerprint = entrance.work.fingerprint();
        let known = self.rivals.iter_mut();
        match known
            .into_iter()
            .find(|rival| rival.fingerprint() == fingerprint)
        {
            Some(rival) => rival.durability = rival.durability.max(entrance.durability),
            None => self.rivals.push(Rival {
                work: entrance.work.clone(),
                durability: entrance.durability,
            }),
        }
    }

    /// Puts the first request in place that somebody still waits for; a saga's start, if it is
    /// one that was not in place already.
    fn succeed(&mut self, core: &Core) -> Option<Box<Birth>> {
        let first = self.fingerprint();
        let rivals = std::mem::take(&mut self.rivals);
        if self.waiters.any(first) {
            return None;
        }
        let heir = rivals
            .into_iter()
            .find(|rival| self.waiters.any(rival.fingerprint()))?;
        self.subject = Subject::of(core, &heir.work);
        self.durability = heir.durability;
        self.retention_ms = heir.work.retention_ms();
        match heir.work {
            Work::Saga(birth) => Some(birth),
            Work::Effect { .. } => None,
        }
    }
}

impl Flight {
    /// The tables answered whether the key has an outcome.
    pub(super) fn looked_up(
        self: Arc<Self>,
        row: Result<Option<Settlement>, TablesError>,
        birth: Option<Box<Birth>>,
    ) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        match row {
            Ok(Some(settlement)) if settlement.expires_at > core.retention.now() => {
                self.found_settled(&core, settlement);
            }
            Ok(Some(_) | None) => self.found_unknown(&core, birth),
            Err(error) => {
                let key = self.id.key;
                let reason = Arc::from(error.to_string());
                let error = match error {
                    TablesError::Blob { .. } => SubmitError::Damaged { key, reason },
                    TablesError::Io { .. }
                    | TablesError::Damaged { .. }
                    | TablesError::Poisoned
                    | TablesError::TooLarge { .. }
                    | TablesError::Closed
                    | _ => SubmitError::Lookup { key, reason },
                };
                self.withdraw(&core, error, Withdrawal::Refused);
            }
        }
    }

    fn found_settled(self: &Arc<Self>, core: &Arc<Core>, settlement: Settlement) {
        let key = self.id.key;
        let settlement = Arc::new(settlement);
        let mut state = self.state.lock();
        state.phase = Phase::Gone;
        state.subject = Subject::Known(Arc::clone(&settlement));
        let letters = state.waiters.answer(|waiter| {
            Some(if waiter.fingerprint == settlement.fingerprint {
                let settlement = Arc::clone(&settlement);
                match waiter.want {
                    Want::Outcome => Ok(Arrival::Settled {
                        settlement,
                        replayed: true,
                    }),
                    Want::Acceptance => Ok(Arrival::Accepted),
                }
            } else {
                Err(SubmitError::Conflict { key })
            })
        });
        drop(state);
        // The row stays in the tables: the table of flights need not hold it too.
        self.remove(core);
        wait::send(letters);
    }

    fn found_unknown(self: &Arc<Self>, core: &Arc<Core>, birth: Option<Box<Birth>>) {
        let key = self.id.key;
        let mut state = self.state.lock();
        let heir = state.succeed(core);
        let birth = match &state.subject {
            Subject::Saga { .. } => heir.or(birth),
            Subject::Effect(_) | Subject::Orphan { .. } | Subject::Known(_) => None,
        };
        let fingerprint = state.fingerprint();
        state.phase = Phase::Admitting(None);
        let letters = state.waiters.answer(|waiter| {
            (waiter.fingerprint != fingerprint).then_some(Err(SubmitError::Conflict { key }))
        });
        let deserted = state.waiters.is_empty();
        if deserted {
            state.phase = Phase::Gone;
        }
        drop(state);
        wait::send(letters);
        if deserted {
            self.remove(core);
        } else if let Err(error) = core.check_retained(&self.account) {
            self.withdraw(core, error, Withdrawal::Refused);
        } else {
            self.begin(core, birth);
        }
    }
}
