//! Attempts: steps and undos on their way through admission, the executor and back.

use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{Grantee, Lane, Refusal};
use orlop_saga::amount::ByteCount;
use orlop_saga::canonical::Payload;
use orlop_saga::id::{Fence, StepIndex};
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use orlop_saga::saga::{CallKind, Hold, Origin, Phase, SagaEvent};
use orlop_saga::step::{Prior, Step, StepOutcome};

use super::Message;
use super::active::{Active, Place, StandDown, TaskOf};
use super::listener::Listener;
use super::run::{Deed, Run};
use crate::budget::Fee;
use crate::core::Core;
use crate::course::{Course, Mode, Verdict};
use crate::executor::{Action, Admitted, Demand, Ended};
use crate::host::{Attempt, Late};
use crate::lease::{Bounds, Pulse};
use crate::registry::UndoEntry;
use crate::saga::script::StepSpec;

/// How long an attempt waits after this many refusals in a row; it costs none.
fn waited(refusals: u32, draw: f64) -> Duration {
    let base = Duration::from_millis(20).saturating_mul(1 << refusals.min(6).saturating_sub(1));
    base.min(Duration::from_secs(1)).mul_f64(1.0 + draw)
}

impl Run {
    /// Wants nothing more of an attempt: it is asked to stop and not believed.
    pub(super) fn dismiss(&mut self, index: StepIndex) {
        if let Some(mut active) = self.active.remove(&index) {
            active.stand_down();
        }
    }

    /// The same of all attempts.
    pub(super) fn dismiss_all(&mut self) {
        for (_, mut active) in std::mem::take(&mut self.active) {
            active.stand_down();
        }
    }
}

impl Run {
    /// Whether the function's own steps are not wanted any more.
    pub(super) fn giving_up(&self) -> bool {
        let failed = self
            .player
            .as_ref()
            .is_some_and(|playing| matches!(playing.result, Some(Err(_))));
        self.state.doom().is_some() || failed
    }

    /// Goes on with a step whose attempt nobody saw the end of.
    pub(super) fn resume_step(
        &mut self,
        core: &Arc<Core>,
        index: StepIndex,
        spec: Arc<StepSpec>,
        fence: Fence,
        runs: u32,
        lost: (u32, u32),
    ) {
        let mut active = Active::step(core, spec, fence);
        let now = core.clock.monotonic();
        active.course.resume(runs, lost, now);
        if let Some(why) = active.course.poisoned() {
            let path = self.path(index);
            self.hold(Hold::Stuck(format!("step {path}: {why}")));
            return;
        }
        self.active.insert(index, active);
        self.relaunch(core, index);
    }

    /// Starts the undo of a step, or goes on with it.
    pub(super) fn start_undo(&mut self, core: &Arc<Core>, index: StepIndex, entry: Arc<UndoEntry>) {
        let kind = self.state.call(index).map(|call| &call.kind);
        let Some(CallKind::Step {
            code, step, runs, ..
        }) = kind
        else {
            return;
        };
        // Its attempts may have left something under names of their own.
        let scoped = match step.prior() {
            Some(Prior::InDoubt) => {
                let code = core.registry.code(&code.name);
                code.filter(|code| code.late == Some(Late::AttemptScoped))
            }
            Some(Prior::Done(_)) | None => None,
        };
        let begun = matches!(step, Step::Undoing { .. });
        let (fence, runs) = (step.fence(), if begun { *runs } else { 0 });
        let mut course = Course::new(None, core.limits.retry, core.limits.reconciles_max);
        course.resume(runs, (0, 0), core.clock.monotonic());
        if let Some(why) = course.poisoned() {
            let path = self.path(index);
            self.hold(Hold::Stuck(format!("the undo of step {path}: {why}")));
            return;
        }
        if scoped.is_some() {
            course.sweep_first();
        }
        let task = TaskOf::Undo(entry, scoped);
        self.active.insert(index, Active::new(task, course, fence));
        self.relaunch(core, index);
    }

    /// What waits for a permit while the saga is held waits for the saga instead.
    pub(super) fn stand_by(&mut self) {
        for active in self.active.values_mut() {
            if let Place::Queued(ticket) = &active.place
                && ticket.cancel()
            {
                active.place = Place::BackingOff;
                active.course.unlaunched();
            }
        }
    }

    /// Goes on with what was between two attempts when the saga was held.
    pub(super) fn relaunch_idle(&mut self, core: &Arc<Core>) {
        let idle = |(index, active): (&StepIndex, &mut Active)| {
            active.course.reset();
            matches!(active.place, Place::BackingOff).then_some(*index)
        };
        let indices: Vec<StepIndex> = self.active.iter_mut().filter_map(idle).collect();
        for index in indices {
            self.relaunch(core, index);
        }
    }

    pub(super) fn path(&self, index: StepIndex) -> String {
        self.state
            .call(index)
            .map(|call| call.path.to_string())
            .unwrap_or_default()
    }

    /// Records another attempt, under a fence of its own if it needs one, and has it launched.
    fn relaunch(&mut self, core: &Arc<Core>, index: StepIndex) {
        let Some(active) = self.active.get_mut(&index) else {
            return;
        };
        active.place = Place::Recorded;
        if active.fresh {
            active.fence = Fence::new(core.incarnation, active.fence.attempt.next());
            let fence = active.fence;
            let event = match active.task {
                TaskOf::Step(_) => {
                    let asks = active.course.asks();
                    SagaEvent::Relaunched {
                        step: index,
                        fence,
                        asks,
                    }
                }
                TaskOf::Undo(..) => SagaEvent::UndoLaunched { step: index, fence },
            };
            if !self.record(event) {
                self.active.remove(&index);
                return;
            }
        }
        self.then(Deed::Launch(index));
    }

    /// The record of an attempt is durable: it asks for a permit.
    pub(super) fn launch(&mut self, core: &Arc<Core>, index: StepIndex) {
        let forward = matches!(self.state.phase(), Phase::Running);
        if let Some(active) = self.active.get_mut(&index) {
            active.place = Place::BackingOff;
        }
        if forward && self.giving_up() {
            self.stand_down_one(index);
            return;
        }
        if self.state.hold().is_some() {
            // Kept as it is: it goes on when the saga does.
            return;
        }
        let Some((listener, demand)) = self.prepare(core, index) else {
            return;
        };
        let listener = Arc::new(listener);
        let grantee: Arc<dyn Grantee> = Arc::<Listener>::clone(&listener);
        let fence = listener.attempt.fence;
        let place = match core.executor.admit(&listener.action, &demand, grantee) {
            Ok(Admitted::Granted(permit)) => {
                listener.granted(permit);
                Place::Running
            }
            Ok(Admitted::Queued(ticket)) => Place::Queued(ticket),
            Err(refusal) => {
                self.refused(core, index, fence, &refusal);
                return;
            }
        };
        if let Some(active) = self.active.get_mut(&index) {
            active.place = place;
            active.written = ByteCount::default();
        }
    }

    fn prepare(&mut self, core: &Arc<Core>, index: StepIndex) -> Option<(Listener, Demand)> {
        let start = self.state.start();
        let tenant = start.id.tenant;
        let call = self.state.call(index)?;
        // Behind the pivot it goes on, however late it is.
        let due = self.due_at.filter(|_| !self.state.pivoted());
        let active = self.active.get_mut(&index)?;
        // What another saga ran keeps the name that the outside knows it by.
        let Origin { saga: by, epoch } = self.state.origin(self.id, index);
        let patience = Bounds::within(core.limits.settle_timeout);
        let step_key = RemoteKey::of_step(&core.store_id, tenant, by, &call.path, epoch);
        let (action, remote_key, lane, bounds) = match &active.task {
            TaskOf::Step(spec) => {
                let (code, input) = (Arc::clone(&spec.code), spec.input.clone());
                let (action, lane, bounds) = match active.course.mode() {
                    Mode::Run => (Action::Run { code, input }, Lane::Ordinary, spec.bounds),
                    Mode::Reconcile => {
                        (Action::Reconcile { code, input }, Lane::Reserved, patience)
                    }
                    Mode::Sweep => (Action::Sweep { code }, Lane::Reserved, patience),
                };
                (action, step_key, lane, bounds)
            }
            TaskOf::Undo(_, Some(code)) if active.course.mode() == Mode::Sweep => {
                let code = Arc::clone(code);
                (Action::Sweep { code }, step_key, Lane::Reserved, patience)
            }
            TaskOf::Undo(entry, _) => {
                let CallKind::Step {
                    undo: Some(undo),
                    step,
                    ..
                } = &call.kind
                else {
                    return None;
                };
                let argument: Payload = undo.argument.clone();
                let prior = step.prior()?;
                let entry = Arc::clone(entry);
                let action = Action::Undo {
                    entry,
                    argument,
                    step_key,
                    prior,
                };
                let key = RemoteKey::of_undo(&core.store_id, tenant, by, &call.path, epoch);
                // Compensation is never blocked by what failed.
                (action, key, Lane::Reserved, patience)
            }
        };
        let journal = active.written;
        active.course.launched(core.clock.monotonic());
        active.fresh = false;
        let attempt = Attempt {
            remote_key,
            fence: active.fence,
            tenant,
            step: Some((self.id, call.path.clone())),
            trace: start.trace,
            cancel: Arc::clone(&active.cancel),
            pulse: Pulse::new(&core.clock),
        };
        let demand = Demand {
            account: Arc::clone(&self.flight.account),
            audit: start.audit,
            class: start.class,
            lane,
            deadline: match lane {
                Lane::Ordinary => due,
                Lane::Reserved => None,
            },
            patient: true,
            journal,
        };
        let (executor, core) = (Arc::clone(&core.executor), Arc::downgrade(core));
        let saga = self.id;
        Some((
            Listener {
                core,
                executor,
                saga,
                step: index,
                action,
                attempt,
                bounds,
            },
            demand,
        ))
    }

    /// An attempt was not admitted. What passes is waited for; what does not is the step's end.
    pub(super) fn refused(
        &mut self,
        core: &Arc<Core>,
        index: StepIndex,
        fence: Fence,
        refusal: &Refusal,
    ) {
        let Some(active) = self.active.get_mut(&index) else {
            return;
        };
        if active.fence != fence {
            return;
        }
        active.place = Place::BackingOff;
        active.course.unlaunched();
        active.refusals = active.refusals.saturating_add(1);
        let (refusals, asks) = (active.refusals, active.course.asks());
        let undoing = matches!(active.task, TaskOf::Undo(..));
        // The saga's deadline does not move: what is too late for it stays so.
        let late = matches!(refusal, Refusal::PredictedLate { .. });
        if refusal.is_retryable() && !late {
            self.remind_retry(core, index, waited(refusals, core.draw()));
        } else if undoing || asks {
            // Never to be taken for a step without effect.
            self.active.remove(&index);
            if asks && self.unwinds_anyway() {
                return;
            }
            let what = if undoing { "undo" } else { "reconciliation" };
            let path = self.path(index);
            self.hold(Hold::Stuck(format!(
                "the {what} of step {path} is not admitted: {refusal}"
            )));
        } else {
            let failure = Failure::permanent(format!("not admitted: {refusal}"));
            self.settle(
                index,
                fence,
                StepOutcome::FailedNoEffect(failure),
                Fee::FREE,
            );
        }
    }

    fn remind_retry(&self, core: &Arc<Core>, step: StepIndex, wait: Duration) {
        if let Some(active) = self.active.get(&step) {
            let fence = active.fence;
            Self::remind(
                core,
                wait,
                Message::Retry {
                    saga: self.id,
                    step,
                    fence,
                },
            );
        }
    }

    /// The wait before an attempt is over.
    pub(super) fn retry(&mut self, core: &Arc<Core>, index: StepIndex, fence: Fence) {
        let waiting = self.active.get(&index).is_some_and(|active| {
            active.fence == fence && matches!(active.place, Place::BackingOff)
        });
        if waiting && self.state.hold().is_none() {
            self.relaunch(core, index);
        }
    }

    /// An attempt ended.
    pub(super) fn ended(&mut self, core: &Arc<Core>, index: StepIndex, fence: Fence, ended: Ended) {
        let Some(active) = self.active.get_mut(&index) else {
            return;
        };
        // A completion of an older fence is refused.
        if active.fence != fence {
            return;
        }
        active.place = Place::BackingOff;
        let now = core.clock.monotonic();
        let ending = if core.has_ended() {
            ended.ending.at_the_end()
        } else {
            ended.ending
        };
        let verdict = active.course.judge(ending, now, core.draw());
        let exhausted = match &verdict {
            Verdict::Exhausted(failure) => Some(failure.reason().to_owned()),
            Verdict::Stuck(reason) => Some(reason.clone()),
            Verdict::Done(_)
            | Verdict::Undone
            | Verdict::Permanent(_)
            | Verdict::Again { .. }
            | Verdict::Repeat { .. }
            | Verdict::Onward
            | Verdict::Leave => None,
        };
        self.act_on(core, index, fence, verdict, ended.fee);
        if let (Some(reason), Some(call)) = (exhausted, self.state.call(index)) {
            let path = call.path.clone();
            self.then(Deed::Exhausted(path, reason));
        }
    }

    /// Does what follows from the end of an attempt.
    fn act_on(
        &mut self,
        core: &Arc<Core>,
        index: StepIndex,
        fence: Fence,
        verdict: Verdict,
        fee: Fee,
    ) {
        match verdict {
            Verdict::Done(output) => {
                core.warn_of_output(&output);
                self.settle(index, fence, StepOutcome::Done(output), fee);
            }
            Verdict::Undone => {
                self.active.remove(&index);
                self.attach_draw(&fee);
                let cost = fee.cost();
                let event = SagaEvent::Undone {
                    step: index,
                    fence,
                    cost,
                };
                if self.record(event) {
                    fee.recorded();
                }
            }
            Verdict::Permanent(failure) => self.failed(index, fence, failure, fee),
            // After the pivot there is nothing to unwind: it waits for an operator, and then goes
            // on with the same step.
            Verdict::Exhausted(failure) if self.state.pivoted() => {
                self.active.remove(&index);
                let path = self.path(index);
                self.hold(Hold::Stuck(format!(
                    "step {path}, after the pivot: {failure}"
                )));
            }
            Verdict::Exhausted(failure) => self.failed(index, fence, failure, fee),
            // The next engine finds it as it is in the journal.
            // Not idle: nothing may be concluded from it here.
            Verdict::Leave => {
                if let Some(active) = self.active.get_mut(&index) {
                    active.place = Place::Running;
                }
            }
            Verdict::Again { after } => {
                if let Some(active) = self.active.get_mut(&index) {
                    active.fresh = true;
                    active.refusals = 0;
                }
                self.remind_retry(core, index, after);
            }
            Verdict::Repeat { after } => {
                if let Some(active) = self.active.get_mut(&index) {
                    active.refusals = 0;
                }
                self.remind_retry(core, index, after);
            }
            // Recorded already as what it goes on with.
            Verdict::Onward => self.relaunch(core, index),
            Verdict::Stuck(reason) => {
                self.active.remove(&index);
                if self.unwinds_anyway() {
                    return;
                }
                let path = self.path(index);
                self.hold(Hold::Stuck(format!("step {path}: {reason}")));
            }
        }
    }

    /// Whether a step in doubt need not be held for: its undo finds it in doubt.
    fn unwinds_anyway(&self) -> bool {
        matches!(self.state.phase(), Phase::Running) && self.giving_up() && !self.state.pivoted()
    }

    fn failed(&mut self, index: StepIndex, fence: Fence, failure: Failure, fee: Fee) {
        let undoing = self
            .active
            .get(&index)
            .is_some_and(|active| matches!(active.task, TaskOf::Undo(..)));
        if undoing {
            self.active.remove(&index);
            let path = self.path(index);
            self.hold(Hold::Stuck(format!(
                "the undo of step {path} failed, its effect remains: {failure}"
            )));
        } else {
            self.settle(index, fence, StepOutcome::FailedNoEffect(failure), fee);
        }
    }

    fn settle(&mut self, step: StepIndex, fence: Fence, outcome: StepOutcome, fee: Fee) {
        self.active.remove(&step);
        self.attach_draw(&fee);
        let cost = fee.cost();
        let event = SagaEvent::Settled {
            step,
            fence,
            outcome,
            cost,
        };
        if self.record(event) {
            fee.recorded();
        }
    }

    /// Withdraws what does not run yet; true once nothing of the saga runs any more.
    pub(super) fn stand_down(&mut self) -> bool {
        let indices: Vec<StepIndex> = self.active.keys().copied().collect();
        for index in indices {
            self.stand_down_one(index);
        }
        self.active.is_empty()
    }

    fn stand_down_one(&mut self, index: StepIndex) {
        let Some(active) = self.active.get_mut(&index) else {
            return;
        };
        let fence = active.fence;
        match active.stand_down() {
            StandDown::Running => {}
            StandDown::NoEffect => {
                let failure = Failure::retryable("given up, the saga unwinds or is held");
                let outcome = StepOutcome::FailedNoEffect(failure);
                self.settle(index, fence, outcome, Fee::FREE);
            }
            // Left as launched: its undo finds it in doubt.
            StandDown::InDoubt => {
                self.active.remove(&index);
            }
        }
    }
}
