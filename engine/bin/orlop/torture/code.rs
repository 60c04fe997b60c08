//! The code that the tortured engines run. Every output tells which attempt made it, so that an
//! outcome that was made twice is another one.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop::{
    Attempt, BulkheadOptions, Computation, DeviceOptions, Digest, Engine, EngineBuilder, External,
    Failure, HOST_IO, HostFunction, Late, Limits, Options, Pure, Reconcile, Reconciled,
    RetryPolicy, Saga, SagaContext, SagaError, StoreOptions, Undo, UndoFunction, Undoing,
};
use serde::{Deserialize, Serialize};

use super::outside::{Answer, Ask, FenceOf, Outside, Request};
use super::plan::{self, Kind, REFUSED, ROUNDS};
use super::wire;

/// The way to the outside.
#[derive(Clone)]
pub(crate) enum Remote {
    /// In this process.
    Here(Arc<Outside>),
    /// In the parent, behind a socket.
    There(Arc<Path>),
}

impl Remote {
    fn ask(&self, ask: Ask, attempt: &Attempt, key: String, name: &str) -> Answer {
        let fence = (attempt.fence.incarnation.get(), attempt.fence.attempt.get());
        let request = Request {
            ask,
            key,
            fence,
            name: name.to_owned(),
        };
        match self {
            Self::Here(outside) => outside.ask(&request),
            Self::There(socket) => wire::ask(socket, &request),
        }
    }
}

fn output((incarnation, attempt): FenceOf) -> u64 {
    incarnation * 100_000 + u64::from(attempt)
}

/// How long closing may wait for what does not end, as on a disk that is full.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a [`Bulk`], more than a row has and no multiple of a page.
const BULK_BYTES: usize = 9000;

const STALE: &str = "an older fence is refused";
const SILENT: &str = "no answer";
const BUSY: &str = "busy";

/// Says which attempt it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp;

impl Computation for Stamp {
    const NAME: &'static str = "stamp";
    type Input = String;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Stamp> for Remote {
    async fn run(&self, attempt: Attempt, _input: String) -> Result<u64, Failure> {
        let fence = attempt.fence;
        Ok(output((fence.incarnation.get(), fence.attempt.get())))
    }
}

/// Gives more than fits into a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk;

/// Bytes that are told by their digest.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.0.len(), Digest::of(&self.0))
    }
}

impl Computation for Bulk {
    const NAME: &'static str = "bulk";
    type Input = String;
    type Output = Bytes;
    type Kind = Pure;
}

impl HostFunction<Bulk> for Remote {
    async fn run(&self, attempt: Attempt, input: String) -> Result<Bytes, Failure> {
        let line = format!("{input} by {}\n", attempt.fence);
        let mut bytes = line.repeat(BULK_BYTES.div_ceil(line.len())).into_bytes();
        bytes.truncate(BULK_BYTES);
        Ok(Bytes(bytes))
    }
}

/// Is nothing: submitted under a key that is known it conflicts, and runs where it should not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe;

impl Computation for Probe {
    const NAME: &'static str = "probe";
    type Input = ();
    type Output = ();
    type Kind = Pure;
}

impl HostFunction<Probe> for Remote {
    async fn run(&self, _attempt: Attempt, (): ()) -> Result<(), Failure> {
        Ok(())
    }
}

/// Writes a name outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = String;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for Remote {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        let key = attempt.remote_key.to_string();
        match self.ask(Ask::Put, &attempt, key, &input) {
            Answer::There(fence) => Ok(output(fence)),
            Answer::Stale => Err(Failure::retryable(STALE)),
            Answer::Busy => Err(Failure::retryable(BUSY)),
            Answer::Refused => Err(Failure::permanent("the outside refuses it")),
            Answer::Silence | Answer::Behind | Answer::Away => Err(Failure::in_doubt(SILENT)),
        }
    }
}

impl Reconcile<Put> for Remote {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: String) -> Reconciled<u64> {
        let key = attempt.remote_key.to_string();
        match self.ask(Ask::Stat, &attempt, key, &input) {
            Answer::There(fence) => Reconciled::Done(output(fence)),
            Answer::Away => Reconciled::NotDone,
            Answer::Stale => Reconciled::Unknown(STALE.to_owned()),
            Answer::Behind | Answer::Busy | Answer::Refused | Answer::Silence => {
                Reconciled::Unknown(SILENT.to_owned())
            }
        }
    }
}

/// Removes what a [`Put`] wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = String;
    type Step = Put;
}

impl UndoFunction<Remove> for Remote {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<Remove>) -> Result<(), Failure> {
        let key = undoing.step_key.to_string();
        match self.ask(Ask::Remove, &attempt, key, &undoing.argument) {
            Answer::Away => Ok(()),
            Answer::Stale => Err(Failure::retryable(STALE)),
            Answer::Busy => Err(Failure::retryable(BUSY)),
            Answer::There(_) | Answer::Refused | Answer::Behind | Answer::Silence => {
                Err(Failure::in_doubt(SILENT))
            }
        }
    }
}

/// What a [`Move`] is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Moving {
    name: String,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    Straight,
    GivesUp,
    Refused,
    Loops,
    Dawdles,
}

impl Moving {
    /// What an item's saga is to do.
    pub(crate) fn new(name: String, kind: Kind) -> Self {
        let way = match kind {
            Kind::MoveGivesUp => Way::GivesUp,
            Kind::MoveRefused => Way::Refused,
            Kind::MoveLoops => Way::Loops,
            Kind::MoveCancelled => Way::Dawdles,
            Kind::Move
            | Kind::Stamp
            | Kind::StampAccepted
            | Kind::Bulk
            | Kind::Digest
            | Kind::Put
            | Kind::PutAccepted
            | Kind::PutRefused => Way::Straight,
        };
        Self { name, way }
    }
}

/// Two writes at once, perhaps more, the pivot, and a last one.
#[derive(Debug)]
pub(crate) struct Move;

impl Saga for Move {
    const NAME: &'static str = "move";
    type Input = Moving;
    type Output = Vec<u64>;

    async fn run(&self, saga: SagaContext, moving: Moving) -> Result<Vec<u64>, SagaError> {
        let Moving { name, way } = moving;
        let part = |part: &str| plan::part(&name, part);
        let put = |step: &str| saga.step(step, Put, part(step)).undo(Remove, part(step));
        let both = (put("one").into_future(), put("two").into_future());
        let (one, two) = futures_util::future::try_join(both.0, both.1).await?;
        let mut outputs = vec![one, two];
        let rest = saga.random("rest")? % 3;
        let rest = if way == Way::Dawdles { rest * 4 } else { rest };
        saga.sleep("sleep", Duration::from_millis(rest)).await?;
        match way {
            Way::Straight | Way::Dawdles => {}
            Way::GivesUp => return Err(SagaError::failed("it gives up")),
            Way::Refused => outputs.push(put(REFUSED).await?),
            Way::Loops => {
                for round in 0..ROUNDS {
                    let name = part(&format!("loop {round}"));
                    let step = saga.scope("loop", round).step("put", Put, name.clone());
                    outputs.push(step.undo(Remove, name).await?);
                }
            }
        }
        outputs.push(saga.step("stamp", Stamp, part("stamp")).await?);
        let saga = saga.pivot().await?;
        outputs.push(saga.step("three", Put, part("three")).await?);
        Ok(outputs)
    }
}

/// An engine over the store in `store`. Everything is small, so that segments, checkpoints and
/// exports follow one another quickly.
pub(crate) fn builder(store: &Path, remote: &Remote) -> EngineBuilder {
    // An attempt that a kill interrupts counts, and nothing here is poison.
    let retry = RetryPolicy {
        attempts_max: 100_000,
        base: Duration::from_micros(500),
        cap: Duration::from_millis(8),
    };
    let mut storing = StoreOptions::default();
    storing.log.segment_bytes = 256 << 10;
    storing.log.first_segment_bytes = 32 << 10;
    storing.log.group_bytes_max = 16 << 10;
    storing.log.batch_bytes_max = 176 << 10;
    storing.log.backlog_bytes_max = 1 << 20;
    storing.log.reserve_bytes = 192 << 10;
    storing.sled.cache_bytes = 1 << 20;
    storing.sled.bloated_bytes_min = 2 << 20;
    storing.projector.checkpoint_bytes = 12 << 10;
    storing.projector.export_bytes_min = 24 << 10;
    storing.projector.blobs.bytes_min = 4 << 10;
    let options = Options {
        limits: Limits {
            input_bytes_max: 1 << 10,
            output_bytes_max: 16 << 10,
            reconciles_max: 100_000,
            // A kill while a saga has its turn is charged to it, and no saga here is to blame.
            saga_crashes_max: 1 << 20,
            retry,
            ..Limits::default()
        },
        store: storing,
        device: DeviceOptions {
            workers: 1,
            arena_bytes: 1 << 20,
            ..DeviceOptions::default()
        },
        io_bulkhead: BulkheadOptions {
            in_flight_max: 16,
            ..Options::default().io_bulkhead
        },
        close_timeout: CLOSE_TIMEOUT,
        ..Options::default()
    };
    debug_assert_eq!(options.io_bulkhead.name, HOST_IO);
    Engine::builder(store)
        .options(options)
        .pure(Stamp, remote.clone())
        .pure(Probe, remote.clone())
        .pure(Bulk, remote.clone())
        .external(Put, remote.clone())
        .undo(Remove, remote.clone())
        .saga(Move)
}
