//! The key table: run, join, replay, conflict, leave.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::poll;
use orlop::{
    Attempt, Cancelled, Failure, Fence, HostFunction, Key, Late, Origin, Reconcile, Reconciled,
    SubmitError, wait,
};

use crate::gate::{Gate, Pass, builder, open_after_drop, queued};
use crate::support::{Put, World};

/// Polls once, so that the submission has entered, and gives back what waits for its outcome.
macro_rules! entered {
    ($awaitable:expr) => {{
        let mut future = $awaitable.into_future();
        assert!(wait(async { poll!(&mut future) }).is_pending());
        future
    }};
}

#[test]
fn sixty_four_threads_with_one_key_run_it_once_and_all_get_the_one_result() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let all_in = std::sync::Barrier::new(64);
    let origins: Mutex<Vec<Origin>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let (tenant, all_in, origins, gate) = (&tenant, &all_in, &origins, &gate);
            scope.spawn(move || {
                let submission = entered!(tenant.submit(Pass, 5_u64));
                all_in.wait();
                if thread == 0 {
                    gate.let_go(1);
                }
                let reply = wait(submission).unwrap();
                assert_eq!(reply.output, 5);
                origins.lock().unwrap().push(reply.origin);
            });
        }
    });
    let origins = origins.into_inner().unwrap();
    let count = |origin: Origin| origins.iter().filter(|other| **other == origin).count();
    assert_eq!((count(Origin::Ran), count(Origin::Joined)), (1, 63));
    assert_eq!(gate.runs(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn threads_that_disagree_on_a_key_run_one_of_two_and_the_others_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("k");
    gate.let_go(1);
    let results: Mutex<Vec<(u64, Result<u64, SubmitError>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..64_u64 {
            let (tenant, results) = (&tenant, &results);
            scope.spawn(move || {
                let reply = wait(tenant.submit(Pass, thread % 2).key(key));
                let result = reply.map(|reply| reply.output);
                results.lock().unwrap().push((thread % 2, result));
            });
        }
    });
    let results = results.into_inner().unwrap();
    let winner = results.iter().find_map(|(_, result)| result.as_ref().ok());
    let winner = *winner.unwrap();
    for (input, result) in results {
        let expected = if input == winner {
            Ok(winner)
        } else {
            Err(SubmitError::Conflict { key })
        };
        assert_eq!(result, expected);
    }
    assert_eq!(gate.runs(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn queued_work_is_withdrawn_when_the_last_of_its_callers_leaves_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = entered!(tenant.submit(Pass, 1_u64));
    gate.wait_started();
    let one = entered!(tenant.submit(Pass, 2_u64));
    let other = entered!(tenant.submit(Pass, 2_u64));
    assert_eq!(queued(&engine), 1);
    drop(one);
    assert_eq!(queued(&engine), 1);
    drop(other);
    assert_eq!(queued(&engine), 0);
    gate.let_go(2);
    assert_eq!(wait(first).unwrap().output, 1);
    assert_eq!(gate.runs(), 1);
    let again = wait(tenant.submit(Pass, 2_u64)).unwrap();
    assert_eq!(again.origin, Origin::Ran);
    engine.blocking().close().unwrap();
}

#[test]
fn accepted_work_stays_when_all_of_its_callers_leave() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = entered!(tenant.submit(Pass, 1_u64));
    gate.wait_started();
    let joined = entered!(tenant.submit(Pass, 2_u64));
    let ticket = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    drop((joined, ticket));
    assert_eq!(queued(&engine), 1);
    gate.let_go(2);
    wait(first).unwrap();
    let reply = wait(tenant.submit(Pass, 2_u64)).unwrap();
    assert_ne!(reply.origin, Origin::Ran);
    assert_eq!(gate.runs(), 2);
    engine.blocking().close().unwrap();
}

#[test]
fn a_deadline_binds_the_caller_who_set_it_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let patient = entered!(tenant.submit(Pass, 1_u64));
    let hasty = tenant
        .submit(Pass, 1_u64)
        .deadline(Duration::from_millis(1));
    assert_eq!(wait(hasty).unwrap_err(), SubmitError::Expired);
    gate.let_go(1);
    assert_eq!(wait(patient).unwrap().origin, Origin::Ran);
    engine.blocking().close().unwrap();
}

#[test]
fn an_accepted_caller_brings_its_patience_to_work_that_would_be_tried_once() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let hasty = entered!(tenant.submit(Pass, 1_u64));
    gate.wait_started();
    let ticket = wait(tenant.enqueue(Pass, 1_u64)).unwrap();
    gate.fail(1);
    gate.let_go(2);
    assert_eq!(wait(ticket).unwrap().output, 1);
    assert_eq!(wait(hasty).unwrap().output, 1);
    assert_eq!(gate.runs(), 2);
    engine.blocking().close().unwrap();
}

#[test]
fn work_whose_cancel_was_acknowledged_never_runs_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = entered!(tenant.submit(Pass, 1_u64));
    gate.wait_started();
    let ticket = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    assert_eq!(ticket.cancel(), Cancelled::Withdrawn);
    let withdrawn = wait(ticket).unwrap_err();
    assert!(
        matches!(withdrawn, SubmitError::Withdrawn(_)),
        "{withdrawn:?}"
    );
    drop((first, tenant, engine));
    let engine = open_after_drop(|| builder(folder.path(), &gate));
    assert_eq!(engine.recovery().effects, 0);
    assert_eq!(gate.runs(), 1);
    engine.blocking().close().unwrap();
}

/// Fails without effect, and remembers the fences that it saw.
#[derive(Clone, Default)]
struct Fences(Arc<Mutex<Vec<Fence>>>);

impl HostFunction<Put> for Fences {
    async fn run(&self, attempt: Attempt, _input: String) -> Result<u64, Failure> {
        self.0.lock().unwrap().push(attempt.fence);
        Err(Failure::retryable("busy"))
    }
}

impl Reconcile<Put> for Fences {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, _input: String) -> Reconciled<u64> {
        self.0.lock().unwrap().push(attempt.fence);
        Reconciled::NotDone
    }
}

#[test]
fn a_key_that_is_submitted_again_has_a_newer_fence_than_every_attempt_before() {
    let world = World::new();
    let fences = Fences::default();
    let engine = orlop::Engine::builder(world.folder.path().join("store"))
        .external(Put, fences.clone())
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    for _ in 0..3 {
        let failed = wait(tenant.submit(Put, "x").key(Key::named("x"))).unwrap_err();
        assert!(matches!(failed, SubmitError::Exhausted(_)), "{failed:?}");
    }
    let fences = fences.0.lock().unwrap().clone();
    assert_eq!(fences.len(), 3);
    assert!(
        fences.windows(2).all(|pair| pair[0] < pair[1]),
        "{fences:?}"
    );
    engine.blocking().close().unwrap();
}

#[test]
fn an_ephemeral_outcome_is_kept_nowhere_and_meets_no_durable_one() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    gate.let_go(10);
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    for _ in 0..2 {
        let reply = wait(tenant.submit(Pass, 1_u64).ephemeral()).unwrap();
        assert_eq!(reply.origin, Origin::Ran);
    }
    let durable = wait(tenant.submit(Pass, 1_u64)).unwrap();
    assert_eq!(durable.origin, Origin::Ran);
    let ephemeral = wait(tenant.submit(Pass, 1_u64).ephemeral()).unwrap();
    assert_eq!(ephemeral.origin, Origin::Ran);
    // Dropped before its first poll, a submission never was one.
    drop(tenant.submit(Pass, 9_u64).into_future());
    assert!(
        tenant
            .submit(Pass, 1_u64)
            .into_future()
            .now_or_never()
            .is_none_or(|r| r.is_ok())
    );
    assert_eq!(gate.runs(), 4);
    engine.blocking().close().unwrap();
}
