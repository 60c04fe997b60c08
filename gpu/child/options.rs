//! Device hosts: where the megakernel runs, and within which bounds.

use std::ffi::OsString;
use std::time::Duration;

/// Where the megakernel of a device runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceHost {
    /// On threads of this process. What ends the device ends the process.
    #[default]
    InProcess,
    /// In a process of its own: the embedder's binary once more, which calls
    /// [`device_main`](crate::device_main) first. When it dies or hangs the device is lost and the
    /// next one opens in new memory. Linux only.
    Child(ChildOptions),
}

/// Bounds of a device's process, checked when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildOptions {
    /// Arguments for the binary, after its own name; for one that needs them to reach
    /// [`device_main`](crate::device_main).
    pub args: Vec<OsString>,
    /// How long the process may take until it is ready: 10 ms to 10 minutes.
    pub start_max: Duration,
    /// How long it may be silent while it has work: 10 ms to 10 minutes. What this process sleeps
    /// through itself does not count.
    pub silence_max: Duration,
    /// How long one tile may run: 10 ms to 1 day. Counted likewise.
    pub tile_max: Duration,
}

impl Default for ChildOptions {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            start_max: Duration::from_secs(30),
            silence_max: Duration::from_secs(5),
            tile_max: Duration::from_secs(30),
        }
    }
}

/// Why a device's process does not run. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A device has a process of its own on Linux only.
    #[error("a device has a process of its own on Linux only")]
    Unsupported,
    /// This process is itself a device's. Call `device_main` before anything else in `main`.
    #[error("this is a device's process, which did not call `device_main` first")]
    Nested,
    /// The system gave no process, thread or socket.
    #[error("the system refused the device's process")]
    Spawn(#[from] std::io::Error),
    /// It was not ready in time. Does the binary call `device_main` first?
    #[error("the device's process was not ready after {waited:?}; does it call `device_main`?")]
    NotReady {
        /// How long was waited.
        waited: Duration,
    },
    /// It ended before it was ready. Does the binary call `device_main` first?
    #[error("the device's process ended before it was ready; does it call `device_main`?")]
    Ended,
    /// It has other operations than this process. Give both the same.
    #[error("the device's process has other operations; give `DeviceMain` those of the engine")]
    Operations,
    /// It could not map the memory, or was given no thread.
    #[error("the device's process could not start its workers")]
    Refused,
}

const BOUND: &str = "10 ms to 10 minutes";

impl ChildOptions {
    /// The option that is out of its range, its value in nanoseconds, and the range.
    pub(crate) fn wrong(&self) -> Option<(&'static str, Duration, &'static str)> {
        let (least, most) = (Duration::from_millis(10), Duration::from_mins(10));
        let day = Duration::from_hours(24);
        [
            ("host.start_max", self.start_max, most, BOUND),
            ("host.silence_max", self.silence_max, most, BOUND),
            ("host.tile_max", self.tile_max, day, "10 ms to 1 day"),
        ]
        .into_iter()
        .find(|(_, value, most, _)| *value < least || value > most)
        .map(|(option, value, _, range)| (option, value, range))
    }
}
