//! The child: a device whose megakernel runs in a process of its own.
//!
//! | file | noun |
//! | --- | --- |
//! | `options` | where a device runs, and within which bounds |
//! | `bell` | how one process tells another that there is something in their memory |
//! | `main` | what runs in the device's process |
//! | `parent` | the runner at this end: starts it, hears it, watches it, reaps it |
//! | `watch` | whether it still moves |

#[cfg(target_os = "linux")]
mod bell;
#[cfg(target_os = "linux")]
mod main;
mod options;
#[cfg(target_os = "linux")]
mod parent;
#[cfg(test)]
mod tests;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
pub use self::main::DeviceMain;
pub use self::options::{ChildOptions, DeviceHost, HostError};
#[cfg(target_os = "linux")]
pub(crate) use self::parent::ChildRunner;

/// The name under which a device's process is started, and by which it knows what it is.
#[cfg(target_os = "linux")]
const ARG0: &str = "orlop-device";

/// Stages of a device's process, as they stand in the shared memory.
#[cfg(target_os = "linux")]
const STAGE_READY: u32 = 1;
#[cfg(target_os = "linux")]
const STAGE_OPERATIONS: u32 = 2;
#[cfg(target_os = "linux")]
const STAGE_REFUSED: u32 = 3;

/// [`DeviceMain::enter`] with the built-in operations alone: to be called first in the `main` of a
/// binary whose engine has its device in a [`Child`](DeviceHost::Child).
#[cfg(target_os = "linux")]
pub fn device_main() {
    DeviceMain::new().enter();
}

/// Returns at once: on this system no device has a process of its own.
#[cfg(not(target_os = "linux"))]
pub fn device_main() {}
