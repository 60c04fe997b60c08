//! A clock whose wall time is set by hand, and passes by itself in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use orlop::{Clock, Monotonic, SystemClock, WallMillis};

/// Where wall time begins, in milliseconds since 1970.
const START_MS: i64 = 1_800_000_000_000;

/// See the module. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct JumpingClock {
    system: SystemClock,
    ahead_ms: Arc<AtomicI64>,
}

impl JumpingClock {
    /// Sets wall time ahead, or back.
    pub(crate) fn jump(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets wall time to what it would be had it never jumped, and `ms` more.
    pub(crate) fn set(&self, ms: i64) {
        self.ahead_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for JumpingClock {
    fn wall(&self) -> WallMillis {
        let passed = i64::try_from(self.system.monotonic().get() / 1_000_000).unwrap_or(i64::MAX);
        let wall = START_MS + passed + self.ahead_ms.load(Ordering::Relaxed);
        WallMillis::new(u64::try_from(wall).unwrap_or_default())
    }

    fn monotonic(&self) -> Monotonic {
        self.system.monotonic()
    }
}
