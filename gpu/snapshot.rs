//! Snapshots: what a device has counted.

use orlop_saga::amount::BusyNanos;

use crate::buffer::Room;

/// What one worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The ticket on the ring that it runs a tile of; zero is none.
    pub ticket: u64,
    /// When the tile began, in nanoseconds since the device was opened.
    pub since_nanos: u64,
    /// Which tile.
    pub tile: u32,
}

/// Counters of one device. Counts are exact each for itself; taken while work runs they may be of
/// slightly different moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSnapshot {
    /// Operations accepted.
    pub published: u64,
    /// Publishes refused.
    pub refused: u64,
    /// Ended as done.
    pub done: u64,
    /// Ended with a failure of their own.
    pub failed: u64,
    /// Ended cancelled.
    pub cancelled: u64,
    /// Ended by their deadline.
    pub expired: u64,
    /// Refused by the device.
    pub device_refused: u64,
    /// Ended by a panic.
    pub faulted: u64,
    /// Ended because the device was lost.
    pub lost: u64,
    /// Completions of another epoch or life, or that were none: ignored.
    pub stale_completions: u64,
    /// Callbacks that panicked.
    pub callback_panics: u64,
    /// Device time of everything that ended.
    pub cost: BusyNanos,
    /// Accepted and not yet over.
    pub outstanding: u64,
    /// Of these, not yet on the ring.
    pub waiting: u64,
    /// Fetched by the device and not yet completed.
    pub active: u64,
    /// Free slots of the entry ring.
    pub credits: u64,
    /// Free permits.
    pub permits: u64,
    /// Sleeping workers that were woken.
    pub wakes: u64,
    /// How often a publisher's thread ran what it had published.
    pub lends: u64,
    /// Orders given on the control ring.
    pub orders: u64,
    /// Drains asked for.
    pub drains: u64,
    /// Drains that ran into their time limit.
    pub drain_timeouts: u64,
    /// Nanoseconds spent waiting in drains.
    pub drain_waited_nanos: u64,
    /// Free buffer slots and arena bytes.
    pub buffers_available: Room,
    /// What each worker is doing.
    pub workers: Vec<Heartbeat>,
}
