//! Progress: what whoever drains a tenant wants to know of its work, counted where it changes.
//!
//! Invariants
//! - Whenever no flight's lock is held, a tenant's counts are what a look at all its flights would
//!   come to.
//! - A flight is counted before its tenant's state is asked for: whoever has changed that state and
//!   looks at the counts then misses nothing that entered.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use orlop_admission::{Pace, TenantAccount};
use parking_lot::{Mutex, MutexGuard};

use super::{Flight, Phase, State};

impl Phase {
    /// Whether it moves or is held; `None` once it has ended.
    pub(super) const fn pace(&self) -> Option<Pace> {
        match self {
            Self::Looking
            | Self::Admitting(_)
            | Self::Recording(_)
            | Self::Running
            | Self::BackingOff
            | Self::Driven
            | Self::Settling => Some(Pace::Moving),
            Self::Stuck(_) | Self::Broken(_) => Some(Pace::Held),
            Self::Settled | Self::Gone => None,
        }
    }
}

/// A flight's state, counted for its tenant whenever its lock is released.
pub(super) struct Counted {
    account: Arc<TenantAccount>,
    state: Mutex<Paced>,
}

/// A state, and as what it is counted.
struct Paced {
    state: State,
    pace: Option<Pace>,
}

/// A place among what a tenant has unfinished, for something that is about to move. Dropped, it is
/// given up.
pub(super) struct Entry {
    account: Arc<TenantAccount>,
    taken: bool,
}

impl Entry {
    pub(super) fn new(account: &Arc<TenantAccount>) -> Self {
        account.count_pace(None, Some(Pace::Moving));
        Self {
            account: Arc::clone(account),
            taken: false,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.taken {
            self.account.count_pace(Some(Pace::Moving), None);
        }
    }
}

impl Counted {
    pub(super) fn new(mut entry: Entry, state: State) -> Self {
        entry.taken = true;
        let pace = Some(Pace::Moving);
        Self {
            account: Arc::clone(&entry.account),
            state: Mutex::new(Paced { state, pace }),
        }
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            account: &self.account,
            paced: self.state.lock(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.count_pace(self.state.get_mut().pace, None);
    }
}

/// A state whose lock is held.
pub(super) struct Locked<'a> {
    account: &'a TenantAccount,
    paced: MutexGuard<'a, Paced>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.paced.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.paced.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Still locked.
        let now = self.paced.state.phase.pace();
        self.account.count_pace(self.paced.pace, now);
        self.paced.pace = now;
    }
}

impl Flight {
    /// Whether it moves or is held; `None` once it has ended.
    #[cfg(test)]
    pub(crate) fn pace(&self) -> Option<Pace> {
        self.state.lock().phase.pace()
    }

    /// It ended or is held: whoever drains its tenant looks again. Called with no lock held.
    pub(crate) fn stir(&self) {
        if let Some(core) = self.core.upgrade() {
            core.tenures.stir(self.id.tenant);
        }
    }
}
