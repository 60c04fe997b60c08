//! The keeper: the thread that writes blobs before the records that name them, and unlinks them.
//!
//! Batches with an output long enough pass through here on their way to the log; all others go
//! there at once. A tenant's batches may so overtake each other, which only those do that the
//! caller left unordered: an outcome is the last record of its effect or saga.
//!
//! A store of format 1 has no blobs, so nothing of it passes here.
//!
//! Whatever waits is written as one group: every file is synced, each folder once.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use orlop_saga::blob::BlobRef;
use orlop_saga::canonical::Payload;
use orlop_saga::compat::Format;
use orlop_saga::digest::Digest;
use orlop_saga::effect::EffectEvent;
use orlop_saga::event::Event;
use orlop_saga::id::TenantId;
use orlop_saga::outcome::Outcome;
use orlop_saga::record;
use orlop_saga::saga::SagaEvent;
use parking_lot::Mutex;

use super::files::{Files, read_blob};
use super::{BlobOptions, Ledger};
use crate::disk::Disk;
use crate::log::{Acknowledge, AppendError, Batch, Lane, Log, LsnRange, Purpose, is_no_space};

/// Most orders that are one group.
const GROUP_MAX: usize = 256;

/// A batch on its way to the log, by way of the blobs of its outputs.
pub(crate) struct Carried {
    pub(crate) tenant: TenantId,
    pub(crate) lane: Lane,
    pub(crate) purpose: Purpose,
    pub(crate) events: Vec<Event>,
    pub(crate) ack: Box<dyn Acknowledge>,
}

type Name = (TenantId, Digest);

/// How a blob came to be there, whole and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Written,
    /// Another outcome has the same bytes.
    Found,
}

enum Order {
    Append(Carried),
    Unlink {
        names: Vec<Name>,
        done: Sender<Vec<Name>>,
    },
    /// Everything ordered before is handed to the log.
    Drain(Sender<()>),
    Stop,
}

/// The other side of the thread.
pub(crate) struct Keeper {
    pub(crate) ledger: Arc<Ledger>,
    options: BlobOptions,
    orders: Sender<Order>,
    waiting_bytes: Arc<AtomicU64>,
    closed: AtomicBool,
    log: Arc<OnceLock<Weak<dyn Log>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("options", &self.options)
            .field("waiting_bytes", &self.waiting_bytes)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        store: PathBuf,
        ledger: Arc<Ledger>,
        options: BlobOptions,
    ) -> io::Result<Self> {
        let (orders, receiver) = unbounded();
        let log: Arc<OnceLock<Weak<dyn Log>>> = Arc::default();
        let waiting_bytes = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            disk,
            files: Files::new(store),
            ledger: Arc::clone(&ledger),
            bytes_min: options.bytes_min,
            log: Arc::clone(&log),
            waiting_bytes: Arc::clone(&waiting_bytes),
            broken: false,
        };
        let thread = std::thread::Builder::new()
            .name("orlop-blobs".into())
            .spawn(move || worker.run(&receiver))?;
        Ok(Self {
            ledger,
            options,
            orders,
            waiting_bytes,
            closed: AtomicBool::new(false),
            log,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Names the log that batches go on to.
    pub(crate) fn attach(&self, log: &Arc<dyn Log>) {
        // Attached once, by the store that started it.
        let _ = self.log.set(Arc::downgrade(log));
    }

    pub(crate) fn options(&self) -> BlobOptions {
        self.options
    }

    /// Whether one of these events has an output for a blob.
    pub(crate) fn wants(&self, events: &[Event]) -> bool {
        let long = |event: &Event| output_of(event, self.options.bytes_min).is_some();
        events.iter().any(long)
    }

    /// Bytes of outputs that wait to be written.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Takes a batch; gives it back if the keeper is closed.
    pub(crate) fn carry(&self, carried: Carried) -> Result<(), Carried> {
        if self.closed.load(Ordering::Acquire) {
            return Err(carried);
        }
        let bytes = bytes_of(&carried.events);
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.orders
            .send(Order::Append(carried))
            .map_err(|unsent| match unsent.0 {
                Order::Append(carried) => carried,
                // Only what was sent comes back.
                Order::Unlink { .. } | Order::Drain(_) | Order::Stop => Carried::nothing(),
            })
    }

    /// Unlinks those that nothing keeps; answers which are gone. Waits for the disk.
    pub(crate) fn unlink(&self, names: Vec<Name>) -> Vec<Name> {
        let (done, gone) = bounded(1);
        if names.is_empty() || self.orders.send(Order::Unlink { names, done }).is_err() {
            return Vec::new();
        }
        gone.recv().unwrap_or_default()
    }

    /// Takes nothing more, and hands what it took to the log.
    pub(crate) fn drain(&self) {
        self.closed.store(true, Ordering::Release);
        let (done, drained) = bounded(1);
        if self.orders.send(Order::Drain(done)).is_ok() {
            // Without an answer the thread has ended, and nothing waits.
            let _ = drained.recv();
        }
    }

    /// Ends the thread; waits for it, unless called by it. What it still has is refused.
    pub(crate) fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        let _ = self.orders.send(Order::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the keeper of blobs panicked");
        }
    }
}

impl Carried {
    fn nothing() -> Self {
        Self {
            tenant: TenantId::new(0, 0),
            lane: Lane::default(),
            purpose: Purpose::Settle,
            events: Vec::new(),
            ack: Box::new(|_| {}),
        }
    }
}

/// What the thread owns.
struct Worker {
    disk: Arc<dyn Disk>,
    files: Files,
    ledger: Arc<Ledger>,
    bytes_min: u64,
    log: Arc<OnceLock<Weak<dyn Log>>>,
    waiting_bytes: Arc<AtomicU64>,
    /// The disk failed under it: outputs stay in their records from then on.
    broken: bool,
}

impl Worker {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut batches = Vec::new();
            let more = orders.try_iter().take(GROUP_MAX);
            let group: Vec<Order> = std::iter::once(first).chain(more).collect();
            let mut stopped = false;
            for order in group {
                match order {
                    Order::Append(carried) if stopped => refuse(carried, AppendError::Closed),
                    Order::Append(carried) => batches.push(carried),
                    Order::Unlink { names, done } => {
                        self.write(std::mem::take(&mut batches));
                        // Whoever asked is gone only if it panicked.
                        let _ = done.send(self.unlink(names));
                    }
                    Order::Drain(done) => {
                        self.write(std::mem::take(&mut batches));
                        let _ = done.send(());
                    }
                    Order::Stop => {
                        stopped = true;
                        for carried in batches.drain(..) {
                            refuse(carried, AppendError::Closed);
                        }
                    }
                }
            }
            if stopped {
                return;
            }
            self.write(batches);
        }
    }

    /// Writes the blobs of a group, durably, and hands the batches to the log.
    fn write(&mut self, batches: Vec<Carried>) {
        let mut written: HashMap<Name, Origin> = HashMap::new();
        for carried in &batches {
            for event in &carried.events {
                if let Some(output) = output_of(event, self.bytes_min) {
                    self.write_one(carried.tenant, output, &mut written);
                }
            }
        }
        let fresh = written
            .iter()
            .filter(|(_, origin)| **origin == Origin::Written);
        let tenants: HashSet<TenantId> = fresh.map(|((tenant, _), _)| *tenant).collect();
        for tenant in tenants {
            if let Err(error) = self.files.sync(&*self.disk, tenant) {
                self.failed(&error);
                written.retain(|(owner, _), origin| *owner != tenant || *origin == Origin::Found);
            }
        }
        for carried in batches {
            self.hand_over(carried, &written);
        }
    }

    fn write_one(
        &mut self,
        tenant: TenantId,
        output: &Payload,
        written: &mut HashMap<Name, Origin>,
    ) {
        let blob = BlobRef::of(output);
        let name = (tenant, blob.digest);
        if written.contains_key(&name) {
            return;
        }
        // The ledger knows what the tables know: after a crash they may name a blob that was
        // unlinked, and any file may be damaged. Here its bytes are at hand to replace it.
        if self.ledger.has(tenant, blob.digest)
            && read_blob(&*self.disk, self.files.store(), tenant, blob).is_ok()
        {
            written.insert(name, Origin::Found);
            return;
        }
        if self.broken {
            return;
        }
        let bytes = output.as_bytes();
        match self.files.write(&*self.disk, tenant, blob.digest, bytes) {
            Ok(()) => {
                written.insert(name, Origin::Written);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// The record takes the output then. After a failure of the device nothing of a folder whose
    /// sync failed may be believed, so that no blob is written any more.
    fn failed(&mut self, error: &io::Error) {
        self.broken |= !is_no_space(error);
        tracing::warn!(%error, "a blob was not written; its output goes into the record");
    }

    fn hand_over(&mut self, mut carried: Carried, written: &HashMap<Name, Origin>) {
        let bytes = bytes_of(&carried.events);
        let mut pins = Vec::new();
        for event in &mut carried.events {
            let Some(output) = output_of(event, self.bytes_min) else {
                continue;
            };
            let blob = BlobRef::of(output);
            let name = (carried.tenant, blob.digest);
            if !written.contains_key(&name) {
                continue;
            }
            self.ledger.written(carried.tenant, blob);
            pins.push(blob);
            refer(event, blob);
        }
        let mut batch = Batch::new();
        for event in &carried.events {
            match record::encode(Format::NEWEST, event) {
                Ok(bytes) => batch.push(&bytes),
                Err(error) => {
                    tracing::error!(%error, "an event has no bytes");
                    self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    refuse(carried, AppendError::Poisoned);
                    return;
                }
            }
        }
        let ack = Pinned {
            ledger: Arc::clone(&self.ledger),
            tenant: carried.tenant,
            pins,
            ack: carried.ack,
        };
        match self.log.get().and_then(Weak::upgrade) {
            Some(log) => log.append(carried.lane, carried.purpose, batch, Box::new(ack)),
            None => Box::new(ack).acknowledged(Err(AppendError::Closed)),
        }
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn unlink(&mut self, names: Vec<Name>) -> Vec<Name> {
        if self.ledger.is_held() {
            return Vec::new();
        }
        let mut gone = Vec::new();
        for (tenant, digest) in names {
            if !self.ledger.is_unnamed(tenant, digest) {
                continue;
            }
            match self.files.remove(&*self.disk, tenant, digest) {
                Ok(()) => {
                    self.ledger.unlinked(tenant, digest);
                    gone.push((tenant, digest));
                }
                Err(error) => tracing::warn!(%error, "a blob that nothing names was kept"),
            }
        }
        let tenants: HashSet<TenantId> = gone.iter().map(|(tenant, _)| *tenant).collect();
        for tenant in tenants {
            if let Err(error) = self.files.sync(&*self.disk, tenant) {
                // Back after a crash, they are swept at open.
                tracing::warn!(%error, "removals of blobs are not durable");
            }
        }
        gone
    }
}

/// Lets go of the blobs of a batch that was not appended.
struct Pinned {
    ledger: Arc<Ledger>,
    tenant: TenantId,
    pins: Vec<BlobRef>,
    ack: Box<dyn Acknowledge>,
}

impl Acknowledge for Pinned {
    fn acknowledged(self: Box<Self>, result: Result<LsnRange, AppendError>) {
        let surely_not = match &result {
            // The projector takes the pin over; an unresolved record may be found at the next open.
            Ok(_) | Err(AppendError::Unresolved) => false,
            Err(
                AppendError::Poisoned
                | AppendError::Full
                | AppendError::Backlogged { .. }
                | AppendError::TooLarge { .. }
                | AppendError::Empty
                | AppendError::Closed
                | AppendError::NotInFormat(_),
            ) => true,
        };
        if surely_not {
            for blob in &self.pins {
                self.ledger.unpin(self.tenant, *blob);
            }
        }
        self.ack.acknowledged(result);
    }
}

fn refuse(carried: Carried, error: AppendError) {
    carried.ack.acknowledged(Err(error));
}

/// The output of an event, if it is one that is long enough for a blob.
fn output_of(event: &Event, bytes_min: u64) -> Option<&Payload> {
    let output = match event {
        Event::Effect {
            event: EffectEvent::Settled(settlement),
            ..
        } => match &settlement.outcome {
            Outcome::Done(output) => output,
            Outcome::Failed(_) | Outcome::Blob(_) => return None,
        },
        Event::Saga {
            event: SagaEvent::Completed { output, .. },
            ..
        } => output,
        Event::Opened { .. }
        | Event::Tenant(_)
        | Event::Effect { .. }
        | Event::Saga { .. }
        | Event::Closed { .. }
        | Event::Recovered
        | Event::Budget(_) => return None,
    };
    (output.len() as u64 >= bytes_min).then_some(output)
}

/// Names the blob in place of the output.
fn refer(event: &mut Event, blob: BlobRef) {
    match event {
        Event::Effect {
            event: EffectEvent::Settled(settlement),
            ..
        } => settlement.outcome = Outcome::Blob(blob),
        Event::Saga { event, .. } => {
            if let SagaEvent::Completed { at, .. } = event {
                *event = SagaEvent::CompletedInBlob {
                    output: blob,
                    at: *at,
                };
            }
        }
        Event::Opened { .. }
        | Event::Tenant(_)
        | Event::Effect { .. }
        | Event::Closed { .. }
        | Event::Recovered
        | Event::Budget(_) => {}
    }
}

fn bytes_of(events: &[Event]) -> u64 {
    let outputs = events.iter().filter_map(|event| output_of(event, 0));
    outputs.map(|output| output.len() as u64).sum()
}
