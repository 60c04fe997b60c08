//! Events of version 1.

use serde::{Deserialize, Serialize};

use super::super::{Format, NotInFormat};
use super::Frozen;
use super::effect::EffectEvent;
use crate::amount::BusyNanos;
use crate::canonical::Payload;
use crate::effect::{self, CodeRef, EffectId};
use crate::event as today;
use crate::id::{Fence, Incarnation, SagaId, StepIndex, TenantId};
use crate::key::Fingerprint;
use crate::outcome::Failure;
use crate::path::StepPath;
use crate::saga as sagas;
use crate::step;
use crate::tenant::{self, AuditTag, Class, TenantLabel};
use crate::time::WallMillis;
use crate::trace::TraceContext;

#[derive(Serialize, Deserialize)]
pub(super) enum Event {
    Opened {
        incarnation: Incarnation,
        at: WallMillis,
    },
    Tenant(TenantEvent),
    Effect {
        id: EffectId,
        event: EffectEvent,
    },
    Saga {
        id: SagaId,
        event: SagaEvent,
    },
    Closed {
        at: WallMillis,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) enum TenantEvent {
    Registered {
        tenant: TenantId,
        label: TenantLabel,
    },
}

impl Frozen<Event> for today::Event {
    fn freeze(&self) -> Result<Event, NotInFormat> {
        Ok(match self {
            Self::Opened { incarnation, at } => Event::Opened {
                incarnation: *incarnation,
                at: *at,
            },
            Self::Tenant(tenant::TenantEvent::Registered { tenant, label }) => {
                Event::Tenant(TenantEvent::Registered {
                    tenant: *tenant,
                    label: label.clone(),
                })
            }
            Self::Tenant(
                tenant::TenantEvent::QuotasChanged { .. }
                | tenant::TenantEvent::AllowListChanged { .. }
                | tenant::TenantEvent::Suspended { .. }
                | tenant::TenantEvent::Resumed { .. }
                | tenant::TenantEvent::Draining { .. }
                | tenant::TenantEvent::Drained { .. }
                | tenant::TenantEvent::Revoked { .. }
                | tenant::TenantEvent::Unregistered { .. }
                | tenant::TenantEvent::EngagementsChanged { .. },
            ) => return Err(NotInFormat::since_v3("to manage tenants", Format::V1)),
            Self::Effect { id, event } => Event::Effect {
                id: *id,
                event: event.freeze()?,
            },
            Self::Saga { id, event } => Event::Saga {
                id: *id,
                event: event.freeze()?,
            },
            Self::Closed { at } => Event::Closed { at: *at },
            Self::Recovered => return Err(NotInFormat::since_v2("a recovery that is over")),
            Self::Budget(_) => return Err(NotInFormat::since_v3("a budget", Format::V1)),
        })
    }

    fn thaw(frozen: Event) -> Self {
        match frozen {
            Event::Opened { incarnation, at } => Self::Opened { incarnation, at },
            Event::Tenant(TenantEvent::Registered { tenant, label }) => {
                Self::Tenant(tenant::TenantEvent::Registered { tenant, label })
            }
            Event::Effect { id, event } => Self::Effect {
                id,
                event: effect::EffectEvent::thaw(event),
            },
            Event::Saga { id, event } => Self::Saga {
                id,
                event: sagas::SagaEvent::thaw(event),
            },
            Event::Closed { at } => Self::Closed { at },
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SagaStart {
    id: EffectId,
    fingerprint: Fingerprint,
    code: CodeRef,
    input: Payload,
    class: Class,
    audit: AuditTag,
    trace: TraceContext,
    at: WallMillis,
    retention_ms: u64,
}

impl Frozen<SagaStart> for sagas::SagaStart {
    fn freeze(&self) -> Result<SagaStart, NotInFormat> {
        let Self {
            id,
            fingerprint,
            code,
            input,
            class,
            audit,
            trace,
            at,
            retention_ms,
            paused,
            deadline,
            parent,
        } = self;
        if *paused || deadline.is_some() || parent.is_some() {
            return Err(NotInFormat::since_v2(
                "a saga that starts paused, with a deadline or as a child",
            ));
        }
        Ok(SagaStart {
            id: *id,
            fingerprint: *fingerprint,
            code: code.clone(),
            input: input.clone(),
            class: *class,
            audit: *audit,
            trace: *trace,
            at: *at,
            retention_ms: *retention_ms,
        })
    }

    fn thaw(frozen: SagaStart) -> Self {
        Self {
            id: frozen.id,
            fingerprint: frozen.fingerprint,
            code: frozen.code,
            input: frozen.input,
            class: frozen.class,
            audit: frozen.audit,
            trace: frozen.trace,
            at: frozen.at,
            retention_ms: frozen.retention_ms,
            paused: false,
            deadline: None,
            parent: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct UndoIntent {
    code: CodeRef,
    argument: Payload,
}

impl Frozen<UndoIntent> for sagas::UndoIntent {
    fn freeze(&self) -> Result<UndoIntent, NotInFormat> {
        let Self { code, argument } = self;
        Ok(UndoIntent {
            code: code.clone(),
            argument: argument.clone(),
        })
    }

    fn thaw(frozen: UndoIntent) -> Self {
        Self {
            code: frozen.code,
            argument: frozen.argument,
        }
    }
}

pub(super) fn freeze_undo(
    undo: Option<&sagas::UndoIntent>,
) -> Result<Option<UndoIntent>, NotInFormat> {
    undo.map(Frozen::freeze).transpose()
}

#[derive(Serialize, Deserialize)]
pub(super) enum CallIntent {
    Step {
        code: CodeRef,
        fingerprint: Fingerprint,
        fence: Fence,
        undo: Option<UndoIntent>,
    },
    Sleep {
        until: WallMillis,
    },
    Now {
        at: WallMillis,
    },
    Random {
        value: u64,
    },
}

impl Frozen<CallIntent> for sagas::CallIntent {
    fn freeze(&self) -> Result<CallIntent, NotInFormat> {
        Ok(match self {
            Self::Step {
                code,
                fingerprint,
                fence,
                undo,
            } => CallIntent::Step {
                code: code.clone(),
                fingerprint: *fingerprint,
                fence: *fence,
                undo: freeze_undo(undo.as_ref())?,
            },
            Self::Sleep { until } => CallIntent::Sleep { until: *until },
            Self::Now { at } => CallIntent::Now { at: *at },
            Self::Random { value } => CallIntent::Random { value: *value },
            Self::Signal { .. } => return Err(NotInFormat::since_v2("a wait for a signal")),
            Self::Child { .. } => return Err(NotInFormat::since_v2("a child saga")),
        })
    }

    fn thaw(frozen: CallIntent) -> Self {
        match frozen {
            CallIntent::Step {
                code,
                fingerprint,
                fence,
                undo,
            } => Self::Step {
                code,
                fingerprint,
                fence,
                undo: undo.map(sagas::UndoIntent::thaw),
            },
            CallIntent::Sleep { until } => Self::Sleep { until },
            CallIntent::Now { at } => Self::Now { at },
            CallIntent::Random { value } => Self::Random { value },
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Cause {
    Failed(Failure),
    Cancelled,
}

impl Frozen<Cause> for sagas::Cause {
    fn freeze(&self) -> Result<Cause, NotInFormat> {
        Ok(match self {
            Self::Failed(failure) => Cause::Failed(failure.clone()),
            Self::Cancelled => Cause::Cancelled,
            Self::Expired => return Err(NotInFormat::since_v2("a saga's deadline")),
            Self::Recalled => return Err(NotInFormat::since_v2("a child saga")),
        })
    }

    fn thaw(frozen: Cause) -> Self {
        match frozen {
            Cause::Failed(failure) => Self::Failed(failure),
            Cause::Cancelled => Self::Cancelled,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum PauseReason {
    Definition(String),
    Nondeterminism(String),
    Panicked(String),
}

impl Frozen<PauseReason> for sagas::PauseReason {
    fn freeze(&self) -> Result<PauseReason, NotInFormat> {
        Ok(match self {
            Self::Definition(reason) => PauseReason::Definition(reason.clone()),
            Self::Nondeterminism(reason) => PauseReason::Nondeterminism(reason.clone()),
            Self::Panicked(reason) => PauseReason::Panicked(reason.clone()),
            Self::AtStart => return Err(NotInFormat::since_v2("a saga that starts paused")),
            Self::Operator(_) => return Err(NotInFormat::since_v2("a pause by an operator")),
            Self::Probation { .. } | Self::Suspect { .. } => {
                return Err(NotInFormat::since_v2("a suspect"));
            }
        })
    }

    fn thaw(frozen: PauseReason) -> Self {
        match frozen {
            PauseReason::Definition(reason) => Self::Definition(reason),
            PauseReason::Nondeterminism(reason) => Self::Nondeterminism(reason),
            PauseReason::Panicked(reason) => Self::Panicked(reason),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Hold {
    Paused(PauseReason),
    Stuck(String),
}

impl Frozen<Hold> for sagas::Hold {
    fn freeze(&self) -> Result<Hold, NotInFormat> {
        Ok(match self {
            Self::Paused(reason) => Hold::Paused(reason.freeze()?),
            Self::Stuck(reason) => Hold::Stuck(reason.clone()),
        })
    }

    fn thaw(frozen: Hold) -> Self {
        match frozen {
            Hold::Paused(reason) => Self::Paused(sagas::PauseReason::thaw(reason)),
            Hold::Stuck(reason) => Self::Stuck(reason),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum StepOutcome {
    Done(Payload),
    FailedNoEffect(Failure),
}

impl Frozen<StepOutcome> for step::StepOutcome {
    fn freeze(&self) -> Result<StepOutcome, NotInFormat> {
        Ok(match self {
            Self::Done(output) => StepOutcome::Done(output.clone()),
            Self::FailedNoEffect(failure) => StepOutcome::FailedNoEffect(failure.clone()),
        })
    }

    fn thaw(frozen: StepOutcome) -> Self {
        match frozen {
            StepOutcome::Done(output) => Self::Done(output),
            StepOutcome::FailedNoEffect(failure) => Self::FailedNoEffect(failure),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum SagaEvent {
    Started(Box<SagaStart>),
    Called {
        path: StepPath,
        intent: CallIntent,
    },
    Relaunched {
        step: StepIndex,
        fence: Fence,
        asks: bool,
    },
    Settled {
        step: StepIndex,
        fence: Fence,
        outcome: StepOutcome,
        cost: BusyNanos,
    },
    Woke {
        step: StepIndex,
    },
    Pivoted,
    CancelRequested,
    UnwindingStarted {
        cause: Cause,
    },
    UndoLaunched {
        step: StepIndex,
        fence: Fence,
    },
    Undone {
        step: StepIndex,
        fence: Fence,
        cost: BusyNanos,
    },
    Held(Hold),
    Resumed,
    Completed {
        output: Payload,
        at: WallMillis,
    },
    Compensated {
        at: WallMillis,
    },
}

impl Frozen<SagaEvent> for sagas::SagaEvent {
    fn freeze(&self) -> Result<SagaEvent, NotInFormat> {
        Ok(match self {
            Self::Started(start) => SagaEvent::Started(Box::new(start.freeze()?)),
            Self::Called { path, intent } => SagaEvent::Called {
                path: path.clone(),
                intent: intent.freeze()?,
            },
            Self::Relaunched { step, fence, asks } => SagaEvent::Relaunched {
                step: *step,
                fence: *fence,
                asks: *asks,
            },
            Self::Settled {
                step,
                fence,
                outcome,
                cost,
            } => SagaEvent::Settled {
                step: *step,
                fence: *fence,
                outcome: outcome.freeze()?,
                cost: *cost,
            },
            Self::Woke { step } => SagaEvent::Woke { step: *step },
            Self::Pivoted => SagaEvent::Pivoted,
            Self::CancelRequested => SagaEvent::CancelRequested,
            Self::UnwindingStarted { cause } => SagaEvent::UnwindingStarted {
                cause: cause.freeze()?,
            },
            Self::UndoLaunched { step, fence } => SagaEvent::UndoLaunched {
                step: *step,
                fence: *fence,
            },
            Self::Undone { step, fence, cost } => SagaEvent::Undone {
                step: *step,
                fence: *fence,
                cost: *cost,
            },
            Self::Held(hold) => SagaEvent::Held(hold.freeze()?),
            Self::Resumed => SagaEvent::Resumed,
            Self::Completed { output, at } => SagaEvent::Completed {
                output: output.clone(),
                at: *at,
            },
            Self::Compensated { at } => SagaEvent::Compensated { at: *at },
            Self::Signalled { .. } => return Err(NotInFormat::since_v2("a signal")),
            Self::DeadlinePassed { .. } => {
                return Err(NotInFormat::since_v2("a saga's deadline"));
            }
            Self::Released => return Err(NotInFormat::since_v2("a child saga")),
            Self::Abandoned { .. } => return Err(NotInFormat::since_v2("to abandon a saga")),
            Self::Skipped { .. } | Self::UndoSkipped { .. } => {
                return Err(NotInFormat::since_v2("to skip a step or an undo"));
            }
            Self::Reopened { .. } => return Err(NotInFormat::since_v2("to reopen a step")),
            Self::CompletedInBlob { .. } => {
                return Err(NotInFormat::since_v2("an outcome in a blob"));
            }
            Self::Forked(_) => return Err(NotInFormat::since_v2("a fork")),
            Self::Probed | Self::Acquitted => return Err(NotInFormat::since_v2("a suspect")),
        })
    }

    fn thaw(frozen: SagaEvent) -> Self {
        match frozen {
            SagaEvent::Started(start) => Self::Started(Box::new(sagas::SagaStart::thaw(*start))),
            SagaEvent::Called { path, intent } => Self::Called {
                path,
                intent: sagas::CallIntent::thaw(intent),
            },
            SagaEvent::Relaunched { step, fence, asks } => Self::Relaunched { step, fence, asks },
            SagaEvent::Settled {
                step,
                fence,
                outcome,
                cost,
            } => Self::Settled {
                step,
                fence,
                outcome: step::StepOutcome::thaw(outcome),
                cost,
            },
            SagaEvent::Woke { step } => Self::Woke { step },
            SagaEvent::Pivoted => Self::Pivoted,
            SagaEvent::CancelRequested => Self::CancelRequested,
            SagaEvent::UnwindingStarted { cause } => Self::UnwindingStarted {
                cause: sagas::Cause::thaw(cause),
            },
            SagaEvent::UndoLaunched { step, fence } => Self::UndoLaunched { step, fence },
            SagaEvent::Undone { step, fence, cost } => Self::Undone { step, fence, cost },
            SagaEvent::Held(hold) => Self::Held(sagas::Hold::thaw(hold)),
            SagaEvent::Resumed => Self::Resumed,
            SagaEvent::Completed { output, at } => Self::Completed { output, at },
            SagaEvent::Compensated { at } => Self::Compensated { at },
        }
    }
}
