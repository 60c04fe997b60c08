//! Outcomes: how an attempt ended, and what of it is kept.
//!
//! An attempt has three ends, not two: it is done, it failed and had no effect, or it is in doubt.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::canonical::Payload;

/// What is known of the effect of an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Disposition {
    /// It did not happen and would not on another attempt: the input is at fault.
    Permanent,
    /// It did not happen; another attempt may succeed.
    Retryable,
    /// It may have happened. Only `External` work can be in doubt.
    InDoubt,
}

/// Why an attempt failed, in the computation's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    disposition: Disposition,
    reason: String,
}

impl Failure {
    /// The longest reason that is kept, in bytes.
    pub const REASON_BYTES_MAX: usize = 1024;

    /// A failure of a known disposition.
    pub fn new(disposition: Disposition, reason: impl fmt::Display) -> Self {
        Self {
            disposition,
            reason: clip(reason.to_string()),
        }
    }

    /// It did not happen and would not on another attempt.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self::new(Disposition::Permanent, reason)
    }

    /// It did not happen; another attempt may succeed.
    pub fn retryable(reason: impl fmt::Display) -> Self {
        Self::new(Disposition::Retryable, reason)
    }

    /// It may have happened.
    pub fn in_doubt(reason: impl fmt::Display) -> Self {
        Self::new(Disposition::InDoubt, reason)
    }

    /// What is known of its effect.
    pub fn disposition(&self) -> Disposition {
        self.disposition
    }

    /// Why, at most [`Self::REASON_BYTES_MAX`] bytes.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Cuts a reason to [`Failure::REASON_BYTES_MAX`], at a character's boundary.
pub fn clip(mut reason: String) -> String {
    if reason.len() > Failure::REASON_BYTES_MAX {
        let end = reason.floor_char_boundary(Failure::REASON_BYTES_MAX);
        reason.truncate(end);
    }
    reason
}

/// The one outcome of an effect, kept for as long as its retention says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done; the canonical bytes of its output.
    Done(Payload),
    /// It failed for good.
    Failed(Failure),
    /// It is done; its output is in a blob of the tenant. Only records and rows say so: whoever
    /// looks an outcome up is given the bytes.
    Blob(BlobRef),
}
