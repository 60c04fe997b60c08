//! Children: a saga that waits for another one, and one that another one waits for.
//!
//! Parent and child are played each for itself, with a history of its own, and tell each other by
//! messages. A message that is lost with the process is sent again by whoever needs the answer:
//! the fold of each says where it is.
//!
//! Invariants
//! - A child is started only after the call that starts it is durable, and only if the fold has
//!   none for that call.
//! - A parent is told of an end only once that is durable, and a child is let go only once its
//!   parent's end is.

use std::sync::Arc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::effect::EffectId;
use orlop_saga::id::Attempt as AttemptNumber;
use orlop_saga::id::{Fence, SagaId, StepIndex};
use orlop_saga::key::Key;
use orlop_saga::outcome::{Failure, Outcome};
use orlop_saga::path::StepPath;
use orlop_saga::saga::{
    CallIntent, CallKind, Cause, Hold, Parent, PauseReason, Phase, SagaEvent, SagaStart,
};
use orlop_saga::step::{Step, StepOutcome};

use super::Message;
use super::run::{Deed, Run};
use super::words::hold_text;
use crate::core::Core;
use crate::saga::script::ChildSpec;

/// What a parent tells its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To unwind, if it has not ended.
    Cancel,
    /// To unwind although it has ended well.
    Recall,
    /// To go on.
    Resume,
    /// That it will not be recalled.
    Release,
}

/// What a child tells its parent.
pub(crate) enum News {
    /// It has ended.
    Ended(StepOutcome),
    /// It had ended well, and everything it did is undone.
    Undone,
    /// It was never started, or is not there any more.
    Missing,
    /// It does not move, or does again.
    Held(Option<Arc<str>>),
}

/// What a saga waits for of one child.
pub(super) struct Attending {
    spec: Option<Arc<ChildSpec>>,
    /// Whether the child was asked to tell.
    asked: bool,
    cancelled: bool,
}

impl Run {
    pub(super) fn child_issued(&mut self, core: &Arc<Core>, path: StepPath, spec: Arc<ChildSpec>) {
        if let Some(index) = self.state.find(&path) {
            self.child_replayed(index, &path, spec);
            return;
        }
        let (depth, depth_max) = (self.state.depth() + 1, core.limits.saga_depth_max);
        let (children, children_max) = (self.state.children(), core.limits.saga_children_max);
        if depth > depth_max || children >= children_max {
            self.hold(Hold::Stuck(format!(
                "{path} is a child at depth {depth} of {depth_max}, after {children} of {children_max}"
            )));
            return;
        }
        let intent = CallIntent::Child {
            code: spec.code.clone(),
            fingerprint: spec.fingerprint,
            fence: Fence::new(core.incarnation, AttemptNumber::new(1)),
            undo: spec.undo.clone(),
            bond: spec.bond,
        };
        if let Some(index) = self.call(core, path, intent) {
            self.await_child(index, spec);
        }
    }

    fn child_replayed(&mut self, index: StepIndex, path: &StepPath, spec: Arc<ChildSpec>) {
        let Some(CallKind::Step {
            code,
            fingerprint,
            step,
            child: Some(_),
            ..
        }) = self.state.call(index).map(|call| &call.kind)
        else {
            self.diverged(format!("{path} is recorded as something else than a child"));
            return;
        };
        if code.name != spec.code.name || *fingerprint != spec.fingerprint {
            let was = code.clone();
            self.diverged(format!(
                "child {path} is recorded as {was} with another input"
            ));
            return;
        }
        if code.version != spec.code.version {
            let why = format!("child {path} runs {code}, registered is {}", spec.code);
            self.hold(Hold::Paused(PauseReason::Definition(why)));
            return;
        }
        let open = matches!(step, Step::Launched { .. });
        self.called(index);
        if open && !self.children.get(&index).is_some_and(|one| one.asked) {
            self.await_child(index, spec);
        }
    }

    fn await_child(&mut self, index: StepIndex, spec: Arc<ChildSpec>) {
        let attending = Attending {
            spec: Some(spec),
            asked: false,
            cancelled: false,
        };
        self.children.insert(index, attending);
        self.then(Deed::Attend(index));
    }

    /// The call of a child is durable: it is started, or found.
    pub(super) fn attend(&mut self, core: &Arc<Core>, step: StepIndex) {
        let unwanted = self.giving_up();
        if self.state.hold().is_some() && !unwanted {
            // Asked for again when the saga goes on.
            self.children.remove(&step);
            return;
        }
        let birth = match self.children.get(&step).and_then(|one| one.spec.clone()) {
            Some(spec) if !unwanted => self.birth(core, step, &spec),
            Some(_) | None => None,
        };
        let Some(attending) = self.children.get_mut(&step) else {
            return;
        };
        attending.asked = true;
        let parent = self.id;
        core.driver.tell(Message::Attend {
            parent,
            step,
            birth,
        });
    }

    fn birth(&self, core: &Core, step: StepIndex, spec: &ChildSpec) -> Option<Box<SagaStart>> {
        let call = self.state.call(step)?;
        let start = self.state.start();
        let tenant = start.id.tenant;
        Some(Box::new(SagaStart {
            id: EffectId {
                tenant,
                key: Key::of_child(tenant, self.id, &call.path),
            },
            fingerprint: spec.fingerprint,
            code: spec.code.clone(),
            input: spec.input.clone(),
            class: start.class,
            audit: start.audit,
            trace: start.trace,
            at: core.clock.wall(),
            retention_ms: u64::try_from(spec.retention.as_millis()).unwrap_or(u64::MAX),
            paused: false,
            deadline: None,
            parent: Some(Parent {
                saga: self.id,
                step,
                depth: self.state.depth() + 1,
                bond: spec.bond,
            }),
        }))
    }

    /// Cancels the children that run; true once none does.
    pub(super) fn stand_down_children(&mut self, core: &Arc<Core>) -> bool {
        let calls = (0_u32..).zip(self.state.calls());
        let open = |kind: &CallKind| match kind {
            CallKind::Step { child, step, .. } => {
                child.is_some() && matches!(step, Step::Launched { .. })
            }
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => false,
        };
        let open: Vec<StepIndex> = calls
            .filter(|(_, call)| open(&call.kind))
            .map(|(index, _)| StepIndex::new(index))
            .collect();
        for step in &open {
            let unseen = !self.children.contains_key(step);
            let attending = self.children.entry(*step).or_insert(Attending {
                spec: None,
                asked: true,
                cancelled: false,
            });
            if !attending.asked || std::mem::replace(&mut attending.cancelled, true) {
                continue;
            }
            if unseen {
                // Found at open: there may be none yet.
                let (parent, step, birth) = (self.id, *step, None);
                core.driver.tell(Message::Attend {
                    parent,
                    step,
                    birth,
                });
            }
            self.command(core, *step, Command::Cancel);
        }
        open.is_empty()
    }

    fn command(&self, core: &Core, step: StepIndex, command: Command) {
        let parent = self.id;
        core.driver.tell(Message::Command {
            parent,
            step,
            command,
        });
    }

    /// Has an adopted child undo what it did.
    pub(super) fn recall(&mut self, core: &Arc<Core>, index: StepIndex) {
        let Some(CallKind::Step { step, .. }) = self.state.call(index).map(|call| &call.kind)
        else {
            return;
        };
        if !matches!(step, Step::Undoing { .. }) {
            let fence = Fence::new(core.incarnation, step.fence().attempt.next());
            if !self.record(SagaEvent::UndoLaunched { step: index, fence }) {
                return;
            }
        }
        let attending = Attending {
            spec: None,
            asked: true,
            cancelled: false,
        };
        self.children.insert(index, attending);
        self.then(Deed::Recall(index));
    }

    /// The wish to recall a child is durable.
    pub(super) fn recall_recorded(&self, core: &Core, index: StepIndex) {
        self.command(core, index, Command::Recall);
    }

    /// A child tells something.
    pub(super) fn child_told(&mut self, core: &Arc<Core>, index: StepIndex, news: News) {
        let (outcome, missing) = match news {
            News::Held(reason) => {
                self.stalled_by(core, index, reason);
                return;
            }
            News::Ended(outcome) => (outcome, false),
            News::Undone => (no_effect("it is undone"), false),
            News::Missing => (no_effect("it was not started"), true),
        };
        self.stalled_by(core, index, None);
        let Some(CallKind::Step { step, .. }) = self.state.call(index).map(|call| &call.kind)
        else {
            return;
        };
        let (fence, cost) = (step.fence(), BusyNanos::default());
        let event = match step {
            Step::Launched { .. } => SagaEvent::Settled {
                step: index,
                fence,
                outcome,
                cost,
            },
            Step::Undoing { .. } if missing => {
                let path = self.path(index);
                let why = format!("child {path} cannot be undone: it is not there");
                self.hold(Hold::Stuck(why));
                return;
            }
            Step::Undoing { .. } => SagaEvent::Undone {
                step: index,
                fence,
                cost,
            },
            // Told before.
            Step::Settled { .. } | Step::Undone { .. } => return,
        };
        self.children.remove(&index);
        self.record(event);
    }

    /// A child does not move, or does again: so it is with this saga.
    fn stalled_by(&mut self, core: &Core, index: StepIndex, reason: Option<Arc<str>>) {
        let changed = match reason {
            Some(reason) => {
                let text = format!("child {}: {reason}", self.path(index));
                self.stalled.insert(index, Arc::from(text));
                true
            }
            None => self.stalled.remove(&index).is_some(),
        };
        if !changed || self.state.hold().is_some() {
            return;
        }
        let why = self.stalled.values().next().map(Arc::clone);
        match &why {
            Some(why) => self.flight.hold(why),
            None => self.flight.saga_resumed(),
        }
        self.tell_parent(core, News::Held(why));
    }

    /// Its children go on, as it does.
    pub(super) fn resume_children(&self, core: &Core) {
        for step in self.stalled.keys() {
            self.command(core, *step, Command::Resume);
        }
    }

    /// It has ended for good: its children will not be recalled.
    pub(super) fn release_children(&self, core: &Core) {
        for (index, call) in (0_u32..).zip(self.state.calls()) {
            if let CallKind::Step { child: Some(_), .. } = &call.kind {
                self.command(core, StepIndex::new(index), Command::Release);
            }
        }
    }

    /// Its parent tells it something.
    pub(super) fn commanded(&mut self, core: &Arc<Core>, command: Command) {
        match command {
            Command::Cancel => {
                let free = !self.state.ended() && !self.state.pivoted();
                if free
                    && !self.state.cancel_requested()
                    && self.record(SagaEvent::CancelRequested)
                    && matches!(self.state.phase(), Phase::Running)
                {
                    self.resume(core);
                }
            }
            Command::Recall => {
                let cause = Cause::Recalled;
                if !matches!(self.state.phase(), Phase::Completed { .. }) {
                    self.report(core);
                } else if !self.record(SagaEvent::UnwindingStarted { cause }) {
                    self.tell_parent(core, News::Missing);
                }
            }
            Command::Resume => {
                self.resume(core);
                self.resume_children(core);
            }
            Command::Release => self.release(),
        }
        self.advance(core);
    }

    /// Nobody will recall it: once it has ended, its outcome is final.
    pub(super) fn release(&mut self) {
        self.orphaned = true;
        if self.state.ended() && !self.state.released() && self.record(SagaEvent::Released) {
            self.finish();
        }
    }

    /// Tells its parent where it is, as far as that is the parent's business.
    pub(super) fn report(&mut self, core: &Core) {
        if self.orphaned {
            self.release();
        } else {
            self.report_now(core);
        }
    }

    pub(super) fn report_now(&self, core: &Core) {
        let recalled = matches!(
            self.state.phase(),
            Phase::Compensated {
                cause: Cause::Recalled,
                ..
            }
        );
        let news = match self.state.outcome().map(|(outcome, _)| outcome) {
            Some(_) if recalled => News::Undone,
            Some(Outcome::Done(output)) => News::Ended(StepOutcome::Done(output)),
            Some(Outcome::Failed(failure)) => News::Ended(StepOutcome::FailedNoEffect(failure)),
            // The fold refuses that of a child.
            Some(Outcome::Blob(_)) => News::Missing,
            None => match (self.state.hold(), self.stalled.values().next()) {
                (Some(hold), _) => News::Held(Some(hold_text(hold))),
                (None, Some(why)) => News::Held(Some(Arc::clone(why))),
                (None, None) => return,
            },
        };
        self.tell_parent(core, news);
    }

    pub(super) fn tell_parent(&self, core: &Core, news: News) {
        if let Some(parent) = self.state.start().parent {
            core.driver.tell(Message::News {
                saga: parent.saga,
                step: parent.step,
                news,
            });
        }
    }

    /// The saga that started it, if one did.
    pub(super) fn parent(&self) -> Option<SagaId> {
        Some(self.state.start().parent?.saga)
    }
}

fn no_effect(why: &str) -> StepOutcome {
    StepOutcome::FailedNoEffect(Failure::permanent(why))
}

/// The key of a child stands for something else: its tenant submitted that under it.
pub(super) fn key_taken() -> News {
    News::Ended(no_effect("its key stands for another request"))
}
