//! Managing tenants: decisions that take effect once they are durable, and before the call
//! returns.
//!
//! Invariants
//! - What is not in the journal does not hold: a decision whose record was refused changed nothing.
//! - Of one tenant one decision at a time is on its way to the disk, also if nobody waits for it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use orlop_admission::{
    Queued, Quotas, TenantAccount, TenantCommand, TenantError as AdmissionError, TenantState,
    Tenants,
};
use orlop_saga::event::Event;
use orlop_saga::id::TenantId;
use orlop_saga::key::Key;
use orlop_saga::tenant::{AuditTag, TenantEvent};
use orlop_store::log::{AppendError, Purpose};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::core::Core;
use crate::error::{SubmitError, Unavailable};
use crate::tenant::{TenantError, TenantManager};
use crate::tenure::{DrainCounts, Tenure};
use crate::terms;

/// How many computations one allow list may name.
const ALLOWED_MAX: usize = 4096;
/// How many engagements one tenant may be bound to.
const ENGAGEMENTS_MAX: usize = 4096;
/// The longest name of a computation, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What draining a tenant came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantDrained {
    /// Effects and sagas that had not ended and still move. 0: the tenant is drained.
    pub moving: usize,
    /// Those that wait for an operator: stuck or paused.
    pub held: usize,
    /// How long it took, or was waited for.
    pub waited: Duration,
}

impl Core {
    /// What a failed append means to whoever decided something about a tenant.
    pub(crate) fn undecided(&self, error: &AppendError) -> TenantError {
        let failed = self.append_failed(error, Key::new([0; 16]));
        if let SubmitError::Unavailable(why) = failed {
            TenantError::Unavailable(why)
        } else if matches!(failed, SubmitError::Interrupted { .. }) {
            Unavailable::Closed.into()
        } else {
            TenantError::Unresolved
        }
    }

    /// Records what was decided about a tenant; only once that is durable it takes effect, as
    /// `then`. Nobody else decides about the tenant before.
    fn decide(
        self: &Arc<Self>,
        turn: Turn,
        event: TenantEvent,
        then: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> Told {
        let (tell, told) = oneshot::channel();
        let tenant = event.tenant();
        // As urgent as an outcome: a full disk must not keep anybody from being suspended.
        let (events, purpose) = ([Event::Tenant(event)], Purpose::Settle);
        self.append(tenant, purpose, &events, move |core, result| {
            let answer = match result {
                Ok(_) => {
                    then(core);
                    Ok(())
                }
                Err(error) => Err(core.undecided(&error)),
            };
            let Turn { turn, tenure } = turn;
            drop(turn);
            // A drain that was interrupted looks again.
            tenure.stirred.notify_waiters();
            let _ = tell.send(answer);
        });
        told
    }
}

/// The right to decide about a tenant: one at a time, until the decision holds or does not.
struct Turn {
    turn: OwnedMutexGuard<()>,
    tenure: Arc<Tenure>,
}

type Told = oneshot::Receiver<Result<(), TenantError>>;

async fn durable(told: Told) -> Result<(), TenantError> {
    told.await.unwrap_or(Err(TenantError::Unresolved))
}

impl TenantManager {
    fn account(&self) -> &Arc<TenantAccount> {
        &self.tenant().account
    }

    fn id(&self) -> TenantId {
        self.account().id()
    }

    /// Whether something can be decided: with nothing changed if not.
    fn tenure(&self) -> Result<Arc<Tenure>, TenantError> {
        let core = &self.tenant().core;
        core.check_open()?;
        core.check_format_3("to manage tenants")?;
        let tenant = self.id();
        let stale = AdmissionError::Stale { tenant };
        core.tenures.of(tenant).ok_or(TenantError::State(stale))
    }

    /// Waits until nobody else decides about the tenant.
    async fn turn(&self, tenure: Arc<Tenure>) -> Turn {
        let turn = Arc::clone(&tenure.turn).lock_owned().await;
        Turn { turn, tenure }
    }

    /// Tells the tenant a command, if its state allows that.
    async fn command(
        &self,
        command: TenantCommand,
        event: TenantEvent,
        effect: impl FnOnce(&Tenants, &Arc<TenantAccount>) -> Result<(), AdmissionError>
        + Send
        + 'static,
    ) -> Result<(), TenantError> {
        let turn = self.turn(self.tenure()?).await;
        let core = &self.tenant().core;
        core.tenants.check(self.account(), command)?;
        let account = Arc::clone(self.account());
        let told = core.decide(turn, event, move |core| {
            let held = effect(&core.tenants, &account);
            debug_assert!(held.is_ok(), "{held:?}");
        });
        durable(told).await
    }

    /// Changes what the tenant is bounded by, as long as it is registered.
    async fn change(
        &self,
        event: TenantEvent,
        effect: impl FnOnce(&Tenants, &Arc<TenantAccount>) + Send + 'static,
    ) -> Result<(), TenantError> {
        let turn = self.turn(self.tenure()?).await;
        let core = &self.tenant().core;
        core.tenants.get(self.id())?;
        let account = Arc::clone(self.account());
        let told = core.decide(turn, event, move |core| effect(&core.tenants, &account));
        durable(told).await
    }

    /// Refuses its submissions, replays included, until it is resumed. What runs goes on; what is
    /// queued is withdrawn.
    ///
    /// # Errors
    /// [`TenantError::State`], [`TenantError::Unavailable`]: nothing changed.
    /// [`TenantError::Unresolved`]: nothing changes as long as the engine is open, and whether it
    /// has changed when the store is opened again is unknown.
    pub async fn suspend(&self) -> Result<(), TenantError> {
        let tenant = self.id();
        let event = TenantEvent::Suspended { tenant };
        self.command(TenantCommand::Suspend, event, Tenants::suspend)
            .await
    }

    /// Takes its submissions again.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend).
    pub async fn resume(&self) -> Result<(), TenantError> {
        let tenant = self.id();
        let event = TenantEvent::Resumed { tenant };
        self.command(TenantCommand::Resume, event, Tenants::resume)
            .await
    }

    /// Refuses its submissions, replays included, for good. Its sagas are undone through the
    /// reserved lane; to end its life too, [`unregister`](Self::unregister) it.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend).
    pub async fn revoke(&self) -> Result<(), TenantError> {
        let tenant = self.id();
        let event = TenantEvent::Revoked { tenant };
        self.command(TenantCommand::Revoke, event, Tenants::revoke)
            .await
    }

    /// Changes its quotas, from now on. 0 means none.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend).
    pub async fn set_quotas(&self, quotas: Quotas) -> Result<(), TenantError> {
        let (tenant, terms) = (self.id(), terms::of(&quotas));
        self.change(
            TenantEvent::QuotasChanged { tenant, terms },
            move |tenants, account| {
                let held = tenants.set_quotas(account, quotas);
                debug_assert!(held.is_ok(), "{held:?}");
            },
        )
        .await
    }

    /// Lets it run these computations, by name, and no others: what else it submits, or a step of
    /// its sagas asks for, is refused as [`Refusal::NotAllowed`](crate::Refusal). Undos and
    /// questions about what ran before are not.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend). [`TenantError::AllowList`]: nothing changed.
    pub async fn allow_only(
        &self,
        computations: impl IntoIterator<Item = impl Into<Box<str>>>,
    ) -> Result<(), TenantError> {
        let mut names = BTreeSet::new();
        for name in computations {
            let name: Box<str> = name.into();
            if names.len() >= ALLOWED_MAX || name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(TenantError::AllowList {
                    names_max: ALLOWED_MAX,
                    name_bytes_max: NAME_BYTES_MAX,
                });
            }
            names.insert(name);
        }
        self.allow(Some(names)).await
    }

    /// Lets it run every computation.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend).
    pub async fn allow_all(&self) -> Result<(), TenantError> {
        self.allow(None).await
    }

    async fn allow(&self, allowed: Option<BTreeSet<Box<str>>>) -> Result<(), TenantError> {
        let tenant = self.id();
        let event = TenantEvent::AllowListChanged {
            tenant,
            allowed: allowed.clone(),
        };
        self.change(event, move |_, account| account.allow(allowed))
            .await
    }

    /// Lets it work for these engagements, and no others: what it submits for another one, or what
    /// a step of its sagas runs for it, is refused as
    /// [`Refusal::EngagementNotAllowed`](crate::Refusal), and audited as an attempt to spend what is
    /// another's. Undos and questions about what ran before are not.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend). [`TenantError::Engagements`]: nothing changed.
    pub async fn allow_engagements(
        &self,
        engagements: impl IntoIterator<Item = AuditTag>,
    ) -> Result<(), TenantError> {
        let mut all = BTreeSet::new();
        for audit in engagements {
            if all.len() >= ENGAGEMENTS_MAX && !all.contains(&audit) {
                let engagements_max = ENGAGEMENTS_MAX;
                return Err(TenantError::Engagements { engagements_max });
            }
            all.insert(audit);
        }
        self.allow_these(Some(all)).await
    }

    /// Lets it work for every engagement.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend).
    pub async fn allow_all_engagements(&self) -> Result<(), TenantError> {
        self.allow_these(None).await
    }

    async fn allow_these(
        &self,
        engagements: Option<BTreeSet<AuditTag>>,
    ) -> Result<(), TenantError> {
        let tenant = self.id();
        let event = TenantEvent::EngagementsChanged {
            tenant,
            engagements: engagements.clone(),
        };
        self.change(event, move |_, account| {
            account.allow_engagements(engagements);
        })
        .await
    }

    /// The engagements that it may work for; `None` for all.
    pub fn engagements(&self) -> Option<Arc<BTreeSet<AuditTag>>> {
        self.account().engagements()
    }

    /// The names of the computations that it may run; `None` for all.
    pub fn allowed(&self) -> Option<Arc<BTreeSet<Box<str>>>> {
        self.account().allowed()
    }

    /// Refuses its submissions, replays included, until it is resumed, and waits at most `within`
    /// until everything of it has ended or waits for an operator: what is queued, in flight or
    /// accepted, and its sagas. Once this returned, nothing that was submitted before enters any
    /// more. What still moves then goes on, and the tenant stays draining, also after a restart.
    ///
    /// A revoked tenant stays revoked: this only waits.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend). [`TenantError::State`] also if it is resumed meanwhile.
    pub async fn drain(&self, within: Duration) -> Result<TenantDrained, TenantError> {
        let core = &self.tenant().core;
        let began = core.clock.monotonic();
        let tenure = self.tenure()?;
        self.begin_drain(&tenure).await?;
        let left = within.saturating_sub(core.clock.monotonic().since(began));
        let is_over = self.quiet(&tenure, left).await?;
        let census = Core::census(self.account());
        let waited = core.clock.monotonic().since(began);
        core.tenures.drained(&tenure, !is_over, waited);
        let drained = TenantDrained {
            moving: if is_over { 0 } else { census.moving.max(1) },
            held: census.held,
            waited,
        };
        if is_over {
            self.drained(&tenure).await?;
        }
        Ok(drained)
    }

    /// Shuts the tenant's gate, unless it is shut already.
    async fn begin_drain(&self, tenure: &Arc<Tenure>) -> Result<(), TenantError> {
        let core = &self.tenant().core;
        let turn = self.turn(Arc::clone(tenure)).await;
        core.tenants.check(self.account(), TenantCommand::Drain)?;
        match self.account().state() {
            TenantState::Active | TenantState::Suspended => {}
            // What it is is durable. A revoked tenant stays revoked.
            TenantState::Draining | TenantState::Revoked | TenantState::Unregistered => {
                return Ok(());
            }
        }
        let (tenant, account) = (self.id(), Arc::clone(self.account()));
        let told = core.decide(turn, TenantEvent::Draining { tenant }, move |core| {
            // Its end is waited for by whoever asked for it.
            let held = core.tenants.drain(&account, Queued::Serve).map(drop);
            debug_assert!(held.is_ok(), "{held:?}");
        });
        durable(told).await
    }

    /// Records that a drain reached its end, unless something was decided meanwhile.
    async fn drained(&self, tenure: &Arc<Tenure>) -> Result<(), TenantError> {
        let tenant = self.id();
        let turn = self.turn(Arc::clone(tenure)).await;
        if self.account().state() != TenantState::Draining {
            return Ok(());
        }
        let core = &self.tenant().core;
        let told = core.decide(turn, TenantEvent::Drained { tenant }, |_| {});
        durable(told).await
    }

    /// Waits until nothing moves; false if time ran out.
    async fn quiet(&self, tenure: &Tenure, within: Duration) -> Result<bool, TenantError> {
        let core = &self.tenant().core;
        let tenant = self.id();
        let _waiting = core.tenures.wait();
        let mut over = pin!(core.executor.runtime.sleep(within));
        loop {
            // From here on it hears; only then it looks.
            let stirred = tenure.stirred.notified();
            let state = self.account().state();
            match state {
                TenantState::Draining | TenantState::Revoked => {}
                TenantState::Active | TenantState::Suspended | TenantState::Unregistered => {
                    return Err(AdmissionError::Refused { tenant, state }.into());
                }
            }
            if Core::census(self.account()).moving > 0 {
                if let Either::Right(_) = select(pin!(stirred), &mut over).await {
                    return Ok(false);
                }
                continue;
            }
            // Attempts that nobody waits for any more still hold their slots.
            let idle = core.tenants.drain(self.account(), Queued::Serve)?;
            match select(idle, &mut over).await {
                Either::Left((Ok(()), _)) if Core::census(self.account()).moving == 0 => {
                    return Ok(true);
                }
                // Resumed, or an operator had something tried again: the top says.
                Either::Left((Ok(()) | Err(_), _)) => {}
                Either::Right(_) => return Ok(false),
            }
        }
    }

    /// How often it was drained in this engine, and how long that was waited for.
    pub fn drains(&self) -> DrainCounts {
        let tenure = self.tenant().core.tenures.of(self.id());
        tenure.map(|tenure| tenure.counts()).unwrap_or_default()
    }

    /// Ends this life of a tenant that is suspended, draining or revoked and has nothing
    /// unfinished. Its handles are refused as stale from now on. Its outcomes are nobody's: they
    /// are kept until they expire and never found again, also not by a tenant that is registered
    /// under the same label, which begins anew. What it spent stays in the ledger.
    ///
    /// # Errors
    /// As for [`suspend`](Self::suspend). [`TenantError::State`]: it is active.
    /// [`TenantError::Unfinished`]: drain it, and resolve what waits for an operator.
    pub async fn unregister(&self) -> Result<(), TenantError> {
        let core = &self.tenant().core;
        let tenant = self.id();
        let turn = self.turn(self.tenure()?).await;
        let state = self.account().state();
        match state {
            TenantState::Suspended | TenantState::Draining | TenantState::Revoked => {}
            TenantState::Active => return Err(AdmissionError::Refused { tenant, state }.into()),
            TenantState::Unregistered => return Err(AdmissionError::Stale { tenant }.into()),
        }
        // As long as nobody else decides, nothing of it can begin.
        let census = Core::census(self.account());
        if census.moving + census.held > 0 {
            return Err(TenantError::Unfinished {
                tenant,
                moving: census.moving,
                held: census.held,
            });
        }
        let account = Arc::clone(self.account());
        let told = core.decide(turn, TenantEvent::Unregistered { tenant }, move |core| {
            core.retract(&account);
            // Until now the label was taken, so that the journal never has two lives of it.
            core.labels.remove(account.label());
        });
        durable(told).await
    }
}
