//! Evicting: a segment leaves the local disk for the object store, all the way or not at all.

use std::time::Duration;

use orlop_saga::digest::Digest;
use serde::{Deserialize, Serialize};

use super::delete::SegmentDelete;
use super::name::SegmentName;
use super::put::SegmentPut;
use super::retire::RetireLocal;
use super::segment::{Segment, SegmentVersion, StoredSegment};
use super::stat::SegmentStat;
use crate::device::{Blake3, Source};
use crate::saga::{Saga, SagaContext, SagaError};

/// What is to be evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// The segment's name.
    pub name: SegmentName,
    /// Its epoch.
    pub epoch: u64,
    /// Its content, for the device: a buffer, or the bytes themselves if they are few. The local
    /// copy must be the same.
    pub content: Source,
}

/// Where a segment went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// The version that holds it now.
    pub object: SegmentVersion,
    /// The BLAKE3 digest of its content.
    pub digest: Digest,
    /// The length of its content, in bytes.
    pub length: u64,
}

impl From<Evicted> for StoredSegment {
    fn from(evicted: Evicted) -> Self {
        let Evicted {
            object,
            digest,
            length,
        } = evicted;
        Self {
            object,
            digest,
            length,
        }
    }
}

/// Evicts one segment: digest on the device, upload, verify, pivot, retire.
///
/// Until the pivot the local copy is untouched, and whatever goes wrong or a cancel takes the
/// uploaded version away again. From there on the version stays, and only the local copy is left
/// to go; if it does not, the saga is stuck and says why. It is taken back by a saga of its own,
/// [`EvictionRollback`](super::EvictionRollback).
#[derive(Clone, Copy, Debug)]
pub struct Evict {
    attempt_timeout: Duration,
}

impl Evict {
    pub(crate) fn new(attempt_timeout: Duration) -> Self {
        Self { attempt_timeout }
    }
}

impl Saga for Evict {
    const NAME: &'static str = "segment_evict";
    type Input = Eviction;
    type Output = Evicted;

    async fn run(&self, saga: SagaContext, input: Eviction) -> Result<Evicted, SagaError> {
        let digest = saga.step("digest", Blake3, input.content).await?;
        let segment = Segment {
            name: input.name,
            epoch: input.epoch,
            digest,
        };
        let stored = saga
            .step("upload", SegmentPut, segment.clone())
            .undo(SegmentDelete, segment.clone())
            .timeout(self.attempt_timeout)
            .await?;
        saga.step("verify", SegmentStat, stored.clone())
            .timeout(self.attempt_timeout)
            .await?;
        let saga = saga.pivot().await?;
        saga.step("retire", RetireLocal, segment)
            .timeout(self.attempt_timeout)
            .await?;
        let StoredSegment {
            object,
            digest,
            length,
        } = stored;
        Ok(Evicted {
            object,
            digest,
            length,
        })
    }
}
