//! The host megakernel: threads that consume exactly the bytes that a CUDA kernel would.
//!
//! It knows the shared memory, its operations and its own tables, nothing of the host's side;
//! what it has to say it posts on a ring, and then tells a listener that something is there.
//!
//! Any worker is the dispatcher for as long as it holds the schedule's lock. A task of one tile is
//! run, completed and reaped on the thread that fetched it. While all workers sleep, who publishes
//! a short operation lends its thread and runs it: waking another one and being woken by it takes
//! longer.

mod lend;
mod schedule;
mod task;
#[cfg(test)]
mod tests;
mod threads;
pub(crate) mod worker;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use orlop_saga::id::TenantId;
use parking_lot::Mutex;

use self::schedule::{Counts, Schedule};
pub(crate) use self::threads::HostThreads;
use crate::completion::CompletionEntry;
use crate::control::Doorbell;
use crate::entry::{Opcode, Window};
use crate::layout::{CONTROL_SLOTS, Layout, worker_slot};
use crate::memory::Region;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow};
use crate::ops::{HostOp, OpTable, RegisterError};
use crate::ring::Ring;
use crate::slot::{Sequence, Slot, high, low};

/// Who is told that something was posted. Called on a worker or on the thread that gave an order,
/// with no lock held.
pub(crate) trait Listener: Send + Sync {
    fn completions_posted(&self);
    fn replies_posted(&self);
}

/// What the kernel is built with.
pub(crate) struct KernelOptions {
    pub(crate) tiles_max: u32,
    pub(crate) buffer_slots: u32,
    pub(crate) spin: Duration,
}

/// See the module.
pub(crate) struct HostKernel {
    region: Arc<Region>,
    layout: Layout,
    completions: Ring,
    schedule: Mutex<Schedule>,
    counts: Arc<Counts>,
    entries: Ring,
    orders: Ring,
    /// Position of the next completion: claimed here, never across sides.
    posted: AtomicU64,
    wakes: AtomicU64,
    listener: OnceLock<Weak<dyn Listener>>,
    threads: Box<[OnceLock<Thread>]>,
    spinning: AtomicBool,
    spin: Duration,
    /// Held by the thread that is lent.
    lent: Mutex<()>,
    lends: AtomicU64,
    tiles_max: u32,
    origin: Instant,
}

impl HostKernel {
    pub(crate) fn new(
        region: &Arc<Region>,
        layout: Layout,
        ops: OpTable,
        options: &KernelOptions,
    ) -> Option<Self> {
        let ring = |offset, slots| Ring::new(Arc::clone(region), offset, slots);
        let sizes = layout.sizes;
        let entries = ring(layout.entries, sizes.entry_slots)?;
        let orders = ring(layout.control, CONTROL_SLOTS)?;
        let replies = ring(layout.control_done, CONTROL_SLOTS)?;
        let counts = Arc::new(Counts {
            pins: (0..options.buffer_slots)
                .map(|_| AtomicU32::new(0))
                .collect(),
            active: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            ordered: AtomicU64::new(0),
        });
        let rings = [entries.clone(), orders.clone(), replies];
        let (workers, arena) = (sizes.workers, sizes.arena_bytes);
        let schedule = Schedule::new(ops, rings, Arc::clone(&counts), workers, arena);
        Some(Self {
            region: Arc::clone(region),
            layout,
            completions: ring(layout.completions, sizes.entry_slots)?,
            schedule: Mutex::new(schedule),
            counts,
            entries,
            orders,
            posted: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            listener: OnceLock::new(),
            threads: (0..workers).map(|_| OnceLock::new()).collect(),
            spinning: AtomicBool::new(false),
            spin: options.spin,
            lent: Mutex::new(()),
            lends: AtomicU64::new(0),
            tiles_max: options.tiles_max,
            origin: Instant::now(),
        })
    }

    pub(crate) fn listen(&self, listener: Weak<dyn Listener>) {
        // Set once, by whoever built the kernel, before its workers start.
        let _ = self.listener.set(listener);
    }

    pub(crate) fn register(&self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        self.schedule.lock().ops.register(op)
    }

    /// Fills a tenant's window.
    pub(crate) fn install(
        &self,
        tenant: TenantId,
        window: OpcodeWindow,
        ops: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError> {
        self.schedule.lock().ops.install(tenant, window, ops)
    }

    /// Empties windows that are nobody's any more; gives what was in them.
    pub(crate) fn uninstall(&self, windows: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>> {
        self.schedule.lock().ops.remove(windows)
    }

    /// Whose the operation is, if it is one tenant's.
    pub(crate) fn owner(&self, opcode: Opcode) -> Option<TenantId> {
        self.schedule.lock().ops.owner(opcode)
    }

    /// Runs worker number `worker` on this thread until it is stopped.
    pub(crate) fn run(&self, worker: u32) {
        self.work(worker);
    }

    /// Fetched and not yet completed.
    pub(crate) fn active(&self) -> u64 {
        self.counts.active.load(Ordering::SeqCst)
    }

    /// How often a sleeping worker was woken.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// How often a publisher's thread ran what it had published.
    pub(crate) fn lends(&self) -> u64 {
        self.lends.load(Ordering::Relaxed)
    }

    /// Whether the current thread is one of the workers, or lent.
    pub(crate) fn runs_here(&self) -> bool {
        let own = std::thread::current().id();
        self.threads
            .iter()
            .filter_map(OnceLock::get)
            .any(|thread| thread.id() == own)
            || self.is_lent_here()
    }

    /// Wakes every worker, so that each finds out that it was stopped.
    pub(crate) fn wake_all(&self) {
        for thread in self.threads.iter().filter_map(OnceLock::get) {
            thread.unpark();
        }
    }

    /// Wakes one sleeping worker, if there is one. It wakes the next if it finds more.
    fn wake_one(&self) {
        // Pairs with the fence in `idle`.
        fence(Ordering::SeqCst);
        for (worker, thread) in (0..).zip(&self.threads) {
            if self.is_sleeping(worker)
                && let Some(thread) = thread.get()
            {
                self.wakes.fetch_add(1, Ordering::Relaxed);
                thread.unpark();
                return;
            }
        }
    }

    fn looks_ready(&self) -> bool {
        self.entries
            .hints(self.counts.fetched.load(Ordering::Acquire))
            || self
                .orders
                .hints(self.counts.ordered.load(Ordering::Acquire))
    }

    /// Posts a completion and reaps it. The one place where a task ends.
    fn post(&self, completion: CompletionEntry, windows: &[Window]) {
        // Before the completion, so that whoever sees it can free what it used.
        for window in windows {
            if let Some(pins) = self.counts.pins.get(window.slot as usize) {
                pins.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let position = self.posted.fetch_add(1, Ordering::AcqRel);
        // The result area is visible before the completion that announces it is.
        fence(Ordering::Release);
        self.completions.write(position, &completion.encode());
        self.counts.active.fetch_sub(1, Ordering::SeqCst);
        if self.counts.deferred.load(Ordering::SeqCst) > 0 {
            self.obey();
        }
        self.tell(|listener| listener.completions_posted());
    }

    fn obey(&self) {
        let mut schedule = self.schedule.lock();
        let replied = schedule.obey();
        let more = schedule.has_work();
        drop(schedule);
        if replied {
            self.tell(|listener| listener.replies_posted());
        }
        if more {
            self.wake_one();
        }
    }

    fn tell(&self, what: impl FnOnce(&dyn Listener)) {
        if let Some(listener) = self.listener.get().and_then(Weak::upgrade) {
            what(listener.as_ref());
        }
    }

    fn worker_slot(&self, worker: u32, which: u64) -> Option<&Slot> {
        let lines = u64::from(self.layout.sizes.workers) * worker_slot::COUNT;
        let slots = self.region.slots(self.layout.workers, lines)?;
        let index = u64::from(worker) * worker_slot::COUNT + which;
        slots.get(usize::try_from(index).ok()?)
    }

    fn set_sleeping(&self, worker: u32, sleeping: bool) {
        let slot = self.worker_slot(worker, worker_slot::SLEEPING);
        if let Some(word) = slot.and_then(|slot| slot.word(0)) {
            word.store(u64::from(sleeping), Ordering::Relaxed);
        }
    }

    fn is_sleeping(&self, worker: u32) -> bool {
        let slot = self.worker_slot(worker, worker_slot::SLEEPING);
        let word = slot.and_then(|slot| slot.word(0));
        word.is_some_and(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Says what this worker is about to run, and since when.
    fn beat(&self, worker: u32, beats: &mut u64, ticket: u64, tile: u32) -> Instant {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.origin).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        let mut words = [0; crate::layout::SLOT_WORDS];
        words[0] = low(ticket);
        words[1] = high(ticket);
        words[2] = low(since);
        words[3] = high(since);
        words[4] = tile;
        self.write_beat(worker, beats, &words);
        now
    }

    /// Says that this worker runs nothing.
    fn rest(&self, worker: u32, beats: &mut u64) {
        self.write_beat(worker, beats, &[0; crate::layout::SLOT_WORDS]);
    }

    fn write_beat(&self, worker: u32, beats: &mut u64, words: &crate::slot::SlotData) {
        if let Some(slot) = self.worker_slot(worker, worker_slot::HEARTBEAT) {
            slot.write(Sequence::of(*beats, 1), words);
            *beats += 1;
        }
    }
}

impl Doorbell for HostKernel {
    fn entries_written(&self) {
        self.wake_one();
    }

    fn short_entries_written(&self) {
        self.lend();
    }

    fn orders_written(&self) {
        self.obey();
    }
}
