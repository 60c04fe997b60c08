//! The driver: the one thread that plays sagas, forward and backward.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the handle, the thread |
//! | `message` | what the thread is told |
//! | `run` | one saga in memory: its fold, its function, its outbox |
//! | `forward` | polling the function and recording what it asks for |
//! | `attempt` | attempts of steps and undos on their way |
//! | `active` | one of them, or what is between two |
//! | `listener` | who hears of one attempt |
//! | `backward` | ending: completion, unwinding, holds |
//! | `operate` | what an operator has done to it |
//! | `fork` | how a saga begins, also with what another one did |
//! | `resident` | whose functions are in memory |
//! | `census` | how many are in which state |
//! | `child` | a saga that waits for another one |
//! | `probation` | who is played alone after recovery crashed |
//! | `words` | what is said of events and holds |
//! | `deadline` | by when it has to have ended |
//! | `signal` | what it is told from outside |
//!
//! Invariants
//! - Every event of a saga is appended from here, one batch at a time, so that the order in the
//!   journal is the order in which the function was told.
//! - Nothing is launched, told to a caller or undone before its record is durable.
//! - A panic in a saga's function parks that saga and nothing else.

mod active;
mod attempt;
mod backward;
mod census;
mod child;
mod deadline;
mod fork;
mod forward;
mod listener;
mod message;
mod operate;
mod paid;
mod probation;
mod resident;
mod run;
mod signal;
mod words;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, Sender};
use orlop_saga::id::{Lsn, SagaId, StepIndex};
use orlop_saga::saga::{SagaStart, SagaState};
use orlop_store::log::AppendError;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::census::Census;
pub use self::census::SagaCounts;
pub(crate) use self::child::{Command, News};
pub(crate) use self::fork::{Birth, Heritage, Will, check_size};
#[cfg(feature = "testkit")]
pub(crate) use self::forward::notes;
pub(crate) use self::message::Message;
use self::message::{not_recorded, refused, unknown};
pub(crate) use self::operate::{Fault, Order, Verb, Wish};
use self::probation::Probation;
use self::resident::Residents;
use self::run::Run;
pub(crate) use self::signal::Sending;
use crate::core::Core;
use crate::error::{SubmitError, Unavailable};
use crate::executor::panic_text;
use crate::flight::Flight;
use crate::signal::{SignalError, Signalled};
use crate::timers::{Timers, Work};

/// Why a saga was not cancelled. It goes on as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// It has passed its pivot: it can only go forward. Start a saga that rolls it back, if one is
    /// registered with [`Tenant::roll_back`](crate::Tenant::roll_back).
    #[error(
        "the saga has passed its pivot; only another saga can roll it back: {}",
        counter.as_deref().unwrap_or("none is registered")
    )]
    RollbackRequired {
        /// The name of the saga that is registered to take it back.
        counter: Option<Box<str>>,
    },
    /// It has ended, or it is not in this engine.
    #[error("the saga has ended")]
    Ended,
    /// Whether the wish is durable is unknown, or the engine takes no work.
    #[error("the cancel could not be recorded: {reason}")]
    NotRecorded {
        /// What the journal said.
        reason: String,
    },
}

type Tell<T> = oneshot::Sender<T>;

/// How many sagas that ended are kept until the tables have them, and how many bytes of inputs and
/// outputs they have together; the tables may have failed.
const ENDED_MAX: usize = 4096;
const ENDED_BYTES_MAX: u64 = 64 << 20;

/// A message on its way.
struct Told {
    message: Message,
    /// Until it was heard.
    work: Work,
}

/// The way to the driver.
pub(crate) struct Driver {
    inbox: Sender<Told>,
    outlet: Mutex<Option<Receiver<Told>>>,
    timers: Timers,
    sagas: AtomicUsize,
    /// How many of them have their functions in memory.
    resident: AtomicUsize,
    pub(crate) census: Census,
    saga_last: AtomicU64,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Driver {
    /// A driver whose thread is started later, once the core exists.
    pub(crate) fn new(saga_last: SagaId, timers: Timers) -> Self {
        let (inbox, outlet) = crossbeam_channel::unbounded();
        Self {
            inbox,
            outlet: Mutex::new(Some(outlet)),
            timers,
            sagas: AtomicUsize::new(0),
            resident: AtomicUsize::new(0),
            census: Census::default(),
            saga_last: AtomicU64::new(saga_last.get()),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread; a second call does nothing.
    pub(crate) fn run(&self, core: &Arc<Core>) -> std::io::Result<()> {
        let Some(outlet) = self.outlet.lock().take() else {
            return Ok(());
        };
        let player = Player {
            core: Arc::downgrade(core),
            runs: BTreeMap::new(),
            children: HashMap::new(),
            residents: Residents::new(core.limits.sagas_resident_max),
            ended: VecDeque::new(),
            ended_bytes: 0,
            current: None,
            probation: None,
            after_crash: false,
            closing: None,
        };
        let thread = std::thread::Builder::new()
            .name("orlop-driver".to_owned())
            .spawn(move || player.play(&outlet))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// How many sagas are unfinished.
    pub(crate) fn sagas(&self) -> usize {
        self.sagas.load(Ordering::Relaxed)
    }

    /// How many unfinished sagas have their functions in memory.
    pub(crate) fn resident(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    pub(crate) fn start(&self, flight: Arc<Flight>, birth: Box<Birth>) {
        self.begun();
        self.tell(Message::Start { flight, birth });
    }

    pub(crate) fn recover(
        &self,
        id: SagaId,
        flight: Arc<Flight>,
        state: Box<SagaState>,
        crashed: bool,
    ) {
        self.begun();
        self.tell(Message::Recover {
            id,
            flight,
            state,
            crashed,
        });
    }

    /// Goes on with a saga that was recovered, once all others were.
    pub(crate) fn go_on(&self, saga: SagaId) {
        self.tell(Message::GoOn { saga });
    }

    pub(crate) fn resume(&self, saga: SagaId) {
        self.tell(Message::Resume { saga });
    }

    pub(crate) async fn signal(
        &self,
        saga: SagaId,
        sending: Sending,
    ) -> Result<Signalled, SignalError> {
        let (tell, told) = oneshot::channel();
        self.tell(Message::Signal {
            saga,
            sending,
            tell,
        });
        told.await
            .unwrap_or_else(|_| Err(not_recorded("the engine ended first")))
    }

    pub(crate) async fn cancel(&self, saga: SagaId) -> Result<(), CancelError> {
        let (tell, told) = oneshot::channel();
        self.tell(Message::Cancel { saga, tell });
        told.await.unwrap_or_else(|_| {
            let reason = "the engine ended first".to_owned();
            Err(CancelError::NotRecorded { reason })
        })
    }

    pub(crate) fn tell(&self, message: Message) {
        // Without its thread the engine is closed: nobody minds.
        let work = self.timers.work();
        let _ = self.inbox.send(Told { message, work });
    }

    /// Ends the thread and waits for it, unless it is the one that calls.
    pub(crate) fn stop(&self) {
        self.tell(Message::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    /// A saga begins to be unfinished.
    fn begun(&self) {
        self.sagas.fetch_add(1, Ordering::Relaxed);
    }

    /// A saga is not unfinished any more; counted before anybody is told.
    fn ended(&self) {
        self.sagas.fetch_sub(1, Ordering::Relaxed);
    }

    fn next_saga(&self) -> SagaId {
        SagaId::new(self.saga_last.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The thread's own state.
struct Player {
    core: Weak<Core>,
    runs: BTreeMap<SagaId, Run>,
    /// The children of what is in memory, by the call that started them.
    children: HashMap<(SagaId, StepIndex), SagaId>,
    /// What ended and is perhaps not in the tables yet, with the record of its end.
    ended: VecDeque<(Lsn, Run)>,
    ended_bytes: u64,
    residents: Residents,
    /// The saga that is being heard.
    current: Option<SagaId>,
    probation: Option<Probation>,
    /// Whether what was found after a crash is being played, and nothing of it recorded yet.
    after_crash: bool,
    closing: Option<std::sync::mpsc::Sender<()>>,
}

impl Player {
    fn play(mut self, outlet: &Receiver<Told>) {
        while let Ok(Told { message, work }) = outlet.recv() {
            let _until_heard = work;
            let message = match message {
                Message::Stop => return,
                Message::Quiesce { tell } => {
                    self.closing = Some(tell);
                    self.check_quiet();
                    continue;
                }
                message @ (Message::Start { .. }
                | Message::Born(_)
                | Message::Recover { .. }
                | Message::Ended { .. }
                | Message::Refused { .. }
                | Message::Durable { .. }
                | Message::AppendAgain { .. }
                | Message::Retry { .. }
                | Message::Wake { .. }
                | Message::Nudge { .. }
                | Message::Cancel { .. }
                | Message::Resume { .. }
                | Message::Signal { .. }
                | Message::Deadline { .. }
                | Message::GoOn { .. }
                | Message::Probe { .. }
                | Message::AllFound
                | Message::AllGo
                | Message::Attend { .. }
                | Message::Command { .. }
                | Message::News { .. }
                | Message::Operate { .. }
                | Message::Poisoned
                | Message::List { .. }) => message,
            };
            let Some(core) = self.core.upgrade() else {
                return;
            };
            if self.closing.is_none() || message.ends_something() {
                self.hear_guarded(&core, message);
            } else {
                refused(message, "the engine closes");
            }
            self.check_quiet();
        }
    }

    /// Tells whoever closes once nothing is on its way to the disk.
    fn check_quiet(&self) {
        if let Some(closing) = &self.closing
            && self.runs.values().all(Run::is_quiet)
        {
            let _ = closing.send(());
        }
    }

    /// Whatever panics, only the saga that it happened to is lost to this engine.
    fn hear_guarded(&mut self, core: &Arc<Core>, message: Message) {
        self.current = message.saga();
        let hearing = AssertUnwindSafe(|| {
            self.hear(core, message);
            self.next_turn(core);
        });
        let Err(panic) = catch_unwind(hearing) else {
            return;
        };
        let (saga, text) = (self.current, panic_text(&*panic));
        tracing::error!(?saga, text, "the driver panicked");
        if let Some(mut run) = saga.and_then(|saga| self.runs.remove(&saga)) {
            self.residents.left(&mut run);
            core.driver.census.left(&mut run.counted);
            let why: Arc<str> = Arc::from(format!("the driver: {text}"));
            run.flight.hold(&why);
            run.tell_parent(core, News::Held(Some(why)));
            core.driver.ended();
            // If others wait for it to have been played, they do not any more.
            core.driver.tell(Message::AllGo);
        }
    }

    fn hear(&mut self, core: &Arc<Core>, message: Message) {
        let saga = match (message.saga(), message) {
            // It was let in before the drain, and is heard after whoever drains has looked.
            (_, Message::Start { flight, birth }) if core.drains.has(&birth.start.code) => {
                let name = birth.start.code.name.clone();
                core.driver.ended();
                flight.saga_refused(core, SubmitError::Draining { name });
                return;
            }
            (_, Message::Start { flight, birth }) => match self.born(core, flight, *birth) {
                Some(moved) => moved,
                None => return,
            },
            (_, Message::Born(newborn)) => self.appear(core, *newborn),
            (
                _,
                Message::Recover {
                    id,
                    flight,
                    state,
                    crashed,
                },
            ) => {
                self.current = Some(id);
                if let Some(parent) = state.start().parent {
                    self.children.insert((parent.saga, parent.step), id);
                }
                let mut run = Run::recover(id, flight, *state);
                run.careful = crashed;
                self.after_crash |= crashed;
                run.format = core.store.0.format();
                self.runs.insert(id, run);
                id
            }
            (Some(saga), Message::GoOn { .. }) => {
                self.go_on(core, saga);
                saga
            }
            (
                None,
                Message::Attend {
                    parent,
                    step,
                    birth,
                },
            ) => match self.attend(core, parent, step, birth) {
                Some(child) => child,
                None => return,
            },
            (
                None,
                Message::Command {
                    parent,
                    step,
                    command,
                },
            ) => match self.command(core, parent, step, command) {
                Some(child) => child,
                None => return,
            },
            (Some(saga), message) => {
                match self.runs.get_mut(&saga) {
                    Some(run) => run.hear(core, message),
                    None => self.late(core, saga, message),
                }
                saga
            }
            (None, Message::List { scope, query, tell }) => {
                let after = query.after.map_or(Bound::Unbounded, Bound::Excluded);
                let runs = self.runs.range((after, Bound::Unbounded));
                let _ = tell.send(operate::page(runs, scope, &query));
                return;
            }
            (None, Message::Poisoned) => {
                self.poisoned(core);
                return;
            }
            (None, Message::Probe { sagas, effects }) => {
                self.probe(core, sagas, effects);
                return;
            }
            (None, Message::AllFound) => {
                Self::all_found(core);
                return;
            }
            (None, Message::AllGo) => {
                self.all_go(core);
                return;
            }
            (None, _) => return,
        };
        self.moved(core, saga);
    }

    /// A saga has heard something.
    fn moved(&mut self, core: &Core, saga: SagaId) {
        if self.runs.get(&saga).is_some_and(Run::is_over) {
            self.let_go(core, saga);
        }
        if let Some(run) = self.runs.get_mut(&saga) {
            run.be_found(&core.driver.census);
        }
        self.residents.moved(&core.driver, &mut self.runs, saga);
    }

    /// A saga waits for a child: it is started if there is none, and tells where it is if there is.
    fn attend(
        &mut self,
        core: &Arc<Core>,
        parent: SagaId,
        step: StepIndex,
        birth: Option<Box<SagaStart>>,
    ) -> Option<SagaId> {
        let known = self.children.get(&(parent, step)).copied();
        if let Some(id) = known {
            self.current = Some(id);
            self.runs.get(&id)?.report_now(core);
            return Some(id);
        }
        let account = self
            .runs
            .get(&parent)
            .map(|run| Arc::clone(&run.flight.account))?;
        let news = |news| Message::News {
            saga: parent,
            step,
            news,
        };
        let Some(start) = birth else {
            core.driver.tell(news(News::Missing));
            return None;
        };
        let Some(flight) = Flight::child(core, account, &start) else {
            core.driver.tell(news(child::key_taken()));
            return None;
        };
        let id = core.driver.next_saga();
        core.driver.begun();
        self.current = Some(id);
        self.children.insert((parent, step), id);
        let run = self
            .runs
            .entry(id)
            .or_insert_with(|| Run::start(id, flight, start));
        run.format = core.store.0.format();
        run.advance(core);
        Some(id)
    }

    /// A saga tells its child something.
    fn command(
        &mut self,
        core: &Arc<Core>,
        parent: SagaId,
        step: StepIndex,
        command: Command,
    ) -> Option<SagaId> {
        let id = self.children.get(&(parent, step)).copied();
        let run = id.and_then(|id| self.runs.get_mut(&id));
        let (Some(id), Some(run)) = (id, run) else {
            if command == Command::Recall {
                core.driver.tell(Message::News {
                    saga: parent,
                    step,
                    news: News::Missing,
                });
            }
            return None;
        };
        self.current = Some(id);
        run.commanded(core, command);
        Some(id)
    }

    /// A saga is over. Its end is found in the tables once they have it, and here until then.
    fn let_go(&mut self, core: &Core, saga: SagaId) {
        let projected = core.projected();
        while self.ended.front().is_some_and(|(lsn, _)| *lsn <= projected) {
            self.forget_ended();
        }
        let Some(mut run) = self.runs.remove(&saga) else {
            return;
        };
        if let Some(parent) = run.state.start().parent {
            self.children.remove(&(parent.saga, parent.step));
        }
        self.residents.left(&mut run);
        core.driver.census.left(&mut run.counted);
        if let Some(lsn) = run.finished_at() {
            self.ended_bytes += run.state.payload_bytes();
            self.ended.push_back((lsn, run));
            let many =
                |this: &Self| this.ended.len() > ENDED_MAX || this.ended_bytes > ENDED_BYTES_MAX;
            while !self.ended.is_empty() && many(self) {
                self.forget_ended();
            }
        }
    }

    fn forget_ended(&mut self) {
        if let Some((_, run)) = self.ended.pop_front() {
            self.ended_bytes = self.ended_bytes.saturating_sub(run.state.payload_bytes());
        }
    }

    /// A message for a saga that is over.
    fn late(&mut self, core: &Core, saga: SagaId, message: Message) {
        let Message::Operate { wish, .. } = message else {
            unknown(message, core.is_poisoned());
            return;
        };
        match self.ended.iter().find(|(_, run)| run.id == saga) {
            Some((_, run)) => run.operate_ended(core, *wish),
            None if core.is_poisoned() => {
                wish.refuse(Fault::NotRecorded(Unavailable::Poisoned.to_string()));
            }
            None => wish.refuse(Fault::Unknown),
        }
    }

    /// The journal has failed: no saga can move any more, and whoever waits for one is told so.
    /// One that has a batch on its way is told by that.
    fn poisoned(&mut self, core: &Arc<Core>) {
        let idle = self.runs.iter().filter(|(_, run)| !run.is_sending());
        let idle: Vec<SagaId> = idle.map(|(id, _)| *id).collect();
        for saga in idle {
            self.current = Some(saga);
            if let Some(run) = self.runs.get_mut(&saga) {
                run.break_off(core, &AppendError::Poisoned);
            }
            self.let_go(core, saga);
        }
    }
}
