//! Lending: a thread that publishes a short operation runs it, while nobody else would.
//!
//! A sleeping worker takes longer to wake than a short operation takes, and its completion wakes
//! the publisher again. So who publishes becomes a worker for a moment.
//!
//! Invariants
//! - One thread is lent at a time, never one that is lent already, and only while every worker
//!   sleeps and nothing runs.
//! - What the lent thread leaves on the rings has woken a worker.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::HostKernel;
use super::schedule::Claim;
use super::task::Lent;

/// From here on the lent thread takes nothing more.
const MOMENT: Duration = Duration::from_micros(20);

thread_local! {
    /// The kernel that this thread is lent to, by its address; zero if to none. What is published
    /// meanwhile, by callbacks, is left to workers.
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// The time for which a thread is lent. Dropped, also while unwinding, it is given back.
struct Loan<'a>(#[expect(dead_code, reason = "held, and not read")] MutexGuard<'a, ()>);

impl<'a> Loan<'a> {
    fn of(kernel: &'a HostKernel) -> Option<Self> {
        if LENT.get() != 0 || !kernel.is_quiet() {
            return None;
        }
        let held = kernel.lent.try_lock()?;
        LENT.set(std::ptr::from_ref(kernel).addr());
        Some(Self(held))
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        LENT.set(0);
    }
}

impl HostKernel {
    /// Whether every worker sleeps and nothing runs.
    fn is_quiet(&self) -> bool {
        let workers = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        self.active() == 0 && (0..workers).all(|worker| self.is_sleeping(worker))
    }

    /// Whether this thread is lent to this kernel.
    pub(super) fn is_lent_here(&self) -> bool {
        LENT.get() == std::ptr::from_ref(self).addr()
    }

    /// Waits until no thread is lent; not to be called on one that is.
    pub(super) fn wait_for_loans(&self) {
        drop(self.lent.lock());
    }

    /// Runs what stands on the ring on this thread, for a moment; or wakes a worker.
    pub(super) fn lend(&self) {
        let Some(loan) = Loan::of(self) else {
            return self.wake_one();
        };
        self.lends.fetch_add(1, Ordering::Relaxed);
        // The number after the last worker's: it has no heartbeat, and what it plans can be
        // cancelled like anybody's.
        let number = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        let (begun, mut beats, mut lent) = (Instant::now(), 0, Lent::default());
        loop {
            match self.claim(number) {
                Claim::Plan(task) => self.plan(number, task, &mut beats, &mut lent),
                Claim::Tile(run, tile) => self.tile(number, &run, tile, &mut beats, &mut lent),
                Claim::Post(due) => self.post_due(due),
                Claim::Idle | Claim::Exit => break,
            }
            if begun.elapsed() >= MOMENT {
                let more = self.schedule.lock().has_work();
                if more {
                    self.wake_one();
                }
                break;
            }
        }
        drop(loan);
    }
}
