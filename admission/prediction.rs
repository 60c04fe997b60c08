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
    /// How much more may be out; 0 and below, nothing but what workers wait for. `None`: the slots
    /// are the bound.
    room: Option<i64>,
    workers: u64,
}

/// No amount is larger, so that sums of a few do not overflow.
const COST_MAX: u64 = 1 << 60;

fn signed(cost: u64) -> i64 {
    cost.min(COST_MAX).cast_signed()
}

/// What a permit of this estimate counts as: also what is expected to cost nothing is something.
fn counted(estimate: BusyNanos) -> u64 {
    estimate.get().clamp(1, COST_MAX)
}

impl Published {
    pub(crate) fn new(options: &BulkheadOptions, slots_max: u32) -> Self {
        let workers = match options.workers {
            0 => slots_max,
            workers => workers.min(slots_max),
        };
        Self {
            room: options.published_cost_max.map(|_| 0),
            ..Self::unbounded(workers)
        }
    }

    pub(crate) fn unbounded(workers: u32) -> Self {
        Self {
            room: None,
            workers: u64::from(workers),
        }
    }

    /// Whether one more may be out beside `permits`.
    pub(crate) const fn has_room(&self, permits: u64) -> bool {
        match self.room {
            Some(room) => room > 0 || permits <= self.workers,
            None => true,
        }
    }

    /// What a bulkhead of these options has to give out, in all.
    pub(crate) fn whole(options: &BulkheadOptions) -> u64 {
        let cost_max = options.published_cost_max;
        cost_max.map_or(0, |cost| cost.get().min(COST_MAX))
    }

    /// What a permit of this estimate takes of it.
    pub(crate) fn part(&self, cost: BusyNanos) -> u64 {
        match self.room {
            Some(_) => counted(cost),
            None => 0,
        }
    }

    /// A permit of this estimate is out.
    pub(crate) fn add(&mut self, cost: BusyNanos) {
        self.room = self
            .room
            .map(|room| room.saturating_sub(signed(counted(cost))));
    }

    /// A permit of this estimate came back.
    pub(crate) fn take(&mut self, cost: BusyNanos) {
        self.give(counted(cost));
    }

    /// `room` came back from where it lay.
    pub(crate) fn give(&mut self, room: u64) {
        self.room = self.room.map(|own| own.saturating_add(signed(room)));
    }

    /// How much more may be out, where it is bounded.
    #[cfg(test)]
    pub(crate) fn room(&self) -> Option<i64> {
        self.room
    }

    /// Whether more is out than may be, for workers that would have had to wait.
    pub(crate) const fn is_exceeded(&self) -> bool {
        match self.room {
            Some(room) => room < 0,
            None => false,
        }
    }

    /// Gives away all room that there is.
    pub(crate) fn give_away(&mut self) -> u64 {
        let room = self.room.as_mut().map(std::mem::take);
        room.map_or(0, |room| u64::try_from(room).unwrap_or(0))
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
