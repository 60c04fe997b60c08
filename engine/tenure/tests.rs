use std::time::{Duration, Instant};

use futures_util::FutureExt;
use orlop_saga::key::Key;
use orlop_saga::outcome::Failure;
use tokio::sync::Semaphore;

use super::*;
use crate::blocking::wait;
use crate::computation::{Computation, Pure};
use crate::engine::Engine;
use crate::host::{Attempt, HostFunction};
use crate::saga::{Saga, SagaContext, SagaError};
use crate::tenant::TenantManager;

/// Ends once it is let.
#[derive(Clone, Copy)]
struct Pass;

impl Computation for Pass {
    const NAME: &'static str = "pass";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

struct Gate(Arc<Semaphore>);

impl HostFunction<Pass> for Gate {
    async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> {
        let permit = self.0.acquire().await.map_err(Failure::permanent)?;
        permit.forget();
        Ok(input)
    }
}

/// Waits for a word.
struct Listens;

impl Saga for Listens {
    const NAME: &'static str = "listens";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, _: u64) -> Result<u64, SagaError> {
        Ok(saga.signal("word").await?)
    }
}

/// Waits until a look at everything comes to `expected`, and so do the counts.
fn is_soon(manager: &TenantManager, expected: Census) {
    let (core, account) = (&manager.tenant().core, &manager.tenant().account);
    let began = Instant::now();
    loop {
        let scanned = core.scan(account.id());
        if scanned == expected && Core::census(account) == expected {
            return;
        }
        let counted = Core::census(account);
        assert!(
            began.elapsed() < Duration::from_mins(1),
            "scanned {scanned:?}, counted {counted:?}, expected {expected:?}"
        );
        std::thread::yield_now();
    }
}

fn census(moving: usize, held: usize) -> Census {
    Census { moving, held }
}

#[test]
fn what_is_counted_for_a_tenant_is_what_a_look_at_all_its_work_comes_to() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let open = || {
        let builder = Engine::builder(folder.path().join("store"));
        let builder = builder.pure(Pass, Gate(Arc::clone(&gate))).saga(Listens);
        builder.open_blocking().unwrap()
    };
    let engine = open();
    let acme = wait(engine.manage("acme")).unwrap();
    let other = wait(engine.manage("other")).unwrap();
    let tenant = acme.tenant();
    is_soon(&acme, census(0, 0));
    // Awaited, accepted and ephemeral ones, and one that its caller leaves.
    let mut awaited = tenant.submit(Pass, 1_u64).into_future();
    assert!((&mut awaited).now_or_never().is_none());
    let accepted = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    let mut ephemeral = tenant.submit(Pass, 3_u64).ephemeral().into_future();
    assert!((&mut ephemeral).now_or_never().is_none());
    is_soon(&acme, census(3, 0));
    // Two who want the same are one piece of work.
    let mut joins = tenant.submit(Pass, 1_u64).into_future();
    assert!((&mut joins).now_or_never().is_none());
    is_soon(&acme, census(3, 0));
    let sagas: Vec<_> = (0..3)
        .map(|n: u64| wait(tenant.start::<Listens>(Key::named(&n.to_string()), n)).unwrap())
        .collect();
    is_soon(&acme, census(6, 0));
    wait(acme.operator().pause(sagas[0].id().unwrap(), "for a while")).unwrap();
    is_soon(&acme, census(5, 1));
    wait(acme.cancel_saga(Key::named("1"))).unwrap();
    is_soon(&acme, census(4, 1));
    gate.add_permits(3);
    wait(awaited).unwrap();
    wait(joins).unwrap();
    wait(accepted).unwrap();
    wait(ephemeral).unwrap();
    is_soon(&acme, census(1, 1));
    // Replays and refusals are nothing that is unfinished.
    wait(tenant.submit(Pass, 1_u64)).unwrap();
    wait(acme.suspend()).unwrap();
    wait(tenant.submit(Pass, 9_u64)).unwrap_err();
    wait(acme.resume()).unwrap();
    is_soon(&acme, census(1, 1));
    is_soon(&other, census(0, 0));
    drop(sagas);
    engine.blocking().close().unwrap();
    let engine = open();
    let acme = wait(engine.manage("acme")).unwrap();
    is_soon(&acme, census(1, 1));
    wait(
        acme.operator()
            .resume(wait(acme.operator().find(Key::named("0"))).unwrap()),
    )
    .unwrap();
    is_soon(&acme, census(2, 0));
    engine.blocking().close().unwrap();
}
