//! Workflows: the five-step saga that is measured, and one that waits half-way.

use orlop::{Failure, Noop, Saga, SagaContext, SagaError, Undo, UndoFunction, Undoing};

/// Names of the five steps.
pub(crate) const STEPS: [&str; 5] = ["one", "two", "three", "four", "five"];
/// What the other saga waits for after the steps before.
pub(crate) const SIGNAL: &str = "go";
pub(crate) const STEPS_BEFORE: usize = 2;

/// Five durable steps, one after the other, each with an undo recorded.
pub(crate) struct Workflow;

impl Saga for Workflow {
    const NAME: &'static str = "bench.workflow";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, input: u64) -> Result<(), SagaError> {
        for name in STEPS {
            saga.step(name, Noop, input).undo(Nothing, input).await?;
        }
        Ok(())
    }
}

/// Takes two steps and waits for a signal.
pub(crate) struct Waiting;

impl Saga for Waiting {
    const NAME: &'static str = "bench.waiting";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, input: u64) -> Result<(), SagaError> {
        for name in STEPS.into_iter().take(STEPS_BEFORE) {
            saga.step(name, Noop, input).undo(Nothing, input).await?;
        }
        saga.signal::<()>(SIGNAL).await?;
        Ok(())
    }
}

/// Takes back what a noop did: nothing.
#[derive(Clone, Copy)]
pub(crate) struct Nothing;

impl Undo for Nothing {
    const NAME: &'static str = "bench.nothing";
    type Argument = u64;
    type Step = Noop;
}

impl UndoFunction<Nothing> for Nothing {
    async fn undo(
        &self,
        _attempt: orlop::Attempt,
        _undoing: Undoing<Nothing>,
    ) -> Result<(), Failure> {
        Ok(())
    }
}
