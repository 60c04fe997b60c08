//! The suite `saga`: a workflow of five durable steps, one at a time and many at once.

use std::time::Duration;

use orlop::{BulkheadOptions, EngineBuilder, Key, Options, wait};

use super::BenchError;
use super::disk::Disk;
use super::figure::Figure;
use super::sample::{Bound, Rate, Round, Subject, Times, count, part_of};
use super::stage::Stage;
use super::workflow::{Nothing, STEPS, Workflow};

const SUITE: &str = "saga";
pub(crate) const IN_FLIGHT: usize = 128;
/// One commit for each step and one for the start.
const COMMITS: usize = STEPS.len() + 1;
/// What one append of the bare loop writes.
const APPEND_BYTES: usize = 512;
/// How many times longer than other figures the one with checkpoints is measured.
const LONGER: u32 = 3;

const ONE: Subject = Subject {
    id: "saga.one",
    suite: SUITE,
    name: "five steps with undo recorded, one client, p50",
    unit: "us",
    reference: "writing and syncing the bytes of one commit, p50",
};
const MANY: Subject = Subject {
    id: "saga.many",
    suite: SUITE,
    name: "five steps with undo recorded, 128 in flight, checkpoints running",
    unit: "1/s",
    reference: "five appends of 512 B, 128 written and synced at a time",
};
const COMMITTED: Subject = Subject {
    id: "saga.commits",
    suite: SUITE,
    name: "writes and syncs of the journal for one workflow alone",
    unit: "commits",
    reference: "one for the start and one for each step",
};

/// Measures every figure, each for about `duration`; with many in flight, three times as long.
pub(crate) fn measure(duration: Duration) -> Result<Vec<Figure>, BenchError> {
    let part = part_of(duration);
    let stage = Stage::new(roomy)?;
    let disk = Disk::new(stage.folder(), "raw")?;
    let mut clients = Clients { stage, disk };
    let mut commits = Vec::new();
    let one = ONE.measure(&[Bound::MostTimes(1.3 * count(COMMITS))], || {
        let (round, committed) = clients.one(part)?;
        commits.push(committed);
        Ok(round)
    })?;
    let bounds = [Bound::Least(10_000.0), Bound::LeastTimes(1.0 / 3.0)];
    let many = MANY.measure(&bounds, || clients.many(part))?;
    clients.stage.close()?;
    Ok(vec![one, COMMITTED.figure(&[], commits), many])
}

/// What the workflows need, and room for all of them on the device at once.
pub(crate) fn roomy(builder: EngineBuilder) -> EngineBuilder {
    let defaults = Options::default();
    let options = Options {
        device_bulkhead: BulkheadOptions {
            published_cost_max: None,
            ..defaults.device_bulkhead
        },
        ..defaults
    };
    builder
        .options(options)
        .saga(Workflow)
        .undo(Nothing, Nothing)
}

struct Clients {
    stage: Stage,
    disk: Disk,
}

impl Clients {
    /// Ours beside the disk, and how many commits a workflow took.
    fn one(&mut self, part: Duration) -> Result<(Round, Round), BenchError> {
        let before = self.stage.journaled();
        let ours = Times::of(part, || {
            let ticket = wait(self.stage.tenant.start::<Workflow>(Key::fresh(), 1_u64))?;
            wait(ticket)?;
            Ok(())
        })?;
        let after = self.stage.journaled();
        let (bytes, groups) = (after.0 - before.0, after.1 - before.1);
        let each = usize::try_from(bytes / groups.max(1)).unwrap_or(usize::MAX);
        let raw = Times::of(part, || self.disk.write(each))?;
        let groups = usize::try_from(groups).unwrap_or(usize::MAX);
        let sagas = usize::try_from(ours.count()).unwrap_or(usize::MAX);
        let round = Round {
            value: ours.quantile(0.5) * 1e6,
            reference: raw.quantile(0.5) * 1e6,
            samples: ours.count(),
        };
        let committed = Round {
            value: count(groups) / count(sagas),
            reference: count(COMMITS),
            samples: ours.count(),
        };
        Ok((round, committed))
    }

    fn many(&mut self, part: Duration) -> Result<Round, BenchError> {
        let tenant = self.stage.tenant.clone();
        let ours = Rate::of(IN_FLIGHT, part * 2 * LONGER, || {
            let starting = tenant.start::<Workflow>(Key::fresh(), 1_u64);
            async {
                starting.await?.await?;
                Ok(1)
            }
        })?;
        let raw = Times::of(part / 2, || self.disk.write(IN_FLIGHT * APPEND_BYTES))?;
        Ok(Round {
            value: ours.per_second(),
            reference: count(IN_FLIGHT) / (count(STEPS.len()) * raw.quantile(0.5)),
            samples: ours.finished,
        })
    }
}
