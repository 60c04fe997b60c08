//! A simulated machine: disks that outlive a crash, local copies, and a wire to an object store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orlop::store::disk::{Disk, SimDisk};
use orlop::store::log::{LogOptions, SimLogDisk};
use orlop::store::tables::SimHome;
use orlop::store::tables::sim::SimShelf;
use orlop::tiered::{LocalSegments, Tiered, TieredOptions};
use orlop::{DeviceOptions, Engine, EngineBuilder, Limits, Options, Parts, RetryPolicy, StoreId};

use crate::support::Local;
use crate::wire::Wire;

/// See the module.
#[derive(Default)]
pub(crate) struct Machine {
    log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
    pub(crate) local: Arc<Local>,
    pub(crate) wire: Wire,
}

impl Machine {
    pub(crate) fn tiered(&self) -> Tiered {
        let local: Arc<dyn LocalSegments> = Arc::<Local>::clone(&self.local);
        let options = TieredOptions {
            delete_settles: Duration::from_micros(100),
            ..TieredOptions::default()
        };
        Tiered::new(Arc::new(self.wire.clone()), local, options)
    }

    pub(crate) fn open(&self) -> Engine {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let parts = Parts {
            store: StoreId::new(*b"tiered, the only"),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        };
        let builder = EngineBuilder::on_parts(parts).options(options());
        self.tiered().bind(builder).open_blocking().unwrap()
    }

    /// The machine once it has power again. Whoever ran before has lost its disks and its wire.
    pub(crate) fn crash(&self) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        self.shelf.crash(1);
        Self {
            log: self.log.crash(2),
            shelf: self.shelf.clone(),
            disk: self.disk.crash(3),
            local: Arc::clone(&self.local),
            wire: self.wire.next_life(),
        }
    }
}

fn options() -> Options {
    let retry = RetryPolicy {
        attempts_max: 6,
        base: Duration::from_micros(100),
        cap: Duration::from_micros(500),
    };
    Options {
        limits: Limits {
            retry,
            reconciles_max: 4,
            ..Limits::default()
        },
        device: DeviceOptions {
            workers: 1,
            arena_bytes: 1 << 20,
            ..DeviceOptions::default()
        },
        ..Options::default()
    }
}
