//! States of version 1: the fold of a checkpoint or an export, and a saga that ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::NotInFormat;
use super::effect::Effect;
use super::event::{Cause, Hold, SagaStart, StepOutcome, UndoIntent, freeze_undo};
use super::{Frozen, freeze_all, thaw_all};
use crate::amount::BusyNanos;
use crate::budget::Books;
use crate::canonical::Payload;
use crate::effect::{self, CodeRef, EffectId};
use crate::id::{Fence, Incarnation, Lsn, SagaId, StepIndex, TenantId};
use crate::key::Fingerprint;
use crate::live;
use crate::path::StepPath;
use crate::saga as sagas;
use crate::step;
use crate::tenancy::Tenancies;
use crate::tenant::TenantLabel;
use crate::time::WallMillis;

#[derive(Serialize, Deserialize)]
pub(super) enum Prior {
    Done(Payload),
    InDoubt,
}

impl Frozen<Prior> for step::Prior {
    fn freeze(&self) -> Result<Prior, NotInFormat> {
        Ok(match self {
            Self::Done(output) => Prior::Done(output.clone()),
            Self::InDoubt => Prior::InDoubt,
        })
    }

    fn thaw(frozen: Prior) -> Self {
        match frozen {
            Prior::Done(output) => Self::Done(output),
            Prior::InDoubt => Self::InDoubt,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Step {
    Launched { fence: Fence },
    Settled { fence: Fence, outcome: StepOutcome },
    Undoing { fence: Fence, prior: Prior },
    Undone { fence: Fence },
}

impl Frozen<Step> for step::Step {
    fn freeze(&self) -> Result<Step, NotInFormat> {
        Ok(match self {
            Self::Launched { fence } => Step::Launched { fence: *fence },
            Self::Settled { fence, outcome } => Step::Settled {
                fence: *fence,
                outcome: outcome.freeze()?,
            },
            Self::Undoing { fence, prior } => Step::Undoing {
                fence: *fence,
                prior: prior.freeze()?,
            },
            Self::Undone { fence } => Step::Undone { fence: *fence },
        })
    }

    fn thaw(frozen: Step) -> Self {
        match frozen {
            Step::Launched { fence } => Self::Launched { fence },
            Step::Settled { fence, outcome } => Self::Settled {
                fence,
                outcome: step::StepOutcome::thaw(outcome),
            },
            Step::Undoing { fence, prior } => Self::Undoing {
                fence,
                prior: step::Prior::thaw(prior),
            },
            Step::Undone { fence } => Self::Undone { fence },
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum CallKind {
    Step {
        code: CodeRef,
        fingerprint: Fingerprint,
        undo: Option<UndoIntent>,
        step: Step,
        runs: u32,
    },
    Sleep {
        until: WallMillis,
        over: bool,
    },
    Now {
        at: WallMillis,
    },
    Random {
        value: u64,
    },
}

impl Frozen<CallKind> for sagas::CallKind {
    fn freeze(&self) -> Result<CallKind, NotInFormat> {
        Ok(match self {
            Self::Step {
                code,
                fingerprint,
                undo,
                step,
                runs,
                child,
                trail,
            } => {
                if child.is_some() {
                    return Err(NotInFormat::since_v2("a child saga"));
                }
                freeze_trail(trail)?;
                CallKind::Step {
                    code: code.clone(),
                    fingerprint: *fingerprint,
                    undo: freeze_undo(undo.as_ref())?,
                    step: step.freeze()?,
                    runs: *runs,
                }
            }
            Self::Sleep { until, over } => CallKind::Sleep {
                until: *until,
                over: *over,
            },
            Self::Now { at } => CallKind::Now { at: *at },
            Self::Random { value } => CallKind::Random { value: *value },
            Self::Signal { .. } => return Err(NotInFormat::since_v2("a wait for a signal")),
        })
    }

    fn thaw(frozen: CallKind) -> Self {
        match frozen {
            CallKind::Step {
                code,
                fingerprint,
                undo,
                step,
                runs,
            } => Self::Step {
                code,
                fingerprint,
                undo: undo.map(sagas::UndoIntent::thaw),
                step: step::Step::thaw(step),
                runs,
                child: None,
                trail: sagas::Trail::default(),
            },
            CallKind::Sleep { until, over } => Self::Sleep { until, over },
            CallKind::Now { at } => Self::Now { at },
            CallKind::Random { value } => Self::Random { value },
        }
    }
}

/// Costs of single steps, and which questions were lost, are not kept in version 1.
fn freeze_trail(trail: &sagas::Trail) -> Result<(), NotInFormat> {
    let sagas::Trail {
        cost: _,
        asking: _,
        lost_asks: _,
        lost_runs: _,
        note,
        origin,
    } = trail;
    if note.is_some() || origin.is_some() {
        return Err(NotInFormat::since_v2("a skipped or an inherited step"));
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
pub(super) struct Call {
    path: StepPath,
    kind: CallKind,
}

impl Frozen<Call> for sagas::Call {
    fn freeze(&self) -> Result<Call, NotInFormat> {
        let Self { path, kind } = self;
        Ok(Call {
            path: path.clone(),
            kind: kind.freeze()?,
        })
    }

    fn thaw(frozen: Call) -> Self {
        Self {
            path: frozen.path,
            kind: sagas::CallKind::thaw(frozen.kind),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Delivery {
    Call(StepIndex),
    Pivot,
}

impl Frozen<Delivery> for sagas::Delivery {
    fn freeze(&self) -> Result<Delivery, NotInFormat> {
        Ok(match self {
            Self::Call(step) => Delivery::Call(*step),
            Self::Pivot => Delivery::Pivot,
        })
    }

    fn thaw(frozen: Delivery) -> Self {
        match frozen {
            Delivery::Call(step) => Self::Call(step),
            Delivery::Pivot => Self::Pivot,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Phase {
    Running,
    Unwinding { cause: Cause },
    Completed { output: Payload, at: WallMillis },
    Compensated { cause: Cause, at: WallMillis },
}

impl Frozen<Phase> for sagas::Phase {
    fn freeze(&self) -> Result<Phase, NotInFormat> {
        Ok(match self {
            Self::Running => Phase::Running,
            Self::Unwinding { cause } => Phase::Unwinding {
                cause: cause.freeze()?,
            },
            Self::Completed { output, at } => Phase::Completed {
                output: output.clone(),
                at: *at,
            },
            Self::Compensated { cause, at } => Phase::Compensated {
                cause: cause.freeze()?,
                at: *at,
            },
            Self::Abandoned { .. } => return Err(NotInFormat::since_v2("to abandon a saga")),
            Self::CompletedInBlob { .. } => {
                return Err(NotInFormat::since_v2("an outcome in a blob"));
            }
        })
    }

    fn thaw(frozen: Phase) -> Self {
        match frozen {
            Phase::Running => Self::Running,
            Phase::Unwinding { cause } => Self::Unwinding {
                cause: sagas::Cause::thaw(cause),
            },
            Phase::Completed { output, at } => Self::Completed { output, at },
            Phase::Compensated { cause, at } => Self::Compensated {
                cause: sagas::Cause::thaw(cause),
                at,
            },
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SagaState {
    start: Box<SagaStart>,
    phase: Phase,
    hold: Option<Hold>,
    pivoted: bool,
    cancel_requested: bool,
    calls: Vec<Call>,
    deliveries: Vec<Delivery>,
    cost: BusyNanos,
    payload_bytes: u64,
}

impl Frozen<SagaState> for sagas::SagaState {
    fn freeze(&self) -> Result<SagaState, NotInFormat> {
        let Self {
            start,
            phase,
            hold,
            pivoted,
            cancel_requested,
            calls,
            deliveries,
            cost,
            payload_bytes,
            deadline_passed,
            signals,
            released,
            fork_of,
        } = self;
        if deadline_passed.is_some() || !signals.is_empty() || *released || fork_of.is_some() {
            return Err(NotInFormat::since_v2(
                "a saga with signals, a deadline, a parent or an original",
            ));
        }
        Ok(SagaState {
            start: Box::new(start.freeze()?),
            phase: phase.freeze()?,
            hold: hold.as_ref().map(Frozen::freeze).transpose()?,
            pivoted: *pivoted,
            cancel_requested: *cancel_requested,
            calls: freeze_all(calls)?,
            deliveries: freeze_all(deliveries)?,
            cost: *cost,
            payload_bytes: *payload_bytes,
        })
    }

    fn thaw(frozen: SagaState) -> Self {
        Self {
            phase: sagas::Phase::thaw(frozen.phase),
            hold: frozen.hold.map(sagas::Hold::thaw),
            pivoted: frozen.pivoted,
            cancel_requested: frozen.cancel_requested,
            calls: thaw_all(frozen.calls),
            deliveries: thaw_all(frozen.deliveries),
            cost: frozen.cost,
            payload_bytes: frozen.payload_bytes,
            deadline_passed: None,
            signals: Vec::new(),
            released: false,
            fork_of: None,
            start: Box::new(sagas::SagaStart::thaw(*frozen.start)),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Live {
    lsn: Lsn,
    incarnation: Incarnation,
    saga_last: SagaId,
    tenants: BTreeMap<TenantId, TenantLabel>,
    effects: BTreeMap<EffectId, Effect>,
    sagas: BTreeMap<SagaId, SagaState>,
}

impl Frozen<Live> for live::Live {
    fn freeze(&self) -> Result<Live, NotInFormat> {
        let Self {
            lsn,
            incarnation,
            // Only whether lost questions count.
            standing: _,
            outside_ahead,
            saga_last,
            tenants,
            effects,
            sagas,
            // Decides nothing without budgets, and those this version cannot have.
            books: _,
            // Those this version cannot have decided.
            tenancies: _,
            // This version names nobody.
            played: _,
        } = self;
        if *outside_ahead {
            return Err(NotInFormat::since_v2("a restored backup"));
        }
        let effects = effects
            .iter()
            .map(|(id, effect)| Ok((*id, effect.freeze()?)));
        let sagas = sagas.iter().map(|(id, saga)| Ok((*id, saga.freeze()?)));
        Ok(Live {
            lsn: *lsn,
            incarnation: *incarnation,
            saga_last: *saga_last,
            tenants: tenants.clone(),
            effects: effects.collect::<Result<_, NotInFormat>>()?,
            sagas: sagas.collect::<Result<_, NotInFormat>>()?,
        })
    }

    fn thaw(frozen: Live) -> Self {
        let effects = frozen.effects.into_iter();
        let sagas = frozen.sagas.into_iter();
        Self {
            lsn: frozen.lsn,
            incarnation: frozen.incarnation,
            // Version 1 does not say; then nothing is counted.
            standing: live::Standing::Closed,
            outside_ahead: false,
            saga_last: frozen.saga_last,
            tenants: frozen.tenants,
            effects: effects
                .map(|(id, effect)| (id, effect::Effect::thaw(effect)))
                .collect(),
            sagas: sagas
                .map(|(id, saga)| (id, sagas::SagaState::thaw(saga)))
                .collect(),
            books: Books::default(),
            tenancies: Tenancies::default(),
            played: None,
        }
    }
}
