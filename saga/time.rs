//! Time: two clocks that must not be mixed.
//!
//! Wall time is persisted and may jump both ways; monotonic time is measured with and never
//! persisted. A deadline that must survive a restart is written as wall time and converted once,
//! when it is read back.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wall time, milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallMillis(u64);

impl WallMillis {
    /// `millis` milliseconds after the Unix epoch.
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This instant plus `duration`; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Monotonic time, nanoseconds since an origin that is fixed for one run of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(u64);

impl Monotonic {
    /// `nanos` nanoseconds after the clock's origin.
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This instant plus `duration`; saturates.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where time comes from. Tests supply their own.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall time now. May jump in either direction.
    fn wall(&self) -> WallMillis;
    /// Monotonic time now. Never goes back.
    fn monotonic(&self) -> Monotonic;
    /// What replaces the system's timers, if this clock does not follow real time.
    fn simulated(&self) -> Option<Arc<dyn Simulated>> {
        None
    }
}

/// What a simulated clock decides besides the time, so that a run can be repeated: when timers
/// ring, what is drawn at random, and whether there is anything to do before time may pass.
pub trait Simulated: Send + Sync + std::fmt::Debug {
    /// Has `call` called once the monotonic clock reads `at`: on any thread, never from inside
    /// this call. Returns what [`cancel`](Self::cancel) takes.
    fn call_at(&self, at: Monotonic, call: Box<dyn FnOnce() + Send>) -> u64;
    /// Forgets a call; one that was made already stays made.
    fn cancel(&self, call: u64);
    /// Something begins that ends without time passing. Time stands still until its
    /// [`end`](Self::end).
    fn begin(&self);
    /// What began is over; whatever follows from it has begun.
    fn end(&self);
    /// The next random number.
    fn draw(&self) -> u64;
}
