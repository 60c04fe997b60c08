//! Options of a device, and what is wrong with them.

use std::time::Duration;

use orlop_saga::amount::ByteCount;
use smallvec::SmallVec;

use crate::backend::Backend;
use crate::buffer::{MemoryClass, UNIT_BYTES, UNITS_MAX};
use crate::child::{DeviceHost, HostError};
use crate::cuda::error::CudaError;
use crate::layout::{ENTRY_SLOTS_MAX, Layout, PAGE_BYTES, RESULT_BYTES_MAX, Sizes};
use crate::memory::RegionError;
use crate::ops::RegisterError;

/// Bounds and sizes of one device, checked when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Slots of the entry ring: a power of two, 16 to 65536. Bounds what is in flight.
    pub entry_slots: u32,
    /// Operations accepted and not yet over, results still read included: a power of two, 16 to
    /// 65536.
    pub tickets_max: u32,
    /// Bytes of one permit's result area: a multiple of 64, 64 to 65536. Touched when used.
    pub result_bytes_max: u32,
    /// Workers, 1 to 256: threads of the host, or blocks of a chip. Zero is one per core, at most
    /// 16; on a chip a quarter of its multiprocessors, 16 to 32.
    pub workers: u32,
    /// Bytes of the buffer arena, a multiple of 4096. Touched when used.
    pub arena_bytes: u64,
    /// Bytes of the arena of memory class device 0, a multiple of 4096, where buffers with a name
    /// lie; without any they lie in the arena of the host. Touched when used. Where host threads
    /// are the device it is host memory as well.
    pub device_bytes: u64,
    /// Buffer slots, staged windows included: 1 to 1048576.
    pub buffer_slots: u32,
    /// The most tiles of one task: 1 to 1048576.
    pub tiles_max: u32,
    /// How long one idle worker looks before it sleeps, at most 1 ms; never on a single core.
    pub spin: Duration,
    /// What the megakernel runs on.
    pub backend: Backend,
    /// The epoch of this device's memory, from 1; raise it when a lost device is opened again.
    pub epoch: u32,
    /// Where its megakernel runs.
    pub host: DeviceHost,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            entry_slots: 1024,
            tickets_max: 2048,
            result_bytes_max: RESULT_BYTES_MAX,
            workers: 0,
            arena_bytes: 256 << 20,
            device_bytes: 0,
            buffer_slots: 4096,
            tiles_max: 65_536,
            spin: Duration::from_micros(5),
            backend: Backend::Host,
            epoch: 1,
            host: DeviceHost::InProcess,
        }
    }
}

/// Why a device was not opened. Nothing runs and nothing is held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
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
    /// All of it together exceeds what can be addressed.
    #[error("the sections of the shared memory exceed the address space; arena {arena}")]
    Layout {
        /// The largest part.
        arena: ByteCount,
    },
    /// The memory was refused.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// A CUDA device was asked for, and none will do.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// An operation was refused.
    #[error(transparent)]
    Op(#[from] RegisterError),
    /// Its process does not run.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The system refused a thread.
    #[error("the system refused worker {worker}")]
    Thread {
        /// Which.
        worker: u32,
        /// What it said.
        source: std::io::Error,
    },
}

impl DeviceOptions {
    /// The cores that threads of this process may use.
    pub(crate) fn cores() -> u32 {
        let cores = std::thread::available_parallelism();
        cores
            .ok()
            .and_then(|cores| u32::try_from(cores.get()).ok())
            .unwrap_or(1)
    }

    /// The number of workers that `workers` stands for on this machine.
    pub fn workers_resolved(&self) -> u32 {
        match self.workers {
            0 => Self::cores().clamp(1, 16),
            workers => workers,
        }
    }

    pub(crate) fn spin_on(&self, cores: u32) -> Duration {
        if cores > 1 { self.spin } else { Duration::ZERO }
    }

    /// The memory classes of the arena and their units, in the order in which they lie there.
    pub(crate) fn classes(&self) -> Option<SmallVec<[(MemoryClass, u32); 2]>> {
        let classes = [
            (MemoryClass::Host, self.arena_bytes),
            (MemoryClass::Device(0), self.device_bytes),
        ];
        let there = classes.into_iter().filter(|(_, bytes)| *bytes > 0);
        there
            .map(|(class, bytes)| Some((class, u32::try_from(bytes / UNIT_BYTES).ok()?)))
            .collect()
    }

    /// Checks every option.
    pub(crate) fn layout(&self) -> Result<Layout, OpenError> {
        let ring = |value: u32| value.is_power_of_two() && (16..=65_536).contains(&value);
        let checks = [
            (
                "entry_slots",
                ring(self.entry_slots),
                u64::from(self.entry_slots),
                RING,
            ),
            (
                "tickets_max",
                ring(self.tickets_max),
                u64::from(self.tickets_max),
                RING,
            ),
            (
                "result_bytes_max",
                self.result_bytes_max.is_multiple_of(64)
                    && (64..=RESULT_BYTES_MAX).contains(&self.result_bytes_max),
                u64::from(self.result_bytes_max),
                "a multiple of 64, 64 to 65536",
            ),
            (
                "workers",
                self.workers <= 256,
                u64::from(self.workers),
                "0 to 256",
            ),
            (
                "arena_bytes",
                self.arena_bytes > 0
                    && self.arena_bytes.is_multiple_of(PAGE_BYTES)
                    && self.arena_bytes / UNIT_BYTES <= UNITS_MAX,
                self.arena_bytes,
                "a multiple of 4096, from 4096 to 2^39",
            ),
            (
                "device_bytes",
                self.device_bytes.is_multiple_of(PAGE_BYTES)
                    && self.device_bytes / UNIT_BYTES <= UNITS_MAX,
                self.device_bytes,
                "a multiple of 4096, to 2^39",
            ),
            (
                "buffer_slots",
                in_million(self.buffer_slots),
                self.buffer_slots.into(),
                MILLION,
            ),
            (
                "tiles_max",
                in_million(self.tiles_max),
                self.tiles_max.into(),
                MILLION,
            ),
            (
                "spin",
                self.spin <= Duration::from_millis(1),
                u64::try_from(self.spin.as_nanos()).unwrap_or(u64::MAX),
                "at most 1000000 ns",
            ),
            ("epoch", self.epoch > 0, u64::from(self.epoch), "at least 1"),
        ];
        for (option, holds, value, range) in checks {
            if !holds {
                return Err(OpenError::Option {
                    option,
                    value,
                    range,
                });
            }
        }
        if let DeviceHost::Child(child) = &self.host
            && let Some((option, value, range)) = child.wrong()
        {
            let value = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
            return Err(OpenError::Option {
                option,
                value,
                range,
            });
        }
        debug_assert!(self.entry_slots as usize >= 2 * ENTRY_SLOTS_MAX);
        let workers = self.workers_resolved();
        let sizes = Sizes {
            entry_slots: self.entry_slots,
            tickets: self.tickets_max,
            result_bytes: self.result_bytes_max,
            workers,
            arena_bytes: self.arena_bytes.saturating_add(self.device_bytes),
        };
        let arena = ByteCount::new(self.arena_bytes);
        Layout::of(sizes).ok_or(OpenError::Layout { arena })
    }
}

const RING: &str = "a power of two, 16 to 65536";
const MILLION: &str = "1 to 1048576";

fn in_million(value: u32) -> bool {
    (1..=1 << 20).contains(&value)
}
