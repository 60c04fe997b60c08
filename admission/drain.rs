//! Draining: closing a gate and being told when what is behind it has ended.
//!
//! Invariants
//! - The gate is `{state, generation, live}` under the lock of whatever it guards, so whether
//!   something may enter and that it entered are one step: nothing enters a closed gate.
//! - `live` counts what is queued and what is in flight; it reaches zero only when all of it was
//!   given back.
//! - Opening moves on to the next generation: a drain of an earlier one ends as interrupted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::bulkhead::Core;
use crate::outbox::Outbox;
use crate::tenant::TenantAccount;

/// What becomes of requests that wait when a drain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// They are refused at once.
    Refuse,
    /// They are served before the drain ends.
    Serve,
}

/// Why a drain did not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// It was resumed before everything had ended. Work may be in flight. Drain again.
    #[error("resumed before it was drained")]
    Resumed,
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: bool,
    generation: u64,
    live: u64,
    drains: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Gate {
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) const fn live(&self) -> u64 {
        self.live
    }

    pub(crate) const fn enter(&mut self) {
        self.live = self.live.saturating_add(1);
    }

    /// Counts what entered without having been counted.
    pub(crate) const fn enter_all(&mut self, live: u64) {
        self.live = self.live.saturating_add(live);
    }

    /// Leaves it to others to count what is behind the gate, which is open.
    pub(crate) const fn leave_all(&mut self, live: u64) {
        debug_assert!(self.live >= live && !self.closed, "more left than entered");
        self.live = self.live.saturating_sub(live);
    }

    pub(crate) fn leave(&mut self, outbox: &mut Outbox) {
        self.leave_many(1, outbox);
    }

    /// The same, of `count` that leave together.
    #[inline]
    pub(crate) fn leave_many(&mut self, count: u64, outbox: &mut Outbox) {
        debug_assert!(self.live >= count, "more left than entered");
        self.live = self.live.saturating_sub(count);
        if self.closed && self.live == 0 {
            self.wake(outbox);
        }
    }

    /// Closes the gate, if it is open; returns the generation that is being drained.
    pub(crate) const fn close(&mut self) -> u64 {
        if !self.closed {
            self.closed = true;
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }

    /// Opens the gate, if it is closed; drains that were waiting end as interrupted.
    pub(crate) fn open(&mut self, outbox: &mut Outbox) {
        if self.closed {
            self.closed = false;
            self.generation = self.generation.wrapping_add(1);
            self.wake(outbox);
        }
    }

    #[cold]
    fn wake(&mut self, outbox: &mut Outbox) {
        outbox.wake_all(self.wakers.drain(..).map(|(_, waker)| waker));
    }

    fn poll(&self, generation: u64) -> Poll<Result<(), DrainError>> {
        if self.generation != generation {
            Poll::Ready(Err(DrainError::Resumed))
        } else if self.live == 0 {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Remembers whom to wake; returns a waker that is to be dropped outside the lock.
    fn remember(&mut self, drain: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let id = *drain.get_or_insert_with(|| {
            self.drains = self.drains.wrapping_add(1);
            self.drains
        });
        if let Some((_, old)) = self.wakers.iter_mut().find(|(other, _)| *other == id) {
            return Some(std::mem::replace(old, waker));
        }
        self.wakers.push((id, waker));
        None
    }

    fn forget(&mut self, drain: u64) -> Option<Waker> {
        let at = self.wakers.iter().position(|(id, _)| *id == drain)?;
        Some(self.wakers.swap_remove(at).1)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Gated {
    Bulkhead(Arc<Core>),
    Tenant(Arc<TenantAccount>),
}

impl Gated {
    fn with<R>(&self, act: impl FnOnce(&mut Gate) -> R) -> R {
        match self {
            Self::Bulkhead(core) => act(&mut core.state.lock().gate),
            Self::Tenant(account) => act(&mut account.ledger.lock().gate),
        }
    }
}

/// A drain that has begun. Completes by notification, once nothing is queued or in flight.
///
/// The drain goes on when this is dropped: only resuming ends it. While it goes on the bulkhead,
/// or the tenant's ordinary lane, admits nothing.
#[derive(Debug)]
#[must_use = "the drain has begun, but nobody waits for its end"]
pub struct Drain {
    gated: Gated,
    generation: u64,
    id: Option<u64>,
}

impl Drain {
    pub(crate) const fn new(gated: Gated, generation: u64) -> Self {
        Self {
            gated,
            generation,
            id: None,
        }
    }

    /// Whether nothing is queued or in flight any more; `None` while something is.
    ///
    /// # Errors
    /// [`DrainError`]: inside the `Some`; it was resumed meanwhile.
    pub fn try_wait(&self) -> Option<Result<(), DrainError>> {
        match self.gated.with(|gate| gate.poll(self.generation)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }
}

impl Future for Drain {
    type Output = Result<(), DrainError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waker = context.waker().clone();
        let (outcome, _dropped_unlocked) = this.gated.with(|gate| {
            let outcome = gate.poll(this.generation);
            let old = match outcome {
                Poll::Ready(_) => Some(waker),
                Poll::Pending => gate.remember(&mut this.id, waker),
            };
            (outcome, old)
        });
        outcome
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _dropped_unlocked = self.gated.with(|gate| gate.forget(id));
        }
    }
}
