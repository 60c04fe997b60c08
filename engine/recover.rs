//! Recovery: what was unfinished goes on.

use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{Queued, TenantAccount};
use orlop_saga::compat::Format;
use orlop_saga::effect::{Effect, EffectId};
use orlop_saga::id::{Incarnation, SagaId, StoreId, TenantId};
use orlop_saga::live::{Live, Standing};
use orlop_saga::saga::{Hold, PauseReason, SagaState};
use orlop_saga::tenancy::TenantStanding;
use orlop_store::store::Recovered;

use crate::core::Core;
use crate::driver::Message;
use crate::flight::Flight;
use crate::open::OpenError;
use crate::terms;

/// What opening found.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The store's id.
    pub store_id: StoreId,
    /// What the store is written in.
    pub format: Format,
    /// Which opening of the store this is; above all that the original used if it was restored.
    pub incarnation: Incarnation,
    /// Effects that go on.
    pub effects: usize,
    /// Sagas that go on, held ones included.
    pub sagas: usize,
    /// Sagas during which the process died `limits.saga_crashes_max` times: they are paused.
    pub suspects: Vec<SagaId>,
    /// Whether recovery crashed before, so that sagas are played one at a time before anything
    /// that was found goes on.
    pub probation: bool,
    /// Records replayed from the journal.
    pub records: u64,
    /// Why the tables were rebuilt from the journal, if they were.
    pub tables_rebuilt: Option<String>,
    /// How long the store took to open.
    pub took: Duration,
}

/// Registers what the store has and sets it going.
pub(crate) fn go_on(core: &Arc<Core>, recovered: Recovered) -> Result<Recovery, OpenError> {
    let live = recovered.live;
    core.executor.treasury.recover(core, live.books());
    tenants(core, &live)?;
    // An older format cannot name who is played.
    let standing = match recovered.format {
        Format::V1 => Standing::Closed,
        Format::V2 | Format::V3 => live.standing(),
    };
    let crashed = matches!(standing, Standing::AfterCrash | Standing::Probation);
    let probation = standing == Standing::Probation;
    let recovery = Recovery {
        store_id: recovered.store_id,
        format: recovered.format,
        incarnation: recovered.incarnation,
        effects: live.effects().len(),
        sagas: live.sagas().len(),
        suspects: suspects(core, &live),
        probation,
        records: recovered.replayed_records,
        tables_rebuilt: recovered.rebuilt_because,
        took: recovered.took,
    };
    let mut effects = Vec::new();
    let mut found: Vec<_> = live.effects().iter().collect();
    // In the order in which they were accepted, as far as the wall clock told it.
    found.sort_by_key(|(_, effect)| effect.request().at);
    for (id, effect) in found {
        effects.extend(found_effect(core, *id, account(core, id.tenant)?, effect));
    }
    if !probation {
        effects.drain(..).for_each(|flight| flight.resume(core));
    }
    for (id, state) in live.sagas() {
        let account = account(core, state.start().id.tenant)?;
        let flight = Flight::recovered_saga(core, account, *id, state.start());
        let state: Box<SagaState> = Box::new(state.clone());
        core.driver.recover(*id, flight, state, crashed);
    }
    if probation {
        let sagas = live.sagas().keys().copied().collect();
        core.driver.tell(Message::Probe { sagas, effects });
        return Ok(recovery);
    }
    for id in live.sagas().keys() {
        core.driver.go_on(*id);
    }
    if crashed {
        core.driver.tell(Message::AllFound);
    }
    Ok(recovery)
}

/// Registers the tenants as they were.
fn tenants(core: &Core, live: &Live) -> Result<(), OpenError> {
    for ended in live.tenancies().ended() {
        core.tenants.remember(ended)?;
    }
    for (id, label) in live.tenants() {
        let tenancy = live.tenancies().of(*id);
        let quotas = terms::quotas(tenancy.terms());
        let account = core.tenants.register(label.clone(), *id, quotas)?;
        account.allow(tenancy.allowed().clone());
        account.allow_engagements(tenancy.engagements().clone());
        // Of one that was just registered nothing can be refused.
        let stands = match tenancy.standing() {
            TenantStanding::Active => Ok(()),
            TenantStanding::Suspended => core.tenants.suspend(&account),
            TenantStanding::Draining | TenantStanding::Drained => {
                core.tenants.drain(&account, Queued::Serve).map(drop)
            }
            TenantStanding::Revoked => core.tenants.revoke(&account),
        };
        debug_assert!(stands.is_ok(), "{stands:?}");
        core.adopt(account);
    }
    Ok(())
}

/// Who is or will be paused as suspect.
fn suspects(core: &Core, live: &Live) -> Vec<SagaId> {
    let suspected = |state: &SagaState| {
        let charged = state.probation();
        matches!(
            state.hold(),
            Some(Hold::Paused(PauseReason::Suspect { .. }))
        ) || charged.is_some_and(|crashes| crashes >= core.limits.saga_crashes_max)
    };
    let sagas = live.sagas().iter();
    sagas
        .filter_map(|(id, state)| suspected(state).then_some(*id))
        .collect()
}

fn account(core: &Core, tenant: TenantId) -> Result<Arc<TenantAccount>, OpenError> {
    core.tenants
        .get(tenant)
        .map_err(|_| OpenError::UnknownTenant { tenant })
}

/// Makes an effect known; gives it back if it goes on.
fn found_effect(
    core: &Arc<Core>,
    id: EffectId,
    account: Arc<TenantAccount>,
    effect: &Effect,
) -> Option<Arc<Flight>> {
    let request = effect.request().clone();
    let known = core.registry.code(&request.code.name);
    let known = known.filter(|code| code.is_seen_by(&account));
    let fence = effect.fence();
    let Some(code) = known else {
        let reason = format!("{} is not registered", request.code);
        Flight::recovered_without_code(core, id, account, &request, &Arc::from(reason));
        return None;
    };
    if request.external != code.external {
        // Run as what it is not, it could be run twice, or wait for an answer nobody can give.
        let reason = format!("{} changed between Pure and External", request.code);
        Flight::recovered_without_code(core, id, account, &request, &Arc::from(reason));
        return None;
    }
    let mut course = core.course(&code, core.limits.retry);
    if fence.is_some() {
        course.resume(effect.runs(), effect.lost(), core.clock.monotonic());
    }
    let flight = Flight::recovered(core, id, account, effect.clone(), code, course);
    match effect {
        Effect::Accepted { .. } | Effect::Launched { .. } => Some(flight),
        Effect::Stuck { reason, .. } => {
            flight.hold(&Arc::from(reason.as_str()));
            None
        }
    }
}
