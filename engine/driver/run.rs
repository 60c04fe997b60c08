//! One saga in memory: its fold, its function, and what waits for the disk.

mod sent;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use orlop_saga::canonical::Payload;
use orlop_saga::compat::{Format, v1};
use orlop_saga::effect::Settlement;
use orlop_saga::event::Event;
use orlop_saga::id::{Lsn, SagaId, StepIndex};
use orlop_saga::path::StepPath;
use orlop_saga::saga::{Hold, Phase, SagaEvent, SagaStart, SagaState, SagaStatus, StatusKind};
use orlop_saga::time::Monotonic;
use orlop_store::log::Purpose;

use super::active::Active;
use super::child::{Attending, News};
use super::fork::Newborn;
use super::probation::Turn;
use super::resident::Residence;
use super::words::{clipped, hold_text};
use super::{CancelError, Fault, Message, Tell, not_recorded};
use crate::core::Core;
use crate::flight::Flight;
use crate::operator::Notice;
use crate::saga::SagaError;
use crate::saga::script::Script;
use crate::signal::{SignalError, Signalled};
use crate::timers::Alarm;

/// From how many bytes on a batch is cut; far below what the log takes.
const BATCH_BYTES: usize = 1 << 20;

/// What is done once a batch is durable.
pub(super) enum Deed {
    /// The caller is told that the saga is started.
    Started,
    /// An attempt is launched.
    Launch(StepIndex),
    /// A sleep begins.
    Sleep(StepIndex),
    /// Whoever asked for the cancel is told.
    Cancelled(Tell<Result<(), CancelError>>),
    /// Whoever sent a signal is told.
    Signalled(Signalled, Tell<Result<Signalled, SignalError>>),
    /// Whoever waits is told that it does not move.
    Held(Arc<str>),
    /// Whoever comes may wait again.
    Resumed,
    /// A child is started, or found.
    Attend(StepIndex),
    /// A child is told to undo what it did.
    Recall(StepIndex),
    /// Its parent is told that it has ended.
    Reported,
    /// The saga has ended.
    Finish(Arc<Settlement>),
    /// Its fork goes on in its stead.
    Born(Box<Newborn>),
    /// Subscribers are told where it is.
    Changed(SagaStatus),
    /// Subscribers are told that the attempts of a step are used up.
    Exhausted(StepPath, String),
    /// An operator is shown it.
    Shown(Box<SagaState>, Tell<Result<Box<SagaState>, Fault>>),
    /// Its function is played alone.
    Rehearse,
    /// Its turn to be played alone is over.
    Rehearsed,
    /// An operator is told that it is done.
    Ordered(Tell<Result<(), Fault>>),
}

/// A batch on its way to the disk.
struct Sent {
    events: Vec<Event>,
    purpose: Purpose,
    deeds: Vec<Deed>,
}

/// Whether anything comes of a run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// It goes on.
    NotYet,
    /// It has ended and everybody was told.
    Told,
    /// The journal did not take what it was to begin or go on with: nothing more is recorded.
    BrokenOff,
}

/// See the module.
pub(super) struct Run {
    pub(super) id: SagaId,
    /// What the store is written in.
    pub(super) format: Format,
    pub(super) state: SagaState,
    pub(super) flight: Arc<Flight>,
    pub(super) player: Option<Playing>,
    pub(super) active: BTreeMap<StepIndex, Active>,
    /// Before when the undo of a step in doubt must not start.
    pub(super) undo_at: HashMap<StepIndex, Monotonic>,
    /// The children that it waits for.
    pub(super) children: BTreeMap<StepIndex, Attending>,
    /// Why its children do not move, if they do not.
    pub(super) stalled: BTreeMap<StepIndex, Arc<str>>,
    /// Whether nobody waits for it, although it is a child.
    pub(super) orphaned: bool,
    /// How many deliveries its function had been told when it was passivated.
    pub(super) resting: Option<usize>,
    pub(super) residence: Residence,
    /// When its deadline passes.
    pub(super) due_at: Option<Monotonic>,
    /// Rings when that is.
    pub(super) due_alarm: Option<Alarm>,
    /// The sleeps whose timers run.
    pub(super) asleep: BTreeMap<StepIndex, Alarm>,
    outbox: VecDeque<Event>,
    /// What is done once so many events, counted from the first, are durable.
    deeds: Vec<(u64, Deed)>,
    /// How many events were recorded, and how many of them were sent.
    recorded: u64,
    flushed: u64,
    sent: Option<Sent>,
    over: Over,
    /// The record of its end, once that is durable.
    finished_at: Option<Lsn>,
    /// The status that subscribers will have been told once everything recorded is durable.
    announced: Option<StatusKind>,
    /// Where it is, as far as that is durable.
    pub(super) shown: Option<SagaStatus>,
    /// Where the census has it.
    pub(super) counted: Option<StatusKind>,
    /// Whether it is played alone first.
    pub(super) turn: Turn,
    /// Whether its function is told only what is durable.
    pub(super) careful: bool,
    /// How many of its deliveries are known to be durable.
    pub(super) durable_deliveries: usize,
}

/// The function in one execution.
pub(super) struct Playing {
    pub(super) script: Arc<Script>,
    pub(super) future: Option<BoxFuture<'static, Result<Payload, SagaError>>>,
    pub(super) result: Option<Result<Payload, SagaError>>,
    /// How many deliveries it was told.
    pub(super) told: usize,
    /// The recorded calls that it made.
    pub(super) called: BTreeSet<StepIndex>,
}

impl Run {
    pub(super) fn start(id: SagaId, flight: Arc<Flight>, start: Box<SagaStart>) -> Self {
        let mut run = Self::recover(id, flight, SagaState::new(start.clone()));
        (run.announced, run.shown) = (None, None);
        run.push(SagaEvent::Started(start));
        run.then(Deed::Started);
        if let Some(hold) = run.state.hold() {
            let text = hold_text(hold);
            run.then(Deed::Held(text));
        }
        run
    }

    pub(super) fn recover(id: SagaId, flight: Arc<Flight>, state: SagaState) -> Self {
        Self {
            id,
            format: Format::NEWEST,
            flight,
            player: None,
            active: BTreeMap::new(),
            undo_at: HashMap::new(),
            children: BTreeMap::new(),
            stalled: BTreeMap::new(),
            orphaned: false,
            resting: None,
            residence: Residence::default(),
            due_at: None,
            due_alarm: None,
            asleep: BTreeMap::new(),
            outbox: VecDeque::new(),
            deeds: Vec::new(),
            recorded: 0,
            flushed: 0,
            sent: None,
            over: Over::NotYet,
            finished_at: None,
            announced: Some(state.status_kind()),
            shown: Some(state.status()),
            counted: None,
            turn: Turn::Free,
            careful: false,
            durable_deliveries: state.deliveries().len(),
            state,
        }
    }

    /// The record of its end, once that is durable.
    pub(super) fn finished_at(&self) -> Option<Lsn> {
        self.finished_at
    }

    /// Whether it has ended and everybody was told.
    pub(super) fn is_over(&self) -> bool {
        self.over != Over::NotYet
    }

    /// Moves as far as it can without hearing anything new.
    pub(super) fn advance(&mut self, core: &Arc<Core>) {
        // What would be recorded now is of a saga that the journal does not have, or not so.
        while self.over != Over::BrokenOff {
            if self.turn.plays() {
                self.forward(core);
                self.conclude(core);
            }
            if !self.flush(core) {
                return;
            }
        }
    }

    /// Whether nothing of it is on its way to the disk.
    pub(super) fn is_quiet(&self) -> bool {
        self.sent.is_none() && self.outbox.is_empty()
    }

    pub(super) fn hear(&mut self, core: &Arc<Core>, message: Message) {
        match message {
            Message::Ended {
                step, fence, ended, ..
            } => self.ended(core, step, fence, ended),
            Message::Refused {
                step,
                fence,
                refusal,
                ..
            } => {
                self.refused(core, step, fence, &refusal);
            }
            Message::Durable { result, .. } => self.durable(core, result),
            Message::AppendAgain { .. } => self.append_sent(core),
            Message::Retry { step, fence, .. } => self.retry(core, step, fence),
            Message::Wake { step, .. } => self.woke(core, step),
            Message::Nudge { .. } => {}
            Message::Cancel { tell, .. } => self.cancel(core, tell),
            Message::Resume { .. } => {
                self.resume(core);
                self.resume_children(core);
            }
            Message::News { step, news, .. } => self.child_told(core, step, news),
            Message::Signal { sending, tell, .. } => self.signal(core, sending, tell),
            Message::Deadline { .. } => self.check_deadline(core),
            Message::Operate { wish, .. } => self.operate(core, *wish),
            Message::GoOn { .. }
            | Message::Probe { .. }
            | Message::AllFound
            | Message::AllGo
            | Message::Attend { .. }
            | Message::Command { .. }
            | Message::Start { .. }
            | Message::Born(_)
            | Message::Recover { .. }
            | Message::List { .. }
            | Message::Poisoned
            | Message::Quiesce { .. }
            | Message::Stop => {}
        }
        self.advance(core);
    }

    /// Applies an event to the fold and puts it into the next batch.
    ///
    /// The driver asks only for what the fold allows; if it does not, the saga is held rather
    /// than the journal given something that would not fold again.
    pub(super) fn record(&mut self, event: SagaEvent) -> bool {
        if self.format == Format::V1
            && let Err(error) = v1::can_say(&event)
        {
            self.hold(Hold::Stuck(error.to_string()));
            return false;
        }
        if let Err(error) = self.state.apply(&event) {
            tracing::error!(saga = %self.id, %error, "the driver asked for an illegal event");
            self.hold(Hold::Stuck(format!("internal: {error}")));
            return false;
        }
        self.push(event);
        true
    }

    /// Has something done once everything recorded so far is durable.
    pub(super) fn then(&mut self, deed: Deed) {
        self.deeds.push((self.recorded, deed));
    }

    /// Puts an event of its fork behind what is recorded, into the same batch.
    pub(super) fn attach(&mut self, event: Event) {
        self.outbox.push_back(event);
        self.recorded += 1;
    }

    fn push(&mut self, event: SagaEvent) {
        self.attach(Event::Saga { id: self.id, event });
        let kind = self.state.status_kind();
        if self.announced.replace(kind) != Some(kind) {
            self.then(Deed::Changed(self.state.status()));
        }
    }

    /// Subscribers are told of a change.
    pub(super) fn changed(&mut self, core: &Core, status: SagaStatus) {
        core.driver.census.entered(&mut self.counted, status.kind());
        self.shown = Some(status.clone());
        core.feed.publish(|| Notice::Changed {
            saga: self.id,
            id: self.flight.id,
            name: self.state.start().code.name.clone(),
            status,
        });
    }

    /// Ends this execution of the function. It is the embedder's, and so is what it drops.
    pub(super) fn bury(&mut self) {
        self.resting = None;
        let playing = self.player.take();
        if catch_unwind(AssertUnwindSafe(|| drop(playing))).is_err() {
            tracing::error!(saga = %self.id, "the saga's function panicked when it was dropped");
        }
    }

    /// Holds the saga until an operator has it go on.
    pub(super) fn hold(&mut self, hold: Hold) {
        if self.state.hold().is_some() || self.state.ended() {
            return;
        }
        let hold = clipped(hold);
        let text = hold_text(&hold);
        let event = SagaEvent::Held(hold);
        if self.state.apply(&event).is_ok() {
            self.push(event);
            self.then(Deed::Held(text));
            self.stand_by();
        }
        self.bury();
    }

    fn cancel(&mut self, core: &Arc<Core>, tell: Tell<Result<(), CancelError>>) {
        if self.state.ended() {
            let _ = tell.send(Err(CancelError::Ended));
        } else if self.state.pivoted() {
            let counter = core.counter_of(&self.state.start().code.name);
            let _ = tell.send(Err(CancelError::RollbackRequired { counter }));
        } else if self.record(SagaEvent::CancelRequested) {
            if matches!(self.state.phase(), Phase::Running) {
                // Unwinding needs nothing of what holds it: neither its code nor an answer. Its
                // callers wait for the outcome again before anybody is told.
                self.resume(core);
            }
            self.then(Deed::Cancelled(tell));
        }
    }

    pub(super) fn resume(&mut self, core: &Arc<Core>) {
        if self.state.hold().is_some() && self.record(SagaEvent::Resumed) {
            self.bury();
            self.then(Deed::Resumed);
            if self.state.doom().is_none() {
                self.relaunch_idle(core);
            }
        }
    }

    /// Hands the next batch to the log, unless one is on its way; true if something was done at
    /// once instead, after which there may be more to do.
    fn flush(&mut self, core: &Arc<Core>) -> bool {
        if self.turn == Turn::Played
            || self.sent.is_some()
            || (self.outbox.is_empty() && self.deeds.is_empty())
        {
            return false;
        }
        let events = self.next_events(core.batch_bytes.min(BATCH_BYTES));
        self.flushed += events.len() as u64;
        let ready = |(after, _): &mut (u64, Deed)| *after <= self.flushed;
        let deeds: Vec<Deed> = self
            .deeds
            .extract_if(.., ready)
            .map(|(_, deed)| deed)
            .collect();
        if events.is_empty() {
            self.perform(core, deeds, Lsn::default());
            return true;
        }
        let starts = events.iter().any(|event| match event {
            // A child was promised with the call of its parent, and a fork that is not this saga
            // comes with its end.
            Event::Saga {
                id,
                event: SagaEvent::Started(start),
            } => *id == self.id && start.parent.is_none(),
            Event::Saga { .. } => false,
            Event::Opened { .. }
            | Event::Tenant(_)
            | Event::Effect { .. }
            | Event::Closed { .. }
            | Event::Recovered
            | Event::Budget(_) => false,
        });
        // Whatever was started must be able to end, also on a full disk.
        let purpose = if starts {
            Purpose::New
        } else {
            Purpose::Settle
        };
        self.sent = Some(Sent {
            events,
            purpose,
            deeds,
        });
        self.append_sent(core);
        false
    }

    /// Tells those whose wish or signal is not durable.
    fn not_durable_for_any(&mut self, reason: &str) {
        let sent = self.sent.take().map(|sent| sent.deeds).unwrap_or_default();
        let waiting = self.deeds.drain(..).map(|(_, deed)| deed);
        for deed in sent.into_iter().chain(waiting) {
            match deed {
                Deed::Cancelled(tell) => {
                    let reason = reason.to_owned();
                    let _ = tell.send(Err(CancelError::NotRecorded { reason }));
                }
                Deed::Signalled(_, tell) => {
                    let _ = tell.send(Err(not_recorded(reason)));
                }
                Deed::Started
                | Deed::Launch(_)
                | Deed::Sleep(_)
                | Deed::Attend(_)
                | Deed::Recall(_)
                | Deed::Reported
                | Deed::Rehearse
                | Deed::Rehearsed
                | Deed::Held(_)
                | Deed::Resumed
                | Deed::Finish(_)
                | Deed::Born(_)
                | Deed::Changed(_)
                | Deed::Exhausted(..) => {}
                Deed::Shown(_, tell) => {
                    let _ = tell.send(Err(Fault::NotRecorded(reason.to_owned())));
                }
                Deed::Ordered(tell) => {
                    let _ = tell.send(Err(Fault::NotRecorded(reason.to_owned())));
                }
            }
        }
    }

    fn perform(&mut self, core: &Arc<Core>, deeds: Vec<Deed>, lsn: Lsn) {
        for deed in deeds {
            match deed {
                Deed::Started => self.flight.saga_started(self.id),
                Deed::Launch(step) => self.launch(core, step),
                Deed::Sleep(step) => self.sleep(core, step),
                Deed::Cancelled(tell) => {
                    let _ = tell.send(Ok(()));
                }
                Deed::Signalled(signalled, tell) => {
                    let _ = tell.send(Ok(signalled));
                }
                Deed::Attend(step) => self.attend(core, step),
                Deed::Recall(step) => self.recall_recorded(core, step),
                Deed::Reported => self.report(core),
                Deed::Held(reason) => {
                    self.flight.hold(&reason);
                    self.tell_parent(core, News::Held(Some(reason)));
                }
                Deed::Resumed => self.resumed(core),
                Deed::Finish(settlement) => {
                    self.over = Over::Told;
                    self.finished_at = Some(lsn);
                    core.driver.ended();
                    self.flight.arrived(core, settlement, lsn);
                    self.release_children(core);
                }
                Deed::Born(newborn) => newborn.announce(core),
                Deed::Changed(status) => self.changed(core, status),
                Deed::Exhausted(path, reason) => core.feed.publish(|| Notice::Exhausted {
                    saga: self.id,
                    id: self.flight.id,
                    path,
                    reason,
                }),
                Deed::Shown(state, tell) => {
                    let _ = tell.send(Ok(state));
                }
                Deed::Rehearse => self.rehearse(core),
                Deed::Rehearsed => self.turn = Turn::Waits,
                Deed::Ordered(tell) => {
                    let _ = tell.send(Ok(()));
                }
            }
        }
    }

    /// It goes on, unless a child does not.
    fn resumed(&self, core: &Core) {
        let why = self.stalled.values().next().map(Arc::clone);
        match &why {
            Some(why) => self.flight.hold(why),
            None => self.flight.saga_resumed(),
        }
        self.tell_parent(core, News::Held(why));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.not_durable_for_any("the engine ended first");
        self.bury();
    }
}
