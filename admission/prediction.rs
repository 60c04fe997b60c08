//! Prediction: whether what is asked for now can be done in time, and how much may be out at once.
//!
//! What goes ahead is known by its sums, so a refusal costs the same however much waits. Only
//! measured costs count: nobody is refused for a guess. What runs already is not counted, so the
//! prediction is never too late for what an idle moment would serve; what it lets pass wrongly is
//! dropped at its turn.

use std::time::Duration;

use orlop_saga::amount::BusyNanos;
use orlop_saga::time::Monotonic;

use crate::bulkhead::Core;
use crate::estimate::Kind;
use crate::options::BulkheadOptions;
use crate::queue::Ahead;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::state::State;

/// The refusal of work that would be done `nanos` after `now`, if that is after its deadline.
pub(crate) fn late(deadline: Monotonic, now: Monotonic, nanos: u64) -> Option<Refusal> {
    let done = now.get().saturating_add(nanos);
    let excess = done.checked_sub(deadline.get()).filter(|late| *late > 0)?;
    Some(Refusal::PredictedLate {
        retry_after: Duration::from_nanos(excess),
    })
}

/// The permits that are out, by what they were estimated to cost.
///
/// Which of them were begun is not known: neither a host worker nor a kernel tells when it claims
/// an entry, only when it has completed it. So all of them are counted, and one more than there
/// are workers is always let out, so that none of these has to wait for a grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    cost: u64,
    cost_max: u64,
    workers: u64,
}

impl Published {
    pub(crate) fn new(options: &BulkheadOptions, slots_max: u32) -> Self {
        let workers = match options.workers {
            0 => slots_max,
            workers => workers.min(slots_max),
        };
        Self {
            cost_max: options.published_cost_max.map_or(u64::MAX, BusyNanos::get),
            ..Self::unbounded(workers)
        }
    }

    pub(crate) fn unbounded(workers: u32) -> Self {
        Self {
            cost: 0,
            cost_max: u64::MAX,
            workers: u64::from(workers),
        }
    }

    /// Whether one more may be out beside `permits`.
    pub(crate) const fn has_room(&self, permits: u64) -> bool {
        self.cost < self.cost_max || permits <= self.workers
    }

    pub(crate) const fn add(&mut self, cost: BusyNanos) {
        self.cost = self.cost.saturating_add(cost.get());
    }

    pub(crate) const fn take(&mut self, cost: BusyNanos) {
        self.cost = self.cost.saturating_sub(cost.get());
    }

    /// Counts anew.
    pub(crate) const fn forget(&mut self) {
        self.cost = 0;
    }

    /// How long it takes to carry out what goes ahead, in nanoseconds, if a tenant may occupy
    /// `slots_per_tenant_max` slots.
    pub(crate) fn wait(&self, ahead: Ahead, slots_per_tenant_max: u64) -> u64 {
        let alone = self.workers.min(slots_per_tenant_max).max(1);
        (ahead.all / self.workers.max(1)).max(ahead.own / alone)
    }
}

impl State {
    /// Work that is refused for what it alone is known to cost is believed to cost a little less.
    pub(crate) fn doubt(core: &Core, request: &Request<'_>, refusal: &Refusal) {
        let (Refusal::PredictedLate { .. }, Some(deadline)) = (refusal, request.deadline) else {
            return;
        };
        let kind = Kind::new(request.computation, request.lane, request.size);
        let known = core.estimates.known(kind).unwrap_or_default();
        let now = core.clock.monotonic();
        if late(deadline, now, known.get()).is_some() {
            core.estimates.doubt(kind, now);
        }
    }
}
