//! The faults of an earlier contract for remote effects, each with the test that keeps it out.

use std::sync::Barrier;

use orlop::tiered::{Evict, SegmentPut};
use orlop::{Engine, Key, Origin, SubmitError, wait};

use crate::machine::Machine;
use crate::support::{World, eviction, name, segment};

const CONTENT: &[u8] = b"four score and seven rows";

/// What was wrong, and where which test fails if it comes back.
const FAULTS: [(&str, &str, &str); 22] = [
    (
        "the executor never consults the outcomes it keeps",
        "tests/tiered/versions.rs",
        "a_put_under_one_key_uploads_once",
    ),
    (
        "outcomes are kept after execution, so that concurrent duplicates both run",
        "tests/tiered/faults.rs",
        "evictions_that_race_under_one_key_upload_once",
    ),
    (
        "outcomes are kept without a bound",
        "tests/api/limits.rs",
        "one_effect_more_than_may_be_unfinished_is_refused_until_one_has_ended",
    ),
    (
        "outcomes are kept in memory only",
        "tests/tiered/faults.rs",
        "an_eviction_that_is_done_is_replayed_by_the_next_process_and_not_made_again",
    ),
    (
        "keys carry no tenant, so that equal requests of two tenants collide",
        "tests/tiered/evict.rs",
        "two_tenants_evict_segments_of_one_name_without_touching_each_other",
    ),
    (
        "an unregistered name is executed",
        "tests/tiered/faults.rs",
        "what_is_not_bound_to_the_engine_is_not_run",
    ),
    (
        "newcomers overtake who waits",
        "admission/tests/admission/order.rs",
        "a_newcomer_does_not_overtake_who_waits_when_a_slot_comes_free",
    ),
    (
        "admission polls every millisecond",
        "admission/tests/admission/asynchronous.rs",
        "a_future_is_woken_once_and_gets_its_permit",
    ),
    (
        "full, timed out and cancelled are all busy",
        "admission/tests/admission/regressions.rs",
        "each_way_of_being_refused_has_its_own_name_and_amounts",
    ),
    (
        "the permit lives as long as a synchronous closure",
        "admission/tests/admission/regressions.rs",
        "a_permit_outlives_whoever_asked_for_it",
    ),
    (
        "any 16 bytes are a capability",
        "tests/tiered/versions.rs",
        "a_tenant_does_not_reach_the_version_of_another",
    ),
    (
        "a capability is not checked where an outcome is replayed",
        "tests/api/capabilities.rs",
        "a_suspended_tenant_is_refused_new_work_and_replays_until_it_is_resumed",
    ),
    (
        "a compensated segment reappears on replay",
        "tests/tiered/compact.rs",
        "what_was_compensated_stays_away_after_a_restart_and_a_new_run_uploads_again",
    ),
    (
        "a compensated segment is not uploaded by the next run",
        "tests/tiered/evict.rs",
        "an_eviction_after_a_compensated_one_uploads_again",
    ),
    (
        "a late attempt writes after its compensation",
        "tests/tiered/late.rs",
        "a_put_that_comes_after_its_undo_does_not_bring_the_segment_back",
    ),
    (
        "a lease has no fence",
        "tests/tiered/late.rs",
        "an_attempt_that_a_later_engine_has_given_up_writes_nothing",
    ),
    (
        "a lease cannot be renewed",
        "tests/api/watchdog.rs",
        "a_heartbeat_keeps_an_attempt_and_one_that_stops_when_it_is_asked_to_still_counts",
    ),
    (
        "a lease follows the wall clock",
        "tests/api/watchdog.rs",
        "an_attempt_without_heartbeat_is_given_up_and_the_next_one_is_not_asked_to_stop",
    ),
    (
        "a staging step that fails half way leaves orphans and says that all is clean",
        "tests/tiered/compact.rs",
        "a_crash_while_segments_are_staged_side_by_side_leaves_no_orphan",
    ),
    (
        "a cancel after the last step is taken for one before it",
        "tests/tiered/compact.rs",
        "a_cancel_once_the_locator_has_moved_requires_a_rollback_which_takes_it_back",
    ),
    (
        "a cancel between two steps leaves what the first one wrote",
        "tests/tiered/sweep.rs",
        "a_cancel_at_any_call_takes_everything_away_or_says_that_a_rollback_is_required",
    ),
    (
        "the test of a restart goes on with live memory",
        "tests/tiered/sweep.rs",
        "a_publication_survives_two_crashes_wherever_they_come",
    ),
];

#[test]
fn every_fault_has_its_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (fault, file, test) in FAULTS {
        let source = std::fs::read_to_string(root.join(file)).unwrap();
        let defined = format!("#[test]\nfn {test}() {{");
        assert!(source.contains(&defined), "{fault}: no {test} in {file}");
    }
}

#[test]
fn evictions_that_race_under_one_key_upload_once() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    machine.local.put(&tenant, &name, CONTENT);
    let barrier = Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
                wait(wait(start).unwrap()).unwrap();
            });
        }
    });
    // One upload, and one read that verifies it.
    assert_eq!(machine.wire.calls(), 2);
    assert_eq!(machine.wire.things().len(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn an_eviction_that_is_done_is_replayed_by_the_next_process_and_not_made_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    machine.local.put(&tenant, &name, CONTENT);
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let evicted = wait(wait(start).unwrap()).unwrap().output;
    drop((tenant, engine));
    let machine = machine.crash();
    machine.wire.arm(Vec::new());
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let again = wait(wait(start).unwrap()).unwrap();
    assert_eq!((again.origin, again.output), (Origin::Replayed, evicted));
    assert_eq!(machine.wire.calls(), 0);
    engine.blocking().close().unwrap();
}

#[test]
fn what_is_not_bound_to_the_engine_is_not_run() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::builder(folder.path().join("store"))
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let name = name("s");
    world.local.put(&tenant, &name, CONTENT);
    let put = tenant.submit(SegmentPut, segment(&name, CONTENT));
    let refused = wait(put.key(Key::named("p"))).unwrap_err();
    assert_eq!(
        refused,
        SubmitError::Unregistered {
            name: "segment_put"
        }
    );
    let start = tenant.start::<Evict>(Key::named("e"), eviction(&name, CONTENT));
    let refused = wait(start).unwrap_err();
    let unregistered = SubmitError::Unregistered {
        name: "segment_evict",
    };
    assert_eq!(refused, unregistered);
    assert_eq!(world.outside.uploads(), 0);
    engine.blocking().close().unwrap();
}
