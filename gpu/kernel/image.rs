//! Image: the kernel compiled for devices, for hosts that have a driver and no compiler.

/// A fat binary, as `cuModuleLoadData` takes it: cubins for sm 80, 89, 90, 100 and 120, and PTX.
///
/// Its entry points and their arguments are in `megakernel.cu`. The driver must be 580 or newer
/// for the PTX (version 9.0). Nothing in this crate loads it.
///
/// # Source
/// CUDA Driver API 13.0, `cuModuleLoadData`.
pub const MEGAKERNEL: &[u8] = include_bytes!("megakernel.fatbin");
