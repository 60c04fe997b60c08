//! The list: every metric, with its kind, unit, labels and meaning.

use metrics::Unit;

/// What a metric counts up, shows or distributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Counts up since the engine was opened.
    Counter,
    /// Is as it is now.
    Gauge,
    /// Distributes values, each told within an eighth of itself.
    Histogram,
}

/// One metric: its name, kind, unit, labels and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub kind: MetricKind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels, separated by commas.
    pub labels: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn metric(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: &'static str,
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        meaning,
    }
}

use MetricKind::{Counter, Gauge};
const LANE: &str = "bulkhead, lane";
/// A sum over all engagements without them.
const PAYER: &str = "organisation, engagement";

/// Every metric there is.
pub const METRICS: [Metric; 42] = [
    metric("orlop_permits", Gauge, Unit::Count, LANE, "permits out"),
    metric("orlop_slots", Gauge, Unit::Count, LANE, "slots occupied"),
    metric(
        "orlop_slots_max",
        Gauge,
        Unit::Count,
        LANE,
        "slots there are",
    ),
    metric(
        "orlop_queue_depth",
        Gauge,
        Unit::Count,
        LANE,
        "requests that wait",
    ),
    metric(
        "orlop_granted_total",
        Counter,
        Unit::Count,
        LANE,
        "permits granted",
    ),
    metric(
        "orlop_settled_total",
        Counter,
        Unit::Count,
        LANE,
        "permits given back with a cost",
    ),
    metric(
        "orlop_unsettled_total",
        Counter,
        Unit::Count,
        LANE,
        "permits given back without one",
    ),
    metric(
        "orlop_withdrawn_total",
        Counter,
        Unit::Count,
        LANE,
        "requests withdrawn while queued",
    ),
    metric(
        "orlop_refused_total",
        Counter,
        Unit::Count,
        "bulkhead, lane, reason",
        "requests refused, at once or after waiting",
    ),
    metric(
        "orlop_wait_seconds",
        MetricKind::Histogram,
        Unit::Seconds,
        LANE,
        "how long granted requests waited in the queue",
    ),
    metric(
        "orlop_service_seconds",
        MetricKind::Histogram,
        Unit::Seconds,
        LANE,
        "what attempts cost",
    ),
    metric(
        "orlop_estimate_ratio",
        MetricKind::Histogram,
        Unit::Count,
        LANE,
        "what attempts cost over what they were expected to; 1 is exact",
    ),
    metric(
        "orlop_budget_limit_seconds",
        Gauge,
        Unit::Seconds,
        PAYER,
        "what may be spent in all",
    ),
    metric(
        "orlop_budget_drawn_seconds",
        Gauge,
        Unit::Seconds,
        PAYER,
        "what was drawn durably",
    ),
    metric(
        "orlop_budget_spent_seconds",
        Gauge,
        Unit::Seconds,
        PAYER,
        "what was spent",
    ),
    metric(
        "orlop_budget_reserved_seconds",
        Gauge,
        Unit::Seconds,
        PAYER,
        "what work in hand is expected to cost",
    ),
    metric(
        "orlop_budget_debt_seconds",
        Gauge,
        Unit::Seconds,
        PAYER,
        "what was spent beyond the limit",
    ),
    metric("orlop_effects", Gauge, Unit::Count, "", "keys in flight"),
    metric(
        "orlop_sagas",
        Gauge,
        Unit::Count,
        "status",
        "unfinished sagas",
    ),
    metric(
        "orlop_sagas_resident",
        Gauge,
        Unit::Count,
        "",
        "sagas with their functions in memory",
    ),
    metric(
        "orlop_saga_transitions_total",
        Counter,
        Unit::Count,
        "status",
        "sagas that came into a status, durably",
    ),
    metric(
        "orlop_journal_sync_seconds",
        MetricKind::Histogram,
        Unit::Seconds,
        "",
        "writing and syncing one group of batches",
    ),
    metric(
        "orlop_journal_lsn",
        Gauge,
        Unit::Count,
        "",
        "everything up to here is durable",
    ),
    metric(
        "orlop_journal_batches_total",
        Counter,
        Unit::Count,
        "",
        "durable batches",
    ),
    metric(
        "orlop_journal_groups_total",
        Counter,
        Unit::Count,
        "",
        "groups written, one sync each",
    ),
    metric(
        "orlop_journal_bytes_total",
        Counter,
        Unit::Bytes,
        "",
        "bytes of these groups",
    ),
    metric(
        "orlop_tables_lsn",
        Gauge,
        Unit::Count,
        "",
        "everything up to here is in the tables",
    ),
    metric(
        "orlop_tables_backlog_bytes",
        Gauge,
        Unit::Bytes,
        "",
        "records that wait for the tables",
    ),
    metric(
        "orlop_retained_keys",
        Gauge,
        Unit::Count,
        "",
        "keys with an outcome that is kept",
    ),
    metric(
        "orlop_device_outstanding",
        Gauge,
        Unit::Count,
        "",
        "operations on the device",
    ),
    metric(
        "orlop_device_published_total",
        Counter,
        Unit::Count,
        "",
        "operations accepted",
    ),
    metric(
        "orlop_audit_denied_total",
        Counter,
        Unit::Count,
        "",
        "cross-tenant attempts",
    ),
    metric(
        "orlop_audit_suppressed_total",
        Counter,
        Unit::Count,
        "",
        "of these only counted",
    ),
    metric(
        "orlop_audit_refused_total",
        Counter,
        Unit::Count,
        "",
        "refusals of tenants' work",
    ),
    metric(
        "orlop_audit_failed_total",
        Counter,
        Unit::Count,
        "",
        "entries that a sink did not take",
    ),
    metric(
        "orlop_drains_total",
        Counter,
        Unit::Count,
        "",
        "drains of tenants that have returned",
    ),
    metric(
        "orlop_drain_timeouts_total",
        Counter,
        Unit::Count,
        "",
        "of these out of time",
    ),
    metric(
        "orlop_drain_wait_seconds",
        Gauge,
        Unit::Seconds,
        "",
        "how long all of them waited together",
    ),
    metric(
        "orlop_tenant_permits",
        Gauge,
        Unit::Count,
        "tenant",
        "permits out; by option",
    ),
    metric(
        "orlop_tenant_queued",
        Gauge,
        Unit::Count,
        "tenant",
        "requests that wait; by option",
    ),
    metric(
        "orlop_tenant_settled_total",
        Counter,
        Unit::Count,
        "tenant",
        "permits given back with a cost; by option",
    ),
    metric(
        "orlop_tenant_busy_seconds",
        Gauge,
        Unit::Seconds,
        "tenant",
        "the sum of these costs; by option",
    ),
];
