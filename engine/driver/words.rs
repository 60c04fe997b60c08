//! Words: what is said of events and holds, and how long they are in a record.

use std::sync::Arc;

use orlop_saga::event::Event;
use orlop_saga::outcome::clip;
use orlop_saga::saga::{CallIntent, Hold, PauseReason, SagaEvent};
use orlop_saga::step::StepOutcome;

/// About how long an event's record is: exact in what a tenant can make large.
pub(super) fn bytes_about(event: &Event) -> usize {
    let payload = match event {
        Event::Saga { event, .. } => match event {
            SagaEvent::Started(start) => start.input.len(),
            SagaEvent::Called {
                intent:
                    CallIntent::Step {
                        undo: Some(undo), ..
                    }
                    | CallIntent::Child {
                        undo: Some(undo), ..
                    },
                ..
            } => undo.argument.len(),
            SagaEvent::Signalled { payload, .. } => payload.len(),
            SagaEvent::Settled {
                outcome: StepOutcome::Done(output),
                ..
            }
            | SagaEvent::Completed { output, .. }
            | SagaEvent::Skipped { output, .. } => output.len(),
            SagaEvent::Forked(inherits) => {
                let bytes = usize::try_from(inherits.payload_bytes()).unwrap_or(usize::MAX);
                bytes.saturating_add(inherits.calls.len().saturating_mul(1024))
            }
            SagaEvent::Called { .. }
            | SagaEvent::Relaunched { .. }
            | SagaEvent::Settled { .. }
            | SagaEvent::Woke { .. }
            | SagaEvent::Pivoted
            | SagaEvent::CancelRequested
            | SagaEvent::CompletedInBlob { .. }
            | SagaEvent::UnwindingStarted { .. }
            | SagaEvent::UndoLaunched { .. }
            | SagaEvent::Undone { .. }
            | SagaEvent::Held(_)
            | SagaEvent::Resumed
            | SagaEvent::Compensated { .. }
            | SagaEvent::DeadlinePassed { .. }
            | SagaEvent::Released
            | SagaEvent::Abandoned { .. }
            | SagaEvent::UndoSkipped { .. }
            | SagaEvent::Reopened { .. }
            | SagaEvent::Probed
            | SagaEvent::Acquitted => 0,
        },
        Event::Opened { .. }
        | Event::Tenant(_)
        | Event::Effect { .. }
        | Event::Closed { .. }
        | Event::Recovered
        | Event::Budget(_) => 0,
    };
    // Names, paths, reasons and numbers.
    payload + 2048
}

/// A hold whose reason fits into a record, whoever's words it is in.
pub(super) fn clipped(hold: Hold) -> Hold {
    match hold {
        Hold::Paused(PauseReason::Definition(why)) => {
            Hold::Paused(PauseReason::Definition(clip(why)))
        }
        Hold::Paused(PauseReason::Nondeterminism(why)) => {
            Hold::Paused(PauseReason::Nondeterminism(clip(why)))
        }
        Hold::Paused(PauseReason::Panicked(why)) => Hold::Paused(PauseReason::Panicked(clip(why))),
        Hold::Paused(PauseReason::AtStart) => Hold::Paused(PauseReason::AtStart),
        Hold::Paused(PauseReason::Operator(why)) => Hold::Paused(PauseReason::Operator(clip(why))),
        Hold::Paused(reason @ (PauseReason::Probation { .. } | PauseReason::Suspect { .. })) => {
            Hold::Paused(reason)
        }
        Hold::Stuck(why) => Hold::Stuck(clip(why)),
    }
}

/// Why a saga does not move, for people.
pub(super) fn hold_text(hold: &Hold) -> Arc<str> {
    Arc::from(match hold {
        Hold::Paused(PauseReason::Definition(why)) => format!("paused: definition: {why}"),
        Hold::Paused(PauseReason::Nondeterminism(why)) => format!("paused: nondeterminism: {why}"),
        Hold::Paused(PauseReason::Panicked(why)) => format!("paused: {why}"),
        Hold::Paused(PauseReason::AtStart) => "paused: it was started so".to_owned(),
        Hold::Paused(PauseReason::Operator(why)) => format!("paused by an operator: {why}"),
        Hold::Paused(PauseReason::Probation { crashes }) => {
            format!("paused: it is played alone, the process died {crashes} times while it was")
        }
        Hold::Paused(PauseReason::Suspect { crashes }) => {
            format!("paused: suspect: the process died {crashes} times while it was played alone")
        }
        Hold::Stuck(why) => why.clone(),
    })
}
