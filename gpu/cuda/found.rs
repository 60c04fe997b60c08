//! Found: a CUDA device that will do.

use std::fmt;

use orlop_saga::amount::ByteCount;

/// A CUDA device that the megakernel can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaFound {
    /// Its number in the driver's order, from zero.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// The driver's version of CUDA: 1000 times the major and 10 times the minor one.
    pub driver_version: i32,
    /// Whether functions are loaded when they are first used, as `CUDA_MODULE_LOADING` says.
    pub is_lazy: bool,
}

impl CudaFound {
    /// Workers where none are asked for: a quarter of the chip, 16 to 32 blocks, so that the
    /// embedder's own kernels run beside.
    pub fn workers(&self) -> u32 {
        let quarter = (self.multiprocessors / 4).clamp(16, 32);
        quarter.min(self.multiprocessors.max(1))
    }
}

impl fmt::Display for CudaFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        write!(
            f,
            "CUDA device {}, {}: sm_{major}{minor}, {} multiprocessors, {}, driver of CUDA {}.{}",
            self.ordinal,
            self.name,
            self.multiprocessors,
            ByteCount::new(self.memory_bytes),
            self.driver_version / 1000,
            self.driver_version % 1000 / 10,
        )
    }
}
