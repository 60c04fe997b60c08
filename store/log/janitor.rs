//! The janitor: makes segments before they are needed, and frees those that are not needed.
//!
//! Filling a segment with zeros and syncing folders takes many times as long as a group does; here
//! nobody waits for it.
//!
//! Invariants
//! - Segments are freed oldest first, each durably before the next, so that no crash leaves a gap.
//! - Only this thread makes and frees segments of a running log.

use std::sync::Arc;

use super::LogError;
use super::file::{Forget, Next, Reserve, Sealed, Shared, State, Stop, retry_space};
use super::segment::{MakeError, Maker, RECYCLED_NAME, RESERVE_NAME, Source};

/// What the janitor owns.
pub(super) struct Janitor {
    shared: Arc<Shared>,
    /// The sequence of the segment to be made next.
    sequence: u64,
    /// Whether a freed segment waits to be used again.
    recycled: bool,
}

enum Chore {
    Forget(Forget),
    Segment { from_reserve: bool },
    Reserve,
    End,
}

impl Janitor {
    pub(super) fn new(shared: Arc<Shared>, sequence: u64) -> Self {
        Self {
            shared,
            sequence,
            recycled: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let done = match self.chore() {
                Chore::Forget(forget) => self.forget(&forget),
                Chore::Segment { from_reserve } => self.segment(from_reserve),
                Chore::Reserve => self.reserve(),
                Chore::End => break,
            };
            if let Err(error) = done {
                self.shared.poison("prepare or free", &error);
            }
        }
        // Their receivers learn from the closed channel that nobody answers.
        self.shared.state.lock().forgets.clear();
    }

    fn chore(&self) -> Chore {
        let mut state = self.shared.state.lock();
        loop {
            // A closing log may need another segment for what it accepted.
            let ended = match state.stop {
                Stop::No => false,
                Stop::Drain => state.outcome.is_some(),
                Stop::Abandon => true,
            };
            if ended || state.poisoned {
                return Chore::End;
            }
            if let Some(forget) = state.forgets.pop_front() {
                return Chore::Forget(forget);
            }
            if matches!(state.next, Next::Wanted | Next::WantedFromReserve) {
                let from_reserve = matches!(state.next, Next::WantedFromReserve);
                return Chore::Segment { from_reserve };
            }
            if state.reserve == Reserve::Wanted {
                return Chore::Reserve;
            }
            self.shared.chores.wait(&mut state);
        }
    }

    fn maker(&self) -> Maker<'_> {
        Maker {
            disk: self.shared.disk.as_ref(),
            dir: &self.shared.dir,
            store: self.shared.store,
        }
    }

    fn segment(&mut self, from_reserve: bool) -> Result<(), std::io::Error> {
        let source = if from_reserve {
            Source::Recycle(self.shared.dir.join(RESERVE_NAME))
        } else if self.recycled {
            Source::Recycle(self.shared.dir.join(RECYCLED_NAME))
        } else {
            Source::Fresh(self.shared.options.segment_bytes)
        };
        let made = self.maker().make(self.sequence, &source, None);
        let mut state = self.shared.state.lock();
        match made {
            Ok(segment) => {
                self.sequence += 1;
                state.next = Next::Ready(Box::new(segment));
                if from_reserve {
                    state.reserve = Reserve::NoSpace;
                } else {
                    self.recycled = false;
                    leave_full(&mut state);
                }
            }
            Err(MakeError::NoSpace(error)) => {
                tracing::warn!(%error, "no space for another segment of the log");
                state.next = Next::NoSpace;
                state.full = true;
                self.recycled &= from_reserve;
                if from_reserve {
                    // Else the log thread would ask for it again and again.
                    state.reserve = Reserve::NoSpace;
                }
            }
            Err(MakeError::Failed(error)) => return Err(error),
        }
        drop(state);
        self.shared.prepared.notify_all();
        self.shared.work.notify_all();
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), std::io::Error> {
        let bytes = self.shared.options.reserve_bytes;
        let maker = self.maker();
        let made = match maker.has_reserve(bytes) {
            Ok(true) => Ok(()),
            Ok(false) => maker.make_reserve(bytes),
            Err(error) => return Err(error),
        };
        let mut state = self.shared.state.lock();
        match made {
            Ok(()) => {
                state.reserve = Reserve::Ready;
                leave_full(&mut state);
            }
            Err(MakeError::NoSpace(error)) => {
                tracing::warn!(%error, "no space for the reserve of the log");
                state.reserve = Reserve::NoSpace;
                state.full = true;
            }
            Err(MakeError::Failed(error)) => return Err(error),
        }
        Ok(())
    }

    fn forget(&mut self, forget: &Forget) -> Result<(), std::io::Error> {
        let mut freed = false;
        loop {
            let mut state = self.shared.state.lock();
            let below = state
                .sealed
                .front()
                .is_some_and(|sealed| sealed.end <= forget.before);
            let Some(sealed) = state.sealed.pop_front_if(|_| below) else {
                if freed {
                    retry_space(&mut state);
                }
                break;
            };
            drop(state);
            if let Err(error) = self.free(&sealed) {
                let _ = forget.reply.send(Err(LogError::Poisoned));
                return Err(error);
            }
            freed = true;
        }
        let _ = forget.reply.send(Ok(()));
        Ok(())
    }

    /// Gives a segment up; keeps its file for the next one where the size is right.
    fn free(&mut self, sealed: &Sealed) -> Result<(), std::io::Error> {
        let disk = self.shared.disk.as_ref();
        if !self.recycled && sealed.bytes == self.shared.options.segment_bytes {
            disk.rename(&sealed.path, &self.shared.dir.join(RECYCLED_NAME))?;
            self.recycled = true;
        } else {
            disk.remove(&sealed.path)?;
        }
        disk.sync_dir(&self.shared.dir)
    }
}

/// New work is taken again once there is a segment and the reserve, if one is configured.
fn leave_full(state: &mut State) {
    let reserve = match state.reserve {
        Reserve::Off | Reserve::Ready => true,
        Reserve::Wanted | Reserve::NoSpace => false,
    };
    if reserve && matches!(state.next, Next::Ready(_)) {
        state.full = false;
    }
}
