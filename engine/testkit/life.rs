//! Lives: one process of a swept saga, from its opening to its crash, its close or the saga's end.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use orlop_saga::canonical::{self, Payload};
use orlop_saga::key::Key;
use orlop_saga::time::Clock;
use tokio::sync::Notify;

use super::clock::{Moment, SimClock};
use super::course::{Course, Manner, Way};
use super::gate::{Gate, Kind, Passage, Waiting};
use super::machine::Machine;
use super::past::Tried;
use super::point::Crash;
use super::sweep::{CrashSweep, Ending, Finding};
use crate::builder::EngineBuilder;
use crate::engine::Engine;
use crate::error::SubmitError;
use crate::saga::Saga;
use crate::tenant::Tenant;

/// Whose the swept saga is.
const TENANT: &str = "crash sweep";
/// Under which key it is started.
pub(crate) const KEY: &str = "crash sweep";
/// How often time may pass in one life before the saga counts as one that never ends.
const PASSES_MAX: u32 = 10_000;

/// What one life is to do.
pub(crate) struct Plan<'a> {
    pub(crate) course: &'a Course,
    /// Which life it is, from 0.
    pub(crate) number: u64,
    /// Where it ends, if not with the saga.
    pub(crate) crash: Option<Crash>,
}

/// What one life did.
pub(crate) struct Lived<T> {
    /// What ran, in order.
    pub(crate) calls: Vec<String>,
    /// Those of them that were a saga's.
    pub(crate) tried: Vec<Tried>,
    /// How many groups of the journal were written, from the saga's start or the opening on.
    pub(crate) writes: u64,
    pub(crate) end: End<T>,
    /// Whether it crashed, before or after the saga's end was told.
    pub(crate) crashed: bool,
}

pub(crate) enum End<T> {
    /// The machine crashed as it was told to.
    Crashed,
    /// The engine was closed.
    Closed,
    /// The saga's end was told.
    Told(Ending<T>),
}

/// What outlives the lives of one run.
pub(crate) struct Run<'a, W> {
    pub(crate) world: &'a W,
    pub(crate) clock: &'a SimClock,
    pub(crate) machine: Machine,
    /// The saga's input, once it was asked for.
    pub(crate) input: Option<Payload>,
    pub(crate) seed: u64,
}

/// A life under way.
struct Life<'a> {
    plan: &'a Plan<'a>,
    clock: &'a SimClock,
    gate: &'a Arc<Gate>,
    engine: &'a Engine,
    /// Rings when nothing is left to do.
    idle: &'a Notify,
    has_rung: bool,
    calls: Vec<String>,
    tried: Vec<Tried>,
    cancelled: bool,
    passes: u32,
}

/// What a life does next.
enum Next {
    GoOn,
    Crash,
    Close,
}

impl<S: Saga, W> CrashSweep<S, W> {
    /// Lives once. Afterwards the machine is as the next life finds it.
    pub(crate) fn live(
        &self,
        run: &mut Run<'_, W>,
        plan: &Plan<'_>,
    ) -> Result<Lived<S::Output>, Finding> {
        let clock = run.clock;
        clock.restart(run.seed.wrapping_add(plan.number));
        let gate = Gate::new(clock.clone(), run.machine.log.clone());
        let dies = Arc::downgrade(&gate);
        run.machine.log.on_power_off(move || {
            if let Some(gate) = dies.upgrade() {
                gate.crash();
            }
        });
        let first = plan.number == 0;
        if let (Some(Crash::Write { nth, .. }), false) = (plan.crash, first) {
            run.machine.log.power_off_after(nth);
        }
        let mut begun = run.machine.log.groups();
        let mut options = self.options.clone();
        if plan.course.manner == Manner::Passivated {
            options.limits.sagas_resident_max = 0;
        }
        let builder = EngineBuilder::on_parts(run.machine.parts())
            .options(options)
            .clock(Arc::new(clock.clone()))
            .turnstile(Arc::<Gate>::clone(&gate));
        let engine = (self.bind)(run.world, builder).open_blocking()?;
        let idle = Notify::new();
        let mut life = Life {
            plan,
            idle: &idle,
            clock,
            gate: &gate,
            engine: &engine,
            calls: Vec::new(),
            tried: Vec::new(),
            has_rung: false,
            cancelled: false,
            passes: 0,
        };
        let end = life.follow(self.saga(&engine, run, plan, &mut begun, &idle));
        let (calls, tried) = (life.calls, life.tried);
        let crashed = gate.has_crashed();
        let unrecorded = gate.unrecorded();
        let writes = run.machine.log.groups() - begun;
        let end = match end? {
            Some(Ok(output)) => End::Told(Ending::Completed(output)),
            Some(Err(SubmitError::Failed(failure))) => End::Told(Ending::Compensated(failure)),
            Some(Err(SubmitError::Stuck { reason, .. })) => {
                End::Told(Ending::Held(reason.to_string()))
            }
            // Whoever dies with an error in its hands has told nobody.
            Some(Err(_)) | None if crashed => End::Crashed,
            Some(Err(error)) => return Err(Finding::NotTold { error }),
            None => End::Closed,
        };
        let kept = matches!(plan.crash, Some(Crash::Write { kept: true, .. }));
        if let End::Closed = end {
            gate.clear();
            engine
                .blocking()
                .close()
                .map_err(|source| Finding::NotClosed { source })?;
        }
        let seed = run.seed ^ clock.wall().get();
        // What is closed is durable whatever happens next; what is not has just died.
        run.machine = run.machine.crash(kept, seed.rotate_left(7));
        drop(engine);
        gate.clear();
        if let Some(call) = unrecorded {
            return Err(Finding::Unrecorded { call });
        }
        Ok(Lived {
            calls,
            tried,
            writes,
            end,
            crashed,
        })
    }

    /// Starts the saga, or joins it, and waits for its end.
    async fn saga(
        &self,
        engine: &Engine,
        run: &mut Run<'_, W>,
        plan: &Plan<'_>,
        begun: &mut u64,
        idle: &Notify,
    ) -> Result<S::Output, SubmitError> {
        let Ok(tenant) = engine.tenant(TENANT).await else {
            // A crash of the machine; whoever polls this looks first.
            return std::future::pending().await;
        };
        let input = match run.input.take() {
            Some(input) => input,
            None => canonical::encode(&(self.input)(run.world, &tenant), usize::MAX)?,
        };
        run.input = Some(input.clone());
        if plan.number == 0 {
            *begun = run.machine.log.groups();
            if let Some(Crash::Write { nth, .. }) = plan.crash {
                run.machine.log.power_off_after(nth);
            }
        }
        let input: S::Input = canonical::decode(&input)?;
        let ticket = tenant.start::<S>(Key::named(KEY), input).await?;
        let sending = pin!(self.send(&tenant, run.clock, idle));
        let told = match select(ticket.into_future(), sending).await {
            Either::Left((told, _)) => told,
            Either::Right(((), ticket)) => ticket.await,
        };
        told.map(|reply| reply.output)
    }

    /// Sends every signal.
    async fn send(&self, tenant: &Tenant, clock: &SimClock, idle: &Notify) {
        if self.signals.is_empty() {
            return;
        }
        let draw = clock.simulated().map_or(0, |simulated| simulated.draw());
        if draw % 2 == 1 {
            idle.notified().await;
        }
        for signal in &self.signals {
            // Whoever does not wait any more is not told. One that waits in vain never ends.
            let _ = signal(tenant).await;
        }
    }
}

impl Life<'_> {
    /// Polls a future, has time pass and lets attempts through, until the future is ready or the
    /// life is over before.
    fn follow<T>(&mut self, future: impl Future<Output = T>) -> Result<Option<T>, Finding> {
        let mut future = pin!(future);
        loop {
            if self.gate.has_crashed() {
                return Ok(None);
            }
            if let Poll::Ready(output) = self.clock.poll(future.as_mut()) {
                // What is written after the answer belongs to this life, in every run alike.
                // A dead process writes nothing, and its work never ends.
                self.clock.rest(|| self.gate.has_crashed());
                if self.plan.crash == Some(Crash::Told) {
                    self.gate.crash();
                }
                return Ok(Some(output));
            }
            // A crash since the last look: that it woke the clock was forgotten by polling.
            if self.gate.has_crashed() {
                return Ok(None);
            }
            match self.clock.wait() {
                Moment::Woken => continue,
                Moment::Idle if self.gate.has_crashed() => continue,
                Moment::Idle => {}
            }
            match self.next()? {
                Next::GoOn => {}
                Next::Crash => self.gate.crash(),
                Next::Close => return Ok(None),
            }
        }
    }

    /// Nothing is under way: lets the next attempt through, or has time pass.
    fn next(&mut self) -> Result<Next, Finding> {
        // What hangs would keep a close waiting.
        let reopens = self.plan.course.manner == Manner::Reopened && self.clock.is_quiet();
        // A question by itself leads nowhere: what it finds is to be done, or asked again.
        if reopens && self.calls.last().is_some_and(|call| !call.starts_with(ASK)) {
            return Ok(Next::Close);
        }
        let draw = self
            .clock
            .simulated()
            .map_or(0, |simulated| simulated.draw());
        let Some(waiting) = self.gate.next(draw) else {
            if !std::mem::replace(&mut self.has_rung, true) {
                self.idle.notify_one();
                return Ok(Next::GoOn);
            }
            self.passes += 1;
            let passed = self.passes < PASSES_MAX && self.clock.pass();
            if passed || (self.passes < PASSES_MAX && self.clock.wait_unseen()) {
                return Ok(Next::GoOn);
            }
            return Err(Finding::NeverEnds {
                why: format!("{:?} after {} timers", self.clock, self.passes),
                calls: self.calls.clone(),
            });
        };
        Ok(self.call(waiting))
    }

    fn call(&mut self, waiting: Waiting) -> Next {
        let (fails, cancels) = match &self.plan.course.way {
            Way::Forward => (false, false),
            Way::Fails(path) => (waiting.kind == Kind::Run && *path == waiting.path, false),
            Way::Cancelled(path) => (false, waiting.kind == Kind::Run && *path == waiting.path),
        };
        if cancels && !self.cancelled {
            self.cancelled = true;
            if let Some((saga, _)) = &waiting.launch.attempt.step {
                // Whether it is taken is seen in the saga's end.
                let _ = self.engine.core.driver.cancel(*saga).now_or_never();
            }
            self.gate.put_back(waiting);
            return Next::GoOn;
        }
        let call = self.calls.len() as u64;
        let label = if fails {
            format!("{FAIL}{}", waiting.path)
        } else {
            waiting.label()
        };
        if let Some((saga, _)) = &waiting.launch.attempt.step {
            self.tried.push(Tried {
                saga: *saga,
                kind: waiting.kind.clone(),
                path: waiting.path.clone(),
                label: label.clone(),
            });
        }
        self.calls.push(label);
        if self.plan.crash == Some(Crash::Before { call }) {
            return Next::Crash;
        }
        if fails {
            Gate::fail(waiting, &planned(&self.plan.course.way));
            return Next::GoOn;
        }
        let passage = if self.plan.crash == Some(Crash::After { call }) {
            Passage::Last
        } else {
            match self.plan.course.manner {
                Manner::Twice => Passage::Twice,
                Manner::Plain | Manner::Passivated | Manner::Reopened => Passage::Once,
            }
        };
        self.gate.pass(waiting, passage);
        Next::GoOn
    }
}

/// Begins the label of a call that was made to fail.
const FAIL: &str = "fail ";

/// Begins the label of a question.
const ASK: &str = "ask ";

/// What the sweep says in place of a step that it fails.
pub(crate) fn planned(way: &Way) -> String {
    format!("the sweep has it fail: {way:?}")
}

impl<T> Lived<T> {
    /// Where this life may crash.
    pub(crate) fn points(&self, first: bool) -> Vec<Crash> {
        let mut points = Vec::new();
        // A later life that loses its first write is one that was never begun.
        for nth in u64::from(!first)..self.writes {
            points.extend([false, true].map(|kept| Crash::Write { nth, kept }));
        }
        for (call, label) in (0..).zip(&self.calls) {
            points.push(Crash::Before { call });
            if !label.starts_with(FAIL) {
                points.push(Crash::After { call });
            }
        }
        points.push(Crash::Told);
        points
    }

    /// The paths of the steps that ran, each once, in order.
    pub(crate) fn steps(&self) -> Vec<String> {
        let mut steps: Vec<String> = Vec::new();
        for label in &self.calls {
            if let Some(path) = label.strip_prefix("run ")
                && !steps.iter().any(|step| step == path)
            {
                steps.push(path.to_owned());
            }
        }
        steps
    }
}
