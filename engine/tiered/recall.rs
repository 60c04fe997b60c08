//! Rolling an eviction back: the counter-saga of [`Evict`].

use std::time::Duration;

use super::delete::SegmentDelete;
use super::evict::{Evict, Evicted};
use super::restore::SegmentRestore;
use super::segment::StoredSegment;
use crate::counter::{CounterSaga, Original};
use crate::saga::{Saga, SagaContext, SagaError};

/// Takes an eviction back: restore the local copy, pivot, delete the version.
///
/// It ends without effect if the version is gone, or if the segment's name has a local copy with
/// other content by now. Nothing else may refer to the version: it is deleted.
#[derive(Clone, Copy, Debug)]
pub struct EvictionRollback {
    attempt_timeout: Duration,
}

impl EvictionRollback {
    pub(crate) fn new(attempt_timeout: Duration) -> Self {
        Self { attempt_timeout }
    }
}

impl CounterSaga<Evict> for EvictionRollback {
    fn input(original: Original<Evict>) -> Option<Evicted> {
        // Without its output nobody knows which version it uploaded.
        original.output
    }
}

impl Saga for EvictionRollback {
    const NAME: &'static str = "eviction_rollback";
    type Input = Evicted;
    type Output = ();

    async fn run(&self, saga: SagaContext, evicted: Evicted) -> Result<(), SagaError> {
        let stored = StoredSegment::from(evicted);
        saga.step("restore", SegmentRestore, stored.clone())
            .undo(SegmentRestore, stored.clone())
            .timeout(self.attempt_timeout)
            .await?;
        let saga = saga.pivot().await?;
        saga.step("delete", SegmentDelete, stored.object)
            .timeout(self.attempt_timeout)
            .await?;
        Ok(())
    }
}
