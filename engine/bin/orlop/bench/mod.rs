//! `orlop bench`: suites of figures, each printed beside what it is measured against.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the command and the suites |
//! | `figure` | one figure, and its judgement |
//! | `report` | figures as a table, as JSON and as Markdown |
//! | `cpu` | the processor time of this process |
//! | `sample` | what was timed, and rounds of ours beside their limit |
//! | `disk`, `hop` | limits: the disk alone, two threads alone |
//! | `stage`, `workflow` | a fresh engine, and the sagas it plays |
//! | `foreign` | what another process measures |
//! | others | one suite each |
//!
//! A new suite is a file, a variant of [`Suite`] and a line in [`Suite::figures`].

mod admission;
mod cpu;
mod disk;
mod dispatch;
mod durable;
mod fairness;
mod figure;
mod foreign;
mod hop;
mod idle;
mod memory;
mod ops;
mod recovery;
mod report;
mod resident;
mod saga;
mod sample;
mod stage;
mod workflow;

use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use clap::ValueEnum;
use orlop::{CloseError, OpenError, ProjectorError, SubmitError, TenantError};

use self::figure::Figure;

/// What to measure, for how long, and where to write it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The suites, measured one after the other.
    #[arg(required = true, value_name = "SUITE")]
    suites: Vec<Suite>,
    /// How long each figure is measured in total, in seconds.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Also writes the figures to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also writes the figures into this page, as a Markdown table between its marks.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Measures here what otherwise has a process of its own.
    #[arg(long, hide = true)]
    here: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    /// The processor time of an open engine that has nothing to do.
    Idle,
    /// What asking for a permit costs.
    Admission,
    /// What a noisy neighbour changes for others.
    Fairness,
    /// What the device operations do per second on this machine.
    Ops,
    /// The way to the device and back, with nothing durable about it.
    Dispatch,
    /// Effects whose outcome is durable before anybody is told.
    Durable,
    /// Workflows of five durable steps.
    Saga,
    /// How soon an engine works again that left a million sagas behind.
    Recovery,
    /// What work in flight keeps in memory, and what it writes.
    Memory,
}

impl Suite {
    /// Measures every figure of the suite, each for `duration`.
    fn figures(self, duration: Duration, here: bool) -> Result<Vec<Figure>, BenchError> {
        match self {
            Self::Idle => Ok(vec![idle::measure(duration)?]),
            Self::Admission => admission::measure(duration),
            Self::Fairness => fairness::measure(duration),
            Self::Ops => ops::measure(duration),
            Self::Dispatch => dispatch::measure(duration),
            Self::Durable => durable::measure(duration),
            Self::Saga => saga::measure(duration),
            Self::Recovery => recovery::measure(),
            Self::Memory if here => memory::measure_here(),
            Self::Memory => memory::measure(),
        }
    }
}

/// Why something was not measured. No figure of its suite is printed or written.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// No fresh folder for a store. Free space, or set TMPDIR.
    #[error("no folder for the store")]
    Folder(#[source] std::io::Error),
    /// The engine did not open.
    #[error("the engine did not open")]
    Open(#[from] OpenError),
    /// A tenant was not registered.
    #[error("no tenant was registered")]
    Tenant(#[from] TenantError),
    /// Work that was to be done before did not end well.
    #[error("the work before the measurement failed")]
    Submit(#[from] SubmitError),
    /// What the disk alone does was not measured. Free space, or set TMPDIR.
    #[error("the disk was not measured")]
    Disk(#[source] std::io::Error),
    /// A store was not filled with sagas.
    #[error("the store was not filled: {0}")]
    Load(String),
    /// A program that measures was not started.
    #[error("no process could be started")]
    Program(#[source] std::io::Error),
    /// A program that measures ended without figures. What it said is above.
    #[error("the process that measures ended without figures: {status}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
    },
    /// No checkpoint was written before the measurement.
    #[error("no checkpoint was written")]
    Checkpoint(#[from] ProjectorError),
    /// The journal still prepares its space, which is no idling. Use a faster disk, or free space.
    #[error("the journal has not prepared its space within {} s", waited.as_secs())]
    Unprepared {
        /// How long was waited.
        waited: Duration,
    },
    /// No thread for those who submit.
    #[error("no thread could be started")]
    Thread(#[source] std::io::Error),
    /// Nothing ran while the capacity was to be measured, so no share is known.
    #[error("nothing ran while the capacity was measured")]
    NothingRan,
    /// The engine did not close cleanly.
    #[error("the engine did not close")]
    Close(#[from] CloseError),
    /// A bulkhead or a tenant of the bench was not made.
    #[error("admission was not set up: {0}")]
    Admission(String),
    /// The device, or an operation on it, did not do what was measured.
    #[error("the device did not do it: {0}")]
    Device(String),
    /// The system does not tell how much memory this process uses. Linux does.
    #[error("the system does not tell the memory of this process")]
    NoMemory,
    /// The system does not tell how much processor time this process has used.
    #[error("the system does not tell the processor time of this process")]
    #[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux always tells"))]
    NoClock,
}

impl BenchError {
    fn device(error: impl std::fmt::Display) -> Self {
        Self::Device(error.to_string())
    }

    fn load(error: impl std::fmt::Display) -> Self {
        Self::Load(error.to_string())
    }

    fn admission(error: impl std::fmt::Display) -> Self {
        Self::Admission(error.to_string())
    }
}

/// Measures, prints, writes; the exit code says whether every target was met.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let duration = Duration::from_secs(arguments.seconds.into());
    let mut figures = Vec::new();
    let mut failed = false;
    for suite in &arguments.suites {
        match suite.figures(duration, arguments.here) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                failed = true;
                tell(&format!("{suite:?} was not measured"), &error);
            }
        }
    }
    println!("{}", report::table(&figures));
    let json = arguments.json.as_ref();
    let json = json.map(|file| (file, report::write_json(file, &figures)));
    let markdown = arguments.markdown.as_ref();
    let markdown = markdown.map(|file| (file, report::write_markdown(file, &figures)));
    for (file, written) in json.into_iter().chain(markdown) {
        if let Err(error) = written {
            failed = true;
            tell(&format!("{} was not written", file.display()), &error);
        }
    }
    if failed {
        ExitCode::from(2)
    } else if figures.iter().any(Figure::is_missed) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints an error with everything behind it.
fn tell(what: &str, error: &dyn std::error::Error) {
    eprint!("orlop: {what}: {error}");
    let mut cause = error.source();
    while let Some(because) = cause {
        eprint!(": {because}");
        cause = because.source();
    }
    eprintln!();
}
