//! Random histories against the oracle: what is granted, refused and counted, step by step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{
    Acquired, BulkheadOptions, ClassWeights, Drain, DrainError, GroupId, Holding, Lane, Permit,
    QueueTicket, Queued, Quotas, Refusal, RegisterError, Scope, Share, TenantAccount, TenantError,
    TenantState, Weight,
};
use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::tenant::Class;
use orlop_saga::time::{Clock, Monotonic};
use proptest::prelude::*;

use crate::oracle::{Item, Life, Oracle, PoolModel};
use crate::support::{Event, House, cost, label, request, take_all};

const NAMES: [&str; 3] = ["ada", "bob", "cyd"];

#[derive(Clone, Debug)]
enum Op {
    Acquire {
        who: usize,
        class: Class,
        lane: Lane,
        slots: u32,
        staging: u64,
        within: Option<u64>,
    },
    Cancel(usize),
    Settle(usize, u64),
    DropPermit(usize),
    Advance(u64),
    Expire,
    Drain(Queued),
    Resume,
    Command(usize, Command),
    CancelQueued(usize),
    SetQuotas(usize, u64, u64),
    Renew(usize),
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Suspend,
    Resume,
    Drain(Queued),
    Revoke,
}

fn op(slots_max: u32) -> impl Strategy<Value = Op> {
    let class = prop_oneof![
        Just(Class::Interactive),
        Just(Class::Standard),
        Just(Class::Batch)
    ];
    let lane = prop_oneof![5 => Just(Lane::Ordinary), 1 => Just(Lane::Reserved)];
    let queued = || prop_oneof![Just(Queued::Refuse), Just(Queued::Serve)];
    let who = 0..NAMES.len();
    let acquire = (
        who.clone(),
        class,
        lane,
        1..=slots_max,
        0..4_u64,
        proptest::option::weighted(0.3, 0..400_u64),
    );
    let command = prop_oneof![
        1 => Just(Command::Suspend),
        3 => Just(Command::Resume),
        1 => queued().prop_map(Command::Drain),
        1 => Just(Command::Revoke),
    ];
    prop_oneof![
        40 => acquire.prop_map(|(who, class, lane, slots, staging, within)| Op::Acquire {
            who, class, lane, slots, staging, within
        }),
        8 => any::<usize>().prop_map(Op::Cancel),
        20 => (any::<usize>(), 0..100_u64).prop_map(|(at, busy)| Op::Settle(at, busy)),
        8 => any::<usize>().prop_map(Op::DropPermit),
        6 => (1..60_u64).prop_map(Op::Advance),
        4 => Just(Op::Expire),
        1 => queued().prop_map(Op::Drain),
        3 => Just(Op::Resume),
        6 => (who.clone(), command).prop_map(|(who, command)| Op::Command(who, command)),
        1 => who.clone().prop_map(Op::CancelQueued),
        1 => (who.clone(), 0..12_u64, 0..24_u64).prop_map(|(w, s, b)| Op::SetQuotas(w, s, b)),
        3 => who.prop_map(Op::Renew),
    ]
}

fn options() -> impl Strategy<Value = BulkheadOptions> {
    (
        1..5_u32,
        0..12_u32,
        0..12_u32,
        1..5_u32,
        proptest::option::of(1..300_u64),
        0..24_u64,
        0..3_u32,
        0..4_u32,
        (0..4_u32, proptest::option::of(0..200_u64), 1..5_u32),
    )
        .prop_map(
            |(slots, queue, per_tenant, of_tenant, timeout, staging, reserved, backfill, more)| {
                let (workers, published, interactive) = more;
                let weight = |of| Weight::new(of).unwrap();
                BulkheadOptions {
                    in_flight_max: slots,
                    queue_max: queue,
                    queue_per_tenant_max: per_tenant.min(queue),
                    in_flight_per_tenant_max: of_tenant,
                    queue_timeout: timeout.map(Duration::from_nanos),
                    staging_bytes_max: ByteCount::new(staging),
                    reserved_slots: reserved,
                    backfill_max: backfill,
                    cost_guess: BusyNanos::new(50),
                    workers,
                    published_cost_max: published.map(BusyNanos::new),
                    classes: ClassWeights {
                        interactive: weight(interactive),
                        standard: weight(2),
                        batch: Weight::ONE,
                    },
                    reserved_queue_max: 5,
                    reserved_queue_per_tenant_max: 3,
                    reserved_staging_bytes_max: ByteCount::new(8),
                    ..BulkheadOptions::new("model")
                }
            },
        )
}

/// Two groups of unequal weight, tenants of unequal weight in one of them.
fn quotas(who: usize, slots_max: u64, staging_bytes: u64) -> Quotas {
    let (group, group_weight) = [(0, 1), (1, 3), (1, 3)][who];
    let share = Share {
        weight: Weight::new([1, 1, 2][who]).unwrap(),
        group: GroupId::new(group),
        group_weight: Weight::new(group_weight).unwrap(),
    };
    Quotas {
        slots_max,
        staging_bytes_max: ByteCount::new(staging_bytes),
        share,
        ..Quotas::UNLIMITED
    }
}

fn generous(who: usize) -> Quotas {
    quotas(who, 10, 16)
}

type Told = Vec<(u32, Option<Refusal>)>;

struct Run {
    house: House,
    oracle: Oracle,
    accounts: Vec<Arc<TenantAccount>>,
    /// The life that each name has now.
    current: [usize; NAMES.len()],
    tickets: Vec<(u32, Lane, QueueTicket)>,
    permits: Vec<(u32, Permit)>,
    drain: Option<(Drain, u64)>,
    opened: u64,
    next_id: u32,
    /// The last id granted after waiting, for each life, class and lane.
    last_granted: HashMap<(usize, Class, Lane), u32>,
}

impl Run {
    fn new(options: &BulkheadOptions) -> Self {
        let ordinary = PoolModel {
            slots_max: options.in_flight_max.into(),
            per_tenant: options
                .in_flight_per_tenant_max
                .min(options.in_flight_max)
                .into(),
            queue_max: options.queue_max.into(),
            queue_per_tenant: options.queue_per_tenant_max.into(),
            staging_max: options.staging_bytes_max.get(),
            timeout: options.queue_timeout,
            guess: options.cost_guess.get(),
            backfill_max: options.backfill_max,
            weights: options.classes,
            workers: match options.workers {
                0 => options.in_flight_max.into(),
                workers => workers.min(options.in_flight_max).into(),
            },
            published_max: options.published_cost_max.map(BusyNanos::get),
            ..PoolModel::default()
        };
        let reserved = PoolModel {
            slots_max: options.reserved_slots.into(),
            per_tenant: options.reserved_slots.into(),
            queue_max: options.reserved_queue_max.into(),
            queue_per_tenant: options.reserved_queue_per_tenant_max.into(),
            staging_max: options.reserved_staging_bytes_max.get(),
            guess: options.cost_guess.get(),
            workers: options.reserved_slots.into(),
            always: true,
            contended: true,
            ..PoolModel::default()
        };
        let mut run = Self {
            house: House::with(options),
            oracle: Oracle {
                ordinary,
                reserved,
                lives: Vec::new(),
                draining: false,
            },
            accounts: Vec::new(),
            current: [0; NAMES.len()],
            tickets: Vec::new(),
            permits: Vec::new(),
            drain: None,
            opened: 0,
            next_id: 0,
            last_granted: HashMap::new(),
        };
        for who in 0..NAMES.len() {
            run.register(who).unwrap();
        }
        run
    }

    fn now(&self) -> Monotonic {
        self.house.clock.monotonic()
    }

    fn register(&mut self, who: usize) -> Result<(), RegisterError> {
        let account = self
            .house
            .tenants
            .register_next(label(NAMES[who]), generous(who))?;
        self.oracle.lives.push(Life {
            id: account.id(),
            state: TenantState::Active,
            quotas: generous(who),
        });
        self.current[who] = self.accounts.len();
        self.accounts.push(account);
        Ok(())
    }

    fn has_ended(&self, life: usize) -> bool {
        self.oracle.lives[life].state == TenantState::Unregistered
    }

    fn sweep_tenant(&mut self, life: usize, reason: &Refusal, told: &mut Told) {
        let now = self.now();
        self.oracle
            .sweep(Lane::Ordinary, Some(life), reason, now, told);
    }

    fn give_back(&mut self, at: usize, busy: Option<u64>, told: &mut Told) {
        if self.permits.is_empty() {
            return;
        }
        let (id, permit) = self.permits.remove(at % self.permits.len());
        let (lane, now) = (permit.lane(), self.now());
        let pool = self.oracle.pool(lane);
        pool.remove_running(id, busy);
        pool.dispatch(now, told);
        self.oracle.relax(lane);
        match busy {
            Some(busy) => {
                permit.settle(BusyNanos::new(busy));
            }
            None => drop(permit),
        }
    }

    fn acquire(&mut self, op: &Op, told: &mut Told) {
        let &Op::Acquire {
            who,
            class,
            lane,
            slots,
            staging,
            within,
        } = op
        else {
            unreachable!("not an acquire");
        };
        let (life, now, id) = (self.current[who], self.now(), self.next_id);
        self.next_id += 1;
        let deadline = within.map(|within| now.after(Duration::from_nanos(within)));
        let item = Item {
            id,
            life,
            class,
            lane,
            slots: slots.into(),
            staging,
            deadline,
            since: now,
            timeout_at: None,
            charged: 0,
            known: 0,
        };
        let expected = self.oracle.acquire(item, now, told);
        let account = Arc::clone(&self.accounts[life]);
        let mut asked = request(&account)
            .class(class)
            .lane(lane)
            .cost(cost(slots, staging));
        asked.deadline = deadline;
        match (self.house.ask(id, asked), expected) {
            (Ok(Acquired::Granted(permit)), Ok(true)) => self.permits.push((id, permit)),
            (Ok(Acquired::Queued(ticket)), Ok(false)) => self.tickets.push((id, lane, ticket)),
            (Err(refusal), Err(expected)) => assert_eq!(refusal, expected),
            (got, expected) => panic!("{got:?} where the oracle says {expected:?}"),
        }
    }

    fn command(&mut self, who: usize, command: Command, told: &mut Told) {
        use TenantState::{Active, Draining, Revoked, Suspended, Unregistered};

        let life = self.current[who];
        let account = Arc::clone(&self.accounts[life]);
        let tenants = &self.house.tenants;
        let (tenant, state) = (account.id(), self.oracle.lives[life].state);
        let (next, reason, result) = match command {
            Command::Suspend => {
                let next = matches!(state, Active | Suspended).then_some(Suspended);
                (
                    next,
                    Some(Refusal::Suspended { tenant }),
                    tenants.suspend(&account),
                )
            }
            Command::Resume => {
                let next = matches!(state, Active | Suspended | Draining).then_some(Active);
                (next, None, tenants.resume(&account))
            }
            Command::Revoke => {
                let next = (state != Unregistered).then_some(Revoked);
                (
                    next,
                    Some(Refusal::Revoked { tenant }),
                    tenants.revoke(&account),
                )
            }
            Command::Drain(queued) => {
                let next = match state {
                    Active | Suspended | Draining => Draining,
                    Revoked | Unregistered => state,
                };
                let scope = Scope::Tenant;
                let reason = (queued == Queued::Refuse).then_some(Refusal::Draining { scope });
                let drain = tenants.drain(&account, queued);
                let done = drain.as_ref().ok().and_then(Drain::try_wait);
                let result = drain.map(drop);
                if let (Some(reason), true) = (&reason, result.is_ok()) {
                    self.sweep_tenant(life, reason, told);
                }
                assert_eq!(done, (self.oracle.live_of(life) == 0).then_some(Ok(())));
                (Some(next), None, result)
            }
        };
        match next {
            Some(next) => {
                assert_eq!(result, Ok(()));
                self.oracle.lives[life].state = next;
                if let Some(reason) = reason {
                    self.sweep_tenant(life, &reason, told);
                }
            }
            None if state == Unregistered => {
                assert_eq!(result, Err(TenantError::Stale { tenant }));
            }
            None => assert_eq!(result, Err(TenantError::Refused { tenant, state })),
        }
    }

    fn renew(&mut self, who: usize, told: &mut Told) {
        let life = self.current[who];
        let account = Arc::clone(&self.accounts[life]);
        let tenant = account.id();
        assert_eq!(self.house.tenants.unregister(&account), Ok(()));
        self.oracle.lives[life].state = TenantState::Unregistered;
        self.sweep_tenant(life, &Refusal::StaleTenant { tenant }, told);
        let renewed = self.register(who);
        if self.oracle.live_of(life) == 0 {
            assert_eq!(renewed, Ok(()));
        } else {
            let error = RegisterError::LabelTaken {
                holder: tenant,
                state: TenantState::Unregistered,
            };
            assert_eq!(renewed, Err(error));
        }
    }

    fn apply(&mut self, op: &Op) {
        let mut told = Told::new();
        match *op {
            Op::Acquire { .. } => self.acquire(op, &mut told),
            Op::Cancel(at) => {
                if !self.tickets.is_empty() {
                    let (id, lane, ticket) = &self.tickets[at % self.tickets.len()];
                    let (lane, now) = (*lane, self.house.clock.monotonic());
                    let pool = self.oracle.pool(lane);
                    let waited = pool.remove_waiting(*id).is_some();
                    if waited {
                        pool.dispatch(now, &mut told);
                    }
                    assert_eq!(ticket.cancel(), waited);
                }
            }
            Op::Settle(at, busy) => self.give_back(at, Some(busy), &mut told),
            Op::DropPermit(at) => self.give_back(at, None, &mut told),
            Op::Advance(nanos) => self.house.clock.advance(Duration::from_nanos(nanos)),
            Op::Expire => {
                let now = self.now();
                let expired = self.oracle.expire(now, &mut told);
                assert_eq!(self.house.bulkhead.expire(now), expired);
            }
            Op::Drain(queued) => {
                if !self.oracle.draining {
                    self.opened += 1;
                }
                self.oracle.ordinary.contend();
                self.oracle.draining = true;
                self.drain = Some((self.house.bulkhead.drain(queued), self.opened));
                if queued == Queued::Refuse {
                    let reason = Refusal::Draining {
                        scope: Scope::Bulkhead,
                    };
                    let now = self.now();
                    for lane in [Lane::Ordinary, Lane::Reserved] {
                        self.oracle.sweep(lane, None, &reason, now, &mut told);
                    }
                }
            }
            Op::Resume => {
                if self.oracle.draining {
                    self.opened += 1;
                }
                self.oracle.draining = false;
                self.house.bulkhead.resume();
            }
            Op::Command(who, command) => self.command(who, command, &mut told),
            Op::CancelQueued(who) => {
                let life = self.current[who];
                let account = Arc::clone(&self.accounts[life]);
                let cancelled = self.house.tenants.cancel_queued(&account);
                if self.has_ended(life) {
                    let tenant = account.id();
                    assert_eq!(cancelled, Err(TenantError::Stale { tenant }));
                } else {
                    let (waiting, _) = self.oracle.of_life(life, Lane::Ordinary);
                    assert_eq!(cancelled, Ok(waiting.len() as u64));
                    self.sweep_tenant(life, &Refusal::Cancelled, &mut told);
                }
            }
            Op::SetQuotas(who, slots_max, bytes) => {
                let quotas = quotas(who, slots_max, bytes);
                let life = self.current[who];
                let account = &self.accounts[life];
                let set = self.house.tenants.set_quotas(account, quotas);
                if self.has_ended(life) {
                    let tenant = account.id();
                    assert_eq!(set, Err(TenantError::Stale { tenant }));
                } else {
                    assert_eq!(set, Ok(()));
                    self.oracle.lives[life].quotas = quotas;
                }
            }
            Op::Renew(who) => self.renew(who, &mut told),
        }
        self.compare(told);
    }

    /// What grantees were told is what the oracle says, and held is counted.
    fn compare(&mut self, told: Told) {
        let mut grants = Vec::new();
        let mut refusals = Vec::new();
        for event in take_all(&self.house.inbox) {
            match event {
                Event::Granted(id, permit) => {
                    grants.push(id);
                    self.permits.push((id, permit));
                }
                Event::Refused(id, refusal) => refusals.push((id, refusal)),
            }
        }
        let expected: Vec<u32> = told
            .iter()
            .filter(|(_, refusal)| refusal.is_none())
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(grants, expected);
        let mut expected: Vec<(u32, Refusal)> = told
            .into_iter()
            .filter_map(|(id, refusal)| Some((id, refusal?)))
            .collect();
        expected.sort_by_key(|(id, _)| *id);
        refusals.sort_by_key(|(id, _)| *id);
        assert_eq!(refusals, expected);
        self.check_order(&grants);
        self.check_counts();
        assert_eq!(self.house.bulkhead.next_expiry(), self.oracle.next_expiry());
        let live = self.oracle.ordinary.waiting.len()
            + self.oracle.ordinary.running.len()
            + self.oracle.reserved.waiting.len()
            + self.oracle.reserved.running.len();
        if let Some((drain, opened)) = &self.drain {
            let expected = if *opened == self.opened {
                (live == 0).then_some(Ok(()))
            } else {
                Some(Err(DrainError::Resumed))
            };
            assert_eq!(drain.try_wait(), expected);
        }
    }

    /// FIFO within (tenant, class), and nobody waits who could start: said without the oracle's
    /// own order.
    fn check_order(&mut self, grants: &[u32]) {
        for &id in grants {
            let running = self.oracle.ordinary.running.iter();
            let item = running
                .chain(&self.oracle.reserved.running)
                .find(|item| item.id == id);
            let item = item.unwrap();
            let key = (item.life, item.class, item.lane);
            if let Some(last) = self.last_granted.insert(key, id) {
                assert!(last < id, "{id} was granted after the later {last}");
            }
        }
        for pool in [&self.oracle.ordinary, &self.oracle.reserved] {
            if pool.waiting.iter().any(|item| item.slots > 1) {
                continue;
            }
            for item in &pool.waiting {
                let of_life = pool.running.iter().filter(|other| other.life == item.life);
                let in_flight: u64 = of_life.map(|other| other.slots).sum();
                let held_back = in_flight == pool.per_tenant || !pool.has_room();
                assert!(pool.slots() == pool.slots_max || held_back);
            }
        }
    }

    fn check_counts(&self) {
        let snapshot = self.house.bulkhead.snapshot();
        for (counted, pool) in [
            (snapshot.ordinary, &self.oracle.ordinary),
            (snapshot.reserved, &self.oracle.reserved),
        ] {
            assert_eq!(counted.slots, pool.slots());
            assert_eq!(counted.in_flight, pool.running.len() as u64);
            assert_eq!(counted.queued, pool.waiting.len() as u64);
            assert_eq!(counted.staging.get(), pool.staging());
            assert_eq!(
                counted.granted,
                counted.in_flight + counted.settled + counted.unsettled
            );
        }
        let held = snapshot.ordinary.in_flight + snapshot.reserved.in_flight;
        assert_eq!(self.permits.len() as u64, held);
        for (life, account) in self.accounts.iter().enumerate() {
            let counted = account.snapshot();
            for (counted, lane) in [
                (counted.ordinary, Lane::Ordinary),
                (counted.reserved, Lane::Reserved),
            ] {
                let (waiting, running) = self.oracle.of_life(life, lane);
                let all = || waiting.iter().chain(&running);
                let expected = Holding {
                    queued: waiting.len() as u64,
                    in_flight: running.len() as u64,
                    slots: all().map(|item| item.slots).sum(),
                    staging: ByteCount::new(all().map(|item| item.staging).sum()),
                    ..Holding::default()
                };
                assert_eq!(counted, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn admission_does_what_the_sequential_oracle_says_and_held_is_counted_at_every_step(
        options in options(),
        ops in proptest::collection::vec(op(3), 1..120),
    ) {
        let mut run = Run::new(&options);
        for op in &ops {
            run.apply(op);
        }
        while !run.permits.is_empty() {
            run.apply(&Op::DropPermit(0));
        }
        run.house.assert_quiet();
    }

    #[test]
    fn with_single_slots_nothing_idles_while_somebody_could_start(
        options in options(),
        ops in proptest::collection::vec(op(1), 1..120),
    ) {
        let mut run = Run::new(&options);
        for op in &ops {
            run.apply(op);
        }
    }
}
