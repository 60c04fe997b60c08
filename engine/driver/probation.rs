//! Probation: finding the saga whose code ends the process when it is played.
//!
//! After two openings in a row whose recovery ended the process, what was found is not set going at
//! once. Saga by saga, a record first names the one whose turn it is; then its function is played
//! alone, up to where the journal has it, and nothing that it asks for is done. If the process
//! lives the record is taken back, and the next one has its turn. Only then does everything go on.
//! A saga that was named when the process died is charged with that, and has its turn first the
//! next time; charged too often, it is a suspect and stays paused.
//!
//! Invariants
//! - At most one saga is named, and nothing else that was found runs meanwhile.
//! - After a crash, a saga that was found is told only what is durable: what its function died of
//!   is there to be played again.

use std::collections::VecDeque;
use std::sync::Arc;

use orlop_saga::event::Event;
use orlop_saga::id::{SagaId, TenantId};
use orlop_saga::saga::{Hold, PauseReason, Phase, SagaEvent};
use orlop_store::log::Purpose;

use super::run::{Deed, Run};
use super::words::hold_text;
use super::{Message, Player};
use crate::core::Core;
use crate::flight::Flight;

/// How far a saga is with its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Turn {
    /// There are no turns, or all are over.
    #[default]
    Free,
    /// It waits for its own, or for all to be over.
    Waits,
    /// It has it.
    Has,
    /// It was played, and what it asks for is recorded once all were.
    Played,
}

impl Turn {
    /// Whether its function may move.
    pub(super) fn plays(self) -> bool {
        match self {
            Self::Free | Self::Played => true,
            Self::Waits | Self::Has => false,
        }
    }
}

/// What was found at open and has not gone on yet.
pub(super) struct Probation {
    /// Whose turns are to come.
    turns: VecDeque<SagaId>,
    /// Whose turn it is.
    now: Option<SagaId>,
    sagas: Vec<SagaId>,
    effects: Vec<Arc<Flight>>,
}

impl Player {
    /// Everything that was found is known, and is played one at a time.
    pub(super) fn probe(
        &mut self,
        core: &Arc<Core>,
        sagas: Vec<SagaId>,
        effects: Vec<Arc<Flight>>,
    ) {
        tracing::warn!(
            sagas = sagas.len(),
            "recovery crashed before: sagas are played one at a time first"
        );
        let mut turns = VecDeque::new();
        for id in &sagas {
            let Some(run) = self.runs.get_mut(id) else {
                continue;
            };
            run.turn = Turn::Waits;
            if run.state.probation().is_some() {
                // Nobody else may be named while one is that was named before.
                turns.push_front(*id);
            } else if run.would_play() {
                turns.push_back(*id);
            }
        }
        self.probation = Some(Probation {
            turns,
            now: None,
            sagas,
            effects,
        });
        self.next_turn(core);
    }

    /// Gives the next saga its turn once the last one's is over; after all of them everything goes
    /// on.
    pub(super) fn next_turn(&mut self, core: &Arc<Core>) {
        while self.closing.is_none()
            && let Some(probation) = &mut self.probation
        {
            let has = |id: SagaId| self.runs.get(&id).is_some_and(|run| run.turn == Turn::Has);
            if probation.now.is_some_and(has) {
                return;
            }
            probation.now = probation.turns.pop_front();
            if let Some(id) = probation.now {
                if let Some(run) = self.runs.get_mut(&id) {
                    self.current = Some(id);
                    run.take_turn(core);
                }
                continue;
            }
            let Some(over) = self.probation.take() else {
                return;
            };
            for id in over.sagas {
                core.driver.go_on(id);
            }
            for flight in over.effects {
                flight.resume(core);
            }
            core.driver.tell(Message::AllFound);
        }
    }

    /// Everything that was found has been played, and the process lives: the next crash is not one
    /// of this recovery.
    pub(super) fn all_found(core: &Arc<Core>) {
        // If it is not recorded, the next recovery is more careful than it has to be.
        core.append(
            TenantId::default(),
            Purpose::Settle,
            &[Event::Recovered],
            |core, _| core.driver.tell(Message::AllGo),
        );
    }

    /// What was asked for while everything was played is recorded, and happens.
    pub(super) fn all_go(&mut self, core: &Arc<Core>) {
        self.after_crash = false;
        let played = self.runs.iter().filter(|(_, run)| run.turn == Turn::Played);
        let played: Vec<SagaId> = played.map(|(id, _)| *id).collect();
        for saga in played {
            self.current = Some(saga);
            if let Some(run) = self.runs.get_mut(&saga) {
                run.turn = Turn::Free;
                run.advance(core);
            }
            self.moved(core, saga);
        }
    }

    /// A saga that was found at open goes on.
    pub(super) fn go_on(&mut self, core: &Arc<Core>, saga: SagaId) {
        let Some(run) = self.runs.get(&saga) else {
            return;
        };
        let left = run
            .parent()
            .filter(|parent| !self.runs.contains_key(parent));
        if let Some(run) = self.runs.get_mut(&saga) {
            if left.is_some() {
                // Its parent's end was the last that was durable of both.
                run.release();
            }
            run.turn = if self.after_crash {
                Turn::Played
            } else {
                Turn::Free
            };
            run.recovered(core);
        }
    }
}

impl Run {
    /// Goes on after a restart.
    pub(super) fn recovered(&mut self, core: &Arc<Core>) {
        self.watch_deadline(core);
        match self.state.hold() {
            // A backup was taken while it was played alone.
            Some(Hold::Paused(PauseReason::Probation { .. })) => {
                self.record(SagaEvent::Acquitted);
                self.advance(core);
            }
            // Perhaps this engine has what was missing. If not, it is held again at once.
            Some(Hold::Paused(PauseReason::Definition(_))) => {
                self.resume(core);
                self.advance(core);
            }
            // It has to unwind, and unwinding needs nothing of what holds it.
            Some(_) if self.state.doom().is_some() => {
                self.resume(core);
                self.advance(core);
            }
            Some(hold) if self.turn == Turn::Played => {
                let text = hold_text(hold);
                self.then(Deed::Held(text));
            }
            Some(hold) => self.flight.hold(&hold_text(hold)),
            None => self.advance(core),
        }
    }

    /// Whether its function is played when it goes on.
    fn would_play(&self) -> bool {
        let goes_on = match self.state.hold() {
            None | Some(Hold::Paused(PauseReason::Definition(_))) => true,
            Some(
                Hold::Paused(
                    PauseReason::Nondeterminism(_)
                    | PauseReason::Panicked(_)
                    | PauseReason::AtStart
                    | PauseReason::Operator(_)
                    | PauseReason::Probation { .. }
                    | PauseReason::Suspect { .. },
                )
                | Hold::Stuck(_),
            ) => false,
        };
        goes_on && matches!(self.state.phase(), Phase::Running) && self.state.doom().is_none()
    }

    fn take_turn(&mut self, core: &Arc<Core>) {
        match self.state.probation() {
            Some(crashes) if crashes >= core.limits.saga_crashes_max => {
                self.suspect(crashes);
                self.advance(core);
                return;
            }
            // It was named when the process died, and still is: that its turn has come in this
            // opening too is what another death is charged by.
            Some(crashes) => {
                let reason = PauseReason::Probation { crashes };
                if !self.record(SagaEvent::Held(Hold::Paused(reason))) {
                    return;
                }
            }
            None => {
                // An operator, or a cancel, may have been quicker.
                if !self.would_play() {
                    return;
                }
                // As when it goes on: perhaps this engine has what was missing.
                self.resume(core);
                if !self.record(SagaEvent::Probed) {
                    return;
                }
            }
        }
        self.turn = Turn::Has;
        self.then(Deed::Rehearse);
        self.advance(core);
    }

    fn suspect(&mut self, crashes: u32) {
        tracing::error!(
            saga = %self.id,
            code = %self.state.start().code,
            crashes,
            "suspect: the process died while this saga was played; it is paused"
        );
        let hold = Hold::Paused(PauseReason::Suspect { crashes });
        let text = hold_text(&hold);
        if self.record(SagaEvent::Held(hold)) {
            self.then(Deed::Held(text));
        }
    }

    /// That it is its turn is durable: plays it, and takes the record back if the process lives.
    pub(super) fn rehearse(&mut self, core: &Arc<Core>) {
        let named = self.state.probation().is_some();
        if named && !core.has_ended() && self.record(SagaEvent::Acquitted) {
            // Not sent before this returns.
            self.play_recorded(core);
            self.bury();
        }
        self.then(Deed::Rehearsed);
    }

    /// Whether what its function would be told next is not durable, and it must be.
    pub(super) fn must_wait(&mut self) -> bool {
        let deliveries = self.state.deliveries().len();
        self.durable_deliveries = if self.is_quiet() {
            deliveries
        } else {
            self.durable_deliveries.min(deliveries)
        };
        let told = self.player.as_ref().map_or(0, |playing| playing.told);
        self.careful && told < deliveries && told >= self.durable_deliveries
    }
}
