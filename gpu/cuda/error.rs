//! Errors: why there is no CUDA device, and what makes one.

/// A call of the driver that did not succeed.
///
/// # Source
/// CUDA Driver API 13.0, `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} said {name} ({code})")]
pub struct CallFailed {
    /// The function.
    pub call: &'static str,
    /// What it returned.
    pub code: u32,
    /// What the driver calls that.
    pub name: &'static str,
}

/// Why no CUDA device was opened. Nothing runs on it and nothing is held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// This build has no CUDA. Build for Linux with the feature `cuda`, which is on by default.
    #[error("this build has no CUDA: it needs Linux and the feature `cuda`")]
    NotBuilt,
    /// There is no driver. Install NVIDIA's, 580 or newer, or put the folder of `libcuda.so.1` on
    /// the loader's path.
    #[error("no CUDA driver was found: libcuda.so.1 is not on the loader's path")]
    NoDriver,
    /// The driver has not every function that is called. Install 580 or newer.
    #[error("the CUDA driver lacks {function}: 580 or newer is needed")]
    DriverLacks {
        /// The first that was not found.
        function: &'static str,
    },
    /// The driver is too old for the image. Install 580 or newer.
    #[error(
        "the driver is of CUDA {}.{}, {}.{} is needed: install 580 or newer",
        .version / 1000, .version % 1000 / 10, .needed / 1000, .needed % 1000 / 10
    )]
    DriverTooOld {
        /// 1000 times its major and 10 times its minor version.
        version: i32,
        /// What is needed, in the same form.
        needed: i32,
    },
    /// Every launch would wait for its end, and a megakernel's does not come. Unset the variable
    /// before the process starts.
    #[error("CUDA_LAUNCH_BLOCKING is set: a kernel that stays would never be launched; unset it")]
    LaunchBlocking,
    /// Code that the embedder loads while a kernel stays would wait for that. Set
    /// `CUDA_MODULE_LOADING` to `EAGER` before the process starts, or let the kernel leave when it
    /// is idle.
    #[error(
        "CUDA loads functions lazily, and waits for a kernel that stays: set \
         CUDA_MODULE_LOADING=EAGER, or let the kernel linger less"
    )]
    LazyLoading,
    /// The driver has no device. Look at `nvidia-smi` and `CUDA_VISIBLE_DEVICES`.
    #[error("the CUDA driver has no device: look at nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice,
    /// The driver has no such device. Ask for another.
    #[error("CUDA device {ordinal} was asked for, the driver has {count}")]
    NoSuchDevice {
        /// Which was asked for, from zero.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// The image has no code for it. Use a chip of compute capability 8.0 or newer.
    #[error("{name} has compute capability {major}.{minor}, 8.0 is needed")]
    ChipTooOld {
        /// The device's name.
        name: String,
        /// Its compute capability.
        major: i32,
        /// Its compute capability.
        minor: i32,
    },
    /// The device cannot do what the megakernel needs. Use another.
    #[error("{name} has no {feature}")]
    Unable {
        /// The device's name.
        name: String,
        /// What it lacks.
        feature: &'static str,
    },
    /// The device has not enough free memory. Free some, or ask for fewer slots and permits.
    #[error("{needed} bytes of device memory are needed, {free} are free")]
    TooLittleMemory {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// So many blocks are never on the chip at a time. Ask for fewer workers.
    #[error("{workers} workers were asked for, the device holds {fit} at a time")]
    TooManyWorkers {
        /// Blocks.
        workers: u32,
        /// Blocks.
        fit: u32,
    },
    /// The shared memory could not be shown to the device. Ask for less of it, or raise what may
    /// be locked.
    #[error("{bytes} bytes of host memory could not be pinned: {said}")]
    NotPinned {
        /// Bytes of the shared memory.
        bytes: u64,
        /// What the driver said.
        said: CallFailed,
    },
    /// The image and this build do not agree on the layout of the shared memory. Please report it.
    #[error("the kernel's image is of another layout")]
    Layout,
    /// An operation has no code for the device. Leave it out, or run on host threads.
    #[error("operation {name} has no code for a CUDA device")]
    HostOnly {
        /// The operation.
        name: &'static str,
    },
    /// A device in a process of its own has its megakernel on that process's threads. Have it
    /// [in this one](crate::DeviceHost::InProcess), or do without the chip.
    #[error("a device in a process of its own runs on that process's threads")]
    OtherProcess,
    /// An option is outside its range. Correct it.
    #[error("{option} is {value}, must be {range}")]
    Option {
        /// Which.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        range: &'static str,
    },
    /// The system gave no thread.
    #[error("the system refused a thread: {kind}")]
    Thread {
        /// What it said.
        kind: std::io::ErrorKind,
    },
    /// The driver refused. Its words say why; `nvidia-smi` and the system's log may say more.
    #[error(transparent)]
    Call(#[from] CallFailed),
}
