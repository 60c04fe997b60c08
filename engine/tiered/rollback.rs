//! Rolling a published compaction back: the counter-saga of [`CompactionPublish`].
//!
//! [`CompactionPublish`]: super::CompactionPublish

use std::time::Duration;

use super::compact::{CompactionPublish, Published};
use super::delete::SegmentDelete;
use super::manifest::{ManifestDelete, TableManifest};
use super::update::{LocatorMove, LocatorRestore, LocatorUpdate};
use crate::counter::{CounterSaga, Original};
use crate::saga::{Saga, SagaContext, SagaError};

/// Takes a published compaction back: move the locator to the manifest before, pivot, delete the
/// manifest and the segments that the compaction wrote.
///
/// It ends without effect if somebody has moved the locator since: what was built upon the
/// compaction needs its segments. Local copies that the compaction retired are not brought back.
/// Its output is the revision that is current then.
#[derive(Clone, Copy, Debug)]
pub struct CompactionRollback {
    attempt_timeout: Duration,
}

impl CompactionRollback {
    pub(crate) fn new(attempt_timeout: Duration) -> Self {
        Self { attempt_timeout }
    }
}

impl CounterSaga<CompactionPublish> for CompactionRollback {
    fn input(original: Original<CompactionPublish>) -> Option<Published> {
        // Without its output nobody knows which revision it moved the locator to.
        original.output
    }
}

impl Saga for CompactionRollback {
    const NAME: &'static str = "compaction_rollback";
    type Input = Published;
    type Output = u64;

    async fn run(&self, saga: SagaContext, published: Published) -> Result<u64, SagaError> {
        let Published {
            table,
            revision,
            manifest,
            previous,
            staged,
        } = published;
        let back = LocatorMove {
            table: table.clone(),
            base: revision,
            manifest: previous,
        };
        let moved = saga
            .step("locate", LocatorUpdate, back.clone())
            .undo(LocatorRestore, back)
            .timeout(self.attempt_timeout)
            .await?;
        let saga = saga.pivot().await?;
        saga.step(
            "manifest",
            ManifestDelete,
            TableManifest { table, manifest },
        )
        .timeout(self.attempt_timeout)
        .await?;
        for (index, stored) in (0..).zip(staged) {
            saga.scope("segment", index)
                .step("delete", SegmentDelete, stored.object)
                .timeout(self.attempt_timeout)
                .await?;
        }
        Ok(moved.revision)
    }
}
