//! Meters: histograms that many threads record into at once.
//!
//! Each thread has a stripe of its own, as far as there are stripes: recording is two additions to
//! cache lines that no other thread is writing to, mostly.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use orlop_admission::Lane;
use orlop_saga::amount::BusyNanos;
use orlop_saga::histogram::Histogram;

const STRIPES: usize = 4;
/// What is measured as much as expected, in the unit of [`LaneMeter::estimates`].
const EXACT: u64 = 1000;

/// How work of one lane of a bulkhead went, since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneMeter {
    /// How long granted requests waited in the queue, in nanoseconds; 0 for those that did not.
    pub waits: Histogram,
    /// What attempts cost, in the unit of the bulkhead: nanoseconds.
    pub service: Histogram,
    /// What they cost over what they were expected to, in thousandths: 1000 is exact.
    pub estimates: Histogram,
}

/// How the work of a bulkhead went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkheadMeter {
    /// The bulkhead's name.
    pub name: Arc<str>,
    /// The lane of tenants' work.
    pub ordinary: LaneMeter,
    /// The lane of cancel, recovery and undo.
    pub reserved: LaneMeter,
}

/// What a bulkhead's work is recorded in.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    ordinary: LaneMeters,
    reserved: LaneMeters,
}

#[derive(Debug, Default)]
struct LaneMeters {
    waits: Meter,
    service: Meter,
    estimates: Meter,
}

impl Meters {
    const fn lane(&self, lane: Lane) -> &LaneMeters {
        match lane {
            Lane::Ordinary => &self.ordinary,
            Lane::Reserved => &self.reserved,
        }
    }

    /// A permit was granted after so long.
    pub(crate) fn waited(&self, lane: Lane, waited: Duration) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.lane(lane).waits.record(nanos);
    }

    /// An attempt is over.
    pub(crate) fn settled(&self, lane: Lane, cost: BusyNanos, estimate: BusyNanos) {
        let meters = self.lane(lane);
        meters.service.record(cost.get());
        let ratio = cost.get().saturating_mul(EXACT) / estimate.get().max(1);
        meters.estimates.record(ratio);
    }

    pub(crate) fn read(&self, name: Arc<str>) -> BulkheadMeter {
        BulkheadMeter {
            name,
            ordinary: self.ordinary.read(),
            reserved: self.reserved.read(),
        }
    }
}

impl LaneMeters {
    fn read(&self) -> LaneMeter {
        LaneMeter {
            waits: self.waits.read(),
            service: self.service.read(),
            estimates: self.estimates.read(),
        }
    }
}

#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    counts: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl Default for Stripe {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; Histogram::BUCKETS],
            sum: AtomicU64::new(0),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
struct Meter {
    stripes: Box<[Stripe; STRIPES]>,
}

impl Meter {
    fn record(&self, value: u64) {
        let Some(stripe) = self.stripes.get(stripe()) else {
            return;
        };
        if let Some(count) = stripe.counts.get(Histogram::bucket(value)) {
            count.fetch_add(1, Ordering::Relaxed);
            stripe.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Histogram {
        let mut read = Histogram::EMPTY;
        for stripe in self.stripes.iter() {
            for (bucket, count) in stripe.counts.iter().enumerate() {
                read.add(bucket, count.load(Ordering::Relaxed), 0);
            }
            read.add(0, 0, stripe.sum.load(Ordering::Relaxed));
        }
        read
    }
}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The stripe of this thread: dealt out in turn at its first use.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let known = STRIPE.get();
    if known < STRIPES {
        return known;
    }
    let dealt = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
    STRIPE.set(dealt);
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_record_is_all_there() {
        let meter = Meter::default();
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let meter = &meter;
                scope.spawn(move || (0..1000).for_each(|n| meter.record(thread * 1000 + n)));
            }
        });
        let read = meter.read();
        assert_eq!(read.count(), 8000);
        assert_eq!(read.sum(), (0..8000).sum::<u64>());
        let mut expected = Histogram::default();
        (0..8000).for_each(|value| expected.record(value));
        assert_eq!(read, expected);
    }

    #[test]
    fn an_estimate_is_measured_by_what_it_was_missed_by() {
        let meters = Meters::default();
        let nanos = BusyNanos::new;
        meters.settled(Lane::Ordinary, nanos(2_000), nanos(1_000));
        meters.settled(Lane::Reserved, nanos(500), nanos(1_000));
        meters.settled(Lane::Reserved, nanos(500), nanos(0));
        let read = meters.read("b".into());
        assert_eq!(
            (read.ordinary.service.sum(), read.ordinary.estimates.sum()),
            (2_000, 2_000)
        );
        assert_eq!(read.reserved.estimates.sum(), 500 + 500_000);
    }
}
