//! Records: one saga as an operator sees it, and what an abandoned one left behind.

use orlop_saga::amount::BusyNanos;
use orlop_saga::canonical::Payload;
use orlop_saga::effect::CodeRef;
use orlop_saga::id::{Fence, SagaId, StepIndex};
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Outcome;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{CallKind, Delivery, Phase, Remains, SagaState};
use orlop_saga::time::WallMillis;

use super::SagaSummary;
use crate::core::Core;

/// One saga with every call that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaRecord {
    /// Which one and where it is.
    pub summary: SagaSummary,
    /// Its canonical input.
    pub input: Payload,
    /// Whether it can only go forward.
    pub pivoted: bool,
    /// Whether somebody asked for it to be cancelled.
    pub cancel_requested: bool,
    /// When its deadline was seen to have passed, if it has.
    pub deadline_passed: Option<WallMillis>,
    /// The saga that started it, if it is a child.
    pub parent: Option<SagaId>,
    /// The saga that it was forked from, and at which step.
    pub forked_from: Option<(SagaId, StepPath)>,
    /// How it ended and when, if it has.
    pub outcome: Option<(Outcome, WallMillis)>,
    /// What the operator who abandoned it said.
    pub note: Option<String>,
    /// What all of its attempts cost that ended.
    pub cost: BusyNanos,
    /// Its calls, in the order of their intents.
    pub calls: Vec<CallRecord>,
    /// Every step whose effect may remain if nothing more is done about it.
    pub residue: Vec<ResidueRecord>,
}

/// One call of a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// Where in the saga.
    pub path: StepPath,
    /// What it is, how far it is, and what came of it.
    pub kind: CallKind,
    /// How many attempts were started of a step and its undo, questions included.
    pub attempts: u32,
    /// The newest attempt of a step or its undo.
    pub fence: Option<Fence>,
    /// What they cost, as far as they ended.
    pub cost: BusyNanos,
    /// What the outside recognises a step by.
    pub remote_key: Option<RemoteKey>,
    /// As which of its answers the saga's code was told this one, from 0.
    pub told: Option<usize>,
}

/// A step whose effect may remain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidueRecord {
    /// Where in the saga.
    pub path: StepPath,
    /// The computation, or the saga if it is a child.
    pub code: CodeRef,
    /// What the outside recognises it by.
    pub remote_key: RemoteKey,
    /// What is known of it.
    pub remains: Remains,
}

/// What came of abandoning a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// Every step whose effect may remain, in the order of their intents.
    pub residue: Vec<ResidueRecord>,
}

impl Abandoned {
    pub(super) fn new(core: &Core, saga: SagaId, state: &SagaState) -> Self {
        Self {
            residue: residue(core, saga, state),
        }
    }
}

impl SagaRecord {
    pub(super) fn new(core: &Core, saga: SagaId, state: &SagaState) -> Self {
        let start = state.start();
        let summary = SagaSummary {
            saga,
            tenant: start.id.tenant,
            key: start.id.key,
            name: start.code.name.clone(),
            version: start.code.version,
            status: state.status(),
            started_at: start.at,
        };
        let note = match state.phase() {
            Phase::Abandoned { note, .. } => Some(note.clone()),
            Phase::Running
            | Phase::Unwinding { .. }
            | Phase::Completed { .. }
            | Phase::CompletedInBlob { .. }
            | Phase::Compensated { .. } => None,
        };
        let forked_from = state.forked_from();
        Self {
            summary,
            input: start.input.clone(),
            pivoted: state.pivoted(),
            cancel_requested: state.cancel_requested(),
            deadline_passed: state.deadline_passed(),
            parent: start.parent.map(|parent| parent.saga),
            forked_from: forked_from.map(|(from, at)| (from, at.clone())),
            outcome: state.outcome(),
            note,
            cost: state.cost(),
            calls: calls(core, saga, state),
            residue: residue(core, saga, state),
        }
    }
}

fn calls(core: &Core, saga: SagaId, state: &SagaState) -> Vec<CallRecord> {
    let calls = (0_u32..).zip(state.calls());
    let record = |(index, call): (u32, &orlop_saga::saga::Call)| {
        let index = StepIndex::new(index);
        let told = |told: &Delivery| *told == Delivery::Call(index);
        let (fence, cost) = match &call.kind {
            CallKind::Step { step, trail, .. } => (Some(step.fence()), trail.cost),
            CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. }
            | CallKind::Signal { .. } => (None, BusyNanos::default()),
        };
        CallRecord {
            path: call.path.clone(),
            kind: call.kind.clone(),
            attempts: fence.map_or(0, |fence| fence.attempt.get()),
            fence,
            cost,
            remote_key: fence.map(|_| remote_key(core, saga, state, index, &call.path)),
            told: state.deliveries().iter().position(told),
        }
    };
    calls.map(record).collect()
}

fn residue(core: &Core, saga: SagaId, state: &SagaState) -> Vec<ResidueRecord> {
    let left = state.residue().into_iter();
    left.map(|residue| ResidueRecord {
        remote_key: remote_key(core, saga, state, residue.step, &residue.path),
        path: residue.path,
        code: residue.code,
        remains: residue.remains,
    })
    .collect()
}

fn remote_key(
    core: &Core,
    saga: SagaId,
    state: &SagaState,
    index: StepIndex,
    path: &StepPath,
) -> RemoteKey {
    let origin = state.origin(saga, index);
    let tenant = state.start().id.tenant;
    RemoteKey::of_step(&core.store_id, tenant, origin.saga, path, origin.epoch)
}
