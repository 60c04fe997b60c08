//! Opening: what a device is made of, by what it runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Device;
use crate::backend::{Backend, Choice};
use crate::buffer::Buffers;
use crate::buffer::copy::HostCopy;
#[cfg(target_os = "linux")]
use crate::child::ChildRunner;
use crate::child::{ChildOptions, DeviceHost};
use crate::control::{Control, Doorbell};
use crate::cuda::error::CudaError;
use crate::cuda::found::CudaFound;
use crate::cuda::options::CudaOptions;
use crate::host::{HostKernel, HostThreads, KernelOptions};
use crate::hub::Hub;
use crate::layout::{CONTROL_SLOTS, LAYOUT_VERSION, Layout, MAGIC, header_word};
use crate::memory::Region;
use crate::ops::{HostOp, OpTable};
use crate::options::{DeviceOptions, OpenError};
use crate::pump::Pump;
use crate::ring::Ring;
use crate::runner::Runner;
use crate::ticket::Permits;

fn ring(region: &Arc<Region>, layout: &Layout, at: u64, slots: u32) -> Result<Ring, OpenError> {
    let arena = orlop_saga::amount::ByteCount::new(layout.sizes.arena_bytes);
    Ring::new(Arc::clone(region), at, slots).ok_or(OpenError::Layout { arena })
}

impl Device {
    /// Maps the shared memory and starts the workers, on what [`DeviceOptions::backend`] asks for.
    /// [`Device::choice`] says what that came to.
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs and nothing is held.
    pub fn open(options: &DeviceOptions, ops: Vec<Arc<dyn HostOp>>) -> Result<Self, OpenError> {
        Self::open_unless(&Arc::default(), options, ops)
    }

    /// [`Device::open`], which does not wait for a process to be ready once it is `unwanted`.
    pub(crate) fn open_unless(
        unwanted: &Arc<AtomicBool>,
        options: &DeviceOptions,
        ops: Vec<Arc<dyn HostOp>>,
    ) -> Result<Self, OpenError> {
        // Before anything is looked for: a wrong option is wrong on every machine.
        options.layout()?;
        let cuda = match &options.backend {
            Backend::Host => return Self::open_host(unwanted, options, ops),
            Backend::Auto(cuda) | Backend::Cuda(cuda) => cuda,
        };
        let choice = match (Choice::of(&options.backend)?, &options.host) {
            (Choice::Cuda { .. }, DeviceHost::Child(_)) => Choice::NoCuda(CudaError::OtherProcess),
            (choice, DeviceHost::Child(_) | DeviceHost::InProcess) => choice,
        };
        if let (Choice::NoCuda(error), Backend::Cuda(_)) = (&choice, &options.backend) {
            return Err(error.clone().into());
        }
        let opened = match &choice {
            Choice::Cuda { found, .. } => Self::open_cuda(found, cuda, options, &ops),
            Choice::Host | Choice::NoCuda(_) => Self::open_host(unwanted, options, ops.clone()),
        };
        let (mut device, choice) = match (opened, &options.backend) {
            (Ok(device), _) => (device, choice),
            (Err(OpenError::Cuda(error)), Backend::Auto(_)) => {
                let device = Self::open_host(unwanted, options, ops)?;
                (device, Choice::NoCuda(error))
            }
            (Err(error), _) => return Err(error),
        };
        device.choice = choice;
        Ok(device)
    }

    /// [`Device::open`] with [`Backend::Auto`]: the first CUDA device that will do, else threads of
    /// the host.
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs and nothing is held.
    pub fn auto(options: &DeviceOptions, ops: Vec<Arc<dyn HostOp>>) -> Result<Self, OpenError> {
        let backend = Backend::Auto(CudaOptions::default());
        let options = DeviceOptions {
            backend,
            ..options.clone()
        };
        Self::open(&options, ops)
    }

    fn open_cuda(
        found: &CudaFound,
        cuda: &CudaOptions,
        options: &DeviceOptions,
        ops: &[Arc<dyn HostOp>],
    ) -> Result<Self, OpenError> {
        if let Some(op) = ops.first() {
            return Err(CudaError::HostOnly { name: op.name() }.into());
        }
        crate::cuda::open(found, cuda, options)
    }

    fn open_host(
        unwanted: &Arc<AtomicBool>,
        options: &DeviceOptions,
        ops: Vec<Arc<dyn HostOp>>,
    ) -> Result<Self, OpenError> {
        let layout = options.layout()?;
        let mut table = OpTable::built_in();
        for op in ops {
            table.register(op)?;
        }
        match &options.host {
            DeviceHost::InProcess => Self::open_in_process(layout, options, table),
            DeviceHost::Child(child) => {
                Self::open_in_child(unwanted, layout, options, child, table)
            }
        }
    }

    fn open_in_process(
        layout: Layout,
        options: &DeviceOptions,
        table: OpTable,
    ) -> Result<Self, OpenError> {
        let region = Arc::new(Region::new(layout.total)?);
        write_header(&region, &layout, options.epoch);
        let kernel = KernelOptions {
            tiles_max: options.tiles_max,
            buffer_slots: options.buffer_slots,
            spin: options.spin_on(DeviceOptions::cores()),
        };
        let arena = orlop_saga::amount::ByteCount::new(layout.sizes.arena_bytes);
        let kernel = HostKernel::new(&region, layout, table, &kernel);
        let threads = Arc::new(HostThreads::new(kernel.ok_or(OpenError::Layout { arena })?));
        let runner: Arc<dyn Runner> = Arc::<HostThreads>::clone(&threads);
        let device = Self::assemble(region, layout, options, runner)?;
        // Should a thread be refused, dropping the device stops those that run.
        threads.start(&device.hub)?;
        Ok(device)
    }

    #[cfg(target_os = "linux")]
    fn open_in_child(
        unwanted: &Arc<AtomicBool>,
        layout: Layout,
        options: &DeviceOptions,
        child: &ChildOptions,
        table: OpTable,
    ) -> Result<Self, OpenError> {
        let (region, memory) = Region::shared(layout.total)?;
        let region = Arc::new(region);
        write_header(&region, &layout, options.epoch);
        let runner = ChildRunner::new(&region, table, options, child, unwanted)?;
        let runner = Arc::new(runner);
        let seen: Arc<dyn Runner> = Arc::<ChildRunner>::clone(&runner);
        let device = Self::assemble(region, layout, options, seen)?;
        if let Err(error) = runner.start(&device.hub, memory.into()) {
            // Nobody is there to be ordered anything.
            device.hub.control.lose();
            return Err(error.into());
        }
        Ok(device)
    }

    #[cfg(not(target_os = "linux"))]
    fn open_in_child(
        _: &Arc<AtomicBool>,
        _: Layout,
        _: &DeviceOptions,
        _: &ChildOptions,
        _: OpTable,
    ) -> Result<Self, OpenError> {
        Err(crate::child::HostError::Unsupported.into())
    }

    /// This side of a device over memory whose header is written, with `runner` at the other end.
    /// The runner may be told of entries and orders from now on; what it posts is for
    /// [`Hub::as_listener`].
    pub(crate) fn assemble(
        region: Arc<Region>,
        layout: Layout,
        options: &DeviceOptions,
        runner: Arc<dyn Runner>,
    ) -> Result<Self, OpenError> {
        let arena = orlop_saga::amount::ByteCount::new(layout.sizes.arena_bytes);
        let control = Arc::new(Control::new(
            ring(&region, &layout, layout.control, CONTROL_SLOTS)?,
            ring(&region, &layout, layout.control_done, CONTROL_SLOTS)?,
            Arc::clone(&runner) as Arc<dyn Doorbell>,
        ));
        let buffers = Buffers::with_classes(
            Arc::clone(&region),
            layout.arena,
            &options.classes().ok_or(OpenError::Layout { arena })?,
            options.buffer_slots,
            Arc::clone(&control),
            Box::new(HostCopy::new(Arc::clone(&region), layout.arena)),
        );
        let entry_slots = layout.sizes.entry_slots;
        let hub = Arc::new(Hub::new(
            Pump::new(ring(&region, &layout, layout.entries, entry_slots)?),
            ring(&region, &layout, layout.completions, entry_slots)?,
            Arc::new(Permits::new(Arc::clone(&region), layout, options.epoch)),
            control,
            runner,
            region,
            layout,
        ));
        Ok(Self {
            hub,
            buffers,
            choice: Choice::Host,
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            cuda: None,
            drains: AtomicU64::new(0),
            drain_timeouts: AtomicU64::new(0),
            drain_waited: AtomicU64::new(0),
        })
    }
}

pub(crate) fn write_header(region: &Region, layout: &Layout, epoch: u32) {
    let sizes = layout.sizes;
    let words = [
        (header_word::MAGIC, MAGIC),
        (header_word::VERSION, LAYOUT_VERSION),
        (header_word::ENTRY_SLOTS, u64::from(sizes.entry_slots)),
        (header_word::CONTROL_SLOTS, u64::from(CONTROL_SLOTS)),
        (header_word::TICKETS, u64::from(sizes.tickets)),
        (header_word::RESULT_BYTES, u64::from(sizes.result_bytes)),
        (header_word::WORKERS, u64::from(sizes.workers)),
        (header_word::ARENA_BYTES, sizes.arena_bytes),
        (header_word::EPOCH, u64::from(epoch)),
    ];
    let header = region.slots(0, 1).and_then(<[_]>::first);
    for (index, value) in words {
        if let Some(word) = header.and_then(|header| header.word(index)) {
            word.store(value, Ordering::Relaxed);
        }
    }
}
