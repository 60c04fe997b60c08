//! Publishing a compaction: new segments take the place of old ones, all of them or none.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::delete::SegmentDelete;
use super::manifest::{Manifest, ManifestDelete, ManifestPut, ManifestVersion};
use super::name::TableName;
use super::put::SegmentPut;
use super::retire::RetireLocal;
use super::segment::{Segment, StoredSegment};
use super::stat::SegmentStat;
use super::update::{LocatorMove, LocatorMoved, LocatorRestore, LocatorUpdate};
use crate::saga::{Saga, SagaContext, SagaError, StepError};

/// How many segments are staged side by side: as many may be in memory at once.
const STAGED_AT_ONCE: usize = 4;

/// What is to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// Of which table.
    pub table: TableName,
    /// The revision of the locator that the compaction was made from; 0 where there is none yet.
    /// If another one is current by then, nothing is published.
    pub base: u64,
    /// Segments of the manifest before that stay. With those that are staged they make a manifest
    /// of at most `limits.input_bytes_max`.
    pub keep: Vec<StoredSegment>,
    /// Segments that are new, with local copies to upload.
    pub stage: Vec<Segment>,
    /// What else the manifest is to hold.
    pub notes: Vec<u8>,
    /// Whether the local copies of what was staged are removed once it is published.
    pub retire: bool,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Of which table.
    pub table: TableName,
    /// The revision of the locator that says so.
    pub revision: u64,
    /// The manifest that is current now: what was kept and then what was staged.
    pub manifest: ManifestVersion,
    /// The manifest that was current before.
    pub previous: Option<ManifestVersion>,
    /// Where the new segments are.
    pub staged: Vec<StoredSegment>,
}

/// Publishes a compaction: stage segments, put the manifest, move the locator, pivot, retire.
///
/// Readers see nothing of it until the locator moves, which is one conditional write. Up to the
/// pivot, which is recorded with the outcome of that write, whatever goes wrong or a cancel takes
/// everything away again: the locator is moved back if it had moved, and what was staged is
/// deleted, also what nobody heard the end of. If somebody else moved the locator first, that is
/// such a failure. If somebody has built upon the move that is to be taken back, the saga is stuck
/// and nothing is deleted. After the pivot a rollback is a saga of its own,
/// [`CompactionRollback`](super::CompactionRollback).
///
/// What the compaction replaced is left where it is: it can be deleted once no reader uses it and
/// nobody wants to roll back.
#[derive(Clone, Copy, Debug)]
pub struct CompactionPublish {
    attempt_timeout: Duration,
}

impl CompactionPublish {
    pub(crate) fn new(attempt_timeout: Duration) -> Self {
        Self { attempt_timeout }
    }

    async fn stage(
        &self,
        saga: &SagaContext,
        segments: &[Segment],
    ) -> Result<Vec<StoredSegment>, StepError> {
        let mut staged = Vec::with_capacity(segments.len());
        let numbered: Vec<(u64, &Segment)> = (0..).zip(segments).collect();
        for group in numbered.chunks(STAGED_AT_ONCE) {
            let group = group
                .iter()
                .map(|(index, segment)| self.stage_one(saga.scope("stage", *index), segment));
            staged.extend(try_join_all(group).await?);
        }
        Ok(staged)
    }

    async fn stage_one(
        &self,
        saga: SagaContext,
        segment: &Segment,
    ) -> Result<StoredSegment, StepError> {
        let stored = saga
            .step("upload", SegmentPut, segment.clone())
            .undo(SegmentDelete, segment.clone())
            .timeout(self.attempt_timeout)
            .await?;
        saga.step("verify", SegmentStat, stored.clone())
            .timeout(self.attempt_timeout)
            .await?;
        Ok(stored)
    }
}

impl Saga for CompactionPublish {
    const NAME: &'static str = "compaction_publish";
    type Input = Compaction;
    type Output = Published;

    async fn run(&self, saga: SagaContext, input: Compaction) -> Result<Published, SagaError> {
        let Compaction {
            table,
            base,
            keep,
            stage,
            notes,
            retire,
        } = input;
        let staged = self.stage(&saga, &stage).await?;
        let manifest = Manifest {
            table: table.clone(),
            segments: keep.into_iter().chain(staged.iter().cloned()).collect(),
            notes,
        };
        let manifest = saga
            .step("publish", ManifestPut, manifest)
            .undo(ManifestDelete, table.clone())
            .timeout(self.attempt_timeout)
            .await?;
        let to = LocatorMove {
            table: table.clone(),
            base,
            manifest: Some(manifest.clone()),
        };
        let LocatorMoved { revision, previous } = saga
            .step("locate", LocatorUpdate, to.clone())
            .undo(LocatorRestore, to)
            .timeout(self.attempt_timeout)
            .await?;
        let saga = saga.pivot().await?;
        if retire {
            for (index, segment) in (0..).zip(stage) {
                saga.scope("retire", index)
                    .step("local", RetireLocal, segment)
                    .timeout(self.attempt_timeout)
                    .await?;
            }
        }
        Ok(Published {
            table,
            revision,
            manifest,
            previous,
            staged,
        })
    }
}
