//! Flights: what is in flight under one key, and everybody who waits for it.
//!
//! Invariants
//! - The fingerprint is compared before anything else of a flight is.
//! - Nobody is told an outcome that is not durable.
//! - Work is withdrawn only when its last caller leaves, and never once it was accepted.
//! - A flight leaves the key table only when its key is unknown again, or when its outcome can be
//!   found in the tables.
//! - Records of one flight are appended under its lock, so that their order in the journal is the
//!   order of its states; admission, wakers and the tables are called without it.

mod again;
mod enter;
mod look;
mod paid;
mod progress;
mod record;
mod room;
mod run;
mod wait;
mod writing;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use orlop_admission::{Permit, Refusal, TenantAccount};
use orlop_saga::effect::{Effect, EffectEvent, EffectId, Next, Request, Settlement, Withdrawal};
use orlop_saga::id::{Fence, Lsn, SagaId};
use orlop_saga::key::Fingerprint;
use orlop_saga::time::Monotonic;

pub(crate) use self::enter::{Entrance, Seat, Want, Work};
use self::progress::{Counted, Locked};
pub use self::run::Cancelled;
use self::wait::Waiters;
pub(crate) use self::wait::{Arrival, Mailbox, Reply};
use crate::core::Core;
use crate::course::Course;
use crate::error::SubmitError;
use crate::executor::Ticket;
use crate::lease::Bounds;
use crate::registry::Code;

/// See the module.
pub(crate) struct Flight {
    pub(crate) core: Weak<Core>,
    pub(crate) id: EffectId,
    pub(crate) account: Arc<TenantAccount>,
    pub(crate) cancel: Arc<AtomicBool>,
    state: Counted,
}

struct State {
    phase: Phase,
    subject: Subject,
    durability: Durability,
    intent: Intent,
    waiters: Waiters,
    retention_ms: u64,
    /// What the journal says of a plain effect once everything appended is durable.
    journaled: Option<Effect>,
    /// Other requests that came while the tables were asked, in order of arrival.
    rivals: Vec<look::Rival>,
    /// Tells this admission from an earlier one.
    round: u64,
    /// The deadline that the present request for a permit has.
    asked: Option<Monotonic>,
    /// The record of the outcome, once it is durable.
    settled_at: Lsn,
    /// What is to be withdrawn once it is known whether the acceptance is durable.
    withdrawal: Option<(SubmitError, Withdrawal)>,
    /// What the last callers were told when the key became unknown again.
    farewell: Option<SubmitError>,
}

/// What the key stands for, and how it is brought about.
enum Subject {
    /// A plain effect.
    Effect(Box<Plain>),
    /// A saga, which its driver brings about.
    Saga {
        fingerprint: Fingerprint,
        id: SagaId,
    },
    /// A plain effect whose code is not registered.
    Orphan { fingerprint: Fingerprint },
    /// The outcome is known and is all that is left.
    Known(Arc<Settlement>),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and any may hold beside any other"
)]
struct Plain {
    request: Request,
    code: Arc<Code>,
    course: Course,
    fence: Fence,
    /// Whether the next attempt needs a fence of its own.
    fresh: bool,
    /// Whether attempts are recorded before they run: `External` work, whose effect must be found
    /// again, and work found at open, which may be what ended the process.
    records: bool,
    cancelled: bool,
    /// The caller holds a permit that this would wait for.
    nested: Option<Refusal>,
    /// Whether its intent is counted in its tenant's share of the journal.
    counted: bool,
    /// How often in a row it was refused.
    refusals: u32,
    /// What bounds each run.
    bounds: Bounds,
}

/// What a crash may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Durability {
    /// Everything: it lives in memory, in a namespace of its own.
    Ephemeral,
    /// The work, not its outcome once told.
    Outcome,
    /// Nothing once accepted.
    Accepted,
}

/// How far the intent of a plain effect is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    /// Not needed so far.
    None,
    /// Handed to the log.
    Appended,
    /// Durable.
    Durable,
}

enum Phase {
    /// The tables are asked whether the key has an outcome.
    Looking,
    /// It asks for a permit, or waits for one.
    Admitting(Option<Ticket>),
    /// The launch of an `External` attempt is on its way to the disk.
    Recording(Box<Permit>),
    /// An attempt runs.
    Running,
    /// Between attempts.
    BackingOff,
    /// A saga, brought about by its driver.
    Driven,
    /// The outcome is on its way to the disk.
    Settling,
    /// The outcome is durable.
    Settled,
    /// In doubt; waits for an operator.
    Stuck(Arc<str>),
    /// The journal failed under it: this engine can say no more of it than this.
    Broken(SubmitError),
    /// The key is unknown again; whoever still holds the flight must look again.
    Gone,
}

impl Phase {
    /// The place in the queue of one that asks for a permit.
    fn place(&mut self) -> Option<&mut Option<Ticket>> {
        match self {
            Self::Admitting(place) => Some(place),
            Self::Looking
            | Self::Recording(_)
            | Self::Running
            | Self::BackingOff
            | Self::Driven
            | Self::Settling
            | Self::Settled
            | Self::Stuck(_)
            | Self::Broken(_)
            | Self::Gone => None,
        }
    }
}

impl State {
    fn fingerprint(&self) -> Fingerprint {
        match &self.subject {
            Subject::Effect(plain) => plain.request.fingerprint,
            Subject::Saga { fingerprint, .. } | Subject::Orphan { fingerprint } => *fingerprint,
            Subject::Known(settlement) => settlement.fingerprint,
        }
    }

    fn plain(&mut self) -> Option<&mut Plain> {
        match &mut self.subject {
            Subject::Effect(plain) => Some(plain),
            Subject::Saga { .. } | Subject::Orphan { .. } | Subject::Known(_) => None,
        }
    }

    /// A joiner's class counts from now on, if it is more urgent; whether it is.
    fn urge(&mut self, work: &Work) -> bool {
        let Work::Effect { request, .. } = work else {
            return false;
        };
        match self.plain() {
            Some(plain) if request.class < plain.request.class => {
                plain.request.class = request.class;
                true
            }
            Some(_) | None => false,
        }
    }

    /// When the work is of no use any more: once nobody waits for it, if it was not accepted.
    fn deadline(&self) -> Option<Monotonic> {
        let promised = self.intent != Intent::None || self.durability == Durability::Accepted;
        if promised {
            return None;
        }
        self.waiters.deadline()
    }

    /// Whether the journal may be given this event; if so, it counts as given.
    ///
    /// An event that does not fold would stop the projector, and with it every tenant.
    fn allow(&mut self, event: &EffectEvent) -> bool {
        if self.journaled.is_none() && matches!(event, EffectEvent::Settled(_)) {
            return true;
        }
        match Effect::apply(self.journaled.clone(), event.clone()) {
            Ok(Next::Live(effect)) => self.journaled = Some(effect),
            Ok(Next::Settled(_) | Next::Withdrawn) => self.journaled = None,
            Err(error) => {
                tracing::error!(%error, "a flight asked for an illegal event");
                debug_assert!(false, "{error}");
                return false;
            }
        }
        true
    }
}
