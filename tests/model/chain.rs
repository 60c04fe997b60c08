//! Chains: a saga whose steps are in its input, so that any saga can be drawn.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, join_all, try_join_all};
use orlop::{
    Computation, ForwardContext, RetryPolicy, Saga, SagaContext, SagaError, StepCall, StepError,
};
use serde::{Deserialize, Serialize};

use crate::outside::{Put, Remove, Worth, worth};

/// What becomes of a step, however often it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fate {
    /// It is done in the end.
    Sound,
    /// It is refused for good.
    Fails,
    /// It could be done later, and is tried a few times only.
    Tires,
}

/// One step. The outside is told its fate; the code goes by the rest.
#[allow(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Whether it writes, or only computes.
    pub(crate) external: bool,
    /// Whether it has an undo; after the pivot none has.
    pub(crate) undo: bool,
    /// Whether the chain goes on if it fails.
    pub(crate) tolerant: bool,
    /// Whether an attempt may take only some milliseconds.
    pub(crate) hurried: bool,
    pub(crate) fate: Fate,
}

impl Step {
    const fn new(external: bool) -> Self {
        Self {
            external,
            undo: external,
            tolerant: false,
            hurried: false,
            fate: Fate::Sound,
        }
    }

    /// Whether it ends in a failure.
    pub(crate) fn is_doomed(self) -> bool {
        match self.fate {
            Fate::Sound => false,
            Fate::Fails | Fate::Tires => true,
        }
    }
}

/// One thing that a chain does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Link {
    /// A step.
    Step(Step),
    /// Lanes of steps, all at once.
    Group {
        lanes: Vec<Vec<Step>>,
        /// Whether the chain gives up as soon as one lane fails, or looks when all have ended.
        eager: bool,
    },
    /// Sleeps.
    Nap,
    /// Draws a number and asks for the time.
    Note,
    /// Waits to be told something.
    Signal,
}

impl Link {
    /// Computes.
    pub(crate) const WORTH: Self = Self::Step(Step::new(false));
    /// Writes, with an undo before the pivot.
    pub(crate) const PUT: Self = Self::Step(Step::new(true));

    /// Writes two names at once, with undos before the pivot.
    pub(crate) fn pair() -> Self {
        Self::Group {
            lanes: vec![vec![Step::new(true)]; 2],
            eager: true,
        }
    }
}

/// What a chain does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What its names begin with.
    pub(crate) name: String,
    /// Before the pivot.
    pub(crate) before: Vec<Link>,
    /// After the pivot, if there is one.
    pub(crate) after: Option<Vec<Link>>,
    /// Whether it gives up before the pivot, or at its end.
    pub(crate) gives_up: bool,
}

/// A step and where in the chain it is.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) step: Step,
    pub(crate) pivoted: bool,
    /// Which link.
    pub(crate) link: usize,
    pub(crate) lane: usize,
    /// How many are before it in its lane.
    pub(crate) depth: usize,
}

impl Placed {
    /// Whether this one has ended before the other one begins.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        self.link < other.link
            || (self.link == other.link && self.lane == other.lane && self.depth < other.depth)
    }

    /// Whether this one's intent is older: those who begin together do so in the order of lanes.
    pub(crate) fn is_older(&self, other: &Self) -> bool {
        let together = self.link == other.link && (self.depth, other.depth) == (0, 0);
        self.precedes(other) || (together && self.lane < other.lane)
    }

    /// Whether it is undone at unwinding.
    pub(crate) fn has_undo(&self) -> bool {
        self.step.undo && self.step.external && !self.pivoted
    }
}

impl Plan {
    /// Its links, each with whether it is after the pivot.
    pub(crate) fn links(&self) -> impl Iterator<Item = (&Link, bool)> {
        let after = self.after.iter().flatten().map(|link| (link, true));
        self.before.iter().map(|link| (link, false)).chain(after)
    }

    /// The name that a step writes or computes.
    pub(crate) fn name_of(&self, link: usize, lane: usize, depth: usize) -> String {
        match (lane, depth) {
            (0, 0) => format!("{}/{link}", self.name),
            _ => format!("{}/{link}.{lane}.{depth}", self.name),
        }
    }

    /// Every step, in the order of the code.
    pub(crate) fn steps(&self) -> Vec<Placed> {
        let mut steps = Vec::new();
        for (link, (what, pivoted)) in self.links().enumerate() {
            let alone;
            let lanes: &[Vec<Step>] = match what {
                Link::Step(step) => {
                    alone = [vec![*step]];
                    &alone
                }
                Link::Group { lanes, .. } => lanes,
                Link::Nap | Link::Note | Link::Signal => &[],
            };
            for (lane, all) in lanes.iter().enumerate() {
                for (depth, step) in all.iter().enumerate() {
                    steps.push(Placed {
                        name: self.name_of(link, lane, depth),
                        step: *step,
                        pivoted,
                        link,
                        lane,
                        depth,
                    });
                }
            }
        }
        steps
    }

    /// Whether it does this anywhere.
    pub(crate) fn has(&self, wanted: &Link) -> bool {
        self.links().any(|(link, _)| link == wanted)
    }
}

/// The calls of a chain, on either side of its pivot.
enum Side {
    Before(SagaContext),
    After(ForwardContext),
}

impl Side {
    fn scope(&self, name: &str, index: usize) -> Self {
        match self {
            Self::Before(saga) => Self::Before(saga.scope(name, index as u64)),
            Self::After(saga) => Self::After(saga.scope(name, index as u64)),
        }
    }

    async fn step(&self, path: &str, step: Step, name: String) -> Result<u64, StepError> {
        let done = match (self, step.external) {
            (Self::Before(saga), false) => terms(saga.step(path, Worth, name), step).await,
            (Self::Before(saga), true) => {
                let put = terms(saga.step(path, Put, name.clone()), step);
                if step.undo {
                    put.undo(Remove, name).await
                } else {
                    put.await
                }
            }
            (Self::After(saga), false) => terms(saga.step(path, Worth, name), step).await,
            (Self::After(saga), true) => terms(saga.step(path, Put, name), step).await,
        };
        match done {
            Err(StepError::Failed { .. }) if step.tolerant => Ok(0),
            done => done,
        }
    }

    async fn nap(&self) -> Result<(), StepError> {
        let duration = Duration::from_millis(1);
        match self {
            Self::Before(saga) => saga.sleep("nap", duration).await,
            Self::After(saga) => saga.sleep("nap", duration).await,
        }
    }

    fn note(&self) -> Result<u64, StepError> {
        match self {
            Self::Before(saga) => Ok(saga.random("draw")? ^ saga.now("time")?.get()),
            Self::After(saga) => Ok(saga.random("draw")? ^ saga.now("time")?.get()),
        }
    }

    async fn told(&self) -> Result<u64, StepError> {
        match self {
            Self::Before(saga) => saga.signal(SIGNAL).await,
            Self::After(saga) => saga.signal(SIGNAL).await,
        }
    }
}

/// The name of the signals that chains wait for.
pub(crate) const SIGNAL: &str = "told";

fn terms<C: Computation, D>(call: StepCall<C, D>, step: Step) -> StepCall<C, D> {
    let call = match step.fate {
        Fate::Sound | Fate::Fails => call,
        Fate::Tires => call.retry(RetryPolicy {
            attempts_max: 5,
            base: Duration::from_micros(200),
            cap: Duration::from_millis(1),
        }),
    };
    if step.hurried {
        call.timeout(Duration::from_millis(4))
    } else {
        call
    }
}

/// The saga.
#[derive(Debug)]
pub(crate) struct Chain;

impl Saga for Chain {
    const NAME: &'static str = "chain";
    type Input = Plan;
    type Output = Vec<u64>;

    async fn run(&self, saga: SagaContext, plan: Plan) -> Result<Vec<u64>, SagaError> {
        let mut outputs = Vec::new();
        let mut side = Side::Before(saga);
        for (index, link) in plan.before.iter().enumerate() {
            outputs.extend(follow(&side, &plan, index, link).await?);
        }
        if plan.gives_up {
            return Err(SagaError::failed("it gives up"));
        }
        let Some(after) = &plan.after else {
            return Ok(outputs);
        };
        if let Side::Before(saga) = side {
            side = Side::After(saga.pivot().await?);
        }
        for (index, link) in (plan.before.len()..).zip(after) {
            outputs.extend(follow(&side, &plan, index, link).await?);
        }
        Ok(outputs)
    }
}

/// Does one thing; what it gives.
async fn follow(
    side: &Side,
    plan: &Plan,
    index: usize,
    link: &Link,
) -> Result<Vec<u64>, StepError> {
    let scope = side.scope("link", index);
    Ok(match link {
        Link::Step(step) => {
            let name = plan.name_of(index, 0, 0);
            vec![scope.step("step", *step, name).await?]
        }
        Link::Group { lanes, eager } => {
            let lanes = lanes.iter().enumerate().map(|(lane, steps)| {
                let scope = scope.scope("lane", lane);
                follow_lane(scope, plan, (index, lane), steps)
            });
            let lanes: Vec<Vec<u64>> = if *eager {
                try_join_all(lanes).await?
            } else {
                let ended = join_all(lanes).await;
                ended.into_iter().collect::<Result<_, _>>()?
            };
            lanes.concat()
        }
        Link::Nap => {
            scope.nap().await?;
            Vec::new()
        }
        Link::Note => vec![scope.note()?],
        Link::Signal => vec![scope.told().await?],
    })
}

fn follow_lane<'a>(
    scope: Side,
    plan: &'a Plan,
    (link, lane): (usize, usize),
    steps: &'a [Step],
) -> BoxFuture<'a, Result<Vec<u64>, StepError>> {
    async move {
        let mut outputs = Vec::new();
        for (depth, step) in steps.iter().enumerate() {
            let name = plan.name_of(link, lane, depth);
            let scope = scope.scope("depth", depth);
            outputs.push(scope.step("step", *step, name).await?);
        }
        Ok(outputs)
    }
    .boxed()
}

/// What a chain is told; it is part of its output.
pub(crate) const TOLD: u64 = 42;

/// What a completed chain gives, where nothing of it is drawn.
pub(crate) fn output_of(plan: &Plan) -> Option<Vec<u64>> {
    if plan.has(&Link::Note) {
        return None;
    }
    let steps = plan.steps();
    let mut outputs = Vec::new();
    for (index, (link, _)) in plan.links().enumerate() {
        let here = steps.iter().filter(|placed| placed.link == index);
        outputs.extend(here.map(|placed| {
            if placed.step.is_doomed() {
                0
            } else {
                worth(&placed.name)
            }
        }));
        if *link == Link::Signal {
            outputs.push(TOLD);
        }
    }
    Some(outputs)
}
