//! Waiting: how work gets its permit, and where what was accepted waits until it does.
//!
//! What a caller awaits is refused for whatever it is refused for. What was accepted, and the
//! attempts of sagas, wait in the waiting room in front of the bulkhead instead: a refusal that
//! passes costs them no attempt, no time beyond what it lasts, and not their place.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use orlop_admission::{
    Acquired, ComputationId, CostVector, Grantee, Patient, Payer, Permit, Purse, QueueTicket,
    Refusal, Request, WaitingTicket,
};
use orlop_saga::amount::ByteCount;
use orlop_saga::time::Monotonic;

use super::allow::Wish;
use super::waited::Waited;
use super::{Action, Demand, Executor};
use crate::budget::{Paying, Treasury};

/// What became of a request that was not refused.
pub(crate) enum Admitted {
    /// It may start. The grantee is not called.
    Granted(Permit),
    /// The grantee is called, or was called already.
    Queued(Ticket),
}

/// A request that waits, or waited. Dropping it changes nothing; clones name the same request.
#[derive(Clone)]
pub(crate) enum Ticket {
    /// In the bulkhead's queue.
    Queued(QueueTicket),
    /// In the waiting room, or beyond it in the queue.
    Waiting(WaitingTicket),
}

impl Ticket {
    /// Withdraws the request. `true`: its grantee will never be called. `false`: it was called, or
    /// is about to be.
    pub(crate) fn cancel(&self) -> bool {
        match self {
            Self::Queued(ticket) => ticket.cancel(),
            Self::Waiting(ticket) => ticket.cancel(),
        }
    }

    /// Has the request wait until `deadline`, or as long as it takes. `false`: it does not wait any
    /// more. What waits in the waiting room has no deadline.
    pub(crate) fn extend(&self, deadline: Option<Monotonic>) -> bool {
        match self {
            Self::Queued(ticket) => ticket.extend(deadline),
            Self::Waiting(_) => true,
        }
    }
}

/// One that waits as long as it takes.
struct Asking {
    action: Action,
    demand: Demand,
    waited: Arc<Waited>,
    treasury: Arc<Treasury>,
    /// Who pays, once that is known: a purse stays what it is.
    purse: OnceLock<Arc<Purse>>,
}

impl Asking {
    fn payer(&self) -> Payer<'_> {
        if let Some(purse) = self.purse.get() {
            return Payer::Purse(purse);
        }
        match self.treasury.paying(self.demand.audit) {
            Paying::Anybody => Payer::Anybody,
            Paying::Unknown => Payer::Unknown,
            Paying::Purse(purse) => Payer::Purse(self.purse.get_or_init(|| purse)),
        }
    }
}

impl Grantee for Asking {
    fn granted(self: Arc<Self>, permit: Permit) {
        Arc::clone(&self.waited).granted(permit);
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        Arc::clone(&self.waited).refused(refusal);
    }
}

impl Patient for Asking {
    fn request(&self) -> Request<'_> {
        let request = request_of(&self.action, &self.demand);
        request.payer(self.payer()).untimed()
    }

    fn answered(&self, refusal: Option<&Refusal>) {
        if let Some(purse) = self.purse.get() {
            self.treasury.answered(purse, refusal);
        }
    }
}

impl Demand {
    /// What it writes to the journal. What was promised is there already: it waits for its turn,
    /// however large it is.
    fn written(&self) -> ByteCount {
        if !self.patient || self.journal == ByteCount::default() {
            return self.journal;
        }
        let burst = self.account.journal_burst().unwrap_or(u64::MAX);
        ByteCount::new(self.journal.get().min(burst))
    }
}

/// What admission is asked for.
fn request_of<'a>(action: &Action, demand: &'a Demand) -> Request<'a> {
    let cost = CostVector::one_slot(action.staging())
        .with_kernels(action.kernels())
        .with_journal(demand.written());
    let request = Request::new(&demand.account, ComputationId::new(action.ordinal()))
        .audit(demand.audit)
        .class(demand.class)
        .lane(demand.lane)
        .accepted(demand.patient)
        .cost(cost)
        .size(action.size());
    let request = match demand.deadline {
        Some(deadline) => request.deadline(deadline),
        None => request,
    };
    match action.exclusion() {
        Some(group) => request.exclusion(group),
        None => request,
    }
}

impl Executor {
    /// Asks for a permit. `grantee` hears if the answer is `Queued`, on this thread maybe and
    /// before this returns.
    pub(crate) fn admit(
        self: &Arc<Self>,
        action: &Action,
        demand: &Demand,
        grantee: Arc<dyn Grantee>,
    ) -> Result<Admitted, Refusal> {
        let Some(gate) = self.bulkheads.get(action.bulkhead()) else {
            // Checked when the engine was built.
            debug_assert!(false, "no bulkhead {}", action.bulkhead());
            return Err(Refusal::Cancelled);
        };
        self.check_allowed(action, demand)?;
        let paying = self.treasury.payer_of(demand)?;
        if demand.patient {
            let waited = Waited {
                grantee,
                since: self.clock.monotonic(),
                clock: Arc::clone(&self.clock),
                meters: Arc::clone(&gate.meters),
                wish: Wish::of(action, demand, &gate.bulkhead),
            };
            let asking = Asking {
                action: action.clone(),
                demand: demand.clone(),
                waited: Arc::new(waited),
                treasury: Arc::clone(&self.treasury),
                purse: OnceLock::new(),
            };
            let waits = self.room.wait(&gate.bulkhead, Arc::new(asking));
            let refused = |refusal: &Refusal| self.audit.refused(demand.account.id(), refusal);
            let ticket = waits.inspect_err(refused)?;
            return Ok(Admitted::Queued(Ticket::Waiting(ticket)));
        }
        let request = request_of(action, demand).payer(paying.payer());
        let waits = || -> Arc<dyn Grantee> {
            Arc::new(Waited {
                grantee,
                since: self.clock.monotonic(),
                clock: Arc::clone(&self.clock),
                meters: Arc::clone(&gate.meters),
                wish: Wish::of(action, demand, &gate.bulkhead),
            })
        };
        let acquired = match self.room.check(&gate.bulkhead, &request) {
            Some(refusal) => Err(refusal),
            None => gate.bulkhead.acquire_with(&request, waits),
        };
        if let Paying::Purse(purse) = &paying {
            self.treasury.answered(purse, acquired.as_ref().err());
        }
        let acquired = acquired.inspect_err(|refusal| {
            // Who waits for the disk is not refused.
            if !matches!(refusal, Refusal::BudgetPending { .. }) {
                self.audit.refused(demand.account.id(), refusal);
            }
        })?;
        Ok(match acquired {
            Acquired::Granted(permit) => {
                gate.meters.waited(demand.lane, Duration::ZERO);
                Admitted::Granted(permit)
            }
            Acquired::Queued(ticket) => {
                self.arm(&gate.bulkhead, &gate.armed);
                Admitted::Queued(Ticket::Queued(ticket))
            }
        })
    }
}
