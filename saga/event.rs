//! Events: everything that is ever written to the journal.

use serde::{Deserialize, Serialize};

use crate::budget::BudgetEvent;
use crate::effect::{EffectEvent, EffectId};
use crate::id::{Incarnation, SagaId};
use crate::saga::SagaEvent;
use crate::tenant::TenantEvent;
use crate::time::WallMillis;

/// One record of the journal.
///
/// New variants are added at the end: the position of a variant is part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The store was opened for writing. Durable before anything is launched.
    Opened {
        /// The incarnation from here on.
        incarnation: Incarnation,
        /// When.
        at: WallMillis,
    },
    /// A tenant changed.
    Tenant(TenantEvent),
    /// A plain effect changed.
    Effect {
        /// Which one.
        id: EffectId,
        /// How.
        event: EffectEvent,
    },
    /// A saga changed.
    Saga {
        /// Which one.
        id: SagaId,
        /// How.
        event: SagaEvent,
    },
    /// The engine was closed in good order: what it interrupted was no crash's doing.
    Closed {
        /// When.
        at: WallMillis,
    },
    /// What an engine that was not closed left behind was played up to where the journal has it,
    /// and nothing of it ended the process.
    Recovered,
    /// A budget changed, or something was spent whose cost is in no outcome.
    Budget(BudgetEvent),
}
