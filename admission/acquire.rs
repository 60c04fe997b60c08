//! Acquiring as a future.
//!
//! Invariants
//! - A dropped future leaves nothing behind: it is unlinked if it still waits, and a permit that
//!   was on its way is given back.
//! - Wakers are cloned, woken and dropped with no lock held.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::bulkhead::{Acquired, Bulkhead};
use crate::permit::Permit;
use crate::refusal::Refusal;
use crate::request::{Grantee, Request};
use crate::sync::Mutex;
use crate::ticket::QueueTicket;

enum Answer {
    Awaited(Option<Waker>),
    Given(Result<Permit, Refusal>),
    /// Taken by the future.
    Closed,
}

struct Mailbox {
    answer: Mutex<Answer>,
}

impl Mailbox {
    fn put(&self, given: Result<Permit, Refusal>) {
        let mut unclaimed = None;
        let waker = {
            let mut answer = self.answer.lock();
            match std::mem::replace(&mut *answer, Answer::Closed) {
                Answer::Awaited(waker) => {
                    *answer = Answer::Given(given);
                    waker
                }
                Answer::Given(first) => {
                    debug_assert!(false, "answered twice");
                    *answer = Answer::Given(first);
                    unclaimed = Some(given);
                    None
                }
                Answer::Closed => {
                    unclaimed = Some(given);
                    None
                }
            }
        };
        // Outside the lock: this gives a permit back.
        drop(unclaimed);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Grantee for Mailbox {
    fn granted(self: Arc<Self>, permit: Permit) {
        self.put(Ok(permit));
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        self.put(Err(refusal));
    }
}

enum Stage<'a> {
    Unasked(Request<'a>),
    Waiting {
        ticket: QueueTicket,
        mailbox: Arc<Mailbox>,
    },
    Answered,
}

/// A permit to be, made by [`Bulkhead::acquire_async`](crate::Bulkhead::acquire_async).
///
/// Polled after it has completed, it stays pending.
#[must_use = "nothing is asked for until it is polled"]
pub struct Acquire<'a> {
    bulkhead: Bulkhead,
    stage: Stage<'a>,
}

impl<'a> Acquire<'a> {
    pub(crate) const fn new(bulkhead: Bulkhead, request: Request<'a>) -> Self {
        Self {
            bulkhead,
            stage: Stage::Unasked(request),
        }
    }
}

impl std::fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("bulkhead", self.bulkhead.name())
            .finish_non_exhaustive()
    }
}

impl Future for Acquire<'_> {
    type Output = Result<Permit, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::Unasked(request) = &this.stage {
            let mut made = None;
            let asked = this.bulkhead.core().acquire(
                request,
                &mut Some(|| {
                    let mailbox = Arc::new(Mailbox {
                        answer: Mutex::new(Answer::Awaited(None)),
                    });
                    made = Some(Arc::clone(&mailbox));
                    mailbox as Arc<dyn Grantee>
                }),
            );
            this.stage = Stage::Answered;
            match (asked, made) {
                (Err(refusal), _) => return Poll::Ready(Err(refusal)),
                (Ok(Acquired::Granted(permit)), _) => return Poll::Ready(Ok(permit)),
                (Ok(Acquired::Queued(ticket)), Some(mailbox)) => {
                    this.stage = Stage::Waiting { ticket, mailbox };
                }
                (Ok(Acquired::Queued(_)), None) => {
                    debug_assert!(false, "queued without a mailbox");
                    return Poll::Ready(Err(Refusal::Cancelled));
                }
            }
        }
        let Stage::Waiting { mailbox, .. } = &this.stage else {
            return Poll::Pending;
        };
        let waker = context.waker().clone();
        let (given, _dropped_unlocked) = {
            let mut answer = mailbox.answer.lock();
            match std::mem::replace(&mut *answer, Answer::Closed) {
                Answer::Awaited(old) => {
                    *answer = Answer::Awaited(Some(waker));
                    (None, old)
                }
                Answer::Given(given) => (Some(given), Some(waker)),
                Answer::Closed => (None, Some(waker)),
            }
        };
        match given {
            Some(given) => {
                this.stage = Stage::Answered;
                Poll::Ready(given)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Stage::Waiting { ticket, .. } = &self.stage {
            // If it no longer waits, the answer is in the mailbox or on its way there. The mailbox
            // is dropped by whoever lets go of it last, and the permit in it is given back.
            ticket.cancel();
        }
    }
}
