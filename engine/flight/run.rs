//! Running what a key stands for: permit, intent, attempts, outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orlop_admission::{Acquired, Grantee, Lane, Permit, Refusal};
use orlop_saga::effect::{EffectEvent, Settlement, Withdrawal};
use orlop_saga::event::Event;
use orlop_saga::id::{Fence, Lsn, SagaId};
use orlop_saga::outcome::Outcome;
use orlop_saga::saga::SagaStart;
use orlop_store::log::{AppendError, LsnRange, Purpose};
use parking_lot::MutexGuard;

use super::wait::{self, Letter};
use super::{Arrival, Durability, Flight, Intent, Phase, State, Subject, Want};
use crate::core::Core;
use crate::course::{Mode, Verdict};
use crate::error::SubmitError;
use crate::executor::{Action, Demand, Ended, Owner};
use crate::host::Attempt;

/// How long accepted work waits after a refusal, and an outcome for room in the journal.
const PATIENCE: Duration = Duration::from_millis(20);

/// What came of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It will not run; its ticket says so once that is durable.
    Withdrawn,
    /// An attempt is running and was asked to stop; if it does not, its outcome counts.
    Requested,
    /// Its outcome is known, or it cannot be cancelled by itself.
    TooLate,
}

impl Flight {
    /// Sets out: a saga goes to its driver, a plain effect through admission.
    pub(super) fn begin(self: &Arc<Self>, core: &Arc<Core>, start: Option<Box<SagaStart>>) {
        if let Some(start) = start {
            self.state.lock().phase = Phase::Driven;
            core.driver.start(Arc::clone(self), start);
            return;
        }
        self.admit(core);
        self.record_acceptance(core);
    }

    /// Goes on with an effect found unfinished at open.
    pub(crate) fn resume(self: &Arc<Self>, core: &Arc<Core>) {
        let poisoned = match self.state.lock().plain() {
            Some(plain) => plain.course.poisoned(),
            None => false,
        };
        if poisoned {
            let reason = "its attempts are used up by crashes of the process";
            self.give_up(
                core,
                SubmitError::Exhausted(orlop_saga::outcome::Failure::retryable(reason)),
            );
        } else {
            self.admit(core);
        }
    }

    fn admit(self: &Arc<Self>, core: &Arc<Core>) {
        let Some((action, demand)) = self.next_action() else {
            return;
        };
        let grantee: Arc<dyn Grantee> = Arc::<Self>::clone(self);
        match core.executor.admit(&action, &demand, grantee) {
            Ok(Acquired::Granted(permit)) => self.permitted(core, permit),
            Ok(Acquired::Queued(ticket)) => {
                if let Phase::Admitting(place) = &mut self.state.lock().phase {
                    *place = Some(ticket);
                }
            }
            Err(refusal) => self.not_admitted(core, refusal),
        }
    }

    /// What the next attempt does and on whose behalf; `None` if nothing is to be done any more.
    fn next_action(&self) -> Option<(Action, Demand)> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Admitting(_) | Phase::BackingOff) {
            return None;
        }
        state.phase = Phase::Admitting(None);
        let plain = state.plain()?;
        let code = Arc::clone(&plain.code);
        let input = plain.request.input.clone();
        let (action, lane) = match plain.course.mode() {
            Mode::Run => (Action::Run { code, input }, Lane::Ordinary),
            // Finding out what happened must not wait behind what has not happened yet.
            Mode::Reconcile => (Action::Reconcile { code, input }, Lane::Reserved),
        };
        let demand = Demand {
            account: Arc::clone(&self.account),
            audit: plain.request.audit,
            class: plain.request.class,
            lane,
            deadline: None,
        };
        Some((action, demand))
    }

    fn not_admitted(self: &Arc<Self>, core: &Arc<Core>, refusal: Refusal) {
        let accepted = self.state.lock().intent != Intent::None;
        if accepted && refusal.is_retryable() {
            // A promise was given: it waits, and it costs no attempt.
            self.again_after(core, PATIENCE.mul_f64(1.0 + fastrand::f64()));
        } else {
            self.withdraw(core, SubmitError::Refused(refusal), Withdrawal::Refused);
        }
    }

    fn again_after(self: &Arc<Self>, core: &Arc<Core>, wait: Duration) {
        self.state.lock().phase = Phase::BackingOff;
        let flight = Arc::clone(self);
        core.executor.runtime.after(wait, move || {
            if let Some(core) = flight.core.upgrade() {
                flight.admit(&core);
            }
        });
    }

    /// A permit is here: `External` work records its launch first, `Pure` work just starts.
    fn permitted(self: &Arc<Self>, core: &Arc<Core>, permit: Permit) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Admitting(_)) {
            // Withdrawn in the meantime: dropping the permit gives it back.
            drop(state);
            drop(permit);
            return;
        }
        let Some(plain) = state.plain() else {
            return;
        };
        let records = plain.fresh && plain.code.external;
        if plain.fresh {
            plain.fence = Fence::new(core.incarnation, plain.fence.attempt.next());
        }
        if !records {
            self.launch(core, state, permit);
            return;
        }
        state.phase = Phase::Recording(Box::new(permit));
        // An acceptance that may still be refused must not be followed by a launch.
        if state.intent != Intent::Appended {
            self.record_launch(core, &mut state);
        }
    }

    /// Appends the launch of an `External` attempt, with its acceptance if that is not durable.
    fn record_launch(self: &Arc<Self>, core: &Arc<Core>, state: &mut State) {
        let first = state.intent == Intent::None;
        let Some(plain) = state.plain() else {
            return;
        };
        let mut events = Vec::with_capacity(2);
        if first {
            events.push(self.event(EffectEvent::Accepted(Box::new(plain.request.clone()))));
        }
        events.push(self.event(EffectEvent::Launched { fence: plain.fence }));
        if first {
            state.intent = Intent::Appended;
        }
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::New,
            &events,
            move |core, result| {
                flight.launch_recorded(core, first, result);
            },
        );
    }

    /// The launch of an `External` attempt is durable, or is not.
    fn launch_recorded(
        self: &Arc<Self>,
        core: &Arc<Core>,
        first: bool,
        result: Result<LsnRange, AppendError>,
    ) {
        let mut state = self.state.lock();
        let phase = std::mem::replace(&mut state.phase, Phase::BackingOff);
        let Phase::Recording(permit) = phase else {
            state.phase = phase;
            return;
        };
        let error = match result {
            Ok(_) => {
                state.intent = Intent::Durable;
                let letters = acceptances(&mut state);
                self.launch(core, state, *permit);
                wait::send(letters);
                return;
            }
            Err(error) => error,
        };
        if !first && error.is_retryable() {
            // Accepted before: it waits for room, and it costs no attempt.
            drop(state);
            drop(permit);
            self.again_after(core, PATIENCE);
            return;
        }
        let reply = core.append_failed(&error, self.id.key);
        self.forget(core, state, reply);
        drop(permit);
    }

    /// Nothing of it is durable, or nobody can tell: the key is unknown to this engine.
    fn forget(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: MutexGuard<'_, State>,
        reply: SubmitError,
    ) {
        state.phase = Phase::Gone;
        let letters = state.waiters.answer_all(&Err(reply));
        drop(state);
        self.remove(core);
        wait::send(letters);
    }

    fn launch(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: MutexGuard<'_, State>,
        permit: Permit,
    ) {
        state.phase = Phase::Running;
        let Some(plain) = state.plain() else {
            return;
        };
        plain.fresh = false;
        plain.course.launched(core.clock.monotonic());
        let (code, input) = (Arc::clone(&plain.code), plain.request.input.clone());
        let action = match plain.course.mode() {
            Mode::Run => Action::Run { code, input },
            Mode::Reconcile => Action::Reconcile { code, input },
        };
        let attempt = Attempt {
            remote_key: core.remote_key_of(self.id),
            fence: plain.fence,
            tenant: self.id.tenant,
            step: None,
            trace: plain.request.trace,
            cancel: Arc::clone(&self.cancel),
        };
        drop(state);
        let owner: Arc<dyn Owner> = Arc::<Self>::clone(self);
        core.executor.launch(action, attempt, None, permit, owner);
    }

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
            | Phase::Gone => false,
        };
        let wanted = state.durability == Durability::Accepted && state.intent == Intent::None;
        if !(under_way && wanted) {
            return;
        }
        let Some(plain) = state.plain() else {
            return;
        };
        let event = self.event(EffectEvent::Accepted(Box::new(plain.request.clone())));
        state.intent = Intent::Appended;
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::New,
            &[event],
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
        let letters = acceptances(&mut state);
        let withdrawal = state.withdrawal.take();
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
        if let Some((error, _)) = state.withdrawal.take() {
            self.forget(core, state, error);
            return;
        }
        let phase = std::mem::replace(&mut state.phase, Phase::Gone);
        match phase {
            // It runs all the same, for whoever waits for its outcome alone.
            Phase::Running | Phase::Settling | Phase::Settled => {
                state.phase = phase;
                state.durability = Durability::Outcome;
                let refused = Err(reply);
                let letters = state
                    .waiters
                    .answer(|waiter| (waiter.want == Want::Acceptance).then(|| refused.clone()));
                drop(state);
                wait::send(letters);
            }
            Phase::Admitting(ticket) => {
                self.forget(core, state, reply);
                if let Some(ticket) = ticket {
                    let _ = ticket.cancel();
                }
            }
            Phase::Recording(permit) => {
                self.forget(core, state, reply);
                drop(permit);
            }
            Phase::BackingOff => self.forget(core, state, reply),
            Phase::Looking | Phase::Driven | Phase::Stuck(_) | Phase::Gone => state.phase = phase,
        }
    }

    fn judge(self: &Arc<Self>, core: &Arc<Core>, ended: Ended) {
        let mut state = self.state.lock();
        let Some(plain) = state.plain() else {
            return;
        };
        let now = core.clock.monotonic();
        let verdict = plain.course.judge(ended.ending, now, fastrand::f64());
        let cancelled = plain.cancelled && plain.course.mode() == Mode::Run;
        match verdict {
            Verdict::Done(output) => {
                self.settle(core, state, Outcome::Done(output), ended.cost);
            }
            Verdict::Permanent(failure) => {
                self.settle(core, state, Outcome::Failed(failure), ended.cost);
            }
            Verdict::Again { .. } | Verdict::Exhausted(_) if cancelled => {
                drop(state);
                self.cancelled(core);
            }
            Verdict::Exhausted(failure) => {
                drop(state);
                self.give_up(core, SubmitError::Exhausted(failure));
            }
            Verdict::Again { after, fresh } => {
                plain.fresh = fresh;
                drop(state);
                self.again_after(core, after);
            }
            Verdict::Stuck(reason) => {
                drop(state);
                self.stuck(core, &reason);
            }
            Verdict::Undone => {
                drop(state);
                self.stuck(core, "an undo ended where a computation was running");
            }
        }
    }

    fn settle(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: MutexGuard<'_, State>,
        outcome: Outcome,
        cost: orlop_saga::amount::BusyNanos,
    ) {
        let at = core.clock.wall();
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
            cost,
            audit: plain.request.audit,
            at,
            expires_at: at.after(retention),
        };
        state.phase = Phase::Settling;
        if ephemeral {
            drop(state);
            self.arrived(core, Arc::new(settlement), Lsn::default());
        } else {
            // Under the lock, so that an acceptance cannot come after its outcome.
            self.record_settlement(core, Arc::new(settlement));
        }
    }

    fn record_settlement(self: &Arc<Self>, core: &Arc<Core>, settlement: Arc<Settlement>) {
        let event = self.event(EffectEvent::Settled(Box::new((*settlement).clone())));
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::Settle,
            &[event],
            move |core, result| match result {
                Ok(range) => flight.arrived(core, settlement, range.last),
                Err(error) if error.is_retryable() => {
                    let again = Arc::clone(core);
                    core.executor.runtime.after(PATIENCE, move || {
                        flight.record_settlement(&again, settlement);
                    });
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
        state.phase = if ephemeral {
            Phase::Gone
        } else {
            Phase::Settled
        };
        state.settled_at = lsn;
        state.subject = Subject::Known(Arc::clone(&settlement));
        let letters = state.waiters.answer_all(&Ok(Arrival::Settled {
            settlement,
            replayed: false,
        }));
        drop(state);
        if ephemeral {
            self.remove(core);
        } else {
            self.projected(core, core.projected());
        }
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

    /// The log failed under an outcome: it may or may not be durable.
    pub(crate) fn unresolved(self: &Arc<Self>, core: &Arc<Core>, error: &AppendError) {
        let reply = Err(match core.append_failed(error, self.id.key) {
            SubmitError::Unavailable(_) => SubmitError::Unresolved { key: self.id.key },
            other => other,
        });
        let letters = self.state.lock().waiters.answer_all(&reply);
        wait::send(letters);
    }

    fn stuck(self: &Arc<Self>, core: &Arc<Core>, reason: &str) {
        let event = self.event(EffectEvent::Stuck {
            reason: reason.to_owned(),
        });
        let (flight, reason): (_, Arc<str>) = (Arc::clone(self), Arc::from(reason));
        core.append(
            self.id.tenant,
            Purpose::Settle,
            &[event],
            move |core, result| match result {
                Ok(_) => flight.hold(&reason),
                Err(error) if error.is_retryable() => {
                    let again = Arc::clone(core);
                    core.executor
                        .runtime
                        .after(PATIENCE, move || flight.stuck(&again, &reason));
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
        wait::send(letters);
    }

    /// Its attempts are used up, without effect.
    fn give_up(self: &Arc<Self>, core: &Arc<Core>, error: SubmitError) {
        self.withdraw(core, error, Withdrawal::Exhausted);
    }

    fn cancelled(self: &Arc<Self>, core: &Arc<Core>) {
        let why = Withdrawal::Cancelled;
        self.withdraw(core, SubmitError::Withdrawn(why), why);
    }

    /// Makes the key unknown again, durably if anything of it is durable.
    pub(super) fn withdraw(
        self: &Arc<Self>,
        core: &Arc<Core>,
        error: SubmitError,
        reason: Withdrawal,
    ) {
        let mut state = self.state.lock();
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
        let event = self.event(EffectEvent::Withdrawn { reason });
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::Settle,
            &[event],
            move |core, result| match result {
                Ok(_) => {
                    let state = flight.state.lock();
                    flight.forget(core, state, error);
                }
                Err(failed) if failed.is_retryable() => {
                    let again = Arc::clone(core);
                    core.executor.runtime.after(PATIENCE, move || {
                        flight.withdraw(&again, error, reason);
                    });
                }
                Err(failed) => flight.unresolved(core, &failed),
            },
        );
    }

    /// A caller leaves; the last one takes work with it that was not accepted and does not run.
    pub(super) fn leave(self: &Arc<Self>, seat: u64) {
        let mut state = self.state.lock();
        if state.waiters.remove(seat).is_none() || !state.waiters.is_empty() {
            return;
        }
        if state.intent != Intent::None {
            return;
        }
        let ticket = match &mut state.phase {
            Phase::Admitting(ticket) => ticket.take(),
            Phase::BackingOff => None,
            Phase::Looking
            | Phase::Recording(_)
            | Phase::Running
            | Phase::Driven
            | Phase::Settling
            | Phase::Settled
            | Phase::Stuck(_)
            | Phase::Gone => return,
        };
        state.phase = Phase::Gone;
        drop(state);
        if let Some(ticket) = ticket {
            // If the grant came first, `permitted` finds the flight gone and gives it back.
            let _ = ticket.cancel();
        }
        if let Some(core) = self.core.upgrade() {
            self.remove(&core);
        }
    }

    /// Cancels a plain effect on behalf of whoever holds its ticket.
    pub(crate) fn cancel(self: &Arc<Self>, core: &Arc<Core>) -> Cancelled {
        let mut state = self.state.lock();
        let reconciling = match state.plain() {
            Some(plain) => plain.course.mode() == Mode::Reconcile,
            None => return Cancelled::TooLate,
        };
        let ticket = match &mut state.phase {
            // What may have happened is found out first.
            Phase::Admitting(_) | Phase::BackingOff if reconciling => None,
            Phase::Admitting(ticket) => Some(ticket.take()),
            Phase::BackingOff => Some(None),
            Phase::Recording(_) | Phase::Running => None,
            Phase::Looking
            | Phase::Driven
            | Phase::Settling
            | Phase::Settled
            | Phase::Stuck(_)
            | Phase::Gone => return Cancelled::TooLate,
        };
        let Some(ticket) = ticket else {
            if let Some(plain) = state.plain() {
                plain.cancelled = true;
            }
            drop(state);
            self.cancel.store(true, Ordering::Relaxed);
            return Cancelled::Requested;
        };
        state.phase = Phase::Settling;
        drop(state);
        if let Some(ticket) = ticket {
            let _ = ticket.cancel();
        }
        self.cancelled(core);
        Cancelled::Withdrawn
    }

    /// An operator has a stuck effect tried again.
    pub(crate) fn release(self: &Arc<Self>, core: &Arc<Core>) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Stuck(_)) {
            return false;
        }
        let Some(plain) = state.plain() else {
            return false;
        };
        plain.course.reset();
        plain.fresh = true;
        state.phase = Phase::BackingOff;
        drop(state);
        let event = self.event(EffectEvent::Resumed);
        let flight = Arc::clone(self);
        core.append(
            self.id.tenant,
            Purpose::Settle,
            &[event],
            move |core, result| match result {
                Ok(_) => flight.admit(core),
                Err(error) => flight.unresolved(core, &error),
            },
        );
        true
    }

    /// The saga behind this key is durably started.
    pub(crate) fn saga_started(self: &Arc<Self>, saga: SagaId) {
        let mut state = self.state.lock();
        if let Subject::Saga { id, .. } = &mut state.subject {
            *id = saga;
        }
        state.intent = Intent::Durable;
        let letters = acceptances(&mut state);
        drop(state);
        wait::send(letters);
    }

    /// The saga behind this key could not be started: the key is unknown.
    pub(crate) fn saga_refused(self: &Arc<Self>, core: &Arc<Core>, error: SubmitError) {
        self.withdraw(core, error, Withdrawal::Refused);
    }

    /// The saga behind this key goes on.
    pub(crate) fn saga_resumed(&self) {
        self.state.lock().phase = Phase::Driven;
    }

    /// The saga behind this key, once it was started.
    pub(crate) fn saga(&self) -> Option<SagaId> {
        match &self.state.lock().subject {
            Subject::Saga { id, .. } => (*id != SagaId::default()).then_some(*id),
            Subject::Known(settlement) => settlement.saga,
            Subject::Effect(_) | Subject::Orphan { .. } => None,
        }
    }

    /// Tells everybody the same.
    pub(crate) fn tell_all(&self, reply: &super::Reply) {
        let letters = self.state.lock().waiters.answer_all(reply);
        wait::send(letters);
    }

    fn event(&self, event: EffectEvent) -> Event {
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

impl Grantee for Flight {
    fn granted(self: Arc<Self>, permit: Permit) {
        if let Some(core) = self.core.upgrade() {
            self.permitted(&core, permit);
        }
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        if let Some(core) = self.core.upgrade() {
            self.not_admitted(&core, refusal);
        }
    }
}

impl Owner for Flight {
    fn ended(self: Arc<Self>, ended: Ended) {
        if let Some(core) = self.core.upgrade() {
            self.judge(&core, ended);
        }
    }
}
