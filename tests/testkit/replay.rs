//! Histories of one engine against other code.

use std::sync::Arc;

use orlop::testkit::{Outside, Replayed, SimClock, replay};
use orlop::{
    Engine, EngineBuilder, History, Key, Saga, SagaContext, SagaError, Tenant, TenantManager,
};

use crate::pair::{Pair, Put, Remove, bind, code};

/// What an engine by a simulated clock exports of a pair.
fn exported(until: impl FnOnce(&SimClock, &Tenant, &TenantManager)) -> History {
    let clock = SimClock::new(1);
    let outside = Outside::new(&clock);
    let folder = tempfile::tempdir().unwrap();
    let builder = Engine::builder(folder.path().join("store")).clock(Arc::new(clock.clone()));
    let engine = bind(&code(&outside), builder).open_blocking().unwrap();
    let manager = clock.run(engine.manage("a")).unwrap().unwrap();
    let tenant = manager.tenant();
    until(&clock, tenant, &manager);
    let operator = manager.operator();
    let saga = clock.run(operator.find(Key::named("p"))).unwrap().unwrap();
    let history = clock.run(operator.export(saga)).unwrap().unwrap();
    engine.blocking().close().unwrap();
    // As a file of it would have it.
    History::decode(&history.encode().unwrap()).unwrap()
}

fn completed() -> History {
    exported(|clock, tenant, _| {
        let start = tenant.start::<Pair>(Key::named("p"), "p".to_owned());
        let ticket = clock.run(start.into_future()).unwrap().unwrap();
        clock.run(ticket.into_future()).unwrap().unwrap();
    })
}

/// Nothing is opened in this folder.
fn builder() -> EngineBuilder {
    Engine::builder("no/such/folder")
}

/// Today's code, with an outside that nobody may reach.
fn today(change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> EngineBuilder {
    let outside = Outside::new(&SimClock::new(2));
    let code = code(&outside);
    let builder = builder().external(Put, code.clone()).undo(Remove, code);
    change(builder)
}

fn divergence(history: &History, builder: EngineBuilder) -> (Option<String>, String) {
    match replay(history, builder).unwrap() {
        Replayed::Diverged { path, reason } => (path.map(|path| path.to_string()), reason),
        same @ Replayed::Same { .. } => panic!("{same:?}"),
    }
}

/// The saga, changed.
#[derive(Debug)]
struct Changed<const VERSION: u32>;

impl<const VERSION: u32> Saga for Changed<VERSION> {
    const NAME: &'static str = Pair::NAME;
    const VERSION: u32 = VERSION;
    type Input = String;
    type Output = Vec<String>;

    async fn run(&self, saga: SagaContext, name: String) -> Result<Vec<String>, SagaError> {
        let other = format!("{name} other");
        let left = saga.step("left", Put, other.clone()).undo(Remove, other);
        Ok(vec![left.await?])
    }
}

#[test]
fn the_code_that_made_a_history_does_the_same_again() {
    let history = completed();
    let replayed = replay(
        &history,
        today(|builder| builder.saga(Pair { strays: false })),
    );
    let Ok(Replayed::Same {
        told,
        recorded,
        further,
    }) = replayed
    else {
        panic!("{replayed:?}");
    };
    // Two steps, the rest, the pivot, the last step.
    assert_eq!((told, recorded), (5, 5));
    assert!(further.is_empty());
}

#[test]
fn a_history_that_is_not_over_is_replayed_as_far_as_it_goes() {
    let history = exported(|clock, tenant, manager| {
        let start = tenant.start::<Pair>(Key::named("p"), "p".to_owned());
        let _ticket = clock.run(start.into_future()).unwrap().unwrap();
        while clock.next_timer().is_none() {
            std::thread::yield_now();
        }
        let cancel = manager.cancel_saga(Key::named("p"));
        clock.run(cancel).unwrap().unwrap();
    });
    let replayed = replay(
        &history,
        today(|builder| builder.saga(Pair { strays: false })),
    );
    assert!(
        matches!(replayed, Ok(Replayed::Same { .. })),
        "{replayed:?}"
    );
}

#[test]
fn code_that_does_something_else_is_found_with_the_path_and_the_reason() {
    let history = completed();
    let (path, reason) = divergence(
        &history,
        today(|builder| builder.saga(Pair { strays: true })),
    );
    assert_eq!(path, None);
    assert!(reason.contains("passed its pivot"), "{reason}");
    let (path, reason) = divergence(&history, today(|builder| builder.saga(Changed::<1>)));
    assert_eq!(path.as_deref(), Some("left"));
    assert!(reason.contains("another input"), "{reason}");
}

#[test]
fn another_version_and_a_missing_definition_are_found_before_anything_is_run() {
    let history = completed();
    let (path, reason) = divergence(&history, today(|builder| builder.saga(Changed::<2>)));
    assert_eq!(path, None);
    assert!(reason.contains("registered is"), "{reason}");
    let (_, reason) = divergence(&history, builder());
    assert!(reason.contains("is not registered"), "{reason}");
    let (path, reason) = divergence(&history, builder().saga(Pair { strays: false }));
    assert!(reason.contains("not registered"), "{path:?} {reason}");
}
