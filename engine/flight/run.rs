//! Running what a key stands for: permits, attempts, cancels, and what a saga's driver says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orlop_admission::{Grantee, Lane, Permit, Refusal};
use orlop_saga::amount::ByteCount;
use orlop_saga::effect::{Settlement, Withdrawal};
use orlop_saga::id::{Fence, SagaId};
use orlop_saga::outcome::Outcome;
use orlop_saga::time::Monotonic;

use super::record::acceptances;
use super::wait;
use super::{Flight, Intent, Locked, Phase, Reply, State, Subject, Want};
use crate::core::Core;
use crate::course::{Mode, Verdict};
use crate::driver::Birth;
use crate::error::{SubmitError, Unavailable};
use crate::executor::{Action, Admitted, Demand, Ended, Owner};
use crate::host::Attempt;
use crate::lease::{Bounds, Pulse};

/// What came of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It will not run; its ticket says so once that is durable.
    Withdrawn,
    /// An attempt is running and was asked to stop; if it does not, its outcome counts.
    Requested,
    /// Others wait for it: it goes on.
    Shared,
    /// Its outcome is known, or it cannot be cancelled by itself.
    TooLate,
}

/// How long accepted work waits after this many refusals in a row; it costs no attempt.
pub(super) fn waited(refusals: u32, draw: f64) -> Duration {
    let base = Duration::from_millis(20).saturating_mul(1 << refusals.min(6));
    base.min(Duration::from_secs(1)).mul_f64(1.0 + draw)
}

impl Flight {
    /// Sets out: a saga goes to its driver, a plain effect through admission.
    pub(super) fn begin(self: &Arc<Self>, core: &Arc<Core>, birth: Option<Box<Birth>>) {
        if core.is_poisoned() {
            let error = SubmitError::Unavailable(Unavailable::Poisoned);
            self.withdraw(core, error, Withdrawal::Refused);
            return;
        }
        if let Some(birth) = birth {
            if core.drains.has(&birth.start.code) {
                let name = birth.start.code.name.clone();
                self.withdraw(core, SubmitError::Draining { name }, Withdrawal::Refused);
                return;
            }
            let known = core.executor.treasury.check_known(birth.start.audit);
            if let (Err(refusal), None) = (known, &birth.start.parent) {
                self.withdraw(core, SubmitError::Refused(refusal), Withdrawal::Refused);
                return;
            }
            if birth.start.parent.is_none()
                && let Err(refusal) = core.write_start(&self.account, &birth.start)
            {
                self.withdraw(core, SubmitError::Refused(refusal), Withdrawal::Refused);
                return;
            }
            self.state.lock().phase = Phase::Driven;
            core.driver.start(Arc::clone(self), birth);
            return;
        }
        let nested = self
            .state
            .lock()
            .plain()
            .and_then(|plain| plain.nested.take());
        if let Some(refusal) = nested {
            self.withdraw(core, SubmitError::Refused(refusal), Withdrawal::Refused);
            return;
        }
        self.admit(core);
        self.record_acceptance(core);
    }

    /// Goes on with an effect found unfinished at open.
    pub(crate) fn resume(self: &Arc<Self>, core: &Arc<Core>) {
        let poisoned = match self.state.lock().plain() {
            Some(plain) => plain.course.poisoned(),
            None => None,
        };
        match poisoned {
            // In the journal too: a clean close must not make it run again by itself.
            Some(why) => self.stick(core, &why),
            None => self.admit(core),
        }
    }

    pub(super) fn admit(self: &Arc<Self>, core: &Arc<Core>) {
        let Some((action, demand, round)) = self.next_action(core) else {
            return;
        };
        let grantee: Arc<dyn Grantee> = Arc::<Self>::clone(self);
        let admitted = core.executor.admit(&action, &demand, grantee);
        if admitted.is_ok() && demand.journal > ByteCount::default() {
            self.count_written();
        }
        match admitted {
            Ok(Admitted::Granted(permit)) => self.permitted(core, permit),
            Ok(Admitted::Queued(ticket)) => {
                let mut state = self.state.lock();
                let mine = state.round == round;
                let class = state.plain().map(|plain| plain.request.class);
                if let Some(place) = state.phase.place().filter(|_| mine) {
                    *place = Some(ticket);
                    drop(state);
                    self.wait_longer();
                    // A joiner may have been more urgent meanwhile.
                    if class != Some(demand.class) {
                        self.queue_anew(core);
                    }
                } else {
                    drop(state);
                    // Granted or withdrawn in the meantime: it must not keep a place.
                    let _ = ticket.cancel();
                }
            }
            Err(refusal) => self.not_admitted(core, refusal),
        }
    }

    /// Gives its place in the queue up for one in the class that it has now. Its old place is kept
    /// until the new one is there, and where there is none.
    pub(super) fn queue_anew(self: &Arc<Self>, core: &Arc<Core>) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Admitting(Some(_))) {
            return;
        }
        let round = state.round;
        let Some((action, demand)) = self.action(core, &mut state) else {
            return;
        };
        drop(state);
        let grantee: Arc<dyn Grantee> = Arc::<Self>::clone(self);
        let acquired = match core.executor.admit(&action, &demand, grantee) {
            Ok(acquired) => acquired,
            Err(refusal) => {
                tracing::debug!(key = %self.id.key, %refusal, "queued in its class of before");
                return;
            }
        };
        let mut state = self.state.lock();
        let mine = state.round == round;
        let Some(before) = state.phase.place().filter(|_| mine).map(Option::take) else {
            drop(state);
            // Granted or withdrawn in the meantime: it must not keep a second place.
            give_up(acquired);
            return;
        };
        match acquired {
            Admitted::Granted(permit) => {
                drop(state);
                self.permitted(core, permit);
            }
            Admitted::Queued(ticket) => {
                state.phase = Phase::Admitting(Some(ticket));
                state.asked = demand.deadline;
                drop(state);
                self.wait_longer();
            }
        }
        if let Some(before) = before {
            // If it was granted just now, `permitted` takes the first and gives back the second.
            let _ = before.cancel();
        }
    }

    /// What the next attempt does and on whose behalf; `None` if nothing is to be done any more.
    fn next_action(&self, core: &Core) -> Option<(Action, Demand, u64)> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Admitting(_) | Phase::BackingOff) {
            return None;
        }
        state.phase = Phase::Admitting(None);
        state.round += 1;
        let round = state.round;
        let (action, demand) = self.action(core, &mut state)?;
        state.asked = demand.deadline;
        Some((action, demand, round))
    }

    fn action(&self, core: &Core, state: &mut State) -> Option<(Action, Demand)> {
        let journal = self.intent_bytes(core, state);
        // It was promised: what refuses it for now is waited for.
        let patient = state.intent != Intent::None;
        let plain = state.plain()?;
        let code = Arc::clone(&plain.code);
        let input = plain.request.input.clone();
        let (action, lane) = match plain.course.mode() {
            Mode::Run => (Action::Run { code, input }, Lane::Ordinary),
            // Finding out what happened must not wait behind what has not happened yet.
            Mode::Reconcile => (Action::Reconcile { code, input }, Lane::Reserved),
            Mode::Sweep => (Action::Sweep { code }, Lane::Reserved),
        };
        let demand = Demand {
            account: Arc::clone(&self.account),
            audit: plain.request.audit,
            class: plain.request.class,
            lane,
            deadline: state.deadline(),
            patient,
            journal,
        };
        Some((action, demand))
    }

    /// Has the request for a permit wait as long as the most patient of the callers, if it does
    /// not already.
    pub(super) fn wait_longer(&self) {
        let mut state = self.state.lock();
        let (asked, deadline) = (state.asked, state.deadline());
        if !is_longer(deadline, asked) {
            return;
        }
        let Phase::Admitting(Some(ticket)) = &state.phase else {
            return;
        };
        let ticket = ticket.clone();
        state.asked = deadline;
        drop(state);
        ticket.extend(deadline);
    }

    fn not_admitted(self: &Arc<Self>, core: &Arc<Core>, refusal: Refusal) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Admitting(_)) {
            // Withdrawn in the meantime.
            return;
        }
        if let Refusal::BudgetPending { audit } = refusal {
            self.again_when_drawn(core, state, audit);
            return;
        }
        let accepted = state.intent != Intent::None;
        let late = matches!(refusal, Refusal::Expired | Refusal::PredictedLate { .. });
        if late && is_longer(state.deadline(), state.asked) {
            // Somebody came meanwhile who waits longer than it was asked for.
            self.ask_again_for_the_patient(core, state, refusal);
            return;
        }
        let Some(plain) = state.plain() else {
            return;
        };
        plain.refusals = plain.refusals.saturating_add(1);
        let (refusals, asks) = (plain.refusals, plain.course.asks());
        if accepted && refusal.is_retryable() {
            self.again_after(core, state, waited(refusals, core.draw()));
        } else if asks {
            // What may have happened is not forgotten because nobody may ask about it.
            drop(state);
            self.stick(
                core,
                &format!("its reconciliation is not admitted: {refusal}"),
            );
        } else {
            let (error, reason) = unadmitted(refusal);
            self.withdraw_locked(core, state, error, reason);
        }
    }

    /// Tells those for whom it is too late, and asks for a permit again for the others.
    fn ask_again_for_the_patient(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        refusal: Refusal,
    ) {
        let asked = state.asked;
        let (error, _) = unadmitted(refusal);
        let letters = state.waiters.answer(|waiter| {
            let late = waiter.deadline.is_some() && !is_longer(waiter.deadline, asked);
            late.then(|| Err(error.clone()))
        });
        state.phase = Phase::BackingOff;
        drop(state);
        wait::send(letters);
        self.admit(core);
    }

    pub(super) fn again_after(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        wait: Duration,
    ) {
        state.phase = Phase::BackingOff;
        let flight = Arc::clone(self);
        core.executor.runtime.after(wait, move || {
            if let Some(core) = flight.core.upgrade()
                && !core.has_ended()
            {
                flight.admit(&core);
            }
        });
    }

    /// A permit is here: what must be found again records its launch first, the rest just starts.
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
        plain.refusals = 0;
        let records = plain.fresh && plain.records;
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

    pub(super) fn launch(
        self: &Arc<Self>,
        core: &Arc<Core>,
        mut state: Locked<'_>,
        permit: Permit,
    ) {
        state.phase = Phase::Running;
        let Some(plain) = state.plain() else {
            return;
        };
        plain.fresh = false;
        plain.course.launched(core.clock.monotonic());
        let (code, input) = (Arc::clone(&plain.code), plain.request.input.clone());
        let patience = Bounds::within(core.limits.settle_timeout);
        let (action, bounds) = match plain.course.mode() {
            Mode::Run => (Action::Run { code, input }, plain.bounds),
            Mode::Reconcile => (Action::Reconcile { code, input }, patience),
            Mode::Sweep => (Action::Sweep { code }, patience),
        };
        let attempt = Attempt {
            remote_key: core.remote_key_of(self.id),
            fence: plain.fence,
            tenant: self.id.tenant,
            step: None,
            trace: plain.request.trace,
            cancel: Arc::clone(&self.cancel),
            pulse: Pulse::new(&core.clock),
        };
        drop(state);
        let owner: Arc<dyn Owner> = Arc::<Self>::clone(self);
        core.executor.launch(action, attempt, bounds, permit, owner);
    }

    fn judge(self: &Arc<Self>, core: &Arc<Core>, ended: Ended) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Running) {
            return;
        }
        let Some(plain) = state.plain() else {
            return;
        };
        let now = core.clock.monotonic();
        let ending = if core.has_ended() {
            ended.ending.at_the_end()
        } else {
            ended.ending
        };
        let verdict = plain.course.judge(ending, now, core.draw());
        let cancelled = plain.cancelled && !plain.course.asks();
        let mut fee = ended.fee;
        if !matches!(verdict, Verdict::Done(_) | Verdict::Permanent(_)) {
            // There is no outcome for it to ride in; before anybody is told.
            drop(std::mem::take(&mut fee));
        }
        match verdict {
            Verdict::Done(output) => {
                core.warn_of_output(&output);
                self.settle(core, state, Outcome::Done(output), fee);
            }
            Verdict::Permanent(failure) => {
                self.settle(core, state, Outcome::Failed(failure), fee);
            }
            Verdict::Again { .. } | Verdict::Repeat { .. } | Verdict::Exhausted(_) if cancelled => {
                let why = Withdrawal::Cancelled;
                self.withdraw_locked(core, state, SubmitError::Withdrawn(why), why);
            }
            Verdict::Exhausted(failure) => {
                core.executor.treasury.flush_if_due(core);
                let error = SubmitError::Exhausted(failure);
                self.withdraw_locked(core, state, error, Withdrawal::Exhausted);
            }
            Verdict::Again { after } => {
                plain.fresh = true;
                self.again_after(core, state, after);
            }
            Verdict::Repeat { after } => self.again_after(core, state, after),
            Verdict::Stuck(reason) => {
                drop(state);
                self.stick(core, &reason);
            }
            Verdict::Undone | Verdict::Onward => {
                drop(state);
                self.stick(core, "an undo ended where a computation was running");
            }
            // The next engine finds it as it is in the journal.
            Verdict::Leave => {}
        }
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
            | Phase::Broken(_)
            | Phase::Gone => return,
        };
        state.phase = Phase::Gone;
        drop(state);
        if let Some(core) = self.core.upgrade() {
            self.remove(&core);
        }
        if let Some(ticket) = ticket {
            // If the grant came first, `permitted` finds the flight gone and gives it back.
            let _ = ticket.cancel();
        }
    }

    /// Cancels a plain effect on behalf of whoever holds its ticket.
    pub(crate) fn cancel(self: &Arc<Self>, core: &Arc<Core>) -> Cancelled {
        let mut state = self.state.lock();
        let reconciling = match state.plain() {
            Some(plain) => plain.course.asks(),
            None => return Cancelled::TooLate,
        };
        if state.waiters.count(Want::Outcome) > 1 {
            return Cancelled::Shared;
        }
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
            | Phase::Broken(_)
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
        let why = Withdrawal::Cancelled;
        self.withdraw_locked(core, state, SubmitError::Withdrawn(why), why);
        if let Some(ticket) = ticket {
            let _ = ticket.cancel();
        }
        Cancelled::Withdrawn
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
        self.forget(core, self.state.lock(), error);
    }

    /// The saga behind this key goes on.
    pub(crate) fn saga_resumed(&self) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Stuck(_)) {
            state.phase = Phase::Driven;
        }
    }

    /// The outcome under this key, once that is durable.
    pub(crate) fn known(&self) -> Option<Arc<Settlement>> {
        match &self.state.lock().subject {
            Subject::Known(settlement) => Some(Arc::clone(settlement)),
            Subject::Effect(_) | Subject::Saga { .. } | Subject::Orphan { .. } => None,
        }
    }

    /// Whether it waits for an operator.
    pub(crate) fn is_stuck(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Stuck(_))
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
    pub(crate) fn tell_all(&self, reply: &Reply) {
        let letters = self.state.lock().waiters.answer_all(reply);
        wait::send(letters);
    }
}

/// Whether a deadline leaves more time than another one; none leaves the most.
fn is_longer(deadline: Option<Monotonic>, than: Option<Monotonic>) -> bool {
    match (deadline, than) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(deadline), Some(than)) => deadline > than,
    }
}

/// What callers are told when no permit is to be had.
fn unadmitted(refusal: Refusal) -> (SubmitError, Withdrawal) {
    if refusal == Refusal::Expired {
        // The same as when the caller's own clock is first.
        return (SubmitError::Expired, Withdrawal::Expired);
    }
    (SubmitError::Refused(refusal), Withdrawal::Refused)
}

/// Gives a permit, or a place in a queue, back.
fn give_up(acquired: Admitted) {
    match acquired {
        Admitted::Granted(permit) => drop(permit),
        Admitted::Queued(ticket) => {
            let _ = ticket.cancel();
        }
    }
}

impl Grantee for Flight {
    fn granted(self: Arc<Self>, permit: Permit) {
        if let Some(core) = self.core.upgrade() {
            self.permitted(&core, permit);
        }
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        if let Some(core) = self.core.upgrade() {
            core.executor.audit.refused(self.id.tenant, &refusal);
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
