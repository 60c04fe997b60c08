//! What waits for a budget waits in its place, goes on when the budget does, and is in nobody else's
//! way.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use orlop::testkit::SimClock;
use orlop::{
    AuditTag, BudgetOptions, BulkheadOptions, BusyNanos, Engine, EngineBuilder, Key, Options,
    SagaTicket, Tenant, wait,
};

use crate::hall::{Hall, NARROW, Series, Turn, Turns, until};
use crate::recorded::Machine;

const NORTH: AuditTag = AuditTag {
    organisation: 1,
    engagement: 1,
};
const SOUTH: AuditTag = AuditTag {
    organisation: 1,
    engagement: 2,
};

const fn ms(millis: u64) -> BusyNanos {
    BusyNanos::new(millis * 1_000_000)
}

/// A hall whose turns take 10 ms and are expected to, with one slot.
fn hall() -> Hall {
    let clock = SimClock::new(1);
    let turns = Turns::lasting(&clock, |_| 10);
    let bulkhead = BulkheadOptions {
        in_flight_max: 1,
        cost_guess: ms(10),
        ..BulkheadOptions::new(NARROW)
    };
    let budgets = BudgetOptions {
        enforced: true,
        chunk: ms(2),
        ..BudgetOptions::default()
    };
    Hall::budgeted(clock, turns, bulkhead, budgets)
}

fn start(hall: &Hall, tenant: &Tenant, name: &str, turns: u64, audit: AuditTag) -> SagaTicket<()> {
    let starting = tenant.start::<Series>(Key::named(name), (name.to_owned(), turns));
    let started = hall.clock.run(starting.audit(audit).into_future());
    started.unwrap().unwrap()
}

/// Has time pass, whenever nothing is under way, until so many have begun and one of them waits.
fn until_short(hall: &Hall, began: usize) {
    until(|| {
        hall.clock.run(hall.clock.sleep(Duration::from_millis(1)));
        hall.turns.began().len() == began && hall.engine.snapshot().waiting == 1
    });
}

#[test]
fn a_step_that_waits_for_a_budget_goes_on_when_it_is_raised_and_no_later() {
    let hall = hall();
    let ada = hall.tenant("ada");
    wait(hall.engine.budgets().grant(NORTH, ms(15))).unwrap();
    let ticket = start(&hall, &ada, "ada", 3, NORTH);
    until_short(&hall, 1);
    // However long that was, nobody asks again and again.
    hall.clock.advance(Duration::from_mins(1));
    assert_eq!(hall.clock.next_timer(), None, "it asks again by itself");
    let before = hall.millis();
    wait(hall.engine.budgets().grant(NORTH, ms(1_000))).unwrap();
    hall.clock.run(ticket.into_future()).unwrap().unwrap();
    assert_eq!(hall.millis() - before, 20, "more than its turns take");
    hall.engine.blocking().close().unwrap();
}

#[test]
fn what_waits_for_one_budget_is_not_in_the_way_of_the_same_tenants_work_for_another() {
    let hall = hall();
    let ada = hall.tenant("ada");
    for (audit, limit) in [(NORTH, 15), (SOUTH, 1_000)] {
        wait(hall.engine.budgets().grant(audit, ms(limit))).unwrap();
    }
    let waits = start(&hall, &ada, "north", 2, NORTH);
    until_short(&hall, 1);
    let ticket = start(&hall, &ada, "south", 3, SOUTH);
    hall.clock.run(ticket.into_future()).unwrap().unwrap();
    assert_eq!(hall.engine.snapshot().waiting, 1);
    wait(hall.engine.budgets().grant(NORTH, ms(100))).unwrap();
    hall.clock.run(waits.into_future()).unwrap().unwrap();
    hall.engine.blocking().close().unwrap();
}

/// 30 ms, and each of two is expected to cost 20 until the first has shown that it costs 10.
#[test]
fn what_one_saga_leaves_of_its_reservation_lets_another_go_on_at_once() {
    let clock = SimClock::new(1);
    let turns = Turns::lasting(&clock, |_| 10);
    let bulkhead = BulkheadOptions {
        in_flight_max: 2,
        cost_guess: ms(20),
        ..BulkheadOptions::new(NARROW)
    };
    let budgets = BudgetOptions {
        enforced: true,
        chunk: ms(30),
        ..BudgetOptions::default()
    };
    let hall = Hall::budgeted(clock, turns, bulkhead, budgets);
    let (ada, bob) = (hall.tenant("ada"), hall.tenant("bob"));
    wait(hall.engine.budgets().grant(NORTH, ms(30))).unwrap();
    let first = start(&hall, &ada, "ada", 1, NORTH);
    hall.until_began(1);
    let second = start(&hall, &bob, "bob", 1, NORTH);
    until(|| hall.engine.snapshot().waiting == 1);
    let before = hall.millis();
    hall.clock.run(first.into_future()).unwrap().unwrap();
    hall.clock.run(second.into_future()).unwrap().unwrap();
    assert!(hall.millis() - before <= 20, "{}", hall.millis() - before);
    hall.engine.blocking().close().unwrap();
}

#[test]
fn what_waited_for_a_budget_when_its_engine_ended_waits_in_the_next_one_until_it_is_raised() {
    for killed in [false, true] {
        let clock = SimClock::new(1);
        let turns = Turns::lasting(&clock, |_| 10);
        let open = |machine: &Machine| -> Engine {
            let bulkhead = BulkheadOptions {
                cost_guess: ms(10),
                ..BulkheadOptions::new(NARROW)
            };
            let budgets = BudgetOptions {
                enforced: true,
                chunk: ms(2),
                ..BudgetOptions::default()
            };
            let options = Options {
                bulkheads: vec![bulkhead],
                budgets,
                ..Options::default()
            };
            EngineBuilder::on_parts(machine.parts())
                .options(options)
                .clock(Arc::new(clock.clone()))
                .pure(Turn, turns.clone())
                .saga(Series)
                .open_blocking()
                .unwrap()
        };
        let until_short = |engine: &Engine| {
            until(|| {
                clock.run(clock.sleep(Duration::from_millis(1)));
                turns.began().len() == 1 && engine.snapshot().waiting == 1
            });
        };
        let start = |engine: &Engine| {
            let ada = clock.run(engine.tenant("ada")).unwrap().unwrap();
            let starting = ada.start::<Series>(Key::named("s"), ("ada".to_owned(), 3));
            let started = clock.run(starting.audit(NORTH).into_future());
            started.unwrap().unwrap()
        };
        let mut machine = Machine::default();
        let engine = open(&machine);
        wait(engine.budgets().grant(NORTH, ms(15))).unwrap();
        drop(start(&engine));
        until_short(&engine);
        if killed {
            drop(engine);
            machine = machine.crashed();
        } else {
            engine.blocking().close().unwrap();
            drop(engine);
        }
        let engine = open(&machine);
        until_short(&engine);
        let ticket = start(&engine);
        wait(engine.budgets().grant(NORTH, ms(1_000))).unwrap();
        clock.run(ticket.into_future()).unwrap().unwrap();
        assert_eq!(turns.numbers(), [0, 1, 2], "killed: {killed}");
        engine.blocking().close().unwrap();
    }
}
