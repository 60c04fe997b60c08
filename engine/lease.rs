//! Leases: how long an attempt may go without a sign of life, and what follows.
//!
//! Invariants
//! - Time is measured by the monotonic clock.
//! - An attempt that was given up is not believed: whoever launched it has heard its end.
//! - Its permit is held until its slot is observed done, however long that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use orlop_saga::time::{Clock, Monotonic};

/// How long an attempt may go without a [`heartbeat`](crate::Attempt::heartbeat), from its launch
/// on, and what follows if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long without one.
    pub period: Duration,
    /// What follows.
    pub then: Escalation,
}

/// What follows when an attempt does not hold its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escalation {
    /// It is asked to stop, see [`Attempt::is_cancelled`](crate::Attempt::is_cancelled). What it
    /// says within this time counts; then it is given up as by [`Escalation::Retry`].
    Cancel(Duration),
    /// It is given up at once. `Pure` work is tried again; an `External` attempt is in doubt, and
    /// is asked about first.
    Retry,
    /// It is given up at once and is the last one. `Pure` work fails for good; an `External`
    /// attempt is asked about, and fails if it did not happen.
    Fail,
}

impl Escalation {
    /// Whether no other attempt follows.
    pub(crate) fn is_last(self) -> bool {
        match self {
            Self::Cancel(_) | Self::Retry => false,
            Self::Fail => true,
        }
    }
}

/// What bounds one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// How long it may take.
    pub(crate) timeout: Option<Duration>,
    /// How long it may go without a sign of life.
    pub(crate) lease: Option<Lease>,
}

impl Bounds {
    /// These, and `others` where there are none.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            timeout: self.timeout.or(others.timeout),
            lease: self.lease.or(others.lease),
        }
    }

    pub(crate) fn within(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            lease: None,
        }
    }
}

/// When an attempt last gave a sign of life.
#[derive(Debug)]
pub(crate) struct Pulse {
    clock: Arc<dyn Clock>,
    last: AtomicU64,
    /// Whether it was asked to stop because of its silence.
    stop: AtomicBool,
}

impl Pulse {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            last: AtomicU64::new(clock.monotonic().get()),
            clock: Arc::clone(clock),
            stop: AtomicBool::new(false),
        })
    }

    pub(crate) fn beat(&self) {
        self.last
            .fetch_max(self.clock.monotonic().get(), Ordering::Relaxed);
    }

    /// Asks the attempt to stop: this one, and not the next of its work.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How long ago that was.
    pub(crate) fn silence(&self) -> Duration {
        let last = Monotonic::new(self.last.load(Ordering::Relaxed));
        self.clock.monotonic().since(last)
    }
}
