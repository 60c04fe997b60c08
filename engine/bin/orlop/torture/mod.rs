//! `orlop torture`: proves durability on this machine, with processes that die, disks that lose
//! what was not synced, and an outside that keeps a ledger.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the command |
//! | `plan` | the items that are to be done |
//! | `code` | what they run |
//! | `outside` | what external effects change, and how it misbehaves |
//! | `wire` | the way from a child to the outside |
//! | `life` | one engine that items are given to |
//! | `told` | what engines acknowledged |
//! | `judge` | what was told, against what is outside |
//! | `report` | counts, and the last line |
//! | `role` | processes of this program that another one starts |
//! | `shim` | the system calls of this program, on their way |
//! | `tape` | what they changed, in order; faults on request |
//! | `platter` | what a disk holds, and what a loss of power may leave |
//! | `witness` | what engines of this process say, put on the tape |
//! | `kills/` | `--kills` |
//! | `power/` | `--power-loss` |
//! | `errors/` | `--io-errors` |

mod code;
mod errors;
mod judge;
mod kills;
mod life;
mod outside;
mod plan;
mod platter;
mod power;
mod report;
mod role;
mod shim;
mod tape;
mod told;
mod wire;
mod witness;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::plan::Plan;
use self::report::Report;

/// Kills where nothing else is asked for.
const KILLS: u32 = 300;
/// Where files are in memory, if the system has it: images are many and short-lived.
const MEMORY: &str = "/dev/shm";

/// What to torture the engine with, for how long, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kills so many processes at random instants, aimed at all that they do: creating a store,
    /// recovering, working, checkpoints, backups, closing. This is the default, with 300.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    kills: Option<u32>,
    /// Checks images of what the disk may hold after a loss of power, at random instants of
    /// recorded work, and again in the recovery of each.
    #[arg(long, conflicts_with = "kills")]
    power_loss: bool,
    /// How many images.
    #[arg(long, value_name = "M", requires = "power_loss", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    images: u64,
    /// Has every change of the store's folder fail, once and from then on: with an error of the
    /// device, without space, and written in part.
    #[arg(long, conflicts_with_all = ["kills", "power_loss"])]
    io_errors: bool,
    /// Lets only every so manieth change fail.
    #[arg(long, value_name = "K", requires = "io_errors", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    stride: u64,
    /// Only this image, of what a run that found something wrong has left in DIR; or only this
    /// fault, as such a run has numbered it.
    #[arg(long, value_name = "POINT", conflicts_with = "kills")]
    only: Option<u64>,
    /// Decides what is done, what fails and when; when a process is killed also depends on how
    /// fast it is.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where to work; kept if something is wrong. By default a fresh folder for temporary files.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// How many tenants share the work.
    #[arg(long, value_name = "T", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    tenants: u32,
    /// How many of ten items are sagas.
    #[arg(long, value_name = "K", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=10))]
    sagas: u32,
    /// For processes that this program starts: what to do comes on the standard input.
    #[arg(long, hide = true)]
    role: bool,
}

/// Why nothing was proved, one way or the other.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl Failed {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// With everything behind an error.
    fn of(what: &str, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(because) = cause {
            text = format!("{text}: {because}");
            cause = because.source();
        }
        Self(text)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many stores are tortured at once.
fn lanes() -> u32 {
    let processors = std::thread::available_parallelism();
    processors.map_or(1, |count| u32::try_from(count.get()).unwrap_or(1).min(16))
}

/// Tortures; the exit code says whether everything was as it should be (0), something was not (1),
/// or it could not be tried (2).
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if arguments.role {
        return role::play();
    }
    match torture(arguments) {
        Ok(report) => {
            report.print();
            if report.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        Err(failed) => {
            eprintln!("orlop: {failed}");
            ExitCode::from(2)
        }
    }
}

fn torture(arguments: &Arguments) -> Result<Report, Failed> {
    if arguments.only.is_some() && arguments.power_loss && arguments.folder.is_none() {
        return Err(Failed::new(
            "--only with --power-loss needs the --folder of its recording",
        ));
    }
    let in_memory = arguments.power_loss || arguments.io_errors;
    let place = Folder::new(arguments.folder.as_deref(), in_memory)?;
    let plan = Plan {
        tenants: arguments.tenants,
        sagas_of_ten: arguments.sagas,
    };
    let mut report = if arguments.power_loss {
        let wanted = power::Wanted {
            images: arguments.images,
            seed: arguments.seed,
            only: arguments.only,
        };
        power::run(&wanted, place.path(), plan)?
    } else if arguments.io_errors {
        let wanted = errors::Wanted {
            seed: arguments.seed,
            stride: arguments.stride,
            only: arguments.only.and_then(errors::fault),
        };
        errors::run(&wanted, place.path(), plan)?
    } else {
        let kills = arguments.kills.unwrap_or(KILLS);
        kills::run(kills, arguments.seed, place.path(), plan)?
    };
    if !report.is_clean() {
        report.notes.push(again(arguments, &place.keep()));
    }
    Ok(report)
}

/// What is needed to see it again.
fn again(arguments: &Arguments, folder: &Path) -> String {
    let mode = if arguments.power_loss {
        format!("--power-loss --only IMAGE --folder {}", folder.display())
    } else if arguments.io_errors {
        "--io-errors --only FAULT".to_owned()
    } else {
        format!("--kills {}", arguments.kills.unwrap_or(KILLS))
    };
    format!(
        "again with: orlop torture {mode} --seed {} --tenants {} --sagas {}; what there is of this \
         run is in {}",
        arguments.seed,
        arguments.tenants,
        arguments.sagas,
        folder.display()
    )
}

/// Where everything is.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(given: Option<&Path>, in_memory: bool) -> Result<Self, Failed> {
        if let Some(path) = given {
            let made = std::fs::create_dir_all(path).and_then(|()| std::fs::canonicalize(path));
            let path = made.map_err(|e| Failed::of("the folder cannot be used", &e))?;
            return Ok(Self::Given(path));
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("orlop-torture-");
        let fresh = if in_memory {
            builder.tempdir_in(MEMORY).or_else(|_| builder.tempdir())
        } else {
            builder.tempdir()
        };
        let fresh = fresh.map_err(|e| Failed::of("no folder to work in; set TMPDIR", &e))?;
        Ok(Self::Temporary(fresh))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// It stays when this process has ended.
    fn keep(self) -> PathBuf {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.keep(),
        }
    }
}
