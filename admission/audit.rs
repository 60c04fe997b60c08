//! Audit sinks: who is told of cross-tenant attempts and of refusals.
//!
//! The sinks here keep in memory and tell `tracing`; the durable one is the store's trail.

use std::collections::VecDeque;
use std::sync::Arc;

use orlop_saga::audit::{Actor, AuditEntry, AuditEvent};
use parking_lot::Mutex;

/// Where audit entries go. An embedder may bring its own.
pub trait AuditSink: Send + Sync + 'static {
    /// Its name in logs.
    fn name(&self) -> &str;

    /// Takes entries, in their order. Called on a thread of the engine that does nothing else, so
    /// that it may block: what it delays is other sinks, and never a tenant's call.
    ///
    /// # Errors
    /// [`SinkError`]: the entries count as not taken. They are not given again, and the work they
    /// tell of goes on.
    fn record(&self, entries: &[AuditEntry]) -> Result<(), SinkError>;
}

/// Why a sink did not take entries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// Keeps the newest entries in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct MemorySink {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    entries: VecDeque<AuditEntry>,
    capacity: usize,
    dropped: u64,
}

impl MemorySink {
    /// Keeps up to `capacity` entries; with 0 it only counts.
    pub fn new(capacity: usize) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring {
                entries: VecDeque::new(),
                capacity,
                dropped: 0,
            })),
        }
    }

    /// What is kept, oldest first.
    pub fn entries(&self) -> Vec<AuditEntry> {
        self.ring.lock().entries.iter().cloned().collect()
    }

    /// How many entries made way for newer ones, exactly.
    pub fn dropped(&self) -> u64 {
        self.ring.lock().dropped
    }

    /// Forgets everything, the count included.
    pub fn clear(&self) {
        let mut ring = self.ring.lock();
        ring.entries.clear();
        ring.dropped = 0;
    }
}

impl AuditSink for MemorySink {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn record(&self, entries: &[AuditEntry]) -> Result<(), SinkError> {
        let mut ring = self.ring.lock();
        for entry in entries {
            ring.entries.push_back(entry.clone());
            if ring.entries.len() > ring.capacity {
                ring.entries.pop_front();
                ring.dropped = ring.dropped.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// Tells `tracing` under the target `orlop::audit`: attempts as warnings, refusals as information.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl AuditSink for TracingSink {
    fn name(&self) -> &'static str {
        "tracing"
    }

    fn record(&self, entries: &[AuditEntry]) -> Result<(), SinkError> {
        entries.iter().for_each(tell);
        Ok(())
    }
}

fn tell(entry: &AuditEntry) {
    let at = entry.at.get();
    match &entry.event {
        AuditEvent::Denied(denial) => {
            let Actor { tenant, label, tag } = &denial.who;
            let owner = denial.owner.map(|owner| owner.to_string());
            tracing::warn!(
                target: "orlop::audit",
                %tenant,
                label = %label,
                organisation = tag.organisation,
                engagement = tag.engagement,
                operation = %denial.operation,
                object = %denial.object,
                owner,
                at,
                "a cross-tenant attempt was denied"
            );
        }
        AuditEvent::Suppressed { who, count, since } => {
            let (tenant, label, since) = (who.tenant, &who.label, since.get());
            tracing::warn!(
                target: "orlop::audit",
                %tenant, label = %label, count, since, at, "more cross-tenant attempts were denied"
            );
        }
        AuditEvent::Refused {
            who,
            reason,
            count,
            since,
        } => {
            let (tenant, label, since) = (who.tenant, &who.label, since.get());
            tracing::info!(
                target: "orlop::audit",
                %tenant, label = %label, reason = %reason, count, since, at, "work was refused"
            );
        }
        AuditEvent::Pruned { through } => {
            tracing::info!(target: "orlop::audit", %through, at, "the audit trail was pruned");
        }
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::audit::ChainHead;
    use orlop_saga::id::{Lsn, StoreId};
    use orlop_saga::time::WallMillis;

    use super::*;

    fn entry(at: u64) -> AuditEntry {
        let through = ChainHead::genesis(StoreId::new([0; 16]));
        AuditEntry {
            at: WallMillis::new(at),
            lsn: Lsn::default(),
            event: AuditEvent::Pruned { through },
        }
    }

    #[test]
    fn a_memory_sink_keeps_the_newest_and_counts_every_one_that_made_way() {
        let sink = MemorySink::new(2);
        for at in 0..5 {
            sink.record(&[entry(at)]).unwrap();
        }
        assert_eq!(sink.entries(), [entry(3), entry(4)]);
        assert_eq!(sink.dropped(), 3);
        let counting = MemorySink::new(0);
        counting.record(&[entry(0), entry(1)]).unwrap();
        assert_eq!((counting.entries().len(), counting.dropped()), (0, 2));
    }
}
