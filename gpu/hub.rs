//! The host's side of one device: publishing, reaping, and the counts of both.
//!
//! Invariants
//! - A completion is taken off the ring once, by whoever finds it, and delivered with no lock held.
//! - Credits go back before the callback, permits when the result is no longer read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use orlop_saga::amount::BusyNanos;
use parking_lot::{Condvar, Mutex, RwLock};
use smallvec::SmallVec;

use crate::buffer::ResultWindow;
use crate::completion::CompletionEntry;
use crate::control::{Control, Order, Reply};
use crate::device::{Cancel, PublishRefused};
use crate::entry::Entry;
use crate::host::Listener;
use crate::host::worker::guarded;
use crate::layout::{INLINE_BYTES, Layout, header_word, worker_slot};
use crate::lost::DeviceLost;
use crate::memory::Region;
use crate::opcodes::Opcodes;
use crate::pump::{Gate, Pump, Withdrawn};
use crate::ring::Ring;
use crate::runner::Runner;
use crate::slot::{SlotData, join};
use crate::snapshot::DeviceSnapshot;
use crate::status::Status;
use crate::task::{Bytes, Completed, Completion, ResultBytes, Task, Ticket};
use crate::ticket::{Job, Permits, ResultGuard, State};

#[derive(Debug, Default)]
struct Counters {
    serials: AtomicU64,
    published: AtomicU64,
    refused: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    expired: AtomicU64,
    device_refused: AtomicU64,
    faulted: AtomicU64,
    lost: AtomicU64,
    stale: AtomicU64,
    panics: AtomicU64,
    cost: AtomicU64,
}

pub(crate) struct Hub {
    pub(crate) pump: Pump,
    pub(crate) control: Arc<Control>,
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) region: Arc<Region>,
    pub(crate) layout: Layout,
    pub(crate) opcodes: RwLock<Opcodes>,
    permits: Arc<Permits>,
    completions: Ring,
    /// Position of the next completion to observe.
    reaped: Mutex<u64>,
    counters: Counters,
    /// Accepted, and its callback has not returned.
    outstanding: Mutex<u64>,
    quiet: Condvar,
    lost: OnceLock<Lost>,
    succession: OnceLock<Box<dyn Fn() + Send + Sync>>,
    settled: AtomicBool,
}

/// The loss of a device.
pub(crate) struct Lost {
    pub(crate) why: DeviceLost,
    /// The tickets, as they stand on the ring, of what may be to blame.
    running: SmallVec<[u64; 16]>,
}

impl Lost {
    fn is_running(&self, ticket: Ticket) -> bool {
        self.running.contains(&ticket.wire())
    }

    fn status_of(&self, ticket: Ticket) -> Status {
        let running = self.is_running(ticket);
        Status::Lost { running }
    }
}

/// What each worker says that it runs, as far as it can be read at this moment.
pub(crate) fn beats<'a>(
    region: &'a Region,
    layout: &Layout,
) -> impl Iterator<Item = SlotData> + use<'a> {
    let lines = u64::from(layout.sizes.workers) * worker_slot::COUNT;
    let slots = region.slots(layout.workers, lines).unwrap_or_default();
    let lines = slots.chunks(usize::try_from(worker_slot::COUNT).unwrap_or(1));
    lines.map(|line| {
        let words = line.first().and_then(crate::slot::Slot::read_any);
        words.unwrap_or_default()
    })
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("layout", &self.layout)
            .field("outstanding", &self.outstanding())
            .finish_non_exhaustive()
    }
}

impl Listener for Hub {
    fn completions_posted(&self) {
        self.reap();
    }

    fn replies_posted(&self) {
        self.control.replied();
    }
}

impl Hub {
    pub(crate) fn new(
        pump: Pump,
        completions: Ring,
        permits: Arc<Permits>,
        control: Arc<Control>,
        runner: Arc<dyn Runner>,
        region: Arc<Region>,
        layout: Layout,
    ) -> Self {
        Self {
            pump,
            control,
            runner,
            region,
            layout,
            opcodes: RwLock::default(),
            permits,
            completions,
            reaped: Mutex::new(0),
            counters: Counters::default(),
            outstanding: Mutex::new(0),
            quiet: Condvar::new(),
            lost: OnceLock::new(),
            succession: OnceLock::new(),
            settled: AtomicBool::new(false),
        }
    }

    /// Who is to be told of what was posted; does not keep the hub.
    pub(crate) fn as_listener(hub: &Arc<Self>) -> Weak<dyn Listener> {
        Arc::downgrade(&(Arc::clone(hub) as Arc<dyn Listener>))
    }

    pub(crate) fn publish(
        &self,
        tasks: impl Iterator<Item = Result<(Task, Arc<dyn Completion>), PublishRefused>>,
        short: bool,
    ) -> VecDeque<Result<Ticket, PublishRefused>> {
        let mut indices = SmallVec::<[u32; 8]>::new();
        let mut results: VecDeque<_> = tasks
            .map(|task| {
                let (task, done) = task?;
                let (index, ticket) = self.prepare(task, done)?;
                indices.push(index);
                Ok(ticket)
            })
            .collect();
        let accepted = indices.len() as u64;
        if accepted > 0 {
            let queued = self
                .pump
                .queue(&indices, || *self.outstanding.lock() += accepted);
            if let Err(gate) = queued {
                let refused = match gate {
                    Gate::Draining => PublishRefused::Draining,
                    Gate::Lost => PublishRefused::Lost,
                    Gate::Open | Gate::Closed => PublishRefused::Closed,
                };
                // Windows are unpinned here, outside the gate's lock.
                indices.iter().for_each(|index| self.unprepare(*index));
                results
                    .iter_mut()
                    .filter(|r| r.is_ok())
                    .for_each(|r| *r = Err(refused));
            } else {
                self.counters
                    .published
                    .fetch_add(accepted, Ordering::Relaxed);
                self.pump(short);
            }
        }
        let refused = results.iter().filter(|result| result.is_err()).count() as u64;
        self.counters.refused.fetch_add(refused, Ordering::Relaxed);
        results
    }

    fn prepare(
        &self,
        task: Task,
        done: Arc<dyn Completion>,
    ) -> Result<(u32, Ticket), PublishRefused> {
        let serial = self.counters.serials.fetch_add(1, Ordering::Relaxed);
        let tickets_max = self.permits.capacity();
        let full = PublishRefused::Full { tickets_max };
        let (index, ticket) = self.permits.take(serial).ok_or(full)?;
        let entry = Entry {
            opcode: task.opcode,
            flags: match task.result {
                Some(_) => Entry::RESULT_WINDOW,
                None => 0,
            },
            tenant: task.tenant,
            ticket: ticket.wire(),
            attempt: task.attempt,
            tiles_max: task.tiles_max,
            deadline_us: 0,
            args: task.args,
            windows: task
                .windows
                .iter()
                .map(crate::buffer::PinnedWindow::window)
                .chain(
                    task.result
                        .as_ref()
                        .map(crate::buffer::ResultWindow::window),
                )
                .collect(),
        };
        let job = Job {
            done,
            windows: task.windows,
            result: task.result.map(Box::new),
            // A deadline beyond the clock's end is none.
            deadline: task
                .deadline
                .and_then(|time| Instant::now().checked_add(time)),
        };
        let entry = Box::new(entry);
        if let Some(mut record) = self.permits.record(index) {
            record.state = State::Queued { entry, job };
        }
        Ok((index, ticket))
    }

    fn unprepare(&self, index: u32) {
        let state = self
            .permits
            .record(index)
            .map(|mut record| std::mem::replace(&mut record.state, State::Free));
        self.permits.release(index);
        // Drops windows and callback with no lock held.
        drop(state);
    }

    /// Writes what there is room for, and wakes the device once.
    pub(crate) fn pump(&self, short: bool) {
        let mut withdrawn = Vec::new();
        if self.pump.pump(&self.permits, &mut withdrawn) {
            self.ring_doorbell(short);
        }
        for ended in withdrawn {
            self.deliver_withdrawn(ended);
        }
    }

    fn ring_doorbell(&self, short: bool) {
        let line = self.region.slots(0, 2).and_then(|header| header.get(1));
        if let Some(word) = line.and_then(|line| line.word(header_word::DOORBELL)) {
            word.store(self.pump.position(), Ordering::Relaxed);
        }
        self.runner.written(short);
    }

    pub(crate) fn cancel(&self, ticket: Ticket) -> Cancel {
        let Some((_, mut record)) = self.permits.find(ticket.wire()) else {
            return Cancel::Unknown;
        };
        if record.ticket != ticket {
            return Cancel::Unknown;
        }
        match std::mem::replace(&mut record.state, State::Withdrawn) {
            State::Queued { job, .. } => {
                drop(record);
                let status = Status::Cancelled;
                self.deliver_withdrawn(Withdrawn {
                    ticket,
                    job,
                    status,
                });
                Cancel::Withdrawn
            }
            state @ State::InFlight { .. } => {
                record.state = state;
                drop(record);
                let order = Order::Cancel {
                    ticket: ticket.wire(),
                };
                match self.control.call(order, None) {
                    Some(Reply::Done) => Cancel::Requested,
                    Some(Reply::Stale | Reply::Unknown | Reply::Malformed) | None => {
                        Cancel::Unknown
                    }
                }
            }
            state @ (State::Free | State::Withdrawn | State::Held) => {
                record.state = state;
                Cancel::Unknown
            }
        }
    }

    /// Observes and delivers completions until there is none.
    pub(crate) fn reap(&self) {
        while let Some(completion) = self.take_completion() {
            let Some(completion) = completion else {
                self.counters.stale.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.settle(completion);
        }
    }

    #[expect(
        clippy::option_option,
        reason = "nothing there, against words that are none"
    )]
    fn take_completion(&self) -> Option<Option<CompletionEntry>> {
        let mut position = self.reaped.lock();
        let words = self.completions.read(*position)?;
        fence(Ordering::Acquire);
        *position += 1;
        Some(CompletionEntry::decode(&words))
    }

    fn settle(&self, completion: CompletionEntry) {
        let found = self.permits.find(completion.ticket);
        let taken = found.and_then(|(index, mut record)| {
            match std::mem::replace(&mut record.state, State::Held) {
                State::InFlight { slots, job } => Some((index, record.ticket, slots, job)),
                other @ (State::Free | State::Queued { .. } | State::Withdrawn | State::Held) => {
                    record.state = other;
                    None
                }
            }
        });
        let Some((index, ticket, slots, mut job)) = taken else {
            self.counters.stale.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let room_wanted = self.pump.give_back(slots);
        let result = self.result(index, &completion, job.result.take());
        if room_wanted {
            self.pump(false);
        }
        self.deliver(
            job,
            Completed {
                ticket,
                status: completion.status,
                cost: completion.cost,
                result,
            },
        );
    }

    /// The result; the permit goes with it if it lies in the permit's area, else it is free.
    fn result(
        &self,
        index: u32,
        completion: &CompletionEntry,
        window: Option<Box<ResultWindow>>,
    ) -> ResultBytes {
        let length = usize::try_from(completion.length).unwrap_or(usize::MAX);
        // A text about what went wrong lies in the area in any case.
        let window = window.filter(|_| completion.status == Status::Done);
        if length > INLINE_BYTES
            && let Some(window) = window
        {
            self.permits.release(index);
            return ResultBytes(Bytes::Buffer(window.filled(completion.length)));
        }
        if length > INLINE_BYTES {
            let guard = ResultGuard::new(Arc::clone(&self.permits), index, completion.length);
            return ResultBytes(Bytes::Area(guard));
        }
        self.permits.release(index);
        let bytes = completion.inline;
        ResultBytes(Bytes::Inline { bytes, length })
    }

    fn deliver_withdrawn(&self, ended: Withdrawn) {
        self.deliver(
            ended.job,
            Completed {
                ticket: ended.ticket,
                status: ended.status,
                cost: BusyNanos::new(0),
                result: ResultBytes::EMPTY,
            },
        );
    }

    fn deliver(&self, job: Job, completed: Completed) {
        let counter = match completed.status {
            Status::Done => &self.counters.done,
            Status::Failed { .. } => &self.counters.failed,
            Status::Cancelled => &self.counters.cancelled,
            Status::Expired => &self.counters.expired,
            Status::Refused(_) => &self.counters.device_refused,
            Status::Faulted => &self.counters.faulted,
            Status::Lost { .. } => &self.counters.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.counters
            .cost
            .fetch_add(completed.cost.get(), Ordering::Relaxed);
        let Job {
            done,
            windows,
            result,
            deadline: _,
        } = job;
        drop((windows, result));
        if guarded(move || done.completed(completed)).is_err() {
            self.counters.panics.fetch_add(1, Ordering::Relaxed);
        }
        let mut outstanding = self.outstanding.lock();
        *outstanding = outstanding.saturating_sub(1);
        if *outstanding == 0 {
            self.quiet.notify_all();
        }
    }

    /// Why the device was lost, if it was.
    pub(crate) fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }

    /// Who is to be told of the loss, on the runner's thread and after everything in flight was
    /// ended. Set once, and not called for a loss that is over by then.
    pub(crate) fn when_lost(&self, tell: Box<dyn Fn() + Send + Sync>) {
        let _ = self.succession.set(tell);
    }

    /// The runner lost its device. Nothing is published or ordered any more, and whoever waits for
    /// an answer on the ring is told that it may not come. It still holds what it held: the
    /// runner calls [`Hub::settle_loss`] once nothing touches the memory any longer.
    pub(crate) fn lose(&self, why: DeviceLost) {
        let running = self.running(why);
        if self.lost.set(Lost { why, running }).is_err() {
            return;
        }
        self.pump.set_gate(Gate::Lost);
        self.pump.retire(Status::Lost { running: false });
        self.control.lose();
        self.pump(false);
        self.reap();
        let Some(lost) = self.lost.get() else { return };
        for index in self.permits.indices() {
            let told = self.permits.record(index).and_then(|record| {
                let running = lost.is_running(record.ticket);
                match &record.state {
                    State::InFlight { job, .. } => Some((Arc::clone(&job.done), running)),
                    State::Free | State::Queued { .. } | State::Withdrawn | State::Held => None,
                }
            });
            if let Some((done, running)) = told
                && guarded(move || done.lost(running)).is_err()
            {
                self.counters.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Nothing touches the memory of the lost device any longer: delivers what was posted before
    /// the loss, and ends the rest.
    pub(crate) fn settle_loss(&self) {
        self.reap();
        self.sweep();
        self.settled.store(true, Ordering::SeqCst);
        if let Some(tell) = self.succession.get() {
            tell();
        }
    }

    /// Whether it was lost and everything that it held is given back.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }

    /// Whether anything is on the ring or on the device.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.outstanding() > 0
            && self.permits.indices().any(|index| {
                let record = self.permits.record(index);
                record.is_some_and(|record| matches!(record.state, State::InFlight { .. }))
            })
    }

    /// What may have lost the device: the tile that was stuck, else all that were running.
    fn running(&self, why: DeviceLost) -> SmallVec<[u64; 16]> {
        match why {
            DeviceLost::Stuck { ticket, .. } => smallvec::smallvec![ticket],
            DeviceLost::Died
            | DeviceLost::Silent { .. }
            | DeviceLost::Faulted(_)
            | DeviceLost::Ended => {
                let beats = beats(&self.region, &self.layout);
                let tickets = beats.map(|words| join(words[0], words[1]));
                tickets.filter(|ticket| *ticket != 0).collect()
            }
        }
    }

    /// Waits until nothing is outstanding; `false` if `until` passed first.
    pub(crate) fn wait_quiet(&self, until: Instant) -> bool {
        let mut outstanding = self.outstanding.lock();
        while *outstanding > 0 {
            if self.quiet.wait_until(&mut outstanding, until).timed_out() {
                return *outstanding == 0;
            }
        }
        true
    }

    pub(crate) fn outstanding(&self) -> u64 {
        *self.outstanding.lock()
    }

    /// After the runner has ended: whatever has no completion gets one. It may have run.
    pub(crate) fn sweep(&self) {
        let lost = self.lost();
        for index in self.permits.indices() {
            let Some(mut record) = self.permits.record(index) else {
                continue;
            };
            if !matches!(record.state, State::InFlight { .. }) {
                continue;
            }
            let ticket = record.ticket;
            let state = std::mem::replace(&mut record.state, State::Held);
            drop(record);
            if let State::InFlight { slots, job } = state {
                self.pump.give_back(slots);
                self.permits.release(index);
                let (status, result) = if let Some(lost) = lost {
                    (lost.status_of(ticket), ResultBytes::EMPTY)
                } else {
                    let text = "the device was closed before it answered".to_owned();
                    (Status::Faulted, ResultBytes(Bytes::Text(text)))
                };
                let cost = BusyNanos::new(0);
                self.deliver(
                    job,
                    Completed {
                        ticket,
                        status,
                        cost,
                        result,
                    },
                );
            }
        }
    }

    /// Completions taken off the ring so far.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(crate) fn reaped(&self) -> u64 {
        *self.reaped.lock()
    }

    pub(crate) fn count_into(&self, into: &mut DeviceSnapshot) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        into.published = of(&self.counters.published);
        into.refused = of(&self.counters.refused);
        into.done = of(&self.counters.done);
        into.failed = of(&self.counters.failed);
        into.cancelled = of(&self.counters.cancelled);
        into.expired = of(&self.counters.expired);
        into.device_refused = of(&self.counters.device_refused);
        into.faulted = of(&self.counters.faulted);
        into.lost = of(&self.counters.lost);
        into.stale_completions = of(&self.counters.stale);
        into.callback_panics = of(&self.counters.panics);
        into.cost = BusyNanos::new(of(&self.counters.cost));
        into.outstanding = self.outstanding();
        into.waiting = self.pump.waiting();
        into.active = self.runner.active();
        into.credits = self.pump.credits();
        into.permits = u64::from(self.permits.available());
        into.wakes = self.runner.wakes();
        into.lends = self.runner.lends();
        into.orders = self.control.orders();
    }
}
