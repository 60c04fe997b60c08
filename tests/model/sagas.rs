//! Whole sagas against what their plans allow: steps one after the other and at once, with and
//! without undo, that fail, tire, hang and arrive late; cancels anywhere; clocks that jump; and
//! processes that end in every way while they run, unwind and recover.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use orlop::{
    CancelError, Engine, Key, SagaTicket, SignalError, SignalId, SubmitError, Tenant, Unavailable,
};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::oneshot;

use crate::chain::{Chain, Fate, Link, Plan, SIGNAL, Step, TOLD};
use crate::clock::JumpingClock;
use crate::disks::Shape;
use crate::ends::{Cancel, End, check_effects, check_end};
use crate::life::{World, close, tenant_of, together};
use crate::outside::Weather;
use crate::plan::{End as LifeEnd, Fault, end, faults, shape};
use crate::random::config;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A saga, and what befalls it.
#[derive(Clone, Debug)]
struct Case {
    tenant: u8,
    key: u8,
    plan: Plan,
    weather: Vec<(String, Vec<Weather>)>,
    /// It is cancelled once it made so many calls.
    cancel_after: Option<u32>,
    /// It is told what it waits for only once it waits, or is about to.
    told_late: bool,
    /// It is to end within some milliseconds.
    deadline_ms: Option<u64>,
    /// Somebody else starts it at the same time.
    twice: bool,
}

/// One process.
#[derive(Clone, Debug)]
struct Life {
    faults: Vec<Fault>,
    shape: Shape,
    end: LifeEnd,
    lingers: bool,
    seed: u64,
    /// Jumps of the clock: after how many calls, how far.
    jumps: Vec<(u32, i64)>,
}

fn step(pivoted: bool) -> impl Strategy<Value = Step> {
    let weights = if pivoted { (40, 1, 1) } else { (16, 2, 1) };
    let fate = prop_oneof![
        weights.0 => Just(Fate::Sound),
        weights.1 => Just(Fate::Fails),
        weights.2 => Just(Fate::Tires),
    ];
    let flag = |weight: f64| proptest::bool::weighted(weight);
    (flag(0.75), flag(0.8), flag(0.2), flag(0.2), fate).prop_map(
        |(external, undo, tolerant, hurried, fate)| Step {
            external,
            undo,
            tolerant,
            // What is tried a few times only must not be cut short by a slow machine.
            hurried: hurried && fate == Fate::Sound,
            fate: match fate {
                // Crashes alone could use up the attempts of what can be run again at will.
                Fate::Tires if !external => Fate::Sound,
                fate => fate,
            },
        },
    )
}

fn link(pivoted: bool) -> impl Strategy<Value = Link> {
    prop_oneof![
        8 => step(pivoted).prop_map(Link::Step),
        4 => (vec(vec(step(pivoted), 1..4), 2..4), any::<bool>())
            .prop_map(|(lanes, eager)| Link::Group { lanes, eager }),
        1 => Just(Link::Nap),
        1 => Just(Link::Note),
        1 => Just(Link::Signal),
    ]
}

/// What befalls the calls for the names of a plan. Nothing of it lasts.
fn weather(plan: &Plan) -> impl Strategy<Value = Vec<(String, Vec<Weather>)>> + use<> {
    let of_call = |hangs: bool| {
        let late = 1..6_u8;
        prop_oneof![
            3 => Just(Weather::Retryable),
            2 => Just(Weather::DoubtBefore),
            3 => Just(Weather::DoubtAfter),
            4 => late.prop_map(move |calls| if hangs {
                Weather::Hangs(calls)
            } else {
                Weather::Late(calls)
            }),
            1 => Just(Weather::PanicBefore),
            1 => Just(Weather::PanicAfter),
        ]
    };
    let mut names = Vec::new();
    for placed in plan.steps() {
        names.push((format!("undo {}", placed.name), false));
        names.push((format!("ask {}", placed.name), false));
        names.push((placed.name, placed.step.hurried));
    }
    let of_name = move |(name, hangs): (String, bool)| {
        let most = if name.contains(' ') { 2 } else { 3 };
        let calls = prop_oneof![3 => vec(of_call(hangs), 0..1), 2 => vec(of_call(hangs), 1..most)];
        calls.prop_map(move |calls| (name.clone(), calls))
    };
    names.into_iter().map(of_name).collect::<Vec<_>>()
}

fn case(number: usize) -> impl Strategy<Value = Case> {
    let after = proptest::option::weighted(0.4, vec(link(true), 0..4));
    let plan = (
        vec(link(false), 0..5),
        after,
        proptest::bool::weighted(0.15),
    )
        .prop_map(move |(before, after, gives_up)| Plan {
            name: format!("s{number}"),
            before,
            after,
            gives_up,
        });
    let cancel_after = proptest::option::weighted(0.35, 0..20_u32);
    let deadline_ms = proptest::option::weighted(0.08, 1..30_u64);
    let rest = (cancel_after, any::<bool>(), deadline_ms, any::<bool>());
    (plan, rest)
        .prop_flat_map(|(plan, rest)| (weather(&plan), Just(plan), Just(rest)))
        .prop_map(
            move |(weather, plan, (cancel_after, told_late, deadline_ms, twice))| Case {
                // Two tenants, and the same keys in both.
                tenant: u8::try_from(number % 2).unwrap_or_default(),
                key: u8::try_from(number / 2).unwrap_or_default(),
                plan,
                weather,
                cancel_after,
                told_late,
                deadline_ms,
                twice,
            },
        )
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    prop_oneof![
        2 => (case(0),).prop_map(|(a,)| vec![a]),
        2 => (case(0), case(1)).prop_map(|(a, b)| vec![a, b]),
        1 => (case(0), case(1), case(2)).prop_map(|(a, b, c)| vec![a, b, c]),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let jump = prop_oneof![
        2 => 1..40 * DAY_MS,
        1 => 1..20_i64,
        1 => -40 * DAY_MS..0,
    ];
    let jump = (0..20_u32, jump);
    let jumps = prop_oneof![2 => vec(jump.clone(), 0..1), 1 => vec(jump, 1..4)];
    let all = (faults(), shape(), end(), any::<bool>(), any::<u64>(), jumps);
    all.prop_map(|(faults, shape, end, lingers, seed, jumps)| Life {
        faults,
        shape,
        end,
        lingers,
        seed,
        jumps,
    })
}

/// What is known of a saga.
#[derive(Clone, Debug)]
struct Known {
    /// How it ended, as somebody was told.
    end: Option<End>,
    cancel: Cancel,
}

/// What has everybody leave once it is dropped.
type Lose = Mutex<Option<oneshot::Sender<()>>>;

/// What everybody who starts sagas writes down.
type Book = Arc<Mutex<BTreeMap<String, Known>>>;

/// Remembers how a saga ended; it ends in one way.
fn ended(book: &Book, case: &Case, outcome: Result<Vec<u64>, SubmitError>, ends: bool) {
    let end = match outcome {
        Ok(outputs) => End::Completed(outputs),
        Err(SubmitError::Failed(_)) => End::Compensated,
        Err(SubmitError::Stuck { .. }) => End::Stuck,
        Err(
            SubmitError::Interrupted { .. }
            | SubmitError::Unresolved { .. }
            | SubmitError::Unavailable(Unavailable::Poisoned),
        ) if !ends => return,
        Err(error) => panic!("{}: {error}", case.plan.name),
    };
    let mut book = book.lock().unwrap();
    let known = book.get_mut(&case.plan.name).unwrap();
    if let Some(before) = &known.end {
        assert_eq!(*before, end, "{} ended in two ways", case.plan.name);
    }
    known.end = Some(end);
}

impl Case {
    fn key(&self) -> Key {
        Key::named(&format!("saga {}", self.key))
    }

    async fn start(&self, tenant: &Tenant) -> Result<SagaTicket<Vec<u64>>, SubmitError> {
        let starting = tenant.start::<Chain>(self.key(), self.plan.clone());
        match self.deadline_ms {
            Some(ms) => starting.finish_within(Duration::from_millis(ms)).await,
            None => starting.await,
        }
    }

    /// Starts it, or joins it, and waits for its end.
    async fn play(&self, engine: &Engine, book: &Book, ends: bool) {
        let Ok(tenant) = tenant_of(engine, self.tenant).await else {
            assert!(!ends, "no tenant");
            return;
        };
        let outcome = match self.start(&tenant).await {
            Ok(ticket) => ticket.await.map(|reply| reply.output),
            Err(error) => Err(error),
        };
        ended(book, self, outcome, ends);
    }

    /// Until it has ended, as far as this engine knows.
    async fn over(&self, tenant: &Tenant) {
        if let Ok(ticket) = self.start(tenant).await {
            let _ = ticket.await;
        }
    }

    /// Waits until it has made so many calls; false if it ended before.
    async fn reaches(&self, world: &World, tenant: &Tenant, calls: u32) -> bool {
        let reached = world.outside.watch(&self.plan.name, calls);
        let over = self.over(tenant).boxed();
        matches!(select(reached, over).await, Either::Left(_))
    }

    /// Cancels it when it is time, unless it has been.
    async fn cancel(&self, world: &World, engine: &Engine, book: &Book, ends: bool) {
        let note = |cancel: Cancel| {
            let mut book = book.lock().unwrap();
            book.get_mut(&self.plan.name).unwrap().cancel = cancel;
        };
        let (Some(calls), Ok(tenant)) = (self.cancel_after, tenant_of(engine, self.tenant).await)
        else {
            return;
        };
        let asked = !matches!(book.lock().unwrap()[&self.plan.name].cancel, Cancel::None);
        let Ok(ticket) = self.start(&tenant).await else {
            return;
        };
        if asked || !self.reaches(world, &tenant, calls).await {
            return;
        }
        note(Cancel::Unknown);
        let told = ticket.cancel().await;
        if let Err(CancelError::NotRecorded { .. }) = told {
            assert!(!ends, "{} could not be cancelled", self.plan.name);
            return;
        }
        note(Cancel::Told(told));
    }

    /// Tells it what it waits for: at once, or when it has done what comes before. If that is not
    /// recorded it waits until the store is opened again: `lose` has everybody leave.
    async fn tell(&self, world: &World, engine: &Engine, ends: bool, lose: &Lose) {
        let links: Vec<&Link> = self.plan.links().map(|(link, _)| link).collect();
        let Some(first) = links.iter().position(|link| **link == Link::Signal) else {
            return;
        };
        let Ok(tenant) = tenant_of(engine, self.tenant).await else {
            return;
        };
        if self.start(&tenant).await.is_err() {
            return;
        }
        if self.told_late {
            let steps = self.plan.steps();
            let before = steps.iter().filter(|placed| placed.link < first).count();
            let calls = u32::try_from(before).unwrap_or_default();
            self.reaches(world, &tenant, calls).await;
        }
        for (index, _) in links
            .iter()
            .filter(|link| ***link == Link::Signal)
            .enumerate()
        {
            let id = SignalId::named(&format!("signal {index}"));
            match tenant.signal(self.key(), SIGNAL, id, &TOLD).await {
                Ok(_) | Err(SignalError::NotRunning) => {}
                Err(error) => {
                    assert!(!ends, "{}: {error}", self.plan.name);
                    lose.lock().unwrap().take();
                }
            }
        }
    }

    fn prepare(&self, world: &World) {
        for placed in self.plan.steps() {
            world.outside.doom(&placed.name, placed.step.fate);
        }
        for (name, weather) in &self.weather {
            world.outside.forecast(name, weather);
        }
    }
}

/// Everybody at once, until all sagas have ended or the power is off. `ends` says that nothing
/// keeps them from it.
fn play_all(world: &World, engine: &Engine, cases: &[Case], book: &Book, ends: bool) {
    let mut off = world.disks.power_off();
    let (lose, lost) = oneshot::channel::<()>();
    let (lose, lost) = (Lose::new(Some(lose)), lost.shared());
    let mut callers: Vec<BoxFuture<'_, ()>> = Vec::new();
    for case in cases {
        callers.push(case.play(engine, book, ends).boxed());
        if case.twice {
            callers.push(case.play(engine, book, ends).boxed());
        }
        callers.push(case.cancel(world, engine, book, ends).boxed());
        callers.push(case.tell(world, engine, ends, &lose).boxed());
    }
    let leaves = |caller| select(caller, lost.clone()).map(drop).boxed();
    let callers = callers.into_iter().map(leaves).collect();
    let all = together(callers, &mut off, engine);
    assert!(all || !ends, "the power went off");
    world.outside.check();
}

impl World {
    fn live_sagas(&mut self, life: &Life, cases: &[Case], book: &Book, jumps: &[(u32, i64)]) {
        for (fault, seed) in life.faults.iter().zip(life.seed..) {
            self.faulty_opening(life.shape, *fault, seed);
        }
        let engine = self.open(life.shape).unwrap();
        self.outside.jumps(&self.clock, jumps);
        match life.end {
            LifeEnd::PowerOff { groups } => self.disks.log.power_off_after(groups),
            LifeEnd::SyncFails { groups } => self.disks.log.fail_sync_after(groups),
            LifeEnd::Close | LifeEnd::Drop => {}
        }
        let whole = matches!(life.end, LifeEnd::Close | LifeEnd::Drop);
        play_all(self, &engine, cases, book, whole);
        if let LifeEnd::Close = life.end {
            close(&engine);
        }
        if !life.lingers {
            self.outside.kill(self.processes);
        }
        drop(engine);
        self.crash(life.seed, life.lingers);
    }

    /// A last life in which nothing goes wrong, and another one that only replays.
    fn end_sagas(&mut self, cases: &[Case], book: &Book) {
        let shape = Shape::AMPLE;
        self.outside.jumps(&self.clock, &[]);
        let engine = self.open(shape).unwrap();
        play_all(self, &engine, cases, book, true);
        self.outside.deliver();
        close(&engine);
        drop(engine);
        self.check_sagas(cases, book);
        self.crash(1, false);
        let engine = self.open(shape).unwrap();
        let known = book.lock().unwrap().clone();
        let stuck = known.values().filter(|known| known.end == Some(End::Stuck));
        assert_eq!(
            engine.recovery().sagas,
            stuck.count(),
            "{:?}",
            engine.recovery()
        );
        let callers = cases
            .iter()
            .map(|case| case.play(&engine, book, true).boxed());
        let mut off = self.disks.power_off();
        assert!(together(callers.collect(), &mut off, &engine));
        close(&engine);
        self.check_sagas(cases, book);
    }

    fn check_sagas(&self, cases: &[Case], book: &Book) {
        self.outside.check();
        for case in cases {
            let known = book.lock().unwrap()[&case.plan.name].clone();
            let end = known.end.expect("every saga has ended");
            let cancel = match (case.deadline_ms, known.cancel) {
                (None, cancel) => cancel,
                (Some(_), _) => Cancel::Unknown,
            };
            check_end(&case.plan, &end, &cancel);
            let cut = match cancel {
                Cancel::None | Cancel::Told(Err(CancelError::Ended)) => false,
                Cancel::Unknown | Cancel::Told(_) => true,
            };
            check_effects(
                &case.plan,
                &end,
                cut && end == End::Compensated,
                &self.outside,
            );
        }
    }
}

/// The jumps of a life, and where its clock begins. Sleeps are measured on the wall clock: where
/// somebody sleeps it must not be set back for long.
fn clocks(life: &Life, naps: bool, clock: &JumpingClock) -> Vec<(u32, i64)> {
    const HOUR_MS: i64 = 3600 * 1000;
    if naps {
        let jumps = life.jumps.iter();
        return jumps
            .map(|(at, ms)| (*at, if *ms < 0 { ms % 10 } else { ms % HOUR_MS }))
            .collect();
    }
    let begins = i64::try_from(life.seed % 20).unwrap_or_default();
    clock.set(begins * HOUR_MS);
    life.jumps.clone()
}

/// One whole case.
fn run(cases: &[Case], lives: &[Life]) {
    crate::hush();
    let mut world = World::default();
    let book = Book::default();
    for case in cases {
        case.prepare(&world);
        let known = Known {
            end: None,
            cancel: Cancel::None,
        };
        book.lock().unwrap().insert(case.plan.name.clone(), known);
    }
    let naps = cases.iter().any(|case| case.plan.has(&Link::Nap));
    for life in lives {
        let jumps = clocks(life, naps, &world.clock);
        world.live_sagas(life, cases, &book, &jumps);
    }
    if !naps {
        world.clock.set(0);
    }
    world.end_sagas(cases, &book);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whole_sagas_end_as_their_plans_allow_and_the_outside_shows_it(
        cases in cases(),
        lives in vec(life(), 0..4),
    ) {
        run(&cases, &lives);
    }
}
