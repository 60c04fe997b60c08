//! Outputs that cannot be kept: what happened outside is not taken for what did not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop::{
    Attempt, Computation, Engine, External, Failure, Found, HostFunction, Key, Late, Limits,
    Options, Reconcile, Reconciled, RetryPolicy, Saga, SagaContext, SagaError, SubmitError, Undo,
    UndoFunction, Undoing, wait,
};

/// Writes, and says so at length.
#[derive(Clone, Copy)]
struct Boast;

impl Computation for Boast {
    const NAME: &'static str = "boast";
    type Input = u64;
    type Output = String;
    type Kind = External;
}

/// Takes a [`Boast`] back.
#[derive(Clone, Copy)]
struct Hush;

impl Undo for Hush {
    const NAME: &'static str = "hush";
    type Argument = u64;
    type Step = Boast;
}

/// What was done outside.
#[derive(Clone, Default)]
struct Outside(Arc<Mutex<Vec<&'static str>>>);

impl Outside {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }
}

impl HostFunction<Boast> for Outside {
    async fn run(&self, _attempt: Attempt, length: u64) -> Result<String, Failure> {
        self.note("done");
        Ok("x".repeat(usize::try_from(length).unwrap()))
    }
}

impl Reconcile<Boast> for Outside {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, length: u64) -> Reconciled<String> {
        Reconciled::Done("x".repeat(usize::try_from(length).unwrap()))
    }
}

impl UndoFunction<Hush> for Outside {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Hush>) -> Result<(), Failure> {
        assert!(matches!(undoing.found, Found::InDoubt));
        self.note("undone");
        Ok(())
    }
}

struct Boasts;

impl Saga for Boasts {
    const NAME: &'static str = "boasts";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, length: u64) -> Result<(), SagaError> {
        saga.step("boast", Boast, length).undo(Hush, 0_u64).await?;
        Ok(())
    }
}

#[test]
fn external_work_whose_output_is_too_large_is_stuck_and_undone_and_never_as_if_it_had_failed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = Outside::default();
    let retry = RetryPolicy {
        attempts_max: 2,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
    };
    let limits = Limits {
        output_bytes_max: 1024,
        reconciles_max: 2,
        retry,
        ..Limits::default()
    };
    let engine = Engine::builder(folder.path().join("store"))
        .options(Options {
            limits,
            ..Options::default()
        })
        .external(Boast, outside.clone())
        .undo(Hush, outside.clone())
        .saga(Boasts)
        .open_blocking()
        .unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let plain = wait(tenant.submit(Boast, 2000_u64).key(Key::named("plain"))).unwrap_err();
    assert!(matches!(plain, SubmitError::Stuck { .. }), "{plain:?}");
    let key = Key::named("saga");
    let mut ticket = wait(tenant.start::<Boasts>(key, 2000_u64)).unwrap();
    let told = wait(ticket.wait_for(Duration::from_mins(1))).unwrap_err();
    assert!(matches!(told, SubmitError::Stuck { .. }), "{told:?}");
    wait(manager.cancel_saga(key)).unwrap();
    let told = wait(ticket.wait_for(Duration::from_mins(1))).unwrap_err();
    assert!(matches!(told, SubmitError::Failed(_)), "{told:?}");
    assert_eq!(*outside.0.lock().unwrap(), ["done", "done", "undone"]);
    engine.blocking().close().unwrap();
}
