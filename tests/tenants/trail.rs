//! The durable trail through the engine: what was denied is found again, and what was tampered
//! with is not believed.

use std::path::Path;

use orlop::{
    AuditEvent, AuditOptions, ChainHead, Engine, Key, Object, Operation, RestoreOptions, SagaId,
    StoreId, TrailOptions, VerifyError, check, clone_store, restore, verify_audit, wait,
};
use tempfile::tempdir;

use crate::support::{Listener, Two, builder, patient};

/// Has mallory look at what is alice's, so often; says which saga.
fn attempts(two: &Two, count: usize) -> SagaId {
    let start = two.alice.tenant().start::<Listener>(Key::named("k"), 1_u64);
    let hers = wait(start).unwrap().id().unwrap();
    for _ in 0..count {
        wait(two.mallory.operator().show(hers)).unwrap_err();
        wait(two.engine.flush_audit());
    }
    hers
}

fn store(engine: &Engine) -> StoreId {
    engine.recovery().store_id
}

fn read(
    folder: &Path,
    store: StoreId,
    head: Option<ChainHead>,
) -> Result<Vec<AuditEvent>, VerifyError> {
    let mut events = Vec::new();
    verify_audit(folder, store, head, |_, entry| {
        events.push(entry.event.clone());
    })?;
    Ok(events)
}

#[test]
fn attempts_are_found_after_a_restart_under_the_head_that_was_exported() {
    let folder = tempdir().unwrap();
    let mut heads = Vec::new();
    let mut id = None;
    for _ in 0..2 {
        let two = Two::open(folder.path());
        let hers = attempts(&two, 2);
        let denied = AuditEvent::Denied(two.denial(Operation::Look, Object::Saga(hers)));
        heads.push(two.engine.audit_head().unwrap());
        id = Some((store(&two.engine), denied));
        two.close();
    }
    let (store, denied) = id.unwrap();
    assert_eq!(
        heads.iter().map(|head| head.entries).collect::<Vec<_>>(),
        [2, 4]
    );
    for head in heads {
        let events = read(folder.path(), store, Some(head)).unwrap();
        assert_eq!(events, vec![denied.clone(); 4]);
    }
    let report = check(folder.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.audit_head.unwrap().entries, 4);
}

#[test]
fn an_engine_that_is_dropped_has_told_its_trail_everything() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let id = store(&two.engine);
    attempts(&two, 0);
    let hers = wait(two.alice.operator().find(Key::named("k"))).unwrap();
    wait(two.mallory.operator().show(hers)).unwrap_err();
    drop(two);
    // The lock is given back only after the last entry.
    let again = loop {
        match builder(folder.path(), patient()).open_blocking() {
            Ok(engine) => break engine,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(again.audit_head().unwrap().entries, 1);
    again.blocking().close().unwrap();
    assert_eq!(read(folder.path(), id, None).unwrap().len(), 1);
}

#[test]
fn a_trail_that_was_tampered_with_is_reported_and_stops_no_work() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    attempts(&two, 3);
    let (id, head) = (store(&two.engine), two.engine.audit_head());
    two.close();
    let file = std::fs::read_dir(folder.path().join("audit")).unwrap();
    let file = file.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(
        read(folder.path(), id, head),
        Err(VerifyError::Trail(_))
    ));
    let report = check(folder.path()).unwrap();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!(report.findings[0].file, file);
    // The engine opens; attempts are denied and told, and nothing covers the traces.
    let two = Two::open(folder.path());
    assert_eq!(two.engine.audit_head(), None);
    assert!(!two.engine.snapshot().audit.durable);
    let hers = attempts(&two, 1);
    assert_eq!(
        two.denials(),
        [two.denial(Operation::Look, Object::Saga(hers))]
    );
    two.close();
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    // Removed altogether it is as if nothing had been, but for whoever has the head.
    std::fs::remove_dir_all(folder.path().join("audit")).unwrap();
    assert!(read(folder.path(), id, None).unwrap().is_empty());
    assert!(matches!(
        read(folder.path(), id, head),
        Err(VerifyError::Short { .. })
    ));
}

#[test]
fn a_backup_has_the_trail_a_restored_store_goes_on_with_it_and_a_clone_begins_its_own() {
    let folder = tempdir().unwrap();
    let [from, backup, restored, cloned] =
        ["from", "backup", "restored", "cloned"].map(|name| folder.path().join(name));
    let two = Two::open(&from);
    attempts(&two, 2);
    let (id, head) = (store(&two.engine), two.engine.audit_head());
    wait(two.engine.backup(&backup)).unwrap();
    attempts(&two, 1);
    two.close();
    assert_eq!(read(&backup, id, head).unwrap().len(), 2);
    restore(&backup, &restored, RestoreOptions::default()).unwrap();
    clone_store(&backup, &cloned, RestoreOptions::default()).unwrap();
    let two = Two::open(&restored);
    attempts(&two, 1);
    let end = two.engine.audit_head().unwrap();
    two.close();
    assert_eq!(end.entries, 3);
    assert_eq!(read(&restored, id, head).unwrap().len(), 3);
    let two = Two::open(&cloned);
    assert_eq!(two.engine.audit_head().unwrap().entries, 0);
    two.close();
}

#[test]
fn a_trail_is_bounded_by_its_options() {
    let folder = tempdir().unwrap();
    let small = AuditOptions {
        trail: TrailOptions {
            segment_bytes: 4096,
            retained_bytes_max: 16384,
        },
        ..patient()
    };
    let two = Two::with(folder.path(), small);
    attempts(&two, 12);
    let (id, head) = (store(&two.engine), two.engine.audit_head());
    two.close();
    let files = std::fs::read_dir(folder.path().join("audit")).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 16384 + 4096, "{bytes}");
    let events = read(folder.path(), id, head).unwrap();
    let pruned = |event: &AuditEvent| matches!(event, AuditEvent::Pruned { .. });
    assert!(events.iter().any(pruned), "{events:?}");
}

#[test]
fn nothing_is_written_where_the_trail_is_switched_off_or_nothing_was_denied() {
    let folder = tempdir().unwrap();
    let off = AuditOptions {
        durable: false,
        ..patient()
    };
    for (name, options, count) in [("off", off, 2), ("quiet", patient(), 0)] {
        let store = folder.path().join(name);
        let two = Two::with(&store, options);
        attempts(&two, count);
        two.close();
        assert!(!store.join("audit").exists(), "{name}");
    }
}
