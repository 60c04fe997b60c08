//! Messages: what the driver is told, by callers, attempts, the journal and timers.

use std::sync::Arc;

use orlop_admission::Refusal;
use orlop_saga::id::{Fence, SagaId, StepIndex, TenantId};
use orlop_saga::saga::{SagaStart, SagaState};
use orlop_store::log::{AppendError, LsnRange};

use super::fork::{Birth, Newborn};
use super::{CancelError, Command, Fault, News, Sending, Tell, Wish};
use crate::error::Unavailable;
use crate::executor::Ended;
use crate::flight::Flight;
use crate::operator::{SagaPage, SagaQuery};
use crate::signal::{SignalError, Signalled};

/// What the driver is told.
pub(crate) enum Message {
    /// A saga is to be started.
    Start {
        flight: Arc<Flight>,
        birth: Box<Birth>,
    },
    /// A fork was durably started with the end of its original.
    Born(Box<Newborn>),
    /// A saga was found unfinished at open.
    Recover {
        id: SagaId,
        flight: Arc<Flight>,
        state: Box<SagaState>,
        /// Whether the engine that left it crashed.
        crashed: bool,
    },
    /// All that was found at open is known; it is played one saga at a time before it goes on.
    Probe {
        sagas: Vec<SagaId>,
        effects: Vec<Arc<Flight>>,
    },
    /// All that was found at open was told to go on, after a crash.
    AllFound,
    /// That is recorded, or cannot be.
    AllGo,
    /// An attempt ended.
    Ended {
        saga: SagaId,
        step: StepIndex,
        fence: Fence,
        ended: Ended,
    },
    /// An attempt was not admitted.
    Refused {
        saga: SagaId,
        step: StepIndex,
        fence: Fence,
        refusal: Refusal,
    },
    /// A batch is durable, or is not.
    Durable {
        saga: SagaId,
        result: Result<LsnRange, AppendError>,
    },
    /// A batch that found no room is to be appended again.
    AppendAgain { saga: SagaId },
    /// The wait before an attempt is over.
    Retry {
        saga: SagaId,
        step: StepIndex,
        fence: Fence,
    },
    /// A sleep is over.
    Wake { saga: SagaId, step: StepIndex },
    /// The wait before an undo is over.
    Nudge { saga: SagaId },
    /// Somebody wants it cancelled.
    Cancel {
        saga: SagaId,
        tell: Tell<Result<(), CancelError>>,
    },
    /// A saga that was found at open goes on: all others are known.
    GoOn { saga: SagaId },
    /// A saga waits for the child that a call of it starts, or has started.
    Attend {
        parent: SagaId,
        step: StepIndex,
        /// What is started if there is none.
        birth: Option<Box<SagaStart>>,
    },
    /// A saga tells its child something.
    Command {
        parent: SagaId,
        step: StepIndex,
        command: Command,
    },
    /// A child tells its parent something.
    News {
        saga: SagaId,
        step: StepIndex,
        news: News,
    },
    /// An operator has it go on.
    Resume { saga: SagaId },
    /// Somebody sends it a signal.
    Signal {
        saga: SagaId,
        sending: Sending,
        tell: Tell<Result<Signalled, SignalError>>,
    },
    /// Its deadline may have passed.
    Deadline { saga: SagaId },
    /// An operator wants something of it.
    Operate { saga: SagaId, wish: Box<Wish> },
    /// An operator wants a page of what is unfinished.
    List {
        scope: Option<TenantId>,
        query: Box<SagaQuery>,
        tell: Tell<SagaPage>,
    },
    /// The journal has failed: nothing more can be recorded.
    Poisoned,
    /// The engine closes: nothing new is begun; told once all that was recorded is durable.
    Quiesce { tell: std::sync::mpsc::Sender<()> },
    /// The engine ends.
    Stop,
}

impl Message {
    pub(super) fn saga(&self) -> Option<SagaId> {
        match self {
            Self::Start { .. }
            | Self::Born(_)
            | Self::List { .. }
            | Self::Poisoned
            | Self::Quiesce { .. }
            | Self::Stop
            | Self::Probe { .. }
            | Self::AllFound
            | Self::AllGo
            | Self::Attend { .. }
            | Self::Command { .. } => None,
            Self::Recover { id, .. } => Some(*id),
            Self::Ended { saga, .. }
            | Self::Refused { saga, .. }
            | Self::Durable { saga, .. }
            | Self::AppendAgain { saga }
            | Self::Retry { saga, .. }
            | Self::Wake { saga, .. }
            | Self::Nudge { saga }
            | Self::Cancel { saga, .. }
            | Self::Signal { saga, .. }
            | Self::Deadline { saga }
            | Self::GoOn { saga }
            | Self::News { saga, .. }
            | Self::Operate { saga, .. }
            | Self::Resume { saga } => Some(*saga),
        }
    }
}

impl Message {
    /// Whether it belongs to what was begun before a close.
    pub(super) fn ends_something(&self) -> bool {
        match self {
            Self::Ended { .. }
            | Self::Durable { .. }
            | Self::AppendAgain { .. }
            | Self::AllFound
            | Self::AllGo
            | Self::Poisoned => true,
            Self::Start { .. }
            | Self::Born(_)
            | Self::Recover { .. }
            | Self::Probe { .. }
            | Self::Refused { .. }
            | Self::Retry { .. }
            | Self::Wake { .. }
            | Self::Nudge { .. }
            | Self::Cancel { .. }
            | Self::Resume { .. }
            | Self::Signal { .. }
            | Self::Deadline { .. }
            | Self::GoOn { .. }
            | Self::Attend { .. }
            | Self::Command { .. }
            | Self::News { .. }
            | Self::Operate { .. }
            | Self::List { .. }
            | Self::Quiesce { .. }
            | Self::Stop => false,
        }
    }
}

/// Why a signal may not be durable.
pub(super) fn not_recorded(reason: &str) -> SignalError {
    SignalError::NotRecorded {
        reason: reason.to_owned(),
    }
}

/// A message that nothing can be done about any more.
pub(super) fn refused(message: Message, why: &str) {
    if let Message::Cancel { tell, .. } = message {
        let reason = why.to_owned();
        let _ = tell.send(Err(CancelError::NotRecorded { reason }));
    } else if let Message::Signal { tell, .. } = message {
        let _ = tell.send(Err(not_recorded(why)));
    } else if let Message::Operate { wish, .. } = message {
        wish.refuse(Fault::NotRecorded(why.to_owned()));
    } else if let Message::Born(newborn) = message {
        newborn.put_off();
    }
}

/// A message for a saga that is over: an attempt that outlived it, or somebody who came late.
///
/// If the journal has failed, it is perhaps not over: only this engine knows no more of it.
pub(super) fn unknown(message: Message, poisoned: bool) {
    if poisoned {
        refused(message, &Unavailable::Poisoned.to_string());
    } else if let Message::Cancel { tell, .. } = message {
        let _ = tell.send(Err(CancelError::Ended));
    } else if let Message::Signal { tell, .. } = message {
        let _ = tell.send(Err(SignalError::NotRunning));
    }
}
