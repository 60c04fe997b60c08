//! Options of a CUDA device.

use std::time::Duration;

use super::error::CudaError;

/// What the megakernel on a chip has beyond what every device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// Which device, in the driver's order from zero; none is the first one that will do.
    pub ordinal: Option<u32>,
    /// How long an idle kernel stays. Zero is a burst: it is launched for work and leaves once
    /// that is over. [`Duration::MAX`] is for ever; then every function of the process must be
    /// loaded eagerly, and whoever waits for the whole device has to call
    /// [`Device::quiesce`](crate::Device::quiesce) first.
    pub linger: Duration,
    /// How long a tile, or the ring while it is not empty, may stand still before the device
    /// counts as lost: at least 1 ms. A tile is meant to take 250 us.
    pub hang_after: Duration,
    /// Tenant slots that the device knows, 1 to 1048576; tenants beyond are refused as stale.
    pub tenant_slots: u32,
    /// Pages of 4 KiB for what the tiles of large tasks leave: a multiple of 64, 64 to 65536.
    pub pool_pages: u32,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            ordinal: None,
            linger: Duration::from_millis(20),
            hang_after: Duration::from_secs(10),
            tenant_slots: 4096,
            pool_pages: 4096,
        }
    }
}

impl CudaOptions {
    /// Checks every option.
    pub(crate) fn check(&self) -> Result<(), CudaError> {
        let checks = [
            (
                "hang_after",
                self.hang_after >= Duration::from_millis(1),
                u64::try_from(self.hang_after.as_nanos()).unwrap_or(u64::MAX),
                "at least 1000000 ns",
            ),
            (
                "tenant_slots",
                (1..=1 << 20).contains(&self.tenant_slots),
                u64::from(self.tenant_slots),
                "1 to 1048576",
            ),
            (
                "pool_pages",
                self.pool_pages.is_multiple_of(64) && (64..=65_536).contains(&self.pool_pages),
                u64::from(self.pool_pages),
                "a multiple of 64, 64 to 65536",
            ),
        ];
        for (option, holds, value, range) in checks {
            if !holds {
                return Err(CudaError::Option {
                    option,
                    value,
                    range,
                });
            }
        }
        Ok(())
    }
}
