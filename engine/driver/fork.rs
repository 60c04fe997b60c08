//! Forks: how a saga begins, and how one takes over what another one did.
//!
//! Invariants
//! - A fork is started and given what it inherits in one batch. The original that is abandoned for
//!   it is in that batch too, which is the original's: it stands behind all else of it.
//! - Nothing of a fork runs before that batch is durable.

use std::sync::{Arc, OnceLock};

use orlop_saga::effect::Withdrawal;
use orlop_saga::event::Event;
use orlop_saga::id::SagaId;
use orlop_saga::outcome::clip;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{Heir, Inheritance, SagaEvent, SagaStart, SagaState};
use orlop_store::log::AppendError;

use super::Player;
use super::message::Message;
use super::operate::Fault;
use super::run::{Deed, Run};
use super::words::bytes_about;
use crate::core::Core;
use crate::error::SubmitError;
use crate::flight::Flight;

/// How a saga begins.
#[derive(Clone)]
pub(crate) struct Birth {
    pub(crate) start: SagaStart,
    pub(crate) heritage: Heritage,
}

/// What a saga begins with.
#[derive(Clone)]
pub(crate) enum Heritage {
    /// Nothing: it is no fork.
    Nothing,
    /// The outcomes of another saga, as they were when the fork was asked for.
    Outcomes(Box<Inheritance>),
    /// What another saga has done by now, to be undone by the fork; the other one is abandoned.
    Everything(Will),
    /// What cannot be had any more: the fork is joined if it is there, and not started.
    Gone,
}

/// Which saga is abandoned for its fork.
#[derive(Clone)]
pub(crate) struct Will {
    pub(crate) from: SagaId,
    pub(crate) at: StepPath,
    pub(crate) note: String,
    /// Why it was not, if it was not.
    pub(crate) fault: Arc<OnceLock<Fault>>,
}

/// A fork that is in the journal and not yet in memory.
pub(crate) struct Newborn {
    id: SagaId,
    flight: Arc<Flight>,
    state: SagaState,
}

impl From<SagaStart> for Birth {
    fn from(start: SagaStart) -> Self {
        Self {
            start,
            heritage: Heritage::Nothing,
        }
    }
}

/// Whether a fork leaves room within a saga's bounds, and its start fits into one batch.
pub(crate) fn check_size(
    core: &Core,
    start: &SagaStart,
    inherits: &Inheritance,
) -> Result<(), Fault> {
    let started = SagaEvent::Started(Box::new(start.clone()));
    let forked = SagaEvent::Forked(Box::new(inherits.clone()));
    let bytes: usize = [started, forked]
        .map(|event| {
            let id = inherits.from;
            bytes_about(&Event::Saga { id, event })
        })
        .iter()
        .sum();
    let payload = inherits.payload_bytes() + start.input.len() as u64;
    // The original's end is beside them.
    let fits = bytes.saturating_add(8 << 10) <= core.batch_bytes
        && payload <= core.limits.saga_bytes_max as u64;
    fits.then_some(()).ok_or(Fault::TooLarge)
}

impl Player {
    /// A saga is to be started; answers which one moved.
    pub(super) fn born(
        &mut self,
        core: &Arc<Core>,
        flight: Arc<Flight>,
        birth: Birth,
    ) -> Option<SagaId> {
        let inherits = match birth.heritage {
            Heritage::Nothing => None,
            Heritage::Outcomes(inherits) => Some(inherits),
            Heritage::Everything(will) => {
                self.succeed(core, &flight, birth.start, &will);
                return Some(will.from);
            }
            Heritage::Gone => {
                not_started(core, &flight);
                return None;
            }
        };
        let id = core.driver.next_saga();
        // In the map before anything of it can panic.
        self.current = Some(id);
        let start = Box::new(birth.start);
        let run = self
            .runs
            .entry(id)
            .or_insert_with(|| Run::start(id, flight, start));
        run.format = core.store.0.format();
        if let Some(inherits) = inherits {
            run.record(SagaEvent::Forked(inherits));
        }
        // Before whoever starts it is told, and may see the wall clock set.
        run.watch_deadline(core);
        run.advance(core);
        Some(id)
    }

    /// A saga is abandoned, and its fork started.
    fn succeed(&mut self, core: &Arc<Core>, flight: &Arc<Flight>, start: SagaStart, will: &Will) {
        self.current = Some(will.from);
        let Some(run) = self.runs.get_mut(&will.from) else {
            let _ = will.fault.set(Fault::Unknown);
            not_started(core, flight);
            return;
        };
        if let Err(fault) = run.bequeath(core, flight, start, will) {
            let _ = will.fault.set(fault);
            not_started(core, flight);
        }
        run.advance(core);
    }

    /// The start of a fork is durable: it goes on as one that was found at open does.
    pub(super) fn appear(&mut self, core: &Arc<Core>, newborn: Newborn) -> SagaId {
        let Newborn { id, flight, state } = newborn;
        self.current = Some(id);
        let run = self
            .runs
            .entry(id)
            .or_insert_with(|| Run::recover(id, flight, state));
        run.format = core.store.0.format();
        run.flight.saga_started(id);
        run.changed(core, run.state.status());
        run.watch_deadline(core);
        run.advance(core);
        id
    }
}

impl Run {
    /// Is abandoned, and leaves what it has done to a fork.
    fn bequeath(
        &mut self,
        core: &Core,
        flight: &Arc<Flight>,
        start: SagaStart,
        will: &Will,
    ) -> Result<(), Fault> {
        if self.state.ended() {
            return Err(Fault::Ended(self.state.status_kind()));
        }
        let inherits = self.state.fork(self.id, &will.at, true);
        let inherits = Box::new(inherits.map_err(Fault::NoFork)?);
        check_size(core, &start, &inherits)?;
        let before = self.state.find(&will.at).ok_or(Fault::NoSuchStep)?;
        let start = Box::new(start);
        let mut state = SagaState::new(start.clone());
        let forked = SagaEvent::Forked(inherits);
        state
            .apply(&forked)
            .map_err(|error| Fault::NotRecorded(error.to_string()))?;
        let id = core.driver.next_saga();
        let heir = Heir { saga: id, before };
        self.give_up(core, clip(will.note.clone()), Some(heir))?;
        for event in [SagaEvent::Started(start), forked] {
            self.attach(Event::Saga { id, event });
        }
        let flight = Arc::clone(flight);
        self.then(Deed::Born(Box::new(Newborn { id, flight, state })));
        self.finish();
        Ok(())
    }
}

impl Newborn {
    /// The engine closes: it is started, and goes on at the next open.
    pub(super) fn put_off(&self) {
        self.flight.saga_started(self.id);
    }

    /// The journal failed while it was written.
    pub(super) fn unresolved(&self, core: &Arc<Core>, error: &AppendError) {
        core.driver.ended();
        self.flight.unresolved(core, error);
    }

    /// It is durable.
    pub(super) fn announce(self: Box<Self>, core: &Core) {
        core.driver.tell(Message::Born(self));
    }
}

/// Nothing is recorded of it, and its key is unknown again.
fn not_started(core: &Arc<Core>, flight: &Arc<Flight>) {
    core.driver.ended();
    flight.saga_refused(core, SubmitError::Withdrawn(Withdrawal::Refused));
}
