//! The output of a saga that ended, where it is in a blob.

use super::{Phase, SagaState};
use crate::blob::BlobRef;
use crate::canonical::Payload;

impl SagaState {
    /// The blob that its output is in, if it is in one.
    pub fn output_blob(&self) -> Option<BlobRef> {
        match &self.phase {
            Phase::CompletedInBlob { output, .. } => Some(*output),
            Phase::Running
            | Phase::Unwinding { .. }
            | Phase::Completed { .. }
            | Phase::Compensated { .. }
            | Phase::Abandoned { .. } => None,
        }
    }

    /// The same with the bytes of its output in place of the blob that they were in.
    #[must_use]
    pub fn with_output(mut self, output: Payload) -> Self {
        if let Phase::CompletedInBlob { at, .. } = self.phase {
            self.phase = Phase::Completed { output, at };
        }
        self
    }
}
