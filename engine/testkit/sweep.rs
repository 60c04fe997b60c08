//! The sweep: runs one saga, crashes it everywhere, recovers it, and checks what came of it.

use std::fmt;

use futures_util::future::BoxFuture;
use orlop_gpu::DeviceOptions;
use orlop_saga::canonical;
use orlop_saga::key::Key;
use orlop_saga::outcome::Failure;
use orlop_saga::saga::SignalId;
use serde::Serialize;

use super::clock::SimClock;
use super::course::{Course, Manner, Way};
use super::life::{End, KEY, Lived, Plan, Run, planned};
use super::machine::Machine;
use super::past::Past;
use super::point::{Crash, SweepPoint};
use super::report::SweepReport;
use crate::builder::EngineBuilder;
use crate::close::CloseError;
use crate::error::SubmitError;
use crate::open::OpenError;
use crate::options::Options;
use crate::saga::Saga;
use crate::signal::{SignalError, Signalled};
use crate::tenant::Tenant;

/// How a swept saga ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending<T> {
    /// It completed with this output.
    Completed(T),
    /// Everything it did is undone, for this reason.
    Compensated(Failure),
    /// It does not move until an operator says so, for this reason.
    Held(String),
}

/// What a sweep found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// The embedder's invariant does not hold.
    #[error("the invariant is broken after the saga was {ending}: {reason}")]
    Invariant {
        /// How the saga ended.
        ending: String,
        /// What the invariant said.
        reason: String,
    },
    /// The saga neither ends nor is it held.
    #[error("the saga never ends: {why}; tried until then: {calls:?}")]
    NeverEnds {
        /// What was the case when it was given up.
        why: String,
        /// The calls of the life in which it was given up.
        calls: Vec<String>,
    },
    /// An outcome that was told is another one after a crash.
    #[error("the outcome was told as {was} and is {is}")]
    Changed {
        /// What was told.
        was: String,
        /// What it is.
        is: String,
    },
    /// A call ran, and what the journal had when that life began forbids it: an outcome was lost.
    #[error("{call} was tried, though the journal had that {said}")]
    Again {
        /// The call.
        call: String,
        /// What the journal had.
        said: String,
    },
    /// A step or an undo ran, and that it was about to is not in the journal.
    #[error("{call} was tried, and the journal does not have it")]
    Unrecorded {
        /// The call.
        call: String,
    },
    /// A step was undone after one that had been called before it.
    #[error("{call} was tried after {after}, which is of an older step")]
    Disorder {
        /// The call.
        call: String,
        /// The call before it.
        after: String,
    },
    /// An outcome was told, and the journal does not have it.
    #[error("the saga was told as {was}, and the journal does not have that it ended")]
    Forgotten {
        /// What was told.
        was: String,
    },
    /// The step that was to fail did not, or for another reason.
    #[error("step {path} was to fail, and those that failed are {found}")]
    OtherStep {
        /// The step.
        path: String,
        /// The steps that failed and why, as the journal says.
        found: String,
    },
    /// The point was not reached: the saga did something else than before. It is not
    /// deterministic, or what it calls is not.
    #[error("the saga did not come to this point again; it did {calls:?}")]
    NotReached {
        /// What it did.
        calls: Vec<String>,
    },
    /// The engine did not open.
    #[error("the engine did not open")]
    NotOpened {
        /// Why.
        #[from]
        source: OpenError,
    },
    /// The engine did not close.
    #[error("the engine did not close")]
    NotClosed {
        /// Why.
        source: CloseError,
    },
    /// The saga was not started, or its end not told.
    #[error("the saga was not started or its end not told: {error}")]
    NotTold {
        /// Why.
        error: SubmitError,
    },
}

impl Finding {
    fn never_ends(why: &str) -> Self {
        Self::NeverEnds {
            why: why.to_owned(),
            calls: Vec::new(),
        }
    }
}

/// What a sweep found, and how to find it again: [`CrashSweep::only`] with the same seed.
#[derive(Debug)]
pub struct SweepError {
    /// What.
    pub finding: Box<Finding>,
    /// Where.
    pub point: SweepPoint,
    /// What everything was drawn from.
    pub seed: u64,
    /// What ran, one list for each life of the process that came to its end.
    pub lives: Vec<Vec<String>>,
}

impl fmt::Display for SweepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            finding,
            point,
            seed,
            lives,
        } = self;
        writeln!(f, "{finding}")?;
        writeln!(f, "at: {point}")?;
        for (number, calls) in lives.iter().enumerate() {
            writeln!(f, "life {number}: {}", calls.join(", "))?;
        }
        write!(f, "to repeat: .seed({seed}).only({:?})", point.to_string())
    }
}

impl std::error::Error for SweepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.finding)
    }
}

type MakeWorld<W> = Box<dyn Fn(&SimClock) -> W>;
type Bind<W> = Box<dyn Fn(&W, EngineBuilder) -> EngineBuilder>;
type Input<S, W> = Box<dyn Fn(&W, &Tenant) -> <S as Saga>::Input>;
/// Sends one signal to the swept saga.
type Send = Box<dyn Fn(&Tenant) -> BoxFuture<'static, Result<Signalled, SignalError>>>;
type Invariant<S, W> = Box<dyn Fn(&W, &Ending<<S as Saga>::Output>) -> Result<(), String>>;

/// A sweep over every crash of one saga.
///
/// It runs the saga on a simulated machine and clock, one attempt at a time, and counts what it
/// does. Then it runs it again for every point there is, and crashes it there: at every group that
/// the journal writes (which the machine loses, or finds again), before every step, question and
/// undo, after each of them and before anything of it is in the journal, and when the outcome was
/// told. The next process recovers; so as many times again with a second crash at every point of
/// that recovery. At each end the embedder's invariant over its outside is checked, and that an
/// outcome that was told is the same ever after. At the end of each life the journal is compared
/// with what ran: no attempt without a record of it, none of what had settled or been undone before
/// that life, undos newest first, and no end told that is not durable.
///
/// All that on every course: forward; with each step failing in turn, where the journal must say
/// that it was that step which failed; cancelled at each step in turn. Also with every call
/// delivered twice, with the saga passivated after every step, and with the engine closed and
/// reopened after every step and undo.
///
/// A lost first write of a recovery is left out: it leaves what there was before.
pub struct CrashSweep<S: Saga, W> {
    pub(crate) options: Options,
    pub(crate) bind: Bind<W>,
    pub(crate) input: Input<S, W>,
    pub(crate) signals: Vec<Send>,
    world: MakeWorld<W>,
    invariant: Invariant<S, W>,
    seed: u64,
    depth: u32,
}

/// One run from the saga's start to its end.
struct Played<T> {
    lives: Vec<Lived<T>>,
    /// Whether the saga unwound when each life ended.
    unwound: Vec<bool>,
    /// Whether no step failed but the one that was to: whatever crashes, it must.
    strict: bool,
}

impl<S: Saga, W> CrashSweep<S, W> {
    /// A sweep, with seed 0 and two crashes in a row.
    ///
    /// - `world`: a fresh outside for each run; what hangs there does so by the clock it is given.
    ///   It survives crashes.
    /// - `bind`: binds the computations, undos and sagas of one process to it.
    /// - `input`: prepares the outside and says what the saga is started with; called once a run.
    /// - `invariant`: what must be so once the saga has ended that way. Whether it may be
    ///   [`Ending::Held`] is for the invariant to say.
    pub fn new(
        world: impl Fn(&SimClock) -> W + 'static,
        bind: impl Fn(&W, EngineBuilder) -> EngineBuilder + 'static,
        input: impl Fn(&W, &Tenant) -> S::Input + 'static,
        invariant: impl Fn(&W, &Ending<S::Output>) -> Result<(), String> + 'static,
    ) -> Self {
        Self {
            options: options(),
            bind: Box::new(bind),
            input: Box::new(input),
            signals: Vec::new(),
            world: Box::new(world),
            invariant: Box::new(invariant),
            seed: 0,
            depth: 2,
        }
    }

    /// What random numbers, backoffs and the order of steps side by side are drawn from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many crashes in a row, at most: 0, 1 or 2.
    #[must_use]
    pub fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// Other options of the engine than the default ones with a small device.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// And a signal: every life sends it again, under the same id, in the order of these calls.
    /// Whether all are sent as soon as the saga is started or only when nothing else is left to
    /// do, is drawn anew for each life.
    #[must_use]
    pub fn signal<T: Serialize + 'static>(mut self, name: &str, payload: T) -> Self {
        let id = SignalId::named(&format!("{name} {}", self.signals.len()));
        let name = name.to_owned();
        self.signals.push(Box::new(move |tenant| {
            tenant.signal(Key::named(KEY), &name, id, &payload)
        }));
        self
    }

    /// Sweeps.
    ///
    /// # Errors
    /// [`SweepError`]: the first finding, and how to repeat it.
    pub fn run(&self) -> Result<SweepReport, SweepError> {
        let mut report = self.report();
        let steps = self.sweep_way(&Way::Forward, &mut report)?;
        for way in [Way::Fails, Way::Cancelled] {
            for path in &steps {
                self.sweep_way(&way(path.clone()), &mut report)?;
            }
        }
        Ok(report)
    }

    /// Runs the saga with the crashes of one point, as a [`SweepError`] names it.
    ///
    /// # Errors
    /// [`SweepError`]: the finding, if it is found again.
    pub fn only(&self, point: &SweepPoint) -> Result<SweepReport, SweepError> {
        let mut report = self.report();
        report.courses = 1;
        let plain = Course {
            way: point.course.way.clone(),
            manner: Manner::Plain,
        };
        let strict = if point.course == plain && point.crashes.is_empty() {
            true
        } else {
            self.play(&plain, &[], true, &mut report)?.strict
        };
        self.play(&point.course, &point.crashes, strict, &mut report)?;
        Ok(report)
    }

    fn report(&self) -> SweepReport {
        SweepReport {
            saga: S::NAME.to_owned(),
            seed: self.seed,
            ..SweepReport::default()
        }
    }

    /// Goes one way in every manner; the paths of its steps.
    fn sweep_way(&self, way: &Way, report: &mut SweepReport) -> Result<Vec<String>, SweepError> {
        let course = |manner| Course {
            way: way.clone(),
            manner,
        };
        let plain = course(Manner::Plain);
        let whole = self.play(&plain, &[], true, report)?;
        let strict = whole.strict;
        self.sweep(&plain, &whole, self.depth, report)?;
        for course in [Manner::Twice, Manner::Passivated].map(course) {
            let whole = self.play(&course, &[], strict, report)?;
            self.sweep(&course, &whole, self.depth.min(1), report)?;
        }
        self.play(&course(Manner::Reopened), &[], strict, report)?;
        report.courses += 4;
        Ok(whole.lives.first().map_or_else(Vec::new, Lived::steps))
    }

    /// Crashes one course everywhere.
    fn sweep(
        &self,
        course: &Course,
        whole: &Played<S::Output>,
        depth: u32,
        report: &mut SweepReport,
    ) -> Result<(), SweepError> {
        let life = whole.lives.first().filter(|_| depth > 0);
        for crash in life.map_or_else(Vec::new, |life| life.points(true)) {
            self.sweep_from(course, (crash, whole.strict), depth, report)?;
        }
        Ok(())
    }

    fn sweep_from(
        &self,
        course: &Course,
        (crash, strict): (Crash, bool),
        depth: u32,
        report: &mut SweepReport,
    ) -> Result<(), SweepError> {
        let once = self.play(course, &[crash], strict, report)?;
        let counts = match once.unwound.first() {
            Some(true) => &mut report.unwinding,
            Some(false) | None => &mut report.forward,
        };
        counts.count(crash);
        let recovery = once.lives.get(1).filter(|_| depth > 1);
        for second in recovery.map_or_else(Vec::new, |life| life.points(false)) {
            let twice = self.play(course, &[crash, second], strict, report)?;
            let counts = match twice.unwound.get(1) {
                Some(true) => &mut report.again_unwinding,
                Some(false) | None => &mut report.again_forward,
            };
            counts.count(second);
        }
        Ok(())
    }

    /// Runs the saga to its end, with crashes on the way.
    fn play(
        &self,
        course: &Course,
        crashes: &[Crash],
        strict: bool,
        report: &mut SweepReport,
    ) -> Result<Played<S::Output>, SweepError> {
        let point = SweepPoint {
            course: course.clone(),
            crashes: crashes.to_vec(),
        };
        let mut lives = Vec::new();
        match self.play_lives(&point, strict, &mut lives, report) {
            Ok((unwound, strict)) => {
                if !crashes.is_empty() {
                    report.points.push(point);
                }
                Ok(Played {
                    lives,
                    unwound,
                    strict,
                })
            }
            Err(finding) => Err(SweepError {
                finding: Box::new(finding),
                point,
                seed: self.seed,
                lives: lives.into_iter().map(|life| life.calls).collect(),
            }),
        }
    }

    fn play_lives(
        &self,
        point: &SweepPoint,
        strict: bool,
        lives: &mut Vec<Lived<S::Output>>,
        report: &mut SweepReport,
    ) -> Result<(Vec<bool>, bool), Finding> {
        let clock = SimClock::new(self.seed);
        let world = (self.world)(&clock);
        let mut run = Run {
            world: &world,
            clock: &clock,
            machine: Machine::default(),
            input: None,
            seed: self.seed,
        };
        let (mut unwound, mut told) = (Vec::new(), None);
        let (mut past, mut tried) = (Past::default(), Vec::new());
        for number in 0.. {
            let crash = usize::try_from(number)
                .ok()
                .and_then(|index| point.crashes.get(index).copied());
            let plan = Plan {
                course: &point.course,
                number,
                crash,
            };
            let lived = self.live(&mut run, &plan)?;
            report.lives += 1;
            report.calls += lived.calls.len() as u64;
            let before = std::mem::replace(&mut past, run.machine.past());
            unwound.push(past.unwinds());
            tried.extend(lived.tried.iter().cloned());
            if let Some(finding) = before.forbids(&lived.tried).or_else(|| past.lacks(&tried)) {
                lives.push(lived);
                return Err(finding);
            }
            let ends = match &lived.end {
                End::Crashed => {
                    lives.push(lived);
                    continue;
                }
                End::Closed => {
                    lives.push(lived);
                    if number > LIVES_MAX {
                        return Err(Finding::never_ends("it was closed and opened too often"));
                    }
                    continue;
                }
                End::Told(ending) => said::<S>(ending)?,
            };
            if !past.ended() && !ends.starts_with(HELD) {
                lives.push(lived);
                return Err(Finding::Forgotten { was: ends });
            }
            if let Some(was) = told.replace(ends.clone())
                && was != ends
                && !was.starts_with(HELD)
            {
                return Err(Finding::Changed { was, is: ends });
            }
            if lived.crashed {
                lives.push(lived);
                continue;
            }
            if crash.is_some() {
                return Err(Finding::NotReached { calls: lived.calls });
            }
            let mut lived = lived;
            let End::Told(ending) = std::mem::replace(&mut lived.end, End::Closed) else {
                return Err(Finding::never_ends("it did not say how"));
            };
            lives.push(lived);
            let failures = run.machine.failures();
            if strict {
                check_failed(&point.course.way, &failures)?;
            }
            self.check(&world, &ending, ends)?;
            report.runs += 1;
            report.count(&ending);
            return Ok((unwound, strict && failures.len() <= 1));
        }
        Err(Finding::never_ends("no number is left for a life"))
    }

    fn check(&self, world: &W, ending: &Ending<S::Output>, said: String) -> Result<(), Finding> {
        (self.invariant)(world, ending).map_err(|reason| Finding::Invariant {
            ending: said,
            reason,
        })
    }
}

/// Whether the journal says that the step that was to fail did, and as it was to.
fn check_failed(way: &Way, failures: &[(String, String)]) -> Result<(), Finding> {
    let Way::Fails(path) = way else {
        return Ok(());
    };
    let expected = (path.clone(), planned(way));
    if failures.contains(&expected) {
        return Ok(());
    }
    Err(Finding::OtherStep {
        path: path.clone(),
        found: format!("{failures:?}"),
    })
}

/// What is compared of an ending that was told.
fn said<S: Saga>(ending: &Ending<S::Output>) -> Result<String, Finding> {
    Ok(match ending {
        Ending::Completed(output) => {
            let output = canonical::encode(output, usize::MAX);
            let output = output.map_err(|error| Finding::NotTold {
                error: error.into(),
            })?;
            format!("completed with {output:?}")
        }
        Ending::Compensated(failure) => format!("compensated: {failure}"),
        Ending::Held(reason) => format!("{HELD}: {reason}"),
    })
}

/// Begins what is said of a held saga.
const HELD: &str = "held";
/// How many processes may be closed before the saga counts as one that never ends.
const LIVES_MAX: u64 = 10_000;

/// The default options with a small device.
fn options() -> Options {
    Options {
        device: DeviceOptions {
            workers: 1,
            arena_bytes: 1 << 20,
            ..DeviceOptions::default()
        },
        ..Options::default()
    }
}
