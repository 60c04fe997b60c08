//! The log thread: composes a group, writes it as one frame, syncs once, answers.
//!
//! There is no timer: whoever arrives while the disk is busy rides in the next group, and who
//! arrives alone is written alone, at once.
//!
//! Invariants
//! - A frame is written only after the one before it was synced.
//! - A segment is sealed only once the next one has a durable frame.
//! - After a failed write or sync nothing is written or synced again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use orlop_saga::id::Lsn;

use super::file::{Next, Reserve, Sealed, Shared, Stop, answer, retry_space};
use super::frame::{FrameBuffer, Kind, frame_bytes};
use super::queue::{Group, Waiting};
use super::segment::Segment;
use super::{AppendError, DurableSink, LogError, LsnRange, Purpose};

/// What the log thread owns.
pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Segment,
    /// The segment before the active one, until that has a durable frame.
    unsealed: Option<Sealed>,
    next: Lsn,
    sink: Box<dyn DurableSink>,
    buffer: FrameBuffer,
    /// Whether there is a processor to spare for lingering.
    lingers: bool,
    /// Whether a group was answered just now.
    fresh: bool,
}

/// How long the thread looks for more after a group.
const LINGER: Duration = Duration::from_micros(50);

/// What there is to do.
enum Turn {
    Write(Group),
    End(End),
}

/// Why the thread ends.
#[derive(Clone, Copy)]
enum End {
    Drained,
    Abandoned,
    Poisoned,
}

/// Whether another segment was taken.
enum Rotation {
    Taken,
    NoSpace,
    /// The log was poisoned or dropped meanwhile.
    Ended,
}

/// Whether the frame has a place.
enum Placement {
    Fits,
    /// Nobody is left in the group.
    Nobody,
    /// The log was poisoned or dropped meanwhile.
    Ended,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        active: Segment,
        next: Lsn,
        sink: Box<dyn DurableSink>,
    ) -> Self {
        Self {
            shared,
            active,
            unsealed: None,
            next,
            sink,
            buffer: FrameBuffer::default(),
            lingers: std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1),
            fresh: false,
        }
    }

    pub(super) fn run(mut self) {
        let end = loop {
            match self.turn() {
                Turn::Write(group) => self.group(group),
                Turn::End(end) => break end,
            }
        };
        self.end(end);
    }

    /// Waits until there is something to do.
    fn turn(&mut self) -> Turn {
        self.linger();
        let mut state = self.shared.state.lock();
        self.shared.called.store(false, Ordering::Relaxed);
        loop {
            if state.poisoned {
                return Turn::End(End::Poisoned);
            }
            if state.stop == Stop::Abandon {
                return Turn::End(End::Abandoned);
            }
            if !state.queue.is_empty() {
                let takes_new = !state.full;
                let bytes_max = self.shared.options.group_bytes_max;
                return Turn::Write(state.queue.compose(bytes_max, takes_new));
            }
            if state.stop == Stop::Drain {
                return Turn::End(End::Drained);
            }
            self.shared.work.wait(&mut state);
        }
    }

    /// Looks for a moment whether what was just answered brings more: waking this thread takes
    /// longer than most callers take to come again.
    fn linger(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        let begun = Instant::now();
        while !self.shared.called.load(Ordering::Acquire) && begun.elapsed() < LINGER {
            // Whoever is to bring it may need this processor.
            std::thread::yield_now();
        }
    }

    /// Writes a group and answers its members.
    fn group(&mut self, mut group: Group) {
        refuse_all(group.refused.drain(..), &AppendError::Full);
        match self.place(&mut group.members) {
            Placement::Fits => {}
            Placement::Nobody => return,
            Placement::Ended => {
                // Nothing of it was written: it is answered with the rest at the end.
                let poisoned = self.shared.state.lock().poisoned;
                let error = if poisoned {
                    AppendError::Poisoned
                } else {
                    AppendError::Closed
                };
                refuse_all(group.members.drain(..), &error);
                return;
            }
        }
        self.buffer.clear();
        for member in &group.members {
            self.buffer.push(&member.batch);
        }
        let (began, from) = (Instant::now(), self.active.end);
        if let Err(error) = self.write(Kind::Records) {
            self.shared.poison("write or sync", &error);
            refuse_all(group.members.drain(..), &AppendError::Unresolved);
            return;
        }
        self.count(group.members.len(), from, began);
        self.seal_previous();
        self.publish(group.members);
        self.fresh = self.lingers;
    }

    /// Finds room for a frame of these members, in another segment if need be.
    fn place(&mut self, members: &mut Vec<Waiting>) -> Placement {
        loop {
            let payload: u64 = members.iter().map(|member| member.batch.byte_len()).sum();
            // Options bound a group far below what a `usize` holds.
            let bytes = frame_bytes(usize::try_from(payload).unwrap_or(usize::MAX >> 1));
            if members.is_empty() {
                return Placement::Nobody;
            }
            if self.active.fits(bytes as u64) {
                return Placement::Fits;
            }
            let only_settles = members
                .iter()
                .all(|member| member.purpose == Purpose::Settle);
            match self.rotate(only_settles) {
                Rotation::Taken => {}
                Rotation::Ended => return Placement::Ended,
                Rotation::NoSpace => {
                    // New work makes way; without it the reserve may be used, or is used up.
                    let refused = members
                        .extract_if(.., |member| only_settles || member.purpose == Purpose::New);
                    refuse_all(refused, &AppendError::Full);
                    if only_settles {
                        // Perhaps nobody asks for new work any more: whoever tries this again is
                        // to find the space that there is by then.
                        retry_space(&mut self.shared.state.lock());
                        self.shared.chores.notify_one();
                    }
                }
            }
        }
    }

    /// Goes on in the segment that was made ahead, or in the reserve.
    fn rotate(&mut self, may_use_reserve: bool) -> Rotation {
        let mut state = self.shared.state.lock();
        let segment = loop {
            if state.poisoned || state.stop == Stop::Abandon {
                return Rotation::Ended;
            }
            match std::mem::replace(&mut state.next, Next::Wanted) {
                Next::Ready(segment) => break segment,
                Next::NoSpace if may_use_reserve && state.reserve == Reserve::Ready => {
                    state.next = Next::WantedFromReserve;
                    self.shared.chores.notify_one();
                }
                Next::NoSpace => {
                    state.next = Next::NoSpace;
                    return Rotation::NoSpace;
                }
                waiting @ (Next::Wanted | Next::WantedFromReserve) => {
                    state.next = waiting;
                    self.shared.prepared.wait(&mut state);
                }
            }
        };
        drop(state);
        self.shared.chores.notify_one();
        let before = std::mem::replace(&mut self.active, *segment);
        // An active segment always begins with a durable frame before it is left, so at most one
        // segment waits to be sealed; one without any frame would have been refilled, not left.
        self.unsealed.get_or_insert(Sealed {
            path: before.path,
            bytes: before.head.bytes,
            end: self.next,
        });
        Rotation::Taken
    }

    /// Writes the frame in the buffer and syncs it.
    fn write(&mut self, kind: Kind) -> io::Result<()> {
        let frame = self.buffer.seal(&self.active.head.salt, kind, self.next);
        self.active.file.write_all_at(self.active.end, frame)?;
        self.active.file.sync_data()?;
        self.active.end += frame.len() as u64;
        Ok(())
    }

    fn count(&self, batches: usize, from: u64, began: Instant) {
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut stats = self.shared.stats.lock();
        stats.batches += batches as u64;
        stats.groups += 1;
        stats.bytes += self.active.end.saturating_sub(from);
        stats.syncs.record(took);
    }

    /// The segment before the active one may be freed from now on.
    fn seal_previous(&mut self) {
        if let Some(sealed) = self.unsealed.take() {
            self.shared.state.lock().sealed.push_back(sealed);
        }
    }

    /// Tells the world of a durable group: watermark, sink, acknowledgements.
    fn publish(&mut self, members: Vec<Waiting>) {
        let mut at = self.next;
        let mut ranges = Vec::with_capacity(members.len());
        for member in &members {
            let end = Lsn::new(at.get() + u64::from(member.batch.len()));
            let last = Lsn::new(end.get() - 1);
            ranges.push(LsnRange { first: at, last });
            at = end;
        }
        self.next = at;
        let watermark = at.get() - 1;
        self.shared.watermark.store(watermark, Ordering::Release);
        let sink = &mut self.sink;
        let seen = catch_unwind(AssertUnwindSafe(|| {
            for (member, range) in members.iter().zip(&ranges) {
                sink.durable(range.first, &member.batch);
            }
        }));
        if seen.is_err() {
            self.shared.poison("sink", &"the sink panicked");
            refuse_all(members.into_iter(), &AppendError::Unresolved);
            return;
        }
        for (member, range) in members.into_iter().zip(ranges) {
            answer(member.ack, Ok(range));
        }
    }

    /// Answers what still waits, and marks a clean end.
    fn end(mut self, end: End) {
        let (outcome, error) = match end {
            End::Drained => (self.mark_closed(), AppendError::Closed),
            End::Abandoned => (Err(LogError::Closed), AppendError::Closed),
            End::Poisoned => (Err(LogError::Poisoned), AppendError::Poisoned),
        };
        let mut state = self.shared.state.lock();
        state.outcome = Some(outcome);
        // Nothing is accepted any more in any of the three cases, so this is all there is.
        let waiting = state.queue.drain();
        drop(state);
        self.shared.chores.notify_all();
        refuse_all(waiting.into_iter(), &error);
    }

    /// Writes the mark of a clean close, for which every segment keeps a page.
    ///
    /// A log whose last frame is the mark has been synced up to it, so that damage to the frames
    /// before is told from a torn tail.
    fn mark_closed(&mut self) -> Result<(), LogError> {
        self.buffer.clear();
        self.write(Kind::Closed).map_err(|error| {
            self.shared.poison("write or sync", &error);
            LogError::Poisoned
        })
    }
}

fn refuse_all(refused: impl Iterator<Item = Waiting>, error: &AppendError) {
    for waiting in refused {
        answer(waiting.ack, Err(error.clone()));
    }
}
