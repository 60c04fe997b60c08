//! Durable work on real files, through a SIGKILL.
//!
//! `cargo run --release --example quickstart -- [DIR]`
//!
//! Cuts every file under DIR (by default this repository) into segments in a fresh folder. A child
//! process opens an engine there; three tenants submit digests and checksums of their segments,
//! and an eviction saga per segment moves it into a local object store. Part of the way, with
//! uploads on the wire, the child is killed. A second one recovers and finishes. Then this process
//! checks what came of it without asking the engine.
//!
//! | file | noun |
//! | --- | --- |
//! | `plan` | the segments, and what was left out |
//! | `local` | the local copies |
//! | `remote` | the object store, as its keeper runs it |
//! | `ledger` | what the remote says it has done |
//! | `acks` | what the child was told by the engine |
//! | `child` | the process that works |
//! | `parent` | the process that starts, kills, and watches it |
//! | `verify` | the independent check |
//! | `report` | the table |

mod acks;
mod child;
mod ledger;
mod local;
mod parent;
mod plan;
mod remote;
mod report;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Whatever went wrong, in words.
type Problem = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: quickstart [DIR]

Moves every file under DIR (default: this repository) in segments into a local object store,
through a kill and a recovery, and checks the result. DIR itself is only read.";

/// What to do about a full disk.
const ROOM: &str = "set TMPDIR to a folder with space and start again";

fn main() -> ExitCode {
    // The parent starts this program again with these set.
    if let Some((folder, life)) = child::role() {
        return ended("child", child::work(&folder, life).map(|()| true));
    }
    let mut arguments = std::env::args_os().skip(1).peekable();
    // Cargo takes this one away; whoever starts the built program itself may still write it.
    let _ = arguments.next_if(|argument| argument == "--");
    let dir = match (arguments.next(), arguments.next()) {
        (None, _) => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        (Some(help), _) if help == "-h" || help == "--help" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        (Some(dir), None) => PathBuf::from(dir),
        (Some(_), Some(extra)) => return misused(&extra),
    };
    ended("quickstart", run(&dir))
}

fn misused(extra: &OsString) -> ExitCode {
    let extra = extra.display();
    eprintln!("quickstart: one DIR is enough, {extra} is too much\n\n{USAGE}");
    ExitCode::from(2)
}

fn ended(who: &str, result: Result<bool, Problem>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{who}: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Does it all; whether the check found nothing wrong.
fn run(dir: &Path) -> Result<bool, Problem> {
    let folder = tempfile::Builder::new()
        .prefix("orlop-quickstart-")
        .tempdir()
        .map_err(|error| format!("there is no folder to work in: {error}; {ROOM}"))?;
    let places = Places::new(folder.path());
    places.create()?;
    println!("reading {}", dir.display());
    let plan = plan::Plan::cut(dir, &places)?;
    plan.print_omissions();
    let worked = parent::run(&plan, &places).and_then(|story| {
        let mismatches = verify::check(&plan, &places, &story)?;
        Ok((story, mismatches))
    });
    let (story, mismatches) = match worked {
        Ok(worked) => worked,
        Err(problem) => {
            let kept = folder.keep();
            return Err(format!(
                "{problem}\nnot verified; everything is kept in {} until you remove it\n\
                 if the disk is full: {ROOM}",
                kept.display()
            )
            .into());
        }
    };
    println!("{}", report::table(&plan, &story));
    if mismatches.is_empty() {
        println!("verified");
        return Ok(true);
    }
    for mismatch in &mismatches {
        println!("mismatch: {mismatch}");
    }
    let kept = folder.keep();
    println!("not verified; everything is kept in {}", kept.display());
    Ok(false)
}

/// Where everything is, within one fresh folder.
#[derive(Clone, Debug)]
struct Places {
    /// The engine's store.
    store: PathBuf,
    /// The local copies.
    local: PathBuf,
    /// The objects.
    remote: PathBuf,
    /// The remote's ledger.
    ledger: PathBuf,
    /// The plan, for the child.
    plan: PathBuf,
    root: PathBuf,
}

impl Places {
    fn new(root: &Path) -> Self {
        Self {
            store: root.join("store"),
            local: root.join("local"),
            remote: root.join("remote"),
            ledger: root.join("ledger"),
            plan: root.join("plan"),
            root: root.to_owned(),
        }
    }

    /// What the child of this life was told, line by line.
    fn acks(&self, life: u32) -> PathBuf {
        self.root.join(format!("acks.{life}"))
    }

    fn create(&self) -> std::io::Result<()> {
        std::fs::create_dir(&self.local)?;
        std::fs::create_dir(&self.remote)
    }
}
