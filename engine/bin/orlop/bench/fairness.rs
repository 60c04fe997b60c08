//! The suite `fairness`: what a noisy neighbour changes for the others, through a whole engine.
//!
//! Ten tenants share a bulkhead of eight slots, on a real store. What they ask for is a nap, which
//! sleeps on the engine's timers. Nine of them, the victims, ask evenly for 0.9 of their share;
//! the tenth for a hundred times its own.
//!
//! The capacity is measured first: what the bulkhead does for tenants that always have something
//! waiting. The global FIFO that the figures stand beside is the same load in the same engine,
//! through a bulkhead of the same slots and the same bound on what waits, submitted by one tenant:
//! one tenant's work in one class is served in its order of arrival.

mod crowd;
mod figures;
mod nap;

use std::time::{Duration, Instant};

use orlop::{BulkheadOptions, Engine, Options, Tenant};
use tempfile::TempDir;

use self::crowd::{Answer, Asked, Client, Crowd, Manner, Pace};
use self::figures::{Burst, Case, Verdicts};
use self::nap::{FAIR, FIFO, Nap, Naps, QueuedNap};
use super::BenchError;
use super::figure::Figure;

const SLOTS: u32 = 8;
const TENANTS: u32 = 10;
/// The one among them that floods.
const FLOODER: u32 = TENANTS - 1;
/// Slots that one tenant may have at once. A share is 0.8 slots.
const SLOTS_PER_TENANT: u32 = 2;
const NAP: Duration = Duration::from_millis(25);
/// Naps where there is a deadline, and where shares are counted in short windows.
const SHORT_NAP: Duration = Duration::from_millis(4);
const DEADLINE: Duration = Duration::from_millis(20);
/// How many times longer than the others the flooder naps, where it does.
const SLUGGARD: u32 = 20;
const TRICKLE: Duration = Duration::from_secs(3);
/// How long after the last question an answer still counts.
const GRACE: Duration = Duration::from_millis(250);
/// The same in a FIFO, whose answers take as long as all that waits before them.
const FIFO_GRACE: Duration = Duration::from_secs(2);
/// Where a share must hold.
const WINDOW: Duration = Duration::from_millis(100);
/// How often everything is measured; the figures are the medians.
const ROUNDS: u32 = 3;
/// Parts of the time of one figure that one flood lasts. Of five figures, three times over, that
/// leaves as much again for the trickles and for measuring the capacity.
const PARTS: u32 = 10;
const PLAIN: [&str; 4] = [
    "fair.capacity.plain",
    "fair.victims.plain",
    "fair.jain.plain",
    "fair.p99.plain",
];
/// The flooder's jobs take longer than they say.
const LONGER: [&str; 4] = [
    "fair.capacity.longer",
    "fair.victims.longer",
    "fair.jain.longer",
    "fair.p99.longer",
];
/// The flooder has trickled before.
const TRICKLING: [&str; 4] = [
    "fair.capacity.trickle",
    "fair.victims.trickle",
    "fair.jain.trickle",
    "fair.p99.trickle",
];

/// Measures every figure, all together for about `duration` each.
pub(crate) fn measure(duration: Duration) -> Result<Vec<Figure>, BenchError> {
    let flood = (duration / PARTS).max(Duration::from_secs(1));
    let scene = Scene::new()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(scene.round(flood)?.figures());
    }
    scene.close()?;
    Ok(figures::medians(&rounds))
}

/// An engine, its tenants and those who ask.
struct Scene {
    engine: Engine,
    naps: Naps,
    crowd: Crowd,
    tenants: Vec<Tenant>,
    /// Whoever submits everything, where there is no fairness.
    everybody: Tenant,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Result<Self, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::Folder)?;
        let naps = Naps::default();
        // As many may wait as in any bulkhead that says nothing else, in both of them.
        let fair = BulkheadOptions {
            in_flight_max: SLOTS,
            in_flight_per_tenant_max: SLOTS_PER_TENANT,
            ..BulkheadOptions::new(FAIR)
        };
        let bounds = BulkheadOptions::new(FIFO);
        let fifo = BulkheadOptions {
            in_flight_max: SLOTS,
            queue_per_tenant_max: bounds.queue_max,
            ..bounds
        };
        let options = Options {
            bulkheads: vec![fair, fifo],
            ..Options::default()
        };
        let engine = Engine::builder(folder.path().join("store"))
            .options(options)
            .pure(Nap, naps.clone())
            .pure(QueuedNap, naps.clone())
            .open_blocking()?;
        let tenants: Result<Vec<_>, _> = (0..TENANTS)
            .map(|number| engine.blocking().tenant(&format!("tenant-{number}")))
            .collect();
        Ok(Self {
            naps,
            crowd: Crowd::new()?,
            tenants: tenants?,
            everybody: engine.blocking().tenant("everybody")?,
            engine,
            _folder: folder,
        })
    }

    fn round(&self, flood: Duration) -> Result<Verdicts, BenchError> {
        let cases = [
            (PLAIN, 1, Duration::ZERO),
            (LONGER, SLUGGARD, Duration::ZERO),
            (TRICKLING, 1, TRICKLE),
        ];
        let cases = cases
            .into_iter()
            .map(|(ids, sluggard, trickle)| self.case(ids, sluggard, trickle, flood));
        Ok(Verdicts {
            cases: cases.collect::<Result<_, _>>()?,
            burst: self.burst()?,
            goodput: self.goodput(flood)?,
        })
    }

    fn close(&self) -> Result<(), BenchError> {
        Ok(self.engine.blocking().close()?)
    }

    fn clients(&self, pace: impl Fn(u32) -> Pace, lasts: impl Fn(u32) -> Duration) -> Vec<Client> {
        (0..TENANTS)
            .zip(&self.tenants)
            .map(|(number, tenant)| Client {
                number,
                tenant: tenant.clone(),
                pace: pace(number),
                lasts: lasts(number),
            })
            .collect()
    }

    /// Naps a second that the bulkhead does while everybody always has some waiting.
    fn capacity(&self, nap: Duration, manner: Manner) -> Result<f64, BenchError> {
        let lasts = Duration::from_secs(1);
        self.naps.set(nap, None);
        let clients = self.clients(|_| Pace::Backlogged(4), |_| lasts);
        self.crowd.ask(Nap, &clients, manner, lasts);
        self.settle(nap);
        let taken = self.naps.taken();
        let first = taken.iter().map(|nap| nap.begun).min();
        let last = taken.iter().map(|nap| nap.ended).max();
        let (Some(first), Some(last)) = (first, last) else {
            return Err(BenchError::NothingRan);
        };
        let count = u32::try_from(taken.len()).unwrap_or(u32::MAX);
        Ok(f64::from(count) / (last - first).as_secs_f64())
    }

    /// Waits until nothing runs any more, so that the next measurement begins with free slots.
    fn settle(&self, longest: Duration) {
        let running = || {
            let bulkheads = self.engine.snapshot().bulkheads;
            bulkheads
                .iter()
                .any(|bulkhead| bulkhead.ordinary.in_flight > 0)
        };
        while running() {
            std::thread::sleep(longest);
        }
    }

    /// One load, under the fair queue and under a FIFO.
    fn case(
        &self,
        ids: [&'static str; 4],
        sluggard: u32,
        trickle: Duration,
        flood: Duration,
    ) -> Result<Case, BenchError> {
        let manner = Manner::default();
        let capacity = self.capacity(NAP, manner)?;
        let share = capacity / f64::from(TENANTS);
        let pace = |number, trickle: Duration| match number {
            FLOODER if trickle.is_zero() => Pace::Open(share * 100.0),
            FLOODER => Pace::After(share / 10.0, trickle, share * 100.0),
            _ => Pace::Open(share * 0.9),
        };
        // The flood goes on while the last answers of the victims are awaited.
        let lasts = |number, trickle| match number {
            FLOODER => trickle + flood + GRACE,
            _ => trickle + flood,
        };
        self.naps.set(NAP, Some((FLOODER, sluggard)));
        let clients = self.clients(
            |number| pace(number, trickle),
            |number| lasts(number, trickle),
        );
        let begun = Instant::now();
        let asked = self
            .crowd
            .ask(Nap, &clients, manner, trickle + flood + GRACE);
        let fair = Crowding::of(asked, begun + trickle);
        self.settle(NAP * sluggard);

        // To a FIFO it is all one how anybody began.
        let none = Duration::ZERO;
        let clients = self.clients(|number| pace(number, none), |number| lasts(number, none));
        let one: Vec<Client> = clients
            .into_iter()
            .map(|client| Client {
                tenant: self.everybody.clone(),
                ..client
            })
            .collect();
        let begun = Instant::now();
        let asked = self.crowd.ask(QueuedNap, &one, manner, flood + FIFO_GRACE);
        let fifo = Crowding::of(asked, begun);
        self.settle(NAP * sluggard);
        Ok(Case {
            ids,
            capacity,
            ideal: f64::from(SLOTS) / NAP.as_secs_f64(),
            fair,
            fifo,
        })
    }

    /// One that trickles and then floods, among others that always have something waiting: what it
    /// is given in the windows after the flood began.
    fn burst(&self) -> Result<Burst, BenchError> {
        let manner = Manner::default();
        let share = self.capacity(SHORT_NAP, manner)? / f64::from(TENANTS);
        let flood = Duration::from_secs(1);
        let total = TRICKLE + flood;
        self.naps.set(SHORT_NAP, None);
        let pace = |number| match number {
            FLOODER => Pace::After(share / 10.0, TRICKLE, share * 100.0),
            _ => Pace::Backlogged(8),
        };
        let clients = self.clients(pace, |_| total);
        let begun = Instant::now();
        self.crowd.ask(Nap, &clients, manner, total);
        self.settle(SHORT_NAP);
        let (from, to) = (begun + TRICKLE, begun + total);
        Ok(Burst::of(&self.naps.taken(), from, to))
    }

    /// Naps that were over within their deadline while ten times as many were asked for as there
    /// is capacity, over the capacity.
    fn goodput(&self, lasts: Duration) -> Result<(f64, u64), BenchError> {
        let manner = Manner {
            deadline: Some(DEADLINE),
            // A deadline is met by the answer, and an answer that is kept waits for the disk.
            ephemeral: true,
        };
        let capacity = self.capacity(
            SHORT_NAP,
            Manner {
                deadline: None,
                ..manner
            },
        )?;
        let share = capacity / f64::from(TENANTS);
        self.naps.set(SHORT_NAP, None);
        let clients = self.clients(|_| Pace::Open(share * 10.0), |_| lasts);
        let asked = self.crowd.ask(Nap, &clients, manner, lasts + GRACE);
        self.settle(SHORT_NAP);
        let met = asked.iter().filter(|asked| match asked.answer {
            Answer::Done(took) => took <= DEADLINE,
            Answer::Awaited | Answer::Denied => false,
        });
        let met = u32::try_from(met.count()).unwrap_or(u32::MAX);
        let goodput = f64::from(met) / (capacity * lasts.as_secs_f64());
        Ok((goodput, asked.len() as u64))
    }
}

/// What became of what the victims asked.
#[derive(Clone, Debug)]
struct Crowding {
    /// Of each victim, how much of what it asked for was answered.
    served: Vec<f64>,
    /// How long the answers took; those that nobody had in the end, how long they were awaited.
    took: Vec<Duration>,
}

impl Crowding {
    /// From the questions that were asked since `from`.
    fn of(asked: Vec<Asked>, from: Instant) -> Self {
        let now = Instant::now();
        let (mut demand, mut served) = ([0_u32; TENANTS as usize], [0_u32; TENANTS as usize]);
        let mut took = Vec::new();
        for asked in asked {
            if asked.client == FLOODER || asked.at < from {
                continue;
            }
            let client = asked.client as usize;
            if let Some(demand) = demand.get_mut(client) {
                *demand += 1;
            }
            match asked.answer {
                Answer::Done(after) => {
                    took.push(after);
                    if let Some(served) = served.get_mut(client) {
                        *served += 1;
                    }
                }
                Answer::Awaited => took.push(now - asked.at),
                Answer::Denied => {}
            }
        }
        took.sort();
        let served = demand
            .iter()
            .zip(served)
            .filter(|(demand, _)| **demand > 0)
            .map(|(demand, served)| f64::from(served) / f64::from(*demand))
            .collect();
        Self { served, took }
    }
}
