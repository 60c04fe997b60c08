//! Retiring: the local copy of a segment is removed.

use orlop_saga::digest::Digest;
use orlop_saga::outcome::Failure;

use super::pack::Tiered;
use super::segment::Segment;
use crate::computation::{Computation, External};
use crate::host::{Attempt, HostFunction, Late, Reconcile, Reconciled};

/// Removes the local copy of a segment. A copy that is not what the digest says is left alone: it
/// fails for good, since nothing else has those bytes.
#[derive(Clone, Copy, Debug)]
pub struct RetireLocal;

impl Computation for RetireLocal {
    const NAME: &'static str = "retire_local";
    type Input = Segment;
    type Output = ();
    type Kind = External;
}

impl HostFunction<RetireLocal> for Tiered {
    async fn run(&self, attempt: Attempt, segment: Segment) -> Result<(), Failure> {
        let tenant = attempt.tenant;
        let expected = segment.digest;
        let retire = self
            .local()
            .with(tenant, &segment.name, move |local, name| {
                let Some(content) = local.read(tenant, name).map_err(Failure::retryable)? else {
                    return Ok(());
                };
                let digest = Digest::of(&content);
                if digest != expected {
                    let why = format!("the local copy of {name} is {digest}, not {expected}");
                    return Err(Failure::permanent(why));
                }
                local.remove(tenant, name).map_err(Failure::in_doubt)
            });
        retire.await
    }
}

impl Reconcile<RetireLocal> for Tiered {
    /// Fenced: attempts end with their process, and operations on one local copy are in a row, so
    /// that none is on its way once the copy was looked at.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, segment: Segment) -> Reconciled<()> {
        let tenant = attempt.tenant;
        let look = self
            .local()
            .with(tenant, &segment.name, move |local, name| {
                let content = local.read(tenant, name).map_err(Failure::retryable)?;
                Ok(content.is_none())
            });
        match look.await {
            Ok(true) => Reconciled::Done(()),
            Ok(false) => Reconciled::NotDone,
            Err(failure) => Reconciled::Unknown(failure.reason().to_owned()),
        }
    }
}
