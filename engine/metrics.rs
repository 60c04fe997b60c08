//! Metrics: an engine's snapshots, told through the facade `metrics` to whatever recorder the
//! embedder has installed.
//!
//! Nothing is told where it happens: the engine counts for itself, and what has changed since the
//! last time is told when somebody publishes. So neither a recorder nor its absence costs a
//! submission anything.

mod list;

use std::sync::Arc;

use metrics::{Label, SharedString, counter, gauge, histogram};
use orlop_admission::{BulkheadSnapshot, LaneSnapshot, PurseSnapshot, Reason};
use orlop_saga::amount::BusyNanos;
use orlop_saga::histogram::Histogram;
use orlop_saga::saga::StatusKind;

pub use self::list::{METRICS, Metric, MetricKind};
use crate::engine::{Engine, EngineSnapshot};
use crate::meter::{BulkheadMeter, LaneMeter};

/// Tells an engine's metrics, whenever it is asked to: from the recorder's own collection, or
/// every few seconds.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let engine = orlop::Engine::builder(folder.path().join("store")).open_blocking()?;
/// let mut publisher = orlop::MetricsPublisher::new();
/// publisher.publish(&engine);
/// # engine.blocking().close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MetricsPublisher {
    told: Option<Box<EngineSnapshot>>,
    now: Option<Box<EngineSnapshot>>,
    by_tenant: bool,
    by_engagement: bool,
    name: Option<Arc<str>>,
}

impl MetricsPublisher {
    /// Tells nothing by tenant. Describes every metric to the recorder that is installed.
    pub fn new() -> Self {
        for Metric {
            name,
            kind,
            unit,
            meaning,
            ..
        } in METRICS
        {
            match kind {
                MetricKind::Counter => metrics::describe_counter!(name, unit, meaning),
                MetricKind::Gauge => metrics::describe_gauge!(name, unit, meaning),
                MetricKind::Histogram => metrics::describe_histogram!(name, unit, meaning),
            }
        }
        Self::default()
    }

    /// Tells what each tenant holds, too, labelled by its name: as many series as there are
    /// tenants.
    #[must_use]
    pub fn by_tenant(mut self) -> Self {
        self.by_tenant = true;
        self
    }

    /// Tells the budget of each engagement, and not their sum: as many series as there are.
    #[must_use]
    pub fn by_engagement(mut self) -> Self {
        self.by_engagement = true;
        self
    }

    /// Gives every metric the label `engine`, where a process has several.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Tells how the engine is, and of histograms what was added since the last time.
    pub fn publish(&mut self, engine: &Engine) {
        let now = match self.now.take() {
            Some(mut now) => {
                engine.snapshot_into(&mut now);
                now
            }
            None => Box::new(engine.snapshot()),
        };
        let told = self.told.as_deref();
        for (index, (bulkhead, meter)) in now.bulkheads.iter().zip(&now.meters).enumerate() {
            let before = told.and_then(|told| told.meters.get(index));
            self.bulkhead(bulkhead, meter, before);
        }
        self.sagas(&now);
        self.store(&now);
        self.budgets(&now);
        self.rest(&now);
        if self.by_tenant {
            self.tenants(engine, &now);
        }
        self.now = self.told.replace(now);
    }

    fn labels<const N: usize>(&self, labels: [(&'static str, SharedString); N]) -> Vec<Label> {
        let name = self.name.clone().map(|name| ("engine", name.into()));
        name.into_iter()
            .chain(labels)
            .map(|(key, value)| Label::new(key, value))
            .collect()
    }

    fn bulkhead(
        &self,
        now: &BulkheadSnapshot,
        meter: &BulkheadMeter,
        before: Option<&BulkheadMeter>,
    ) {
        let ordinary = before.map(|before| &before.ordinary);
        self.lane("ordinary", (now, &now.ordinary), &meter.ordinary, ordinary);
        let reserved = before.map(|before| &before.reserved);
        self.lane("reserved", (now, &now.reserved), &meter.reserved, reserved);
    }

    fn lane(
        &self,
        lane: &'static str,
        (bulkhead, now): (&BulkheadSnapshot, &LaneSnapshot),
        meter: &LaneMeter,
        before: Option<&LaneMeter>,
    ) {
        let name = || SharedString::from(Arc::clone(&bulkhead.name));
        let labels = || self.labels([("bulkhead", name()), ("lane", lane.into())]);
        gauge!("orlop_permits", labels()).set(float(now.in_flight));
        gauge!("orlop_slots", labels()).set(float(now.slots));
        gauge!("orlop_slots_max", labels()).set(float(now.slots_max));
        gauge!("orlop_queue_depth", labels()).set(float(now.queued));
        counter!("orlop_granted_total", labels()).absolute(now.granted);
        counter!("orlop_settled_total", labels()).absolute(now.settled);
        counter!("orlop_unsettled_total", labels()).absolute(now.unsettled);
        counter!("orlop_withdrawn_total", labels()).absolute(now.withdrawn);
        for reason in Reason::ALL {
            let labels = self.labels([
                ("bulkhead", name()),
                ("lane", lane.into()),
                ("reason", reason.name().into()),
            ]);
            counter!("orlop_refused_total", labels).absolute(now.refused.of(reason));
        }
        let told = histogram!("orlop_wait_seconds", labels());
        told_since(&told, &meter.waits, before.map(|it| &it.waits), NANOS);
        let told = histogram!("orlop_service_seconds", labels());
        told_since(&told, &meter.service, before.map(|it| &it.service), NANOS);
        let told = histogram!("orlop_estimate_ratio", labels());
        told_since(
            &told,
            &meter.estimates,
            before.map(|it| &it.estimates),
            THOUSANDTHS,
        );
    }

    fn budgets(&self, now: &EngineSnapshot) {
        if !self.by_engagement {
            let sum = |of: fn(&PurseSnapshot) -> BusyNanos| {
                let amounts = now.budgets.iter().map(of);
                amounts.fold(BusyNanos::default(), BusyNanos::saturating_add)
            };
            let amounts = [
                sum(|it| it.limit),
                sum(|it| it.drawn),
                sum(|it| it.spent),
                sum(|it| it.reserved),
                sum(|it| it.debt),
            ];
            budget(&self.labels([]), amounts);
            return;
        }
        for purse in &now.budgets {
            let labels = self.labels([
                ("organisation", purse.audit.organisation.to_string().into()),
                ("engagement", purse.audit.engagement.to_string().into()),
            ]);
            let amounts = [
                purse.limit,
                purse.drawn,
                purse.spent,
                purse.reserved,
                purse.debt,
            ];
            budget(&labels, amounts);
        }
    }

    fn sagas(&self, now: &EngineSnapshot) {
        for status in StatusKind::ALL {
            let labels = || self.labels([("status", status.name().into())]);
            let entered = now.saga_counts.entered(status);
            gauge!("orlop_sagas", labels()).set(float(now.saga_counts.now(status)));
            counter!("orlop_saga_transitions_total", labels()).absolute(entered);
        }
        let resident = now.sagas_resident as u64;
        gauge!("orlop_sagas_resident", self.labels([])).set(float(resident));
    }

    fn store(&self, now: &EngineSnapshot) {
        let (store, journal) = (&now.store, &now.store.journal);
        let labels = || self.labels([]);
        let told = histogram!("orlop_journal_sync_seconds", labels());
        let before = self.told.as_ref();
        let before = before.map(|before| &before.store.journal.syncs);
        told_since(&told, &journal.syncs, before, NANOS);
        gauge!("orlop_journal_lsn", labels()).set(float(store.watermark.get()));
        counter!("orlop_journal_batches_total", labels()).absolute(journal.batches);
        counter!("orlop_journal_groups_total", labels()).absolute(journal.groups);
        counter!("orlop_journal_bytes_total", labels()).absolute(journal.bytes);
        gauge!("orlop_tables_lsn", labels()).set(float(store.projected.get()));
        gauge!("orlop_tables_backlog_bytes", labels()).set(float(store.backlog_bytes));
        gauge!("orlop_retained_keys", labels()).set(float(store.retained_keys));
    }

    fn rest(&self, now: &EngineSnapshot) {
        let labels = || self.labels([]);
        let (device, audit) = (&now.device, &now.audit);
        gauge!("orlop_effects", labels()).set(float(now.effects as u64));
        gauge!("orlop_device_outstanding", labels()).set(float(device.outstanding));
        counter!("orlop_device_published_total", labels()).absolute(device.published);
        counter!("orlop_audit_denied_total", labels()).absolute(audit.denied);
        counter!("orlop_audit_suppressed_total", labels()).absolute(audit.suppressed);
        counter!("orlop_audit_refused_total", labels()).absolute(audit.refused);
        counter!("orlop_audit_failed_total", labels()).absolute(audit.failed);
        let drains = &now.drains;
        counter!("orlop_drains_total", labels()).absolute(drains.calls);
        counter!("orlop_drain_timeouts_total", labels()).absolute(drains.timeouts);
        gauge!("orlop_drain_wait_seconds", labels()).set(drains.waited.as_secs_f64());
    }

    fn tenants(&self, engine: &Engine, now: &EngineSnapshot) {
        for tenant in &now.tenants {
            let account = engine.core.tenants.get(tenant.id);
            // A life that ended has given its name away.
            let name = account.map_or_else(
                |_| tenant.id.to_string(),
                |account| account.label().to_string(),
            );
            let labels = || self.labels([("tenant", name.clone().into())]);
            let permits = tenant.ordinary.in_flight + tenant.reserved.in_flight;
            let queued = tenant.ordinary.queued + tenant.reserved.queued;
            gauge!("orlop_tenant_permits", labels()).set(float(permits));
            gauge!("orlop_tenant_queued", labels()).set(float(queued));
            counter!("orlop_tenant_settled_total", labels()).absolute(tenant.settled);
            let busy = float(tenant.busy.get()) / NANOS;
            gauge!("orlop_tenant_busy_seconds", labels()).set(busy);
        }
    }
}

fn budget(labels: &[Label], amounts: [BusyNanos; 5]) {
    let [limit, drawn, spent, reserved, debt] = amounts.map(|amount| float(amount.get()) / NANOS);
    gauge!("orlop_budget_limit_seconds", labels.to_vec()).set(limit);
    gauge!("orlop_budget_drawn_seconds", labels.to_vec()).set(drawn);
    gauge!("orlop_budget_spent_seconds", labels.to_vec()).set(spent);
    gauge!("orlop_budget_reserved_seconds", labels.to_vec()).set(reserved);
    gauge!("orlop_budget_debt_seconds", labels.to_vec()).set(debt);
}

/// How many of what a histogram has are one of what is told.
const NANOS: f64 = 1e9;
const THOUSANDTHS: f64 = 1e3;

/// Tells what was added to a histogram.
fn told_since(told: &metrics::Histogram, now: &Histogram, before: Option<&Histogram>, scale: f64) {
    for (bucket, count) in now.counts().iter().enumerate() {
        let before = before.and_then(|before| before.counts().get(bucket));
        let added = count.saturating_sub(before.copied().unwrap_or_default());
        if added > 0 {
            let value = float(Histogram::middle(bucket)) / scale;
            told.record_many(value, usize::try_from(added).unwrap_or(usize::MAX));
        }
    }
}

/// Recorders take floats: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(value: u64) -> f64 {
    value as f64
}
