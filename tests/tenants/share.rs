//! A tenant's share of the journal: what it may write bounds what it may begin, and nobody else.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orlop::testkit::SimClock;
use orlop::{
    Attempt, BulkheadOptions, ByteCount, ByteRate, Computation, Dimension, Engine, External,
    Failure, HostFunction, Key, Late, Quotas, Reconcile, Reconciled, Refusal, Saga, SagaContext,
    SagaError, SubmitError, Tenant, Undo, UndoFunction, Undoing, wait,
};

use crate::hall::{Hall, NARROW, Series, Turn, Turns, builder, until};
use crate::support::{Double, Two};

fn share(per_second: u64, burst: u64) -> Quotas {
    Quotas {
        journal: ByteRate::new(per_second, burst),
        ..Quotas::UNLIMITED
    }
}

fn enqueue(hall: &Hall, tenant: &Tenant, number: u64, bytes: usize) -> Result<(), SubmitError> {
    let submission = tenant.enqueue(Turn, ("x".repeat(bytes), number));
    let key = Key::named(&number.to_string());
    let ticket = hall.clock.run(submission.key(key).into_future());
    ticket.unwrap().map(drop)
}

fn wide() -> BulkheadOptions {
    BulkheadOptions::new(NARROW)
}

/// How long until as much may be written as was asked for.
fn limited(result: Result<(), SubmitError>) -> Duration {
    match result {
        Err(SubmitError::Refused(Refusal::RateLimited { retry_after })) => retry_after,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tenant_accepts_no_more_than_its_share_and_its_neighbour_as_much_as_it_likes() {
    let hall = Hall::new(wide());
    let (ada, bob) = (hall.manager("ada"), hall.tenant("bob"));
    wait(ada.set_quotas(share(1_000, 2_000))).unwrap();
    let mut accepted = 0;
    let wait_for = loop {
        match enqueue(&hall, ada.tenant(), accepted, 600) {
            Ok(()) => accepted += 1,
            refused => break limited(refused),
        }
        assert!(accepted < 10, "its share bounds nothing");
    };
    // 600 bytes of text, and what is told of every intent beside.
    assert!((2..=3).contains(&accepted), "{accepted}");
    for number in 0..50 {
        enqueue(&hall, &bob, number, 600).unwrap();
    }
    // What is refused is not counted.
    assert_eq!(
        limited(enqueue(&hall, ada.tenant(), accepted, 600)),
        wait_for
    );
    hall.clock
        .advance(wait_for.saturating_sub(Duration::from_millis(1)));
    limited(enqueue(&hall, ada.tenant(), accepted, 600));
    hall.clock.advance(Duration::from_millis(1));
    enqueue(&hall, ada.tenant(), accepted, 600).unwrap();
    // Joining what is accepted writes nothing.
    enqueue(&hall, ada.tenant(), accepted, 600).unwrap();
    let never = enqueue(&hall, ada.tenant(), 99, 3_000).unwrap_err();
    let dimension = Dimension::TenantJournalBytes;
    assert!(
        matches!(
            never,
            SubmitError::Refused(Refusal::NeverFits { dimension: found, cap: 2_000, .. })
                if found == dimension
        ),
        "{never:?}"
    );
    hall.turns.let_go(100);
    hall.engine.blocking().close().unwrap();
}

/// What only its outcome is recorded of is no intent, until somebody wants it accepted.
#[test]
fn work_that_is_accepted_after_it_began_is_counted_then() {
    let hall = Hall::new(wide());
    let ada = hall.manager("ada");
    wait(ada.set_quotas(share(1, 1_000))).unwrap();
    let text = "x".repeat(600);
    let submission = |number: u64| {
        let submission = ada.tenant().submit(Turn, (text.clone(), number));
        Box::pin(
            submission
                .key(Key::named(&number.to_string()))
                .into_future(),
        )
    };
    let mut awaited: Vec<_> = (0..3).map(submission).collect();
    for one in &mut awaited {
        assert!(wait(async { futures_util::poll!(one) }).is_pending());
    }
    enqueue(&hall, ada.tenant(), 0, 600).unwrap();
    enqueue(&hall, ada.tenant(), 0, 600).unwrap();
    limited(enqueue(&hall, ada.tenant(), 1, 600));
    hall.turns.let_go(3);
    for one in awaited {
        hall.clock.run(one).unwrap().unwrap();
    }
    hall.engine.blocking().close().unwrap();
}

#[test]
fn a_start_beyond_the_share_is_refused_and_a_saga_that_began_goes_on_as_the_share_allows() {
    let clock = SimClock::new(1);
    let turns = Turns::lasting(&clock, |_| 0);
    let hall = Hall::with(clock, turns, wide());
    let ada = hall.manager("ada");
    let start = |name: &str, turns: u64| {
        let starting = ada
            .tenant()
            .start::<Series>(Key::named(name), (name.to_owned(), turns));
        hall.clock.run(starting.into_future()).unwrap()
    };
    wait(ada.set_quotas(share(1_000, 150))).unwrap();
    let ticket = start("one", 8).unwrap();
    let refused = start("two", 1).err();
    assert!(
        matches!(
            refused,
            Some(SubmitError::Refused(Refusal::RateLimited { .. }))
        ),
        "{refused:?}"
    );
    let before = hall.millis();
    hall.clock.run(ticket.into_future()).unwrap().unwrap();
    assert_eq!(hall.turns.numbers(), (0..8).collect::<Vec<_>>());
    let took = hall.millis() - before;
    // Eight intents of more than 100 bytes, at 1,000 a second, less what was left of the burst.
    assert!((800..2_000).contains(&took), "{took} ms");
    hall.engine.blocking().close().unwrap();
}

/// Puts something outside, and takes it back.
#[derive(Clone, Default)]
struct Outside(Arc<AtomicU64>);

#[derive(Clone, Copy)]
struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = u64;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for Outside {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(input)
    }
}

impl Reconcile<Put> for Outside {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _: Attempt, _: u64) -> Reconciled<u64> {
        Reconciled::NotDone
    }
}

#[derive(Clone, Copy)]
struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = u64;
    type Step = Put;
}

impl UndoFunction<Remove> for Outside {
    async fn undo(&self, _: Attempt, _: Undoing<Remove>) -> Result<(), Failure> {
        self.0.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Puts, and gives up after one turn.
struct GivesUp;

impl Saga for GivesUp {
    const NAME: &'static str = "gives up";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, _: u64) -> Result<(), SagaError> {
        saga.step("put", Put, 1_u64).undo(Remove, 1_u64).await?;
        saga.step("turn", Turn, ("ada".to_owned(), 0)).await?;
        Err(SagaError::failed("it gives up"))
    }
}

#[test]
fn an_undo_waits_for_no_share() {
    let (clock, folder) = (SimClock::new(1), tempfile::tempdir().unwrap());
    let (turns, outside) = (Turns::gated(&clock), Outside::default());
    let engine: Engine = builder(folder.path(), &clock, &turns, wide())
        .external(Put, outside.clone())
        .undo(Remove, outside.clone())
        .saga(GivesUp)
        .open_blocking()
        .unwrap();
    let ada = clock.run(engine.manage("ada")).unwrap().unwrap();
    let starting = ada.tenant().start::<GivesUp>(Key::named("s"), 1_u64);
    let ticket = clock.run(starting.into_future()).unwrap().unwrap();
    until(|| turns.began().len() == 1);
    assert_eq!(outside.0.load(Ordering::SeqCst), 1);
    // A byte a second, and what there is at once is taken.
    wait(ada.set_quotas(share(1, 500))).unwrap();
    let fills = ada.tenant().enqueue(Turn, ("x".repeat(300), 7));
    let filled = clock.run(fills.key(Key::named("fills")).into_future());
    drop(filled.unwrap().unwrap());
    let before = orlop::Clock::monotonic(&clock);
    turns.let_go(2);
    let ended = clock.run(ticket.into_future()).unwrap();
    assert!(matches!(ended, Err(SubmitError::Failed(_))), "{ended:?}");
    assert_eq!(outside.0.load(Ordering::SeqCst), 0);
    assert_eq!(orlop::Clock::monotonic(&clock), before, "it waited");
    engine.blocking().close().unwrap();
}

#[test]
fn outcomes_that_are_kept_count_against_the_quota_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut kept = 0;
    for again in [false, true] {
        let two = Two::open(folder.path());
        let tenant = two.mallory.tenant();
        if again {
            assert_eq!(two.mallory.retained_bytes(), kept);
        } else {
            assert_eq!(two.mallory.retained_bytes(), 0);
            for number in 0..10_u64 {
                wait(tenant.submit(Double, number)).unwrap();
            }
        }
        // A row has a key of 25 bytes, a fingerprint and a few numbers.
        until(|| two.mallory.retained_bytes() >= 10 * 60);
        wait(two.engine.checkpoint()).unwrap();
        kept = two.mallory.retained_bytes();
        assert!(kept < 10 * 300, "{kept}");
        assert_eq!(two.alice.retained_bytes(), 0);
        let quotas = |bytes: u64| Quotas {
            retained_bytes_max: ByteCount::new(bytes),
            ..Quotas::UNLIMITED
        };
        wait(two.mallory.set_quotas(quotas(kept))).unwrap();
        let refused = wait(tenant.submit(Double, 99_u64)).unwrap_err();
        let expected = Refusal::QuotaExceeded {
            dimension: Dimension::TenantRetainedBytes,
            asked: 1,
            used: kept,
            cap: kept,
        };
        assert_eq!(refused, SubmitError::Refused(expected));
        // What is kept is told all the same.
        wait(tenant.submit(Double, 1_u64)).unwrap();
        wait(two.mallory.set_quotas(quotas(kept + 1))).unwrap();
        if again {
            wait(tenant.submit(Double, 99_u64)).unwrap();
        }
        two.close();
    }
}
