//! CUDA: whether there is a device, and the megakernel on it.
//!
//! The driver is looked for when it is asked for; a build needs no toolkit, and a machine without
//! a driver is told so in words. What is called of the driver is in `driver`, what is held of a
//! device in `chip`; `watch` launches the kernel, looks after it and retires it.

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod chip;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod driver;
pub(crate) mod error;
pub(crate) mod found;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod heart;
pub(crate) mod options;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod probe;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod reap;
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(crate) mod runner;
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[cfg(test)]
mod tests;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod watch;

use std::time::Duration;

use self::error::CudaError;
use self::found::CudaFound;
use self::options::CudaOptions;
use crate::device::Device;
use crate::options::DeviceOptions;

/// The device that would be opened, and how many the driver has. Makes no context.
///
/// # Errors
/// [`CudaError`]: none will do.
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(crate) fn probe(options: &CudaOptions) -> Result<(CudaFound, u32), CudaError> {
    options.check()?;
    let (found, count) = probe::probe(options.ordinal)?;
    if found.is_lazy && options.linger == Duration::MAX {
        return Err(CudaError::LazyLoading);
    }
    Ok((found, count))
}

/// As with the feature.
#[cfg(not(all(feature = "cuda", target_os = "linux")))]
pub(crate) fn probe(options: &CudaOptions) -> Result<(CudaFound, u32), CudaError> {
    options.check()?;
    let _ = Duration::MAX;
    Err(CudaError::NotBuilt)
}

/// Opens the device that was found.
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(crate) fn open(
    found: &CudaFound,
    cuda: &CudaOptions,
    options: &DeviceOptions,
) -> Result<Device, crate::OpenError> {
    use std::sync::Arc;

    let workers = match options.workers {
        0 => found.workers(),
        workers => workers,
    };
    let options = DeviceOptions {
        workers,
        ..options.clone()
    };
    let layout = options.layout()?;
    let region = Arc::new(crate::memory::Region::new(layout.total)?);
    crate::device::write_header(&region, &layout, options.epoch);
    let plan = runner::Plan {
        found: found.clone(),
        options: *cuda,
        layout,
        limits: chip::Limits {
            buffer_slots: options.buffer_slots,
            tenant_slots: cuda.tenant_slots,
            tiles_max: options.tiles_max,
            pool_pages: cuda.pool_pages,
        },
    };
    let runner = Arc::new(runner::CudaRunner::open(plan, &region)?);
    let own = Arc::clone(&runner);
    let device = Device::assemble(region, layout, &options, own)?;
    runner.start(&device.hub)?;
    Ok(device.with_cuda(runner))
}

/// As with the feature; never called, since nothing is found.
#[cfg(not(all(feature = "cuda", target_os = "linux")))]
pub(crate) fn open(
    _: &CudaFound,
    _: &CudaOptions,
    _: &DeviceOptions,
) -> Result<Device, crate::OpenError> {
    Err(CudaError::NotBuilt.into())
}
