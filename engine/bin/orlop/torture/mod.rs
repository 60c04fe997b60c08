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
//! | `kills/` | `--kills` |

mod code;
mod judge;
mod kills;
mod life;
mod outside;
mod plan;
mod report;
mod role;
mod told;
mod wire;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::plan::Plan;
use self::report::Report;

/// What to torture the engine with, for how long, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kills so many processes at random instants, aimed at all that they do: creating a store,
    /// recovering, working, checkpoints, closing. This is the default, with 300.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    kills: Option<u32>,
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
            match report.is_clean() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(1),
            }
        }
        Err(failed) => {
            eprintln!("orlop: {failed}");
            ExitCode::from(2)
        }
    }
}

fn torture(arguments: &Arguments) -> Result<Report, Failed> {
    let place = Folder::new(arguments.folder.as_deref())?;
    let plan = Plan {
        tenants: arguments.tenants,
        sagas_of_ten: arguments.sagas,
    };
    let kills = arguments.kills.unwrap_or(300);
    let mut report = kills::run(kills, arguments.seed, place.path(), plan)?;
    if !report.is_clean() {
        let folder = place.keep();
        let line = format!(
            "again with: orlop torture --kills {kills} --seed {} --tenants {} --sagas {}; \
             what there is of this run is in {}",
            arguments.seed,
            arguments.tenants,
            arguments.sagas,
            folder.display()
        );
        report.notes.push(line);
    }
    Ok(report)
}

/// Where everything is.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self, Failed> {
        if let Some(path) = given {
            let made = std::fs::create_dir_all(path).and_then(|()| std::fs::canonicalize(path));
            let path = made.map_err(|e| Failed::of("the folder cannot be used", &e))?;
            return Ok(Self::Given(path));
        }
        let fresh = tempfile::Builder::new().prefix("orlop-torture-").tempdir();
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
