//! Recovery: what was unfinished goes on.

use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{Quotas, TenantAccount};
use orlop_saga::compat::Format;
use orlop_saga::effect::{Effect, EffectId};
use orlop_saga::id::{Incarnation, StoreId, TenantId};
use orlop_saga::saga::SagaState;
use orlop_store::store::Recovered;

use crate::core::Core;
use crate::flight::Flight;
use crate::open::OpenError;

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
    for (id, label) in live.tenants() {
        let account = core
            .tenants
            .register(label.clone(), *id, Quotas::UNLIMITED)?;
        core.adopt(account);
    }
    let recovery = Recovery {
        store_id: recovered.store_id,
        format: recovered.format,
        incarnation: recovered.incarnation,
        effects: live.effects().len(),
        sagas: live.sagas().len(),
        records: recovered.replayed_records,
        tables_rebuilt: recovered.rebuilt_because,
        took: recovered.took,
    };
    for (id, effect) in live.effects() {
        effect_goes_on(core, *id, account(core, id.tenant)?, effect);
    }
    for (id, state) in live.sagas() {
        let account = account(core, state.start().id.tenant)?;
        let flight = Flight::recovered_saga(core, account, *id, state.start());
        let state: Box<SagaState> = Box::new(state.clone());
        core.driver.recover(*id, flight, state);
    }
    for id in live.sagas().keys() {
        core.driver.go_on(*id);
    }
    Ok(recovery)
}

fn account(core: &Core, tenant: TenantId) -> Result<Arc<TenantAccount>, OpenError> {
    core.tenants
        .get(tenant)
        .map_err(|_| OpenError::UnknownTenant { tenant })
}

fn effect_goes_on(core: &Arc<Core>, id: EffectId, account: Arc<TenantAccount>, effect: &Effect) {
    let request = effect.request().clone();
    let known = core.registry.code(&request.code.name);
    let fence = effect.fence();
    let Some(code) = known else {
        let reason = format!("{} is not registered", request.code);
        Flight::recovered_without_code(core, id, account, &request, &Arc::from(reason));
        return;
    };
    if request.external != code.external {
        // Run as what it is not, it could be run twice, or wait for an answer nobody can give.
        let reason = format!("{} changed between Pure and External", request.code);
        Flight::recovered_without_code(core, id, account, &request, &Arc::from(reason));
        return;
    }
    let mut course = core.course(&code, core.limits.retry);
    if fence.is_some() {
        course.resume(effect.runs(), effect.lost(), core.clock.monotonic());
    }
    let flight = Flight::recovered(core, id, account, effect.clone(), code, course);
    match effect {
        Effect::Accepted { .. } | Effect::Launched { .. } => flight.resume(core),
        Effect::Stuck { reason, .. } => flight.hold(&Arc::from(reason.as_str())),
    }
}
