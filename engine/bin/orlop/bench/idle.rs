//! The suite `idle`: what an open engine costs while nobody wants anything of it.
//!
//! The engine has worked before and has tenants, outcomes and a saga that sleeps, so that every
//! thread and timer that an embedder's engine has is there. The measurement begins when nothing
//! is left to be done: outcomes are in the tables, and the journal has prepared its space.

use std::path::Path;
use std::time::{Duration, Instant};

use orlop::{Blake3, Engine, Key, Noop, Saga, SagaContext, SagaError, Tenant, wait};

use super::figure::{Figure, Measured};
use super::{BenchError, cpu};

const TENANTS: u64 = 4;
const DIGESTS: u64 = 32;
const BATCH: u64 = 256;
/// Percent of one core.
const LIMIT_PERCENT: f64 = 1.0;
/// How long the journal may take to prepare its space, and how often that is looked at.
const PREPARED_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Takes one step and then sleeps for longer than anybody measures.
struct Nap;

impl Saga for Nap {
    const NAME: &'static str = "bench.nap";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, input: u64) -> Result<(), SagaError> {
        saga.step("before", Noop, input).await?;
        saga.sleep("nap", Duration::from_hours(24)).await?;
        Ok(())
    }
}

/// Measures the processor time of an idle engine over `duration`.
pub(crate) fn measure(duration: Duration) -> Result<Figure, BenchError> {
    let folder = tempfile::tempdir().map_err(BenchError::Folder)?;
    let store = folder.path().join("store");
    let engine = Engine::builder(&store).saga(Nap).open_blocking()?;
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        let tenant = engine.blocking().tenant(&format!("tenant-{number}"))?;
        work(&tenant, number)?;
        tenants.push(tenant);
    }
    // What was done is in the tables, so that no projection is left to be done in the meantime.
    wait(engine.checkpoint())?;
    wait_until_prepared(&store.join("log"))?;

    let (cpu_before, begun) = (cpu::time()?, Instant::now());
    std::thread::sleep(duration);
    let (used, passed) = (cpu::time()?.saturating_sub(cpu_before), begun.elapsed());

    engine.blocking().close()?;
    let measured = Measured {
        id: "idle.cpu",
        suite: "idle",
        name: "processor time of an idle open engine",
        value: 100.0 * used.as_secs_f64() / passed.as_secs_f64(),
        unit: "% of one core",
        samples: 1,
        median_of: 1,
    };
    Ok(Figure::below(&measured, LIMIT_PERCENT))
}

/// Some of everything, done once.
fn work(tenant: &Tenant, number: u64) -> Result<(), BenchError> {
    for digest in 0..DIGESTS {
        wait(tenant.submit(Blake3, format!("page {digest} of tenant {number}").as_str()))?;
    }
    for reply in wait(tenant.submit_batch(Noop, 0..BATCH))? {
        reply?;
    }
    // The ticket is not waited for: the saga sleeps.
    let _ticket = wait(tenant.start::<Nap>(Key::named("nap"), number))?;
    Ok(())
}

/// Waits until the journal has filled its next segment and its reserve with zeros: work of the
/// opening that goes on in the background. The reserve is made last and gets its name when done.
pub(crate) fn wait_until_prepared(log: &Path) -> Result<(), BenchError> {
    let begun = Instant::now();
    while !log.join("reserve").exists() {
        if begun.elapsed() > PREPARED_WITHIN {
            return Err(BenchError::Unprepared {
                waited: begun.elapsed(),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
