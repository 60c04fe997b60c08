//! Pairs: a saga that puts two names side by side and a third after its pivot, with the mistakes
//! that an embedder might make in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orlop::testkit::{CrashSweep, Ending, FaultPlan, Outside, SimClock};
use orlop::{
    Attempt, Computation, EngineBuilder, External, Failure, Found, HostFunction, Late, Reconcile,
    Reconciled, Saga, SagaContext, SagaError, Undo, UndoFunction, Undoing,
};

/// What the code does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// An undo believes that what is in doubt did not happen.
    ForgetsDoubt,
    /// A reconciliation says `NotDone` without asking.
    NeverAsks,
    /// A reconciliation reads, and raises no fence.
    OnlyLooks,
    /// The saga goes by something that is not the same in the next process.
    Strays,
}

/// The code, bound to an outside.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) outside: Outside,
    pub(crate) mistake: Mistake,
    /// How many processes there were.
    pub(crate) lives: Arc<AtomicU32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = String;
    type Output = String;
    type Kind = External;
}

impl HostFunction<Put> for Code {
    async fn run(&self, attempt: Attempt, name: String) -> Result<String, Failure> {
        self.outside.put(&attempt, &name).await?;
        Ok(name)
    }
}

impl Reconcile<Put> for Code {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, name: String) -> Reconciled<String> {
        match self.mistake {
            Mistake::NeverAsks => return Reconciled::NotDone,
            Mistake::OnlyLooks => {
                return match self.outside.look(attempt.remote_key, &name) {
                    Ok(true) => Reconciled::Done(name),
                    Ok(false) => Reconciled::NotDone,
                    Err(failure) => Reconciled::Unknown(failure.reason().to_owned()),
                };
            }
            Mistake::None | Mistake::ForgetsDoubt | Mistake::Strays => {}
        }
        match self.outside.stat(&attempt, &name) {
            Reconciled::Done(()) => Reconciled::Done(name),
            Reconciled::NotDone => Reconciled::NotDone,
            Reconciled::Unknown(why) => Reconciled::Unknown(why),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = String;
    type Step = Put;
}

impl UndoFunction<Remove> for Code {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<Remove>) -> Result<(), Failure> {
        if self.mistake == Mistake::ForgetsDoubt && undoing.found == Found::InDoubt {
            return Ok(());
        }
        self.outside
            .remove(&attempt, undoing.step_key, &undoing.argument)
            .await
    }
}

/// The saga: `left` and `right` side by side, a day's rest, the pivot, `last`.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) strays: bool,
}

impl Saga for Pair {
    const NAME: &'static str = "pair";
    type Input = String;
    type Output = Vec<String>;

    async fn run(&self, saga: SagaContext, name: String) -> Result<Vec<String>, SagaError> {
        let of = |part: &str| format!("{name} {part}");
        let step = |part: &str| {
            let put = saga.step(part, Put, of(part)).undo(Remove, of(part));
            put.timeout(Duration::from_mins(1)).into_future()
        };
        let (left, right) = futures_util::future::try_join(step("left"), step("right")).await?;
        saga.sleep("rest", Duration::from_hours(24)).await?;
        if self.strays {
            saga.sleep("more", Duration::from_secs(1)).await?;
        }
        let saga = saga.pivot().await?;
        let last = saga
            .step("last", Put, of("last"))
            .timeout(Duration::from_mins(1))
            .await?;
        Ok(vec![left, right, last])
    }
}

/// The names that stand once a pair has ended.
pub(crate) fn expected<T>(ending: &Ending<T>) -> &'static [&'static str] {
    match ending {
        Ending::Completed(_) => &["p last", "p left", "p right"],
        Ending::Compensated(_) => &[],
        // Only what fails after the pivot is held.
        Ending::Held(_) => &["p left", "p right"],
    }
}

pub(crate) fn bind(code: &Code, builder: EngineBuilder) -> EngineBuilder {
    let life = code.lives.fetch_add(1, Ordering::Relaxed);
    builder
        .external(Put, code.clone())
        .undo(Remove, code.clone())
        .saga(Pair {
            strays: code.mistake == Mistake::Strays && life == 0,
        })
}

/// Code without a mistake.
pub(crate) fn code(outside: &Outside) -> Code {
    Code {
        outside: outside.clone(),
        mistake: Mistake::None,
        lives: Arc::default(),
    }
}

/// Sweeps a pair.
pub(crate) fn sweep(
    mistake: Mistake,
    outside: impl Fn(&SimClock) -> Outside + 'static,
) -> CrashSweep<Pair, Code> {
    CrashSweep::new(
        move |clock| Code {
            outside: outside(clock),
            mistake,
            lives: Arc::default(),
        },
        bind,
        |_, _| "p".to_owned(),
        |code, ending| {
            code.outside.check().map_err(|error| error.to_string())?;
            if let Ending::Held(reason) = ending
                && !reason.contains("after its pivot")
            {
                return Err(reason.clone());
            }
            let standing: Vec<String> = code.outside.standing().into_iter().collect();
            let expected = expected(ending);
            if standing != expected {
                return Err(format!("{standing:?} stand, not {expected:?}"));
            }
            Ok(())
        },
    )
}

/// An outside with faults that counts every repetition.
pub(crate) fn counting(plan: FaultPlan) -> impl Fn(&SimClock) -> Outside + 'static {
    move |clock| {
        Outside::new(clock)
            .counting_repeats()
            .with_faults(plan.clone())
    }
}
