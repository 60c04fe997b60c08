//! Active: an attempt of a step or an undo under way, or what is between two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_saga::amount::ByteCount;
use orlop_saga::id::Fence;

use crate::core::Core;
use crate::course::{Course, Mode};
use crate::executor::Ticket;
use crate::registry::{Code, UndoEntry};
use crate::saga::script::StepSpec;

/// About how long the record of a step's intent is beside its undo's argument.
const INTENT_BYTES: usize = 160;

/// An attempt under way, or between two.
pub(super) struct Active {
    pub(super) task: TaskOf,
    pub(super) course: Course,
    pub(super) fence: Fence,
    pub(super) fresh: bool,
    /// Bytes of its intent, until they are counted in its tenant's share of the journal.
    pub(super) written: ByteCount,
    /// How often in a row it was refused.
    pub(super) refusals: u32,
    pub(super) place: Place,
    pub(super) cancel: Arc<AtomicBool>,
}

/// What the attempts are of.
pub(super) enum TaskOf {
    Step(Arc<StepSpec>),
    /// With the computation whose attempts are swept before, if they are.
    Undo(Arc<UndoEntry>, Option<Arc<Code>>),
}

/// How far the present one is.
pub(super) enum Place {
    /// Its record is on its way to the disk.
    Recorded,
    /// It waits for a permit.
    Queued(Ticket),
    /// It runs.
    Running,
    /// Between two attempts.
    BackingOff,
}

impl Active {
    /// A step whose intent was recorded just now.
    pub(super) fn first(core: &Arc<Core>, spec: Arc<StepSpec>, fence: Fence) -> Self {
        let argument = spec.undo.as_ref().map_or(0, |undo| undo.argument.len());
        let bytes = argument.saturating_add(INTENT_BYTES);
        let written = ByteCount::new(u64::try_from(bytes).unwrap_or(u64::MAX));
        Self {
            written,
            ..Self::step(core, spec, fence)
        }
    }

    pub(super) fn step(core: &Arc<Core>, spec: Arc<StepSpec>, fence: Fence) -> Self {
        let course = core.course(&spec.code, spec.retry);
        Self::new(TaskOf::Step(spec), course, fence)
    }

    pub(super) fn new(task: TaskOf, course: Course, fence: Fence) -> Self {
        Self {
            task,
            course,
            fence,
            fresh: true,
            written: ByteCount::default(),
            refusals: 0,
            place: Place::Recorded,
            cancel: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Withdraws it if that can be done at once; says whether it is known to have had no effect.
    pub(super) fn stand_down(&mut self) -> StandDown {
        self.cancel.store(true, Ordering::Relaxed);
        let idle = match &self.place {
            Place::Recorded | Place::Running => false,
            Place::Queued(ticket) => ticket.cancel(),
            Place::BackingOff => true,
        };
        match (idle, self.course.mode()) {
            (false, _) => StandDown::Running,
            (true, Mode::Run) => StandDown::NoEffect,
            (true, Mode::Reconcile | Mode::Sweep) => StandDown::InDoubt,
        }
    }
}

/// What became of an attempt that is not wanted any more.
pub(super) enum StandDown {
    Running,
    NoEffect,
    InDoubt,
}
