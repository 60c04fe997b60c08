//! Waiters: who waits for a flight, and what they are told.

use std::sync::Arc;

use orlop_saga::effect::Settlement;
use orlop_saga::key::Fingerprint;
use orlop_saga::time::Monotonic;
use tokio::sync::oneshot;

use super::Want;
use crate::error::SubmitError;

/// What one waiter is told.
pub(crate) type Reply = Result<Arrival, SubmitError>;

/// Good news for a waiter.
#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    /// It is accepted.
    Accepted,
    /// It has its outcome, replayed or not.
    Settled {
        settlement: Arc<Settlement>,
        replayed: bool,
    },
}

/// The receiving end of a reply; can be asked again once it was told.
pub(crate) struct Mailbox {
    receiver: oneshot::Receiver<Reply>,
    told: Option<Reply>,
}

impl Mailbox {
    pub(super) fn new(receiver: oneshot::Receiver<Reply>) -> Self {
        Self {
            receiver,
            told: None,
        }
    }

    /// Whether the reply was that the work is stuck.
    pub(super) fn was_told_stuck(&self) -> bool {
        matches!(self.told, Some(Err(SubmitError::Stuck { .. })))
    }

    /// Waits for the reply; `None` if there will be none. Cancel-safe.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        if self.told.is_none() {
            self.told = (&mut self.receiver).await.ok();
            if self.told.is_none() {
                // A channel that was closed must not be polled again.
                self.receiver = oneshot::channel().1;
            }
        }
        self.told.clone()
    }
}

/// One caller.
pub(crate) struct Waiter {
    pub(crate) seat: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) want: Want,
    /// When it stops waiting.
    pub(crate) deadline: Option<Monotonic>,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// A reply that is to be sent once the flight's lock is released.
pub(crate) struct Letter {
    to: oneshot::Sender<Reply>,
    reply: Reply,
}

/// All callers of one flight, in order of arrival.
#[derive(Default)]
pub(crate) struct Waiters {
    list: Vec<Waiter>,
    seats: u64,
}

impl Waiters {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// How many want this.
    pub(crate) fn count(&self, want: Want) -> usize {
        self.list
            .iter()
            .filter(|waiter| waiter.want == want)
            .count()
    }

    /// When the last of them stops waiting for the outcome; `None`, if one of them never does.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let mut deadlines = self.list.iter().map(|waiter| waiter.deadline);
        let first = deadlines.next()??;
        deadlines.try_fold(first, |latest, deadline| Some(latest.max(deadline?)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether somebody waits for this request.
    pub(crate) fn any(&self, fingerprint: Fingerprint) -> bool {
        self.list
            .iter()
            .any(|waiter| waiter.fingerprint == fingerprint)
    }

    pub(crate) fn sit(
        &mut self,
        fingerprint: Fingerprint,
        want: Want,
        deadline: Option<Monotonic>,
        reply: oneshot::Sender<Reply>,
    ) -> u64 {
        self.seats += 1;
        self.list.push(Waiter {
            seat: self.seats,
            fingerprint,
            want,
            deadline,
            reply,
        });
        self.seats
    }

    pub(crate) fn remove(&mut self, seat: u64) -> Option<Waiter> {
        let at = self.list.iter().position(|waiter| waiter.seat == seat)?;
        Some(self.list.remove(at))
    }

    /// Takes those for whom `reply` has an answer.
    pub(crate) fn answer(&mut self, reply: impl Fn(&Waiter) -> Option<Reply>) -> Vec<Letter> {
        let mut letters = Vec::new();
        let mut staying = Vec::new();
        for waiter in self.list.drain(..) {
            match reply(&waiter) {
                Some(reply) => letters.push(Letter {
                    to: waiter.reply,
                    reply,
                }),
                None => staying.push(waiter),
            }
        }
        self.list = staying;
        letters
    }

    /// Takes all, with one reply.
    pub(crate) fn answer_all(&mut self, reply: &Reply) -> Vec<Letter> {
        self.answer(|_| Some(reply.clone()))
    }
}

/// Sends letters. A caller that left does not mind.
pub(crate) fn send(letters: Vec<Letter>) {
    for letter in letters {
        let _ = letter.to.send(letter.reply);
    }
}
