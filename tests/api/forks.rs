//! Forks: what they inherit, what runs anew, who undoes what, and what a crash leaves of them.

use std::time::Duration;

use orlop::history::Outcome;
use orlop::{
    Engine, EngineBuilder, Failure, ForkError, Key, NoFork, Operator, Remains, Saga, SagaContext,
    SagaError, SagaId, SagaRecord, SagaStatus, SignalId, StatusKind, StepPath, SubmitError,
    TenantManager, wait,
};

use crate::operators::from_every_prefix_with;
use crate::support::{Outside, Put, Remove, World};

/// Puts two names, waits for a word, and puts that. With freight, what it begins with does not go
/// into one batch with anything else.
struct Walk;

impl Saga for Walk {
    const NAME: &'static str = "walk";
    type Input = bool;
    type Output = u64;

    async fn run(&self, saga: SagaContext, freight: bool) -> Result<u64, SagaError> {
        if freight {
            let argument = "x".repeat(250 << 10);
            for index in 0..5 {
                let scope = saga.scope("freight", index);
                let put = scope.step("put", Put, "freight");
                put.undo(Remove, argument.clone()).await?;
            }
        }
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.step("two", Put, "two").undo(Remove, "two").await?;
        let word: String = saga.signal("go").await?;
        Ok(saga.step("three", Put, word).await?)
    }
}

/// Puts three names, the last one after a pivot.
struct Climb;

impl Saga for Climb {
    const NAME: &'static str = "climb";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        let saga = saga.pivot().await?;
        saga.step("two", Put, "two").await?;
        Ok(saga.step("three", Put, "three").await?)
    }
}

/// Has a walk for a child.
struct Parent;

impl Saga for Parent {
    const NAME: &'static str = "parent";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        saga.child::<Walk>("walk", false).await?;
        Ok(saga.step("two", Put, "two").await?)
    }
}

fn bind(builder: EngineBuilder) -> EngineBuilder {
    builder.saga(Walk).saga(Climb).saga(Parent)
}

fn open(world: &World) -> Engine {
    bind(world.builder()).open_blocking().unwrap()
}

fn path(name: &str) -> StepPath {
    StepPath::root(name).unwrap()
}

fn manage(engine: &Engine, label: &str) -> TenantManager {
    wait(engine.manage(label)).unwrap()
}

fn original() -> Key {
    Key::named("original")
}

fn fork() -> Key {
    Key::named("fork")
}

fn shown(operator: &Operator, saga: SagaId) -> SagaRecord {
    wait(operator.show(saga)).unwrap()
}

/// Waits until a walk waits for its word.
fn until_waiting(operator: &Operator, saga: SagaId) {
    let waits = |record: &SagaRecord| record.calls.iter().any(|call| call.path == path("go"));
    while !waits(&shown(operator, saga)) {
        std::thread::yield_now();
    }
}

/// A walk that waits for its word.
fn walking(manager: &TenantManager, freight: bool) -> SagaId {
    let ticket = wait(manager.tenant().start::<Walk>(original(), freight)).unwrap();
    let saga = ticket.id().unwrap();
    until_waiting(&manager.operator(), saga);
    saga
}

/// Forks a walk; answers once the fork waits for its word.
fn forked(operator: &Operator, from: SagaId, at: &str, note: Option<&str>) -> SagaId {
    let mut forking = operator.fork::<Walk>(from, path(at), fork());
    if let Some(note) = note {
        forking = forking.abandoning(note);
    }
    let saga = wait(forking.into_future()).unwrap().id().unwrap();
    until_waiting(operator, saga);
    saga
}

/// Cancels what runs under a key, and waits until it is undone.
fn unwound(manager: &TenantManager, key: Key) {
    wait(manager.cancel_saga(key)).unwrap();
    let ticket = wait(manager.tenant().start::<Walk>(key, false)).unwrap();
    let told = wait(ticket).unwrap_err();
    assert_eq!(told, SubmitError::Failed(Failure::permanent("cancelled")));
}

#[test]
fn a_fork_does_not_run_what_it_inherits_and_runs_the_rest_under_other_remote_keys() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    world.outside.fail("three", [Failure::permanent("refused")]);
    let ticket = wait(manager.tenant().start::<Climb>(original(), ())).unwrap();
    let from = ticket.id().unwrap();
    let told = wait(ticket).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    let ticket = wait(
        operator
            .fork::<Climb>(from, path("two"), fork())
            .into_future(),
    )
    .unwrap();
    let saga = ticket.id().unwrap();
    assert_eq!(wait(ticket).unwrap().output, 5);
    let ledger = ["put one", "put two", "put two", "put three"];
    assert_eq!(world.outside.ledger(), ledger);
    let (was, is) = (shown(&operator, from), shown(&operator, saga));
    assert_eq!(is.forked_from, Some((from, path("two"))));
    assert!(
        is.pivoted,
        "its original had passed the pivot before the step"
    );
    assert_eq!(is.calls[0].remote_key, was.calls[0].remote_key);
    assert_ne!(is.calls[1].remote_key, was.calls[1].remote_key);
    assert!(
        matches!(was.summary.status, SagaStatus::Stuck(_)),
        "it is as it was"
    );
    // What ended can be forked as long as it is kept, also a fork and in another engine.
    engine.blocking().close().unwrap();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let again = manager
        .operator()
        .fork::<Climb>(saga, path("three"), Key::named("again"));
    let ticket = wait(again.into_future()).unwrap();
    let third = ticket.id().unwrap();
    assert_eq!(wait(ticket).unwrap().output, 5);
    assert_eq!(world.outside.ledger().len(), 5);
    let last = shown(&manager.operator(), third);
    let keys = |record: &SagaRecord, calls: usize| {
        let calls = record.calls.iter().take(calls);
        calls.map(|call| call.remote_key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&last, 2), keys(&is, 2));
    assert_ne!(last.calls[2].remote_key, is.calls[2].remote_key);
    engine.blocking().close().unwrap();
}

#[test]
fn a_fork_without_undos_that_unwinds_leaves_what_its_original_did() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let from = walking(&manager, false);
    forked(&operator, from, "two", None);
    unwound(&manager, fork());
    let mut ledger = vec!["put one", "put two", "put two", "remove two"];
    assert_eq!(world.outside.ledger(), ledger);
    assert_eq!(world.outside.present(), ["one", "two"]);
    let status = shown(&operator, from).summary.status;
    assert_eq!(status, SagaStatus::Running);
    unwound(&manager, original());
    ledger.extend(["remove two", "remove one"]);
    assert_eq!(world.outside.ledger(), ledger);
    engine.blocking().close().unwrap();
}

#[test]
fn a_fork_whose_original_is_abandoned_with_it_undoes_what_it_inherits_also_after_a_restart() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let from = walking(&manager, false);
    let saga = forked(&operator, from, "two", Some("gone wrong"));
    let was = shown(&operator, from);
    assert_eq!(was.summary.status, SagaStatus::Abandoned);
    assert_eq!(was.note.as_deref(), Some("gone wrong"));
    let failure = Failure::permanent("abandoned: gone wrong");
    assert_eq!(was.outcome.unwrap().0, Outcome::Failed(failure));
    let residue: Vec<_> = was
        .residue
        .iter()
        .map(|left| (left.path.as_str(), left.remains))
        .collect();
    assert_eq!(residue, [("two", Remains::Done)], "the first went over");
    engine.blocking().close().unwrap();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    until_waiting(&manager.operator(), saga);
    unwound(&manager, fork());
    let ledger = ["put one", "put two", "put two", "remove two", "remove one"];
    assert_eq!(world.outside.ledger(), ledger);
    assert_eq!(world.outside.present(), ["two"], "the residue");
    engine.blocking().close().unwrap();
}

#[test]
fn the_same_fork_under_a_key_is_joined_and_anything_else_conflicts() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let from = walking(&manager, false);
    let saga = forked(&operator, from, "two", Some("gone wrong"));
    let again = operator.fork::<Walk>(from, path("two"), fork());
    let again = wait(again.abandoning("in other words").into_future()).unwrap();
    assert_eq!(again.id(), Some(saga));
    let start = wait(manager.tenant().start::<Walk>(fork(), false)).unwrap();
    assert_eq!(start.id(), Some(saga), "its request is the original's");
    let conflict = ForkError::Submit(SubmitError::Conflict { key: fork() });
    let other = operator.fork::<Walk>(from, path("one"), fork());
    let other = wait(other.abandoning("x").into_future()).unwrap_err();
    assert_eq!(other, conflict, "another step");
    let other = operator.fork::<Walk>(from, path("two"), fork());
    let other = wait(other.into_future()).unwrap_err();
    assert_eq!(other, conflict, "the original is abandoned for it");
    let conflict = ForkError::Submit(SubmitError::Conflict { key: original() });
    let other = operator.fork::<Walk>(from, path("two"), original());
    let other = wait(other.into_future()).unwrap_err();
    assert_eq!(other, conflict, "the original's own key");
    let go = (SignalId::fresh(), "word".to_owned());
    wait(manager.tenant().signal(fork(), "go", go.0, &go.1)).unwrap();
    assert_eq!(wait(start).unwrap().output, 4);
    let replayed = operator.fork::<Walk>(from, path("two"), fork());
    let replayed = wait(replayed.abandoning("x").into_future()).unwrap();
    let reply = wait(replayed).unwrap();
    assert_eq!((reply.output, world.outside.ledger().len()), (4, 4));
    engine.blocking().close().unwrap();
}

#[test]
fn what_cannot_be_forked_is_refused_and_changes_nothing() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let from = walking(&manager, false);
    let refused = |from, at: &str, note: Option<&str>| {
        let forking = operator.fork::<Walk>(from, path(at), fork());
        let forking = match note {
            Some(note) => forking.abandoning(note),
            None => forking,
        };
        wait(forking.into_future()).unwrap_err()
    };
    let no_step = NoFork::NoSuchStep { path: path("x") };
    assert_eq!(refused(from, "x", Some("x")), no_step.into());
    let climb = operator.fork::<Climb>(from, path("two"), fork());
    let climb = wait(climb.into_future()).unwrap_err();
    let name = "walk".into();
    assert_eq!(climb, ForkError::OtherSaga { name });
    let name = "walk".into();
    wait(engine.operator().drain("walk", None, Duration::ZERO)).unwrap();
    let draining = ForkError::Submit(SubmitError::Draining { name });
    assert_eq!(refused(from, "two", Some("x")), draining);
    engine.operator().admit("walk", None);
    assert_eq!(wait(operator.find(fork())), None);
    assert_eq!(shown(&operator, from).summary.status, SagaStatus::Running);
    // The undo of its second step fails: it is stuck half way back.
    let undo = Failure::permanent("refused");
    world.outside.fail("undo two", [undo]);
    wait(manager.cancel_saga(original())).unwrap();
    let ticket = wait(manager.tenant().start::<Walk>(original(), false)).unwrap();
    let told = wait(ticket).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    assert_eq!(refused(from, "two", None), ForkError::Unwinding);
    wait(operator.skip_undo(from, path("two"), "by hand")).unwrap();
    let ticket = wait(manager.tenant().start::<Walk>(original(), false)).unwrap();
    let _ = wait(ticket);
    let ended = ForkError::Ended(StatusKind::Compensated);
    assert_eq!(refused(from, "two", Some("x")), ended);
    let undone = NoFork::Undone { path: path("one") };
    assert_eq!(refused(from, "two", None), undone.into());
    assert_eq!(world.outside.ledger(), ["put one", "put two", "remove one"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_fork_begins_before_the_first_child_and_its_original_is_not_abandoned_over_one() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let ticket = wait(manager.tenant().start::<Parent>(original(), ())).unwrap();
    let from = ticket.id().unwrap();
    let child = loop {
        let page = wait(operator.list(orlop::SagaQuery::default())).unwrap();
        let child = page.sagas.iter().find(|summary| &*summary.name == "walk");
        if let Some(child) = child {
            break child.saga;
        }
        std::thread::yield_now();
    };
    until_waiting(&operator, child);
    let fork = |at: &str| operator.fork::<Parent>(from, path(at), fork());
    let over = wait(fork("walk").abandoning("x").into_future()).unwrap_err();
    assert_eq!(over, ForkError::Children { running: 1 });
    assert_eq!(shown(&operator, from).summary.status, SagaStatus::Running);
    assert_eq!(
        wait(operator.find(self::fork())),
        None,
        "nothing was started"
    );
    let go = SignalId::fresh();
    wait(manager.tenant().signal(child, "go", go, &"word".to_owned())).unwrap();
    wait(ticket).unwrap();
    let after = wait(fork("two").into_future()).unwrap_err();
    let child = NoFork::Child { path: path("walk") };
    assert_eq!(after, child.into());
    engine.blocking().close().unwrap();
}

#[test]
fn a_tenant_forks_no_other_tenants_saga() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let from = walking(&manager, false);
    let other = manage(&engine, "b").operator();
    // The same answers as for a saga that never was, running or ended.
    let refused = || {
        for saga in [from, SagaId::new(77)] {
            let plain = wait(other.fork::<Walk>(saga, path("two"), fork()).into_future());
            assert_eq!(plain.unwrap_err(), ForkError::Unknown);
            let forking = other.fork::<Walk>(saga, path("two"), fork());
            let told = wait(forking.abandoning("x").into_future()).unwrap_err();
            assert_eq!(told, ForkError::Unknown);
        }
    };
    refused();
    let status = shown(&manager.operator(), from).summary.status;
    assert_eq!(status, SagaStatus::Running);
    wait(manager.operator().abandon(from, "over")).unwrap();
    refused();
    // The engine's own operator forks it for the tenant that it belongs to.
    let forking = engine.operator().fork::<Walk>(from, path("two"), fork());
    let saga = wait(forking.into_future()).unwrap().id().unwrap();
    assert_eq!(wait(manager.operator().find(fork())), Some(saga));
    assert_eq!(wait(other.find(fork())), None);
    engine.blocking().close().unwrap();
}

/// Brings a walk, from wherever it is, to where its fork has completed. What is found is all of a
/// fork or nothing.
fn live_on(engine: &Engine, outside: &Outside, note: Option<&str>) {
    let manager = manage(engine, "a");
    let operator = manager.operator();
    let found = wait(operator.find(original()));
    let heir = wait(operator.find(fork()));
    let abandoned = found.is_some_and(|saga| {
        let record = shown(&operator, saga);
        record.summary.status == SagaStatus::Abandoned
    });
    let expected = heir.is_some() && note.is_some();
    assert_eq!(abandoned, expected, "half of a fork and its original's end");
    if let Some(heir) = heir {
        let from = shown(&operator, heir).forked_from;
        assert_eq!(from, found.map(|from| (from, path("two"))), "half a fork");
    }
    let ticket = wait(manager.tenant().start::<Walk>(original(), true)).unwrap();
    let from = found.or(ticket.id()).unwrap();
    if !abandoned {
        until_waiting(&operator, from);
    }
    let forking = operator.fork::<Walk>(from, path("two"), fork());
    let forking = match note {
        Some(note) => forking.abandoning(note),
        None => forking,
    };
    let ticket = wait(forking.into_future()).unwrap();
    let sent = manager
        .tenant()
        .signal(fork(), "go", SignalId::named("go"), &"three".to_owned());
    // It may have it already, and have ended.
    let _ = wait(sent);
    assert_eq!(wait(ticket).unwrap().output, 5);
    let left = shown(&operator, from).residue;
    let left: Vec<&str> = left.iter().map(|left| left.path.as_str()).collect();
    if note.is_some() {
        assert_eq!(left, ["two"]);
    }
    let ledger = outside.ledger();
    let count = |what: &str| ledger.iter().filter(|entry| *entry == what).count();
    let counts = ["put freight", "put one", "put two", "put three"].map(count);
    assert_eq!((counts, ledger.len()), ([5, 1, 2, 1], 9));
}

#[test]
fn from_every_prefix_of_the_journal_all_of_a_fork_and_its_originals_end_is_there_or_nothing() {
    let prefixes = from_every_prefix_with(bind, |engine, outside| {
        live_on(engine, outside, Some("gone wrong"));
    });
    assert!(prefixes > 12, "{prefixes}");
}

#[test]
fn from_every_prefix_of_the_journal_a_fork_is_there_with_all_that_it_inherits_or_not_at_all() {
    let prefixes = from_every_prefix_with(bind, |engine, outside| {
        live_on(engine, outside, None);
    });
    assert!(prefixes > 12, "{prefixes}");
}
