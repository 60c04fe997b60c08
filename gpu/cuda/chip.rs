//! Chip: what a device holds of ours, and the kernel that runs there.
//!
//! All of it belongs to one thread of our own, on which the context is current: an embedder's
//! threads keep theirs.
//!
//! Invariants
//! - What was made is given back in the reverse order, and only while no kernel runs.
//! - After a fault or a hang nothing is given back: the dead context would refuse it, and a kernel
//!   that comes late may still write.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::Driver;
use super::error::{CallFailed, CudaError};
use super::found::CudaFound;
use crate::kernel::image::MEGAKERNEL;
use crate::layout::Layout;
use crate::memory::Region;

/// Threads of a block: `orlop::THREADS` of the kernel's source.
const THREADS: u32 = 128;

/// `orlop::Limits` of the kernel's source.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Limits {
    pub(super) buffer_slots: u32,
    pub(super) tenant_slots: u32,
    pub(super) tiles_max: u32,
    pub(super) pool_pages: u32,
}

/// The primary context, current on this thread.
struct Context {
    driver: &'static Driver,
    device: sys::CUdevice,
}

impl Context {
    fn new(driver: &'static Driver, ordinal: u32) -> Result<Self, CallFailed> {
        let device = driver.device(ordinal)?;
        let context = driver.retain(device)?;
        let kept = Self { driver, device };
        // SAFETY: it is retained until `kept` is dropped, which sets none instead.
        unsafe { driver.set_current(context) }?;
        Ok(kept)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: no context is a context that needs no keeping.
        let _ = unsafe { self.driver.set_current(std::ptr::null_mut()) };
        // Should it be refused, the context stays until the process ends.
        let _ = self.driver.release(self.device);
    }
}

/// The image, loaded.
struct Module {
    driver: &'static Driver,
    module: sys::CUmodule,
}

impl Module {
    fn new(driver: &'static Driver) -> Result<Self, CallFailed> {
        // SAFETY: the embedded image is whole; a test compares it with what it was made of.
        let module = unsafe { driver.load(MEGAKERNEL) }?;
        Ok(Self { driver, module })
    }

    fn function(&self, name: &CStr) -> Result<sys::CUfunction, CallFailed> {
        // SAFETY: the module is loaded as long as `self` lives.
        unsafe { self.driver.function(self.module, name) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded, dropped once, and dropped only after the stream is over.
        let _ = unsafe { self.driver.unload(self.module) };
    }
}

/// Memory of the host that the device sees.
struct Pinned {
    driver: &'static Driver,
    region: Arc<Region>,
    seen_at: u64,
}

impl Pinned {
    fn new(driver: &'static Driver, region: Arc<Region>) -> Result<Self, CudaError> {
        let base = region.base().as_ptr();
        let not_pinned = |said| CudaError::NotPinned {
            bytes: region.length(),
            said,
        };
        let bytes = usize::try_from(region.length()).unwrap_or(usize::MAX);
        // SAFETY: the region maps these bytes, and is kept until they are unregistered.
        unsafe { driver.register(base, bytes) }.map_err(not_pinned)?;
        let mut pinned = Self {
            driver,
            region,
            seen_at: 0,
        };
        pinned.seen_at = driver.device_pointer(base)?;
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: registered, dropped once, and dropped only after the stream is over.
        let given = unsafe { self.driver.unregister(self.region.base().as_ptr()) };
        if given.is_err() {
            // The device may still reach it: it stays mapped.
            std::mem::forget(Arc::clone(&self.region));
        }
    }
}

/// Memory of the device.
struct Memory {
    driver: &'static Driver,
    at: u64,
}

impl Memory {
    fn new(driver: &'static Driver, bytes: usize) -> Result<Self, CallFailed> {
        let at = driver.allocate(bytes)?;
        Ok(Self { driver, at })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated, dropped once, and dropped only after the stream is over.
        let _ = unsafe { self.driver.free(self.at) };
    }
}

/// A stream of our own.
struct Stream {
    driver: &'static Driver,
    stream: sys::CUstream,
}

impl Stream {
    fn new(driver: &'static Driver) -> Result<Self, CallFailed> {
        let stream = driver.stream()?;
        Ok(Self { driver, stream })
    }

    /// Runs one thread of a function that writes one number, and reads that.
    fn ask<const N: usize>(
        &self,
        function: sys::CUfunction,
        arguments: impl FnOnce(*mut c_void) -> Vec<*mut c_void>,
    ) -> Result<[u8; N], CallFailed> {
        let answer = Memory::new(self.driver, N)?;
        let mut at = answer.at;
        let mut arguments = arguments((&raw mut at).cast());
        // SAFETY: callers name a function of the loaded image with its own arguments.
        unsafe {
            self.driver
                .launch_one(function, self.stream, &mut arguments)
        }?;
        let mut bytes = [0; N];
        // SAFETY: as many bytes are allocated there, and the stream lives.
        unsafe { self.driver.read(&mut bytes, answer.at, self.stream) }?;
        Ok(bytes)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created, and destroyed once.
        let _ = unsafe { self.driver.destroy(self.stream) };
    }
}

/// See the module.
pub(super) struct Chip {
    // Given back in this order.
    stream: Stream,
    state: Memory,
    pinned: Pinned,
    _module: Module,
    _context: Context,
    megakernel: sys::CUfunction,
    arena: u64,
    workers: u32,
}

fn pointer<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

impl Chip {
    /// Takes what the kernel needs, and makes its tables.
    pub(super) fn open(
        found: &CudaFound,
        region: Arc<Region>,
        layout: &Layout,
        limits: Limits,
    ) -> Result<Self, CudaError> {
        let driver = Driver::get()?;
        let context = Context::new(driver, found.ordinal)?;
        let module = Module::new(driver)?;
        let megakernel = module.function(c"orlop_megakernel")?;
        let state_bytes = module.function(c"orlop_state_bytes")?;
        let set_up = module.function(c"orlop_set_up")?;
        // SAFETY: the module is loaded.
        let each = unsafe { driver.blocks(megakernel, THREADS) }?;
        let (workers, fit) = (layout.sizes.workers, each * found.multiprocessors);
        if workers > fit {
            return Err(CudaError::TooManyWorkers { workers, fit });
        }
        let pinned = Pinned::new(driver, region)?;
        let stream = Stream::new(driver)?;
        let bytes = state_size(&stream, state_bytes, layout, limits)?;
        let free = driver.free_bytes()?;
        if bytes > free {
            let needed = bytes;
            return Err(CudaError::TooLittleMemory { needed, free });
        }
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let state = Memory::new(driver, length)?;
        // SAFETY: as many bytes were allocated there, and the stream lives.
        unsafe { driver.zero(state.at, length, stream.stream) }?;
        let chip = Self {
            arena: pinned.seen_at + layout.arena,
            stream,
            state,
            pinned,
            _module: module,
            _context: context,
            megakernel,
            workers,
        };
        chip.set_up(set_up, limits)?;
        Ok(chip)
    }

    fn set_up(&self, function: sys::CUfunction, mut limits: Limits) -> Result<(), CudaError> {
        let (mut shared, mut state) = (self.pinned.seen_at, self.state.at);
        let done = self.stream.ask::<4>(function, |answer| {
            vec![
                pointer(&mut shared),
                pointer(&mut state),
                pointer(&mut limits),
                answer,
            ]
        })?;
        match u32::from_le_bytes(done) {
            0 => Err(CudaError::Layout),
            _ => Ok(()),
        }
    }

    /// Puts the kernel of this launch number behind what is in the stream.
    pub(super) fn launch(&self, mut generation: u64) -> Result<(), CallFailed> {
        let (mut shared, mut arena) = (self.pinned.seen_at, self.arena);
        let mut state = self.state.at;
        let mut arguments = [
            pointer(&mut shared),
            pointer(&mut arena),
            pointer(&mut state),
            pointer(&mut generation),
        ];
        let grid = (self.workers, THREADS);
        let (driver, stream) = (self.stream.driver, self.stream.stream);
        // SAFETY: the function is of the loaded image and takes these four; what they point to is
        // kept until the stream is over.
        unsafe { driver.launch_grid(self.megakernel, grid, stream, &mut arguments) }
    }

    /// Whether no kernel runs or is to.
    pub(super) fn is_over(&self) -> Result<bool, CallFailed> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { self.stream.driver.is_over(self.stream.stream) }
    }

    /// Leaves everything where it is, for ever, the shared memory too.
    pub(super) fn abandon(self) {
        std::mem::forget(self);
    }
}

fn state_size(
    stream: &Stream,
    function: sys::CUfunction,
    layout: &Layout,
    mut limits: Limits,
) -> Result<u64, CallFailed> {
    let sizes = layout.sizes;
    let (mut slots, mut tickets) = (sizes.entry_slots, sizes.tickets);
    let mut workers = sizes.workers;
    let bytes = stream.ask::<8>(function, |answer| {
        vec![
            pointer(&mut slots),
            pointer(&mut tickets),
            pointer(&mut workers),
            pointer(&mut limits),
            answer,
        ]
    })?;
    Ok(u64::from_le_bytes(bytes))
}
