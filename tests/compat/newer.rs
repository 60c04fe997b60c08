//! What format 2 added: written into the fixtures from it on, and gone on with.

use orlop::{Engine, Key, Saga, SagaContext, SagaError, SignalId, SubmitError, Tenant, wait};

use crate::world::{COMPLETES, HANGS, Plan, World};

/// Waits for a word, then has a child that can only go forward.
pub(crate) struct Heeds;

impl Saga for Heeds {
    const NAME: &'static str = "heeds";
    const RETENTION: std::time::Duration = crate::world::FOR_EVER;
    type Input = String;
    type Output = String;

    async fn run(&self, saga: SagaContext, name: String) -> Result<String, SagaError> {
        let word: String = saga.signal("word").await?;
        let mode = if word == "hang" { HANGS } else { COMPLETES };
        let saga = saga.pivot().await?;
        saga.child::<Plan>("child", (format!("{name} child"), mode))
            .await?;
        Ok(word)
    }
}

fn say(tenant: &Tenant, name: &str, word: &str) {
    let id = SignalId::named(name);
    wait(tenant.signal(Key::named(name), "word", id, &word.to_owned())).unwrap();
}

/// Sagas that are left unfinished: one waits for a signal, one for its child, one was never let go.
pub(crate) fn write(engine: &Engine, world: &World) {
    let tenant = engine.blocking().tenant("acme").unwrap();
    let hanging = world.hanging();
    for name in ["waits", "told"] {
        let far = std::time::Duration::from_hours(24 * 365 * 1_000);
        let starting = tenant
            .start::<Heeds>(Key::named(name), name)
            .finish_within(far);
        drop(wait(starting).unwrap());
    }
    say(&tenant, "told", "hang");
    let paused = tenant
        .start::<Plan>(Key::named("paused"), ("paused".to_owned(), COMPLETES))
        .paused();
    drop(wait(paused).unwrap());
    while world.hanging() == hanging {
        std::thread::yield_now();
    }
}

/// How many sagas that leaves unfinished.
pub(crate) const SAGAS: usize = 4;

/// They go on and end.
pub(crate) fn goes_on(engine: &Engine, world: &World) {
    let manager = wait(engine.manage("acme")).unwrap();
    let tenant = manager.tenant();
    say(tenant, "waits", "go");
    for (name, word) in [("waits", "go"), ("told", "hang")] {
        let ticket = wait(tenant.start::<Heeds>(Key::named(name), name)).unwrap();
        assert_eq!(wait(ticket).unwrap().output, word);
    }
    let paused = || {
        let input = ("paused".to_owned(), COMPLETES);
        wait(wait(tenant.start::<Plan>(Key::named("paused"), input)).unwrap())
    };
    assert!(matches!(paused(), Err(SubmitError::Stuck { .. })));
    assert!(manager.retry(Key::named("paused")));
    while let Err(error) = paused() {
        assert!(matches!(error, SubmitError::Stuck { .. }), "{error}");
        std::thread::yield_now();
    }
    let present = world.present();
    for name in ["waits child three", "told child three", "paused three"] {
        assert!(present.contains(&name.to_owned()), "{name} in {present:?}");
    }
}
