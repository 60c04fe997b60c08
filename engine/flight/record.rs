//! Recording what becomes of a flight: acceptance, launch, outcome, withdrawal.
//!
//! Every record is appended under the flight's lock and only if the fold allows it, so that the
//! journal has the flight's states in their order and nothing that would not fold again.

use std::sync::Arc;
use std::time::Duration;

use orlop_saga::effect::{Effect, EffectEvent, Settlement, Withdrawal};
use orlop_saga::event::Event;
use orlop_saga::id::Lsn;
use orlop_saga::outcome::Outcome;
use orlop_store::log::{AppendError, LsnRange, Purpose};

use super::wait::{self, Letter};
use super::{Arrival, Durability, Flight, Intent, Locked, Phase, State, Subject, Want};
use crate::budget::Fee;
use crate::core::Core;
use crate::error::{SubmitError, Unavailable};
use crate::operator::Notice;

/// How long a record waits that found no room in the journal.
const PATIENCE: Duration = Duration::from_millis(20);

impl Flight {
    /// Records the acceptance, if a caller wants one and it is not on its way already.
    pub(super) fn record_acceptance(self: &Arc<Self>, core: &Arc<Core>) {
        let mut state = self.state.lock();
        let under_way = match state.phase {
            Phase::Admitting(_) | Phase::Running | Phase::BackingOff => true,
            Phase::Looking
            | Phase::Recording(_)
            | Phase::Driven
            | Phase::Settling
            | Phase::Settled
            | Phase::Stuck(_)
            | Phase::Broken(_)
            | Phase::Gone => false,
        };
        let wanted = state.durability == Durability::Accepted && state.intent == Intent::None;
        if !(under_way && wanted) {
            return;
        }
        let Some(plain) = state.plain() else {
            return;
        };
        let event = EffectEvent::Accepted(Box::new(plain.request.clone()));
        if !state.allow(&event) {
            return;
        }
        state.intent = Intent::Appended;
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::New,
            &[self.event(event)],
            move |core, result| match result {
                Ok(_) => flight.accepted(core),
                Err(error) => flight.not_accepted(core, &error),
            },
        );
    }

    /// The acceptance is durable. What waited for that goes on.
    fn accepted(self: &Arc<Self>, core: &Arc<Core>) {
        let mut state = self.state.lock();
        state.intent = Intent::Durable;
        let withdrawal = state.withdrawal.take();
        // Nobody is promised what is about to be taken back.
        let letters = match withdrawal {
            None => acceptances(&mut state),
            Some(_) => Vec::new(),
        };
        if withdrawal.is_none() && matches!(state.phase, Phase::Recording(_)) {
            self.record_launch(core, &mut state);
        }
        drop(state);
        wait::send(letters);
        if let Some((error, reason)) = withdrawal {
            self.withdraw(core, error, reason);
        }
    }

    /// The acceptance could not be written: nothing was promised.
    fn not_accepted(self: &Arc<Self>, core: &Arc<Core>, error: &AppendError) {
        let reply = core.append_failed(error, self.id.key);
        let mut state = self.state.lock();
        state.intent = Intent::None;
        if !matches!(state.phase, Phase::Settling | Phase::Settled) {
            state.journaled = None;
        }
        if let Some((error, _)) = state.withdrawal.take() {
            // If it may be durable after all, it may run after all.
            let unresolved = matches!(reply, SubmitError::Unresolved { .. });
            self.forget(core, state, if unresolved { reply } else { error });
            return;
        }
        if matches!(state.phase, Phase::Recording(_)) {
            let phase = std::mem::replace(&mut state.phase, Phase::Gone);
            self.forget(core, state, reply);
            drop(phase);
            return;
        }
        // It goes on for whoever waits for its outcome alone; the last to leave takes it along.
        state.durability = Durability::Outcome;
        let refused = Err(reply);
        let letters = state
            .waiters
            .answer(|waiter| (waiter.want == Want::Acceptance).then(|| refused.clone()));
        drop(state);
        wait::send(letters);
    }

    /// Appends the launch of an attempt, with its acceptance if that is not durable.
    pub(super) fn record_launch(self: &Arc<Self>, core: &Arc<Core>, state: &mut State) {
        let first = state.intent == Intent::None;
        let before = state.journaled.clone();
        let Some(plain) = state.plain() else {
            return;
        };
        let asks = plain.course.asks();
        let launched = EffectEvent::Launched {
            fence: plain.fence,
            asks,
        };
        let mut events = Vec::with_capacity(2);
        if first {
            events.push(EffectEvent::Accepted(Box::new(plain.request.clone())));
        }
        events.push(launched);
        if !events.iter().all(|event| state.allow(event)) {
            state.journaled = before;
            return;
        }
        // Work already taken on must get on, also on a full disk.
        let purpose = if first { Purpose::New } else { Purpose::Settle };
        if first {
            state.intent = Intent::Appended;
        }
        let events: Vec<Event> = events.into_iter().map(|event| self.event(event)).collect();
        let flight = Arc::clone(self);
        core.append(self.id.tenant, purpose, &events, move |core, result| {
            flight.launch_recorded(core, first, before, result);
        });
    }

    /// The launch of an attempt is durable, or is not.
    fn launch_recorded(
        self: &Arc<Self>,
        core: &Arc<Core>,
        first: bool,
        before: Option<Effect>,
        result: Result<LsnRange, AppendError>,
    ) {
        let mut state = self.state.lock();
        let phase = std::mem::replace(&mut state.phase, Phase::BackingOff);
        let Phase::Recording(permit) = phase else {
            state.phase = phase;
            return;
        };
        let Err(error) = result else {
            state.intent = Intent::Durable;
            let letters = acceptances(&mut state);
            self.launch(core, state, *permit);
            wait::send(letters);
            return;
        };
        state.journaled = before;
        if !first && error.is_retryable() {
            // It waits for room, and it costs no attempt.
            self.again_after(core, state, PATIENCE);
        } else if first {
            state.intent = Intent::None;
            let reply = core.append_failed(&error, self.id.key);
            self.forget(core, state, reply);
        } else {
            drop(state);
            self.unresolved(core, &error);
        }
        drop(permit);
    }

    /// Records the outcome of an attempt.
    pub(super) fn settle(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        outcome: Outcome,
        fee: Fee,
    ) {
        let at = core.retention.ended_at();
        let retention = Duration::from_millis(state.retention_ms);
        let ephemeral = state.durability == Durability::Ephemeral;
        let Some(plain) = state.plain() else {
            return;
        };
        let settlement = Settlement {
            fingerprint: plain.request.fingerprint,
            code: plain.code.reference.clone(),
            saga: None,
            fence: plain.fence,
            outcome,
            cost: fee.cost(),
            audit: plain.request.audit,
            at,
            expires_at: at.after(retention),
        };
        state.phase = Phase::Settling;
        if ephemeral {
            drop(state);
            // Nothing records it: whoever is told finds it in the ledger.
            drop(fee);
            core.executor.treasury.flush_if_due(core);
            self.arrived(core, Arc::new(settlement), Lsn::default());
            return;
        }
        let event = EffectEvent::Settled(Box::new(settlement.clone()));
        if state.allow(&event) {
            // What nobody was promised is new work also to a full disk.
            let promised = state.intent != Intent::None;
            self.append_settlement(core, Arc::new(settlement), event, fee, promised);
        } else {
            self.break_with(state, "its outcome does not follow from its history");
        }
    }

    fn append_settlement(
        self: &Arc<Self>,
        core: &Arc<Core>,
        settlement: Arc<Settlement>,
        event: EffectEvent,
        fee: Fee,
        promised: bool,
    ) {
        let purpose = if promised {
            Purpose::Settle
        } else {
            Purpose::New
        };
        let flight = Arc::clone(self);
        let record: Vec<Event> = fee
            .draw()
            .into_iter()
            .chain([self.event(event.clone())])
            .collect();
        core.append(
            self.id.tenant,
            purpose,
            &record,
            move |core, result| match result {
                Ok(range) => {
                    fee.recorded();
                    flight.arrived(core, settlement, range.last);
                }
                Err(error) if error.is_retryable() && promised => {
                    let again = Arc::clone(core);
                    core.executor.runtime.after(PATIENCE, move || {
                        flight.append_settlement(&again, settlement, event, fee, promised);
                    });
                }
                Err(error) if error.is_retryable() => {
                    let reply = core.append_failed(&error, flight.id.key);
                    flight.forget(core, flight.state.lock(), reply);
                }
                Err(error) => flight.unresolved(core, &error),
            },
        );
    }

    /// The outcome is durable, as the record at `lsn`: everybody is told.
    pub(crate) fn arrived(
        self: &Arc<Self>,
        core: &Arc<Core>,
        settlement: Arc<Settlement>,
        lsn: Lsn,
    ) {
        let mut state = self.state.lock();
        let ephemeral = state.durability == Durability::Ephemeral;
        if let Some(plain) = state.plain() {
            core.fence_left(plain.fence);
        }
        state.phase = if ephemeral {
            Phase::Gone
        } else {
            Phase::Settled
        };
        state.settled_at = lsn;
        state.subject = Subject::Known(Arc::clone(&settlement));
        let reply = Ok(Arrival::Settled {
            settlement,
            replayed: false,
        });
        let letters = state.waiters.answer_all(&reply);
        drop(state);
        if ephemeral {
            self.remove(core);
        } else {
            self.projected(core, core.projected());
        }
        self.stir();
        wait::send(letters);
    }

    /// The tables have everything up to `lsn`: if that covers its outcome, memory need not.
    pub(crate) fn projected(self: &Arc<Self>, core: &Core, lsn: Lsn) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Settled) || state.settled_at > lsn {
            return;
        }
        state.phase = Phase::Gone;
        drop(state);
        self.remove(core);
    }

    /// Makes the key unknown again, durably if anything of it is durable.
    pub(super) fn withdraw(
        self: &Arc<Self>,
        core: &Arc<Core>,
        error: SubmitError,
        reason: Withdrawal,
    ) {
        self.withdraw_locked(core, self.state.lock(), error, reason);
    }

    pub(super) fn withdraw_locked(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        error: SubmitError,
        reason: Withdrawal,
    ) {
        match state.intent {
            Intent::None => {
                self.forget(core, state, error);
                return;
            }
            // Whether there is anything to withdraw is known once the acceptance is.
            Intent::Appended => {
                state.phase = Phase::Settling;
                state.withdrawal = Some((error, reason));
                return;
            }
            Intent::Durable => state.phase = Phase::Settling,
        }
        if state.allow(&EffectEvent::Withdrawn { reason }) {
            self.append_withdrawal(core, error, reason);
        } else {
            self.break_with(state, "its withdrawal does not follow from its history");
        }
    }

    fn append_withdrawal(
        self: &Arc<Self>,
        core: &Arc<Core>,
        error: SubmitError,
        reason: Withdrawal,
    ) {
        let event = self.event(EffectEvent::Withdrawn { reason });
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::Settle,
            &[event],
            move |core, result| match result {
                Ok(_) => flight.forget(core, flight.state.lock(), error),
                Err(failed) if failed.is_retryable() => {
                    let again = Arc::clone(core);
                    core.executor.runtime.after(PATIENCE, move || {
                        flight.append_withdrawal(&again, error, reason);
                    });
                }
                Err(failed) => flight.unresolved(core, &failed),
            },
        );
    }

    /// Nothing of it is durable any more, or nothing ever was: the key is unknown.
    pub(super) fn forget(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        reply: SubmitError,
    ) {
        if let Some(plain) = state.plain() {
            core.fence_left(plain.fence);
        }
        state.phase = Phase::Gone;
        state.farewell = Some(reply.clone());
        let letters = state.waiters.answer_all(&Err(reply));
        drop(state);
        self.remove(core);
        wait::send(letters);
    }

    /// Records that it is in doubt, and that nobody could tell what happened; or, of what was never
    /// recorded, holds it in memory.
    pub(super) fn stick(self: &Arc<Self>, core: &Arc<Core>, reason: &str) {
        let mut state = self.state.lock();
        if state.journaled.is_none() {
            drop(state);
            return self.hold(&Arc::from(reason));
        }
        state.phase = Phase::Settling;
        let mut events = Vec::with_capacity(2);
        if matches!(state.journaled, Some(Effect::Accepted { .. }))
            && let Some(plain) = state.plain()
        {
            // What runs without a record of its launches is launched, as the journal has it, when
            // it is found out to be stuck.
            let (fence, asks) = (plain.fence, false);
            events.push(EffectEvent::Launched { fence, asks });
        }
        events.push(EffectEvent::Stuck {
            reason: reason.to_owned(),
        });
        if events.iter().all(|event| state.allow(event)) {
            drop(state);
            let events = events.into_iter().map(|event| self.event(event));
            self.append_stuck(core, &events.collect(), Arc::from(reason));
        } else {
            self.break_with(state, reason);
        }
    }

    fn append_stuck(self: &Arc<Self>, core: &Arc<Core>, events: &Arc<[Event]>, reason: Arc<str>) {
        let flight = Arc::clone(self);
        let again = Arc::clone(events);
        core.append(
            self.id.tenant,
            Purpose::Settle,
            events,
            move |core, result| match result {
                Ok(_) => {
                    flight.hold(&reason);
                    core.feed.publish(|| Notice::EffectStuck {
                        id: flight.id,
                        reason: (*reason).to_owned(),
                    });
                }
                Err(error) if error.is_retryable() => {
                    let later = Arc::clone(core);
                    core.executor.runtime.after(PATIENCE, move || {
                        flight.append_stuck(&later, &again, reason);
                    });
                }
                Err(error) => flight.unresolved(core, &error),
            },
        );
    }

    /// It does not move until an operator says so; whoever waits is told.
    pub(crate) fn hold(self: &Arc<Self>, reason: &Arc<str>) {
        tracing::warn!(tenant = %self.id.tenant, key = %self.id.key, %reason, "stuck");
        let mut state = self.state.lock();
        state.phase = Phase::Stuck(Arc::clone(reason));
        let letters = self.stuck_letters(&mut state, reason);
        drop(state);
        self.stir();
        wait::send(letters);
    }

    /// An operator has a stuck effect tried again.
    pub(crate) fn release(self: &Arc<Self>, core: &Arc<Core>) -> bool {
        let mut state = self.state.lock();
        let Phase::Stuck(reason) = &state.phase else {
            return false;
        };
        let reason = Arc::clone(reason);
        let before = state.journaled.clone();
        let Some(plain) = state.plain() else {
            return false;
        };
        plain.course.reset();
        plain.fresh = true;
        // Exhausted by crashes, it was only held in memory.
        let recorded = matches!(before, Some(Effect::Stuck { .. }));
        if !recorded {
            state.phase = Phase::BackingOff;
            drop(state);
            self.admit(core);
            return true;
        }
        if !state.allow(&EffectEvent::Resumed) {
            return false;
        }
        state.phase = Phase::Settling;
        let event = self.event(EffectEvent::Resumed);
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::Settle,
            &[event],
            move |core, result| match result {
                Ok(_) => flight.again_after(core, flight.state.lock(), Duration::ZERO),
                Err(error) if error.is_retryable() => {
                    flight.state.lock().journaled = before;
                    flight.hold(&reason);
                }
                Err(error) => flight.unresolved(core, &error),
            },
        );
        true
    }

    /// The log failed under it: it may or may not be durable, and this engine will not know.
    pub(crate) fn unresolved(self: &Arc<Self>, core: &Arc<Core>, error: &AppendError) {
        let mut error = core.append_failed(error, self.id.key);
        if matches!(&error, SubmitError::Unavailable(why) if !matches!(why, Unavailable::Format(_)))
        {
            error = SubmitError::Unresolved { key: self.id.key };
        }
        Self::break_off(self.state.lock(), error);
        self.stir();
    }

    fn break_with(self: &Arc<Self>, state: Locked<'_>, reason: &str) {
        let (key, reason) = (self.id.key, Arc::from(format!("internal: {reason}")));
        Self::break_off(state, SubmitError::Stuck { key, reason });
        self.stir();
    }

    fn break_off(mut state: Locked<'_>, error: SubmitError) {
        state.phase = Phase::Broken(error.clone());
        let letters = state.waiters.answer_all(&Err(error));
        drop(state);
        wait::send(letters);
    }

    pub(super) fn event(&self, event: EffectEvent) -> Event {
        Event::Effect { id: self.id, event }
    }
}

/// The acceptance is durable: those who waited for it are told.
pub(super) fn acceptances(state: &mut State) -> Vec<Letter> {
    state.waiters.answer(|waiter| match waiter.want {
        Want::Acceptance => Some(Ok(Arrival::Accepted)),
        Want::Outcome => None,
    })
}
