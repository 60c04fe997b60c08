//! The system's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use orlop_saga::time::{Clock, Monotonic, WallMillis};

/// The clocks of this machine. A wall clock before 1970 reads as 1970.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: imp::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            origin: imp::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> WallMillis {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallMillis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::new(self.origin.elapsed_nanos())
    }
}

/// The same clock that `std::time::Instant` reads, without what it takes to make a `Duration` and
/// nanoseconds of that again: each request of a tenant that has a rate reads it.
#[cfg(target_os = "linux")]
mod imp {
    use rustix::time::{ClockId, clock_gettime};

    /// Nanoseconds of `CLOCK_MONOTONIC`.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Instant(u64);

    impl Instant {
        pub(super) fn now() -> Self {
            let now = clock_gettime(ClockId::Monotonic);
            let seconds = now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000);
            Self(seconds.wrapping_add(now.tv_nsec.cast_unsigned()))
        }

        pub(super) fn elapsed_nanos(self) -> u64 {
            Self::now().0.saturating_sub(self.0)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Instant(std::time::Instant);

    impl Instant {
        pub(super) fn now() -> Self {
            Self(std::time::Instant::now())
        }

        pub(super) fn elapsed_nanos(self) -> u64 {
            u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
        }
    }
}
