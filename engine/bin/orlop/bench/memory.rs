//! The suite `memory`: what work in flight keeps in memory, and what it writes.
//!
//! It runs in a process of its own, so that nothing was freed before that could be used again:
//! what is measured is how far the resident memory grows.

use std::future::pending;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use orlop::{
    Attempt, BulkheadOptions, Computation, Engine, Failure, HOST_IO, HostFunction, Key, Limits,
    Options, Pure, SagaStarting, SubmitError, wait,
};

use super::figure::Figure;
use super::saga::{IN_FLIGHT, roomy};
use super::sample::{Bound, Round, Subject, count};
use super::stage::Stage;
use super::workflow::{Nothing, Waiting, Workflow};
use super::{BenchError, foreign, resident};

const SUITE: &str = "memory";
const EFFECTS: usize = 50_000;
const SAGAS: usize = 10_000;
const WRITTEN: u64 = 20_000;
/// The flag that has this process measure.
pub(crate) const HERE: &str = "--here";

const EFFECT: Subject = Subject {
    id: "memory.effect",
    suite: SUITE,
    name: "an awaited effect that waits for its turn, its caller's future included",
    unit: "B",
    reference: "its input",
};
const SAGA: Subject = Subject {
    id: "memory.saga",
    suite: SUITE,
    name: "a saga that waits after two steps, its function and ticket included",
    unit: "B",
    reference: "its input",
};
const IDLE: Subject = Subject {
    id: "memory.idle",
    suite: SUITE,
    name: "what an open engine adds to a process",
    unit: "MiB",
    reference: "the process before",
};
const DISK: Subject = Subject {
    id: "memory.disk",
    suite: SUITE,
    name: "bytes that the journal writes for a five-step saga, 128 in flight",
    unit: "B",
    reference: "2 KiB",
};
const TABLES: Subject = Subject {
    id: "memory.disk.tables",
    suite: SUITE,
    name: "bytes passed to write for the same saga beside the journal: tables, checkpoints",
    unit: "B",
    reference: "the journal",
};

/// Measures every figure, in a fresh process.
pub(crate) fn measure() -> Result<Vec<Figure>, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::Program)?;
    foreign::measure(&program, &["bench", "memory", HERE])
}

/// Measures every figure, in this process.
pub(crate) fn measure_here() -> Result<Vec<Figure>, BenchError> {
    let before = resident::bytes()?;
    let stage = Stage::new(|builder| builder)?;
    let opened = resident::bytes()?.saturating_sub(before);
    stage.close()?;
    let idle = Round {
        value: mebibytes(opened),
        reference: mebibytes(before),
        samples: 1,
    };
    let (journal, tables) = disk()?;
    Ok(vec![
        IDLE.figure(&[Bound::Most(30.0)], vec![idle]),
        effects()?,
        sagas()?,
        DISK.figure(&[Bound::Most(2048.0)], vec![journal]),
        TABLES.figure(&[], vec![tables]),
    ])
}

/// Never ends.
#[derive(Clone, Copy)]
struct Held;

impl Computation for Held {
    const NAME: &'static str = "bench.held";
    type Input = u64;
    type Output = ();
    type Kind = Pure;
}

impl HostFunction<Held> for Held {
    async fn run(&self, _attempt: Attempt, _input: u64) -> Result<(), Failure> {
        pending().await
    }
}

/// Effects that are submitted and wait behind others that do not end.
fn effects() -> Result<Figure, BenchError> {
    let places = u32::try_from(2 * EFFECTS).unwrap_or(u32::MAX);
    let options = Options {
        io_bulkhead: BulkheadOptions {
            in_flight_max: 64,
            queue_max: places,
            queue_per_tenant_max: places,
            ..BulkheadOptions::new(HOST_IO)
        },
        ..Options::default()
    };
    let stage = Stage::new(|builder| builder.options(options).pure(Held, Held))?;
    let mut waiting = Vec::with_capacity(EFFECTS);
    let submit = |input: usize| {
        let mut submitted = stage.tenant.submit(Held, input as u64).into_future();
        let mut context = Context::from_waker(Waker::noop());
        match pin!(&mut submitted).poll(&mut context) {
            Poll::Pending => Ok(submitted),
            Poll::Ready(ended) => Err(ended.err().map_or(BenchError::NothingRan, Into::into)),
        }
    };
    // Those that run are there before, and so is what grows once and for all.
    let (early, rest) = (EFFECTS / 10, EFFECTS);
    for input in 0..early {
        waiting.push(submit(input)?);
    }
    let before = resident::bytes()?;
    for input in early..rest {
        waiting.push(submit(input)?);
    }
    let round = grown(before, rest - early)?;
    drop(waiting);
    // Some of them never end, so there is nothing to wait for: the engine is dropped.
    drop(stage);
    Ok(EFFECT.figure(&[Bound::Most(1024.0)], vec![round]))
}

/// Sagas whose functions are in memory and wait.
fn sagas() -> Result<Figure, BenchError> {
    let defaults = Options::default();
    let options = Options {
        limits: Limits {
            sagas_resident_max: 2 * SAGAS,
            ..defaults.limits
        },
        ..defaults
    };
    let build = |builder: orlop::EngineBuilder| {
        builder
            .options(options)
            .saga(Waiting)
            .undo(Nothing, Nothing)
    };
    let stage = Stage::new(build)?;
    let mut tickets = Vec::with_capacity(SAGAS);
    let early = SAGAS / 10;
    start(&stage, early, &mut tickets)?;
    let before = resident::bytes()?;
    start(&stage, SAGAS - early, &mut tickets)?;
    let round = grown(before, SAGAS - early)?;
    drop(tickets);
    stage.close()?;
    Ok(SAGA.figure(&[Bound::Most(4096.0)], vec![round]))
}

fn start(
    stage: &Stage,
    number: usize,
    tickets: &mut Vec<orlop::SagaTicket<()>>,
) -> Result<(), BenchError> {
    for _ in 0..number {
        tickets.push(wait(stage.tenant.start::<Waiting>(Key::fresh(), 1_u64))?);
    }
    // Both steps of each are delivered before anything is told of it as a wait.
    while !all_wait(&stage.engine, tickets.len()) {
        std::thread::yield_now();
    }
    Ok(())
}

/// Whether nothing of them runs or is on its way to the disk any more.
fn all_wait(engine: &Engine, sagas: usize) -> bool {
    let snapshot = engine.snapshot();
    let idle = snapshot
        .bulkheads
        .iter()
        .all(|of| of.ordinary.in_flight == 0);
    let recorded = snapshot.store.watermark >= orlop_saga::id::Lsn::new(RECORDS * sagas as u64);
    idle && recorded && snapshot.store.projected >= snapshot.store.watermark
}

/// Records of one that waits: its start, two calls and their ends, and the wait.
const RECORDS: u64 = 6;

fn grown(before: u64, number: usize) -> Result<Round, BenchError> {
    let grown = resident::bytes()?.saturating_sub(before);
    Ok(Round {
        value: count(usize::try_from(grown).unwrap_or(usize::MAX)) / count(number),
        reference: count(size_of::<u64>()),
        samples: number as u64,
    })
}

/// Runs so many workflows, always as many at once.
fn counted(number: u64, start: impl Fn() -> SagaStarting<Workflow>) -> Result<(), BenchError> {
    pollster::block_on(async {
        let run = |_| async { start().await?.await };
        let runs = futures_util::stream::iter(0..number).map(run);
        let mut runs = runs.buffer_unordered(IN_FLIGHT);
        while let Some(ended) = runs.next().await {
            ended.map(drop).map_err(|error: SubmitError| error)?;
        }
        Ok(())
    })
}

/// What is written for one workflow: to the journal, and beside it.
fn disk() -> Result<(Round, Round), BenchError> {
    let stage = Stage::new(roomy)?;
    let (journal_before, written_before) = (stage.journaled().0, written()?);
    let tenant = stage.tenant.clone();
    counted(WRITTEN, || tenant.start::<Workflow>(Key::fresh(), 1_u64))?;
    wait(stage.engine.checkpoint())?;
    let journal = stage.journaled().0 - journal_before;
    let all = written()?.saturating_sub(written_before);
    stage.close()?;
    let each = |bytes: u64| count(usize::try_from(bytes / WRITTEN).unwrap_or(usize::MAX));
    let round = |value, reference| Round {
        value,
        reference,
        samples: WRITTEN,
    };
    let tables = each(all.saturating_sub(journal));
    Ok((round(each(journal), 2048.0), round(tables, each(journal))))
}

/// Bytes that this process has passed to `write` and its kin.
///
/// # Source
/// Linux `proc_pid_io(5)`: `wchar`.
fn written() -> Result<u64, BenchError> {
    let io = std::fs::read_to_string("/proc/self/io").map_err(|_| BenchError::NoMemory)?;
    let line = io.lines().find_map(|line| line.strip_prefix("wchar:"));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .ok_or(BenchError::NoMemory)
}

fn mebibytes(bytes: u64) -> f64 {
    count(usize::try_from(bytes >> 10).unwrap_or(usize::MAX)) / 1024.0
}
