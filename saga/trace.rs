//! Trace context: how an effect is found again in the embedder's traces.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The trace an effect belongs to, persisted with it so that a replay after a crash continues the
/// same trace.
///
/// # Source
/// W3C Trace Context, `traceparent`: 16-byte trace id, 8-byte parent id, sampled flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// The trace; all zero means none.
    pub trace_id: [u8; 16],
    /// The caller's span; all zero means none.
    pub span_id: [u8; 8],
    /// Whether the caller records this trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Whether a trace was given.
    pub fn is_some(&self) -> bool {
        self.trace_id != [0; 16]
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        crate::digest::hex(f, &self.trace_id)?;
        f.write_str("-")?;
        crate::digest::hex(f, &self.span_id)?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}
