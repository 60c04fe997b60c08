//! Metrics: what a recorder is told, compared with what was done.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use orlop::{
    AuditTag, BusyNanos, Key, METRICS, MetricKind, MetricsPublisher, Options, Quotas, wait,
};
use tempfile::tempdir;

use crate::support::{Double, Listener, Two};

/// What a recorder has, by name and labels.
fn told(snapshotter: &Snapshotter) -> BTreeMap<String, DebugValue> {
    let told = snapshotter.snapshot().into_vec();
    told.into_iter()
        .map(|(key, _, _, value)| {
            let key = key.key();
            let labels = key.labels().map(|label| {
                let (key, value) = (label.key(), label.value());
                format!("{key}={value}")
            });
            let labels: Vec<_> = labels.collect();
            (format!("{}[{}]", key.name(), labels.join(",")), value)
        })
        .collect()
}

fn counter(count: u64) -> DebugValue {
    DebugValue::Counter(count)
}

fn gauge(value: f64) -> DebugValue {
    DebugValue::Gauge(value.into())
}

#[test]
fn a_recorder_is_told_what_was_done_since_the_last_time() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut publisher = MetricsPublisher::new();
    let mut publish = || metrics::with_local_recorder(&recorder, || publisher.publish(&two.engine));
    for n in 0..5_u64 {
        wait(two.alice.tenant().submit(Double, n)).unwrap();
    }
    let none = Quotas {
        slots_max: 0,
        ..Quotas::UNLIMITED
    };
    wait(two.mallory.set_quotas(none)).unwrap();
    wait(two.mallory.tenant().submit(Double, 1_u64)).unwrap_err();
    let _ticket = wait(two.alice.tenant().start::<Listener>(Key::named("k"), 1_u64)).unwrap();
    publish();
    let first = told(&snapshotter);
    let lane = "bulkhead=host-io,lane=ordinary";
    let at = |name: &str| &first[name];
    assert_eq!(*at(&format!("orlop_granted_total[{lane}]")), counter(5));
    assert_eq!(*at(&format!("orlop_settled_total[{lane}]")), counter(5));
    assert_eq!(*at(&format!("orlop_permits[{lane}]")), gauge(0.0));
    assert_eq!(*at(&format!("orlop_queue_depth[{lane}]")), gauge(0.0));
    let refused = |reason| format!("orlop_refused_total[{lane},reason={reason}]");
    assert_eq!(*at(&refused("never_fits")), counter(1));
    assert_eq!(*at(&refused("queue_full")), counter(0));
    assert_eq!(*at("orlop_sagas[status=running]"), gauge(1.0));
    assert_eq!(
        *at("orlop_saga_transitions_total[status=running]"),
        counter(1)
    );
    assert_eq!(*at("orlop_audit_refused_total[]"), counter(1));
    let snapshot = two.engine.snapshot();
    let values = |told: &BTreeMap<String, DebugValue>, name: &str| match told.get(name) {
        Some(DebugValue::Histogram(values)) => {
            values.iter().map(|value| value.into_inner()).collect()
        }
        Some(other) => panic!("{other:?}"),
        None => Vec::<f64>::new(),
    };
    let service = format!("orlop_service_seconds[{lane}]");
    let seconds = values(&first, &service);
    assert_eq!(seconds.len(), 5);
    let place = snapshot.meters.iter().find(|it| &*it.name == "host-io");
    let exact = place.unwrap().ordinary.service.sum();
    #[allow(clippy::cast_precision_loss)]
    let exact = exact as f64 / 1e9;
    let sum: f64 = seconds.iter().sum();
    assert!((sum - exact).abs() <= exact / 7.0, "{sum} for {exact}");
    assert_eq!(
        values(&first, &format!("orlop_estimate_ratio[{lane}]")).len(),
        5
    );
    assert!(!values(&first, "orlop_journal_sync_seconds[]").is_empty());
    // What was told is not told again.
    wait(two.alice.tenant().submit(Double, 100_u64)).unwrap();
    publish();
    let second = told(&snapshotter);
    assert_eq!(values(&second, &service).len(), 1);
    assert_eq!(second[&format!("orlop_granted_total[{lane}]")], counter(6));
    two.close();
}

#[test]
fn budgets_are_told_as_a_sum_and_each_by_itself_by_option() {
    let folder = tempdir().unwrap();
    let mut options = Options::default();
    options.budgets.enforced = true;
    let engine = orlop::Engine::builder(folder.path().join("store"))
        .options(options)
        .pure(Double, Double)
        .open_blocking()
        .unwrap();
    let alice = engine.blocking().tenant("alice").unwrap();
    let [north, south] = [1, 2].map(|engagement| AuditTag {
        organisation: 7,
        engagement,
    });
    for audit in [north, south] {
        let limit = BusyNanos::new(2_000_000_000);
        wait(engine.budgets().grant(audit, limit)).unwrap();
    }
    wait(alice.submit(Double, 1_u64).audit(north)).unwrap();
    let purses = engine.snapshot().budgets;
    assert_eq!(
        purses.iter().map(|it| it.audit).collect::<Vec<_>>(),
        [north, south]
    );
    assert!(purses[0].spent.get() > 0 && purses[0].drawn >= purses[0].spent);
    // A first chunk is drawn with the grant.
    assert_eq!(purses[1].spent.get(), 0);
    assert!(purses[1].drawn <= purses[1].limit);
    let publish = |mut publisher: MetricsPublisher| {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || publisher.publish(&engine));
        told(&recorder.snapshotter())
    };
    let sum = publish(MetricsPublisher::new());
    assert_eq!(sum["orlop_budget_limit_seconds[]"], gauge(4.0));
    #[allow(clippy::cast_precision_loss)]
    let seconds = |nanos: BusyNanos| gauge(nanos.get() as f64 / 1e9);
    assert_eq!(
        sum["orlop_budget_spent_seconds[]"],
        seconds(purses[0].spent)
    );
    let drawn = purses[0].drawn.saturating_add(purses[1].drawn);
    assert_eq!(sum["orlop_budget_drawn_seconds[]"], seconds(drawn));
    let each = publish(MetricsPublisher::new().by_engagement());
    let of =
        |engagement| format!("orlop_budget_spent_seconds[organisation=7,engagement={engagement}]");
    assert_eq!(each[&of(1)], seconds(purses[0].spent));
    assert_eq!(each[&of(2)], gauge(0.0));
    assert!(!each.contains_key("orlop_budget_spent_seconds[]"));
    engine.blocking().close().unwrap();
}

#[test]
fn tenants_are_labels_only_by_option_and_several_engines_are_told_apart() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    wait(two.alice.tenant().submit(Double, 1_u64)).unwrap();
    let publish = |mut publisher: MetricsPublisher| {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || publisher.publish(&two.engine));
        told(&recorder.snapshotter())
    };
    let plain = publish(MetricsPublisher::new());
    assert!(!plain.keys().any(|key| key.contains("alice")), "{plain:?}");
    let by_tenant = publish(MetricsPublisher::new().by_tenant().named("east"));
    let settled = &by_tenant["orlop_tenant_settled_total[engine=east,tenant=alice]"];
    assert_eq!(*settled, counter(1));
    assert!(by_tenant.keys().all(|key| key.contains("[engine=east")));
    two.close();
}

#[test]
fn every_metric_is_told_as_what_it_is_described_and_is_in_the_documents() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    wait(two.alice.tenant().submit(Double, 1_u64)).unwrap();
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        let tag = AuditTag::default();
        wait(two.engine.budgets().grant(tag, BusyNanos::new(1))).unwrap();
        MetricsPublisher::new()
            .by_tenant()
            .by_engagement()
            .publish(&two.engine);
    });
    let mut found = BTreeMap::new();
    for (key, unit, described, value) in recorder.snapshotter().snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(metrics::Label::key).collect();
        let kind = match value {
            DebugValue::Counter(_) => MetricKind::Counter,
            DebugValue::Gauge(_) => MetricKind::Gauge,
            DebugValue::Histogram(_) => MetricKind::Histogram,
        };
        let labels = labels.join(", ");
        let name = key.key().name().to_owned();
        found.insert(
            name,
            (kind, labels, unit, described.map(|text| text.to_string())),
        );
    }
    let page = include_str!("../../docs/operations.md");
    for metric in METRICS {
        let described = Some(metric.meaning.to_owned());
        let expected = (
            metric.kind,
            metric.labels.to_owned(),
            Some(metric.unit),
            described,
        );
        assert_eq!(found.remove(metric.name), Some(expected), "{}", metric.name);
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let row = page
            .lines()
            .find(|line| line.contains(&format!("`{}`", metric.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not documented", metric.name));
        assert!(row.contains(kind) && row.contains(metric.meaning), "{row}");
    }
    assert!(found.is_empty(), "not described: {found:?}");
    two.close();
}
