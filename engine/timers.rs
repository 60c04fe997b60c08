//! Timers: waits that follow the engine's clock, and what holds a simulated clock still.
//!
//! By a real clock they are tokio's. By a simulated one they ring when the simulation says so, and
//! it says so only while nothing is under way: whoever begins something that needs no time holds a
//! [`Work`] until what follows from it holds one of its own.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use orlop_saga::time::{Clock, Simulated};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// See the module.
#[derive(Clone)]
pub(crate) struct Timers {
    handle: Handle,
    clock: Arc<dyn Clock>,
    simulated: Option<Arc<dyn Simulated>>,
}

/// Something is under way: a simulated clock stands still.
pub(crate) struct Work(Option<Arc<dyn Simulated>>);

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(simulated) = &self.0 {
            simulated.end();
        }
    }
}

impl Timers {
    /// Timers that follow `clock`; real ones ring on `handle`.
    pub(crate) fn new(handle: Handle, clock: Arc<dyn Clock>) -> Self {
        Self {
            simulated: clock.simulated(),
            handle,
            clock,
        }
    }

    /// Something begins that needs no time to pass.
    pub(crate) fn work(&self) -> Work {
        if let Some(simulated) = &self.simulated {
            simulated.begin();
        }
        Work(self.simulated.clone())
    }

    /// A sleep that may be awaited on any runtime, or none.
    pub(crate) fn sleep(&self, wait: Duration) -> Sleeping {
        let Some(simulated) = &self.simulated else {
            let _timers = self.handle.enter();
            return Sleeping::Real(Box::pin(tokio::time::sleep(wait)));
        };
        let (ring, heard) = oneshot::channel();
        let at = self.clock.monotonic().after(wait);
        let holds = Arc::downgrade(simulated);
        let call = simulated.call_at(
            at,
            Box::new(move || {
                let Some(simulated) = holds.upgrade() else {
                    return;
                };
                simulated.begin();
                // Until whoever slept has done what it woke for. It may have left.
                let _ = ring.send(Work(Some(simulated)));
            }),
        );
        Sleeping::Simulated(Rung {
            heard,
            call,
            woken: None,
            simulated: Arc::clone(simulated),
        })
    }

    /// Calls `work` once `wait` has passed, unless the engine ends before.
    pub(crate) fn after(&self, wait: Duration, work: impl FnOnce() + Send + 'static) {
        if let Some(simulated) = &self.simulated {
            let at = self.clock.monotonic().after(wait);
            simulated.call_at(at, Box::new(work));
            return;
        }
        self.handle.spawn(async move {
            tokio::time::sleep(wait).await;
            work();
        });
    }

    /// The same, unless what this gives is dropped before.
    pub(crate) fn alarm(&self, wait: Duration, work: impl FnOnce() + Send + 'static) -> Alarm {
        if let Some(simulated) = &self.simulated {
            let at = self.clock.monotonic().after(wait);
            let call = simulated.call_at(at, Box::new(work));
            return Alarm::Simulated(call, Arc::clone(simulated));
        }
        let task = self.handle.spawn(async move {
            tokio::time::sleep(wait).await;
            work();
        });
        Alarm::Real(task.abort_handle())
    }

    /// What a future gives within `wait`.
    pub(crate) async fn timeout<F: Future>(&self, wait: Duration, future: F) -> Option<F::Output> {
        // Dropped after the future: what the future leaves behind is under way until it is gone.
        let sleep = pin!(self.sleep(wait));
        let future = pin!(future);
        match select(future, sleep).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }

    /// A random number.
    pub(crate) fn random(&self) -> u64 {
        random_of(self.simulated.as_ref())
    }

    /// A random number in `0.0..1.0`.
    pub(crate) fn draw(&self) -> f64 {
        let mut once = fastrand::Rng::with_seed(self.random());
        once.f64()
    }
}

/// Work that is done once its time comes. Dropped, it is not done, and nothing is left of it.
pub(crate) enum Alarm {
    Real(AbortHandle),
    Simulated(u64, Arc<dyn Simulated>),
}

impl Drop for Alarm {
    fn drop(&mut self) {
        match self {
            Self::Real(task) => task.abort(),
            Self::Simulated(call, simulated) => simulated.cancel(*call),
        }
    }
}

/// A random number: of the simulation, where there is one.
pub(crate) fn random_of(simulated: Option<&Arc<dyn Simulated>>) -> u64 {
    simulated.map_or_else(|| fastrand::u64(..), |simulated| simulated.draw())
}

/// A sleep. Dropped, it rings no more.
pub(crate) enum Sleeping {
    Real(Pin<Box<tokio::time::Sleep>>),
    Simulated(Rung),
}

/// A simulated timer that somebody waits for.
pub(crate) struct Rung {
    heard: oneshot::Receiver<Work>,
    call: u64,
    /// What follows from its ringing is under way until the sleep is dropped.
    woken: Option<Work>,
    simulated: Arc<dyn Simulated>,
}

impl Drop for Rung {
    fn drop(&mut self) {
        self.simulated.cancel(self.call);
    }
}

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Self::Real(sleep) => sleep.as_mut().poll(context),
            Self::Simulated(timer) => match timer.heard.poll_unpin(context) {
                Poll::Ready(Ok(work)) => {
                    timer.woken = Some(work);
                    Poll::Ready(())
                }
                // Forgotten with its clock: time passes no more.
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
            },
        }
    }
}
