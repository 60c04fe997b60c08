//! The suite `ops`: what the device operations do per second on this machine's host megakernel.
//!
//! Each goes through the device: an entry on the ring, tiles on the workers, a completion. What it
//! is measured against takes turns with it, so that a busy machine disturbs both alike; a figure is
//! the median of its runs. Answers are compared with what the other side found.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use orlop::{ElementType, TenantId, VectorMetric, le_bytes};
use orlop_gpu::aggregate::program::{Bounds, Column, ColumnType, Function, Program};
use orlop_gpu::topk::query::Query;
use orlop_gpu::{
    Blake3, Blake3Many, BufferId, BufferRef, Completed, Completion, Crc32c, Crc32cPages, Device,
    DeviceOptions, FilterAggregate, Opcode, Status, Task, VectorTopk,
};

use super::BenchError;
use super::figure::{Figure, Measured};

const SUITE: &str = "ops";
/// Bytes of the one large input: well beyond every cache.
const BYTES: usize = 256 << 20;
/// Figures that are measured one after the other.
const FIGURES: u32 = 6;
const RUNS_MIN: usize = 5;
const TENANT: TenantId = TenantId::new(0, 1);
const ITEM_BYTES: usize = 4096;
const PAGES: usize = 16_384;
const DIMENSIONS: usize = 128;

/// Measures every figure, all together for about `duration`.
pub(crate) fn measure(duration: Duration) -> Result<Vec<Figure>, BenchError> {
    let each = duration / FIGURES;
    let house = House::new()?;
    let bytes = random_bytes(BYTES);
    let mut figures = Vec::new();
    {
        let input = house.put(&bytes)?;
        figures.push(blake3(&house, &input, &bytes, each)?);
        figures.push(blake3_many(&house, &input, &bytes, each)?);
        figures.push(crc32c(&house, &input, &bytes, each)?);
        figures.push(crc32c_pages(&house, &input, &bytes, each)?);
        house.free(&input)?;
    }
    drop(bytes);
    figures.push(aggregate(&house, each)?);
    figures.push(topk(&house, each)?);
    Ok(figures)
}

fn blake3(
    house: &House,
    input: &Input,
    bytes: &[u8],
    duration: Duration,
) -> Result<Figure, BenchError> {
    let (ours, theirs) = turns(
        duration,
        || house.run(Blake3::OPCODE, &[], &[input.reference]),
        || {
            let mut hasher = ::blake3::Hasher::new();
            hasher.update_rayon(bytes);
            hasher.finalize().as_bytes().to_vec()
        },
        PartialEq::eq,
    )?;
    let measured = gigabytes("ops.blake3", "blake3 of one large input", BYTES, &ours);
    Ok(measured.at_least(0.9, "the blake3 crate with rayon", BYTES, &theirs))
}

fn blake3_many(
    house: &House,
    input: &Input,
    bytes: &[u8],
    duration: Duration,
) -> Result<Figure, BenchError> {
    let items = Blake3Many::ITEMS_MAX;
    let length = items * ITEM_BYTES;
    let bounds: Vec<u64> = (0..=items).map(|item| (item * ITEM_BYTES) as u64).collect();
    let bounds = house.put(&le_bytes(&bounds))?;
    let part = input.first(length);
    let (ours, theirs) = turns(
        duration,
        || house.run(Blake3Many::OPCODE, &[], &[part, bounds.reference]),
        || {
            let items = bytes.get(..length).unwrap_or_default().chunks(ITEM_BYTES);
            items
                .flat_map(|item| *::blake3::hash(item).as_bytes())
                .collect()
        },
        PartialEq::eq,
    )?;
    house.free(&bounds)?;
    let name = "blake3 of 2,048 items of 4 KiB";
    let measured = gigabytes("ops.blake3_many", name, length, &ours);
    Ok(measured.beside("the blake3 crate, one after the other", length, &theirs))
}

fn crc32c(
    house: &House,
    input: &Input,
    bytes: &[u8],
    duration: Duration,
) -> Result<Figure, BenchError> {
    let (ours, theirs) = turns(
        duration,
        || house.run(Crc32c::OPCODE, &[], &[input.reference]),
        || ::crc32c::crc32c(bytes).to_le_bytes().to_vec(),
        PartialEq::eq,
    )?;
    let measured = gigabytes("ops.crc32c", "crc32c of one large input", BYTES, &ours);
    Ok(measured.at_least(0.9, "the crc32c crate", BYTES, &theirs))
}

fn crc32c_pages(
    house: &House,
    input: &Input,
    bytes: &[u8],
    duration: Duration,
) -> Result<Figure, BenchError> {
    let page = BYTES / PAGES;
    let argument = u32::try_from(page).unwrap_or(u32::MAX);
    let (ours, theirs) = turns(
        duration,
        || house.run(Crc32cPages::OPCODE, &[argument], &[input.reference]),
        || {
            let pages = bytes.chunks(page);
            pages
                .flat_map(|page| ::crc32c::crc32c(page).to_le_bytes())
                .collect()
        },
        PartialEq::eq,
    )?;
    let name = "crc32c of 16,384 pages of 16 KiB";
    let measured = gigabytes("ops.crc32c_pages", name, BYTES, &ours);
    Ok(measured.beside("the crc32c crate, one after the other", BYTES, &theirs))
}

/// The sixth query of TPC-H, beside reading its columns on as many threads as there are workers.
fn aggregate(house: &House, duration: Duration) -> Result<Figure, BenchError> {
    // A date of 4 bytes, and discount, quantity and price of 8 each.
    let rows = BYTES / 28;
    let mut random = fastrand::Rng::with_seed(6);
    let dates: Vec<i32> = (0..rows).map(|_| random.i32(8035..10_592)).collect();
    let mut column = |values: std::ops::Range<i64>| -> Vec<i64> {
        (0..rows).map(|_| random.i64(values.clone())).collect()
    };
    let (discount, quantity, price) = (column(0..11), column(1..51), column(90_000..10_494_951));
    let columns = [
        le_bytes(&dates),
        le_bytes(&discount),
        le_bytes(&quantity),
        le_bytes(&price),
    ];
    let mut expected = (0_u64, 0_i128);
    let table = dates.iter().zip(&discount).zip(&quantity).zip(&price);
    for (((date, discount), quantity), price) in table {
        if (8766..9131).contains(date) && (5..=7).contains(discount) && *quantity < 24 {
            expected.0 += 1;
            expected.1 += i128::from(*price) * i128::from(*discount);
        }
    }
    let inputs = columns.iter().map(|column| house.put(column));
    let inputs = inputs.collect::<Result<Vec<Input>, _>>()?;
    let windows: Vec<BufferRef> = inputs.iter().map(|input| input.reference).collect();
    let args = q6(rows as u64).encode().map_err(BenchError::device)?;
    let (ours, theirs) = turns(
        duration,
        || house.run(FilterAggregate::OPCODE, &args, &windows),
        || {
            for column in &columns {
                read(column, house.workers);
            }
            let (selected, revenue) = (expected.0.to_le_bytes(), expected.1.to_le_bytes());
            [&selected[..], &selected, &revenue].concat()
        },
        PartialEq::eq,
    )?;
    for input in &inputs {
        house.free(input)?;
    }
    let bytes = rows * 28;
    let measured = gigabytes("ops.aggregate", "the sixth query of TPC-H", bytes, &ours);
    Ok(measured.at_least(0.9, "reading its columns", bytes, &theirs))
}

fn q6(rows: u64) -> Program {
    let column = |kind, least, greatest| Column {
        kind,
        nullable: false,
        range: Some(Bounds::Integers { least, greatest }),
    };
    let price = Column {
        kind: ColumnType::I64,
        nullable: false,
        range: None,
    };
    Program {
        rows,
        columns: [
            column(ColumnType::I32, 8766, 9130),
            column(ColumnType::I64, 5, 7),
            column(ColumnType::I64, i64::MIN, 23),
            price,
        ]
        .into_iter()
        .collect(),
        functions: [Function::SumOfProducts { column: 3, by: 1 }]
            .into_iter()
            .collect(),
    }
}

/// Reads all bytes, on so many threads.
fn read(bytes: &[u8], threads: usize) {
    each_part(bytes, 1 << 18, threads, |part| {
        let mut lanes = [0_u64; 32];
        for block in part.as_chunks::<256>().0 {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane ^= u64::from_le_bytes(*word);
            }
        }
        black_box(lanes);
    });
}

/// Calls `work` with each part of so many bytes, on so many threads that take turns.
fn each_part<T: Sync>(all: &[T], part: usize, threads: usize, work: impl Fn(&[T]) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(part, Ordering::Relaxed);
                    if from >= all.len() {
                        break;
                    }
                    work(
                        all.get(from..(from + part).min(all.len()))
                            .unwrap_or_default(),
                    );
                }
            });
        }
    });
}

/// One query vector, beside a loop that only finds the greatest inner product.
fn topk(house: &House, duration: Duration) -> Result<Figure, BenchError> {
    let mut random = fastrand::Rng::with_seed(7);
    let elements = BYTES / 4;
    let vectors: Vec<f32> = (0..elements).map(|_| random.f32() - 0.5).collect();
    let query: Vec<f32> = vectors.iter().take(DIMENSIONS).copied().collect();
    let (input, queries) = (
        house.put(&le_bytes(&vectors))?,
        house.put(&le_bytes(&query))?,
    );
    let asked = Query {
        metric: VectorMetric::InnerProduct,
        element: ElementType::F32,
        dimensions: u32::try_from(DIMENSIONS).unwrap_or(u32::MAX),
        k: 10,
    };
    let args = asked.encode().map_err(BenchError::device)?;
    let (ours, theirs) = turns(
        duration,
        || {
            house.run(
                VectorTopk::OPCODE,
                &args,
                &[input.reference, queries.reference],
            )
        },
        || {
            greatest(&vectors, &query, house.workers)
                .to_le_bytes()
                .to_vec()
        },
        // The loop sums in another order.
        |ours: &Vec<u8>, theirs: &Vec<u8>| {
            let best = ours.get(12..16).and_then(|score| score.try_into().ok());
            let best = best.map_or(f32::NAN, f32::from_le_bytes);
            let loops = theirs
                .first_chunk()
                .map_or(f32::NAN, |b| f32::from_le_bytes(*b));
            (best - loops).abs() <= 1e-4 * loops.abs()
        },
    )?;
    house.free(&input)?;
    house.free(&queries)?;
    let name = "the 10 nearest to one of many vectors of 128 f32";
    let measured = gigabytes("ops.topk", name, BYTES, &ours);
    Ok(measured.beside("a plain loop for the nearest", BYTES, &theirs))
}

fn greatest(vectors: &[f32], query: &[f32], threads: usize) -> f32 {
    let best = Mutex::new(f32::NEG_INFINITY);
    each_part(vectors, 2048 * DIMENSIONS, threads, |part| {
        let own = pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                part.chunks_exact(DIMENSIONS)
                    .map(|vector| {
                        let mut lanes = [0.0_f32; 32];
                        let pairs = vector
                            .as_chunks::<32>()
                            .0
                            .iter()
                            .zip(query.as_chunks::<32>().0);
                        for (vector, query) in pairs {
                            for (lane, (one, other)) in
                                lanes.iter_mut().zip(vector.iter().zip(query))
                            {
                                *lane += one * other;
                            }
                        }
                        lanes.iter().sum()
                    })
                    .fold(f32::NEG_INFINITY, f32::max)
            },
        );
        let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
        *best = best.max(own);
    });
    best.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds of each run.
struct Timed(Vec<f64>);

impl Timed {
    fn median(&self) -> f64 {
        let mut runs = self.0.clone();
        runs.sort_by(f64::total_cmp);
        runs.get(runs.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Runs ours and theirs in turns, and sees that their answers agree.
fn turns<T>(
    duration: Duration,
    ours: impl Fn() -> Result<T, BenchError>,
    theirs: impl Fn() -> T,
    agree: impl Fn(&T, &T) -> bool,
) -> Result<(Timed, Timed), BenchError> {
    // Once before: pages are touched, and threads are there.
    if !agree(&ours()?, &theirs()) {
        return Err(BenchError::Device(
            "another answer than the reference".to_owned(),
        ));
    }
    let begun = Instant::now();
    let (mut our_runs, mut their_runs) = (Vec::new(), Vec::new());
    while our_runs.len() < RUNS_MIN || begun.elapsed() < duration {
        let start = Instant::now();
        black_box(ours()?);
        our_runs.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        black_box(theirs());
        their_runs.push(start.elapsed().as_secs_f64());
    }
    Ok((Timed(our_runs), Timed(their_runs)))
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
fn per_second(bytes: usize, timed: &Timed) -> f64 {
    bytes as f64 / timed.median() / 1e9
}

fn gigabytes(id: &'static str, name: &'static str, bytes: usize, timed: &Timed) -> Measured {
    Measured {
        id,
        suite: SUITE,
        name,
        value: per_second(bytes, timed),
        unit: "GB/s",
        samples: timed.0.len() as u64,
        median_of: u32::try_from(timed.0.len()).unwrap_or(u32::MAX),
    }
}

impl Measured {
    fn at_least(self, times: f64, reference: &'static str, bytes: usize, theirs: &Timed) -> Figure {
        let beside = per_second(bytes, theirs);
        let target = format!("at least {times} times the reference");
        let met = self.value >= times * beside;
        Figure::beside(&self, reference, beside, Some((target, met)))
    }

    fn beside(self, reference: &'static str, bytes: usize, theirs: &Timed) -> Figure {
        Figure::beside(&self, reference, per_second(bytes, theirs), None)
    }
}

fn random_bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(5).fill(&mut bytes);
    bytes
}

/// A buffer on the device.
struct Input {
    id: BufferId,
    reference: BufferRef,
}

impl Input {
    fn first(&self, length: usize) -> BufferRef {
        BufferRef {
            length: length as u64,
            ..self.reference
        }
    }
}

/// A device with as many workers as it has by default.
struct House {
    device: Device,
    workers: usize,
}

impl House {
    fn new() -> Result<Self, BenchError> {
        let options = DeviceOptions {
            arena_bytes: (BYTES + (64 << 20)) as u64,
            ..DeviceOptions::default()
        };
        let device = Device::open(&options, Vec::new()).map_err(BenchError::device)?;
        device
            .register_tenant_generation(TENANT)
            .map_err(BenchError::device)?;
        let workers = device.snapshot().workers.len();
        Ok(Self { device, workers })
    }

    fn put(&self, bytes: &[u8]) -> Result<Input, BenchError> {
        let buffers = self.device.buffers();
        let id = buffers.put(TENANT, bytes).map_err(BenchError::device)?;
        let header = buffers.header(TENANT, id).map_err(BenchError::device)?;
        let reference = BufferRef {
            digest: header.digest,
            offset: 0,
            length: bytes.len() as u64,
        };
        Ok(Input { id, reference })
    }

    fn free(&self, input: &Input) -> Result<(), BenchError> {
        let freed = self.device.buffers().free(TENANT, input.id);
        freed.map(drop).map_err(BenchError::device)
    }

    /// One operation, from its entry to its result.
    fn run(
        &self,
        opcode: Opcode,
        args: &[u32],
        windows: &[BufferRef],
    ) -> Result<Vec<u8>, BenchError> {
        let mut task = Task::new(opcode, TENANT);
        task.args = args.iter().copied().collect();
        for window in windows {
            let bound = self.device.buffers().bind(TENANT, window);
            task.windows.push(bound.map_err(BenchError::device)?);
        }
        let (sender, receiver) = channel::<Completed>();
        let sender = Mutex::new(sender);
        let done = move |completed| {
            // The receiver waits for it.
            let _ = sender.lock().map(|sender| sender.send(completed));
        };
        let done: Arc<dyn Completion> = Arc::new(done);
        self.device
            .publish(task, done)
            .map_err(BenchError::device)?;
        let completed = receiver.recv().map_err(BenchError::device)?;
        match completed.status {
            Status::Done => Ok(completed.result.to_vec()),
            Status::Failed { .. }
            | Status::Cancelled
            | Status::Expired
            | Status::Refused(_)
            | Status::Faulted
            | Status::Lost { .. } => Err(BenchError::Device(format!("{:?}", completed.status))),
        }
    }
}
