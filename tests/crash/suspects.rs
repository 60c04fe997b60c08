//! A saga that aborts its process whenever it is polled after its first step, beside two that do
//! not: the process that found it out lives, and the others end.

use std::path::Path;
use std::process::Command;

use orlop::{Engine, Key, PauseReason, Saga, SagaContext, SagaError, SagaStatus, SignalId, wait};

use crate::child::FOLDER;
use crate::code::{Put, Stamp, builder, options};
use crate::ledger::Ledger;

/// Set for the process that starts the sagas.
const FIRST: &str = "ORLOP_CRASH_FIRST";
/// How often the bad one may be charged.
const CRASHES_MAX: u32 = 3;

/// Aborts.
struct Bad;

impl Saga for Bad {
    const NAME: &'static str = "bad";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, _: u64) -> Result<u64, SagaError> {
        saga.step("one", Stamp, "one").await?;
        std::process::abort()
    }
}

/// Waits until it is told.
struct Good;

impl Saga for Good {
    const NAME: &'static str = "good";
    type Input = String;
    type Output = u64;

    async fn run(&self, saga: SagaContext, name: String) -> Result<u64, SagaError> {
        saga.step("one", Put, name).await?;
        Ok(saga.signal("go").await?)
    }
}

const GOOD: [&str; 2] = ["good 1", "good 2"];

fn open(folder: &Path) -> Engine {
    let ledger = Ledger::open(folder);
    let builder = builder(folder, &ledger).options(options(CRASHES_MAX));
    builder.saga(Bad).saga(Good).open_blocking().unwrap()
}

fn start(engine: &Engine) {
    let tenant = engine.blocking().tenant("a").unwrap();
    for name in GOOD {
        drop(wait(tenant.start::<Good>(Key::named(name), name)).unwrap());
    }
    let bad = wait(tenant.start::<Bad>(Key::named("bad"), 0_u64)).unwrap();
    // The process is gone before it is told.
    let _ = wait(bad);
}

/// Ends the good ones; only a process that was not aborted gets there.
fn end(engine: &Engine) {
    let manager = wait(engine.manage("a")).unwrap();
    let (tenant, operator) = (manager.tenant(), manager.operator());
    let bad = wait(operator.find(Key::named("bad"))).unwrap();
    assert_eq!(engine.recovery().suspects, [bad]);
    let crashes = CRASHES_MAX;
    assert_eq!(
        wait(operator.show(bad)).unwrap().summary.status,
        SagaStatus::Paused(PauseReason::Suspect { crashes })
    );
    for name in GOOD {
        let key = Key::named(name);
        wait(tenant.signal(key, "go", SignalId::named("1"), &7_u64)).unwrap();
        let ticket = wait(tenant.start::<Good>(key, name)).unwrap();
        assert_eq!(wait(ticket).unwrap().output, 7);
    }
    engine.blocking().close().unwrap();
}

#[test]
#[ignore = "the parent starts it, and it aborts"]
fn suspect_child() {
    let folder = std::env::var_os(FOLDER).expect("started by its parent");
    let engine = open(Path::new(&folder));
    if std::env::var_os(FIRST).is_some() {
        start(&engine);
    } else if engine.recovery().suspects.is_empty() {
        // Until it is aborted.
        let tenant = engine.blocking().tenant("a").unwrap();
        let bad = wait(tenant.start::<Bad>(Key::named("bad"), 0_u64)).unwrap();
        let _ = wait(bad);
        panic!("it was not aborted");
    } else {
        end(&engine);
    }
}

#[test]
fn a_saga_that_aborts_the_process_is_found_after_a_few_openings_and_the_others_complete() {
    let folder = tempfile::tempdir().unwrap();
    let mut aborts = 0;
    loop {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--ignored", "--exact", "suspects::suspect_child"])
            .env(FOLDER, folder.path());
        if aborts == 0 {
            child.env(FIRST, "1");
        }
        let output = child.output().unwrap();
        if output.status.success() {
            break;
        }
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(signal, Some(6), "{said}");
        aborts += 1;
        // The first life, two or three recoveries that name nobody, and those that are charged.
        assert!(aborts <= CRASHES_MAX + 4, "nobody is found");
    }
    assert!(aborts > CRASHES_MAX, "it was aborted {aborts} times");
    println!("aborted {aborts} times before it was found");
    // And in this process nothing is left of the others.
    let engine = open(folder.path());
    assert_eq!(engine.recovery().sagas, 1);
    engine.blocking().close().unwrap();
}
