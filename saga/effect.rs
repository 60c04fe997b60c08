//! Effects: what one submission under a key has durably done, and what may happen to it next.
//!
//! Pure: no I/O, no clock, no device. `store` writes the events, `engine` acts on the states.
//!
//! Invariants
//! - A state is a fold of its events; nothing else is persisted.
//! - `Launched` after a restart means *in doubt*: it may have run, its output is gone.
//! - A settled effect leaves the fold; a completion of an older fence cannot settle it.

use serde::{Deserialize, Serialize};

use crate::amount::BusyNanos;
use crate::canonical::Payload;
use crate::id::{Fence, Incarnation, SagaId, TenantId};
use crate::key::{Fingerprint, Key};
use crate::outcome::Outcome;
use crate::tenant::{AuditTag, Class};
use crate::time::WallMillis;
use crate::trace::TraceContext;

/// What an effect is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its key among that tenant's.
    pub key: Key,
}

/// A computation or saga definition, by name and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeRef {
    /// The registered name.
    pub name: Box<str>,
    /// The registered version.
    pub version: u32,
}

impl CodeRef {
    /// The code registered as `name` in `version`.
    pub fn new(name: &str, version: u32) -> Self {
        Self {
            name: name.into(),
            version,
        }
    }
}

impl std::fmt::Display for CodeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} v{}", self.name, self.version)
    }
}

/// What was asked and by whom: enough to run it again from nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What the key stands for.
    pub fingerprint: Fingerprint,
    /// The code to run.
    pub code: CodeRef,
    /// Whether it changes the outside world.
    pub external: bool,
    /// Its canonical input.
    pub input: Payload,
    /// Its urgency among the tenant's own work.
    pub class: Class,
    /// Who pays.
    pub audit: AuditTag,
    /// The caller's trace.
    pub trace: TraceContext,
    /// When it was accepted.
    pub at: WallMillis,
    /// When nobody wants it any more.
    pub deadline: Option<WallMillis>,
    /// How long the outcome is kept, from completion, in milliseconds.
    pub retention_ms: u64,
}

/// An outcome with what is needed to answer for it: the row that is kept until `expires_at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// What the key stands for.
    pub fingerprint: Fingerprint,
    /// The code that ran.
    pub code: CodeRef,
    /// The saga behind the outcome, if it was one.
    pub saga: Option<SagaId>,
    /// The attempt that settled it.
    pub fence: Fence,
    /// How it ended.
    pub outcome: Outcome,
    /// What it cost.
    pub cost: BusyNanos,
    /// Who pays.
    pub audit: AuditTag,
    /// When it ended.
    pub at: WallMillis,
    /// Until when it is replayed.
    pub expires_at: WallMillis,
}

/// Why a key became unknown again with no outcome kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Withdrawal {
    /// Every caller left, or one asked for it.
    Cancelled,
    /// Its deadline passed before it ran.
    Expired,
    /// Admission refused it after it had been accepted.
    Refused,
    /// Its attempts are used up by failures that had no effect.
    Exhausted,
}

/// What happened to an effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectEvent {
    /// It will run, whatever happens to its caller.
    Accepted(Box<Request>),
    /// An attempt is about to be started.
    Launched {
        /// Which one.
        fence: Fence,
        /// Whether it only asks the outside what became of the last one.
        asks: bool,
    },
    /// It has its outcome.
    Settled(Box<Settlement>),
    /// It has none and will not run.
    Withdrawn {
        /// Why.
        reason: Withdrawal,
    },
    /// It is in doubt and nobody could tell what happened.
    Stuck {
        /// What an operator should know.
        reason: String,
    },
    /// An operator had it tried again.
    Resumed,
}

/// An unfinished effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Accepted; no attempt was recorded.
    Accepted {
        /// What to run.
        request: Box<Request>,
    },
    /// An attempt was started, or was about to be.
    Launched {
        /// What to run.
        request: Box<Request>,
        /// The newest attempt.
        fence: Fence,
        /// How often it has been started since an operator last had it tried again; starts that a
        /// clean close interrupted do not count.
        runs: u32,
        /// Whether the newest attempt only asks the outside.
        asking: bool,
        /// How many questions were lost with the process since then.
        lost_asks: u32,
        /// How many runs were, likewise.
        lost_runs: u32,
    },
    /// In doubt, and waiting for an operator.
    Stuck {
        /// What to run.
        request: Box<Request>,
        /// The newest attempt.
        fence: Fence,
        /// What an operator should know.
        reason: String,
    },
}

/// What an event made of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is unfinished.
    Live(Effect),
    /// It has its outcome.
    Settled(Box<Settlement>),
    /// Its key is unknown again.
    Withdrawn,
}

/// An event that the state does not allow: the journal is not of this engine's making.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an effect that is {state} cannot be {event}")]
pub struct IllegalEvent {
    /// The state, as a word.
    pub state: &'static str,
    /// The event, as a word.
    pub event: &'static str,
}

impl Effect {
    /// What to run.
    pub fn request(&self) -> &Request {
        match self {
            Self::Accepted { request }
            | Self::Launched { request, .. }
            | Self::Stuck { request, .. } => request,
        }
    }

    /// The newest attempt, if one was recorded.
    pub fn fence(&self) -> Option<Fence> {
        match self {
            Self::Accepted { .. } => None,
            Self::Launched { fence, .. } | Self::Stuck { fence, .. } => Some(*fence),
        }
    }

    /// How often it has been started.
    pub fn runs(&self) -> u32 {
        match self {
            Self::Accepted { .. } | Self::Stuck { .. } => 0,
            Self::Launched { runs, .. } => *runs,
        }
    }

    /// How many runs and how many questions were lost with the process.
    pub fn lost(&self) -> (u32, u32) {
        match self {
            Self::Accepted { .. } | Self::Stuck { .. } => (0, 0),
            Self::Launched {
                lost_runs,
                lost_asks,
                ..
            } => (*lost_runs, *lost_asks),
        }
    }

    /// The process ended without a close: what was under way was lost with it.
    pub(crate) fn crashed(&mut self, incarnation: Incarnation) {
        match self {
            Self::Launched {
                fence,
                asking,
                lost_runs,
                lost_asks,
                ..
            } if fence.incarnation == incarnation => {
                let lost = if *asking { lost_asks } else { lost_runs };
                *lost = lost.saturating_add(1);
            }
            Self::Accepted { .. } | Self::Launched { .. } | Self::Stuck { .. } => {}
        }
    }

    /// The store was closed in good order: an attempt that this interrupted was no crash's doing.
    pub(crate) fn closed(&mut self, incarnation: Incarnation) {
        match self {
            // Only what this engine started can have been interrupted by its close.
            Self::Launched {
                runs,
                fence,
                asking: false,
                ..
            } if fence.incarnation == incarnation => {
                *runs = runs.saturating_sub(1);
            }
            Self::Accepted { .. } | Self::Launched { .. } | Self::Stuck { .. } => {}
        }
    }

    /// The next state of an effect; `None` is a key with nothing unfinished.
    ///
    /// # Errors
    /// [`IllegalEvent`]: the state does not allow the event.
    pub fn apply(state: Option<Self>, event: EffectEvent) -> Result<Next, IllegalEvent> {
        let words = IllegalEvent {
            state: word_of_state(state.as_ref()),
            event: word_of(&event),
        };
        let next = match (state, event) {
            (None, EffectEvent::Accepted(request)) => Some(Next::Live(Self::Accepted { request })),
            // An awaited `Pure` computation needs no intent: its outcome is its only record.
            (None | Some(Self::Accepted { .. }), EffectEvent::Settled(settlement)) => {
                Some(Next::Settled(settlement))
            }
            (Some(Self::Accepted { request }), EffectEvent::Launched { fence, asks }) => {
                let runs = u32::from(!asks);
                Some(Next::Live(Self::Launched {
                    request,
                    fence,
                    runs,
                    asking: asks,
                    lost_asks: 0,
                    lost_runs: 0,
                }))
            }
            (Some(Self::Stuck { request, fence, .. }), EffectEvent::Resumed) => {
                Some(Next::Live(Self::Launched {
                    request,
                    fence,
                    runs: 0,
                    asking: false,
                    lost_asks: 0,
                    lost_runs: 0,
                }))
            }
            // A relaunch needs a newer fence: a late completion must not settle the wrong run.
            (
                Some(Self::Launched {
                    request,
                    fence: old,
                    runs,
                    lost_asks,
                    lost_runs,
                    ..
                }),
                EffectEvent::Launched { fence, asks },
            ) => {
                let runs = runs.saturating_add(u32::from(!asks));
                (old < fence).then_some(Next::Live(Self::Launched {
                    request,
                    fence,
                    runs,
                    asking: asks,
                    lost_asks,
                    lost_runs,
                }))
            }
            (Some(Self::Launched { fence, .. }), EffectEvent::Settled(settlement)) => {
                (fence == settlement.fence).then_some(Next::Settled(settlement))
            }
            (
                Some(Self::Accepted { .. } | Self::Launched { .. } | Self::Stuck { .. }),
                EffectEvent::Withdrawn { .. },
            ) => Some(Next::Withdrawn),
            (Some(Self::Launched { request, fence, .. }), EffectEvent::Stuck { reason }) => {
                Some(Next::Live(Self::Stuck {
                    request,
                    fence,
                    reason,
                }))
            }
            (
                None,
                EffectEvent::Launched { .. }
                | EffectEvent::Withdrawn { .. }
                | EffectEvent::Stuck { .. }
                | EffectEvent::Resumed,
            )
            | (
                Some(Self::Accepted { .. }),
                EffectEvent::Accepted(_) | EffectEvent::Stuck { .. } | EffectEvent::Resumed,
            )
            | (Some(Self::Launched { .. }), EffectEvent::Accepted(_) | EffectEvent::Resumed)
            | (
                Some(Self::Stuck { .. }),
                EffectEvent::Accepted(_)
                | EffectEvent::Launched { .. }
                | EffectEvent::Settled(_)
                | EffectEvent::Stuck { .. },
            ) => None,
        };
        next.ok_or(words)
    }
}

fn word_of_state(state: Option<&Effect>) -> &'static str {
    match state {
        None => "unknown",
        Some(Effect::Accepted { .. }) => "accepted",
        Some(Effect::Launched { .. }) => "launched",
        Some(Effect::Stuck { .. }) => "stuck",
    }
}

fn word_of(event: &EffectEvent) -> &'static str {
    match event {
        EffectEvent::Accepted(_) => "accepted",
        EffectEvent::Launched { .. } => "launched",
        EffectEvent::Settled(_) => "settled",
        EffectEvent::Withdrawn { .. } => "withdrawn",
        EffectEvent::Stuck { .. } => "stuck",
        EffectEvent::Resumed => "resumed",
    }
}
