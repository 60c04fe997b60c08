//! Batches: many submissions of one computation in one go.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use orlop_saga::tenant::AuditTag;

use crate::computation::{Computation, Pure};
use crate::error::SubmitError;
use crate::halfway;
use crate::submission::{Awaited, Reply, Submission};
use crate::tenant::Tenant;

/// Many submissions; awaited, they are made together. Each has a key and an outcome of its own.
#[must_use = "nothing is submitted until this is awaited"]
pub struct Batch<C: Computation<Kind = Pure>> {
    tenant: Tenant,
    computation: C,
    inputs: Vec<C::Input>,
    ephemeral: bool,
    audit: AuditTag,
    deadline: Option<Duration>,
}

impl<C: Computation<Kind = Pure>> Batch<C> {
    pub(crate) fn new(tenant: Tenant, computation: C, inputs: Vec<C::Input>) -> Self {
        Self {
            tenant,
            computation,
            inputs,
            ephemeral: false,
            audit: AuditTag::default(),
            deadline: None,
        }
    }

    /// Who pays for every item.
    pub const fn audit(mut self, audit: AuditTag) -> Self {
        self.audit = audit;
        self
    }

    /// How long the caller waits for the outcome of each item, from when the batch is submitted: as
    /// [`Submission::deadline`](crate::Submission::deadline) says of one. An item that is too late
    /// is refused, or expires, alone.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Keeps nothing: outcomes live in memory until they are told.
    pub fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }
}

impl<C: Computation<Kind = Pure>> IntoFuture for Batch<C> {
    type Output = Result<Vec<Result<Reply<C::Output>, SubmitError>>, SubmitError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    /// # Errors
    /// [`SubmitError::Overloaded`]: more items than `limits.batch_items_max`; nothing was
    /// submitted. What befalls one item is that item's result.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let core = Arc::clone(&self.tenant.core);
            let (count, count_max) = (self.inputs.len(), core.limits.batch_items_max);
            if count > count_max {
                return Err(SubmitError::Overloaded {
                    what: "items of a batch",
                    count,
                    count_max,
                });
            }
            let mark = &core.marks.batch_items;
            halfway::size(mark, "limits.batch_items_max", count, count_max);
            let (tenant, computation, ephemeral) = (self.tenant, self.computation, self.ephemeral);
            let (audit, deadline) = (self.audit, self.deadline);
            let enter = |input| {
                let mut item: Submission<C, Pure, Awaited> =
                    Submission::new(tenant.clone(), computation, input).audit(audit);
                if let Some(deadline) = deadline {
                    item = item.deadline(deadline);
                }
                if ephemeral { item.ephemeral() } else { item }.enter()
            };
            // Nothing is published before all have entered: one run of entries, one wake.
            let inputs = self.inputs;
            let began = core.clock.monotonic();
            let entered: Vec<_> = core
                .executor
                .corked(|| inputs.into_iter().map(enter).collect());
            let mut replies = Vec::with_capacity(entered.len());
            for item in entered {
                replies.push(match item {
                    Ok(entered) => entered.outcome_since(began).await,
                    Err(error) => Err(error),
                });
            }
            Ok(replies)
        })
    }
}
