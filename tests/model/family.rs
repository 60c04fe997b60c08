//! Families: a saga with children and signals, cut off after every group of the journal, twice.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{join, select};
use orlop::{
    CancelError, Engine, Failure, Key, Saga, SagaContext, SagaError, SignalError, SignalId,
    Signalled, StepPath, SubmitError, Tenant,
};
use serde::{Deserialize, Serialize};

use crate::disks::{Disks, Shape};
use crate::life::{close, tenant_of, together};
use crate::outside::{Outside, Put, Remove, Worth};

/// How long children may take to be let go.
const PATIENCE: Duration = Duration::from_mins(1);

/// Groups of the second life, counted from its opening, after which it is cut off too.
const SECOND: [u64; 4] = [0, 1, 3, 6];

/// How a family ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Course {
    Completes,
    /// The parent fails after all of its children are done.
    Fails,
    /// Nobody says go, and the parent is cancelled while children wait for it.
    Cancelled,
}

/// The parent.
struct Family;

impl Saga for Family {
    const NAME: &'static str = "family";
    type Input = Course;
    type Output = u64;

    async fn run(&self, saga: SagaContext, course: Course) -> Result<u64, SagaError> {
        put(&saga, "family/first").await?;
        let one = saga.child::<Child>("one", ("family/one".to_owned(), 1_u8));
        let two = saga.child::<Child>("two", ("family/two".to_owned(), 0_u8));
        if course == Course::Cancelled {
            // A child of the parent's own that waits.
            let waits = saga.child::<Waits>("waits", ()).into_future();
            let (one, two) = join(one.into_future(), two.into_future()).await;
            one?;
            two?;
            waits.await?;
        } else {
            let (one, two) = join(one.into_future(), two.into_future()).await;
            one?;
            two?;
        }
        let go: u64 = saga.signal("go").await?;
        put(&saga, "family/last").await?;
        if course == Course::Fails {
            return Err(SagaError::failed("given up"));
        }
        let saga = saga.pivot().await?;
        saga.child::<Late>("late", ()).await?;
        Ok(go)
    }
}

async fn put(saga: &SagaContext, name: &str) -> Result<(), SagaError> {
    let step = name.replace('/', " ");
    saga.step(&step, Put, name).undo(Remove, name).await?;
    Ok(())
}

/// Writes two names, with a child of its own in between as long as it may have one.
struct Child;

impl Saga for Child {
    const NAME: &'static str = "child";
    type Input = (String, u8);
    type Output = ();

    async fn run(&self, saga: SagaContext, input: (String, u8)) -> Result<(), SagaError> {
        let (name, more) = input;
        put(&saga, &format!("{name}/0")).await?;
        if more > 0 {
            let input = (format!("{name}/child"), more - 1);
            saga.child::<Self>("child", input).await?;
        }
        put(&saga, &format!("{name}/1")).await
    }
}

/// Writes a name and waits for a word that never comes.
struct Waits;

impl Saga for Waits {
    const NAME: &'static str = "waits";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        put(&saga, "family/waits").await?;
        Ok(saga.signal("word").await?)
    }
}

/// Pivots, after its parent's pivot.
struct Late;

impl Saga for Late {
    const NAME: &'static str = "late";
    type Input = ();
    type Output = ();

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(), SagaError> {
        put(&saga, "family/late").await?;
        let saga = saga.pivot().await?;
        saga.step("final", Put, "family/final").await?;
        Ok(())
    }
}

/// What a family writes, in the order of the intents of each saga.
const NAMES: [&str; 11] = [
    "family/first",
    "family/one/0",
    "family/one/child/0",
    "family/one/child/1",
    "family/one/1",
    "family/two/0",
    "family/two/1",
    "family/waits",
    "family/last",
    "family/late",
    "family/final",
];

/// A machine and what is outside of it.
#[derive(Default)]
struct World {
    disks: Disks,
    outside: Outside,
    processes: u64,
}

impl World {
    fn open(&mut self, resident_max: usize) -> Engine {
        self.processes += 1;
        let view = self.outside.view(self.processes);
        let shape = Shape {
            checkpoint_bytes: 2048,
            slots: 4,
            resident_max,
        };
        let opened = self.disks.open(shape, |builder| {
            builder
                .pure(Worth, view.clone())
                .external(Put, view.clone())
                .undo(Remove, view.clone())
                .saga(Family)
                .saga(Child)
                .saga(Waits)
                .saga(Late)
        });
        opened.unwrap()
    }

    /// One life: whether it went on until nothing more happened, and how the family ended.
    fn live(
        &mut self,
        course: Course,
        cancels: bool,
        groups: Option<u64>,
        resident_max: usize,
    ) -> (bool, Option<Result<u64, SubmitError>>) {
        let engine = self.open(resident_max);
        let mut off = self.disks.power_off();
        if let Some(groups) = groups {
            self.disks.log.power_off_after(groups);
        }
        // Nothing more happens by itself once the parent waits for the last of its children.
        let idle = self.outside.watch("family", 8);
        let mut outcome = None;
        let caller = async {
            let Ok(tenant) = tenant_of(&engine, 0).await else {
                return;
            };
            let ended = drive(&tenant, course, cancels);
            if course == Course::Cancelled && !cancels {
                select(ended.map(|_| ()).boxed(), idle).await;
                settle(&tenant).await;
            } else {
                outcome = ended.await;
            }
        };
        let all = together(vec![caller.boxed()], &mut off, &engine);
        if groups.is_none() {
            // Children are let go once their parent's end is durable.
            let begun = Instant::now();
            while engine.snapshot().sagas > 0 {
                assert!(begun.elapsed() < PATIENCE, "some child is not let go");
                std::thread::yield_now();
            }
            close(&engine);
        }
        (all, outcome)
    }

    fn crash(&mut self, seed: u64) {
        self.outside.kill(self.processes);
        self.disks = self.disks.crash(seed);
    }

    fn check(&self, course: Course) {
        self.outside.check();
        let completes = course == Course::Completes;
        for name in NAMES {
            let entries = self.outside.entries(name);
            let left: u32 = entries.iter().map(|entry| entry.puts - entry.removes).sum();
            let expected = completes && name != "family/waits";
            assert_eq!(left, u32::from(expected), "{name}: {entries:?}");
        }
        let history = self.outside.history();
        let removed = history
            .iter()
            .filter_map(|line| line.strip_prefix("remove "));
        let removed: Vec<&str> = removed.collect();
        let newest_first = NAMES.iter().rev().filter(|name| removed.contains(name));
        if course == Course::Fails {
            assert_eq!(
                removed,
                newest_first.copied().collect::<Vec<_>>(),
                "{history:?}"
            );
        }
    }
}

/// Returns once what the parent and the child that waits have recorded so far is durable.
async fn settle(tenant: &Tenant) {
    let key = Key::named("family");
    let Ok(ticket) = tenant.start::<Family>(key, Course::Cancelled).await else {
        return;
    };
    let Some(parent) = ticket.id() else {
        return;
    };
    let child = Key::of_child(tenant.id(), parent, &StepPath::root("waits").unwrap());
    for key in [child, key] {
        let told = tenant.signal(key, "ping", SignalId::fresh(), &()).await;
        assert!(
            matches!(
                told,
                Ok(Signalled::Recorded) | Err(SignalError::NotRecorded { .. })
            ),
            "{told:?}"
        );
    }
}

async fn drive(tenant: &Tenant, course: Course, cancels: bool) -> Option<Result<u64, SubmitError>> {
    let key = Key::named("family");
    let ticket = tenant.start::<Family>(key, course).await.ok()?;
    if cancels {
        match ticket.cancel().await {
            Ok(()) | Err(CancelError::Ended) => {}
            Err(CancelError::NotRecorded { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
    } else if course != Course::Cancelled {
        match tenant
            .signal(key, "go", SignalId::named("go"), &7_u64)
            .await
        {
            Ok(Signalled::Recorded | Signalled::Repeated) | Err(SignalError::NotRunning) => {}
            Err(SignalError::NotRecorded { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
    }
    match ticket.await.map(|reply| reply.output) {
        Err(SubmitError::Interrupted { .. } | SubmitError::Unresolved { .. }) => None,
        ended => Some(ended),
    }
}

/// How a family ends whatever crashes on the way.
fn end_of(course: Course) -> Result<u64, SubmitError> {
    match course {
        Course::Completes => Ok(7),
        Course::Fails => Err(SubmitError::Failed(Failure::permanent("given up"))),
        Course::Cancelled => Err(SubmitError::Failed(Failure::permanent("cancelled"))),
    }
}

/// Lives three lives, the first two cut off; says of each of these whether it was not after all.
fn live_thrice(
    course: Course,
    resident_max: usize,
    first: Option<u64>,
    second: u64,
) -> (bool, bool) {
    let mut world = World::default();
    let seed = first.unwrap_or(1000) * 4 + second;
    // Far more groups than there are: the power stays on.
    let first = first.unwrap_or(1 << 20);
    let (quiet_first, _) = world.live(course, false, Some(first), resident_max);
    world.crash(seed);
    let cancels = course == Course::Cancelled;
    let (quiet_second, _) = world.live(course, cancels, Some(second), resident_max);
    world.crash(seed + 1);
    let (_, ended) = world.live(course, cancels, None, resident_max);
    let cuts = (first, second);
    assert_eq!(ended, Some(end_of(course)), "{course:?} cut at {cuts:?}");
    world.check(course);
    let engine = world.open(resident_max);
    assert_eq!(engine.recovery().sagas, 0, "all of the family has ended");
    close(&engine);
    (quiet_first, quiet_second)
}

fn sweep(course: Course, resident_max: usize) {
    crate::hush();
    let cut_first = |groups: &u64| {
        let lives = SECOND.map(|second| live_thrice(course, resident_max, Some(*groups), second));
        lives.iter().all(|(quiet, _)| *quiet)
    };
    let first = (0..1000).find(cut_first).unwrap();
    // What is cancelled begins to unwind in the second life only.
    let cut_second = |groups: &u64| live_thrice(course, resident_max, None, *groups).1;
    let second = match course {
        Course::Completes | Course::Fails => 0,
        Course::Cancelled => (0..1000).find(cut_second).unwrap(),
    };
    // How many there are depends on how records of several sagas fall into groups.
    assert!(first + second > 10, "only {first} and {second} groups");
}

#[test]
fn a_family_that_completes_does_so_whatever_group_of_the_journal_is_its_last() {
    sweep(Course::Completes, 16);
    sweep(Course::Completes, 0);
}

#[test]
fn a_family_that_fails_is_unwound_newest_first_whatever_group_of_the_journal_is_its_last() {
    sweep(Course::Fails, 16);
    sweep(Course::Fails, 0);
}

#[test]
fn a_family_that_is_cancelled_is_unwound_whatever_group_of_the_journal_is_its_last() {
    sweep(Course::Cancelled, 16);
    sweep(Course::Cancelled, 0);
}
