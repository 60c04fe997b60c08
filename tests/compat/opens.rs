//! Opening a fixture, and what must come of it.

use std::path::{Path, PathBuf};

use orlop::{Engine, Failure, Format, Key, Origin, SubmitError, Tenant, wait};

use crate::managed;
use crate::newer;
use crate::pages::Pages;
use crate::paid;
use crate::world::{
    COMPLETES, Double, FAILS, Fill, HANGS, HANGS_BACKWARD, LOCKED, PANICS, Plan, Put, PutNarrow,
    SLEEPS, World, builder,
};
use crate::writer::write;

/// Every store that was ever committed.
pub(crate) const COMMITTED: [(&str, &[u8]); 3] = [
    ("format 1", include_bytes!("../fixtures/store-v1.pages")),
    ("format 2", include_bytes!("../fixtures/store-v2.pages")),
    ("format 3", include_bytes!("../fixtures/store-v3.pages")),
];

/// A fixture laid out in a folder, with its outside.
pub(crate) struct Found {
    _folder: tempfile::TempDir,
    pub(crate) store: PathBuf,
    pub(crate) world: World,
}

impl Found {
    pub(crate) fn new(pages: &Pages) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        pages.lay_out(&store);
        let world = World::default();
        let mut state = world.state.lock().unwrap();
        state.present = pages.outside.iter().cloned().collect();
        drop(state);
        Self {
            _folder: folder,
            store,
            world,
        }
    }

    pub(crate) fn open(&self) -> Engine {
        builder(&self.store, &self.world).open_blocking().unwrap()
    }
}

fn saga(tenant: &Tenant, name: &str, mode: u8) -> Result<(u64, u64), SubmitError> {
    let input = (name.to_owned(), mode);
    let ticket = wait(tenant.start::<Plan>(Key::named(name), input)).unwrap();
    wait(ticket).map(|reply| reply.output)
}

/// What had ended is replayed and not done again.
pub(crate) fn replays(engine: &Engine, world: &World) {
    let acme = engine.blocking().tenant("acme").unwrap();
    let before = world.ledger();
    let reply = wait(acme.submit(Double, 21_u64)).unwrap();
    assert_eq!((reply.output, reply.origin), (42, Origin::Replayed));
    let failed = wait(acme.submit(Double, 13_u64)).unwrap_err();
    assert_eq!(
        failed,
        SubmitError::Failed(Failure::permanent("thirteen is not doubled"))
    );
    let reply = wait(acme.submit(Fill, 10_000_u32)).unwrap();
    assert_eq!(
        (reply.output.len(), reply.origin),
        (10_000, Origin::Replayed)
    );
    let reply = wait(acme.submit(Put, "put").key(Key::named("put"))).unwrap();
    assert_eq!((reply.output, reply.origin), (3, Origin::Replayed));
    let (at, _) = saga(&acme, "completed", COMPLETES).unwrap();
    assert!(at > 0);
    let given_up = SubmitError::Failed(Failure::permanent("as asked for"));
    assert_eq!(saga(&acme, "compensated", FAILS).unwrap_err(), given_up);
    assert!(saga(&acme, "later completed", COMPLETES).is_ok());
    let other = engine.blocking().tenant("other").unwrap();
    let reply = wait(other.submit(Fill, 20_000_u32)).unwrap();
    assert_eq!(
        (reply.output.len(), reply.origin),
        (20_000, Origin::Replayed)
    );
    let reply = wait(other.submit(Double, 4_u64)).unwrap();
    assert_eq!((reply.output, reply.origin), (8, Origin::Replayed));
    let about: Vec<String> = world
        .ledger()
        .into_iter()
        .skip(before.len())
        .filter(|entry| {
            ["put put", "completed", "compensated"]
                .iter()
                .any(|n| entry.contains(n))
        })
        .filter(|entry| !entry.contains("hangs"))
        .collect();
    assert_eq!(about, Vec::<String>::new());
}

/// What had not ended goes on, and the outside has it once.
pub(crate) fn goes_on(engine: &Engine, world: &World) {
    let manager = wait(engine.manage("acme")).unwrap();
    let acme = manager.tenant();
    for name in ["hangs after", "hangs before", "hangs before, later"] {
        let reply = wait(acme.submit(Put, name).key(Key::named(name))).unwrap();
        assert_eq!(reply.output, name.len() as u64);
    }
    for name in ["hangs narrow", "accepted"] {
        wait(acme.submit(PutNarrow, name).key(Key::named(name))).unwrap();
    }
    let unknowable = wait(acme.submit(Put, "unknowable").key(Key::named("unknowable")));
    assert!(
        matches!(unknowable, Err(SubmitError::Stuck { .. })),
        "{unknowable:?}"
    );
    for name in ["forward", "later forward"] {
        saga(acme, name, HANGS).unwrap();
    }
    saga(acme, "sleeping", SLEEPS).unwrap();
    let given_up = SubmitError::Failed(Failure::permanent("as asked for"));
    for name in ["backward", "later backward"] {
        assert_eq!(saga(acme, name, HANGS_BACKWARD).unwrap_err(), given_up);
    }
    for (name, mode) in [("locked", LOCKED), ("panicked", PANICS)] {
        let held = saga(acme, name, mode).unwrap_err();
        assert!(
            matches!(held, SubmitError::Stuck { .. }),
            "{name}: {held:?}"
        );
        assert!(manager.retry(Key::named(name)), "{name}");
        let ended = loop {
            match saga(acme, name, mode) {
                Err(SubmitError::Stuck { .. }) => std::thread::yield_now(),
                ended => break ended,
            }
        };
        assert_eq!(ended.is_ok(), mode == PANICS, "{name}: {ended:?}");
    }
    let present = world.present();
    let mut once = present.clone();
    once.dedup();
    assert_eq!(present, once, "something is there twice");
    for name in [
        "forward",
        "later forward",
        "sleeping",
        "panicked",
        "completed",
    ] {
        for part in ["one", "part 0", "part 1", "three"] {
            let part = format!("{name} {part}");
            assert!(present.contains(&part), "{part} is not there");
        }
    }
    let left = |name: &str| present.iter().any(|found| found.starts_with(name));
    for name in ["backward", "later backward", "locked", "compensated"] {
        assert!(!left(name), "something of {name} is left");
    }
    for name in [
        "put",
        "hangs after",
        "hangs before",
        "hangs narrow",
        "accepted",
    ] {
        assert!(
            present.iter().any(|found| found == name),
            "{name} is not there"
        );
    }
}

fn opens(pages: &Pages) {
    let found = Found::new(pages);
    let engine = found.open();
    let recovery = engine.recovery();
    assert_eq!(recovery.tables_rebuilt, None);
    let more = match recovery.format {
        Format::V1 => 0,
        Format::V2 | Format::V3 => newer::SAGAS,
    };
    assert_eq!((recovery.effects, recovery.sagas), (6, 7 + more));
    replays(&engine, &found.world);
    goes_on(&engine, &found.world);
    if more > 0 {
        newer::goes_on(&engine, &found.world);
    }
    match recovery.format {
        Format::V1 | Format::V2 => {
            paid::is_refused(&engine);
            managed::is_refused(&engine);
        }
        Format::V3 => {
            paid::is_kept(&engine);
            managed::is_kept(&engine);
        }
    }
    engine.blocking().close().unwrap();
    // And what it became is found by the next opening too.
    let engine = found.open();
    replays(&engine, &found.world);
    assert_eq!((engine.recovery().effects, engine.recovery().sagas), (1, 0));
    engine.blocking().close().unwrap();
}

#[test]
fn every_committed_store_opens_its_outcomes_replay_and_its_work_goes_on() {
    for (name, bytes) in COMMITTED {
        println!("{name}");
        opens(&Pages::decode(bytes));
    }
}

#[test]
fn what_the_code_of_today_writes_as_a_fixture_opens() {
    let folder = tempfile::tempdir().unwrap();
    let pages = write(&folder.path().join("store"));
    let bytes = pages.encode();
    opens(&Pages::decode(&bytes));
    if let Some(file) = std::env::var_os("ORLOP_FIXTURE") {
        std::fs::write(Path::new(&file), bytes).unwrap();
    }
}

#[test]
fn tables_of_a_committed_store_are_rebuilt_from_its_export_and_journal() {
    for (_, bytes) in COMMITTED {
        let found = Found::new(&Pages::decode(bytes));
        std::fs::remove_dir_all(found.store.join("tables")).unwrap();
        let engine = found.open();
        assert!(engine.recovery().tables_rebuilt.is_some());
        replays(&engine, &found.world);
        engine.blocking().close().unwrap();
    }
}
