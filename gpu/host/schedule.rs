//! The schedule: what was read from the rings, and which tile runs next.
//!
//! Whoever holds its lock is the dispatcher. The lock is held to read slots and to pick a tile,
//! never while an operation or a callback runs.
//!
//! Invariants
//! - Tiles are claimed round-robin over tenants, in order within a tenant.
//! - An order takes effect after all entries that were visible when it was read were fetched.
//! - Every fetched entry gets exactly one completion.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;

use super::task::{Run, Task, Verdict};
use crate::completion::CompletionEntry;
use crate::control::{Order, Reply};
use crate::entry::{Entry, EntryWords, Opcode, Window, Windows, announced_slots, ticket_of};
use crate::layout::ENTRY_SLOTS_MAX;
use crate::ops::OpTable;
use crate::ring::Ring;
use crate::status::{RefusedWhy, Status};

/// Entries fetched per claim: enough to see every tenant, few enough to keep the lock short.
const FETCH_MAX: usize = 64;

/// A completion that is due without running anything (further).
pub(super) struct Due {
    pub(super) completion: CompletionEntry,
    pub(super) windows: Windows,
    pub(super) text: Option<String>,
}

/// What a worker is to do next.
pub(super) enum Claim {
    /// Ask for the tiles of a fresh task, and run it if it is one.
    Plan(Task),
    Tile(Arc<Run>, u32),
    Post(Due),
    Idle,
    Exit,
}

enum Work {
    Fresh(Task),
    Tiled { run: Arc<Run>, next: u32 },
}

impl Work {
    fn ticket(&self) -> u64 {
        match self {
            Self::Fresh(task) => task.entry.ticket,
            Self::Tiled { run, .. } => run.task.entry.ticket,
        }
    }
}

#[derive(Clone, Copy)]
struct Mapped {
    generation: u32,
    offset: u64,
    length: u64,
    tenant: TenantId,
    leaving: bool,
}

#[derive(Clone, Copy)]
struct Planning {
    ticket: u64,
    cancelled: bool,
}

/// What the lock-free side shares with the schedule.
pub(super) struct Counts {
    /// Tasks in flight per window slot.
    pub(super) pins: Box<[AtomicU32]>,
    /// Fetched and not yet completed.
    pub(super) active: AtomicU64,
    /// Orders that wait for pins or for quiet.
    pub(super) deferred: AtomicU64,
    /// Mirrors of the read positions, for a cheap look.
    pub(super) fetched: AtomicU64,
    pub(super) ordered: AtomicU64,
}

pub(super) struct Schedule {
    pub(super) ops: OpTable,
    entries: Ring,
    orders: Ring,
    replies: Ring,
    counts: Arc<Counts>,
    fetched: u64,
    ordered: u64,
    replied: u64,
    tenants: HashMap<u32, u32>,
    windows: Vec<Option<Mapped>>,
    arena_bytes: u64,
    queues: HashMap<TenantId, VecDeque<Work>>,
    rotation: VecDeque<TenantId>,
    spare: Vec<VecDeque<Work>>,
    planning: Vec<Option<Planning>>,
    due: VecDeque<Due>,
    deferred: Vec<(u64, Order)>,
    stopping: bool,
}

impl Schedule {
    pub(super) fn new(
        ops: OpTable,
        [entries, orders, replies]: [Ring; 3],
        counts: Arc<Counts>,
        workers: u32,
        arena_bytes: u64,
    ) -> Self {
        Self {
            ops,
            entries,
            orders,
            replies,
            fetched: 0,
            ordered: 0,
            replied: 0,
            tenants: HashMap::new(),
            windows: vec![None; counts.pins.len()],
            counts,
            arena_bytes,
            queues: HashMap::new(),
            rotation: VecDeque::new(),
            spare: Vec::new(),
            // One more for the thread that is lent.
            planning: vec![None; workers as usize + 1],
            due: VecDeque::new(),
            deferred: Vec::new(),
            stopping: false,
        }
    }

    /// The next thing to do for `worker`, and whether orders were answered.
    pub(super) fn claim(&mut self, worker: u32) -> (Claim, bool) {
        if let Some(planning) = self.planning.get_mut(worker as usize) {
            *planning = None;
        }
        let replied = self.obey();
        for _ in 0..FETCH_MAX {
            if !self.fetch() {
                break;
            }
        }
        if let Some(due) = self.due.pop_front() {
            return (Claim::Post(due), replied);
        }
        let claim = match self.next(worker) {
            Some(claim) => claim,
            None if self.stopping && !self.entries.hints(self.fetched) => Claim::Exit,
            None => Claim::Idle,
        };
        (claim, replied)
    }

    /// Whether another worker would find something.
    pub(super) fn has_work(&self) -> bool {
        !self.due.is_empty() || !self.rotation.is_empty() || self.entries.hints(self.fetched)
    }

    /// Puts a planned task in line; if it was cancelled meanwhile, its end.
    pub(super) fn insert(&mut self, worker: u32, run: &Arc<Run>) -> Result<(), Status> {
        let planning = self.planning.get(worker as usize).copied().flatten();
        let ticket = run.task.entry.ticket;
        let cancelled = planning.is_some_and(|p| p.ticket == ticket && p.cancelled);
        if cancelled || self.stopping {
            return Err(Status::Cancelled);
        }
        let tenant = run.task.entry.tenant;
        let run = Arc::clone(run);
        self.enqueue(tenant, Work::Tiled { run, next: 0 }, true);
        Ok(())
    }

    /// No further tile of this task starts. Its completion, if none is running either.
    pub(super) fn withdraw(&mut self, run: &Arc<Run>, verdict: Verdict) -> Option<Due> {
        let ticket = run.task.entry.ticket;
        let work = self.unlink(run.task.entry.tenant, ticket);
        // The first verdict stands.
        run.verdict.lock().get_or_insert(verdict);
        match work? {
            Work::Tiled { run, next } => {
                let unclaimed = run.tiles - next;
                let left = run.left.fetch_sub(unclaimed, Ordering::AcqRel);
                (left == unclaimed).then(|| Due::of_run(&run))
            }
            Work::Fresh(task) => Some(Due::of(&task.entry, Status::Cancelled)),
        }
    }

    /// Reads and carries out orders; whether any was answered.
    pub(super) fn obey(&mut self) -> bool {
        let before = self.replied;
        while let Some(words) = self.orders.read(self.ordered) {
            fence(Ordering::Acquire);
            while self.fetch() {}
            self.ordered += 1;
            self.counts.ordered.store(self.ordered, Ordering::Release);
            let (number, order) = Order::decode(&words);
            match order.map(|order| (order, self.carry_out(order))) {
                Some((_, Some(reply))) => self.reply(number, reply),
                Some((order, None)) => {
                    self.counts.deferred.fetch_add(1, Ordering::SeqCst);
                    self.deferred.push((number, order));
                }
                None => self.reply(number, Reply::Malformed),
            }
        }
        self.settle_deferred();
        self.replied != before
    }

    fn carry_out(&mut self, order: Order) -> Option<Reply> {
        match order {
            Order::Map {
                slot,
                generation,
                offset,
                length,
                tenant,
            } => {
                let mapped = Mapped {
                    generation,
                    offset,
                    length,
                    tenant,
                    leaving: false,
                };
                Some(self.map(slot, mapped))
            }
            Order::Unmap { slot, generation } => {
                let window = self.windows.get_mut(slot as usize).and_then(Option::as_mut);
                let Some(window) = window else {
                    return Some(Reply::Unknown);
                };
                if window.generation != generation || window.leaving {
                    return Some(Reply::Stale);
                }
                window.leaving = true;
                None
            }
            Order::SetTenant(tenant) => {
                self.tenants.insert(tenant.slot(), tenant.generation());
                Some(Reply::Done)
            }
            Order::ClearTenant(tenant) => Some(match self.tenants.get(&tenant.slot()) {
                None => Reply::Unknown,
                Some(generation) if *generation != tenant.generation() => Reply::Stale,
                Some(_) => {
                    self.tenants.remove(&tenant.slot());
                    Reply::Done
                }
            }),
            Order::Cancel { ticket } => Some(self.cancel(ticket)),
            Order::Drain => None,
            Order::Stop => {
                self.stop();
                Some(Reply::Done)
            }
        }
    }

    fn map(&mut self, slot: u32, mapped: Mapped) -> Reply {
        let end = mapped.offset.checked_add(mapped.length);
        let Some(window) = self.windows.get_mut(slot as usize) else {
            return Reply::Unknown;
        };
        if end.is_none_or(|end| end > self.arena_bytes) {
            return Reply::Malformed;
        }
        if window.is_some() {
            return Reply::Stale;
        }
        *window = Some(mapped);
        Reply::Done
    }

    fn cancel(&mut self, ticket: u64) -> Reply {
        let planning = self
            .planning
            .iter_mut()
            .flatten()
            .find(|p| p.ticket == ticket);
        if let Some(planning) = planning {
            planning.cancelled = true;
            return Reply::Done;
        }
        let tenant = self.queues.iter().find_map(|(tenant, queue)| {
            queue
                .iter()
                .any(|work| work.ticket() == ticket)
                .then_some(*tenant)
        });
        let Some(work) = tenant.and_then(|tenant| self.unlink(tenant, ticket)) else {
            return Reply::Unknown;
        };
        self.end(work);
        Reply::Done
    }

    fn stop(&mut self) {
        self.stopping = true;
        for planning in self.planning.iter_mut().flatten() {
            planning.cancelled = true;
        }
        self.rotation.clear();
        let queues = std::mem::take(&mut self.queues);
        for work in queues.into_values().flatten() {
            self.end(work);
        }
    }

    /// Cancels work that was taken out of its queue.
    fn end(&mut self, work: Work) {
        match work {
            Work::Fresh(task) => self.due.push_back(Due::of(&task.entry, Status::Cancelled)),
            Work::Tiled { run, next } => {
                run.verdict.lock().get_or_insert((Status::Cancelled, None));
                let unclaimed = run.tiles - next;
                if run.left.fetch_sub(unclaimed, Ordering::AcqRel) == unclaimed {
                    self.due.push_back(Due::of_run(&run));
                }
            }
        }
    }

    fn settle_deferred(&mut self) {
        let mut index = 0;
        while let Some((number, order)) = self.deferred.get(index).copied() {
            if self.is_settled(order) {
                self.deferred.swap_remove(index);
                self.counts.deferred.fetch_sub(1, Ordering::SeqCst);
                self.reply(number, Reply::Done);
            } else {
                index += 1;
            }
        }
    }

    fn is_settled(&mut self, order: Order) -> bool {
        match order {
            Order::Unmap { slot, .. } => {
                let pins = self.counts.pins.get(slot as usize);
                let free = pins.is_none_or(|pins| pins.load(Ordering::SeqCst) == 0);
                if free && let Some(window) = self.windows.get_mut(slot as usize) {
                    *window = None;
                }
                free
            }
            Order::Drain => self.counts.active.load(Ordering::SeqCst) == 0,
            Order::Map { .. }
            | Order::SetTenant(_)
            | Order::ClearTenant(_)
            | Order::Cancel { .. }
            | Order::Stop => true,
        }
    }

    fn reply(&mut self, number: u64, reply: Reply) {
        fence(Ordering::Release);
        self.replies.write(self.replied, &reply.encode(number));
        self.replied += 1;
    }

    /// Reads the next entry and puts it in line, or its refusal among what is due.
    fn fetch(&mut self) -> bool {
        let Some(words) = self.read_entry() else {
            return false;
        };
        fence(Ordering::Acquire);
        self.fetched += words.slots() as u64;
        self.counts.fetched.store(self.fetched, Ordering::Release);
        if words.opcode() == Opcode::PAD {
            return true;
        }
        self.counts.active.fetch_add(1, Ordering::SeqCst);
        if let Ok(entry) = Entry::decode(&words) {
            self.accept(entry);
        } else {
            let status = Status::Refused(RefusedWhy::Malformed);
            let completion = CompletionEntry::bare(ticket_of(&words), 0, status, BusyNanos::new(0));
            let windows = Windows::new();
            self.due.push_back(Due {
                completion,
                windows,
                text: None,
            });
        }
        true
    }

    fn read_entry(&self) -> Option<EntryWords> {
        let first = self.entries.read(self.fetched)?;
        let announced = u64::from(announced_slots(&first));
        let mut words = EntryWords::empty();
        words.push(&first);
        let fits = announced <= self.entries.until_end(self.fetched);
        // What announces an impossible count is taken as one slot and refused by its decoding.
        if fits && announced <= ENTRY_SLOTS_MAX as u64 {
            for next in 1..announced {
                words.push(&self.entries.read(self.fetched + next)?);
            }
        }
        Some(words)
    }

    fn accept(&mut self, entry: Entry) {
        match self.validate(&entry) {
            Ok(_) if self.stopping => self.due.push_back(Due {
                windows: Windows::new(),
                ..Due::of(&entry, Status::Cancelled)
            }),
            Ok(task) => {
                for window in &entry.windows {
                    if let Some(pins) = self.counts.pins.get(window.slot as usize) {
                        pins.fetch_add(1, Ordering::SeqCst);
                    }
                }
                let (op, offsets) = task;
                let time = Duration::from_micros(u64::from(entry.deadline_us));
                let deadline = (entry.deadline_us > 0).then(|| Instant::now() + time);
                let tenant = entry.tenant;
                let task = Task {
                    entry,
                    op,
                    offsets,
                    deadline,
                };
                self.enqueue(tenant, Work::Fresh(task), false);
            }
            Err(why) => self.due.push_back(Due {
                windows: Windows::new(),
                ..Due::of(&entry, Status::Refused(why))
            }),
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "two parts of the task that is built from them"
    )]
    fn validate(
        &self,
        entry: &Entry,
    ) -> Result<(Arc<dyn crate::ops::HostOp>, smallvec::SmallVec<[u64; 2]>), RefusedWhy> {
        let tenant = entry.tenant;
        if self.tenants.get(&tenant.slot()) != Some(&tenant.generation()) {
            return Err(RefusedWhy::StaleTenant);
        }
        let op = self
            .ops
            .find(entry.opcode, tenant)
            .ok_or(RefusedWhy::UnknownOpcode)?;
        let offsets = entry
            .windows
            .iter()
            .map(|window| self.place(tenant, window));
        Ok((Arc::clone(op), offsets.collect::<Result<_, _>>()?))
    }

    fn place(&self, tenant: TenantId, window: &Window) -> Result<u64, RefusedWhy> {
        let mapped = self.windows.get(window.slot as usize).copied().flatten();
        let mapped = mapped
            .filter(|mapped| mapped.generation == window.generation && !mapped.leaving)
            .ok_or(RefusedWhy::StaleWindow)?;
        if mapped.tenant != tenant {
            return Err(RefusedWhy::ForeignWindow);
        }
        let end = window.offset.checked_add(window.length);
        if end.is_none_or(|end| end > mapped.length) {
            return Err(RefusedWhy::WindowBounds);
        }
        Ok(mapped.offset + window.offset)
    }

    fn enqueue(&mut self, tenant: TenantId, work: Work, at_front: bool) {
        let spare = &mut self.spare;
        let queue = self
            .queues
            .entry(tenant)
            .or_insert_with(|| spare.pop().unwrap_or_default());
        if queue.is_empty() {
            self.rotation.push_back(tenant);
        }
        // A task that was just planned left the front of its queue for it.
        if at_front {
            queue.push_front(work);
        } else {
            queue.push_back(work);
        }
    }

    fn unlink(&mut self, tenant: TenantId, ticket: u64) -> Option<Work> {
        let queue = self.queues.get_mut(&tenant)?;
        let index = queue.iter().position(|work| work.ticket() == ticket)?;
        let work = queue.remove(index);
        if queue.is_empty() {
            self.retire_queue(tenant);
            self.rotation.retain(|other| *other != tenant);
        }
        work
    }

    fn retire_queue(&mut self, tenant: TenantId) {
        if let Some(queue) = self.queues.remove(&tenant)
            && self.spare.len() < 64
        {
            self.spare.push(queue);
        }
    }

    /// The next tile: of the tenant whose turn it is, the oldest task.
    fn next(&mut self, worker: u32) -> Option<Claim> {
        let tenant = self.rotation.pop_front()?;
        let queue = self.queues.get_mut(&tenant)?;
        let claim = match queue.pop_front()? {
            Work::Fresh(task) => {
                if let Some(planning) = self.planning.get_mut(worker as usize) {
                    let ticket = task.entry.ticket;
                    *planning = Some(Planning {
                        ticket,
                        cancelled: false,
                    });
                }
                Claim::Plan(task)
            }
            Work::Tiled { run, next } => {
                if next + 1 < run.tiles {
                    let run = Arc::clone(&run);
                    queue.push_front(Work::Tiled {
                        run,
                        next: next + 1,
                    });
                }
                Claim::Tile(run, next)
            }
        };
        if queue.is_empty() {
            self.retire_queue(tenant);
        } else {
            self.rotation.push_back(tenant);
        }
        Some(claim)
    }
}

impl Due {
    pub(super) fn of(entry: &Entry, status: Status) -> Self {
        let cost = BusyNanos::new(0);
        Self {
            completion: CompletionEntry::bare(entry.ticket, entry.attempt, status, cost),
            windows: entry.windows.clone(),
            text: None,
        }
    }

    /// The end of a task of several tiles that has a verdict and runs no longer.
    pub(super) fn of_run(run: &Run) -> Self {
        let verdict = run.verdict.lock().take();
        let (status, text) = verdict.unwrap_or((Status::Cancelled, None));
        let mut due = Self::of(&run.task.entry, status);
        due.completion.cost = BusyNanos::new(run.cost.load(Ordering::Acquire));
        due.text = text;
        due
    }
}
