//! Audit: cross-tenant attempts told one by one, refusals by their counts.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | what is told, from wherever it happens |
//! | `clerk` | the thread that hands it to the sinks |
//! | `tally` | the counts of one tenant in one interval |
//!
//! Invariants
//! - Whoever tells something waits for nothing: no lock of a sink, no disk, no queue.
//! - Every attempt and every refusal is counted once, told one by one or in a sum.
//! - A sink that fails, blocks or panics changes nothing but counts of its own.

mod clerk;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use dashmap::DashMap;
use orlop_admission::{AuditSink, Refusal};
use orlop_saga::audit::{ChainHead, Object, Operation};
use orlop_saga::id::TenantId;
use orlop_saga::tenant::AuditTag;
use orlop_saga::time::{Clock, WallMillis};
use orlop_store::audit::Trail;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::clerk::Clerk;
use self::tally::Tally;
use crate::core::Core;
use crate::options::AuditOptions;

/// What the audit has counted since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditCounts {
    /// Cross-tenant attempts; all were denied.
    pub denied: u64,
    /// How many of them were only counted, being more than are told one by one.
    pub suppressed: u64,
    /// Calls with an unknown key or buffer that were not looked into, being too many.
    pub unexamined: u64,
    /// Refusals by admission.
    pub refused: u64,
    /// Entries that a sink did not take; for each sink that did not.
    pub failed: u64,
    /// Whether the durable trail is written: not if it is switched off, damaged or failed.
    pub durable: bool,
}

/// What a clerk is given to do.
enum Order {
    /// To tell of an attempt.
    Denied(Attempt),
    /// To find out whether what a tenant asked for in vain is another one's.
    Suspect(Attempt),
    /// To close an interval some time from now.
    Wake,
    /// To tell everything that was counted, and say so.
    Flush(oneshot::Sender<()>),
    /// The same, and to end.
    Stop(Sender<()>),
}

/// Somebody tried something.
#[derive(Clone, Copy)]
struct Attempt {
    at: WallMillis,
    tenant: TenantId,
    tag: AuditTag,
    operation: Operation,
    object: Object,
    owner: Option<TenantId>,
}

/// See the module.
pub(crate) struct Auditor {
    clock: Arc<dyn Clock>,
    options: AuditOptions,
    tallies: DashMap<TenantId, Tally>,
    inbox: Sender<Order>,
    outlet: Mutex<Option<Receiver<Order>>>,
    /// Whether the clerk knows that something was counted.
    awake: AtomicBool,
    denied: AtomicU64,
    suppressed: AtomicU64,
    unexamined: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    head: Mutex<Option<ChainHead>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Auditor {
    /// An auditor whose thread is started later, once the core exists.
    pub(crate) fn new(options: AuditOptions, clock: Arc<dyn Clock>) -> Self {
        let (inbox, outlet) = unbounded();
        Self {
            clock,
            options,
            tallies: DashMap::new(),
            inbox,
            outlet: Mutex::new(Some(outlet)),
            awake: AtomicBool::new(false),
            denied: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            unexamined: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            head: Mutex::new(None),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread; a second call does nothing.
    pub(crate) fn start(
        self: &Arc<Self>,
        core: &Arc<Core>,
        sinks: Vec<Box<dyn AuditSink>>,
    ) -> std::io::Result<()> {
        let Some(outlet) = self.outlet.lock().take() else {
            return Ok(());
        };
        let trail = self.open_trail(core);
        *self.head.lock() = trail.as_ref().map(Trail::head);
        let clerk = Clerk::new(self, Arc::downgrade(core), sinks, trail);
        let thread = std::thread::Builder::new()
            .name("orlop-audit".to_owned())
            .spawn(move || clerk.work(&outlet))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    fn open_trail(&self, core: &Core) -> Option<Trail> {
        if !self.options.durable {
            return None;
        }
        let opened = core.store.0.open_trail(self.options.trail);
        opened
            .inspect_err(|error| {
                tracing::error!(%error, "the audit trail cannot be written");
            })
            .ok()
    }

    /// A tenant was denied what is another's.
    pub(crate) fn denied(
        &self,
        tenant: TenantId,
        tag: AuditTag,
        operation: Operation,
        object: Object,
        owner: Option<TenantId>,
    ) {
        if self.count_denied(tenant) {
            let attempt = self.attempt(tenant, tag, operation, object, owner);
            // Once the clerk has ended nobody is told any more.
            let _ = self.inbox.send(Order::Denied(attempt));
        }
        self.wake();
    }

    /// Counts an attempt; says whether it is told by itself.
    fn count_denied(&self, tenant: TenantId) -> bool {
        self.denied.fetch_add(1, Ordering::Relaxed);
        let told = self.with_tally(tenant, |tally| {
            let told = self.has_room() && tally.tell(self.options.denials_per_tenant_max);
            if !told {
                tally.suppress();
            }
            told
        });
        if !told {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// A tenant asked for something that it does not have: perhaps another one does.
    pub(crate) fn suspect(&self, tenant: TenantId, operation: Operation, object: Object) {
        let bound = self.options.denials_per_tenant_max;
        if self.has_room() && self.with_tally(tenant, |tally| tally.examine(bound)) {
            let attempt = self.attempt(tenant, AuditTag::default(), operation, object, None);
            let _ = self.inbox.send(Order::Suspect(attempt));
        } else {
            self.unexamined.fetch_add(1, Ordering::Relaxed);
        }
        self.wake();
    }

    /// A tenant's work was refused.
    pub(crate) fn refused(&self, tenant: TenantId, refusal: &Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.with_tally(tenant, |tally| tally.refuse(refusal.reason()));
        if let Refusal::EngagementNotAllowed { audit, .. } = refusal {
            // It would have spent what is another's.
            let object = Object::Engagement(*audit);
            self.denied(tenant, *audit, Operation::Run, object, None);
        }
        self.wake();
    }

    fn attempt(
        &self,
        tenant: TenantId,
        tag: AuditTag,
        operation: Operation,
        object: Object,
        owner: Option<TenantId>,
    ) -> Attempt {
        let at = self.clock.wall();
        Attempt {
            at,
            tenant,
            tag,
            operation,
            object,
            owner,
        }
    }

    fn has_room(&self) -> bool {
        self.inbox.len() < self.options.queue_max
    }

    fn with_tally<T>(&self, tenant: TenantId, count: impl FnOnce(&Tally) -> T) -> T {
        if let Some(tally) = self.tallies.get(&tenant) {
            return count(&tally);
        }
        count(&self.tallies.entry(tenant).or_default().downgrade())
    }

    /// Has the clerk close an interval, if it does not know yet that there is something to tell.
    ///
    /// Called after counting. If the clerk took the counts before, that count acquired what it
    /// released, and is followed by a look at a flag that is down.
    fn wake(&self) {
        if !self.awake.load(Ordering::Relaxed) && !self.awake.swap(true, Ordering::AcqRel) {
            let _ = self.inbox.send(Order::Wake);
        }
    }

    /// Hands everything that was told or counted before to the sinks.
    pub(crate) async fn flush(&self) {
        let (tell, told) = oneshot::channel();
        if self.inbox.send(Order::Flush(tell)).is_ok() {
            let _ = told.await;
        }
    }

    /// Hands everything over and ends the thread; waits for it at most until `deadline`.
    pub(crate) fn stop(&self, deadline: Instant) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let (tell, told) = bounded(1);
        let _ = self.inbox.send(Order::Stop(tell));
        let wait = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_secs(1));
        // Gone already, it closed the channel without a word.
        let late = matches!(
            told.recv_timeout(wait),
            Err(crossbeam_channel::RecvTimeoutError::Timeout)
        );
        if late {
            tracing::error!("an audit sink does not end");
        } else if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }

    /// What was counted.
    pub(crate) fn counts(&self) -> AuditCounts {
        AuditCounts {
            denied: self.denied.load(Ordering::Relaxed),
            suppressed: self.suppressed.load(Ordering::Relaxed),
            unexamined: self.unexamined.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            durable: self.head().is_some(),
        }
    }

    /// The end of the durable trail; `None` if none is written.
    pub(crate) fn head(&self) -> Option<ChainHead> {
        *self.head.lock()
    }
}
