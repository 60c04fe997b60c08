//! Closing: refuse, drain with a deadline, record, checkpoint, retire, unlock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Shared, select};
use orlop_admission::Queued;
use orlop_saga::event::Event;
use orlop_saga::id::TenantId;
use orlop_store::log::Purpose;
use orlop_store::store::CloseError as StoreCloseError;
use tokio::sync::oneshot;

use crate::blocking;
use crate::core::Core;
use crate::driver::Message;
use crate::error::SubmitError;

/// Why an engine did not close cleanly. What was acknowledged is durable all the same.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Attempts were still running when the time was over. They were left behind; what they were
    /// part of goes on at the next open.
    #[error("attempts in bulkhead {bulkhead} were still running after {} ms", waited.as_millis())]
    StillRunning {
        /// Where.
        bulkhead: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The store did not close cleanly.
    #[error(transparent)]
    Store(#[from] StoreCloseError),
    /// The system gave no thread to close with. Nothing was done; call again.
    #[error("no thread could be started to close the engine")]
    Thread,
    /// This is a forked child: nothing was done.
    #[error("the engine belongs to another process")]
    Forked,
}

/// A closing on its way, shared by all who asked for it.
pub(crate) type Closing = Shared<BoxFuture<'static, Result<(), CloseError>>>;

impl Core {
    /// Closes; a second call waits for the first and answers the same.
    pub(crate) async fn close(self: &Arc<Self>) -> Result<(), CloseError> {
        if self.is_forked() {
            return Err(CloseError::Forked);
        }
        let closing = self.closing_once()?;
        closing.await
    }

    /// The one closing; started by the first who asks, and not ended when that one loses interest.
    fn closing_once(self: &Arc<Self>) -> Result<Closing, CloseError> {
        let mut begun = self.closed.lock();
        if let Some(closing) = &*begun {
            return Ok(closing.clone());
        }
        let (tell, told) = oneshot::channel();
        let core = Arc::clone(self);
        let thread = std::thread::Builder::new().name("orlop-close".to_owned());
        let spawned = thread.spawn(move || {
            let _ = tell.send(core.close_now());
        });
        spawned.map_err(|_| CloseError::Thread)?;
        let closing = told
            .map(|ended| ended.unwrap_or(Err(CloseError::Thread)))
            .boxed()
            .shared();
        *begun = Some(closing.clone());
        Ok(closing)
    }

    fn close_now(self: &Arc<Self>) -> Result<(), CloseError> {
        self.closing.store(true, Ordering::Release);
        let deadline = Instant::now() + self.close_timeout;
        let drained = self.drain(deadline);
        self.executor.busy.wait_quiet(deadline);
        self.quiesce_driver(deadline);
        self.set_ended();
        self.executor.treasury.wait_drawn(deadline);
        self.record_close(drained.is_ok(), deadline);
        // Before the folder is unlocked.
        self.executor.audit.stop(deadline);
        let left = deadline.saturating_duration_since(Instant::now());
        let closed = self.store.0.close(left.max(Duration::from_secs(1)));
        self.driver.stop();
        self.feed.close();
        self.executor.device.close();
        self.executor.cache.forget_all();
        self.interrupt();
        drained?;
        Ok(closed?)
    }

    /// Records that what this close interrupts is no crash's doing. Best effort: without it, the
    /// attempts count.
    fn record_close(self: &Arc<Self>, quiet: bool, deadline: Instant) {
        let (tell, told) = std::sync::mpsc::channel();
        // What was spent, and what is left of what was drawn, before the end.
        let mut events = match self.check_format_3("a budget") {
            Ok(()) => self.executor.treasury.close_events(quiet),
            Err(_) => Vec::new(),
        };
        events.push(Event::Closed {
            at: self.clock.wall(),
        });
        self.append(
            TenantId::default(),
            Purpose::Settle,
            &events,
            move |_, _| {
                let _ = tell.send(());
            },
        );
        let _ = told.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Waits until no attempt runs. What was queued is refused; accepted work stays durable.
    fn drain(&self, deadline: Instant) -> Result<(), CloseError> {
        let begin = |name: &str| Some((name.to_owned(), self.executor.bulkheads.get(name)?));
        self.executor.room.close();
        let names: Vec<_> = self.executor.bulkheads.keys().cloned().collect();
        let drains: Vec<_> = names
            .iter()
            .filter_map(|name| begin(name))
            .map(|(name, gate)| (name, gate.bulkhead().drain(Queued::Refuse)))
            .collect();
        let began = Instant::now();
        for (name, drain) in drains {
            let left = deadline.saturating_duration_since(Instant::now());
            let (late, is_late) = oneshot::channel::<()>();
            self.executor.runtime.after(left, move || drop(late));
            let drain = std::pin::pin!(drain);
            let both = select(drain, is_late);
            // By this thread's own clock too: the engine's may stand still.
            let ended = blocking::wait_until(both, deadline);
            if !matches!(ended, Some(Either::Left(_))) {
                let waited = began.elapsed();
                return Err(CloseError::StillRunning {
                    bulkhead: name,
                    waited,
                });
            }
        }
        Ok(())
    }

    /// Waits until everything that sagas have to record is durable.
    fn quiesce_driver(&self, deadline: Instant) {
        let (tell, told) = std::sync::mpsc::channel();
        self.driver.tell(Message::Quiesce { tell });
        let _ = told.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Ends without closing: nothing is waited for but the engine's own threads.
    pub(crate) fn end(self: &Arc<Self>) {
        self.set_ended();
        self.executor.room.close();
        for gate in self.executor.bulkheads.values() {
            // What is queued is refused rather than launched onto a device that closes.
            let _goes_on = gate.bulkhead().drain(Queued::Refuse);
        }
        self.driver.stop();
        self.feed.close();
        self.executor.device.close();
        self.interrupt();
        self.executor
            .audit
            .stop(Instant::now() + self.close_timeout);
    }

    /// Tells whoever still waits that there will be no outcome here.
    fn interrupt(&self) {
        for table in [&self.flights, &self.ephemeral] {
            let flights: Vec<_> = table
                .iter()
                .map(|entry| Arc::clone(entry.value()))
                .collect();
            for flight in flights {
                flight.interrupt();
            }
            table.clear();
        }
    }
}

impl crate::flight::Flight {
    pub(crate) fn interrupt(&self) {
        self.tell_all(&Err(SubmitError::Interrupted { key: self.id.key }));
    }
}
