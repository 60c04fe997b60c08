//! The watchdog: attempts that give no sign of life for longer than their lease allows.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Executor, Owned, tell};
use crate::budget::Fee;
use crate::course::Ending;
use crate::host::Attempt;
use crate::lease::{Escalation, Lease};

/// What is watched of one attempt.
struct Watch {
    executor: Weak<Executor>,
    lease: Lease,
    attempt: Attempt,
    owner: Owned,
}

impl Executor {
    /// Watches an attempt that starts now.
    pub(super) fn watch(self: &Arc<Self>, lease: Lease, attempt: &Attempt, owner: Owned) {
        attempt.heartbeat();
        let watch = Watch {
            executor: Arc::downgrade(self),
            lease,
            attempt: attempt.clone(),
            owner,
        };
        watch.look_after(lease.period);
    }
}

impl Watch {
    fn look_after(self, wait: Duration) {
        if let Some(executor) = self.executor.upgrade() {
            executor.runtime.after(wait, move || self.look());
        }
    }

    fn look(self) {
        if self.owner.is_told() {
            return;
        }
        let silence = self.attempt.pulse.silence();
        if let Some(left) = self.lease.period.checked_sub(silence)
            && !left.is_zero()
        {
            self.look_after(left);
            return;
        }
        tracing::warn!(
            remote_key = %self.attempt.remote_key,
            fence = %self.attempt.fence,
            silent_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            "an attempt did not hold its lease"
        );
        self.attempt.pulse.stop();
        match self.lease.then {
            Escalation::Cancel(grace) => {
                if let Some(executor) = self.executor.upgrade() {
                    executor.runtime.after(grace, move || self.give_up());
                }
            }
            Escalation::Retry | Escalation::Fail => self.give_up(),
        }
    }

    /// Whoever launched it goes on without it. A future is dropped where it next waits; whatever
    /// else still runs keeps its slot until it ends.
    fn give_up(self) {
        let last = self.lease.then.is_last();
        tell(&self.owner, Ending::Expired { last }, Fee::FREE);
        self.owner.release();
    }
}
