//! The suite `dispatch`: what the way to the device and back costs, with nothing durable about it.

use std::time::Duration;

use orlop::{Noop, Tenant, wait};

use super::figure::Figure;
use super::sample::{Bound, Rate, Round, Subject, Times, part_of};
use super::stage::Stage;
use super::{BenchError, hop};

const SUITE: &str = "dispatch";
const IN_FLIGHT: usize = 256;
const BATCH: u64 = 64;

const HOP: Subject = Subject {
    id: "dispatch.hop",
    suite: SUITE,
    name: "an ephemeral noop, one in flight, p50",
    unit: "us",
    reference: "park and unpark, there and back, p50",
};
const RATE: Subject = Subject {
    id: "dispatch.rate",
    suite: SUITE,
    name: "ephemeral noops, 256 in flight in batches of 64",
    unit: "1/s",
    reference: "the same one by one",
};
const PEER: Subject = Subject {
    id: "dispatch.peer",
    suite: SUITE,
    name: "ephemeral noops one by one, 256 in flight",
    unit: "1/s",
    reference: "tokio's spawn_blocking, 256 in flight",
};
const BATCH64: Subject = Subject {
    id: "dispatch.batch64",
    suite: SUITE,
    name: "a batch of 64 ephemeral noops, p50",
    unit: "us",
    reference: "one, p50",
};

/// Measures every figure, each for about `duration`.
pub(crate) fn measure(duration: Duration) -> Result<Vec<Figure>, BenchError> {
    let part = part_of(duration);
    let stage = Stage::new(|builder| builder)?;
    let clients = Clients {
        tenant: stage.tenant.clone(),
        last: 0,
    };
    let figures = figures(part, clients)?;
    stage.close()?;
    Ok(figures)
}

fn figures(part: Duration, mut clients: Clients) -> Result<Vec<Figure>, BenchError> {
    let hop = HOP.measure(&[Bound::MostTimes(1.2)], || {
        let (hop, ours) = (hop::times(part)?, clients.one(part)?);
        Ok(microseconds(&ours, &hop))
    })?;
    let rate = RATE.measure(&[Bound::Least(1e6)], || {
        let single = clients.single(part)?;
        Ok(per_second(clients.batches(part)?, single))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .build()
        .map_err(BenchError::Thread)?;
    let peer = PEER.measure(&[Bound::LeastTimes(2.0)], || {
        let theirs = Rate::of(IN_FLIGHT, part, || {
            let spawned = runtime.spawn_blocking(|| ());
            async {
                spawned
                    .await
                    .map(|()| 1)
                    .map_err(|_| BenchError::NothingRan)
            }
        })?;
        Ok(per_second(clients.single(part)?, theirs))
    })?;
    let batch = BATCH64.measure(&[Bound::MostTimes(3.0)], || {
        let (one, batch) = (clients.one(part)?, clients.batch(part)?);
        Ok(microseconds(&batch, &one))
    })?;
    Ok(vec![hop, rate, peer, batch])
}

/// Those who submit; every input is new, so that nothing joins.
struct Clients {
    tenant: Tenant,
    last: u64,
}

impl Clients {
    fn one(&mut self, duration: Duration) -> Result<Times, BenchError> {
        Times::of(duration, || {
            self.last += 1;
            wait(self.tenant.submit(Noop, self.last).ephemeral())?;
            Ok(())
        })
    }

    fn batch(&mut self, duration: Duration) -> Result<Times, BenchError> {
        Times::of(duration, || {
            let first = self.last + 1;
            self.last += BATCH;
            let batch = self.tenant.submit_batch(Noop, first..=self.last);
            for reply in wait(batch.ephemeral())? {
                reply?;
            }
            Ok(())
        })
    }

    fn single(&mut self, duration: Duration) -> Result<Rate, BenchError> {
        Rate::of(IN_FLIGHT, duration, || {
            self.last += 1;
            let submission = self.tenant.submit(Noop, self.last).ephemeral();
            async {
                submission.await?;
                Ok(1)
            }
        })
    }

    fn batches(&mut self, duration: Duration) -> Result<Rate, BenchError> {
        let batches = IN_FLIGHT / usize::try_from(BATCH).unwrap_or(1);
        Rate::of(batches, duration, || {
            let first = self.last + 1;
            self.last += BATCH;
            let batch = self
                .tenant
                .submit_batch(Noop, first..=self.last)
                .ephemeral();
            async {
                let mut done = 0;
                for reply in batch.await? {
                    reply?;
                    done += 1;
                }
                Ok(done)
            }
        })
    }
}

fn microseconds(ours: &Times, reference: &Times) -> Round {
    Round {
        value: ours.quantile(0.5) * 1e6,
        reference: reference.quantile(0.5) * 1e6,
        samples: ours.count(),
    }
}

fn per_second(ours: Rate, reference: Rate) -> Round {
    Round {
        value: ours.per_second(),
        reference: reference.per_second(),
        samples: ours.finished,
    }
}
