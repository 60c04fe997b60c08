//! Version 2, frozen: what of it differs from today.
//!
//! Effects, sagas and their events are still what they were: whoever changes one of them puts it
//! here as it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BodyError, Format, NotInFormat, push, take};
use crate::budget::Books;
use crate::effect::{Effect, EffectId};
use crate::event::Event;
use crate::id::{Incarnation, Lsn, SagaId, TenantId};
use crate::live;
use crate::saga::SagaState;
use crate::tenancy::Tenancies;
use crate::tenant::TenantLabel;

/// Whether version 2 can say an event.
///
/// # Errors
/// [`NotInFormat`]: what it lacks.
pub fn can_say(event: &Event) -> Result<(), NotInFormat> {
    match event {
        Event::Tenant(event) if event.is_of_format_3() => {
            Err(NotInFormat::since_v3("to manage tenants", Format::V2))
        }
        Event::Opened { .. }
        | Event::Tenant(_)
        | Event::Effect { .. }
        | Event::Saga { .. }
        | Event::Closed { .. }
        | Event::Recovered => Ok(()),
        Event::Budget(_) => Err(NotInFormat::since_v3("a budget", Format::V2)),
    }
}

pub(super) fn push_event(event: &Event, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
    can_say(event)?;
    push(event, bytes)
}

#[derive(Serialize, Deserialize)]
struct Live {
    lsn: Lsn,
    incarnation: Incarnation,
    standing: live::Standing,
    outside_ahead: bool,
    saga_last: SagaId,
    tenants: BTreeMap<TenantId, TenantLabel>,
    effects: BTreeMap<EffectId, Effect>,
    sagas: BTreeMap<SagaId, SagaState>,
}

pub(super) fn push_live(live: &live::Live, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
    let live::Live {
        lsn,
        incarnation,
        standing,
        outside_ahead,
        saga_last,
        tenants,
        effects,
        sagas,
        // Decides nothing without budgets, and those this version cannot have.
        books: _,
        // Those this version cannot have decided.
        tenancies: _,
        // Taken for whoever is named.
        played: _,
    } = live;
    let head = (lsn, incarnation, standing, outside_ahead, saga_last);
    push(&(head, (tenants, effects, sagas)), bytes)
}

pub(super) fn take_live(bytes: &[u8]) -> Result<(live::Live, &[u8]), BodyError> {
    let (frozen, rest) = take::<Live>(bytes)?;
    let named = frozen.sagas.iter().find(|(_, it)| it.probation().is_some());
    let named = named.map(|(id, _)| *id);
    let live = live::Live {
        lsn: frozen.lsn,
        incarnation: frozen.incarnation,
        standing: frozen.standing,
        outside_ahead: frozen.outside_ahead,
        saga_last: frozen.saga_last,
        tenants: frozen.tenants,
        effects: frozen.effects,
        sagas: frozen.sagas,
        books: Books::default(),
        tenancies: Tenancies::default(),
        played: named,
    };
    Ok((live, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::BusyNanos;
    use crate::budget::BudgetEvent;
    use crate::compat::{decode, encode};
    use crate::tenant::{AuditTag, TenantEvent};

    #[test]
    fn a_fold_goes_through_version_2_without_its_books_and_nothing_else_is_lost() {
        let mut live = live::Live::default();
        let registered = TenantEvent::Registered {
            tenant: TenantId::new(4, 2),
            label: TenantLabel::new("acme").unwrap(),
        };
        live.apply(Lsn::new(1), &Event::Tenant(registered)).unwrap();
        live.standing = live::Standing::Probation;
        live.outside_ahead = true;
        live.saga_last = SagaId::new(9);
        let granted = Event::Budget(BudgetEvent::Granted {
            audit: AuditTag::default(),
            limit: BusyNanos::new(5),
        });
        live.apply(Lsn::new(2), &granted).unwrap();
        let bytes = encode(Format::V2, &live).unwrap();
        let found: live::Live = decode(&bytes).unwrap();
        assert_eq!(found.books(), &Books::default());
        live.books = Books::default();
        assert_eq!(found, live);
    }

    #[test]
    fn version_2_refuses_a_budget_by_name() {
        let granted = Event::Budget(BudgetEvent::Granted {
            audit: AuditTag::default(),
            limit: BusyNanos::new(5),
        });
        let refused = NotInFormat::since_v3("a budget", Format::V2);
        assert_eq!(
            encode(Format::V2, &granted),
            Err(BodyError::NotInFormat(refused))
        );
        assert_eq!(decode(&encode(Format::V3, &granted).unwrap()), Ok(granted));
    }
}
