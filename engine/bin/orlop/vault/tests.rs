#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests assert by panicking"
)]

use std::fs;

use orlop::{Blake3, Engine, Origin, StoreId, wait};

use super::*;

/// A store with one outcome, closed; its id.
fn store(folder: &Path) -> StoreId {
    let engine = Engine::builder(folder).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("acme").unwrap();
    assert_eq!(origin(&engine), Origin::Ran);
    drop(tenant);
    let id = engine.recovery().store_id;
    engine.blocking().close().unwrap();
    id
}

fn origin(engine: &Engine) -> Origin {
    let tenant = engine.blocking().tenant("acme").unwrap();
    wait(tenant.submit(Blake3, "a page")).unwrap().origin
}

/// Opens what was made of a backup: its id, and whether it knows the outcome.
fn reopened(folder: &Path) -> (StoreId, Origin) {
    let engine = Engine::builder(folder).open_blocking().unwrap();
    let known = (engine.recovery().store_id, origin(&engine));
    engine.blocking().close().unwrap();
    known
}

fn restored(backup: &Path, into: &Path) -> Restore {
    Restore {
        backup: backup.to_owned(),
        into: into.to_owned(),
        incarnation_min: None,
    }
}

fn checked(folder: &Path) -> ExitCode {
    checked_against(folder, None)
}

fn checked_against(folder: &Path, audit_head: Option<ChainHead>) -> ExitCode {
    check(&Check {
        folder: folder.to_owned(),
        audit_head,
        audit: true,
    })
}

#[test]
fn a_store_is_checked_backed_up_restored_and_cloned_by_commands() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let id = store(&at("store"));
    assert_eq!(checked(&at("store")), ExitCode::SUCCESS);
    let asked = Backup {
        store: at("store"),
        into: at("backup"),
    };
    assert_eq!(backup(&asked), ExitCode::SUCCESS);
    assert_eq!(checked(&at("backup")), ExitCode::SUCCESS);
    // A second time the folder is not empty: it is not touched.
    assert_eq!(backup(&asked), ExitCode::from(2));
    assert_eq!(
        restore(&restored(&at("backup"), &at("restored"))),
        ExitCode::SUCCESS
    );
    assert_eq!(reopened(&at("restored")), (id, Origin::Replayed));
    assert_eq!(
        clone(&restored(&at("backup"), &at("clone"))),
        ExitCode::SUCCESS
    );
    let (cloned, origin) = reopened(&at("clone"));
    assert_ne!(cloned, id);
    assert_eq!(origin, Origin::Replayed);
    // Of nothing that was audited there is one head, and nothing may be missing of another.
    let head = ChainHead::genesis(id);
    for folder in ["store", "backup"] {
        assert_eq!(checked_against(&at(folder), Some(head)), ExitCode::SUCCESS);
        let removed = checked_against(&at(folder), Some(head.after(b"an entry")));
        assert_eq!(removed, ExitCode::from(1));
    }
    let asked = Upgrade { store: at("store") };
    assert_eq!(upgrade(&asked), ExitCode::SUCCESS);
    assert_eq!(reopened(&at("store")), (id, Origin::Replayed));
}

#[test]
fn what_is_damaged_is_found_and_what_is_not_there_is_not_made() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    store(&at("store"));
    let checkpoint = fs::read_dir(at("store"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("checkpoint-"))
        .unwrap();
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes.get_mut(middle).map(|byte| *byte ^= 1).unwrap();
    fs::write(&checkpoint, bytes).unwrap();
    assert_eq!(checked(&at("store")), ExitCode::from(1));

    let missing = at("missing");
    assert_eq!(checked(&missing), ExitCode::from(2));
    let asked = Upgrade {
        store: missing.clone(),
    };
    assert_eq!(upgrade(&asked), ExitCode::from(2));
    let asked = restored(&missing, &at("restored"));
    assert_eq!(restore(&asked), ExitCode::from(2));
    assert!(!missing.exists());
}
