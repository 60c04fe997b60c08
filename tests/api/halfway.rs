//! Limits warn at half, once per crossing and not per call.

use std::sync::{Arc, Mutex};

use orlop::{Limits, Options, wait};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{Double, World};

/// Remembers which limits were warned of, in order.
#[derive(Clone, Default)]
struct Warned(Arc<Mutex<Vec<String>>>);

struct Limit(Option<String>);

impl Visit for Limit {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "limit" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for Warned {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut limit = Limit(None);
        event.record(&mut limit);
        self.0.lock().unwrap().extend(limit.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn half_of_a_limit_is_warned_of_once_and_not_at_every_call() {
    let world = World::new();
    let limits = Limits {
        batch_items_max: 8,
        tenants_max: 4,
        effects_max: 8,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let engine = world.builder().options(options).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let warned = Warned::default();
    let batch = |items: u64| {
        // On this thread a batch is entered; what its work warns of elsewhere is not seen.
        tracing::subscriber::with_default(warned.clone(), || {
            wait(tenant.submit_batch(Double, 0..items)).unwrap();
        });
        while engine.snapshot().effects > 0 {
            std::thread::yield_now();
        }
        std::mem::take(&mut *warned.0.lock().unwrap())
    };
    assert_eq!(batch(2), Vec::<String>::new());
    // How many of a batch are unfinished at once is the scheduler's: at most one crossing.
    let size = "limits.batch_items_max";
    let first = batch(5);
    assert_eq!(first.first().map(String::as_str), Some(size));
    assert!(first.len() <= 2, "{first:?}");
    let again = batch(5);
    assert!(again.iter().all(|limit| limit != size), "{again:?}");
    assert!(again.len() <= 1, "{again:?}");
    let more = batch(7);
    assert_eq!(
        more.first().map(String::as_str),
        Some("limits.batch_items_max")
    );
    engine.blocking().close().unwrap();
}
