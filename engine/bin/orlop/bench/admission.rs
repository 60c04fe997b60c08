//! The suite `admission`: what asking for a permit costs, beside what it is measured against.
//!
//! The time of one operation is that of a batch over its length, so that the clock's own cost does
//! not count; a run's figure is the median of its batches, a figure the median of [`RUNS`] runs.
//!
//! Of two threads only those batches count during which both made headway: on a busy machine one
//! of them often stands still, and then the other one is alone.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use orlop::{BulkheadOptions, BusyNanos, Clock, Quotas, Rate, SystemClock};
use orlop_admission::{
    Acquired, Bulkhead, ComputationId, Grantee, Permit, Refusal, Request, TenantAccount, Tenants,
};
use orlop_saga::tenant::TenantLabel;
use tokio::sync::Semaphore;

use super::BenchError;
use super::figure::{Figure, Measured};
use super::resident;

const SUITE: &str = "admission";
const RUNS: u32 = 5;
/// Operations between two looks at the clock.
const BATCH: u32 = 256;
/// Operations of the other one of two threads, between two times that it tells of them.
const EACH: u32 = 8;
/// Tenants that wait, where many do.
const BACKLOGGED: u32 = 10_000;
/// Tenants that are registered and do nothing any more.
const IDLE: u32 = 10_000;
/// Figures that are measured one after the other.
const FIGURES: u32 = 9;

/// Measures every figure, all together for about `duration`.
pub(crate) fn measure(duration: Duration) -> Result<Vec<Figure>, BenchError> {
    // First, while the process has not yet freed anything that could be used again.
    let idle = idle_bytes()?;
    let each = duration / (FIGURES * RUNS);
    let house = House::new(1 << 16)?;
    let (ada, bob) = (house.tenant("ada")?, house.tenant("bob")?);
    let slow = house.limited("slow")?;
    let few = Queue::new(1)?;
    let many = Queue::new(BACKLOGGED)?;
    let semaphore = Arc::new(Semaphore::new(1 << 16));
    let take = || drop(black_box(Arc::clone(&semaphore).try_acquire_owned()));

    let semaphore_alone = median(|| alone(each, take));
    let acquire = median(|| alone(each, || house.turn(&ada)));
    let batch = median(|| house.batch(each, &ada));
    let reject = median(|| alone(each, || house.turn(&slow)));
    let distinct = median(|| together(each, || house.turn(&ada), || house.turn(&bob)));
    let shared = median(|| together(each, || house.turn(&ada), || house.turn(&ada)));
    let semaphore_shared = median(|| together(each, take, take));
    let handoff = median(|| few.time(each));
    let pick = median(|| many.time(each));
    Ok(vec![
        idle,
        nanos(
            "adm.acquire",
            "acquire and settle, every check on",
            &acquire,
        )
        .at_most(
            100.0,
            "tokio's semaphore, which checks nothing else",
            &semaphore_alone,
        ),
        nanos(
            "adm.batch64",
            "the same of each of 64 in a batch, settled in a batch",
            &batch,
        )
        .at_most(20.0, "acquire and settle", &acquire),
        nanos("adm.reject", "a refusal over the rate", &reject).at_most(
            100.0,
            "acquire and settle",
            &acquire,
        ),
        nanos(
            "adm.two_tenants",
            "the same on two threads, a tenant each",
            &distinct,
        )
        .at_most_times(1.5, "on one thread", &acquire),
        nanos(
            "adm.one_tenant",
            "the same on two threads, one tenant",
            &shared,
        )
        .at_most_times(1.0, "tokio's semaphore on two threads", &semaphore_shared),
        nanos(
            "adm.handoff",
            "a release until who waits has its permit",
            &handoff,
        )
        .at_most(500.0, "acquire and settle", &acquire),
        nanos(
            "adm.pick10k",
            "what the pick among 10,000 tenants that wait adds to that",
            &pick.over(&handoff),
        )
        .at_most(250.0, "one tenant that waits", &handoff),
    ])
}

/// What memory a tenant takes that is registered, had a permit once, and is idle.
fn idle_bytes() -> Result<Figure, BenchError> {
    let house = House::new(1 << 16)?;
    let before = resident::bytes()?;
    for number in 0..IDLE {
        house.turn(&house.tenant(&format!("idle-{number}"))?);
    }
    let grown = resident::bytes()?.saturating_sub(before);
    let each = f64::from(u32::try_from(grown / u64::from(IDLE)).unwrap_or(u32::MAX));
    let measured = Measured {
        id: "adm.idle_tenant",
        suite: SUITE,
        name: "memory of a tenant that is idle, with 10,000 of them",
        value: each,
        unit: "B",
        samples: u64::from(IDLE),
        median_of: 1,
    };
    let target = ("at most 1024 B".to_owned(), each <= 1024.0);
    let account = f64::from(u32::try_from(size_of::<TenantAccount>()).unwrap_or(u32::MAX));
    Ok(Figure::beside(
        &measured,
        "the account alone",
        account,
        Some(target),
    ))
}

/// Nanoseconds an operation, and how many batches that rests on.
#[derive(Clone, Copy, Debug)]
struct Timed {
    nanos: f64,
    batches: u64,
}

impl Timed {
    /// What it takes more than `other`.
    fn over(&self, other: &Self) -> Self {
        Self {
            nanos: (self.nanos - other.nanos).max(0.0),
            ..*self
        }
    }
}

fn nanos(id: &'static str, name: &'static str, timed: &Timed) -> Measured {
    Measured {
        id,
        suite: SUITE,
        name,
        value: timed.nanos,
        unit: "ns",
        samples: timed.batches,
        median_of: RUNS,
    }
}

impl Measured {
    /// A figure with a bound of its own, shown beside what it is compared to.
    fn at_most(self, bound: f64, reference: &'static str, beside: &Timed) -> Figure {
        let target = format!("at most {bound} {}", self.unit);
        let met = self.value <= bound;
        Figure::beside(&self, reference, beside.nanos, Some((target, met)))
    }

    /// A figure bound by what it is compared to.
    fn at_most_times(self, times: f64, reference: &'static str, beside: &Timed) -> Figure {
        let target = format!("at most {times} times the reference");
        let met = self.value <= times * beside.nanos;
        Figure::beside(&self, reference, beside.nanos, Some((target, met)))
    }
}

/// The median run.
fn median(mut run: impl FnMut() -> Timed) -> Timed {
    let mut runs: Vec<Timed> = (0..RUNS).map(|_| run()).collect();
    runs.retain(|run| run.batches > 0);
    runs.sort_by(|one, other| one.nanos.total_cmp(&other.nanos));
    let batches = runs.iter().map(|run| run.batches).sum();
    let middle = runs.get(runs.len() / 2).map_or(f64::NAN, |run| run.nanos);
    Timed {
        nanos: middle,
        batches,
    }
}

/// Times `operation` on this thread.
fn alone(duration: Duration, operation: impl Fn()) -> Timed {
    let begun = Instant::now();
    let mut batches = Vec::new();
    while begun.elapsed() < duration {
        batches.push(batch(&operation));
    }
    middle(batches)
}

/// Times what two threads do at the same time, of which each does one of the operations.
fn together(duration: Duration, one: impl Fn(), other: impl Fn() + Sync) -> Timed {
    let (start, over, done) = (Barrier::new(2), AtomicBool::new(false), AtomicU64::new(0));
    let (start, over, done, other) = (&start, &over, &done, &other);
    thread::scope(|scope| {
        scope.spawn(move || {
            start.wait();
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                for _ in 0..EACH {
                    other();
                }
                count += u64::from(EACH);
                done.store(count, Ordering::Relaxed);
            }
        });
        start.wait();
        let (begun, mut batches) = (Instant::now(), Vec::new());
        while begun.elapsed() < duration {
            let before = done.load(Ordering::Relaxed);
            let nanos = batch(&one) * f64::from(BATCH);
            let beside = done.load(Ordering::Relaxed) - before;
            if let Some(nanos) = of_both(nanos, beside) {
                batches.push(nanos);
            }
        }
        over.store(true, Ordering::Relaxed);
        middle(batches)
    })
}

/// Nanoseconds an operation of a thread, over a batch of `nanos` beside which another thread did
/// `beside` operations; nothing, if one of the two stood still.
fn of_both(nanos: f64, beside: u64) -> Option<f64> {
    let beside = u32::try_from(beside).ok()?;
    if !(BATCH / 4..=BATCH * 4).contains(&beside) {
        return None;
    }
    Some(nanos * 2.0 / f64::from(BATCH + beside))
}

/// Nanoseconds an operation, over one batch.
fn batch(operation: &impl Fn()) -> f64 {
    let begun = Instant::now();
    for _ in 0..BATCH {
        operation();
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
}

fn middle(mut batches: Vec<f64>) -> Timed {
    batches.sort_by(f64::total_cmp);
    Timed {
        nanos: batches.get(batches.len() / 2).copied().unwrap_or(f64::NAN),
        batches: batches.len() as u64,
    }
}

/// A bulkhead and its tenants.
struct House {
    bulkhead: Bulkhead,
    tenants: Tenants,
    nobody: Arc<dyn Grantee>,
}

/// For requests that never wait.
struct Nobody;

impl Grantee for Nobody {
    fn granted(self: Arc<Self>, permit: Permit) {
        drop(permit);
    }

    fn refused(self: Arc<Self>, _refusal: Refusal) {}
}

impl House {
    fn new(slots: u32) -> Result<Self, BenchError> {
        let options = BulkheadOptions {
            in_flight_max: slots,
            queue_max: 1 << 20,
            queue_per_tenant_max: 1 << 10,
            ..BulkheadOptions::new("bench")
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        Ok(Self {
            bulkhead: Bulkhead::new(&options, clock).map_err(BenchError::admission)?,
            tenants: Tenants::new(1 << 16).map_err(BenchError::admission)?,
            nobody: Arc::new(Nobody),
        })
    }

    fn with_rate(&self, name: &str, rate: Option<Rate>) -> Result<Arc<TenantAccount>, BenchError> {
        let label = TenantLabel::new(name).map_err(BenchError::admission)?;
        let quotas = Quotas {
            rate,
            ..Quotas::UNLIMITED
        };
        let account = self.tenants.register_next(label, quotas);
        account.map_err(BenchError::admission)
    }

    /// A tenant whose rate is checked and never reached.
    fn tenant(&self, name: &str) -> Result<Arc<TenantAccount>, BenchError> {
        self.with_rate(name, Rate::new(Rate::PER_SECOND_MAX, u32::MAX))
    }

    /// A tenant that may ask once a second.
    fn limited(&self, name: &str) -> Result<Arc<TenantAccount>, BenchError> {
        self.with_rate(name, Rate::new(1, 1))
    }

    /// Asks for a permit and settles it, if it is given.
    fn turn(&self, account: &Arc<TenantAccount>) {
        let request = Request::new(account, COMPUTATION);
        // As the engine asks: who is to be told is made only if the request has to wait.
        let nobody = || Arc::clone(&self.nobody);
        let asked = self.bulkhead.acquire_with(&request, nobody);
        black_box(&asked);
        if let Ok(Acquired::Granted(permit)) = asked {
            permit.settle(COST);
        }
    }
}

impl House {
    /// Times a request and its settlement in batches of [`TOGETHER`].
    fn batch(&self, duration: Duration, account: &Arc<TenantAccount>) -> Timed {
        let requests = [Request::new(account, COMPUTATION); TOGETHER as usize];
        let costs = [COST; TOGETHER as usize];
        let (mut permits, mut refused) = (Vec::new(), 0_u64);
        let (begun, mut batches) = (Instant::now(), Vec::new());
        while begun.elapsed() < duration {
            let begun = Instant::now();
            let nobody = |_| Arc::clone(&self.nobody);
            let other = |_, _| refused += 1;
            let permits = black_box(&mut permits);
            self.bulkhead
                .acquire_batch(&requests, nobody, permits, other);
            Permit::settle_batch(black_box(permits), &costs, |_, _| {});
            batches.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(TOGETHER));
        }
        // A batch that is refused is quick and measures nothing.
        if refused > 0 {
            batches.clear();
        }
        middle(batches)
    }
}

/// Where the one slot's permit is put.
#[derive(Default)]
struct Slot {
    granted: Mutex<Option<(usize, Permit)>>,
}

impl Slot {
    fn put(&self, tenant: usize, permit: Permit) {
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = Some((tenant, permit));
    }

    fn take(&self) -> Option<(usize, Permit)> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.take()
    }
}

/// One tenant that waits for the slot.
struct Waiting {
    tenant: usize,
    slot: Arc<Slot>,
}

impl Grantee for Waiting {
    fn granted(self: Arc<Self>, permit: Permit) {
        self.slot.put(self.tenant, permit);
    }

    fn refused(self: Arc<Self>, _refusal: Refusal) {}
}

/// A bulkhead of one slot for which everybody waits.
struct Queue {
    house: House,
    accounts: Vec<(Arc<TenantAccount>, Arc<Waiting>)>,
    slot: Arc<Slot>,
}

impl Queue {
    /// `tenants` tenants that wait, each as often as it takes for a batch of turns.
    fn new(tenants: u32) -> Result<Self, BenchError> {
        let house = House::new(1)?;
        let slot = Arc::new(Slot::default());
        let mut accounts = Vec::new();
        for number in 0..tenants {
            let account = house.tenant(&format!("tenant {number}"))?;
            let waiting = Waiting {
                tenant: accounts.len(),
                slot: Arc::clone(&slot),
            };
            accounts.push((account, Arc::new(waiting)));
        }
        let queue = Self {
            house,
            accounts,
            slot,
        };
        let places = tenants.max(BATCH + 1) as usize;
        for place in 0..places {
            queue.wait(place % queue.accounts.len());
        }
        Ok(queue)
    }

    fn wait(&self, tenant: usize) {
        let Some((account, waiting)) = self.accounts.get(tenant) else {
            return;
        };
        let grantee: Arc<dyn Grantee> = Arc::<Waiting>::clone(waiting);
        let request = Request::new(account, COMPUTATION);
        if let Ok(Acquired::Granted(permit)) = self.house.bulkhead.acquire(&request, grantee) {
            self.slot.put(tenant, permit);
        }
    }

    /// Times a release up to the next one's grant. Who had a turn waits again afterwards.
    fn time(&self, duration: Duration) -> Timed {
        let begun = Instant::now();
        let mut batches = Vec::new();
        let mut served = Vec::with_capacity(BATCH as usize);
        while begun.elapsed() < duration {
            let begun = Instant::now();
            for _ in 0..BATCH {
                if let Some((tenant, permit)) = self.slot.take() {
                    served.push(tenant);
                    permit.settle(COST);
                }
            }
            batches.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH));
            for tenant in served.drain(..) {
                self.wait(tenant);
            }
        }
        middle(batches)
    }
}

/// Requests of one batch.
const TOGETHER: u32 = 64;
const COMPUTATION: ComputationId = ComputationId::new(1);
const COST: BusyNanos = BusyNanos::new(1_000);
