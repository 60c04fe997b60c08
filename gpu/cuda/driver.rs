//! Driver: the functions of libcuda that are called, found by name, each returning what went wrong.
//!
//! They are found before the first is called, so that a driver that lacks one is an error and no
//! panic; and they return a plain number, since a newer driver may say what no enum of today has.
//!
//! Invariants
//! - Nothing is called before everything was found.
//! - No function changes which context is current on a thread but `set_current`, which is for
//!   threads of our own.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys;

use super::error::{CallFailed, CudaError};

/// `CUDA_ERROR_NOT_READY`: what was asked about still runs.
const NOT_READY: u32 = 600;

/// Attributes of a device, by their numbers in the driver's interface.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Attribute {
    Multiprocessors = 16,
    MapsHostMemory = 19,
    CapabilityMajor = 75,
    CapabilityMinor = 76,
    CooperativeLaunch = 95,
}

macro_rules! functions {
    ($($name:ident: $symbol:literal ($($argument:ty),*);)*) => {
        /// See the module.
        pub(super) struct Driver {
            $($name: unsafe extern "C" fn($($argument),*) -> c_uint,)*
        }

        fn resolve() -> Result<Driver, CudaError> {
            // SAFETY: loading a library runs its initialisers; this one is the system's driver.
            if !unsafe { sys::is_culib_present() } {
                return Err(CudaError::NoDriver);
            }
            // SAFETY: as above. It was found a moment ago, and stays loaded from here on.
            let library = unsafe { sys::culib() };
            $(
                // SAFETY: the type is that of the function of this name in the driver's interface.
                let found = unsafe {
                    library.get::<unsafe extern "C" fn($($argument),*) -> c_uint>(
                        concat!($symbol, "\0").as_bytes(),
                    )
                };
                let $name = *found.map_err(|_| CudaError::DriverLacks { function: $symbol })?;
            )*
            Ok(Driver { $($name,)* })
        }
    };
}

functions! {
    init: "cuInit"(c_uint);
    version: "cuDriverGetVersion"(*mut c_int);
    count: "cuDeviceGetCount"(*mut c_int);
    device: "cuDeviceGet"(*mut sys::CUdevice, c_int);
    name: "cuDeviceGetName"(*mut c_char, c_int, sys::CUdevice);
    memory: "cuDeviceTotalMem_v2"(*mut usize, sys::CUdevice);
    attribute: "cuDeviceGetAttribute"(*mut c_int, c_int, sys::CUdevice);
    error_name: "cuGetErrorName"(c_uint, *mut *const c_char);
    retain: "cuDevicePrimaryCtxRetain"(*mut sys::CUcontext, sys::CUdevice);
    release: "cuDevicePrimaryCtxRelease_v2"(sys::CUdevice);
    set_current: "cuCtxSetCurrent"(sys::CUcontext);
    memory_info: "cuMemGetInfo_v2"(*mut usize, *mut usize);
    register: "cuMemHostRegister_v2"(*mut c_void, usize, c_uint);
    unregister: "cuMemHostUnregister"(*mut c_void);
    device_pointer: "cuMemHostGetDevicePointer_v2"(*mut sys::CUdeviceptr, *mut c_void, c_uint);
    allocate: "cuMemAlloc_v2"(*mut sys::CUdeviceptr, usize);
    free: "cuMemFree_v2"(sys::CUdeviceptr);
    set_bytes: "cuMemsetD8Async"(sys::CUdeviceptr, u8, usize, sys::CUstream);
    copy_out: "cuMemcpyDtoHAsync_v2"(*mut c_void, sys::CUdeviceptr, usize, sys::CUstream);
    load: "cuModuleLoadData"(*mut sys::CUmodule, *const c_void);
    unload: "cuModuleUnload"(sys::CUmodule);
    loading_mode: "cuModuleGetLoadingMode"(*mut c_int);
    function: "cuModuleGetFunction"(*mut sys::CUfunction, sys::CUmodule, *const c_char);
    load_function: "cuFuncLoad"(sys::CUfunction);
    blocks: "cuOccupancyMaxActiveBlocksPerMultiprocessor"(
        *mut c_int, sys::CUfunction, c_int, usize
    );
    stream: "cuStreamCreate"(*mut sys::CUstream, c_uint);
    stream_query: "cuStreamQuery"(sys::CUstream);
    stream_wait: "cuStreamSynchronize"(sys::CUstream);
    stream_destroy: "cuStreamDestroy_v2"(sys::CUstream);
    launch: "cuLaunchKernel"(
        sys::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, sys::CUstream,
        *mut *mut c_void, *mut *mut c_void
    );
    launch_cooperative: "cuLaunchCooperativeKernel"(
        sys::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, sys::CUstream,
        *mut *mut c_void
    );
}

impl Driver {
    /// The driver of this process, found once.
    pub(super) fn get() -> Result<&'static Self, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER
            .get_or_init(resolve)
            .as_ref()
            .map_err(CudaError::clone)
    }

    fn check(&self, call: &'static str, code: c_uint) -> Result<(), CallFailed> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: the place for the answer is valid, and any number may be asked about.
        let known = unsafe { (self.error_name)(code, &raw mut name) } == 0 && !name.is_null();
        let name = known.then(|| {
            // SAFETY: the driver's names are strings that end and are never freed.
            unsafe { CStr::from_ptr(name) }
        });
        let name = name.map_or("unknown", |name| name.to_str().unwrap_or("unknown"));
        Err(CallFailed { call, code, name })
    }

    pub(super) fn init(&self) -> Result<(), CallFailed> {
        // SAFETY: may be called at any time, any number of times.
        let code = unsafe { (self.init)(0) };
        self.check("cuInit", code)
    }

    /// The version of CUDA that the driver is of: 1000 times the major and 10 times the minor one.
    pub(super) fn version(&self) -> Result<i32, CallFailed> {
        let mut version = 0;
        // SAFETY: may be called before `cuInit`; the place for the answer is valid.
        let code = unsafe { (self.version)(&raw mut version) };
        self.check("cuDriverGetVersion", code).map(|()| version)
    }

    pub(super) fn count(&self) -> Result<u32, CallFailed> {
        let mut count = 0;
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.count)(&raw mut count) };
        self.check("cuDeviceGetCount", code)?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    pub(super) fn device(&self, ordinal: u32) -> Result<sys::CUdevice, CallFailed> {
        let mut device = 0;
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: the place for the answer is valid; an ordinal too large is refused.
        let code = unsafe { (self.device)(&raw mut device, ordinal) };
        self.check("cuDeviceGet", code).map(|()| device)
    }

    pub(super) fn name(&self, device: sys::CUdevice) -> Result<String, CallFailed> {
        let mut name = [0_u8; 128];
        let length = c_int::try_from(name.len()).unwrap_or(0);
        // SAFETY: the place for the answer has the length that is told.
        let code = unsafe { (self.name)(name.as_mut_ptr().cast(), length, device) };
        self.check("cuDeviceGetName", code)?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    pub(super) fn memory(&self, device: sys::CUdevice) -> Result<u64, CallFailed> {
        let mut bytes = 0;
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.memory)(&raw mut bytes, device) };
        self.check("cuDeviceTotalMem", code).map(|()| bytes as u64)
    }

    pub(super) fn attribute(
        &self,
        which: Attribute,
        device: sys::CUdevice,
    ) -> Result<i32, CallFailed> {
        let mut value = 0;
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.attribute)(&raw mut value, which as c_int, device) };
        self.check("cuDeviceGetAttribute", code).map(|()| value)
    }

    /// Whether functions are loaded when they are first used.
    pub(super) fn is_lazy(&self) -> Result<bool, CallFailed> {
        let mut mode = 0;
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.loading_mode)(&raw mut mode) };
        self.check("cuModuleGetLoadingMode", code)
            .map(|()| mode == 2)
    }

    pub(super) fn retain(&self, device: sys::CUdevice) -> Result<sys::CUcontext, CallFailed> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.retain)(&raw mut context, device) };
        self.check("cuDevicePrimaryCtxRetain", code)
            .map(|()| context)
    }

    /// Gives back one `retain`.
    pub(super) fn release(&self, device: sys::CUdevice) -> Result<(), CallFailed> {
        // SAFETY: another number than that of a device is refused.
        let code = unsafe { (self.release)(device) };
        self.check("cuDevicePrimaryCtxRelease", code)
    }

    /// For a thread of our own alone: an embedder's has a context of its own.
    ///
    /// # Safety
    /// The context is retained until the thread ends or another one is set.
    pub(super) unsafe fn set_current(&self, context: sys::CUcontext) -> Result<(), CallFailed> {
        // SAFETY: the caller keeps the context.
        let code = unsafe { (self.set_current)(context) };
        self.check("cuCtxSetCurrent", code)
    }

    /// Free bytes of the current context's device.
    pub(super) fn free_bytes(&self) -> Result<u64, CallFailed> {
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: both places for the answer are valid.
        let code = unsafe { (self.memory_info)(&raw mut free, &raw mut total) };
        self.check("cuMemGetInfo", code).map(|()| free as u64)
    }

    /// Pins host memory and shows it to every context; says where the device sees it.
    ///
    /// # Safety
    /// The bytes are mapped, and stay so until they were unregistered.
    pub(super) unsafe fn register(&self, base: *mut u8, bytes: usize) -> Result<(), CallFailed> {
        let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | sys::CU_MEMHOSTREGISTER_PORTABLE;
        // SAFETY: the caller keeps the bytes mapped.
        let code = unsafe { (self.register)(base.cast(), bytes, flags) };
        self.check("cuMemHostRegister", code)
    }

    /// # Safety
    /// They were registered, and nothing on the device touches them any longer.
    pub(super) unsafe fn unregister(&self, base: *mut u8) -> Result<(), CallFailed> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.unregister)(base.cast()) };
        self.check("cuMemHostUnregister", code)
    }

    /// Where the device sees registered memory.
    pub(super) fn device_pointer(&self, base: *mut u8) -> Result<u64, CallFailed> {
        let mut pointer = 0;
        // SAFETY: the place for the answer is valid; memory that is not registered is refused.
        let code = unsafe { (self.device_pointer)(&raw mut pointer, base.cast(), 0) };
        self.check("cuMemHostGetDevicePointer", code)
            .map(|()| pointer)
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<u64, CallFailed> {
        let mut pointer = 0;
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.allocate)(&raw mut pointer, bytes) };
        self.check("cuMemAlloc", code).map(|()| pointer)
    }

    /// # Safety
    /// It was allocated, is freed once, and nothing on the device touches it any longer.
    pub(super) unsafe fn free(&self, pointer: u64) -> Result<(), CallFailed> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.free)(pointer) };
        self.check("cuMemFree", code)
    }

    /// Zeroes device memory, in the stream's order.
    ///
    /// # Safety
    /// `bytes` bytes are allocated there, and the stream lives.
    pub(super) unsafe fn zero(
        &self,
        pointer: u64,
        bytes: usize,
        stream: sys::CUstream,
    ) -> Result<(), CallFailed> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.set_bytes)(pointer, 0, bytes, stream) };
        self.check("cuMemsetD8Async", code)
    }

    /// Copies from the device once what is before it in the stream is over, and waits for that.
    ///
    /// # Safety
    /// As many bytes are allocated there, and the stream lives.
    pub(super) unsafe fn read(
        &self,
        into: &mut [u8],
        pointer: u64,
        stream: sys::CUstream,
    ) -> Result<(), CallFailed> {
        let place = into.as_mut_ptr().cast();
        // SAFETY: the place is valid until the wait below is over; the rest the caller promises.
        let code = unsafe { (self.copy_out)(place, pointer, into.len(), stream) };
        let copied = self.check("cuMemcpyDtoHAsync", code);
        // SAFETY: the caller promises that the stream lives.
        let code = unsafe { (self.stream_wait)(stream) };
        copied.and(self.check("cuStreamSynchronize", code))
    }

    /// # Safety
    /// The bytes are a whole image.
    pub(super) unsafe fn load(&self, image: &[u8]) -> Result<sys::CUmodule, CallFailed> {
        let mut module = std::ptr::null_mut();
        // SAFETY: the place for the answer is valid; the image's own header says its length.
        let code = unsafe { (self.load)(&raw mut module, image.as_ptr().cast()) };
        self.check("cuModuleLoadData", code).map(|()| module)
    }

    /// # Safety
    /// It was loaded, is unloaded once, and none of its functions runs.
    pub(super) unsafe fn unload(&self, module: sys::CUmodule) -> Result<(), CallFailed> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.unload)(module) };
        self.check("cuModuleUnload", code)
    }

    /// A function of the module, loaded whatever the mode of loading.
    ///
    /// # Safety
    /// The module is loaded.
    pub(super) unsafe fn function(
        &self,
        module: sys::CUmodule,
        name: &CStr,
    ) -> Result<sys::CUfunction, CallFailed> {
        let mut function = std::ptr::null_mut();
        // SAFETY: the caller keeps the module; the name ends, the place for the answer is valid.
        let code = unsafe { (self.function)(&raw mut function, module, name.as_ptr()) };
        self.check("cuModuleGetFunction", code)?;
        // SAFETY: the function was found, in a module that is loaded.
        let code = unsafe { (self.load_function)(function) };
        self.check("cuFuncLoad", code).map(|()| function)
    }

    /// Blocks of `threads` threads that one multiprocessor holds at a time.
    ///
    /// # Safety
    /// The function's module is loaded.
    pub(super) unsafe fn blocks(
        &self,
        function: sys::CUfunction,
        threads: u32,
    ) -> Result<u32, CallFailed> {
        let mut blocks = 0;
        let threads = c_int::try_from(threads).unwrap_or(c_int::MAX);
        // SAFETY: the caller keeps the module; the place for the answer is valid.
        let code = unsafe { (self.blocks)(&raw mut blocks, function, threads, 0) };
        self.check("cuOccupancyMaxActiveBlocksPerMultiprocessor", code)?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }

    /// A stream that waits for no other.
    pub(super) fn stream(&self) -> Result<sys::CUstream, CallFailed> {
        const NON_BLOCKING: c_uint = 1;
        let mut stream = std::ptr::null_mut();
        // SAFETY: the place for the answer is valid.
        let code = unsafe { (self.stream)(&raw mut stream, NON_BLOCKING) };
        self.check("cuStreamCreate", code).map(|()| stream)
    }

    /// Whether everything in the stream is over.
    ///
    /// # Safety
    /// The stream lives.
    pub(super) unsafe fn is_over(&self, stream: sys::CUstream) -> Result<bool, CallFailed> {
        // SAFETY: as the caller promises.
        match unsafe { (self.stream_query)(stream) } {
            NOT_READY => Ok(false),
            code => self.check("cuStreamQuery", code).map(|()| true),
        }
    }

    /// # Safety
    /// The stream lives, and is destroyed once.
    pub(super) unsafe fn destroy(&self, stream: sys::CUstream) -> Result<(), CallFailed> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.stream_destroy)(stream) };
        self.check("cuStreamDestroy", code)
    }

    /// Puts one thread of a function into the stream.
    ///
    /// # Safety
    /// The function is loaded, the stream lives, and the arguments are those that it takes.
    pub(super) unsafe fn launch_one(
        &self,
        function: sys::CUfunction,
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CallFailed> {
        let (arguments, none) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the caller promises it; arguments are copied before the call returns.
        let code = unsafe { (self.launch)(function, 1, 1, 1, 1, 1, 1, 0, stream, arguments, none) };
        self.check("cuLaunchKernel", code)
    }

    /// Puts a grid, all of which is on the chip at a time, into the stream.
    ///
    /// # Safety
    /// As [`Driver::launch_one`].
    pub(super) unsafe fn launch_grid(
        &self,
        function: sys::CUfunction,
        (blocks, threads): (u32, u32),
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CallFailed> {
        let arguments = arguments.as_mut_ptr();
        let (launch, one) = (self.launch_cooperative, 1);
        // SAFETY: the caller promises it; arguments are copied before the call returns.
        let code = unsafe {
            launch(
                function, blocks, one, one, threads, one, one, 0, stream, arguments,
            )
        };
        self.check("cuLaunchCooperativeKernel", code)
    }
}
