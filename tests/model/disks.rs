//! Disks: everything of a simulated machine that outlives a crash, and engines over it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::projector::ProjectorOptions;
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::{
    BulkheadOptions, DeviceOptions, Engine, EngineBuilder, HOST_IO, Limits, OpenError, Options,
    Parts, RetryPolicy, StoreId, StoreOptions,
};
use tokio::sync::oneshot;

/// More than a machine crashes here. Whether a power loss or a saga's code ended the process cannot
/// be told, so whoever has its turn is charged with it; no code of the model is to blame.
const CRASHES_MAX: u32 = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    pub(crate) log: SimLogDisk,
    pub(crate) shelf: SimShelf,
    pub(crate) disk: SimDisk,
}

/// How an engine of the model is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// A checkpoint is written after so many bytes of journal.
    pub(crate) checkpoint_bytes: u64,
    /// How many attempts may run at once.
    pub(crate) slots: u32,
    /// How many functions of waiting sagas stay in memory.
    pub(crate) resident_max: usize,
}

impl Shape {
    /// Where nothing is short.
    pub(crate) const AMPLE: Self = Self {
        checkpoint_bytes: 1 << 20,
        slots: 8,
        resident_max: 1 << 14,
    };
}

impl Disks {
    fn parts(&self) -> Parts {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Parts {
            store: StoreId::new(*b"the model's only"),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        }
    }

    /// Opens an engine with whatever code `bind` gives it.
    pub(crate) fn open(
        &self,
        shape: Shape,
        bind: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Result<Engine, OpenError> {
        let builder = EngineBuilder::on_parts(self.parts()).options(options(shape));
        bind(builder).open_blocking()
    }

    /// A future that is ready once the journal's power is off: nobody is answered from then on.
    pub(crate) fn power_off(&self) -> oneshot::Receiver<()> {
        let (told, tells) = mpsc::channel();
        self.log.tell_power_off(told);
        let (off, is_off) = oneshot::channel();
        std::thread::spawn(move || {
            // Without an answer the log is gone, and so is whoever waited.
            if tells.recv().is_ok() {
                let _ = off.send(());
            }
        });
        is_off
    }

    /// What the machine finds when it has power again. Whoever ran before has lost its disks.
    ///
    /// Frozen in this order, so that no checkpoint names a table that is gone, and no table a
    /// record that is gone; the journal first stops, so that an engine that is only being dropped
    /// gets no further than the machine did.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        self.shelf.crash(seed);
        Self {
            log: self.log.crash(seed.rotate_left(17)),
            shelf: self.shelf.clone(),
            disk: self.disk.crash(seed.rotate_left(31)),
        }
    }
}

fn options(shape: Shape) -> Options {
    let retry = RetryPolicy {
        attempts_max: 200,
        base: Duration::from_micros(200),
        cap: Duration::from_millis(1),
    };
    Options {
        limits: Limits {
            retry,
            reconciles_max: 100,
            saga_crashes_max: CRASHES_MAX,
            sagas_resident_max: shape.resident_max,
            ..Limits::default()
        },
        store: StoreOptions {
            projector: ProjectorOptions {
                checkpoint_bytes: shape.checkpoint_bytes,
                export_bytes_min: shape.checkpoint_bytes * 4,
                ..ProjectorOptions::default()
            },
            ..StoreOptions::default()
        },
        device: DeviceOptions {
            workers: 1,
            arena_bytes: 1 << 20,
            ..DeviceOptions::default()
        },
        io_bulkhead: BulkheadOptions {
            in_flight_max: shape.slots,
            ..BulkheadOptions::new(HOST_IO)
        },
        ..Options::default()
    }
}
