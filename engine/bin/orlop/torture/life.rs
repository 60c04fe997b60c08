//! One life of an engine: items are given to it, and what it says is passed on at once.

use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use orlop::{
    Blake3, Engine, Key, OpenError, Origin, Reply, RetryPolicy, SubmitError, Tenant, TenantError,
};
use serde::{Deserialize, Serialize};

use super::Failed;
use super::code::{Bulk, Move, Moving, Probe, Put, Remote, Stamp, builder};
use super::plan::{DONE, Kind, Plan, REFUSED, part};

/// What a life says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ack {
    /// It goes over to another phase.
    Phase(Phase),
    /// The engine is open.
    Opened {
        /// Effects that go on.
        effects: usize,
        /// Sagas that go on.
        sagas: usize,
        /// Why the tables were rebuilt, if they were.
        rebuilt: Option<String>,
    },
    /// An item is about to be given to the engine.
    Begun(u64),
    /// An item was accepted.
    Accepted(u64),
    /// An item has an outcome.
    Done {
        item: u64,
        outcome: String,
        how: How,
    },
    /// An item has no outcome, and why.
    Unsettled { item: u64, error: String },
    /// The engine does not know an item that it was asked about.
    Unknown(u64),
    /// Something failed that is no item.
    Failed(String),
}

/// What a life is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// The process starts.
    Start,
    /// A store is created.
    Open,
    /// A store is recovered.
    Recovery,
    /// Items are worked on.
    Work,
    /// A checkpoint is written, by request, while items are worked on.
    Checkpoint,
    /// A backup is taken, while items are worked on.
    Backup,
    /// The engine closes.
    Close,
    /// It is closed.
    Closed,
}

/// How an outcome was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum How {
    Ran,
    Joined,
    Replayed,
    /// A failure does not say.
    Untold,
}

/// Who is told, before anything else is made of an answer.
pub(crate) trait Hear: Sync {
    fn hear(&self, ack: Ack);
}

/// See the module.
pub(crate) struct Life<'a> {
    engine: Engine,
    plan: Plan,
    hear: &'a dyn Hear,
    patience: Duration,
}

/// How many items are in the engine's hands at once.
const AT_ONCE: usize = 24;
/// How long one item may take. The outside is as quick as memory, and backoffs end at 8 ms.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often what may be tried again is.
const TRIES_MAX: u32 = 1000;
/// Awaited work is tried again within the engine as accepted work is.
const RETRY: RetryPolicy = RetryPolicy {
    attempts_max: 100_000,
    base: Duration::from_micros(500),
    cap: Duration::from_millis(8),
};

impl<'a> Life<'a> {
    /// Opens the store in `store`.
    ///
    /// # Errors
    /// The engine's own: it is not open.
    pub(crate) fn open(
        store: &Path,
        remote: &Remote,
        plan: Plan,
        hear: &'a dyn Hear,
    ) -> Result<Self, OpenError> {
        let engine = builder(store, remote).open_blocking()?;
        let recovery = engine.recovery();
        hear.hear(Ack::Opened {
            effects: recovery.effects,
            sagas: recovery.sagas,
            rebuilt: recovery.tables_rebuilt.clone(),
        });
        Ok(Self {
            engine,
            plan,
            hear,
            patience: PATIENCE,
        })
    }

    /// Waits for each item no longer than this: on a full disk what was accepted waits for space.
    pub(crate) fn impatient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Has items done, many at once, and waits for all of them.
    pub(crate) async fn items(&self, items: impl IntoIterator<Item = u64>) {
        let all = stream::iter(items).map(|item| self.item(item));
        all.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// Asks about items that the engine must know.
    pub(crate) async fn probe(&self, items: impl IntoIterator<Item = u64>) {
        let all = stream::iter(items).map(|item| async move {
            if self.plan.kind(item) == Kind::Digest {
                // Its key is derived from its input, and nothing else can be submitted under it.
                return;
            }
            let known = match self.tenant(item).await {
                Ok(tenant) => tenant.submit(Probe, ()).key(key(item)).await,
                Err(error) => return self.hear.hear(Ack::Failed(error.to_string())),
            };
            match known {
                Err(SubmitError::Conflict { .. }) => {}
                Ok(_) => self.hear.hear(Ack::Unknown(item)),
                Err(error) => {
                    let error = format!("a probe: {error}");
                    self.hear.hear(Ack::Unsettled { item, error });
                }
            }
        });
        all.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// Writes a checkpoint.
    pub(crate) async fn checkpoint(&self) {
        if let Err(error) = self.engine.checkpoint().await {
            self.hear
                .hear(Ack::Failed(format!("a checkpoint: {error}")));
        }
    }

    /// Takes a backup into a new folder.
    pub(crate) async fn backup(&self, into: &Path) {
        if let Err(error) = self.engine.backup(into).await {
            let text = Failed::of("a backup", &error).to_string();
            self.hear.hear(Ack::Failed(text));
        }
    }

    /// Closes the engine; true if all went well.
    pub(crate) fn close(self) -> bool {
        match self.engine.blocking().close() {
            Ok(()) => true,
            Err(error) => {
                self.hear.hear(Ack::Failed(format!("closing: {error}")));
                false
            }
        }
    }

    async fn tenant(&self, item: u64) -> Result<Tenant, TenantError> {
        self.engine.tenant(&self.plan.tenant(item)).await
    }

    /// Has one item done.
    async fn item(&self, item: u64) {
        self.hear.hear(Ack::Begun(item));
        let tenant = match self.tenant(item).await {
            Ok(tenant) => tenant,
            Err(error) => {
                let error = error.to_string();
                return self.hear.hear(Ack::Unsettled { item, error });
            }
        };
        let mut tries = 0;
        loop {
            let error = match self.attempt(&tenant, item).await {
                Ok((outcome, how)) => {
                    return self.hear.hear(Ack::Done { item, outcome, how });
                }
                Err(error) => error,
            };
            tries += 1;
            if !error.is_retryable() || error == SubmitError::Expired || tries >= TRIES_MAX {
                let error = error.to_string();
                return self.hear.hear(Ack::Unsettled { item, error });
            }
        }
    }

    async fn attempt(&self, tenant: &Tenant, item: u64) -> Result<(String, How), SubmitError> {
        let name = Plan::name(item);
        let kind = self.plan.kind(item);
        match kind {
            Kind::Stamp => {
                let stamp = tenant.submit(Stamp, name).key(key(item));
                told(stamp.deadline(self.patience).await)
            }
            Kind::Digest => {
                let digest = tenant.submit(Blake3, name.as_bytes());
                told(digest.deadline(self.patience).await)
            }
            Kind::Put | Kind::PutRefused => {
                let name = if kind == Kind::PutRefused {
                    part(&name, REFUSED)
                } else {
                    name
                };
                let put = tenant.submit(Put, name).key(key(item));
                told(put.retry(RETRY).deadline(self.patience).await)
            }
            Kind::StampAccepted => {
                let stamp = tenant.enqueue(Stamp, name).key(key(item));
                let mut ticket = stamp.await?;
                self.hear.hear(Ack::Accepted(item));
                told(ticket.wait_for(self.patience).await)
            }
            Kind::Bulk => {
                let bulk = tenant.enqueue(Bulk, name).key(key(item));
                let mut ticket = bulk.await?;
                self.hear.hear(Ack::Accepted(item));
                told(ticket.wait_for(self.patience).await)
            }
            Kind::PutAccepted => {
                let put = tenant.enqueue(Put, name).key(key(item));
                let mut ticket = put.await?;
                self.hear.hear(Ack::Accepted(item));
                told(ticket.wait_for(self.patience).await)
            }
            Kind::Move
            | Kind::MoveGivesUp
            | Kind::MoveRefused
            | Kind::MoveLoops
            | Kind::MoveCancelled => {
                let moving = Moving::new(name, kind);
                let mut ticket = tenant.start::<Move>(key(item), moving).await?;
                self.hear.hear(Ack::Accepted(item));
                if kind == Kind::MoveCancelled {
                    // At different points of different sagas; a cancel that comes too late is
                    // refused, which the outcome then shows.
                    let _ = ticket.wait_for(Duration::from_millis(item % 7)).await;
                    let _ = ticket.cancel().await;
                }
                told(ticket.wait_for(self.patience).await)
            }
        }
    }
}

fn key(item: u64) -> Key {
    Key::named(&Plan::name(item))
}

/// An outcome as text. A failure for good is one.
fn told<T: std::fmt::Debug>(
    reply: Result<Reply<T>, SubmitError>,
) -> Result<(String, How), SubmitError> {
    match reply {
        Ok(reply) => {
            let how = match reply.origin {
                Origin::Ran => How::Ran,
                Origin::Joined => How::Joined,
                Origin::Replayed => How::Replayed,
            };
            Ok((format!("{DONE} {:?}", reply.output), how))
        }
        Err(SubmitError::Failed(failure)) => Ok((format!("failed: {failure}"), How::Untold)),
        Err(error) => Err(error),
    }
}
