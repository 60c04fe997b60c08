//! Chains: a saga whose steps are in its input, so that any saga can be drawn.

use std::time::Duration;

use futures_util::future::try_join;
use orlop::{Saga, SagaContext, SagaError};
use serde::{Deserialize, Serialize};

use crate::outside::{Put, Remove, Worth, worth};

/// One thing that a chain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Link {
    /// Computes.
    Worth,
    /// Writes, with an undo before the pivot.
    Put,
    /// Writes two names at once, with undos; computes after the pivot.
    Pair,
    /// Sleeps.
    Nap,
    /// Draws a number and asks for the time.
    Note,
}

/// What a chain does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What its names begin with.
    pub(crate) name: String,
    /// Before the pivot.
    pub(crate) before: Vec<Link>,
    /// After the pivot, if there is one.
    pub(crate) after: Option<Vec<Link>>,
    /// Whether it gives up before the pivot, or at its end.
    pub(crate) gives_up: bool,
}

impl Plan {
    /// The name that the link at `index` writes or computes.
    pub(crate) fn name_of(&self, index: usize) -> String {
        format!("{}/{index}", self.name)
    }

    /// Every name that it may write, in the order of its intents.
    pub(crate) fn writes(&self) -> Vec<String> {
        let mut names = Vec::new();
        let after = self.after.iter().flatten().map(|link| (link, true));
        let links = self.before.iter().map(|link| (link, false)).chain(after);
        for (index, (link, pivoted)) in links.enumerate() {
            match link {
                Link::Put => names.push(self.name_of(index)),
                Link::Pair if !pivoted => {
                    names.push(self.name_of(index));
                    names.push(format!("{}b", self.name_of(index)));
                }
                Link::Pair | Link::Worth | Link::Nap | Link::Note => {}
            }
        }
        names
    }
}

/// The saga.
#[derive(Debug)]
pub(crate) struct Chain;

impl Saga for Chain {
    const NAME: &'static str = "chain";
    type Input = Plan;
    type Output = Vec<u64>;

    async fn run(&self, saga: SagaContext, plan: Plan) -> Result<Vec<u64>, SagaError> {
        let mut outputs = Vec::new();
        for (index, link) in plan.before.iter().enumerate() {
            let scope = saga.scope("link", index as u64);
            let name = plan.name_of(index);
            match link {
                Link::Worth => outputs.push(scope.step("worth", Worth, name).await?),
                Link::Put => {
                    let put = scope.step("put", Put, name.clone()).undo(Remove, name);
                    outputs.push(put.await?);
                }
                Link::Pair => {
                    let other = format!("{name}b");
                    let put = scope.step("put", Put, name.clone()).undo(Remove, name);
                    let also = scope.step("also", Put, other.clone()).undo(Remove, other);
                    let (put, also) = try_join(put.into_future(), also.into_future()).await?;
                    outputs.extend([put, also]);
                }
                Link::Nap => scope.sleep("nap", Duration::from_millis(1)).await?,
                Link::Note => outputs.push(scope.random("draw")? ^ scope.now("time")?.get()),
            }
        }
        if plan.gives_up {
            return Err(SagaError::failed("it gives up"));
        }
        let Some(after) = &plan.after else {
            return Ok(outputs);
        };
        let saga = saga.pivot().await?;
        for (index, link) in (plan.before.len()..).zip(after) {
            let scope = saga.scope("link", index as u64);
            let name = plan.name_of(index);
            match link {
                Link::Worth | Link::Pair => outputs.push(scope.step("worth", Worth, name).await?),
                Link::Put => outputs.push(scope.step("put", Put, name).await?),
                Link::Nap => scope.sleep("nap", Duration::from_millis(1)).await?,
                Link::Note => outputs.push(scope.random("draw")?),
            }
        }
        Ok(outputs)
    }
}

/// What a completed chain gives, where nothing of it is drawn.
pub(crate) fn output_of(plan: &Plan) -> Option<Vec<u64>> {
    let mut outputs = Vec::new();
    let after = plan.after.iter().flatten().map(|link| (link, true));
    let links = plan.before.iter().map(|link| (link, false)).chain(after);
    for (index, (link, pivoted)) in links.enumerate() {
        let name = plan.name_of(index);
        match link {
            Link::Worth | Link::Put => outputs.push(worth(&name)),
            Link::Pair if pivoted => outputs.push(worth(&name)),
            Link::Pair => outputs.extend([worth(&name), worth(&format!("{name}b"))]),
            Link::Nap => {}
            Link::Note => return None,
        }
    }
    Some(outputs)
}
