//! Batches of one saga: what is in one, and what follows from how it ends.
//!
//! Invariants
//! - Every prefix of the batches folds, and no fork is cut: it is started, given what it inherits
//!   and, if that is so, its original ended in one.
//! - One batch of a saga is on its way at a time.

use std::sync::Arc;
use std::time::Duration;

use orlop_saga::event::Event;
use orlop_saga::saga::SagaEvent;
use orlop_store::log::{AppendError, LsnRange, Purpose};

use super::{Deed, Over, Run};
use crate::core::Core;
use crate::driver::Message;
use crate::driver::words::bytes_about;

/// How long a batch waits that found no room in the journal.
const PATIENCE: Duration = Duration::from_millis(20);

impl Run {
    /// As many of the recorded events as go into one batch. Every prefix of them folds.
    pub(super) fn next_events(&mut self, bytes_max: usize) -> Vec<Event> {
        let mut bytes = 0;
        let mut events = Vec::new();
        while !self.outbox.is_empty() {
            let bound = self.outbox.iter().skip(1);
            let count = 1 + bound.take_while(|event| self.is_bound(event)).count();
            bytes += self
                .outbox
                .iter()
                .take(count)
                .map(bytes_about)
                .sum::<usize>();
            if bytes > bytes_max && !events.is_empty() {
                break;
            }
            events.extend(self.outbox.drain(..count));
        }
        events
    }

    /// Whether an event means nothing without the one before it: what a fork begins with, and all
    /// of a fork that is started with the end of this saga.
    fn is_bound(&self, event: &Event) -> bool {
        match event {
            Event::Saga { id, event } => *id != self.id || matches!(event, SagaEvent::Forked(_)),
            Event::Opened { .. }
            | Event::Tenant(_)
            | Event::Effect { .. }
            | Event::Closed { .. }
            | Event::Recovered
            | Event::Budget(_) => false,
        }
    }

    pub(super) fn append_sent(&mut self, core: &Arc<Core>) {
        let Some(sent) = &self.sent else {
            return;
        };
        let saga = self.id;
        let told = move |core: &Arc<Core>, result| {
            core.driver.tell(Message::Durable { saga, result });
        };
        let tenant = self.flight.id.tenant;
        if self.state.start().parent.is_some() {
            // Its parent is told its output after a restart too, and finds it in the fold.
            core.append_whole(tenant, sent.purpose, &sent.events, told);
        } else {
            core.append(tenant, sent.purpose, &sent.events, told);
        }
    }

    pub(super) fn durable(&mut self, core: &Arc<Core>, result: Result<LsnRange, AppendError>) {
        match result {
            Ok(range) => {
                if let Some(sent) = self.sent.take() {
                    self.perform(core, sent.deeds, range.last);
                }
            }
            Err(error) => self.not_durable(core, &error),
        }
    }

    fn not_durable(&mut self, core: &Arc<Core>, error: &AppendError) {
        let starting = self
            .sent
            .as_ref()
            .is_some_and(|sent| sent.purpose == Purpose::New);
        if error.is_retryable() && !starting {
            let saga = self.id;
            let teller = Arc::downgrade(core);
            core.executor.runtime.after(PATIENCE, move || {
                if let Some(core) = teller.upgrade() {
                    core.driver.tell(Message::AppendAgain { saga });
                }
            });
            return;
        }
        if starting {
            let error = core.append_failed(error, self.flight.id.key);
            self.over(core);
            self.flight.saga_refused(core, error);
            self.not_durable_for_any("the journal failed first");
        } else {
            self.break_off(core, error);
        }
    }

    /// The journal failed: whoever waits is told that this engine knows no more.
    pub(in crate::driver) fn break_off(&mut self, core: &Arc<Core>, error: &AppendError) {
        self.over(core);
        self.flight.unresolved(core, error);
        self.forks_unresolved(core, error);
        self.not_durable_for_any("the journal failed first");
    }

    /// The fold is ahead of the journal and stays there: nothing more comes of this run. What is
    /// durable is found at the next open.
    fn over(&mut self, core: &Core) {
        self.bury();
        self.disarm();
        self.dismiss_all();
        self.outbox.clear();
        self.over = Over::BrokenOff;
        core.driver.ended();
    }

    /// Whether a batch of it is on its way to the disk.
    pub(in crate::driver) fn is_sending(&self) -> bool {
        self.sent.is_some()
    }

    /// Tells those who wait for a fork that may not be durable.
    fn forks_unresolved(&mut self, core: &Arc<Core>, error: &AppendError) {
        let sent = self.sent.iter().flat_map(|sent| &sent.deeds);
        let waiting = self.deeds.iter().map(|(_, deed)| deed);
        for deed in sent.chain(waiting) {
            if let Deed::Born(newborn) = deed {
                newborn.unresolved(core, error);
            }
        }
    }
}
