//! Crashes, rebuilding, retention and backlog, on simulated parts.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use orlop_saga::event::Event;
use orlop_saga::id::{Incarnation, Lsn, SagaId};
use orlop_saga::live::Live;
use proptest::prelude::*;

use super::harness::*;
use crate::log::{Lane, LogHealth, LogOptions, Opened, Purpose};
use crate::projector::{Projected, ProjectorError, ProjectorOptions};
use crate::recovery::RecoveryError;
use crate::store::{AppendRefused, CloseError, OpenError, Store};
use crate::tables::TablesError;

/// Checkpoints and exports as often as there is anything new.
fn busy() -> ProjectorOptions {
    ProjectorOptions {
        checkpoint_bytes: 300,
        export_bytes_min: 1_000,
        group_bytes_max: 600,
        ..ProjectorOptions::default()
    }
}

fn calm() -> ProjectorOptions {
    ProjectorOptions::default()
}

const SOON: Duration = Duration::from_mins(1);

/// The fold of the whole journal of a machine, which must not have been freed.
fn fold(machine: &Machine) -> Live {
    let log = machine.log.open(LogOptions::default());
    let mut live = Live::default();
    let mut replay = |lsn: Lsn, record: &[u8]| {
        live.apply(lsn, &orlop_saga::record::decode(record).unwrap())
            .unwrap();
        Ok(())
    };
    log.replay(Lsn::new(1), &mut replay).unwrap();
    live
}

#[test]
fn an_outcome_is_found_after_it_was_announced_and_after_a_reopen() {
    let machine = Machine::new();
    let told = Arc::new(Announced::default());
    let (store, recovered) = machine.open_told(calm(), told.clone()).unwrap();
    assert_eq!(recovered.incarnation, Incarnation::new(1));
    assert!(!recovered.tables_rebuilt && !store.maybe_retained(tenant(), key(1)));
    append(&store, &[settled(1), accepted(2)]).unwrap();
    checkpoint(&store).unwrap();
    assert!(told.0.lock().contains(&(tenant(), key(1))));
    assert!(store.maybe_retained(tenant(), key(1)));
    assert!(!store.maybe_retained(tenant(), key(2)));
    assert_eq!(lookup(&store, 1), Ok(Some(settlement(1, START_MS))));
    assert_eq!(lookup(&store, 2), Ok(None));
    store.close(SOON).unwrap();

    let (store, recovered) = machine.open(calm()).unwrap();
    assert_eq!(recovered.incarnation, Incarnation::new(2));
    assert_eq!(recovered.replayed_records, 0);
    assert!(!recovered.tables_rebuilt);
    assert_eq!(
        recovered.live.effects().keys().collect::<Vec<_>>(),
        [&id(2)]
    );
    assert!(store.maybe_retained(tenant(), key(1)));
    assert_eq!(lookup(&store, 1), Ok(Some(settlement(1, START_MS))));
}

#[test]
fn a_saga_that_ended_is_found_by_its_id_and_by_its_key() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    append(&store, &saga(4)).unwrap();
    checkpoint(&store).unwrap();
    let (sender, receiver) = mpsc::channel();
    store.lookup_saga(
        SagaId::new(4),
        Box::new(move |found| sender.send(found).unwrap()),
    );
    let state = receiver.recv().unwrap().unwrap().unwrap();
    assert!(state.ended());
    assert_eq!(
        lookup(&store, 4).unwrap().unwrap().saga,
        Some(SagaId::new(4))
    );
}

/// Runs a fixed course and stops the power after `groups` groups of the journal; answers which
/// keys were acknowledged.
fn course(machine: &Machine, groups: u64) -> Vec<u64> {
    let (store, _) = machine.open(busy()).unwrap();
    machine.log.power_off_after(groups);
    let (sender, receiver) = mpsc::channel();
    for n in 1..=12_u64 {
        let mut events = vec![settled(n)];
        if n % 3 == 0 {
            events = saga(n);
            events.push(accepted(1_000 + n));
        }
        let sender = sender.clone();
        let ack = move |result: Result<_, _>| {
            if result.is_ok() {
                sender.send(n).unwrap();
            }
        };
        store
            .append(Lane(3), Purpose::Settle, &events, Box::new(ack))
            .unwrap();
        // A group of its own for each, as far as the power lasts.
        while machine.log.groups() < n + 1 && machine.log.groups() < groups + 1 {
            std::thread::yield_now();
        }
    }
    // What is acknowledged by now was acknowledged before the crash.
    drop(sender);
    receiver.try_iter().collect()
}

#[test]
fn every_acknowledged_outcome_survives_a_crash_after_every_group_twice_in_a_row() {
    for groups in 0..=12 {
        for seed in 0..6 {
            let machine = Machine::new();
            let acknowledged = course(&machine, groups);
            let once = machine.crash(seed);
            // The second crash comes while the first is recovered from.
            once.shelf.fail_after(seed);
            drop(once.open(busy()));
            let twice = once.crash(seed + 100);
            let (store, recovered) = twice.open(busy()).unwrap();
            for n in acknowledged {
                assert!(
                    store.maybe_retained(tenant(), key(n)),
                    "{groups} {seed} {n}"
                );
                assert!(lookup(&store, n).unwrap().is_some(), "{groups} {seed} {n}");
            }
            assert_eq!(recovered.live.lsn(), store.health().watermark);
            assert_eq!(store.health().log, LogHealth::Healthy);
        }
    }
}

#[test]
fn a_power_cut_alone_never_makes_tables_need_rebuilding() {
    for groups in 0..=12 {
        for seed in 0..6 {
            let machine = Machine::new();
            course(&machine, groups);
            let (_store, recovered) = machine.crash(seed).open(busy()).unwrap();
            assert!(!recovered.tables_rebuilt, "{groups} {seed}");
        }
    }
}

#[test]
fn a_power_cut_at_every_operation_of_checkpoint_or_export_loses_nothing() {
    let mut untouched = false;
    for operations in 0..80 {
        let machine = Machine::new();
        let (store, _) = machine.open(busy()).unwrap();
        append(&store, &[settled(1), accepted(2)]).unwrap();
        export(&store).unwrap();
        for n in 3..=8 {
            append(&store, &[settled(n)]).unwrap();
        }
        machine.disk.power_off_after(operations);
        let exported = export(&store).is_ok();
        append(&store, &[settled(9)]).unwrap();
        let written = exported && checkpoint(&store).is_ok();
        drop(store);
        untouched |= written;
        let after = machine.crash(operations);
        let (store, recovered) = after.open(calm()).unwrap();
        for n in [1].into_iter().chain(3..=9) {
            assert!(lookup(&store, n).unwrap().is_some(), "{operations} {n}");
        }
        assert_eq!(recovered.live.effects().len(), 1, "{operations}");
    }
    assert!(untouched, "no run got through");
}

#[test]
fn whatever_a_checkpoint_replaces_the_fold_is_that_of_the_whole_journal() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    for n in 1..=9 {
        append(&store, &[accepted(n)]).unwrap();
        if n % 2 == 0 {
            append(&store, &[settled(n)]).unwrap();
            checkpoint(&store).unwrap();
        }
    }
    drop(store);
    let (store, recovered) = machine.open(calm()).unwrap();
    assert!(recovered.replayed_records < 4);
    drop(store);
    assert_eq!(recovered.live, fold(&machine));
}

#[test]
fn tables_with_a_row_lost_are_detected_and_rebuilt_from_export_and_journal() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    for n in 1..=20 {
        append(&store, &[settled(n)]).unwrap();
        if n == 10 {
            export(&store).unwrap();
        }
    }
    checkpoint(&store).unwrap();
    drop(store);
    let before = machine.shelf.rows();
    assert!(machine.log.open(LogOptions::default()).first_lsn() > Lsn::new(2));
    assert!(machine.shelf.lose_row());
    let (store, recovered) = machine.open(calm()).unwrap();
    assert!(recovered.tables_rebuilt);
    assert_eq!(
        recovered.rebuilt_because.as_deref(),
        Some("the tables are damaged: rows are missing")
    );
    for n in 1..=20 {
        assert_eq!(lookup(&store, n), Ok(Some(settlement(n, START_MS))));
    }
    drop(store);
    assert!(machine.shelf.rows() == before);
}

#[test]
fn tables_are_not_rebuilt_from_a_damaged_export_once_the_journal_is_freed() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    for n in 1..=20 {
        append(&store, &[settled(n)]).unwrap();
    }
    export(&store).unwrap();
    append(&store, &[settled(21)]).unwrap();
    checkpoint(&store).unwrap();
    checkpoint(&store).unwrap();
    drop(store);
    let export = machine.files("export-").pop().unwrap();
    machine.disk.flip(&export, 60, 1).unwrap();
    machine.shelf.lose_all();
    let refused = machine.open(calm()).unwrap_err();
    assert!(
        matches!(refused, OpenError::Recovery(RecoveryError::Export(_))),
        "{refused}"
    );
    machine.disk.flip(&export, 60, 1).unwrap();
    let (store, recovered) = machine.open(calm()).unwrap();
    assert!(recovered.tables_rebuilt);
    assert!(lookup(&store, 1).unwrap().is_some());
}

#[test]
fn a_store_that_is_often_reopened_still_exports_and_frees_its_journal() {
    let machine = Machine::new();
    let options = ProjectorOptions {
        checkpoint_bytes: 1,
        export_bytes_min: 2_000,
        ..calm()
    };
    let mut reopened = 0;
    while machine.files("export-").is_empty() {
        let (store, _) = machine.open(options).unwrap();
        append(&store, &[settled(reopened)]).unwrap();
        store.close(SOON).unwrap();
        reopened += 1;
        assert!(reopened < 200, "no export in {reopened} runs");
    }
    assert!(reopened > 5);
    let (store, _) = machine.open(options).unwrap();
    checkpoint(&store).unwrap();
    checkpoint(&store).unwrap();
    append(&store, &[settled(reopened)]).unwrap();
    checkpoint(&store).unwrap();
    drop(store);
    assert!(machine.log.open(LogOptions::default()).first_lsn() > Lsn::new(1));
}

#[test]
fn with_every_checkpoint_damaged_the_fold_comes_from_export_and_journal() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    append(&store, &[accepted(1), settled(2)]).unwrap();
    export(&store).unwrap();
    append(&store, &[accepted(3)]).unwrap();
    checkpoint(&store).unwrap();
    store.close(SOON).unwrap();
    let checkpoints = machine.files("checkpoint-");
    assert_eq!(checkpoints.len(), 2);
    for file in checkpoints {
        machine.disk.flip(&file, 40, 1).unwrap();
    }
    let (_store, recovered) = machine.open(calm()).unwrap();
    assert_eq!(recovered.live.effects().keys().count(), 2);
    assert_eq!(recovered.incarnation, Incarnation::new(2));
    assert!(!recovered.tables_rebuilt);
}

#[test]
fn a_journal_that_ends_before_its_checkpoint_is_refused() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    for n in 1..=5 {
        append(&store, &[settled(n)]).unwrap();
    }
    checkpoint(&store).unwrap();
    drop(store);
    let lost = Machine {
        log: machine.log.crash_at(3),
        ..machine
    };
    let refused = lost.open(calm()).unwrap_err();
    let expected = RecoveryError::LogBehind {
        log_last: Lsn::new(3),
        reached: Lsn::new(6),
    };
    assert_eq!(refused.to_string(), expected.to_string());
}

#[test]
fn expired_outcomes_are_unknown_and_their_rows_are_removed_in_bounded_passes() {
    let machine = Machine::new();
    let options = ProjectorOptions {
        expired_rows_max: 2,
        ..calm()
    };
    let (store, _) = machine.open(options).unwrap();
    for n in 1..=7 {
        append(&store, &[settled(n)]).unwrap();
    }
    append(&store, &saga(8)).unwrap();
    append(&store, &[settled_at(9, START_MS + 5)]).unwrap();
    checkpoint(&store).unwrap();
    machine.clock.pass(RETENTION_MS - 1);
    assert!(lookup(&store, 1).unwrap().is_some());
    machine.clock.pass(1);
    assert_eq!(lookup(&store, 1), Ok(None));
    checkpoint(&store).unwrap();
    for n in 1..=8 {
        assert!(!store.maybe_retained(tenant(), key(n)), "{n}");
    }
    assert!(lookup(&store, 9).unwrap().is_some());
    // The outcome and the index of the last, nothing of the saga.
    assert_eq!(machine.shelf.rows().len(), 2);
}

#[test]
fn a_key_run_again_after_its_retention_keeps_its_new_outcome() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    append(&store, &[settled(1)]).unwrap();
    machine.clock.pass(RETENTION_MS + 1);
    let later = START_MS + RETENTION_MS + 1;
    append(&store, &[settled_at(1, later)]).unwrap();
    checkpoint(&store).unwrap();
    assert_eq!(lookup(&store, 1), Ok(Some(settlement(1, later))));
    assert!(store.maybe_retained(tenant(), key(1)));
    assert_eq!(machine.shelf.rows().len(), 2);
}

#[test]
fn a_wall_clock_that_jumps_ahead_expires_nothing_until_the_store_is_reopened() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    append(&store, &[settled(1)]).unwrap();
    machine.clock.jump_to(START_MS + 10 * RETENTION_MS);
    checkpoint(&store).unwrap();
    assert!(lookup(&store, 1).unwrap().is_some());
    store.close(SOON).unwrap();
    let (store, _) = machine.open(calm()).unwrap();
    assert_eq!(lookup(&store, 1), Ok(None));
}

/// Blocks the projector until it is let go.
struct Gate(parking_lot::Mutex<mpsc::Receiver<()>>);

impl Projected for Gate {
    fn projected(&self, _: &[(orlop_saga::id::TenantId, orlop_saga::key::Key)], _: Lsn) {
        let _ = self.0.lock().recv();
    }
}

fn try_append(store: &Store, purpose: Purpose, event: &Event) -> Result<(), AppendRefused> {
    store.append(
        Lane(3),
        purpose,
        std::slice::from_ref(event),
        Box::new(|_| {}),
    )
}

#[test]
fn while_the_tables_lag_new_work_is_refused_first_and_the_journal_never_waits() {
    let machine = Machine::new();
    let (open_gate, gate) = mpsc::channel();
    let gate = Arc::new(Gate(parking_lot::Mutex::new(gate)));
    let options = ProjectorOptions {
        backlog_bytes_max: 400,
        ..calm()
    };
    let (store, _) = machine.open_told(options, gate).unwrap();
    append(&store, &[settled(1)]).unwrap();
    // The projector is held in the first; all of these become durable all the same.
    let mut n = 2;
    while try_append(&store, Purpose::New, &accepted(5_000)).is_ok() {
        append(&store, &[settled(n)]).unwrap();
        n += 1;
        assert!(n < 100);
    }
    let refused = try_append(&store, Purpose::New, &accepted(5_000)).unwrap_err();
    assert!(refused.is_retryable());
    assert!(
        matches!(refused, AppendRefused::Backlogged { bytes_max: 400, .. }),
        "{refused}"
    );
    append(&store, &[settled(1_000)]).unwrap();
    drop(open_gate);
}

#[test]
fn tables_that_fail_stop_following_say_so_and_are_rebuilt_at_the_next_open() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    append(&store, &[settled(1)]).unwrap();
    checkpoint(&store).unwrap();
    machine.shelf.fail_after(0);
    append(&store, &[settled(2)]).unwrap();
    let failed = checkpoint(&store).unwrap_err();
    assert!(matches!(failed, ProjectorError::Tables(_)), "{failed}");
    assert_eq!(lookup(&store, 1), Err(TablesError::Poisoned));
    assert!(store.health().projector.is_some());
    // The journal goes on.
    append(&store, &[settled(3)]).unwrap();
    let closed = store.close(SOON).unwrap_err();
    assert!(matches!(closed, CloseError::Projector(_)), "{closed}");
    drop(store);
    let after = machine.crash(1);
    let (store, recovered) = after.open(calm()).unwrap();
    assert!(recovered.tables_rebuilt);
    for n in 1..=3 {
        assert!(lookup(&store, n).unwrap().is_some(), "{n}");
    }
}

#[test]
fn closing_refuses_drains_checkpoints_and_may_be_repeated() {
    let machine = Machine::new();
    let (store, _) = machine.open(calm()).unwrap();
    append(&store, &[settled(1)]).unwrap();
    store.close(SOON).unwrap();
    store.close(SOON).unwrap();
    assert_eq!(
        try_append(&store, Purpose::Settle, &settled(2)),
        Err(AppendRefused::Closed)
    );
    assert_eq!(lookup(&store, 1), Err(TablesError::Closed));
    assert!(matches!(checkpoint(&store), Err(ProjectorError::Closed)));
    let (_, recovered) = machine.open(calm()).unwrap();
    assert_eq!(recovered.replayed_records, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the journal was cut into groups, checkpoints and exports, tables rebuilt from what
    /// is left are the tables that were.
    #[test]
    fn rebuilt_tables_equal_the_original(
        course in proptest::collection::vec((1..40_u64, 0..12_u8), 1..60),
        options in prop_oneof![Just(busy()), Just(calm())],
    ) {
        let machine = Machine::new();
        let (store, _) = machine.open(options).unwrap();
        let mut sagas = 100;
        for (n, kind) in course {
            match kind {
                0 => drop(checkpoint(&store).unwrap()),
                1 => drop(export(&store).unwrap()),
                2..=4 => {
                    sagas += 1;
                    append(&store, &saga(sagas)).unwrap();
                }
                _ => drop(append(&store, &[settled(n)]).unwrap()),
            }
        }
        checkpoint(&store).unwrap();
        drop(store);
        let before = machine.shelf.rows();
        machine.shelf.lose_all();
        let (store, recovered) = machine.open(calm()).unwrap();
        prop_assert!(recovered.tables_rebuilt);
        drop(store);
        prop_assert!(machine.shelf.rows() == before);
    }
}
