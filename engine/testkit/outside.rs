//! The outside: a small remote with keys and fences, whose ledger says what really happened.
//!
//! It is what a saga's computations call in place of the real thing. A request carries the remote
//! key and the fence of its attempt; an older fence than the newest one seen under a key is
//! refused, as `Late::Fenced` promises. It survives the crashes of the process that calls it.
//!
//! Invariants
//! - Whatever lingers on the wire has arrived before the ledger is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orlop_saga::id::Fence;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use parking_lot::Mutex;

use super::clock::SimClock;
use super::plan::{Fault, FaultPlan, Request};
use crate::host::{Attempt, Reconciled};

/// What an outside went through that no engine may bring about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// What stands there was put a second time, by an attempt that should have asked first.
    #[error("{name} was put twice: {history}")]
    Doubled {
        /// Its name.
        name: String,
        /// Everything that happened outside, in order.
        history: String,
    },
    /// It was put again after it had been undone.
    #[error("{name} was put after its undo: {history}")]
    PutAfterUndo {
        /// Its name.
        name: String,
        /// Everything that happened outside, in order.
        history: String,
    },
}

/// See the module. Clones are the same outside.
#[derive(Clone, Debug)]
pub struct Outside {
    clock: SimClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    plan: FaultPlan,
    fences_forgotten: bool,
    counts_repeats: bool,
    entries: BTreeMap<RemoteKey, Entry>,
    /// How often each request was made.
    made: BTreeMap<(Request, String), u32>,
    lingering: Vec<Lingering>,
    history: Vec<String>,
    violations: Vec<(bool, String)>,
}

/// What is known under one remote key.
#[derive(Clone, Debug, Default)]
struct Entry {
    name: String,
    stands: bool,
    /// What `stands` was before it last changed.
    stood: bool,
    undone: bool,
    put_by: Fence,
    newest: Fence,
}

/// A request on the wire that nobody waits for any more.
#[derive(Clone, Debug)]
struct Lingering {
    key: RemoteKey,
    fence: Fence,
    name: String,
    puts: bool,
    until_undone: bool,
}

impl Outside {
    /// An empty outside, which recognises a put that is repeated under its key. Requests that hang
    /// do so by `clock`.
    pub fn new(clock: &SimClock) -> Self {
        Self {
            clock: clock.clone(),
            state: Arc::default(),
        }
    }

    /// Has requests meet faults.
    #[must_use]
    pub fn with_faults(self, plan: FaultPlan) -> Self {
        self.state.lock().plan = plan;
        self
    }

    /// Counts what a later attempt puts a second time as a second one. Only the same attempt,
    /// delivered twice, is recognised.
    #[must_use]
    pub fn counting_repeats(self) -> Self {
        self.state.lock().counts_repeats = true;
        self
    }

    /// Forgets every fence, as a remote does that knows none.
    #[must_use]
    pub fn without_fences(self) -> Self {
        self.state.lock().fences_forgotten = true;
        self
    }

    /// Puts a name there.
    ///
    /// # Errors
    /// [`Failure`]: refused for good, refused for its older fence, or in doubt.
    pub async fn put(&self, attempt: &Attempt, name: &str) -> Result<(), Failure> {
        self.change(attempt, attempt.remote_key, name, Request::Put)
            .await
    }

    /// Removes what the step under `step_key` put there, and keeps out what of it is still on its
    /// way. Nothing there is as good as removed.
    ///
    /// # Errors
    /// [`Failure`]: as for [`put`](Self::put).
    pub async fn remove(
        &self,
        attempt: &Attempt,
        step_key: RemoteKey,
        name: &str,
    ) -> Result<(), Failure> {
        self.change(attempt, step_key, name, Request::Remove).await
    }

    /// Whether what the attempts of this work were to put is there. No older attempt puts
    /// anything any more once this was answered.
    pub fn stat(&self, attempt: &Attempt, name: &str) -> Reconciled<()> {
        let mut state = self.state.lock();
        let fault = state.meet(Request::Stat, name);
        if !state.raise(attempt.remote_key, attempt.fence, name) {
            return Reconciled::Unknown("an older fence is refused".to_owned());
        }
        let entry = state.entries.get(&attempt.remote_key);
        let found = entry.is_some_and(|entry| entry.stands);
        state.answered(attempt.remote_key);
        match fault {
            None | Some(Fault::StaleStat) => {}
            Some(
                Fault::Refused
                | Fault::LostRequest
                | Fault::LostReply
                | Fault::AppliedAfterTimeout
                | Fault::AppliedAfterUndo,
            ) => return Reconciled::Unknown("no reply".to_owned()),
        }
        if found {
            Reconciled::Done(())
        } else {
            Reconciled::NotDone
        }
    }

    /// Whether what the step under `step_key` was to put is there, as a plain read tells, which
    /// raises no fence: what is on its way may still come.
    ///
    /// # Errors
    /// [`Failure`]: retryable, nobody answers.
    pub fn look(&self, step_key: RemoteKey, name: &str) -> Result<bool, Failure> {
        let mut state = self.state.lock();
        let fault = state.meet(Request::Look, name);
        let entry = state.entries.get(&step_key);
        let (stands, stood) = entry.map_or((false, false), |entry| (entry.stands, entry.stood));
        match fault {
            None => Ok(stands),
            Some(Fault::StaleStat) => Ok(stood),
            Some(
                Fault::Refused
                | Fault::LostRequest
                | Fault::LostReply
                | Fault::AppliedAfterTimeout
                | Fault::AppliedAfterUndo,
            ) => Err(Failure::retryable("no reply")),
        }
    }

    /// The names that are there now, each once; what lingers on the wire has arrived.
    pub fn standing(&self) -> BTreeSet<String> {
        let mut state = self.state.lock();
        state.deliver_all();
        let standing = state.entries.values().filter(|entry| entry.stands);
        standing.map(|entry| entry.name.clone()).collect()
    }

    /// Everything that happened, in order.
    pub fn history(&self) -> Vec<String> {
        self.state.lock().history.clone()
    }

    /// Whether anything happened that must not; what lingers on the wire has arrived.
    ///
    /// # Errors
    /// [`Violation`]: the first one.
    pub fn check(&self) -> Result<(), Violation> {
        let mut state = self.state.lock();
        state.deliver_all();
        let history = state.history.join(", ");
        match state.violations.first().cloned() {
            None => Ok(()),
            Some((true, name)) => Err(Violation::PutAfterUndo { name, history }),
            Some((false, name)) => Err(Violation::Doubled { name, history }),
        }
    }

    async fn change(
        &self,
        attempt: &Attempt,
        key: RemoteKey,
        name: &str,
        request: Request,
    ) -> Result<(), Failure> {
        let arrives = Lingering {
            key,
            fence: attempt.fence,
            name: name.to_owned(),
            puts: request == Request::Put,
            until_undone: false,
        };
        let hangs = {
            let mut state = self.state.lock();
            let until_undone = match state.meet(request, name) {
                None | Some(Fault::StaleStat) => return state.apply(&arrives),
                Some(Fault::Refused) => return Err(Failure::permanent("refused")),
                Some(Fault::LostRequest) => return Err(Failure::in_doubt("no reply")),
                Some(Fault::LostReply) => {
                    state.apply(&arrives)?;
                    return Err(Failure::in_doubt("no reply"));
                }
                Some(Fault::AppliedAfterTimeout) => false,
                Some(Fault::AppliedAfterUndo) => true,
            };
            state.lingering.push(Lingering {
                until_undone,
                ..arrives
            });
            self.clock.never()
        };
        hangs.await;
        Err(Failure::in_doubt("no reply"))
    }
}

impl State {
    fn meet(&mut self, request: Request, name: &str) -> Option<Fault> {
        let made = self.made.entry((request, name.to_owned())).or_default();
        let nth = *made;
        *made += 1;
        self.plan.fault(request, name, nth)
    }

    /// Sees a fence; false if a newer one was seen.
    fn raise(&mut self, key: RemoteKey, fence: Fence, name: &str) -> bool {
        let forgotten = self.fences_forgotten;
        let entry = self.entries.entry(key).or_default();
        if fence < entry.newest && !forgotten {
            self.history.push(format!("{name}: older fence refused"));
            return false;
        }
        entry.newest = entry.newest.max(fence);
        name.clone_into(&mut entry.name);
        true
    }

    fn apply(&mut self, request: &Lingering) -> Result<(), Failure> {
        let Lingering {
            key, fence, name, ..
        } = request;
        if !self.raise(*key, *fence, name) {
            return Err(Failure::retryable("an older fence is refused"));
        }
        if request.puts {
            self.put(*key, *fence);
        } else {
            self.remove(*key);
        }
        self.answered(*key);
        Ok(())
    }

    fn put(&mut self, key: RemoteKey, fence: Fence) {
        let counts = self.counts_repeats;
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let name = entry.name.clone();
        if entry.stands {
            if counts && entry.put_by != fence {
                self.violations.push((false, name.clone()));
                self.history.push(format!("{name} put again"));
            }
            return;
        }
        if entry.undone {
            self.violations.push((true, name.clone()));
        }
        (entry.stood, entry.stands) = (entry.stands, true);
        entry.put_by = fence;
        self.history.push(format!("{name} put"));
    }

    fn remove(&mut self, key: RemoteKey) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.undone = true;
        if entry.stands {
            (entry.stood, entry.stands) = (entry.stands, false);
            let name = entry.name.clone();
            self.history.push(format!("{name} removed"));
        }
    }

    /// What lingered until now, or until the undo if that is over, arrives.
    fn answered(&mut self, key: RemoteKey) {
        let undone = self.entries.get(&key).is_some_and(|entry| entry.undone);
        let due = |late: &mut Lingering| late.key == key && (!late.until_undone || undone);
        let arriving: Vec<Lingering> = self.lingering.extract_if(.., due).collect();
        self.deliver(&arriving);
    }

    fn deliver_all(&mut self) {
        let arriving = std::mem::take(&mut self.lingering);
        self.deliver(&arriving);
    }

    fn deliver(&mut self, arriving: &[Lingering]) {
        for late in arriving {
            // Nobody hears what comes of it.
            let _ = self.apply(late);
        }
    }
}
