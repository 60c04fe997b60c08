//! What the killed processes run. Every output tells which attempt made it, so that an outcome
//! that was made twice is another one.

use std::path::Path;

use orlop::{
    Attempt, BulkheadOptions, Computation, DeviceOptions, Engine, EngineBuilder, External, Failure,
    Found, HOST_IO, HostFunction, Late, Limits, Options, Pure, Reconcile, Reconciled, RetryPolicy,
    Saga, SagaContext, SagaError, Undo, UndoFunction, Undoing,
};

use crate::ledger::{Deed, Known, Ledger};

/// More than a parent kills: a kill while a saga has its turn is charged to it as well.
const KILLS_MAX: u32 = 1 << 20;

/// The code, bound to an outside.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    ledger: Ledger,
}

fn output(fence: (u64, u32)) -> u64 {
    fence.0 * 1000 + u64::from(fence.1)
}

/// Says which attempt it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp;

impl Computation for Stamp {
    const NAME: &'static str = "stamp";
    type Input = String;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Stamp> for Code {
    async fn run(&self, attempt: Attempt, _input: String) -> Result<u64, Failure> {
        let fence = attempt.fence;
        Ok(output((fence.incarnation.get(), fence.attempt.get())))
    }
}

/// Writes a name outside. Every third name is not heard of at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = String;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for Code {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        let put = |_: &Known| Deed::Put;
        let Some(known) = self.ledger.act(attempt.remote_key, &attempt, &input, put) else {
            return Err(Failure::retryable("an older fence is refused"));
        };
        if input.ends_with('3') {
            return Err(Failure::in_doubt("no reply"));
        }
        Ok(output(known.put_by))
    }
}

impl Reconcile<Put> for Code {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: String) -> Reconciled<u64> {
        let see = |_: &Known| Deed::See;
        match self.ledger.act(attempt.remote_key, &attempt, &input, see) {
            None => Reconciled::Unknown("an older fence is refused".to_owned()),
            Some(known) if known.puts > known.removes => Reconciled::Done(output(known.put_by)),
            Some(_) => Reconciled::NotDone,
        }
    }
}

/// Removes what a [`Put`] wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = String;
    type Step = Put;
}

impl UndoFunction<Remove> for Code {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<Remove>) -> Result<(), Failure> {
        let remove = |known: &Known| {
            if known.puts > known.removes {
                Deed::Remove
            } else {
                Deed::See
            }
        };
        let name = &undoing.argument;
        let known = self.ledger.act(undoing.step_key, &attempt, name, remove);
        match (known, undoing.found) {
            (None, _) => Err(Failure::retryable("an older fence is refused")),
            (Some(known), Found::Done(told)) if told != output(known.put_by) => {
                Err(Failure::permanent("the step's output is another one"))
            }
            (Some(_), Found::Done(_) | Found::InDoubt) => Ok(()),
        }
    }
}

/// Three writes; the last one after the pivot, or never.
#[derive(Debug)]
pub(crate) struct Move;

impl Saga for Move {
    const NAME: &'static str = "move";
    type Input = (String, bool);
    type Output = Vec<u64>;

    async fn run(
        &self,
        saga: SagaContext,
        (name, gives_up): (String, bool),
    ) -> Result<Vec<u64>, SagaError> {
        let (one, two, three) = (
            format!("{name} 1"),
            format!("{name} 2"),
            format!("{name} 3"),
        );
        let first = saga.step("one", Put, one.clone()).undo(Remove, one);
        let second = saga.step("two", Put, two.clone()).undo(Remove, two);
        let both = futures_util::future::try_join(first.into_future(), second.into_future());
        let (first, second) = both.await?;
        if gives_up {
            return Err(SagaError::failed("it gives up"));
        }
        let saga = saga.pivot().await?;
        let third = saga.step("three", Put, three).await?;
        Ok(vec![first, second, third])
    }
}

/// How an engine is built that charges a saga so often before it is a suspect.
pub(crate) fn options(saga_crashes_max: u32) -> Options {
    // An attempt that a kill interrupts counts, and nothing here is poison.
    let retry = RetryPolicy {
        attempts_max: 10_000,
        ..RetryPolicy::default()
    };
    Options {
        limits: Limits {
            retry,
            saga_crashes_max,
            ..Limits::default()
        },
        device: DeviceOptions {
            workers: 1,
            arena_bytes: 1 << 20,
            ..DeviceOptions::default()
        },
        io_bulkhead: BulkheadOptions {
            in_flight_max: 4,
            ..BulkheadOptions::new(HOST_IO)
        },
        ..Options::default()
    }
}

/// An engine over the store in a folder, with its outside beside it.
pub(crate) fn builder(folder: &Path, ledger: &Ledger) -> EngineBuilder {
    let code = Code {
        ledger: ledger.clone(),
    };
    Engine::builder(folder.join("store"))
        .options(options(KILLS_MAX))
        .pure(Stamp, code.clone())
        .external(Put, code.clone())
        .undo(Remove, code)
        .saga(Move)
}
