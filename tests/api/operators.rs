//! Operators: what they see, what they may do, and what a crash leaves of it.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orlop::history::{CallKind, History, Outcome, Step, StepOutcome};
use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{
    AbandonError, DrainError, Engine, EngineBuilder, Failure, Key, ListError, Notice, Operator,
    Parts, PauseError, PauseReason, Remains, ResumeError, RetryError, Saga, SagaContext, SagaError,
    SagaId, SagaQuery, SagaStatus, ShowError, SkipError, SkipUndoError, StatusKind, StepPath,
    StoreId, SubmitError, TenantManager, wait,
};

use crate::support::{Double, Outside, Put, Remove, World};

/// Puts three names, the last one after a pivot.
struct Three;

impl Saga for Three {
    const NAME: &'static str = "three";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.step("two", Put, "two").undo(Remove, "two").await?;
        let saga = saga.pivot().await?;
        Ok(saga.step("three", Put, "three").await?)
    }
}

/// Puts a name, sleeps, and puts another.
struct Napper;

impl Saga for Napper {
    const NAME: &'static str = "napper";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        saga.step("one", Put, "one").undo(Remove, "one").await?;
        saga.sleep("nap", Duration::from_hours(1)).await?;
        Ok(saga.step("two", Put, "two").await?)
    }
}

fn bind(builder: EngineBuilder) -> EngineBuilder {
    builder.saga(Three).saga(Napper)
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

const KEY: &str = "s";

fn key() -> Key {
    Key::named(KEY)
}

/// Starts [`Three`], whose last step fails, and waits until it is stuck.
fn stuck(manager: &TenantManager, outside: &Outside) -> SagaId {
    outside.fail("three", [Failure::permanent("refused")]);
    let ticket = wait(manager.tenant().start::<Three>(key(), ())).unwrap();
    let told = wait(ticket).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    wait(manager.operator().find(key())).unwrap()
}

fn outcome(manager: &TenantManager) -> Result<u64, SubmitError> {
    let ticket = wait(manager.tenant().start::<Three>(key(), ())).unwrap();
    wait(ticket).map(|reply| reply.output)
}

fn listed(operator: &Operator, query: SagaQuery) -> Vec<SagaId> {
    let page = wait(operator.list(query)).unwrap();
    page.sagas.iter().map(|summary| summary.saga).collect()
}

#[test]
fn what_is_unfinished_is_listed_in_pages_by_status_name_and_tenant() {
    let world = World::new();
    let engine = open(&world);
    let (one, two) = (manage(&engine, "a"), manage(&engine, "b"));
    let held = stuck(&one, &world.outside);
    let mut asleep = Vec::new();
    for (manager, name) in [(&one, "x"), (&two, "y"), (&two, "z")] {
        let started = manager.tenant().start::<Napper>(Key::named(name), ());
        asleep.push(wait(started).unwrap().id().unwrap());
    }
    let all = engine.operator();
    let everything = listed(&all, SagaQuery::default());
    assert_eq!(everything, [held, asleep[0], asleep[1], asleep[2]]);
    let by_status = |status| SagaQuery {
        status: Some(status),
        ..SagaQuery::default()
    };
    assert_eq!(listed(&all, by_status(StatusKind::Stuck)), [held]);
    assert_eq!(listed(&all, by_status(StatusKind::Running)), asleep);
    let by_name = SagaQuery {
        name: Some("three".into()),
        ..SagaQuery::default()
    };
    assert_eq!(listed(&all, by_name), [held]);
    let other_version = SagaQuery {
        name: Some("three".into()),
        version: Some(2),
        ..SagaQuery::default()
    };
    assert_eq!(listed(&all, other_version), []);
    let of_two = SagaQuery {
        tenant: Some(two.tenant().id()),
        ..SagaQuery::default()
    };
    assert_eq!(listed(&all, of_two.clone()), asleep[1..]);
    assert_eq!(listed(&two.operator(), SagaQuery::default()), asleep[1..]);
    assert_eq!(listed(&one.operator(), of_two), [], "another tenant's");
    let mut query = SagaQuery {
        limit: 3,
        ..SagaQuery::default()
    };
    let first = wait(all.list(query.clone())).unwrap();
    assert_eq!(first.sagas.len(), 3);
    query.after = first.next;
    let second = wait(all.list(query.clone())).unwrap();
    let last: Vec<SagaId> = second.sagas.iter().map(|summary| summary.saga).collect();
    assert_eq!((last, second.next), (vec![asleep[2]], None));
    query.limit = 0;
    let refused = wait(all.list(query)).unwrap_err();
    assert!(matches!(refused, ListError::Limit { .. }), "{refused:?}");
    engine.blocking().close().unwrap();
}

#[test]
fn a_saga_is_shown_with_every_call_and_kept_so_after_its_end() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let saga = stuck(&manager, &world.outside);
    let record = wait(operator.show(saga)).unwrap();
    assert!(record.pivoted);
    assert!(matches!(record.summary.status, SagaStatus::Stuck(_)));
    let calls: Vec<(&str, Option<usize>, u32)> = record
        .calls
        .iter()
        .map(|call| (call.path.as_str(), call.told, call.attempts))
        .collect();
    // The pivot is told between the second and the third.
    let expected = [
        ("one", Some(0), 1),
        ("two", Some(1), 1),
        ("three", Some(3), 1),
    ];
    assert_eq!(calls, expected);
    let put: Vec<[u8; 32]> = world
        .outside
        .state
        .lock()
        .unwrap()
        .present
        .keys()
        .copied()
        .collect();
    let keys = record.calls.iter().filter_map(|call| call.remote_key);
    let mut known: Vec<[u8; 32]> = keys.map(|key| *key.as_bytes()).take(2).collect();
    known.sort_unstable();
    assert_eq!(known, put, "the outside knows them by these keys");
    let CallKind::Step { step, .. } = &record.calls[2].kind else {
        panic!("{:?}", record.calls[2]);
    };
    let Step::Settled { outcome, .. } = step else {
        panic!("{step:?}");
    };
    let refused = StepOutcome::FailedNoEffect(Failure::permanent("refused"));
    assert_eq!(*outcome, refused);
    wait(operator.retry(saga, path("three"))).unwrap();
    assert_eq!(self::outcome(&manager), Ok(5));
    let ended = wait(operator.show(saga)).unwrap();
    assert_eq!(ended.summary.status, SagaStatus::Completed);
    engine.blocking().close().unwrap();
    let engine = open(&world);
    let operator = manage(&engine, "a").operator();
    assert_eq!(wait(operator.find(key())), Some(saga));
    assert_eq!(wait(operator.show(saga)).unwrap(), ended);
    let history = wait(operator.export(saga)).unwrap();
    let bytes = history.encode().unwrap();
    assert_eq!(History::decode(&bytes), Ok(history.clone()));
    assert_eq!(history.state.calls().len(), 3);
    engine.blocking().close().unwrap();
}

#[test]
fn a_tenant_neither_sees_nor_drives_another_tenants_saga() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let saga = stuck(&manager, &world.outside);
    let other = manage(&engine, "b").operator();
    // The same answers as for a saga that never was.
    for saga in [saga, SagaId::new(77)] {
        assert_eq!(wait(other.find(key())), None);
        assert_eq!(wait(other.show(saga)), Err(ShowError::Unknown));
        assert_eq!(wait(other.export(saga)), Err(ShowError::Unknown));
        assert_eq!(wait(other.pause(saga, "x")), Err(PauseError::Unknown));
        assert_eq!(wait(other.resume(saga)), Err(ResumeError::Unknown));
        let retried = wait(other.retry(saga, path("three")));
        assert_eq!(retried, Err(RetryError::Unknown));
        let skipped = wait(other.skip(saga, path("three"), Put, 5, "x"));
        assert_eq!(skipped, Err(SkipError::Unknown));
        let skipped = wait(other.skip_undo(saga, path("one"), "x"));
        assert_eq!(skipped, Err(SkipUndoError::Unknown));
        assert_eq!(wait(other.abandon(saga, "x")), Err(AbandonError::Unknown));
    }
    let record = wait(manager.operator().show(saga)).unwrap();
    assert!(matches!(record.summary.status, SagaStatus::Stuck(_)));
    // Ended, it is no more visible.
    wait(manager.operator().abandon(saga, "over")).unwrap();
    assert_eq!(wait(other.show(saga)), Err(ShowError::Unknown));
    assert_eq!(wait(other.abandon(saga, "x")), Err(AbandonError::Unknown));
    assert_eq!(wait(other.show(saga)), Err(ShowError::Unknown));
    engine.blocking().close().unwrap();
}

#[test]
fn a_skipped_step_has_the_operators_output_and_is_not_run_again() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let saga = stuck(&manager, &world.outside);
    let skip = |at: &str| wait(operator.skip(saga, path(at), Put, 77, "put by hand"));
    let typed = wait(operator.skip(saga, path("three"), Double, 77, "x"));
    let name = "put".to_owned();
    assert_eq!(typed, Err(SkipError::OtherComputation { name }));
    assert_eq!(skip("one"), Err(SkipError::NotOpen));
    assert_eq!(skip("four"), Err(SkipError::NoSuchStep));
    skip("three").unwrap();
    assert_eq!(outcome(&manager), Ok(77));
    assert_eq!(world.outside.ledger(), ["put one", "put two"]);
    let record = wait(operator.show(saga)).unwrap();
    let CallKind::Step { trail, .. } = &record.calls[2].kind else {
        panic!("{:?}", record.calls[2]);
    };
    assert_eq!(trail.note.as_deref(), Some("put by hand"));
    assert_eq!(skip("three"), Err(SkipError::Ended(StatusKind::Completed)));
    engine.blocking().close().unwrap();
}

#[test]
fn an_abandoned_saga_names_its_residue_and_its_key_says_so() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let saga = stuck(&manager, &world.outside);
    let abandoned = wait(operator.abandon(saga, "no use")).unwrap();
    let residue: Vec<(&str, Remains)> = abandoned
        .residue
        .iter()
        .map(|residue| (residue.path.as_str(), residue.remains))
        .collect();
    assert_eq!(residue, [("one", Remains::Done), ("two", Remains::Done)]);
    let present = world.outside.state.lock().unwrap().present.clone();
    for left in &abandoned.residue {
        assert_eq!(present[left.remote_key.as_bytes()], left.path.as_str());
    }
    let failure = Failure::permanent("abandoned: no use");
    assert_eq!(outcome(&manager), Err(SubmitError::Failed(failure.clone())));
    assert_eq!(world.outside.present(), ["one", "two"], "nothing is undone");
    engine.blocking().close().unwrap();
    let engine = open(&world);
    let operator = manage(&engine, "a").operator();
    let again = wait(operator.abandon(saga, "again")).unwrap();
    assert_eq!(again, abandoned);
    let record = wait(operator.show(saga)).unwrap();
    assert_eq!(record.note.as_deref(), Some("no use"));
    let (outcome, _) = record.outcome.unwrap();
    assert_eq!(outcome, Outcome::Failed(failure));
    engine.blocking().close().unwrap();
}

#[test]
fn a_paused_saga_stays_paused_across_a_restart_until_it_is_resumed() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let ticket = wait(manager.tenant().start::<Napper>(key(), ())).unwrap();
    let saga = ticket.id().unwrap();
    wait(operator.pause(saga, "an upgrade")).unwrap();
    wait(operator.pause(saga, "once more")).unwrap();
    let why = SagaStatus::Paused(PauseReason::Operator("an upgrade".to_owned()));
    assert_eq!(wait(operator.show(saga)).unwrap().summary.status, why);
    drop(ticket);
    engine.blocking().close().unwrap();
    let engine = open(&world);
    let operator = manage(&engine, "a").operator();
    assert_eq!(wait(operator.show(saga)).unwrap().summary.status, why);
    wait(operator.resume(saga)).unwrap();
    wait(operator.resume(saga)).unwrap();
    let status = wait(operator.show(saga)).unwrap().summary.status;
    assert_eq!(status, SagaStatus::Running);
    let moving = wait(operator.retry(saga, path("one")));
    assert!(
        matches!(moving, Err(RetryError::Moving | RetryError::NoSuchStep)),
        "{moving:?}"
    );
    engine.blocking().close().unwrap();
}

#[test]
fn an_undo_done_by_hand_is_skipped_and_the_rest_is_undone() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let operator = manager.operator();
    let ticket = wait(manager.tenant().start::<Napper>(key(), ())).unwrap();
    let saga = ticket.id().unwrap();
    while world.outside.ledger().is_empty() {
        std::thread::yield_now();
    }
    world
        .outside
        .fail("undo one", [Failure::permanent("refused")]);
    wait(ticket.cancel()).unwrap();
    let told = wait(ticket).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    let skipped = wait(operator.skip(saga, path("one"), Put, 1, "x"));
    assert_eq!(skipped, Err(SkipError::NotOpen));
    wait(operator.skip_undo(saga, path("one"), "removed by hand")).unwrap();
    let ticket = wait(manager.tenant().start::<Napper>(key(), ())).unwrap();
    let failed = wait(ticket).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert_eq!(world.outside.ledger(), ["put one"]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_subscriber_is_told_every_status_in_order_and_when_retries_are_exhausted() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let mut feed = manager.operator().subscribe(64).unwrap();
    let mut others = manage(&engine, "b").operator().subscribe(64).unwrap();
    let busy = std::iter::repeat_n(Failure::retryable("busy"), 5);
    world.outside.fail("three", busy);
    let ticket = wait(manager.tenant().start::<Three>(key(), ())).unwrap();
    let saga = ticket.id().unwrap();
    let told = wait(ticket).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    wait(manager.operator().resume(saga)).unwrap();
    assert_eq!(outcome(&manager), Ok(5));
    engine.blocking().close().unwrap();
    let mut notices = Vec::new();
    while let Some(notice) = wait(feed.next()) {
        notices.push(match notice {
            Notice::Changed { status, .. } => format!("{:?}", status.kind()),
            Notice::Exhausted { path, reason, .. } => format!("{path}: {reason}"),
            notice => panic!("{notice:?}"),
        });
    }
    let expected = ["Running", "Stuck", "three: busy", "Running", "Completed"];
    assert_eq!(notices, expected);
    assert_eq!(wait(others.next()), None, "nothing of another tenant");
}

#[test]
fn a_drained_definition_takes_no_new_runs_and_what_moves_is_waited_for_in_bounded_time() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let held = stuck(&manager, &world.outside);
    let all = engine.operator();
    let long = Duration::from_mins(1);
    let one = wait(manager.operator().drain("three", None, long));
    assert_eq!(one, Err(DrainError::OneTenant));
    // Nothing of it moves.
    let drained = wait(all.drain("three", None, long)).unwrap();
    let left: Vec<SagaId> = drained.left.iter().map(|left| left.saga).collect();
    assert_eq!((left, drained.moving), (vec![held], 0));
    let name = "three".into();
    let fresh = wait(manager.tenant().start::<Three>(Key::named("new"), ()));
    assert_eq!(fresh.unwrap_err(), SubmitError::Draining { name });
    let known = wait(manager.tenant().start::<Three>(key(), ())).unwrap();
    wait(all.abandon(held, "over")).unwrap();
    let _ = wait(known);
    // Another definition is none of its business, and another version neither.
    let napper = wait(manager.tenant().start::<Napper>(Key::named("n"), ())).unwrap();
    let napping = wait(all.drain("napper", Some(1), Duration::from_millis(50))).unwrap();
    assert_eq!((napping.left_count, napping.moving), (1, 1), "it sleeps");
    all.admit("napper", Some(1));
    wait(all.drain("napper", Some(2), long)).unwrap();
    let other = wait(manager.tenant().start::<Napper>(Key::named("m"), ())).unwrap();
    // What ends meanwhile is not waited for any longer.
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| wait(all.drain("napper", Some(1), long)).unwrap());
        for key in ["n", "m"] {
            wait(manager.cancel_saga(Key::named(key))).unwrap();
        }
        assert_eq!(drain.join().unwrap().moving, 0);
    });
    drop((napper, other));
    engine.blocking().close().unwrap();
}

#[test]
fn a_saga_that_is_about_to_be_started_is_waited_for_by_a_drain_or_refused() {
    let world = World::new();
    let engine = open(&world);
    let manager = manage(&engine, "a");
    let (all, tenant) = (engine.operator(), manager.tenant());
    wait(async {
        let mut start = tenant.start::<Napper>(Key::named("n"), ()).into_future();
        // It is on its way to the disk.
        assert!(futures_util::poll!(&mut start).is_pending());
        let drained = all.drain("napper", None, Duration::ZERO).await.unwrap();
        match start.await {
            Ok(ticket) => {
                assert_eq!((drained.left_count, drained.moving), (1, 1));
                ticket.cancel().await.unwrap();
                ticket.await.unwrap_err();
            }
            Err(error) => {
                let name = "napper".into();
                assert_eq!(error, SubmitError::Draining { name });
                assert_eq!((drained.left_count, drained.moving), (0, 0));
            }
        }
    });
    engine.blocking().close().unwrap();
}

/// Everything of a simulated machine: the journal alone, so that any prefix of it can be opened.
struct Machine {
    log: SimLogDisk,
    outside: Outside,
}

impl Machine {
    fn open(&self, bind: impl Fn(EngineBuilder) -> EngineBuilder) -> Engine {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let builder = EngineBuilder::on_parts(Parts {
            store: StoreId::new([7; 16]),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(SimShelf::new())),
            disk,
            folder: PathBuf::from("/"),
        });
        bind(builder)
            .external(Put, self.outside.clone())
            .undo(Remove, self.outside.clone())
            .open_blocking()
            .unwrap()
    }
}

/// Lives `life` once, and again from every prefix of the journal that it left: each time it has to
/// end as it did. Answers how many prefixes there were.
fn from_every_prefix(life: impl Fn(&Engine, &Outside)) -> u64 {
    from_every_prefix_with(bind, life)
}

/// The same with other sagas.
pub(crate) fn from_every_prefix_with(
    bind: impl Fn(EngineBuilder) -> EngineBuilder,
    life: impl Fn(&Engine, &Outside),
) -> u64 {
    let first = Machine {
        log: SimLogDisk::new(),
        outside: Outside::default(),
    };
    let engine = first.open(&bind);
    life(&engine, &first.outside);
    let batches = first.log.batches();
    for batch in 0..=batches {
        let machine = Machine {
            log: first.log.crash_at(batch),
            outside: first.outside.clone(),
        };
        let engine = machine.open(&bind);
        life(&engine, &machine.outside);
    }
    batches
}

/// Brings [`Three`] to where its last step has failed, from wherever it is.
fn until_held(engine: &Engine, outside: &Outside) -> (TenantManager, SagaId, StatusKind) {
    let manager = manage(engine, "a");
    outside.state.lock().unwrap().failing.clear();
    outside.fail("three", [Failure::permanent("refused")]);
    let mut ticket = wait(manager.tenant().start::<Three>(key(), ())).unwrap();
    let _ = wait(ticket.wait_for(Duration::from_mins(1)));
    let saga = wait(manager.operator().find(key())).unwrap();
    let status = wait(manager.operator().show(saga)).unwrap().summary.status;
    (manager, saga, status.kind())
}

#[test]
fn a_saga_is_abandoned_from_every_prefix_of_the_journal_with_the_same_residue() {
    let prefixes = from_every_prefix(|engine, outside| {
        let (manager, saga, _) = until_held(engine, outside);
        let abandoned = wait(manager.operator().abandon(saga, "no use")).unwrap();
        let left: Vec<&str> = abandoned
            .residue
            .iter()
            .map(|left| left.path.as_str())
            .collect();
        assert_eq!(left, ["one", "two"]);
        let failure = Failure::permanent("abandoned: no use");
        assert_eq!(outcome(&manager), Err(SubmitError::Failed(failure)));
        assert_eq!(outside.ledger(), ["put one", "put two"]);
    });
    assert!(prefixes > 6, "{prefixes}");
}

#[test]
fn a_step_is_skipped_from_every_prefix_of_the_journal_and_never_run() {
    let prefixes = from_every_prefix(|engine, outside| {
        let (manager, saga, status) = until_held(engine, outside);
        if status != StatusKind::Completed {
            let skipped = manager.operator();
            wait(skipped.skip(saga, path("three"), Put, 77, "by hand")).unwrap();
        }
        assert_eq!(outcome(&manager), Ok(77));
        assert_eq!(outside.ledger(), ["put one", "put two"]);
    });
    assert!(prefixes > 6, "{prefixes}");
}

#[test]
fn a_failed_step_is_tried_again_from_every_prefix_of_the_journal_and_done_once() {
    let prefixes = from_every_prefix(|engine, outside| {
        let (manager, saga, status) = until_held(engine, outside);
        outside.state.lock().unwrap().failing.clear();
        if status != StatusKind::Completed {
            wait(manager.operator().retry(saga, path("three"))).unwrap();
        }
        assert_eq!(outcome(&manager), Ok(5));
        assert_eq!(outside.ledger(), ["put one", "put two", "put three"]);
    });
    assert!(prefixes > 6, "{prefixes}");
}
