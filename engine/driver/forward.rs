//! Forward: polling the function, and recording what it asks for.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use orlop_saga::id::Attempt as AttemptNumber;
use orlop_saga::id::{Fence, StepIndex};
use orlop_saga::path::StepPath;
use orlop_saga::saga::{
    Bond, CallIntent, CallKind, Delivery, Hold, PauseReason, Phase, SagaEvent, SagaState,
};
use orlop_saga::step::{Step, StepOutcome};
use orlop_saga::time::WallMillis;

use super::Message;
use super::active::Active;
use super::run::{Deed, Playing, Run};
use crate::core::Core;
use crate::executor::panic_text;
use crate::halfway;
use crate::saga::SagaContext;
use crate::saga::script::{Answer, Issue, Script, StepSpec};

/// How often a function may wake itself in one turn.
const POLLS_MAX: u32 = 10_000;

/// How long a sleep that a clock set back has made longer waits before the clock is read again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Whether a function woke itself while it was polled.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Run {
    /// Whether the function may move.
    fn playable(&self) -> bool {
        matches!(self.state.phase(), Phase::Running)
            && self.state.hold().is_none()
            && self.state.doom().is_none()
    }

    /// Polls the function to idle, tells it one outcome, and so on until nothing is left to tell.
    ///
    /// It is polled only when it was begun, told something or woke itself, so that a replay polls
    /// it just as often.
    pub(super) fn forward(&mut self, core: &Arc<Core>) {
        if !self.playable() || core.has_ended() {
            return;
        }
        let mut news = false;
        if self.player.is_none() {
            if self.rests() || !self.begin(core) {
                return;
            }
            news = true;
        }
        loop {
            if news {
                self.poll();
                self.record_issues(core);
            }
            if !self.playable() || self.must_wait() {
                return;
            }
            news = self.tell_next();
            if !news && !self.pass_pivot() {
                break;
            }
        }
        self.check_waiting();
    }

    /// Plays the function up to where the journal has it; nothing that it asks for is done.
    pub(super) fn play_recorded(&mut self, core: &Arc<Core>) {
        if !self.begin(core) {
            return;
        }
        loop {
            self.poll();
            let Some(playing) = &self.player else {
                return;
            };
            for issue in playing.script.take_issues() {
                if let Some(index) = issue.path().and_then(|path| self.state.find(path)) {
                    self.called(index);
                }
            }
            if self.must_wait() || !self.next_is_called() || !self.tell_next() {
                return;
            }
        }
    }

    /// Whether the function has called what it is to be told of next.
    fn next_is_called(&self) -> bool {
        let Some(playing) = &self.player else {
            return false;
        };
        match self.state.deliveries().get(playing.told) {
            Some(Delivery::Call(index)) => playing.called.contains(index),
            Some(Delivery::Pivot) => playing.script.pivot_asked(),
            None => false,
        }
    }

    /// Starts an execution of the function, from its beginning.
    fn begin(&mut self, core: &Arc<Core>) -> bool {
        let start = self.state.start();
        let Some(entry) = core.registry.saga(&start.code.name) else {
            let why = format!("saga {} is not registered", start.code);
            self.hold(Hold::Paused(PauseReason::Definition(why)));
            return false;
        };
        if entry.reference != start.code {
            let why = format!("it runs {}, registered is {}", start.code, entry.reference);
            self.hold(Hold::Paused(PauseReason::Definition(why)));
            return false;
        }
        let adopted = start
            .parent
            .is_some_and(|parent| parent.bond == Bond::Adopted);
        let script = Arc::new(Script::new(
            Arc::clone(&core.registry),
            core.limits,
            Arc::clone(&core.clock),
            notes(&self.state),
            adopted,
        ));
        let context = SagaContext::new(Arc::clone(&script));
        let input = start.input.clone();
        let output_max = core.limits.output_bytes_max;
        self.player = Some(Playing {
            script,
            future: Some(Arc::clone(&entry.code).start(context, input, output_max)),
            result: None,
            told: 0,
            called: BTreeSet::new(),
        });
        true
    }

    fn poll(&mut self) {
        for _ in 0..POLLS_MAX {
            let Some(playing) = &mut self.player else {
                return;
            };
            let Some(future) = &mut playing.future else {
                return;
            };
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut context = Context::from_waker(&waker);
            let poll = || future.as_mut().poll(&mut context);
            match catch_unwind(AssertUnwindSafe(poll)) {
                Ok(Poll::Pending) if woken.0.load(Ordering::Relaxed) => {}
                Ok(Poll::Pending) => return,
                Ok(Poll::Ready(result)) => {
                    playing.result = Some(result);
                    let future = playing.future.take();
                    if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
                        tracing::error!(saga = %self.id, "the saga's function panicked at its end");
                    }
                    return;
                }
                Err(panic) => {
                    let text = panic_text(&*panic);
                    self.hold(Hold::Paused(PauseReason::Panicked(text)));
                    return;
                }
            }
        }
        let why = format!("it wakes itself without end: {POLLS_MAX} polls in a row");
        self.diverged(why);
    }

    fn record_issues(&mut self, core: &Arc<Core>) {
        let issues = match &self.player {
            Some(playing) => playing.script.take_issues(),
            None => return,
        };
        for issue in issues {
            if !self.playable() {
                return;
            }
            match issue {
                Issue::Step(path, spec) => self.step_issued(core, &path, spec),
                Issue::Sleep(path, until) => self.sleep_issued(core, path, until),
                Issue::Child(path, spec) => self.child_issued(core, path, spec),
                Issue::Signal(path, name) => self.wait_issued(core, path, name),
                Issue::Note(path, intent) => self.note_issued(core, path, intent),
                // Asked for as long as the script says so.
                Issue::Pivot => {}
                Issue::Missing(path, name) => {
                    self.code_missing(&path, name);
                }
            }
        }
    }

    fn code_missing(&mut self, path: &StepPath, name: &str) {
        let why = format!("{path} needs {name:?}, which is not registered");
        self.hold(Hold::Paused(PauseReason::Definition(why)));
    }

    fn step_issued(&mut self, core: &Arc<Core>, path: &StepPath, spec: Arc<StepSpec>) {
        let audit = self.state.start().audit;
        if !core.check_seen(&self.flight.account, audit, &spec.code) {
            return self.code_missing(path, &spec.code.reference.name);
        }
        if let Some(index) = self.state.find(path) {
            self.step_replayed(core, index, path, spec);
            return;
        }
        let intent = CallIntent::Step {
            code: spec.code.reference.clone(),
            fingerprint: spec.fingerprint,
            fence: Fence::new(core.incarnation, AttemptNumber::new(1)),
            undo: spec.undo.clone(),
        };
        if let Some(index) = self.call(core, path.clone(), intent) {
            let active = Active::first(
                core,
                spec,
                Fence::new(core.incarnation, AttemptNumber::new(1)),
            );
            self.active.insert(index, active);
            self.then(Deed::Launch(index));
        }
    }

    fn step_replayed(
        &mut self,
        core: &Arc<Core>,
        index: StepIndex,
        path: &StepPath,
        spec: Arc<StepSpec>,
    ) {
        let Some(call) = self.state.call(index) else {
            return;
        };
        let CallKind::Step {
            code,
            fingerprint,
            step,
            runs,
            child: None,
            trail,
            ..
        } = &call.kind
        else {
            self.diverged(format!("{path} is recorded as something else than a step"));
            return;
        };
        if code.name != spec.code.reference.name || *fingerprint != spec.fingerprint {
            let was = code.clone();
            self.diverged(format!(
                "step {path} is recorded as {was} with another input"
            ));
            return;
        }
        if code.version != spec.code.reference.version {
            let why = format!(
                "step {path} runs {code}, registered is {}",
                spec.code.reference
            );
            self.hold(Hold::Paused(PauseReason::Definition(why)));
            return;
        }
        let launched = match step {
            Step::Launched { fence } => Some((*fence, *runs, (trail.lost_runs, trail.lost_asks))),
            Step::Settled { .. } | Step::Undoing { .. } | Step::Undone { .. } => None,
        };
        self.called(index);
        if let Some((fence, runs, lost)) = launched
            && !self.active.contains_key(&index)
        {
            // Nobody saw the end of this attempt: it is in doubt.
            self.resume_step(core, index, spec, fence, runs, lost);
        }
    }

    fn sleep_issued(&mut self, core: &Arc<Core>, path: StepPath, until: WallMillis) {
        match self.state.find(&path) {
            Some(index) => match self.state.call(index).map(|call| &call.kind) {
                Some(CallKind::Sleep { over, .. }) => {
                    let over = *over;
                    self.called(index);
                    if !over {
                        self.then(Deed::Sleep(index));
                    }
                }
                Some(
                    CallKind::Step { .. }
                    | CallKind::Now { .. }
                    | CallKind::Random { .. }
                    | CallKind::Signal { .. },
                )
                | None => {
                    self.diverged(format!("{path} is recorded as something else than a sleep"));
                }
            },
            None => {
                if let Some(index) = self.call(core, path, CallIntent::Sleep { until }) {
                    self.then(Deed::Sleep(index));
                }
            }
        }
    }

    fn wait_issued(&mut self, core: &Arc<Core>, path: StepPath, name: Box<str>) {
        let Some(index) = self.state.find(&path) else {
            self.call(core, path, CallIntent::Signal { name });
            return;
        };
        match self.state.call(index).map(|call| &call.kind) {
            Some(CallKind::Signal { name: waits, .. }) if *waits == name => self.called(index),
            Some(
                CallKind::Signal { .. }
                | CallKind::Step { .. }
                | CallKind::Sleep { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. },
            )
            | None => self.diverged(format!(
                "{path} is recorded as something else than a wait for {name:?}"
            )),
        }
    }

    fn note_issued(&mut self, core: &Arc<Core>, path: StepPath, intent: CallIntent) {
        let Some(index) = self.state.find(&path) else {
            self.call(core, path, intent);
            return;
        };
        let recorded = match self.state.call(index).map(|call| &call.kind) {
            Some(CallKind::Now { at }) => Some(CallIntent::Now { at: *at }),
            Some(CallKind::Random { value }) => Some(CallIntent::Random { value: *value }),
            Some(CallKind::Step { .. } | CallKind::Sleep { .. } | CallKind::Signal { .. })
            | None => None,
        };
        let same = recorded == Some(intent);
        if same {
            self.called(index);
        } else {
            self.diverged(format!(
                "{path} is recorded as something else than what it asks for"
            ));
        }
    }

    /// Records a new call.
    pub(super) fn call(
        &mut self,
        core: &Arc<Core>,
        path: StepPath,
        intent: CallIntent,
    ) -> Option<StepIndex> {
        let calls = self.state.calls().len();
        if calls >= core.limits.saga_calls_max {
            self.hold(Hold::Stuck(format!("it made {calls} calls, the limit")));
            return None;
        }
        let output_max = core.limits.output_bytes_max as u64;
        let open = self.state.open_steps() as u64 + 1;
        let bytes_max = core.limits.saga_bytes_max as u64;
        let undo = match &intent {
            CallIntent::Step {
                undo: Some(undo), ..
            }
            | CallIntent::Child {
                undo: Some(undo), ..
            } => undo.argument.len() as u64,
            CallIntent::Step { undo: None, .. }
            | CallIntent::Child { undo: None, .. }
            | CallIntent::Sleep { .. }
            | CallIntent::Now { .. }
            | CallIntent::Random { .. }
            | CallIntent::Signal { .. } => 0,
        };
        let bytes = self.state.payload_bytes().saturating_add(undo);
        // Every open step may bring an output, and the saga itself one more.
        if bytes.saturating_add((open + 1) * output_max) > bytes_max {
            let why = format!("its history of {bytes} bytes leaves no room for another outcome");
            self.hold(Hold::Stuck(why));
            return None;
        }
        let (limits, marks) = (&core.limits, &core.marks);
        let (limit, max) = ("limits.saga_calls_max", limits.saga_calls_max);
        halfway::size(&marks.saga_calls, limit, calls, max);
        let (limit, max) = ("limits.saga_bytes_max", limits.saga_bytes_max);
        let value = usize::try_from(bytes).unwrap_or(usize::MAX);
        halfway::size(&marks.saga_bytes, limit, value, max);
        let index = StepIndex::new(u32::try_from(calls).unwrap_or(u32::MAX));
        if !self.record(SagaEvent::Called { path, intent }) {
            return None;
        }
        self.called(index);
        Some(index)
    }

    pub(super) fn called(&mut self, index: StepIndex) {
        if let Some(playing) = &mut self.player {
            playing.called.insert(index);
        }
    }

    /// Tells the function the next recorded outcome, in the order of the journal.
    fn tell_next(&mut self) -> bool {
        let Some(playing) = &mut self.player else {
            return false;
        };
        if playing.result.is_some() {
            return false;
        }
        let Some(delivery) = self.state.deliveries().get(playing.told).copied() else {
            return false;
        };
        let index = match delivery {
            Delivery::Pivot => {
                if !playing.script.pivot_asked() {
                    self.diverged("it has passed its pivot and does not ask for it".to_owned());
                    return false;
                }
                playing.told += 1;
                playing.script.deliver_pivot();
                return true;
            }
            Delivery::Call(index) => index,
        };
        let Some(call) = self.state.call(index) else {
            return false;
        };
        if !playing.called.contains(&index) {
            let path = call.path.clone();
            self.diverged(format!(
                "{path} is recorded before this point and was not called"
            ));
            return false;
        }
        let answer = match &call.kind {
            CallKind::Step { step, .. } => match step {
                Step::Settled { outcome, .. } => Answer::Step(match outcome {
                    StepOutcome::Done(output) => Ok(output.clone()),
                    StepOutcome::FailedNoEffect(failure) => Err(failure.clone()),
                }),
                Step::Launched { .. } | Step::Undoing { .. } | Step::Undone { .. } => return false,
            },
            CallKind::Signal { .. } => match self.state.taken(index) {
                Some(signal) => Answer::Signal(signal.payload.clone()),
                None => return false,
            },
            CallKind::Sleep { .. } | CallKind::Now { .. } | CallKind::Random { .. } => {
                Answer::Awake
            }
        };
        playing.told += 1;
        playing.script.deliver(call.path.clone(), answer);
        true
    }

    /// Passes the pivot once no sibling runs.
    fn pass_pivot(&mut self) -> bool {
        let asked = self
            .player
            .as_ref()
            .is_some_and(|playing| playing.result.is_none() && playing.script.pivot_asked());
        asked
            && !self.state.pivoted()
            && self.state.open_steps() == 0
            && self.record(SagaEvent::Pivoted)
    }

    /// A function that waits for nothing recorded waits for something that no replay would bring.
    fn check_waiting(&mut self) {
        let Some(playing) = &self.player else {
            return;
        };
        let waits_for_pivot = playing.script.pivot_asked() && !self.state.pivoted();
        if playing.result.is_none() && !self.state.has_open_call() && !waits_for_pivot {
            self.diverged("it waits for something that is no call of its context".to_owned());
        }
    }

    pub(super) fn diverged(&mut self, why: String) {
        self.hold(Hold::Paused(PauseReason::Nondeterminism(why)));
    }

    /// Begins, or goes on with, a sleep whose record is durable.
    pub(super) fn sleep(&mut self, core: &Arc<Core>, step: StepIndex) {
        if let Some(CallKind::Sleep { until, over: false }) =
            self.state.call(step).map(|call| &call.kind)
        {
            if self.asleep.contains_key(&step) {
                // Its timer runs already.
                return;
            }
            let wait = until.since(core.clock.wall());
            self.wake_after(core, step, wait);
        }
    }

    fn wake_after(&mut self, core: &Arc<Core>, step: StepIndex, wait: Duration) {
        let saga = self.id;
        let alarm = Self::alarm(core, wait, Message::Wake { saga, step });
        self.asleep.insert(step, alarm);
    }

    pub(super) fn woke(&mut self, core: &Arc<Core>, step: StepIndex) {
        if let Some(CallKind::Sleep { until, over: false }) =
            self.state.call(step).map(|call| &call.kind)
            && *until > core.clock.wall()
        {
            // The wall clock was set back: the sleep is longer, but not longer than until the
            // clock is set right.
            let left = until.since(core.clock.wall());
            self.wake_after(core, step, left.min(LOOK_AGAIN));
            return;
        }
        self.asleep.remove(&step);
        let asleep = matches!(
            self.state.call(step).map(|call| &call.kind),
            Some(CallKind::Sleep { over: false, .. })
        );
        if asleep && self.playable() {
            self.record(SagaEvent::Woke { step });
        }
    }
}

/// What time and randomness were in the execution that was recorded.
pub(crate) fn notes(state: &SagaState) -> HashMap<StepPath, CallIntent> {
    let note = |kind: &CallKind| match kind {
        CallKind::Now { at } => Some(CallIntent::Now { at: *at }),
        CallKind::Random { value } => Some(CallIntent::Random { value: *value }),
        CallKind::Step { .. } | CallKind::Sleep { .. } | CallKind::Signal { .. } => None,
    };
    let calls = state.calls().iter();
    calls
        .filter_map(|call| Some((call.path.clone(), note(&call.kind)?)))
        .collect()
}
