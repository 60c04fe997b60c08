//! Exclusion groups: who never holds a permit beside whom, and that nobody waits for ever for it.

use std::sync::Arc;

use orlop_admission::{
    Acquired, BulkheadOptions, ConflictMatrix, ExclusionId, Lane, Permit, QueueTicket, Refusal,
    Request, TenantAccount,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::tenant::Class;
use proptest::prelude::*;

use crate::support::{Event, House, granted, request, take_all, tenant};

const NAMES: [&str; 3] = ["compact", "backup", "query"];

fn matrix(rows: [[bool; 3]; 3]) -> ConflictMatrix {
    ConflictMatrix::new(&NAMES, &rows).unwrap()
}

/// The groups exclude one another, the third does not exclude itself.
fn apart() -> ConflictMatrix {
    matrix([[true, true, true], [true, true, true], [true, true, false]])
}

fn group(index: usize) -> ExclusionId {
    ExclusionId::new(index).unwrap()
}

fn in_group(account: &Arc<TenantAccount>, index: usize) -> Request<'_> {
    request(account).exclusion(group(index))
}

fn house(slots: u32, conflicts: ConflictMatrix, overtakes_max: u32) -> House {
    House::with(&BulkheadOptions {
        in_flight_max: slots,
        conflicts,
        overtakes_max,
        ..BulkheadOptions::new("exclusion")
    })
}

#[test]
fn two_in_conflict_never_hold_permits_at_the_same_time_also_with_slots_free() {
    let house = house(8, apart(), 16);
    let ada = tenant(&house.tenants, "ada");
    let bob = tenant(&house.tenants, "bob");
    let compaction = house.take(in_group(&ada, 0));
    house.queue(1, in_group(&bob, 1));
    house.queue(2, in_group(&bob, 0).class(Class::Batch));
    // What conflicts with nothing that runs does not wait for those that do.
    let _free = house.take(request(&tenant(&house.tenants, "cyd")));
    assert!(granted(&house.inbox).is_empty());
    drop(compaction);
    let mut next = granted(&house.inbox);
    assert_eq!(next.len(), 1);
    assert_eq!(next.remove(0).0, 1);
    assert_eq!(granted(&house.inbox).remove(0).0, 2);
}

#[test]
fn a_class_that_waits_for_a_group_does_not_hold_up_another_class_of_its_tenant() {
    let house = house(2, apart(), 16);
    let ada = tenant(&house.tenants, "ada");
    let compaction = house.take(in_group(&ada, 0));
    house.queue(0, in_group(&ada, 1).class(Class::Interactive));
    house.queue(1, request(&ada).class(Class::Batch));
    assert_eq!(granted(&house.inbox).remove(0).0, 1);
    drop(compaction);
    assert_eq!(granted(&house.inbox).remove(0).0, 0);
}

#[test]
fn a_group_of_another_matrix_is_refused_and_never_taken_for_one_without_conflicts() {
    let house = house(4, apart(), 16);
    let ada = tenant(&house.tenants, "ada");
    let asked = house.ask(0, in_group(&ada, 3));
    let bulkhead = Arc::from("exclusion");
    let expected = Refusal::UnknownExclusion {
        bulkhead,
        group: group(3),
    };
    assert_eq!(asked.unwrap_err(), expected);
    assert_eq!(
        house.bulkhead.snapshot().ordinary.refused.unknown_exclusion,
        1
    );
    let plain = House::new(1);
    let ada = tenant(&plain.tenants, "ada");
    assert!(plain.ask(0, in_group(&ada, 0)).is_err());
    plain.assert_quiet();
}

#[test]
fn the_reserved_lane_is_held_up_by_no_group() {
    let house = house(4, apart(), 16);
    let ada = tenant(&house.tenants, "ada");
    let _compaction = house.take(in_group(&ada, 0));
    drop(house.take(in_group(&ada, 1).lane(Lane::Reserved)));
}

#[test]
fn a_group_whose_conflicting_groups_never_let_go_is_overtaken_a_bounded_number_of_times() {
    for overtakes_max in [0, 5, 40] {
        let house = house(4, apart(), overtakes_max);
        let accounts = ["a", "b", "c", "d", "e"].map(|name| tenant(&house.tenants, name));
        let lonely = tenant(&house.tenants, "lonely");
        let mut running: Vec<Permit> = Vec::new();
        for account in &accounts[..4] {
            running.push(house.take(in_group(account, 2)));
        }
        for round in 0..100 {
            for (at, account) in (0..).zip(&accounts) {
                house.queue(round * 10 + at, in_group(account, 2));
            }
        }
        house.queue(9_999, in_group(&lonely, 0));
        let mut overtaken = 0;
        'served: loop {
            // One of four ends at a time: without a bound the queries never let go together.
            running.remove(0).settle(BusyNanos::new(1_000));
            for (id, permit) in granted(&house.inbox) {
                if id == 9_999 {
                    assert!(running.is_empty());
                    break 'served;
                }
                overtaken += 1;
                running.push(permit);
            }
        }
        // Those that went ahead in the fair order before it was looked at come on top.
        assert!(overtaken <= overtakes_max + 4, "{overtaken}");
        assert!(overtaken >= overtakes_max, "{overtaken}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Ask(usize, Class, Option<usize>),
    Settle(usize, u64),
    Cancel(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let class = prop_oneof![
        Just(Class::Interactive),
        Just(Class::Standard),
        Just(Class::Batch)
    ];
    let group = proptest::option::weighted(0.8, 0..3_usize);
    prop_oneof![
        6 => (0..3_usize, class, group).prop_map(|(who, class, group)| Op::Ask(who, class, group)),
        4 => (any::<usize>(), 0..300_000_u64).prop_map(|(at, cost)| Op::Settle(at, cost)),
        1 => any::<usize>().prop_map(Op::Cancel),
    ]
}

struct Item {
    id: u32,
    who: usize,
    class: Class,
    group: Option<usize>,
}

struct Run {
    house: House,
    accounts: [Arc<TenantAccount>; 3],
    matrix: ConflictMatrix,
    per_tenant: usize,
    slots: usize,
    /// Whether nobody is ever held back for somebody who waits.
    eager: bool,
    next: u32,
    waiting: Vec<(Item, QueueTicket)>,
    running: Vec<(Item, Permit)>,
}

impl Run {
    fn new(slots: u32, per_tenant: u32, rows: [[bool; 3]; 3], overtakes_max: u32) -> Self {
        let house = House::with(&BulkheadOptions {
            in_flight_max: slots,
            in_flight_per_tenant_max: per_tenant,
            conflicts: matrix(rows),
            overtakes_max,
            ..BulkheadOptions::new("exclusion")
        });
        Self {
            accounts: ["ada", "bob", "cyd"].map(|name| tenant(&house.tenants, name)),
            house,
            matrix: matrix(rows),
            per_tenant: per_tenant as usize,
            slots: slots as usize,
            eager: overtakes_max == BulkheadOptions::COUNT_MAX,
            next: 0,
            waiting: Vec::new(),
            running: Vec::new(),
        }
    }

    fn conflict(&self, one: Option<usize>, other: Option<usize>) -> bool {
        let (Some(one), Some(other)) = (one, other) else {
            return false;
        };
        self.matrix.excludes(group(one), group(other)).unwrap()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Ask(who, class, of) => {
                let item = Item {
                    id: self.next,
                    who,
                    class,
                    group: of,
                };
                self.next += 1;
                let account = Arc::clone(&self.accounts[who]);
                let mut asked = request(&account).class(class);
                asked.exclusion = of.map(group);
                match self.house.ask(item.id, asked).unwrap() {
                    Acquired::Granted(permit) => self.running.push((item, permit)),
                    Acquired::Queued(ticket) => self.waiting.push((item, ticket)),
                }
            }
            Op::Settle(at, cost) if !self.running.is_empty() => {
                let (_, permit) = self.running.remove(at % self.running.len());
                permit.settle(BusyNanos::new(cost));
            }
            Op::Cancel(at) if !self.waiting.is_empty() => {
                let (_, ticket) = self.waiting.remove(at % self.waiting.len());
                assert!(ticket.cancel());
            }
            Op::Settle(..) | Op::Cancel(_) => {}
        }
        for event in take_all(&self.house.inbox) {
            let Event::Granted(id, permit) = event else {
                panic!("refused: {event:?}");
            };
            let at = self.waiting.iter().position(|(item, _)| item.id == id);
            let (item, _) = self.waiting.remove(at.unwrap());
            let mut before = self.waiting.iter().map(|(item, _)| item);
            assert!(
                !before.any(
                    |other| other.id < id && (other.who, other.class) == (item.who, item.class)
                ),
                "first in, first out within tenant and class"
            );
            self.running.push((item, permit));
        }
        self.check();
    }

    fn check(&self) {
        for (at, (one, _)) in self.running.iter().enumerate() {
            for (other, _) in &self.running[..at] {
                assert!(
                    !self.conflict(one.group, other.group),
                    "{} {}",
                    one.id,
                    other.id
                );
            }
        }
        if self.running.len() == self.slots || !self.eager {
            return;
        }
        for (at, (item, _)) in self.waiting.iter().enumerate() {
            let of_class = |other: &Item| (other.who, other.class) == (item.who, item.class);
            let head = !self.waiting[..at].iter().any(|(other, _)| of_class(other));
            let mut running = self.running.iter().map(|(other, _)| other);
            let excluded = running.any(|other| self.conflict(other.group, item.group));
            let of_tenant = self
                .running
                .iter()
                .filter(|(other, _)| other.who == item.who);
            let bounded = of_tenant.count() >= self.per_tenant;
            assert!(!head || excluded || bounded, "{} idles", item.id);
        }
    }

    /// Settles whatever runs until nothing waits.
    fn drain(&mut self) {
        while !self.running.is_empty() {
            self.apply(&Op::Settle(0, 10));
        }
        assert!(self.waiting.is_empty(), "somebody waits for nobody");
        self.house.assert_quiet();
    }
}

fn rows() -> impl Strategy<Value = [[bool; 3]; 3]> {
    any::<[bool; 6]>().prop_map(|[a, b, c, d, e, f]| [[a, b, c], [b, d, e], [c, e, f]])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn conflicting_groups_are_kept_apart_and_nothing_idles_that_could_start(
        slots in 1..5_u32,
        per_tenant in 1..5_u32,
        rows in rows(),
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut run = Run::new(slots, per_tenant, rows, BulkheadOptions::COUNT_MAX);
        for op in &ops {
            run.apply(op);
        }
        run.drain();
    }

    #[test]
    fn whoever_is_held_back_for_somebody_who_waits_is_served_in_the_end(
        slots in 1..5_u32,
        per_tenant in 1..5_u32,
        rows in rows(),
        overtakes_max in 0..4_u32,
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut run = Run::new(slots, per_tenant, rows, overtakes_max);
        for op in &ops {
            run.apply(op);
        }
        run.drain();
    }
}
