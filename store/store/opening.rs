//! Opening: recovery, the threads, and the raised incarnation, in this order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use orlop_saga::compat::Format;
use orlop_saga::event::Event;
use orlop_saga::halfway::Halfway;
use orlop_saga::id::Lsn;
use orlop_saga::live::Live;
use orlop_saga::record;
use orlop_saga::time::Clock;
use parking_lot::{Condvar, Mutex};

use crate::blob::{Keeper, Ledger, sweep_leftovers};
use crate::folder::Folder;
use crate::log::{AppendError, Batch, Lane, LsnRange, Purpose};
use crate::projector::{DeadBlobs, Projected, Projector, ProjectorOptions, RetentionClock, Start};
use crate::recovery::{Recovery, Sources, fill};
use crate::retained::RetainedKeys;
use crate::store::{Inner, OpenError, Parts, Recovered, Store};

/// What a store is opened from.
pub(super) struct Opening {
    pub(super) parts: Parts,
    pub(super) format: Format,
    pub(super) upgrade: bool,
    pub(super) options: ProjectorOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) projected: Arc<dyn Projected>,
    pub(super) hold: Option<Arc<Folder>>,
}

impl Opening {
    /// Opens it.
    pub(super) fn run(mut self) -> Result<(Store, Recovered), OpenError> {
        let clock = self.clock.clone();
        let began = clock.monotonic();
        let is_new = self.parts.log.last_lsn() == Lsn::new(0);
        let store_id = self.parts.store;
        let mut recovery = self.recover()?;
        if self.upgrade
            && let Some(folder) = &self.hold
        {
            // Only once it is known that this version can go on with what it found.
            folder.upgrade()?;
            self.format = Format::NEWEST;
        }
        let retained = Arc::new(RetainedKeys::new(secret()?));
        fill(&retained, &mut *recovery.tables)?;
        let ledger = Arc::new(Ledger::default());
        let dead = DeadBlobs::load(&mut *recovery.tables, &ledger)?;
        let swept = sweep_leftovers(&*self.parts.disk, &self.parts.folder, &ledger)?;
        if swept > 0 {
            tracing::info!(swept, "blobs that no record names were removed");
        }
        let rebuilt = recovery.rebuilt.take().filter(|_| !is_new);
        let replayed_records = recovery.replayed_records;
        let mut live = recovery.live.clone();
        let store = self.start(recovery, retained, ledger, dead)?;
        raise(&store, &mut live, &*clock)?;
        let recovered = Recovered {
            store_id,
            format: store.inner.format,
            incarnation: live.incarnation(),
            live,
            tables_rebuilt: rebuilt.is_some(),
            rebuilt_because: rebuilt,
            replayed_records,
            took: clock.monotonic().since(began),
        };
        Ok((store, recovered))
    }

    fn recover(&mut self) -> Result<Recovery, OpenError> {
        let sources = Sources {
            store: self.parts.store,
            format: self.format,
            disk: &*self.parts.disk,
            folder: &self.parts.folder,
            log: &*self.parts.log,
            group_bytes_max: self.options.group_bytes_max,
        };
        Ok(sources.recover(&mut *self.parts.home)?)
    }

    /// Starts the projector, then the log that feeds it.
    fn start(
        self,
        recovery: Recovery,
        retained: Arc<RetainedKeys>,
        ledger: Arc<Ledger>,
        dead: DeadBlobs,
    ) -> Result<Store, OpenError> {
        let parts = self.parts;
        let hold = self.hold.clone();
        let (disk, folder) = (Arc::clone(&parts.disk), parts.folder.clone());
        let (own_disk, own_folder) = (Arc::clone(&disk), folder.clone());
        let clock = Arc::clone(&self.clock);
        let mut blobs = self.options.blobs;
        match self.format {
            // It cannot say that an outcome is in a blob.
            Format::V1 => blobs.bytes_min = u64::MAX,
            Format::V2 | Format::V3 => {}
        }
        let keeper = Keeper::start(disk, folder, ledger, blobs);
        let keeper = Arc::new(keeper.map_err(|source| OpenError::System {
            operation: "starting the keeper of blobs",
            source,
        })?);
        let own = Arc::clone(&keeper);
        let projector = Projector::start(Start {
            store: parts.store,
            format: self.format,
            disk: parts.disk,
            folder: parts.folder,
            home: parts.home,
            tables: recovery.tables,
            live: recovery.live,
            checkpointed: recovery.checkpointed,
            replayed_bytes: recovery.replayed_bytes,
            unexported_bytes: recovery.unexported_bytes,
            export_bytes: recovery.export_bytes,
            retained: retained.clone(),
            keeper: own,
            dead,
            projected: self.projected,
            retention: RetentionClock::new(self.clock.clone()),
            clock: self.clock,
            options: self.options,
            hold: self.hold,
        })
        .map_err(|source| OpenError::System {
            operation: "starting the projector",
            source,
        })?;
        let log = match parts.log.start(projector.sink()) {
            Ok(log) => log,
            Err(error) => {
                projector.abandon();
                return Err(error.into());
            }
        };
        projector.attach(&log);
        keeper.attach(&log);
        Ok(Store {
            inner: Arc::new(Inner {
                id: parts.store,
                format: self.format,
                disk: own_disk,
                folder: own_folder,
                clock,
                pid: std::process::id(),
                log,
                projector,
                keeper,
                retained,
                backlog_bytes_max: self.options.backlog_bytes_max,
                halfway: Halfway::new(),
                closing: AtomicBool::new(false),
                closed: Mutex::new(None),
                all_closed: Condvar::new(),
                hold: Mutex::new(hold),
            }),
        })
    }
}

fn secret() -> Result<[u8; 32], OpenError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| OpenError::System {
        operation: "drawing random bytes",
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(secret)
}

/// Raises the incarnation, durably; waits for as long as the disk takes.
fn raise(store: &Store, live: &mut Live, clock: &dyn Clock) -> Result<(), OpenError> {
    let event = Event::Opened {
        incarnation: live.incarnation().next(),
        at: clock.wall(),
    };
    let mut batch = Batch::new();
    batch.push(&record::encode(store.inner.format, &event)?);
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let ack = move |result: Result<LsnRange, AppendError>| {
        // Nobody else has the receiver, and it waits.
        let _ = sender.send(result);
    };
    let lane = Lane::default();
    store
        .inner
        .log
        .append(lane, Purpose::Settle, batch, Box::new(ack));
    let range = receiver
        .recv()
        .unwrap_or(Err(AppendError::Closed))
        .map_err(OpenError::Incarnation)?;
    live.apply(range.first, &event)?;
    Ok(())
}
