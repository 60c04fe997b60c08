//! Signals: recorded once, delivered in their order, and nobody else's.

use std::time::Duration;

use orlop::{
    Key, Options, Saga, SagaContext, SagaError, SagaId, SignalError, SignalId, Signalled,
    SubmitError, Tenant, wait,
};

use crate::support::{Put, World};

/// Writes down the words that it is told, as many as its input says.
struct Listener;

impl Saga for Listener {
    const NAME: &'static str = "listener";
    type Input = u64;
    type Output = Vec<String>;

    async fn run(&self, saga: SagaContext, words: u64) -> Result<Vec<String>, SagaError> {
        let mut told = Vec::new();
        for index in 0..words {
            let scope = saga.scope("word", index);
            let word: String = scope.signal("word").await?;
            scope.step("put", Put, word.as_str()).await?;
            told.push(word);
        }
        let saga = saga.pivot().await?;
        told.push(saga.signal("last").await?);
        Ok(told)
    }
}

const PATIENCE: Duration = Duration::from_mins(1);

fn say(tenant: &Tenant, name: &str, id: &str, word: &str) -> Result<Signalled, SignalError> {
    wait(tenant.signal(Key::named("s"), name, SignalId::named(id), &word.to_owned()))
}

#[test]
fn signals_are_delivered_in_their_order_whether_they_come_before_or_after_the_wait() {
    let world = World::new();
    let engine = world.builder().saga(Listener).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let key = Key::named("s");
    let paused = wait(tenant.start::<Listener>(key, 3_u64).paused()).unwrap();
    // Nothing waits for any of these yet, and the last comes first.
    for (name, id, word) in [("last", "4", "d"), ("word", "1", "a"), ("word", "2", "b")] {
        assert_eq!(say(tenant, name, id, word), Ok(Signalled::Recorded));
    }
    assert!(matches!(wait(paused), Err(SubmitError::Stuck { .. })));
    assert!(
        world.outside.ledger().is_empty(),
        "nothing ran while it was paused"
    );
    assert!(manager.retry(key));
    while world.outside.ledger().len() < 2 {
        std::thread::yield_now();
    }
    // The third wait may be there or not.
    assert_eq!(say(tenant, "word", "3", "c"), Ok(Signalled::Recorded));
    let mut ticket = wait(tenant.start::<Listener>(key, 3_u64)).unwrap();
    let reply = wait(ticket.wait_for(PATIENCE)).unwrap();
    assert_eq!(reply.output, ["a", "b", "c", "d"]);
    assert_eq!(world.outside.ledger(), ["put a", "put b", "put c"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_repeated_signal_is_none_also_after_it_was_taken_and_after_a_restart() {
    let world = World::new();
    let key = Key::named("s");
    {
        let engine = world.builder().saga(Listener).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let _ticket = wait(tenant.start::<Listener>(key, 2_u64)).unwrap();
        assert_eq!(say(&tenant, "word", "1", "a"), Ok(Signalled::Recorded));
        assert_eq!(say(&tenant, "word", "1", "a"), Ok(Signalled::Repeated));
        while world.outside.ledger().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(say(&tenant, "word", "1", "a"), Ok(Signalled::Repeated));
        engine.blocking().close().unwrap();
    }
    let engine = world.builder().saga(Listener).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(say(&tenant, "word", "1", "a"), Ok(Signalled::Repeated));
    let conflict = Err(SignalError::Conflict {
        id: SignalId::named("1"),
    });
    assert_eq!(say(&tenant, "word", "1", "another"), conflict);
    assert_eq!(say(&tenant, "last", "1", "a"), conflict);
    assert_eq!(say(&tenant, "word", "2", "b"), Ok(Signalled::Recorded));
    assert_eq!(say(&tenant, "last", "3", "c"), Ok(Signalled::Recorded));
    let mut ticket = wait(tenant.start::<Listener>(key, 2_u64)).unwrap();
    let reply = wait(ticket.wait_for(PATIENCE)).unwrap();
    assert_eq!(reply.output, ["a", "b", "c"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_signal_to_a_saga_of_another_tenant_is_refused_like_one_to_none() {
    let world = World::new();
    let engine = world.builder().saga(Listener).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let ticket = wait(tenant.start::<Listener>(Key::named("s"), 1_u64)).unwrap();
    let id = ticket.id().unwrap();
    assert_eq!(say(&other, "word", "1", "a"), Err(SignalError::NotRunning));
    for saga in [id, SagaId::new(id.get() + 1)] {
        let told = wait(other.signal(saga, "word", SignalId::fresh(), &"x"));
        assert_eq!(told, Err(SignalError::NotRunning));
    }
    let own = wait(tenant.signal(id, "word", SignalId::fresh(), &"x"));
    assert_eq!(own, Ok(Signalled::Recorded));
    assert_eq!(say(&tenant, "last", "2", "y"), Ok(Signalled::Recorded));
    assert_eq!(wait(ticket).unwrap().output, ["x", "y"]);
    assert_eq!(say(&tenant, "word", "3", "z"), Err(SignalError::NotRunning));
    engine.blocking().close().unwrap();
}

#[test]
fn signals_are_bounded_in_number_and_in_bytes() {
    let world = World::new();
    let mut options = Options::default();
    options.limits.saga_signals_max = 2;
    options.limits.saga_signal_bytes_max = 10;
    let builder = world.builder().options(options).saga(Listener);
    let engine = builder.open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let key = Key::named("s");
    drop(wait(tenant.start::<Listener>(key, 1_u64).paused()).unwrap());
    let long = "ten bytes!";
    assert_eq!(
        say(tenant, "word", "1", long),
        Err(SignalError::Full {
            what: "bytes of the signals of one saga",
            count: 11,
            count_max: 10
        })
    );
    assert_eq!(say(tenant, "word", "1", "a"), Ok(Signalled::Recorded));
    assert_eq!(say(tenant, "last", "2", "b"), Ok(Signalled::Recorded));
    assert_eq!(
        say(tenant, "last", "3", "c"),
        Err(SignalError::Full {
            what: "signals of one saga",
            count: 3,
            count_max: 2
        })
    );
    assert!(manager.retry(key));
    let output = loop {
        let ticket = wait(tenant.start::<Listener>(key, 1_u64)).unwrap();
        if let Ok(reply) = wait(ticket) {
            break reply.output;
        }
    };
    assert_eq!(output, ["a", "b"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_signal_of_another_type_is_an_error_of_the_wait() {
    let world = World::new();
    let engine = world.builder().saga(Listener).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Listener>(Key::named("s"), 1_u64)).unwrap();
    let told = wait(tenant.signal(Key::named("s"), "word", SignalId::fresh(), &u64::MAX));
    assert_eq!(told, Ok(Signalled::Recorded));
    let failed = wait(ticket).unwrap_err();
    assert!(
        matches!(&failed, SubmitError::Failed(failure) if failure.reason().starts_with("step word#0/word:")),
        "{failed:?}"
    );
    engine.blocking().close().unwrap();
}
