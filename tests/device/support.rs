//! Operations for a device's process, and engines that have one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orlop::op::{OpError, Output, Partial, TaskArgs};
use orlop::{
    ChildOptions, Computation, DeviceFunction, DeviceHost, DeviceMain, DeviceOptions, Engine,
    EngineBuilder, Failure, HostOp, Limits, Opcode, Options, Plan, Pure, Source,
};

pub(crate) const LIMIT: Duration = Duration::from_mins(5);
const ENTRY: &str = "support::entering_returns_in_any_process_but_a_devices";

#[test]
fn entering_returns_in_any_process_but_a_devices() {
    DeviceMain::new().op(Stamp).op(Bomb).enter();
    let name = std::env::args().next().unwrap();
    assert_ne!(name, "orlop-device", "it returned in a device's process");
}

/// Works for a while, and says of which run of it in which process the answer is: a run that was
/// made twice has another answer.
#[derive(Clone, Copy)]
pub(crate) struct Stamp;

impl Computation for Stamp {
    const NAME: &'static str = "stamp";
    type Input = u32;
    type Output = (u32, u32, u64);
    type Kind = Pure;
}

impl DeviceFunction<Stamp> for Stamp {
    fn opcode(&self) -> Opcode {
        HostOp::opcode(self)
    }
    fn op(&self) -> Option<Arc<dyn HostOp>> {
        Some(Arc::new(*self))
    }
    fn plan(&self, input: u32) -> Result<Plan, Failure> {
        Ok(Plan {
            args: [input].into_iter().collect(),
            ..Plan::default()
        })
    }
    fn output(&self, result: &[u8]) -> Result<(u32, u32, u64), Failure> {
        let word = |at: usize| u32::from_le_bytes(result[at..at + 4].try_into().unwrap());
        let run = u64::from_le_bytes(result[8..16].try_into().unwrap());
        Ok((word(0), word(4), run))
    }
}

impl HostOp for Stamp {
    fn opcode(&self) -> Opcode {
        Opcode::new(0x4000_0001)
    }
    fn name(&self) -> &'static str {
        "stamp"
    }
    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(1500) {
            std::hint::spin_loop();
        }
        Ok(Partial::EMPTY)
    }
    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let input = task.arg(0).unwrap_or(u32::MAX);
        out.write(&input.to_le_bytes())?;
        out.write(&std::process::id().to_le_bytes())?;
        out.write(&RUNS.fetch_add(1, Ordering::Relaxed).to_le_bytes())
    }
}

/// Aborts its process for as long as the file exists that its input names.
#[derive(Clone, Copy)]
pub(crate) struct Bomb;

impl Computation for Bomb {
    const NAME: &'static str = "bomb";
    type Input = Source;
    type Output = u32;
    type Kind = Pure;
}

impl DeviceFunction<Bomb> for Bomb {
    fn opcode(&self) -> Opcode {
        HostOp::opcode(self)
    }
    fn op(&self) -> Option<Arc<dyn HostOp>> {
        Some(Arc::new(*self))
    }
    fn plan(&self, input: Source) -> Result<Plan, Failure> {
        Ok(Plan {
            sources: [input].into_iter().collect(),
            ..Plan::default()
        })
    }
    fn output(&self, result: &[u8]) -> Result<u32, Failure> {
        Ok(u32::from_le_bytes(result.try_into().unwrap()))
    }
}

impl HostOp for Bomb {
    fn opcode(&self) -> Opcode {
        Opcode::new(0x4000_0002)
    }
    fn name(&self) -> &'static str {
        "bomb"
    }
    fn run_tile(&self, _: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        let path = String::from_utf8_lossy(task.window(0).unwrap()).into_owned();
        if Path::new(&path).exists() {
            std::process::abort();
        }
        Ok(Partial::EMPTY)
    }
    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        out.write(&7_u32.to_le_bytes())
    }
}

pub(crate) fn builder(folder: &Path, device_losses_max: u32) -> EngineBuilder {
    let options = Options {
        device: DeviceOptions {
            workers: 2,
            arena_bytes: 8 << 20,
            ..DeviceOptions::default()
        },
        limits: Limits {
            device_losses_max,
            ..Limits::default()
        },
        ..Options::default()
    };
    let host = DeviceHost::Child(ChildOptions {
        args: ["--exact", ENTRY].map(Into::into).to_vec(),
        start_max: LIMIT,
        silence_max: LIMIT,
        tile_max: LIMIT,
    });
    let builder = Engine::builder(folder.join("store")).options(options);
    let builder = builder.device_host(host);
    builder.device(Stamp, Stamp).device(Bomb, Bomb)
}

/// The process of the device that follows `losses` losses.
pub(crate) fn process_after(engine: &Engine, losses: u64) -> u32 {
    let began = Instant::now();
    loop {
        let snapshot = engine.snapshot();
        if snapshot.device_losses == losses
            && let Some(process) = snapshot.device_process
        {
            return process;
        }
        assert!(began.elapsed() < LIMIT, "no device follows: {losses}");
        std::thread::yield_now();
    }
}

pub(crate) fn kill(process: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    // It may be gone already.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Whether the process runs; one that ended and that nobody waited for does not.
pub(crate) fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    let state = stat.ok().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        rest.trim_start().chars().next()
    });
    state.is_some_and(|state| state != 'Z' && state != 'X')
}
