//! Publishing a compaction, and rolling it back.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use object_store::local::LocalFileSystem;
use orlop::tiered::{
    Compaction, CompactionPublish, CompactionRollback, Located, Published, StoredSegment,
    TableName, Tiered,
};
use orlop::{CancelError, Key, SubmitError, Tenant, wait};

use crate::machine::Machine;
use crate::support::{Local, World, name, segment};
use crate::wire::Fault;

fn table() -> TableName {
    TableName::new("orders").unwrap()
}

/// A compaction that stages segments of these names, each holding its name.
fn compaction(
    local: &Local,
    tenant: &Tenant,
    base: u64,
    keep: &[StoredSegment],
    stage: &[&str],
) -> Compaction {
    for at in stage {
        local.put(tenant, &name(at), at.as_bytes());
    }
    let stage = stage.iter().map(|at| segment(&name(at), at.as_bytes()));
    Compaction {
        table: table(),
        base,
        keep: keep.to_vec(),
        stage: stage.collect(),
        notes: Vec::new(),
        retire: false,
    }
}

fn publish(tenant: &Tenant, key: &str, input: Compaction) -> Result<Published, SubmitError> {
    let start = tenant.start::<CompactionPublish>(Key::named(key), input);
    wait(wait(start).unwrap()).map(|reply| reply.output)
}

fn current(tiered: &Tiered, tenant: &Tenant) -> Option<Located> {
    wait(tiered.locate(tenant.id(), &table())).unwrap()
}

#[test]
fn of_two_compactions_made_from_one_revision_one_is_published_and_the_other_leaves_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let tiered = machine.tiered();
    assert_eq!(current(&tiered, &tenant), None);
    let inputs = [["s0", "s1"], ["t0", "t1"]]
        .map(|stage| compaction(&machine.local, &tenant, 0, &[], &stage));
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let racers = inputs.map(|input| {
            let tenant = &tenant;
            let key = format!("{:?}", input.stage[0].name);
            scope.spawn(move || publish(tenant, &key, input))
        });
        racers.map(|racer| racer.join().unwrap()).into()
    });
    let published: Vec<&Published> = outcomes.iter().flatten().collect();
    let [published] = published.as_slice() else {
        panic!("{outcomes:?}");
    };
    let failed = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
    assert!(
        matches!(failed, Some(SubmitError::Failed(why)) if why.reason().contains("has gone on")),
        "{failed:?}"
    );
    let located = current(&tiered, &tenant).unwrap();
    assert_eq!(located.manifest.as_ref(), Some(&published.manifest));
    // One manifest and two segments.
    assert_eq!(machine.wire.things().len(), 3);
    engine.blocking().close().unwrap();
}

#[test]
fn a_cancel_once_the_locator_has_moved_requires_a_rollback_which_takes_it_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let first = compaction(&machine.local, tenant, 0, &[], &["old"]);
    let first = publish(tenant, "first", first).unwrap();
    let before = machine.wire.things();
    let second = Compaction {
        retire: true,
        ..compaction(
            &machine.local,
            tenant,
            first.revision,
            &first.staged,
            &["new"],
        )
    };
    machine.local.close_gate();
    let start = tenant.start::<CompactionPublish>(Key::named("second"), second);
    let ticket = wait(start).unwrap();
    machine.local.wait_for_removal();
    let refused = wait(ticket.cancel()).unwrap_err();
    let required = CancelError::RollbackRequired {
        counter: Some("compaction_rollback".into()),
    };
    assert_eq!(refused, required);
    machine.local.open_gate();
    let second = wait(ticket).unwrap().output;
    let tiered = machine.tiered();
    let located = current(&tiered, tenant).unwrap();
    assert_eq!(located.manifest, Some(second.manifest.clone()));
    let refused = wait(manager.cancel_saga(Key::named("second"))).unwrap_err();
    assert_eq!(refused, required);
    let back = tenant.roll_back::<CompactionPublish, CompactionRollback>(Key::named("second"));
    let revision = wait(wait(back).unwrap()).unwrap().output;
    let expected = Located {
        revision,
        manifest: Some(first.manifest),
    };
    assert_eq!(current(&tiered, tenant), Some(expected));
    assert_eq!(machine.wire.things(), before);
    engine.blocking().close().unwrap();
}

#[test]
fn a_compaction_that_somebody_has_built_upon_is_not_rolled_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = compaction(&machine.local, &tenant, 0, &[], &["old"]);
    let first = publish(&tenant, "first", first).unwrap();
    let second = compaction(
        &machine.local,
        &tenant,
        first.revision,
        &first.staged,
        &["new"],
    );
    publish(&tenant, "second", second).unwrap();
    let before = machine.wire.things();
    let start = tenant.start::<CompactionRollback>(Key::named("back"), first);
    let failed = wait(wait(start).unwrap()).unwrap_err();
    assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
    assert_eq!(machine.wire.things(), before);
    engine.blocking().close().unwrap();
}

#[test]
fn a_move_that_was_built_upon_before_it_could_be_taken_back_is_stuck_with_everything_there() {
    let machine = Machine::default();
    let engine = machine.open();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let tiered = machine.tiered();
    // Upload, verify, manifest twice, create the revision; then reading it back waits.
    machine.wire.arm(vec![(5, Fault::Pause)]);
    let first = compaction(&machine.local, tenant, 0, &[], &["s"]);
    let start = tenant.start::<CompactionPublish>(Key::named("first"), first);
    let mut ticket = wait(start).unwrap();
    wait(machine.wire.paused());
    wait(manager.cancel_saga(Key::named("first"))).unwrap();
    let located = current(&tiered, tenant).unwrap();
    let version = located.manifest.clone().unwrap();
    let keep = wait(tiered.manifest(tenant.id(), &table(), &version)).unwrap();
    let base = located.revision;
    let second = compaction(&machine.local, tenant, base, &keep.segments, &["t"]);
    let second = publish(tenant, "second", second).unwrap();
    let before = machine.wire.things();
    machine.wire.go();
    let stuck = wait(ticket.wait_for(std::time::Duration::from_mins(1))).unwrap_err();
    let SubmitError::Stuck { reason, .. } = &stuck else {
        panic!("{stuck:?}");
    };
    assert!(reason.contains("built"), "{reason}");
    assert_eq!(machine.wire.things(), before);
    let located = current(&tiered, tenant).unwrap();
    assert_eq!(located.revision, second.revision);
    engine.blocking().close().unwrap();
}

#[test]
fn a_move_that_was_given_up_does_not_come_true_when_it_arrives_late() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    // Upload, verify, manifest twice; then the revision lingers, is asked about, and refused.
    machine
        .wire
        .arm(vec![(4, Fault::Linger), (7, Fault::Refuse)]);
    let input = compaction(&machine.local, &tenant, 0, &[], &["s"]);
    let failed = publish(&tenant, "first", input.clone()).unwrap_err();
    assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
    assert!(!machine.wire.deliver(), "a move that nobody wants was made");
    assert_eq!(current(&machine.tiered(), &tenant), None);
    assert_eq!(machine.wire.things().len(), 0);
    machine.wire.arm(Vec::new());
    let published = publish(&tenant, "again", input).unwrap();
    let located = current(&machine.tiered(), &tenant).unwrap();
    assert_eq!(located.revision, published.revision);
    engine.blocking().close().unwrap();
}

#[test]
fn a_move_in_doubt_is_kept_out_or_taken_back_when_the_saga_is_cancelled() {
    for fault in [Fault::Linger, Fault::LoseReply] {
        let machine = Machine::default();
        let engine = machine.open();
        let manager = wait(engine.manage("a")).unwrap();
        let tenant = manager.tenant();
        let first = compaction(&machine.local, tenant, 0, &[], &["s"]);
        let first = publish(tenant, "first", first).unwrap();
        let before = machine.wire.things();
        // Upload, verify, manifest twice, base; nobody hears of the revision, and who asks about
        // it gets no answer.
        machine.wire.arm(vec![(5, fault), (6, Fault::PauseAndLose)]);
        let second = compaction(&machine.local, tenant, first.revision, &[], &["t"]);
        let start = tenant.start::<CompactionPublish>(Key::named("second"), second);
        let ticket = wait(start).unwrap();
        wait(machine.wire.paused());
        wait(manager.cancel_saga(Key::named("second"))).unwrap();
        machine.wire.go();
        let failed = wait(ticket).unwrap_err();
        assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
        assert!(!machine.wire.deliver(), "{fault:?}");
        let located = current(&machine.tiered(), tenant).unwrap();
        assert_eq!(located.manifest, Some(first.manifest), "{fault:?}");
        assert_eq!(machine.wire.things(), before, "{fault:?}");
        engine.blocking().close().unwrap();
    }
}

#[test]
fn what_was_compensated_stays_away_after_a_restart_and_a_new_run_uploads_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let input = compaction(&machine.local, &tenant, 0, &[], &["s", "t"]);
    // The second of two uploads is refused: the first one has been made.
    machine.wire.arm(vec![(1, Fault::Refuse)]);
    let failed = publish(&tenant, "first", input.clone()).unwrap_err();
    assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
    assert_eq!(machine.wire.things().len(), 0);
    drop((tenant, engine));
    let machine = machine.crash();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    machine.wire.arm(Vec::new());
    let replayed = publish(&tenant, "first", input.clone()).unwrap_err();
    assert_eq!(replayed, failed);
    assert_eq!(machine.wire.calls(), 0);
    assert_eq!(machine.wire.things().len(), 0);
    let published = publish(&tenant, "again", input).unwrap();
    let things = machine.wire.things();
    for (stored, content) in published.staged.iter().zip(["s", "t"]) {
        let path = machine.tiered().path(tenant.id(), &stored.object);
        assert_eq!(things[&path], content.as_bytes());
    }
    assert_eq!(things.len(), 3);
    engine.blocking().close().unwrap();
}

#[test]
fn a_crash_while_segments_are_staged_side_by_side_leaves_no_orphan() {
    let machine = Machine::default();
    let engine = machine.open();
    let manager = wait(engine.manage("a")).unwrap();
    let stage = ["s0", "s1", "s2", "s3", "s4", "s5"];
    let input = compaction(&machine.local, manager.tenant(), 0, &[], &stage);
    let key = Key::named("first");
    let begin = |tenant: &Tenant| tenant.start::<CompactionPublish>(key, input.clone());
    // One of the first four uploads arrives, and nobody hears of it.
    machine.wire.arm(vec![(2, Fault::DieAfter)]);
    let ticket = wait(begin(manager.tenant())).unwrap();
    wait(async {
        let died = pin!(machine.wire.died());
        match select(ticket.into_future(), died).await {
            Either::Left((outcome, _)) => panic!("{outcome:?}"),
            Either::Right(_) => {}
        }
    });
    assert!(!machine.wire.things().is_empty());
    drop((manager, engine));
    let machine = machine.crash();
    // The next process cannot upload the rest.
    let puts = 0..stage.len() * 4;
    machine
        .wire
        .arm(puts.map(|at| (at, Fault::RefuseUploads)).collect());
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let failed = wait(wait(begin(&tenant)).unwrap()).unwrap_err();
    assert!(matches!(failed, SubmitError::Failed(_)), "{failed:?}");
    assert_eq!(machine.wire.things().len(), 0);
    engine.blocking().close().unwrap();
}

#[test]
fn a_table_in_a_file_system_is_published_and_rolled_back() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let engine = world.open_on(store.clone());
    let tiered = world.tiered_on(store);
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = compaction(&world.local, &tenant, 0, &[], &["old"]);
    let first = publish(&tenant, "first", first).unwrap();
    let second = compaction(&world.local, &tenant, first.revision, &[], &["new"]);
    let second = publish(&tenant, "second", second).unwrap();
    assert_eq!(second.previous, Some(first.manifest.clone()));
    let start = tenant.start::<CompactionRollback>(Key::named("back"), second);
    wait(wait(start).unwrap()).unwrap();
    let located = current(&tiered, &tenant).unwrap();
    assert_eq!(located.manifest, Some(first.manifest.clone()));
    let manifest = wait(tiered.manifest(tenant.id(), &table(), &first.manifest)).unwrap();
    assert_eq!(manifest.segments, first.staged);
    engine.blocking().close().unwrap();
}
