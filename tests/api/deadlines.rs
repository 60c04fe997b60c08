//! Deadlines and exclusion as a caller sees them: refused early, dropped when the last has left.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::poll;
use orlop::{
    BulkheadOptions, Clock, ConflictMatrix, Engine, Noop, OpenError, Options, Refusal,
    RegisterError, SubmitError, wait,
};

use crate::gate::{Gate, Pass, builder, queued};
use crate::table::Ahead;

const LONG: Duration = Duration::from_hours(1);

/// An engine that has learnt that passing the gate takes an hour.
fn taught(folder: &tempfile::TempDir, gate: &Gate) -> Engine {
    let clock = Arc::<Ahead>::default();
    let ticking: Arc<dyn Clock> = Arc::<Ahead>::clone(&clock);
    let engine = builder(folder.path(), gate).clock(ticking).open_blocking();
    let engine = engine.unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut first = tenant.submit(Pass, 0_u64).into_future();
    assert!(wait(async { poll!(&mut first) }).is_pending());
    gate.wait_started();
    clock.jump(LONG);
    gate.let_go(1);
    wait(first).unwrap();
    engine
}

#[test]
fn what_cannot_be_done_by_the_caller_s_deadline_is_refused_and_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = taught(&folder, &gate);
    let tenant = engine.blocking().tenant("a").unwrap();
    let refused = wait(tenant.submit(Pass, 1_u64).deadline(LONG / 2)).unwrap_err();
    let SubmitError::Refused(Refusal::PredictedLate { retry_after }) = refused else {
        panic!("{refused}");
    };
    assert!(retry_after > LONG / 4, "{retry_after:?}");
    assert_eq!((gate.runs(), queued(&engine)), (1, 0));
    // The key is unknown: it runs for whoever has the time.
    gate.let_go(1);
    assert_eq!(
        wait(tenant.submit(Pass, 1_u64).deadline(LONG * 2))
            .unwrap()
            .output,
        1
    );
    engine.blocking().close().unwrap();
}

#[test]
fn accepted_work_has_no_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = taught(&folder, &gate);
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.enqueue(Pass, 1_u64).deadline(LONG / 2)).unwrap();
    gate.let_go(1);
    assert_eq!(wait(ticket).unwrap().output, 1);
    engine.blocking().close().unwrap();
}

#[test]
fn a_joiner_without_a_deadline_keeps_queued_work_alive_and_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let enter = |input: u64, deadline: Option<Duration>| {
        let submission = tenant.submit(Pass, input);
        let mut future = match deadline {
            Some(deadline) => submission.deadline(deadline).into_future(),
            None => submission.into_future(),
        };
        assert!(wait(async { poll!(&mut future) }).is_pending());
        future
    };
    let running = enter(1, None);
    gate.wait_started();
    let hasty = enter(2, Some(Duration::from_millis(50)));
    let patient = enter(2, None);
    let third = enter(3, None);
    assert_eq!(wait(hasty).unwrap_err(), SubmitError::Expired);
    // A later deadline in the queue ends, so whatever ended before it was dropped by now.
    let later = tenant
        .submit(Pass, 4_u64)
        .deadline(Duration::from_millis(50));
    assert_eq!(wait(later).unwrap_err(), SubmitError::Expired);
    assert_eq!(queued(&engine), 2);
    gate.let_go(2);
    wait(running).unwrap();
    let Either::Left((reply, third)) = wait(select(patient, third)) else {
        panic!("it lost its place in the queue");
    };
    assert_eq!(reply.unwrap().output, 2);
    gate.let_go(1);
    assert_eq!(wait(third).unwrap().output, 3);
    engine.blocking().close().unwrap();
}

fn alone() -> Options {
    let conflicts = ConflictMatrix::new(&["alone"], &[[true]]).unwrap();
    Options {
        bulkheads: vec![BulkheadOptions {
            in_flight_max: 4,
            conflicts,
            ..BulkheadOptions::new(Gate::BULKHEAD)
        }],
        ..Options::default()
    }
}

#[test]
fn computations_of_a_group_that_excludes_itself_run_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate)
        .options(alone())
        .exclusion(Pass, "alone")
        .open_blocking()
        .unwrap();
    let tenants = ["a", "b"].map(|name| engine.blocking().tenant(name).unwrap());
    let mut replies = Vec::new();
    for tenant in &tenants {
        let mut reply = tenant.submit(Pass, 1_u64).into_future();
        assert!(wait(async { poll!(&mut reply) }).is_pending());
        replies.push(reply);
    }
    gate.wait_started();
    // Three slots are free.
    assert_eq!((gate.runs(), queued(&engine)), (1, 1));
    gate.let_go(2);
    for reply in replies {
        wait(reply).unwrap();
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_group_that_the_bulkhead_does_not_have_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).options(alone());
    let opened = engine.exclusion(Pass, "other").open_blocking();
    let OpenError::Register(RegisterError::NoExclusion { group, .. }) = opened.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(group, "other");
    let engine = builder(folder.path(), &gate).exclusion(Noop, "alone");
    assert!(engine.open_blocking().is_err());
}
