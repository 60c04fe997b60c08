//! Joiners: what those who come later bring to what is in flight, and what they leave behind.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, poll};
use orlop::{Class, Clock, Key, SubmitError, wait};

use crate::gate::{Gate, Pass, builder, queued};
use crate::table::Ahead;

#[test]
fn a_caller_who_left_while_the_tables_were_asked_leaves_nothing_to_conflict_with() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, clock) = (Gate::new(), Arc::<Ahead>::default());
    let ticking: Arc<dyn Clock> = Arc::<Ahead>::clone(&clock);
    let engine = builder(folder.path(), &gate)
        .clock(ticking)
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let keys: Vec<Key> = (0..200).map(|at| Key::named(&format!("{at}"))).collect();
    gate.let_go(keys.len());
    for key in &keys {
        wait(tenant.submit(Pass, 1_u64).key(*key)).unwrap();
    }
    clock.jump(Duration::from_hours(25));
    // The only slot is taken: from here on whatever enters can leave again.
    let mut slot = tenant
        .submit(Pass, 0_u64)
        .key(Key::named("slot"))
        .into_future();
    assert!(wait(async { poll!(&mut slot) }).is_pending());
    let mut waiting = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let mut gone = tenant.submit(Pass, 2_u64).key(*key).into_future();
        assert!(wait(async { poll!(&mut gone) }).is_pending());
        drop(gone);
        let (tenant, key) = (tenant.clone(), *key);
        let mut other = match at % 2 {
            0 => tenant.submit(Pass, 3_u64).key(key).into_future(),
            _ => async move { tenant.enqueue(Pass, 3_u64).key(key).await?.await }.boxed(),
        };
        let polled = wait(async { poll!(&mut other) });
        assert!(polled.is_pending(), "{polled:?}");
        waiting.push(other);
    }
    gate.let_go(keys.len() + 1);
    wait(slot).unwrap();
    for other in waiting {
        assert_eq!(wait(other).unwrap().output, 3);
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_more_urgent_joiner_moves_work_up_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let enter = |input: u64, class: Class| {
        let submission = tenant.submit(Pass, input).class(class);
        let mut future = submission.deadline(Duration::from_secs(30)).into_future();
        assert!(wait(async { poll!(&mut future) }).is_pending());
        future
    };
    let running = enter(1, Class::Standard);
    gate.wait_started();
    let standard = enter(2, Class::Standard);
    let batch = enter(3, Class::Batch);
    assert_eq!(queued(&engine), 2);
    let urgent = enter(3, Class::Interactive);
    assert_eq!(queued(&engine), 2);
    gate.let_go(2);
    wait(running).unwrap();
    // The slot went to the third, which was asked for last and least at first.
    assert_eq!(wait(urgent).unwrap().output, 3);
    assert_eq!(wait(batch).unwrap().output, 3);
    gate.let_go(1);
    assert_eq!(wait(standard).unwrap().output, 2);
    assert_eq!(gate.runs(), 3);
    engine.blocking().close().unwrap();
}

#[test]
fn queued_work_waits_as_long_as_the_most_patient_of_its_callers() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let engine = builder(folder.path(), &gate).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut running = tenant.submit(Pass, 1_u64).into_future();
    assert!(wait(async { poll!(&mut running) }).is_pending());
    gate.wait_started();
    let enter = |deadline: u64| {
        let submission = tenant.submit(Pass, 2_u64);
        let deadline = Duration::from_millis(deadline);
        let mut future = submission.deadline(deadline).into_future();
        assert!(wait(async { poll!(&mut future) }).is_pending());
        future
    };
    let (hasty, patient) = (enter(50), enter(60_000));
    assert_eq!(wait(hasty).unwrap_err(), SubmitError::Expired);
    assert_eq!(queued(&engine), 1);
    drop(patient);
    let (first, second) = (enter(50), enter(100));
    assert_eq!(wait(first).unwrap_err(), SubmitError::Expired);
    assert_eq!(wait(second).unwrap_err(), SubmitError::Expired);
    assert_eq!(queued(&engine), 0);
    gate.let_go(1);
    wait(running).unwrap();
    assert_eq!(gate.runs(), 1);
    engine.blocking().close().unwrap();
}
