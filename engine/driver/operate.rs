//! What an operator has done to a saga: each verb is recorded, and told once it is durable.

use std::sync::Arc;

use orlop_saga::audit::{Object, Operation};
use orlop_saga::canonical::Payload;
use orlop_saga::compat::{Format, v1};
use orlop_saga::id::{Fence, SagaId, StepIndex, TenantId};
use orlop_saga::outcome::clip;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{
    CallKind, Heir, Hold, NoFork, PauseReason, Phase, SagaEvent, SagaState, StatusKind,
};
use orlop_saga::step::Step;
use orlop_saga::tenant::AuditTag;

use super::Tell;
use super::run::{Deed, Run};
use crate::core::Core;
use crate::operator::{SagaPage, SagaQuery, SagaSummary};

/// How many sagas are looked at for one page: the driver does nothing else meanwhile.
const LOOKED_AT_MAX: usize = 4096;

/// What an operator wants of one saga.
pub(crate) struct Wish {
    /// Whose sagas the operator may touch; everybody's if `None`.
    pub(crate) scope: Option<TenantId>,
    pub(crate) verb: Verb,
}

/// See [`Wish`].
pub(crate) enum Verb {
    /// To see it.
    Show(Tell<Result<Box<SagaState>, Fault>>),
    /// To change it.
    Order(Order, Tell<Result<(), Fault>>),
}

/// What is to be changed.
pub(crate) enum Order {
    Pause {
        note: String,
    },
    Resume,
    Retry {
        path: StepPath,
    },
    Skip {
        path: StepPath,
        code: &'static str,
        output: Payload,
        note: String,
    },
    SkipUndo {
        path: StepPath,
        note: String,
    },
    Abandon {
        note: String,
    },
}

/// Why a wish was not fulfilled. Nothing was recorded, but for `NotRecorded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no such saga here.
    Unknown,
    /// It is another tenant's, which was audited. To whoever asks it is unknown.
    Foreign,
    /// It has ended.
    Ended(StatusKind),
    /// It moves by itself.
    Moving,
    /// It has no such step.
    NoSuchStep,
    /// The step, or its undo, does not wait for an operator.
    NotOpen,
    /// The step runs something else.
    OtherCode(String),
    /// Children of it run.
    Children(usize),
    /// It leaves no room within its bounds.
    TooLarge,
    /// There can be no fork from there.
    NoFork(NoFork),
    /// Whether it is durable is unknown.
    NotRecorded(String),
}

impl Wish {
    /// Tells whoever wished that nothing came of it.
    pub(super) fn refuse(self, fault: Fault) {
        match self.verb {
            Verb::Show(tell) => {
                let _ = tell.send(Err(fault));
            }
            Verb::Order(_, tell) => {
                let _ = tell.send(Err(fault));
            }
        }
    }
}

/// The sagas of a page, in the order of their ids.
pub(super) fn page<'a>(
    runs: impl Iterator<Item = (&'a SagaId, &'a Run)>,
    scope: Option<TenantId>,
    query: &SagaQuery,
) -> SagaPage {
    let mut page = SagaPage::default();
    for (looked_at, (id, run)) in runs.enumerate() {
        if page.sagas.len() >= query.limit || looked_at >= LOOKED_AT_MAX {
            return page;
        }
        page.next = Some(*id);
        if scope.is_some_and(|tenant| tenant != run.flight.id.tenant) {
            continue;
        }
        let code = &run.state.start().code;
        match run.summary() {
            Some(summary) if query.matches(&summary) => page.sagas.push(summary),
            Some(_) => {}
            None if query.is_of(run.flight.id.tenant, &code.name, code.version) => {
                page.starting += 1;
            }
            None => {}
        }
    }
    page.next = None;
    page
}

impl Run {
    /// What is durable of it, in short; `None` before its start is.
    fn summary(&self) -> Option<SagaSummary> {
        let start = self.state.start();
        Some(SagaSummary {
            saga: self.id,
            tenant: start.id.tenant,
            key: start.id.key,
            name: start.code.name.clone(),
            version: start.code.version,
            status: self.shown.clone()?,
            started_at: start.at,
        })
    }

    /// An operator wants something.
    pub(super) fn operate(&mut self, core: &Arc<Core>, wish: Wish) {
        if self.is_foreign(core, &wish) {
            wish.refuse(Fault::Foreign);
            return;
        }
        match wish.verb {
            Verb::Show(tell) => {
                // Told once all of it is durable.
                let state = Box::new(self.state.clone());
                self.then(Deed::Shown(state, tell));
            }
            Verb::Order(order, tell) => match self.order(core, order) {
                Ok(()) => self.then(Deed::Ordered(tell)),
                Err(fault) => {
                    let _ = tell.send(Err(fault));
                }
            },
        }
    }

    /// Whether it is wished by another tenant than the saga's, which is denied and audited.
    fn is_foreign(&self, core: &Core, wish: &Wish) -> bool {
        let owner = self.flight.id.tenant;
        let Some(stranger) = wish.scope.filter(|scope| *scope != owner) else {
            return false;
        };
        let operation = match wish.verb {
            Verb::Show(_) => Operation::Look,
            Verb::Order(..) => Operation::Change,
        };
        let (tag, object) = (AuditTag::default(), Object::Saga(self.id));
        core.executor
            .audit
            .denied(stranger, tag, operation, object, Some(owner));
        true
    }

    /// The same, of one that is over.
    pub(super) fn operate_ended(&self, core: &Core, wish: Wish) {
        let foreign = self.is_foreign(core, &wish);
        match wish.verb {
            Verb::Show(tell) if !foreign => {
                let _ = tell.send(Ok(Box::new(self.state.clone())));
            }
            verb @ (Verb::Show(_) | Verb::Order(..)) => {
                let fault = if foreign {
                    Fault::Foreign
                } else {
                    Fault::Ended(self.state.status_kind())
                };
                Wish { verb, ..wish }.refuse(fault);
            }
        }
    }

    fn order(&mut self, core: &Arc<Core>, order: Order) -> Result<(), Fault> {
        if self.state.ended() {
            return Err(Fault::Ended(self.state.status_kind()));
        }
        match order {
            Order::Pause { note } => {
                // Held for another reason, it does not move either.
                let note = clip(note);
                let held = Hold::Paused(PauseReason::Operator(note.clone()));
                self.check_format(&SagaEvent::Held(held))?;
                self.hold(Hold::Paused(PauseReason::Operator(note)));
                Ok(())
            }
            Order::Resume => {
                self.resume(core);
                self.resume_children(core);
                Ok(())
            }
            Order::Retry { path } => self.retry_step(core, &path),
            Order::Skip {
                path,
                code,
                output,
                note,
            } => self.skip_step(core, &path, code, output, note),
            Order::SkipUndo { path, note } => self.skip_undo(core, &path, note),
            Order::Abandon { note } => self.abandon(core, note),
        }
    }

    /// The step at a path and how far it is, if it is no child.
    fn step_at(&self, path: &StepPath) -> Result<(StepIndex, &Step), Fault> {
        let index = self.state.find(path).ok_or(Fault::NoSuchStep)?;
        match self.state.call(index).map(|call| &call.kind) {
            Some(CallKind::Step {
                step, child: None, ..
            }) => Ok((index, step)),
            Some(
                CallKind::Step { .. }
                | CallKind::Sleep { .. }
                | CallKind::Now { .. }
                | CallKind::Random { .. }
                | CallKind::Signal { .. },
            )
            | None => Err(Fault::NoSuchStep),
        }
    }

    fn check_held(&self) -> Result<(), Fault> {
        match self.state.hold() {
            Some(_) => Ok(()),
            None => Err(Fault::Moving),
        }
    }

    /// A fence above every attempt of a step.
    fn fence_above(core: &Core, step: &Step) -> Fence {
        Fence::new(core.incarnation, step.fence().attempt.next())
    }

    fn retry_step(&mut self, core: &Arc<Core>, path: &StepPath) -> Result<(), Fault> {
        let (index, step) = self.step_at(path)?;
        self.check_held()?;
        let fence = Self::fence_above(core, step);
        match step {
            Step::Launched { .. } | Step::Undoing { .. } => {}
            Step::Settled { .. } if self.state.can_reopen(index) => {
                self.decree(SagaEvent::Reopened { step: index, fence })?;
            }
            Step::Settled { .. } | Step::Undone { .. } => return Err(Fault::NotOpen),
        }
        self.resume(core);
        Ok(())
    }

    fn skip_step(
        &mut self,
        core: &Arc<Core>,
        path: &StepPath,
        code: &'static str,
        output: Payload,
        note: String,
    ) -> Result<(), Fault> {
        let (index, step) = self.step_at(path)?;
        let fence = Self::fence_above(core, step);
        let launched = matches!(step, Step::Launched { .. });
        self.check_held()?;
        if let Some(CallKind::Step { code: ran, .. }) = self.state.call(index).map(|c| &c.kind)
            && *ran.name != *code
        {
            return Err(Fault::OtherCode(ran.name.to_string()));
        }
        let open = matches!(self.state.phase(), Phase::Running)
            && (launched || self.state.can_reopen(index));
        if !open {
            return Err(Fault::NotOpen);
        }
        let bytes_max = core.limits.saga_bytes_max as u64;
        if self
            .state
            .payload_bytes()
            .saturating_add(output.len() as u64)
            > bytes_max
        {
            return Err(Fault::TooLarge);
        }
        let note = clip(note);
        self.decree(SagaEvent::Skipped {
            step: index,
            fence,
            output,
            note,
        })?;
        self.dismiss(index);
        self.resume(core);
        Ok(())
    }

    fn skip_undo(&mut self, core: &Arc<Core>, path: &StepPath, note: String) -> Result<(), Fault> {
        let (index, step) = self.step_at(path)?;
        let fence = Self::fence_above(core, step);
        self.check_held()?;
        let unwinding = matches!(self.state.phase(), Phase::Unwinding { .. });
        if !unwinding || self.state.next_undo() != Some(index) {
            return Err(Fault::NotOpen);
        }
        let note = clip(note);
        self.decree(SagaEvent::UndoSkipped {
            step: index,
            fence,
            note,
        })?;
        self.dismiss(index);
        self.resume(core);
        Ok(())
    }

    fn abandon(&mut self, core: &Core, note: String) -> Result<(), Fault> {
        self.give_up(core, clip(note), None)?;
        self.finish();
        Ok(())
    }

    /// Records that it is abandoned, and lets go of what runs.
    pub(super) fn give_up(
        &mut self,
        core: &Core,
        note: String,
        heir: Option<Heir>,
    ) -> Result<(), Fault> {
        let children = self.state.open_children();
        if children > 0 {
            return Err(Fault::Children(children));
        }
        let at = core.clock.wall();
        self.decree(SagaEvent::Abandoned { note, at, heir })?;
        self.dismiss_all();
        Ok(())
    }

    /// Records what an operator decided, if the store's format can say it.
    fn decree(&mut self, event: SagaEvent) -> Result<(), Fault> {
        self.check_format(&event)?;
        if self.record(event) {
            Ok(())
        } else {
            Err(Fault::NotRecorded("its state does not allow it".to_owned()))
        }
    }

    fn check_format(&self, event: &SagaEvent) -> Result<(), Fault> {
        match self.format {
            Format::V1 => v1::can_say(event).map_err(|error| Fault::NotRecorded(error.to_string())),
            Format::V2 | Format::V3 => Ok(()),
        }
    }
}
