//! The suite `durable`: effects whose outcome is on the disk before anybody is told.

use std::time::Duration;

use orlop::{Noop, wait};

use super::BenchError;
use super::disk::{Disk, disturbed};
use super::figure::Figure;
use super::sample::{Bound, Rate, Round, Subject, Times, part_of};
use super::stage::Stage;

const SUITE: &str = "durable";
const CLIENTS: usize = 256;
/// Between two writes of whoever else uses the disk.
const PAUSE: Duration = Duration::from_millis(2);

const ONE: Subject = Subject {
    id: "durable.one",
    suite: SUITE,
    name: "an awaited pure noop, one client, p50",
    unit: "us",
    reference: "writing and syncing the same bytes, p50",
};
const MANY: Subject = Subject {
    id: "durable.many",
    suite: SUITE,
    name: "awaited pure noops, 256 clients",
    unit: "1/s",
    reference: "records as large, 256 written and synced at a time",
};
const P99: Subject = Subject {
    id: "durable.p99",
    suite: SUITE,
    name: "an awaited pure noop beside a writer of 64 KiB every 2 ms, p99",
    unit: "us",
    reference: "writing and syncing the same bytes beside that writer, p99",
};

/// Measures every figure, each for about `duration`.
pub(crate) fn measure(duration: Duration) -> Result<Vec<Figure>, BenchError> {
    let part = part_of(duration);
    let stage = Stage::new(|builder| builder)?;
    let disk = Disk::new(stage.folder(), "raw")?;
    let mut clients = Clients {
        stage,
        disk,
        last: 0,
    };
    let one = ONE.measure(&[Bound::MostTimes(1.3)], || clients.round(part, 0.5))?;
    let many = MANY.measure(&[Bound::Least(1e5)], || clients.many(part))?;
    let p99 = P99.measure(&[Bound::MostTimes(4.0)], || {
        let folder = clients.stage.folder().to_owned();
        disturbed(&folder, PAUSE, || clients.round(part, 0.99))
    })?;
    clients.stage.close()?;
    Ok(vec![one, many, p99])
}

/// Those who submit; every input is new.
struct Clients {
    stage: Stage,
    disk: Disk,
    last: u64,
}

impl Clients {
    fn one(&mut self, duration: Duration) -> Result<Times, BenchError> {
        Times::of(duration, || {
            self.last += 1;
            wait(self.stage.tenant.submit(Noop, self.last))?;
            Ok(())
        })
    }

    /// Ours, and then as many bytes by themselves.
    fn round(&mut self, part: Duration, quantile: f64) -> Result<Round, BenchError> {
        let before = self.stage.journaled();
        let ours = self.one(part)?;
        let bytes = per(self.stage.journaled(), before);
        let raw = Times::of(part, || self.disk.write(bytes))?;
        Ok(Round {
            value: ours.quantile(quantile) * 1e6,
            reference: raw.quantile(quantile) * 1e6,
            samples: ours.count(),
        })
    }

    fn many(&mut self, part: Duration) -> Result<Round, BenchError> {
        let (before, first) = (self.stage.journaled(), self.last);
        let tenant = self.stage.tenant.clone();
        let ours = Rate::of(CLIENTS, part, || {
            self.last += 1;
            let submission = tenant.submit(Noop, self.last);
            async {
                submission.await?;
                Ok(1)
            }
        })?;
        let bytes = self.stage.journaled().0.saturating_sub(before.0);
        let record = bytes / (self.last - first).max(1);
        let group = usize::try_from(record).unwrap_or(usize::MAX) * CLIENTS;
        let raw = Times::of(part, || self.disk.write(group))?;
        Ok(Round {
            value: ours.per_second(),
            reference: super::sample::count(CLIENTS) / raw.quantile(0.5),
            samples: ours.finished,
        })
    }
}

/// Bytes a group since then.
fn per(now: (u64, u64), before: (u64, u64)) -> usize {
    let (bytes, groups) = (now.0 - before.0, now.1 - before.1);
    usize::try_from(bytes / groups.max(1)).unwrap_or(usize::MAX)
}
