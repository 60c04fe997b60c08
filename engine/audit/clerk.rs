//! The clerk: the thread that hands what was told and counted to the sinks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use orlop_admission::{AuditSink, TenantSnapshot};
use orlop_saga::audit::{Actor, AuditEntry, AuditEvent, Denial, Object};
use orlop_saga::effect::EffectId;
use orlop_saga::id::{Lsn, TenantId};
use orlop_saga::tenant::AuditTag;
use orlop_saga::time::WallMillis;
use orlop_store::audit::Trail;
use tokio::sync::oneshot;

use super::{Attempt, Auditor, Order};
use crate::core::Core;

/// How many entries are handed over at a time.
const ENTRIES_MAX: usize = 256;

pub(super) struct Clerk {
    /// Weak, so that an engine that is dropped half open ends this thread, too.
    auditor: Weak<Auditor>,
    interval: Duration,
    core: Weak<Core>,
    sinks: Vec<Box<dyn AuditSink>>,
    trail: Option<Trail>,
    entries: Vec<AuditEntry>,
    flushes: Vec<oneshot::Sender<()>>,
    tenants: Vec<TenantSnapshot>,
    /// Since when something is counted that was not told, by either clock.
    since: Option<(Instant, WallMillis)>,
}

impl Clerk {
    pub(super) fn new(
        auditor: &Arc<Auditor>,
        core: Weak<Core>,
        sinks: Vec<Box<dyn AuditSink>>,
        trail: Option<Trail>,
    ) -> Self {
        Self {
            auditor: Arc::downgrade(auditor),
            interval: auditor.options.interval,
            core,
            sinks,
            trail,
            entries: Vec::new(),
            flushes: Vec::new(),
            tenants: Vec::new(),
            since: None,
        }
    }

    pub(super) fn work(mut self, outlet: &Receiver<Order>) {
        loop {
            let order = match self.since {
                // Nothing is counted: whoever counts something wakes it.
                None => outlet.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((since, _)) => {
                    outlet.recv_timeout(self.interval.saturating_sub(since.elapsed()))
                }
            };
            let Some(auditor) = self.auditor.upgrade() else {
                return;
            };
            let stopped = match order {
                Ok(order) => self.take(&auditor, order, outlet),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let asked = stopped.is_some() || !self.flushes.is_empty();
            let over = |(since, _): (Instant, WallMillis)| since.elapsed() >= self.interval;
            if asked || self.since.is_some_and(over) {
                self.turn(&auditor);
            }
            for flushed in self.flushes.drain(..) {
                let _ = flushed.send(());
            }
            if let Some(stopped) = stopped {
                // The lock of the folder goes with the trail, before anybody hears.
                drop(self);
                let _ = stopped.send(());
                return;
            }
        }
    }

    /// Takes orders as long as there are some, and hands over what they tell.
    fn take(
        &mut self,
        auditor: &Auditor,
        first: Order,
        outlet: &Receiver<Order>,
    ) -> Option<Sender<()>> {
        let mut stopped = None;
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Denied(attempt) => self.tell(attempt),
                Order::Suspect(attempt) => self.examine(auditor, attempt),
                Order::Wake => self.begin(auditor),
                Order::Flush(flushed) => {
                    // Who counted something may have left it to another one to wake the clerk.
                    self.begin(auditor);
                    self.flushes.push(flushed);
                }
                Order::Stop(tell) => {
                    self.begin(auditor);
                    stopped = Some(tell);
                }
            }
            if stopped.is_none() && self.flushes.is_empty() && self.entries.len() < ENTRIES_MAX {
                next = outlet.try_recv().ok();
            }
        }
        self.hand_over(auditor);
        stopped
    }

    /// Begins an interval, if none has begun.
    fn begin(&mut self, auditor: &Auditor) {
        let now = || (Instant::now(), auditor.clock.wall());
        self.since.get_or_insert_with(now);
    }

    fn tell(&mut self, attempt: Attempt) {
        let event = AuditEvent::Denied(Denial {
            who: self.actor(attempt.tenant, attempt.tag),
            operation: attempt.operation,
            object: attempt.object,
            owner: attempt.owner,
        });
        let (at, lsn) = (attempt.at, self.lsn());
        self.entries.push(AuditEntry { at, lsn, event });
    }

    /// Tells of an attempt if what was asked for is another tenant's. An honest mistake, a key that
    /// nobody has, is none.
    fn examine(&mut self, auditor: &Auditor, attempt: Attempt) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let has = |tenant: TenantId| match attempt.object {
            Object::Key(key) => {
                let id = EffectId { tenant, key };
                core.flights.contains_key(&id) || core.store.maybe_retained(id)
            }
            Object::Buffer(digest) => {
                let device = core.executor.device.current();
                device.buffers().find(tenant, &digest).is_some()
            }
            // Whose these are is known where they are denied.
            Object::Saga(_)
            | Object::SagasOf(_)
            | Object::Window(_)
            | Object::Opcode(_)
            | Object::Ledger(_)
            | Object::Life(_)
            | Object::Engagement(_) => false,
        };
        if has(attempt.tenant) {
            return;
        }
        core.tenants.snapshot_into(&mut self.tenants);
        let owner = self
            .tenants
            .iter()
            .map(|tenant| tenant.id)
            .find(|id| has(*id));
        if owner.is_some() && auditor.count_denied(attempt.tenant) {
            self.tell(Attempt { owner, ..attempt });
        }
    }

    /// Ends an interval: tells what was counted in it.
    fn turn(&mut self, auditor: &Auditor) {
        let Some((_, since)) = self.since.take() else {
            return;
        };
        // Before the counts are taken: whoever counts from now on wakes it again.
        auditor.awake.store(false, Ordering::Release);
        let at = auditor.clock.wall();
        let lsn = self.lsn();
        let mut sums = Vec::new();
        for tally in &auditor.tallies {
            let tenant = *tally.key();
            let suppressed = tally.turn();
            let refused: Vec<_> = tally.take_refused().collect();
            sums.push((tenant, suppressed, refused));
        }
        auditor.tallies.retain(|_, tally| !tally.is_empty());
        for (tenant, count, refused) in sums {
            if count > 0 {
                let who = self.actor(tenant, AuditTag::default());
                let event = AuditEvent::Suppressed { who, count, since };
                self.entries.push(AuditEntry { at, lsn, event });
            }
            for (reason, count) in refused {
                let event = AuditEvent::Refused {
                    who: self.actor(tenant, AuditTag::default()),
                    reason: reason.name().into(),
                    count,
                    since,
                };
                self.entries.push(AuditEntry { at, lsn, event });
            }
        }
        self.hand_over(auditor);
    }

    fn actor(&self, tenant: TenantId, tag: AuditTag) -> Actor {
        let account = self
            .core
            .upgrade()
            .and_then(|core| core.tenants.get(tenant).ok());
        let label = account.map(|account| account.label().as_str().into());
        Actor {
            tenant,
            label: label.unwrap_or_default(),
            tag,
        }
    }

    fn lsn(&self) -> Lsn {
        let core = self.core.upgrade();
        core.map(|core| core.store.0.watermark())
            .unwrap_or_default()
    }

    fn hand_over(&mut self, auditor: &Auditor) {
        if self.entries.is_empty() {
            return;
        }
        self.append(auditor);
        let failed = &auditor.failed;
        for sink in &self.sinks {
            let taken = catch_unwind(AssertUnwindSafe(|| sink.record(&self.entries)));
            let error = match taken {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked".to_owned(),
            };
            failed.fetch_add(self.entries.len() as u64, Ordering::Relaxed);
            let sink = catch_unwind(AssertUnwindSafe(|| sink.name().to_owned()));
            let sink = sink.unwrap_or_default();
            tracing::error!(sink, %error, "an audit sink did not take entries");
        }
        self.entries.clear();
    }

    /// Security events are durable, sums of refusals are not: whoever is refused often must not
    /// wear out what is kept of attempts.
    fn append(&mut self, auditor: &Auditor) {
        let Some(trail) = &mut self.trail else {
            return;
        };
        let security: Vec<AuditEntry> = self
            .entries
            .iter()
            .filter(|entry| match entry.event {
                AuditEvent::Denied(_)
                | AuditEvent::Suppressed { .. }
                | AuditEvent::Pruned { .. } => true,
                AuditEvent::Refused { .. } => false,
            })
            .cloned()
            .collect();
        if security.is_empty() {
            return;
        }
        match trail.append(&security) {
            Ok(head) => *auditor.head.lock() = Some(head),
            Err(error) => {
                let count = security.len() as u64;
                auditor.failed.fetch_add(count, Ordering::Relaxed);
                *auditor.head.lock() = None;
                tracing::error!(%error, "the audit trail is not written any more");
            }
        }
    }
}
