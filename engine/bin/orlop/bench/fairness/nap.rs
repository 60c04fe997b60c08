//! Naps: the work of the suite. A nap sleeps on the engine's timers: it occupies a slot of its
//! bulkhead and no processor, so that two cores can show what eight slots do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orlop::{Attempt, Computation, Failure, HostFunction, Pure};

/// The bulkhead of [`Nap`].
pub(super) const FAIR: &str = "bench.fair";
/// The bulkhead of [`QueuedNap`].
pub(super) const FIFO: &str = "bench.fifo";

/// Which client's nap, and which of its naps.
pub(super) type Turn = (u32, u64);

/// A nap under the fair queue.
#[derive(Clone, Copy)]
pub(super) struct Nap;

impl Computation for Nap {
    const NAME: &'static str = "bench.nap";
    type Input = Turn;
    type Output = ();
    type Kind = Pure;
}

/// A nap in the bulkhead that one tenant submits everything to.
#[derive(Clone, Copy)]
pub(super) struct QueuedNap;

impl Computation for QueuedNap {
    const NAME: &'static str = "bench.queued_nap";
    type Input = Turn;
    type Output = ();
    type Kind = Pure;
}

/// One nap that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) client: u32,
    pub(super) begun: Instant,
    pub(super) ended: Instant,
}

impl Taken {
    /// How much of it lies between two instants.
    pub(super) fn within(&self, from: Instant, to: Instant) -> Duration {
        let (begun, ended) = (self.begun.max(from), self.ended.min(to));
        ended.saturating_duration_since(begun)
    }
}

#[derive(Default)]
struct Book {
    length: Duration,
    /// Who naps longer than the others, and how many times as long. The input does not tell.
    sluggard: Option<(u32, u32)>,
    taken: Vec<Taken>,
}

/// The code behind the naps, and what it knows.
#[derive(Clone, Default)]
pub(super) struct Naps(Arc<Mutex<Book>>);

impl Naps {
    /// How long naps are from now on, and whose are how many times longer.
    pub(super) fn set(&self, length: Duration, sluggard: Option<(u32, u32)>) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (book.length, book.sluggard) = (length, sluggard);
        book.taken.clear();
    }

    /// What was taken since they were set.
    pub(super) fn taken(&self) -> Vec<Taken> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.taken.clone()
    }

    async fn take(&self, (client, _): Turn) {
        let length = {
            let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let longer = book.sluggard.filter(|(sluggard, _)| *sluggard == client);
            book.length * longer.map_or(1, |(_, times)| times)
        };
        let begun = Instant::now();
        tokio::time::sleep(length).await;
        let ended = Instant::now();
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.taken.push(Taken {
            client,
            begun,
            ended,
        });
    }
}

impl HostFunction<Nap> for Naps {
    async fn run(&self, _attempt: Attempt, turn: Turn) -> Result<(), Failure> {
        self.take(turn).await;
        Ok(())
    }

    fn bulkhead(&self) -> &'static str {
        FAIR
    }
}

impl HostFunction<QueuedNap> for Naps {
    async fn run(&self, _attempt: Attempt, turn: Turn) -> Result<(), Failure> {
        self.take(turn).await;
        Ok(())
    }

    fn bulkhead(&self) -> &'static str {
        FIFO
    }
}
