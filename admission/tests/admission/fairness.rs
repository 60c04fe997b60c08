//! A noisy neighbour, in simulated time: eight slots, nine tenants that ask for 0.9 of their
//! share, and one that asks for a hundred times its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{Acquired, BulkheadOptions, ComputationId, Permit, Request, TenantAccount};
use orlop_saga::amount::BusyNanos;
use orlop_saga::time::Clock;

use crate::support::{Event, House, take_all, tenant};

const SLOTS: u32 = 8;
const VICTIMS: usize = 9;
const MILLI: u64 = 1_000_000;
/// What a tenant's share of the slots is, in jobs of a millisecond per second.
const SHARE: u64 = 800;

/// What one tenant asks for.
#[derive(Clone, Copy)]
struct Load {
    tenant: usize,
    /// From when on, in nanoseconds.
    from: u64,
    every: u64,
    service: u64,
    /// How long after asking it is of use.
    within: Option<u64>,
}

struct Job {
    tenant: usize,
    asked: u64,
    service: u64,
}

/// What became of one tenant's jobs.
#[derive(Clone, Debug, Default)]
struct Tally {
    asked: u64,
    refused: u64,
    /// How long each took from asking to its end.
    latencies: Vec<u64>,
    /// Busy time of the jobs that started in each tenth of a second.
    busy: BTreeMap<u64, u64>,
}

struct Simulation {
    house: House,
    accounts: Vec<Arc<TenantAccount>>,
    jobs: Vec<Job>,
    ends: BinaryHeap<Reverse<(u64, u32)>>,
    running: BTreeMap<u32, Permit>,
    tallies: Vec<Tally>,
}

impl Simulation {
    fn run(loads: &[Load], until: u64) -> Vec<Tally> {
        let house = House::with(&BulkheadOptions {
            in_flight_max: SLOTS,
            queue_max: 4096,
            queue_per_tenant_max: 256,
            ..BulkheadOptions::new("simulated")
        });
        let tenants = 1 + loads.iter().map(|load| load.tenant).max().unwrap_or(0);
        let names = (0..tenants).map(|at| format!("tenant {at}"));
        let accounts = names.map(|name| tenant(&house.tenants, &name)).collect();
        let mut simulation = Self {
            house,
            accounts,
            jobs: Vec::new(),
            ends: BinaryHeap::new(),
            running: BTreeMap::new(),
            tallies: vec![Tally::default(); tenants],
        };
        let mut arrivals: BinaryHeap<_> = (0..loads.len())
            // Apart from each other, so that nobody is always first.
            .map(|at| Reverse((loads[at].from + loads[at].every * at as u64 / 10, at)))
            .collect();
        while let Some(Reverse((arrival, at))) = arrivals.pop() {
            if arrival >= until {
                break;
            }
            simulation.end_until(arrival);
            simulation.move_to(arrival);
            simulation.ask(&loads[at]);
            arrivals.push(Reverse((arrival + loads[at].every, at)));
        }
        simulation.end_until(until);
        simulation.tallies
    }

    fn now(&self) -> u64 {
        self.house.clock.monotonic().get()
    }

    fn move_to(&self, at: u64) {
        let by = Duration::from_nanos(at - self.now());
        self.house.clock.advance(by);
    }

    fn ask(&mut self, load: &Load) {
        let (at, service) = (load.tenant, load.service);
        let id = u32::try_from(self.jobs.len()).unwrap();
        self.jobs.push(Job {
            tenant: at,
            asked: self.now(),
            service,
        });
        self.tallies[at].asked += 1;
        let account = Arc::clone(&self.accounts[at]);
        let computation = ComputationId::new(u32::try_from(at).unwrap());
        let mut request = Request::new(&account, computation);
        let now = self.house.clock.monotonic();
        request.deadline = load
            .within
            .map(|within| now.after(Duration::from_nanos(within)));
        match self.house.ask(id, request) {
            Ok(Acquired::Granted(permit)) => self.start(id, permit),
            Ok(Acquired::Queued(_)) => {}
            Err(_) => self.tallies[at].refused += 1,
        }
    }

    fn start(&mut self, id: u32, permit: Permit) {
        let (now, job) = (self.now(), &self.jobs[id as usize]);
        let busy = self.tallies[job.tenant].busy.entry(now / (100 * MILLI));
        *busy.or_default() += job.service;
        self.ends.push(Reverse((now + job.service, id)));
        self.running.insert(id, permit);
    }

    fn end_until(&mut self, until: u64) {
        while let Some(&Reverse((end, id))) = self.ends.peek()
            && end <= until
        {
            self.ends.pop();
            self.move_to(end);
            let job = &self.jobs[id as usize];
            self.tallies[job.tenant].latencies.push(end - job.asked);
            let permit = self.running.remove(&id).unwrap();
            permit.settle(BusyNanos::new(job.service));
            for event in take_all(&self.house.inbox) {
                match event {
                    Event::Granted(id, permit) => self.start(id, permit),
                    Event::Refused(id, _) => {
                        let job = &self.jobs[id as usize];
                        self.tallies[job.tenant].refused += 1;
                    }
                }
            }
        }
    }
}

fn victims() -> Vec<Load> {
    let victim = |tenant| Load {
        tenant,
        from: 0,
        every: 1_000_000_000 * 10 / (SHARE * 9),
        service: MILLI,
        within: None,
    };
    (0..VICTIMS).map(victim).collect()
}

/// What became of the victims beside the last one, which is the flood.
fn assert_unharmed(tallies: &[Tally]) {
    let served = tallies[..VICTIMS].iter().map(|tally| {
        assert_eq!(tally.refused, 0);
        let done = u32::try_from(tally.latencies.len()).unwrap();
        f64::from(done) / f64::from(u32::try_from(tally.asked).unwrap())
    });
    let served: Vec<f64> = served.collect();
    let sum: f64 = served.iter().sum();
    let squares: f64 = served.iter().map(|part| part * part).sum();
    let jain = sum * sum / (9.0 * squares);
    assert!(served.iter().all(|&part| part >= 0.99), "{served:?}");
    assert!(jain >= 0.999, "{jain}");
    for tally in &tallies[..VICTIMS] {
        let mut latencies = tally.latencies.clone();
        latencies.sort_unstable();
        let p99 = latencies[latencies.len() * 99 / 100];
        assert!(p99 < 30 * MILLI, "{p99} ns");
    }
}

#[test]
fn a_tenant_at_a_hundred_times_its_share_takes_nothing_from_the_others() {
    let mut loads = victims();
    loads.push(Load {
        tenant: VICTIMS,
        from: 0,
        every: 1_000_000_000 / (SHARE * 100),
        service: MILLI,
        within: None,
    });
    let tallies = Simulation::run(&loads, 1_000 * MILLI);
    assert_unharmed(&tallies);
    // And nothing idles: what the others leave is the flood's.
    let done: usize = tallies.iter().map(|tally| tally.latencies.len()).sum();
    assert!(done >= 7_950, "{done} of 8,000");
}

#[test]
fn a_flood_of_jobs_that_take_twenty_times_the_guess_takes_nothing_from_the_others() {
    let mut loads = victims();
    loads.push(Load {
        tenant: VICTIMS,
        from: 0,
        every: 1_000_000_000 / (SHARE * 100),
        service: 20 * MILLI,
        within: None,
    });
    // The first eight of them hold every slot for 20 ms before anybody knows.
    assert_unharmed(&Simulation::run(&loads, 4_000 * MILLI));
}

#[test]
fn a_tenant_that_trickles_and_then_floods_gets_no_more_than_its_share_in_any_tenth() {
    let mut loads = victims();
    for load in &mut loads {
        // All of them want more than they get.
        load.every = 1_000_000_000 / (SHARE * 2);
    }
    loads.push(Load {
        tenant: VICTIMS,
        from: 0,
        every: 100 * MILLI,
        service: MILLI,
        within: None,
    });
    loads.push(Load {
        tenant: VICTIMS,
        from: 3_000 * MILLI,
        every: 1_000_000_000 / (SHARE * 100),
        service: MILLI,
        within: None,
    });
    let tallies = Simulation::run(&loads, 3_500 * MILLI);
    for (tenth, busy) in tallies[VICTIMS].busy.range(30..) {
        // One of ten tenants, and one job on every slot at each end.
        let share = u64::from(SLOTS) * 100 * MILLI / 10;
        assert!(
            *busy <= share + 2 * u64::from(SLOTS) * MILLI,
            "{tenth}: {busy}"
        );
    }
}

/// The part of what the slots could do that was done in time, when ten tenants ask for ten times
/// that and every job is of use for 20 ms; and how far apart tenants are.
fn goodput(service: impl Fn(usize) -> u64) -> (f64, f64) {
    let (within, until) = (20 * MILLI, 1_000 * MILLI);
    let load = |tenant| Load {
        tenant,
        from: 0,
        every: service(tenant) / (u64::from(SLOTS)),
        service: service(tenant),
        within: Some(within),
    };
    let loads: Vec<Load> = (0..10).map(load).collect();
    let tallies = Simulation::run(&loads, until);
    let good = tallies.iter().zip(&loads).map(|(tally, load)| {
        let in_time = tally.latencies.iter().filter(|taken| **taken <= within);
        let busy = in_time.count() as u64 * load.service;
        f64::from(u32::try_from(busy / 1_000).unwrap())
    });
    let good: Vec<f64> = good.collect();
    let sum: f64 = good.iter().sum();
    let squares: f64 = good.iter().map(|part| part * part).sum();
    (sum / 8e6, sum * sum / (10.0 * squares))
}

#[test]
fn at_ten_times_what_can_be_done_nearly_all_that_is_done_is_done_in_time() {
    let (good, jain) = goodput(|_| MILLI);
    assert!(good >= 0.95, "{good}");
    assert!(jain >= 0.99, "{jain}");
    let (good, jain) = goodput(|tenant| MILLI / 2 * (1 + tenant as u64 % 5));
    assert!(good >= 0.95, "{good}");
    assert!(jain >= 0.99, "{jain}");
}
