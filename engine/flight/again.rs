//! Asking again: a caller who was told that the work is stuck, and wants to know what became of
//! it.

use std::sync::Arc;

use orlop_saga::key::Fingerprint;
use tokio::sync::oneshot;

use super::wait::{self, Mailbox};
use super::{Arrival, Flight, Phase, Reply, Seat, State, Subject, Want};
use crate::core::Core;
use crate::error::SubmitError;

impl Seat {
    /// Takes a place again after it was told that the work is stuck: it is told what has become of
    /// it since, or that it is stuck still.
    pub(crate) fn ask_again(&mut self, core: &Arc<Core>) {
        if !self.outcome.was_told_stuck() {
            return;
        }
        let (number, outcome) = self.flight.sit_again();
        self.outcome = outcome;
        self.numbers[1] = number;
        if core.has_ended() {
            // Whoever ended the engine may have told the others before this one sat down.
            self.flight.interrupt();
        }
    }
}

impl Flight {
    fn sit_again(self: &Arc<Self>) -> (Option<u64>, Mailbox) {
        let (tell, outcome) = oneshot::channel();
        let outcome = Mailbox::new(outcome);
        let mut state = self.state.lock();
        if let Some(reply) = self.last_word(&state) {
            drop(state);
            let _ = tell.send(reply);
            return (None, outcome);
        }
        let fingerprint: Fingerprint = state.fingerprint();
        let number = state.waiters.sit(fingerprint, Want::Outcome, None, tell);
        let letters = self.news(&mut state);
        drop(state);
        wait::send(letters);
        (Some(number), outcome)
    }

    /// What is said of work that left the key table.
    fn last_word(&self, state: &State) -> Option<Reply> {
        let over = match &state.phase {
            Phase::Settled | Phase::Gone => true,
            Phase::Looking
            | Phase::Admitting(_)
            | Phase::Recording(_)
            | Phase::Running
            | Phase::BackingOff
            | Phase::Driven
            | Phase::Settling
            | Phase::Stuck(_)
            | Phase::Broken(_) => false,
        };
        if !over {
            return None;
        }
        match &state.subject {
            Subject::Known(settlement) => Some(Ok(Arrival::Settled {
                settlement: Arc::clone(settlement),
                replayed: true,
            })),
            Subject::Effect(_) | Subject::Saga { .. } | Subject::Orphan { .. } => {
                let key = self.id.key;
                let farewell = state.farewell.clone();
                Some(Err(farewell.unwrap_or(SubmitError::Interrupted { key })))
            }
        }
    }
}
