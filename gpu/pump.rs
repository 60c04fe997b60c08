//! The pump: from the inbound queue to the entry ring.
//!
//! Submitters queue and then pump. Whoever holds the baton writes entries in order; the others
//! leave, and the holder looks again after it has let go.
//!
//! Invariants
//! - Slots of entries in flight, their pads included, never exceed the ring; so an entry is
//!   overwritten only after the device has read it, and completions always have room.
//! - Credits are taken before the position, and given back when a completion was observed.
//! - Once the gate is shut nothing is queued, and once retired nothing is written.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use parking_lot::Mutex;

use crate::baton::Baton;
use crate::entry::{Entry, EntryWords};
use crate::ring::Ring;
use crate::status::Status;
use crate::task::Ticket;
use crate::ticket::{Job, Permits, State};

/// Whether work is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Draining,
    Lost,
    Closed,
}

/// An operation that ended without the device.
pub(crate) struct Withdrawn {
    pub(crate) ticket: Ticket,
    pub(crate) job: Job,
    pub(crate) status: Status,
}

#[derive(Debug)]
struct Inbound {
    queue: VecDeque<u32>,
    gate: Gate,
}

#[derive(Debug)]
struct Writer {
    position: u64,
    /// Popped, but the ring had no room.
    next: Option<u32>,
    /// With what it ends that is still to be written.
    retired: Option<Status>,
}

#[derive(Debug)]
pub(crate) struct Pump {
    ring: Ring,
    baton: Baton,
    writer: Mutex<Writer>,
    inbound: Mutex<Inbound>,
    /// Queued or held back by the writer.
    waiting: AtomicU64,
    /// Free slots of the ring. Only the baton's holder takes.
    credits: AtomicU64,
    position: AtomicU64,
}

impl Pump {
    pub(crate) fn new(ring: Ring) -> Self {
        Self {
            credits: AtomicU64::new(u64::from(ring.slots())),
            ring,
            baton: Baton::new(),
            writer: Mutex::new(Writer {
                position: 0,
                next: None,
                retired: None,
            }),
            inbound: Mutex::new(Inbound {
                queue: VecDeque::new(),
                gate: Gate::Open,
            }),
            waiting: AtomicU64::new(0),
            position: AtomicU64::new(0),
        }
    }

    /// Queues permits in order, unless the gate is shut. `accepted` is told under the gate's lock,
    /// so that shutting the gate and then counting counts everything that was let in.
    pub(crate) fn queue(&self, permits: &[u32], accepted: impl FnOnce()) -> Result<(), Gate> {
        let mut inbound = self.inbound.lock();
        match inbound.gate {
            Gate::Open => {}
            gate @ (Gate::Draining | Gate::Lost | Gate::Closed) => return Err(gate),
        }
        accepted();
        self.waiting
            .fetch_add(permits.len() as u64, Ordering::SeqCst);
        inbound.queue.extend(permits);
        Ok(())
    }

    /// Moves the gate; that of a lost device opens no more, and a closed one stays closed. Says
    /// what it was.
    pub(crate) fn set_gate(&self, gate: Gate) -> Gate {
        let mut inbound = self.inbound.lock();
        let was = inbound.gate;
        match was {
            Gate::Open | Gate::Draining => inbound.gate = gate,
            Gate::Lost if gate == Gate::Closed => inbound.gate = gate,
            Gate::Lost | Gate::Closed => {}
        }
        was
    }

    /// Whether the gate is shut for good.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(crate) fn is_closed(&self) -> bool {
        self.inbound.lock().gate == Gate::Closed
    }

    /// Slots that are taken.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(crate) fn on_ring(&self) -> u64 {
        u64::from(self.ring.slots()).saturating_sub(self.credits())
    }

    /// Nothing is written any longer; what waits is withdrawn with `status` by the next pump.
    pub(crate) fn retire(&self, status: Status) {
        self.writer.lock().retired.get_or_insert(status);
    }

    /// Gives slots back. Whether something waits for them: then pump.
    pub(crate) fn give_back(&self, slots: u64) -> bool {
        self.credits.fetch_add(slots, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Free slots.
    pub(crate) fn credits(&self) -> u64 {
        self.credits.load(Ordering::SeqCst)
    }

    /// Operations not yet on the ring.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Position after the last entry written.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Writes what the ring has room for; `withdrawn` collects what ended here. Returns whether
    /// entries were written by this thread: then ring the doorbell.
    pub(crate) fn pump(&self, permits: &Permits, withdrawn: &mut Vec<Withdrawn>) -> bool {
        let mut wrote = false;
        self.baton.run(|| {
            let mut writer = self.writer.lock();
            while let Some(index) = self.pop(&mut writer) {
                match self.place(index, permits, &mut writer) {
                    Placed::Written => wrote = true,
                    Placed::Ended(ended) => withdrawn.push(ended),
                    Placed::Gone => {}
                    Placed::NoRoom => {
                        writer.next = Some(index);
                        break;
                    }
                }
            }
            self.position.store(writer.position, Ordering::Release);
        });
        wrote
    }

    fn pop(&self, writer: &mut Writer) -> Option<u32> {
        writer
            .next
            .take()
            .or_else(|| self.inbound.lock().queue.pop_front())
    }

    fn place(&self, index: u32, permits: &Permits, writer: &mut Writer) -> Placed {
        let Some(mut record) = permits.record(index) else {
            return Placed::Gone;
        };
        let ticket = record.ticket;
        let placed = match std::mem::replace(&mut record.state, State::Withdrawn) {
            State::Queued { entry, job } => match self.fit(&entry, &job, writer) {
                Ok((words, slots)) => {
                    record.state = State::InFlight { slots, job };
                    drop(record);
                    self.write(&words, writer);
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                    return Placed::Written;
                }
                Err(None) => {
                    record.state = State::Queued { entry, job };
                    return Placed::NoRoom;
                }
                Err(Some(status)) => Placed::Ended(Withdrawn {
                    ticket,
                    job,
                    status,
                }),
            },
            State::Withdrawn => Placed::Gone,
            // Only a queued permit is in the queue, and only the pump takes it out of it.
            other @ (State::Free | State::InFlight { .. } | State::Held) => {
                debug_assert!(false, "a permit in state {other:?} was queued");
                record.state = other;
                return Placed::Gone;
            }
        };
        drop(record);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        permits.release(index);
        placed
    }

    /// The words and the slots to hold (pad included), or why it is not written: no room, or a
    /// status with which it is over.
    fn fit(
        &self,
        entry: &Entry,
        job: &Job,
        writer: &Writer,
    ) -> Result<(EntryWords, u64), Option<Status>> {
        if let Some(status) = writer.retired {
            return Err(Some(status));
        }
        let mut timed = None;
        if let Some(deadline) = job.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Some(Status::Expired));
            }
            // What 32 bits do not hold (71 minutes) is none to the device.
            timed = u32::try_from(left.as_micros())
                .ok()
                .map(|left_us| left_us.max(1));
        }
        // `publish` checked that it fits.
        let Ok(mut words) = entry.encode() else {
            return Err(Some(Status::Refused(crate::status::RefusedWhy::Malformed)));
        };
        if let Some(left_us) = timed {
            words.set_deadline(left_us);
        }
        let slots = words.slots() as u64;
        let until_end = self.ring.until_end(writer.position);
        let pad = if slots > until_end { until_end } else { 0 };
        if self.credits.load(Ordering::SeqCst) < slots + pad {
            return Err(None);
        }
        self.credits.fetch_sub(slots + pad, Ordering::SeqCst);
        Ok((words, slots + pad))
    }

    fn write(&self, words: &EntryWords, writer: &mut Writer) {
        let until_end = self.ring.until_end(writer.position);
        // Staged bytes are visible before the entry that names them is.
        fence(Ordering::Release);
        if words.slots() as u64 > until_end {
            let pad = EntryWords::pad(usize::try_from(until_end).unwrap_or(1));
            self.write_slots(&pad, writer);
        }
        self.write_slots(words, writer);
    }

    fn write_slots(&self, words: &EntryWords, writer: &mut Writer) {
        for slot in words.iter() {
            self.ring.write(writer.position, slot);
            writer.position += 1;
        }
    }
}

enum Placed {
    Written,
    Ended(Withdrawn),
    Gone,
    NoRoom,
}
