//! Tenancies: what an operator decided about each tenant, and which lives have ended.
//!
//! Pure: no I/O, no clock, no device. `engine` records the events and acts on what they fold to.
//!
//! Invariants
//! - A slot has one life at a time, and each is of a later generation than all before it.
//! - Of several decisions the last one counts; a revocation is never taken back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::TenantId;
use crate::tenant::{AuditTag, TenantEvent};

/// What a tenant is bounded by, in words that a later version may add to.
///
/// New ones are added at the end: the position is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Term {
    /// Slots, queued and in flight together.
    Slots,
    /// Staging bytes.
    StagingBytes,
    /// The least time between two requests on average, in nanoseconds.
    RateIntervalNanos,
    /// How many requests may come at once after a pause.
    RateBurst,
    /// Its weight within its group.
    Weight,
    /// Its group.
    Group,
    /// The weight of its group.
    GroupWeight,
    /// Buffers on devices.
    Buffers,
    /// Bytes of device memory.
    DeviceBytes,
    /// Kernels of work queued and in flight.
    Kernels,
    /// Bytes that stay stored.
    RetainedBytes,
    /// Bytes a second that it may write to the journal.
    JournalBytesPerSecond,
    /// Bytes that it may write to the journal at once after a pause.
    JournalBurstBytes,
}

/// The amounts of the terms that were set; the others bound nothing, or are ordinary.
pub type Terms = BTreeMap<Term, u64>;

/// The names of the computations that a tenant may run; `None`: all of them.
pub type AllowList = Option<BTreeSet<Box<str>>>;

/// The engagements that a tenant may work for; `None`: all of them.
pub type Engagements = Option<BTreeSet<AuditTag>>;

/// Whether a tenant may submit, as an operator decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TenantStanding {
    /// It may.
    #[default]
    Active,
    /// Not until it is resumed.
    Suspended,
    /// Not until it is resumed; what was accepted is being finished.
    Draining,
    /// Likewise, and all of that had ended or was held.
    Drained,
    /// Never again.
    Revoked,
}

/// What an operator decided about one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenancy {
    pub(crate) standing: TenantStanding,
    pub(crate) terms: Terms,
    pub(crate) allowed: AllowList,
    pub(crate) engagements: Engagements,
}

impl Tenancy {
    /// Whether it may submit.
    pub const fn standing(&self) -> TenantStanding {
        self.standing
    }

    /// What bounds it.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What it may run.
    pub const fn allowed(&self) -> &AllowList {
        &self.allowed
    }

    /// Whom it may work for.
    pub const fn engagements(&self) -> &Engagements {
        &self.engagements
    }

    fn stand(&mut self, standing: TenantStanding) {
        match self.standing {
            TenantStanding::Active
            | TenantStanding::Suspended
            | TenantStanding::Draining
            | TenantStanding::Drained => self.standing = standing,
            TenantStanding::Revoked => {}
        }
    }
}

/// All that was decided, and the lives that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenancies {
    decided: BTreeMap<TenantId, Tenancy>,
    /// The last life of each slot that had one which ended.
    ended: BTreeMap<u32, u32>,
}

impl Tenancies {
    /// What was decided about a tenant.
    pub fn of(&self, tenant: TenantId) -> Tenancy {
        self.decided.get(&tenant).cloned().unwrap_or_default()
    }

    /// The lives that have ended: of each slot the last one.
    pub fn ended(&self) -> impl Iterator<Item = TenantId> {
        let ended = self.ended.iter();
        ended.map(|(slot, generation)| TenantId::new(*slot, *generation))
    }

    /// Whether this life has ended, or a later one of its slot.
    pub fn has_ended(&self, tenant: TenantId) -> bool {
        let last = self.ended.get(&tenant.slot());
        last.is_some_and(|last| tenant.generation() <= *last)
    }

    /// Applies what was decided about a tenant that is registered.
    pub(crate) fn apply(&mut self, event: &TenantEvent) {
        let tenant = event.tenant();
        if let TenantEvent::Unregistered { .. } = event {
            self.decided.remove(&tenant);
            self.ended.insert(tenant.slot(), tenant.generation());
            return;
        }
        let tenancy = self.decided.entry(tenant).or_default();
        match event {
            TenantEvent::Registered { .. } | TenantEvent::Unregistered { .. } => {}
            TenantEvent::QuotasChanged { terms, .. } => tenancy.terms.clone_from(terms),
            TenantEvent::AllowListChanged { allowed, .. } => tenancy.allowed.clone_from(allowed),
            TenantEvent::EngagementsChanged { engagements, .. } => {
                tenancy.engagements.clone_from(engagements);
            }
            TenantEvent::Suspended { .. } => tenancy.stand(TenantStanding::Suspended),
            TenantEvent::Resumed { .. } => tenancy.stand(TenantStanding::Active),
            TenantEvent::Draining { .. } => tenancy.stand(TenantStanding::Draining),
            TenantEvent::Drained { .. } => tenancy.stand(TenantStanding::Drained),
            TenantEvent::Revoked { .. } => tenancy.standing = TenantStanding::Revoked,
        }
        if *tenancy == Tenancy::default() {
            self.decided.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::live::{FoldError, Live};
    use crate::tenant::TenantLabel;

    const FIRST: TenantId = TenantId::new(3, 1);
    const SECOND: TenantId = TenantId::new(3, 2);

    fn registered(tenant: TenantId) -> TenantEvent {
        TenantEvent::Registered {
            tenant,
            label: TenantLabel::new("acme").unwrap(),
        }
    }

    fn told(live: &mut Live, event: TenantEvent) -> Result<(), FoldError> {
        live.apply(live.lsn().next(), &Event::Tenant(event))
            .map(drop)
    }

    #[test]
    fn the_last_decision_counts_and_a_revocation_is_never_taken_back() {
        let tenant = FIRST;
        let mut live = Live::default();
        told(&mut live, registered(tenant)).unwrap();
        for (event, standing) in [
            (TenantEvent::Suspended { tenant }, TenantStanding::Suspended),
            (TenantEvent::Draining { tenant }, TenantStanding::Draining),
            (TenantEvent::Drained { tenant }, TenantStanding::Drained),
            (TenantEvent::Resumed { tenant }, TenantStanding::Active),
            (TenantEvent::Revoked { tenant }, TenantStanding::Revoked),
            (TenantEvent::Resumed { tenant }, TenantStanding::Revoked),
        ] {
            told(&mut live, event).unwrap();
            assert_eq!(live.tenancies().of(tenant).standing(), standing);
        }
        let terms = Terms::from([(Term::Slots, 0)]);
        let changed = TenantEvent::QuotasChanged {
            tenant,
            terms: terms.clone(),
        };
        told(&mut live, changed).unwrap();
        assert_eq!(live.tenancies().of(tenant).terms(), &terms);
    }

    #[test]
    fn a_new_life_has_nothing_of_what_was_decided_about_the_old_one() {
        let mut live = Live::default();
        told(&mut live, registered(FIRST)).unwrap();
        told(&mut live, TenantEvent::Revoked { tenant: FIRST }).unwrap();
        told(&mut live, TenantEvent::Unregistered { tenant: FIRST }).unwrap();
        assert!(live.tenants().is_empty());
        assert_eq!(live.tenancies().ended().collect::<Vec<_>>(), [FIRST]);
        told(&mut live, registered(SECOND)).unwrap();
        assert_eq!(live.tenancies().of(SECOND), Tenancy::default());
        assert!(live.tenancies().has_ended(FIRST));
        assert!(!live.tenancies().has_ended(SECOND));
    }

    /// The end of the first one may have found no room in the journal.
    #[test]
    fn a_life_ends_at_the_latest_when_its_slot_has_a_later_one() {
        let mut live = Live::default();
        told(&mut live, registered(FIRST)).unwrap();
        told(&mut live, TenantEvent::Revoked { tenant: FIRST }).unwrap();
        told(&mut live, registered(TenantId::new(4, 1))).unwrap();
        told(&mut live, registered(SECOND)).unwrap();
        let slots: Vec<TenantId> = live.tenants().keys().copied().collect();
        assert_eq!(slots, [SECOND, TenantId::new(4, 1)]);
        assert_eq!(live.tenancies().ended().collect::<Vec<_>>(), [FIRST]);
        assert_eq!(live.tenancies().of(FIRST), Tenancy::default());
        let refused = told(&mut live, registered(FIRST));
        assert!(
            matches!(refused, Err(FoldError::NotNew { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn an_ended_life_is_neither_registered_again_nor_decided_about() {
        let mut live = Live::default();
        told(&mut live, registered(SECOND)).unwrap();
        told(&mut live, TenantEvent::Unregistered { tenant: SECOND }).unwrap();
        for event in [
            registered(FIRST),
            registered(SECOND),
            TenantEvent::Resumed { tenant: SECOND },
            TenantEvent::Unregistered { tenant: SECOND },
        ] {
            let refused = told(&mut live, event);
            assert!(
                matches!(refused, Err(FoldError::NotNew { .. })),
                "{refused:?}"
            );
        }
    }
}
