//! Probe: which device there is, found without a panic and without a context.

use super::driver::{Attribute, Driver};
use super::error::CudaError;
use super::found::CudaFound;

/// The driver must be of this CUDA: the image's PTX is of version 9.0.
const DRIVER_NEEDED: i32 = 13_000;

/// The device `ordinal`, or the first that will do; and how many there are.
pub(super) fn probe(ordinal: Option<u32>) -> Result<(CudaFound, u32), CudaError> {
    if is_set(std::env::var_os("CUDA_LAUNCH_BLOCKING").as_deref()) {
        return Err(CudaError::LaunchBlocking);
    }
    let driver = Driver::get()?;
    // Before anything of a newer interface is used.
    let version = driver.version()?;
    if version < DRIVER_NEEDED {
        return Err(CudaError::DriverTooOld {
            version,
            needed: DRIVER_NEEDED,
        });
    }
    driver.init()?;
    let count = driver.count()?;
    if count == 0 {
        return Err(CudaError::NoDevice);
    }
    if let Some(ordinal) = ordinal {
        if ordinal >= count {
            return Err(CudaError::NoSuchDevice { ordinal, count });
        }
        return Ok((look_at(driver, ordinal, version)?, count));
    }
    let mut refused = None;
    for ordinal in 0..count {
        match look_at(driver, ordinal, version) {
            Ok(found) => return Ok((found, count)),
            // Of several that will not do, the first one's reason is told.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(CudaError::NoDevice))
}

/// What CUDA itself takes for set.
fn is_set(value: Option<&std::ffi::OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

fn look_at(driver: &Driver, ordinal: u32, version: i32) -> Result<CudaFound, CudaError> {
    let device = driver.device(ordinal)?;
    let name = driver.name(device)?;
    let attribute = |which| driver.attribute(which, device);
    let major = attribute(Attribute::CapabilityMajor)?;
    let minor = attribute(Attribute::CapabilityMinor)?;
    if major < 8 {
        return Err(CudaError::ChipTooOld { name, major, minor });
    }
    for (which, feature) in [
        (Attribute::CooperativeLaunch, "cooperative launch"),
        (Attribute::MapsHostMemory, "mapping of host memory"),
    ] {
        if attribute(which)? == 0 {
            return Err(CudaError::Unable { name, feature });
        }
    }
    let multiprocessors = attribute(Attribute::Multiprocessors)?;
    Ok(CudaFound {
        ordinal,
        name,
        capability: (major, minor),
        multiprocessors: u32::try_from(multiprocessors).unwrap_or(0),
        memory_bytes: driver.memory(device)?,
        driver_version: version,
        is_lazy: driver.is_lazy()?,
    })
}
