//! Snapshots: the counts of a bulkhead at one instant.

use std::sync::Arc;

use orlop_saga::amount::{BusyNanos, ByteCount};

use crate::refusal::RefusalCounts;

/// One lane of a bulkhead at one instant. Totals count since the bulkhead was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneSnapshot {
    /// Slots there are.
    pub slots_max: u64,
    /// Slots occupied now.
    pub slots: u64,
    /// Permits out now.
    pub in_flight: u64,
    /// Requests waiting now.
    pub queued: u64,
    /// Staging bytes reserved now, by both.
    pub staging: ByteCount,
    /// Permits ever granted: those out now, and `settled` and `unsettled`.
    pub granted: u64,
    /// Requests whose ticket was cancelled, or whose future was dropped, while they waited.
    pub withdrawn: u64,
    /// Requests ever refused, at once or after waiting.
    pub refused: RefusalCounts,
    /// Permits given back with a measured cost.
    pub settled: u64,
    /// Permits given back without one.
    pub unsettled: u64,
    /// The sum of the measured costs, in the unit of the bulkhead.
    pub busy: BusyNanos,
}

/// A bulkhead at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkheadSnapshot {
    /// The bulkhead's name.
    pub name: Arc<str>,
    /// Whether it admits nothing and finishes what it has.
    pub draining: bool,
    /// The lane of tenants' work.
    pub ordinary: LaneSnapshot,
    /// The lane of cancel, recovery and undo.
    pub reserved: LaneSnapshot,
}
