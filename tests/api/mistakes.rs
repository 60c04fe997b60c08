//! The mistakes a user makes: each is told what did not happen and what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use orlop::store::disk::{Disk, SimDisk};
use orlop::store::folder::FolderError;
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{
    BulkheadOptions, Engine, EngineBuilder, Escalation, HOST_IO, Key, Lease, Limits, Noop,
    OpenError, Options, Origin, Parts, RegisterError, RetryPolicy, Saga, SagaContext, SagaError,
    StoreId, StoreOpenError, StoreOptions, SubmitError, Unavailable, wait,
};

use crate::gate::{Gate, Pass};
use crate::support::{Double, Put, World};

fn folder_error(error: OpenError) -> FolderError {
    match error {
        OpenError::Store(StoreOpenError::Folder(error)) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn opening_one_path_twice_in_a_process_is_refused_and_the_first_goes_on() {
    let world = World::new();
    let engine = world.open();
    let error = folder_error(world.builder().open_blocking().unwrap_err());
    assert!(matches!(error, FolderError::OpenHere { .. }), "{error:?}");
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(wait(tenant.submit(Double, 1_u64)).unwrap().output, 2);
    engine.blocking().close().unwrap();
    world.open().blocking().close().unwrap();
}

const HELD: &str = "ORLOP_API_HELD";

#[test]
#[ignore = "another test starts it, and ends it"]
fn holder() {
    let folder = std::env::var_os(HELD).expect("started by another test");
    let engine = Engine::builder(PathBuf::from(folder))
        .open_blocking()
        .unwrap();
    println!("\n@open");
    std::io::stdout().flush().unwrap();
    // Ends when whoever started it closes its end.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn opening_what_another_process_has_open_names_that_process() {
    let world = World::new();
    let path = world.folder.path().join("store");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "mistakes::holder", "--nocapture"])
        .env(HELD, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "@open"));
    let error = folder_error(world.builder().open_blocking().unwrap_err());
    let text = error.to_string();
    let holder = match error {
        FolderError::Locked { holder, .. } => holder.unwrap(),
        error => panic!("{error:?}"),
    };
    assert_eq!(holder.pid, child.id());
    assert!(text.contains(&child.id().to_string()), "{text}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    world.open().blocking().close().unwrap();
}

#[test]
fn a_path_that_is_no_store_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let open = |path: PathBuf| Engine::builder(path).open_blocking().unwrap_err();
    let error = folder_error(open(folder.path().to_owned()));
    assert!(matches!(error, FolderError::NotAStore { .. }), "{error:?}");
    let file = folder.path().join("letter.txt");
    let error = folder_error(open(file.clone()));
    assert!(
        matches!(error, FolderError::NotADirectory { .. }),
        "{error:?}"
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), "dear");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let options = Options {
        store: StoreOptions {
            create: false,
            ..StoreOptions::default()
        },
        ..Options::default()
    };
    let missing = Engine::builder(folder.path().join("none")).options(options);
    let error = folder_error(missing.open_blocking().unwrap_err());
    assert!(matches!(error, FolderError::Missing { .. }), "{error:?}");
}

#[test]
fn a_computation_without_code_is_named_and_nothing_is_kept() {
    let world = World::new();
    let engine = Engine::builder(world.folder.path().join("store"))
        .open_blocking()
        .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let error = wait(tenant.submit(Double, 1_u64)).unwrap_err();
    assert_eq!(error, SubmitError::Unregistered { name: "double" });
    let error = wait(tenant.enqueue(Put, "x").key(Key::named("x"))).unwrap_err();
    assert_eq!(error, SubmitError::Unregistered { name: "put" });
    let error = wait(tenant.start::<Doubling>(Key::named("s"), 1_u64)).unwrap_err();
    assert_eq!(error, SubmitError::Unregistered { name: "double" });
    assert_eq!(engine.snapshot().effects, 0);
    engine.blocking().close().unwrap();
}

/// A saga that has a computation's name.
struct Doubling;

impl Saga for Doubling {
    const NAME: &'static str = "double";
    type Input = u64;
    type Output = u64;

    async fn run(&self, _saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        Ok(input)
    }
}

#[test]
fn a_name_that_is_registered_twice_is_refused_also_for_different_things() {
    let world = World::new();
    let path = world.folder.path().join("store");
    let duplicate = |builder: EngineBuilder| match builder.open_blocking().unwrap_err() {
        OpenError::Register(error) => error,
        error => panic!("{error:?}"),
    };
    let twice = world.builder().pure(Double, world.doubler.clone());
    assert_eq!(
        duplicate(twice),
        RegisterError::Duplicate { name: "double" }
    );
    let saga = world.builder().saga(Doubling);
    assert_eq!(duplicate(saga), RegisterError::Duplicate { name: "double" });
    assert!(
        !path.exists(),
        "nothing is created by an engine that cannot be"
    );
}

#[test]
fn options_that_cannot_be_are_named() {
    let world = World::new();
    let opened = |options: Options| world.builder().options(options).open_blocking();
    let error = opened(Options {
        io_threads: 0,
        ..Options::default()
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("io_threads"), "{error}");
    let defaults = Limits::default;
    let (never, no_time) = (Duration::MAX, Duration::ZERO);
    let lease = |period| {
        let then = Escalation::Retry;
        Some(Lease { period, then })
    };
    let retry = |base, cap| RetryPolicy {
        base,
        cap,
        ..RetryPolicy::default()
    };
    for (name, limits) in [
        (
            "limits.attempt_timeout",
            Limits {
                attempt_timeout: Some(no_time),
                ..defaults()
            },
        ),
        (
            "limits.attempt_timeout",
            Limits {
                attempt_timeout: Some(never),
                ..defaults()
            },
        ),
        (
            "limits.lease.period",
            Limits {
                lease: lease(no_time),
                ..defaults()
            },
        ),
        (
            "limits.lease.period",
            Limits {
                lease: lease(never),
                ..defaults()
            },
        ),
        (
            "limits.retry.base",
            Limits {
                retry: retry(never, no_time),
                ..defaults()
            },
        ),
        (
            "limits.retry.cap",
            Limits {
                retry: retry(no_time, never),
                ..defaults()
            },
        ),
    ] {
        let options = Options {
            limits,
            ..Options::default()
        };
        let error = opened(options).unwrap_err().to_string();
        assert!(error.contains(name), "{error} is not of {name}");
    }
    let error = opened(Options {
        bulkheads: vec![BulkheadOptions::new(HOST_IO)],
        ..Options::default()
    });
    let error = error.unwrap_err();
    assert!(
        matches!(error, OpenError::BulkheadTwice { .. }),
        "{error:?}"
    );
    let error = world.builder().pure(Pass, Gate::new()).open_blocking();
    let error = error.unwrap_err();
    let unknown = RegisterError::NoBulkhead {
        name: "pass".to_owned(),
        bulkhead: Gate::BULKHEAD.to_owned(),
    };
    assert!(
        matches!(&error, OpenError::Register(error) if *error == unknown),
        "{error:?}"
    );
}

#[test]
fn an_input_over_the_limit_is_refused_before_anything_is_kept() {
    let world = World::new();
    let limits = Limits {
        input_bytes_max: 64,
        output_bytes_max: 64,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let engine = world.builder().options(options).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("x");
    let error = wait(tenant.submit(Put, "y".repeat(65)).key(key)).unwrap_err();
    assert!(matches!(error, SubmitError::Encode(_)), "{error:?}");
    assert_eq!(world.outside.ledger(), [""; 0]);
    wait(tenant.submit(Put, "x").key(key)).unwrap();
    engine.blocking().close().unwrap();
}

#[test]
fn a_full_disk_refuses_new_work_and_still_takes_the_outcome_of_what_runs() {
    let (log, shelf, disk) = (SimLogDisk::new(), SimShelf::new(), SimDisk::new());
    let checkpoints: Arc<dyn Disk> = Arc::new(disk);
    let gate = Gate::new();
    let engine = EngineBuilder::on_parts(Parts {
        store: StoreId::new([7; 16]),
        log: Box::new(log.open(LogOptions::default())),
        home: Box::new(SimHome::new(shelf)),
        disk: checkpoints,
        folder: PathBuf::from("/"),
    })
    .options(Gate::options())
    .pure(Pass, gate.clone())
    .open_blocking()
    .unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let running = wait(tenant.enqueue(Pass, 1_u64)).unwrap();
    gate.wait_started();
    log.set_full(true);
    let full = SubmitError::Unavailable(Unavailable::DiskFull);
    assert_eq!(wait(tenant.enqueue(Pass, 2_u64)).unwrap_err(), full);
    assert!(full.is_retryable());
    gate.let_go(2);
    assert_eq!(wait(running).unwrap().output, 1);
    log.set_full(false);
    assert_eq!(
        wait(wait(tenant.enqueue(Pass, 3_u64)).unwrap())
            .unwrap()
            .output,
        3
    );
    engine.blocking().close().unwrap();
}

/// One step that needs nobody.
struct Once;

impl Saga for Once {
    const NAME: &'static str = "once";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, number: u64) -> Result<(), SagaError> {
        saga.step("only", Noop, number).await?;
        Ok(())
    }
}

#[test]
fn a_saga_that_a_full_disk_refused_leaves_nothing_in_the_journal() {
    let (log, shelf) = (SimLogDisk::new(), SimShelf::new());
    let checkpoints: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let open = || {
        EngineBuilder::on_parts(Parts {
            store: StoreId::new([7; 16]),
            log: Box::new(log.open(LogOptions::default())),
            home: Box::new(SimHome::new(shelf.clone())),
            disk: Arc::clone(&checkpoints),
            folder: PathBuf::from("/"),
        })
        .saga(Once)
        .open_blocking()
        .unwrap()
    };
    let engine = open();
    let tenant = engine.blocking().tenant("a").unwrap();
    log.set_full(true);
    for number in 0..8_u64 {
        let key = Key::named(&number.to_string());
        let refused = wait(tenant.start::<Once>(key, number)).unwrap_err();
        let full = SubmitError::Unavailable(Unavailable::DiskFull);
        assert_eq!(refused, full);
    }
    log.set_full(false);
    // What is in the journal now is what the next engine folds.
    engine.blocking().close().unwrap();
    drop((tenant, engine));
    let engine = open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let begun = wait(tenant.start::<Once>(Key::named("1"), 1_u64)).unwrap();
    assert_eq!(wait(begun).unwrap().origin, Origin::Ran);
    engine.blocking().close().unwrap();
}
