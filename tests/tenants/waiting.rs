//! What was accepted, and the steps of sagas, wait for a refusal to pass: in their order, without
//! asking again and again, and not beyond their own end.

use std::future::IntoFuture;
use std::time::Duration;

use orlop::testkit::SimClock;
use orlop::{
    BulkheadOptions, Class, Engine, Key, OpenError, Quotas, Rate, Refusal, SagaTicket,
    StoreOpenError, SubmitError, Tenant, Ticket,
};

use crate::hall::{Hall, NARROW, Series, Turn, Turns, builder, no_queue, until};

fn enqueue(clock: &SimClock, tenant: &Tenant, number: u64) -> Ticket<u64> {
    let key = Key::named(&format!("turn {number}"));
    let submission = tenant.enqueue(Turn, ("accepted".to_owned(), number));
    let ticket = clock.run(submission.key(key).into_future());
    ticket.unwrap().unwrap()
}

fn start(hall: &Hall, tenant: &Tenant, name: &str, turns: u64) -> SagaTicket<()> {
    let starting = tenant.start::<Series>(Key::named(name), (name.to_owned(), turns));
    hall.clock.run(starting.into_future()).unwrap().unwrap()
}

fn open_again(open: impl Fn() -> orlop::EngineBuilder) -> Engine {
    loop {
        match open().open_blocking() {
            Ok(engine) => return engine,
            Err(OpenError::Store(StoreOpenError::Folder(
                orlop::store::folder::FolderError::OpenHere { .. },
            ))) => std::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn accepted_work_beyond_the_queue_runs_in_its_order_after_a_crash() {
    const COUNT: u64 = 12;
    let clock = SimClock::new(1);
    let folder = tempfile::tempdir().unwrap();
    let turns = Turns::gated(&clock);
    let deep = BulkheadOptions {
        in_flight_max: 1,
        ..BulkheadOptions::new(NARROW)
    };
    let engine = builder(folder.path(), &clock, &turns, deep);
    let engine = engine.open_blocking().unwrap();
    let tenant = clock.run(engine.tenant("ada")).unwrap().unwrap();
    for number in 0..COUNT {
        drop(enqueue(&clock, &tenant, number));
        clock.advance(Duration::from_millis(2));
    }
    drop((tenant, engine));

    // The next one has a queue for two of them.
    let shallow = BulkheadOptions {
        in_flight_max: 1,
        queue_max: 2,
        queue_per_tenant_max: 2,
        ..BulkheadOptions::new(NARROW)
    };
    let turns = Turns::gated(&clock);
    let engine = open_again(|| builder(folder.path(), &clock, &turns, shallow.clone()));
    until(|| engine.snapshot().waiting == 9);
    let before = orlop::Clock::monotonic(&clock);
    turns.let_go(12);
    until(|| turns.began().len() == 12);
    assert_eq!(turns.numbers(), (0..COUNT).collect::<Vec<_>>());
    assert_eq!(
        orlop::Clock::monotonic(&clock),
        before,
        "somebody was waited for"
    );
    engine.blocking().close().unwrap();
}

#[test]
fn a_step_of_a_suspended_tenant_runs_when_the_tenant_is_resumed_and_no_later() {
    let hall = Hall::new(no_queue());
    let ada = hall.manager("ada");
    let ticket = start(&hall, ada.tenant(), "ada", 2);
    hall.until_began(1);
    orlop::wait(ada.suspend()).unwrap();
    hall.turns.let_go(2);
    hall.until_waiting(1);
    let before = hall.millis();
    orlop::wait(ada.resume()).unwrap();
    hall.clock.run(ticket.into_future()).unwrap().unwrap();
    assert_eq!(hall.millis(), before, "it was waited for");
    assert_eq!(hall.turns.numbers(), [0, 1], "one attempt each");
    hall.engine.blocking().close().unwrap();
}

#[test]
fn a_saga_that_is_cancelled_while_its_step_waits_leaves_at_once() {
    let hall = Hall::new(no_queue());
    let (ada, bob) = (hall.manager("ada"), hall.tenant("bob"));
    let _holds = start(&hall, &bob, "bob", 1);
    hall.until_began(1);
    let ticket = start(&hall, ada.tenant(), "ada", 1);
    hall.until_waiting(1);
    let cancelled = hall.clock.run(ada.cancel_saga(Key::named("ada")));
    cancelled.unwrap().unwrap();
    let ended = hall.clock.run(ticket.into_future()).unwrap();
    assert!(matches!(ended, Err(SubmitError::Failed(_))), "{ended:?}");
    assert_eq!(hall.engine.snapshot().waiting, 0);
    hall.turns.let_go(1);
    until(|| hall.engine.snapshot().sagas == 0);
    assert_eq!(hall.turns.began().len(), 1, "it ran after its cancel");
    hall.engine.blocking().close().unwrap();
}

#[test]
fn a_saga_that_is_paused_while_its_step_waits_does_not_run_it_before_it_is_resumed() {
    let hall = Hall::new(no_queue());
    let (ada, bob) = (hall.manager("ada"), hall.tenant("bob"));
    let _holds = start(&hall, &bob, "bob", 1);
    hall.until_began(1);
    let ticket = start(&hall, ada.tenant(), "ada", 1);
    hall.until_waiting(1);
    let saga = ticket.id().unwrap();
    let operator = ada.operator();
    hall.clock
        .run(operator.pause(saga, "for a while"))
        .unwrap()
        .unwrap();
    assert_eq!(hall.engine.snapshot().waiting, 0);
    hall.turns.let_go(2);
    until(|| hall.engine.snapshot().sagas == 1);
    assert_eq!(hall.turns.began().len(), 1, "paused, and it ran");
    hall.clock.run(operator.resume(saga)).unwrap().unwrap();
    until(|| hall.engine.snapshot().sagas == 0);
    assert_eq!(hall.turns.began().len(), 2);
    hall.engine.blocking().close().unwrap();
}

#[test]
fn an_awaited_submission_does_not_overtake_a_step_of_its_tenant_and_class_that_waits() {
    let hall = Hall::new(no_queue());
    let ada = hall.manager("ada");
    let unlimited = Quotas::UNLIMITED;
    let _holds = start(&hall, ada.tenant(), "holds", 1);
    hall.until_began(1);
    let quotas = Quotas {
        slots_max: 1,
        ..unlimited
    };
    orlop::wait(ada.set_quotas(quotas)).unwrap();
    let waits = start(&hall, ada.tenant(), "waits", 1);
    hall.until_waiting(1);
    let submit = |class| {
        let submission = ada.tenant().submit(Turn, ("barges".to_owned(), 7));
        hall.clock
            .run(submission.class(class).ephemeral().into_future())
            .unwrap()
    };
    let refused = submit(Class::Standard);
    assert!(
        matches!(
            refused,
            Err(SubmitError::Refused(Refusal::QuotaExceeded { .. }))
        ),
        "{refused:?}"
    );
    hall.turns.let_go(2);
    hall.clock.run(waits.into_future()).unwrap().unwrap();
    hall.turns.let_go(1);
    assert_eq!(submit(Class::Standard).unwrap().output, 7);
    let took: Vec<String> = hall.turns.began().into_iter().map(|t| t.who).collect();
    assert_eq!(took, ["holds", "waits", "barges"]);
    hall.engine.blocking().close().unwrap();
}

#[test]
fn steps_beyond_their_tenants_rate_go_on_when_it_allows_and_not_later() {
    let hall = Hall::new(no_queue());
    let ada = hall.manager("ada");
    let quotas = Quotas {
        rate: Rate::new(10, 1),
        ..Quotas::UNLIMITED
    };
    orlop::wait(ada.set_quotas(quotas)).unwrap();
    hall.turns.let_go(4);
    let before = hall.millis();
    let ticket = start(&hall, ada.tenant(), "ada", 4);
    hall.clock.run(ticket.into_future()).unwrap().unwrap();
    assert_eq!(hall.millis() - before, 300);
    assert_eq!(hall.turns.numbers(), [0, 1, 2, 3]);
    hall.engine.blocking().close().unwrap();
}
