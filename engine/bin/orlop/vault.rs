//! Stores at rest: checks, backups, what is made of them, and the move to a newer format.
//!
//! Exit codes: 0 done, 1 something is wrong with the store, 2 it could not be done.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use orlop::store::projector::Unobserved;
use orlop::store::store::{Recovered, Store};
use orlop::{
    AuditEntry, ChainHead, Incarnation, RestoreError, RestoreOptions, Restored, StoreId,
    StoreOptions, SystemClock,
};

/// How long is waited for a store to close.
const PATIENCE: Duration = Duration::from_mins(10);

/// Which folder is checked.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The folder of a closed store, or of a backup.
    folder: PathBuf,
    /// A head of the audit trail that was kept elsewhere, as `ENTRIES:DIGEST`: is everything up to
    /// it there and unchanged?
    #[arg(long)]
    audit_head: Option<ChainHead>,
    /// Print the audit trail, one entry a line.
    #[arg(long)]
    audit: bool,
}

/// From where to where is backed up.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The folder of a closed store.
    store: PathBuf,
    /// A new or empty folder.
    into: PathBuf,
}

/// From where to where is restored.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The folder of a backup.
    backup: PathBuf,
    /// A new or empty folder.
    into: PathBuf,
    /// An incarnation that the original certainly never reached. By default the wall clock, in
    /// milliseconds, says one: give this where it may be behind that of an earlier restore.
    #[arg(long)]
    incarnation_min: Option<u64>,
}

/// What is upgraded.
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// The folder of a closed store.
    store: PathBuf,
}

fn ended(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprintln!("  {error}");
                source = error.source();
            }
            ExitCode::from(2)
        }
    }
}

/// Checks a store or a backup and prints every finding.
pub(crate) fn check(arguments: &Check) -> ExitCode {
    let folder = &arguments.folder;
    if folder.join("BACKUP").exists() {
        return match orlop::verify_backup(folder) {
            Ok(backup) => {
                println!("a sound backup: {}", describe(&backup));
                check_audit(arguments, backup.store)
            }
            Err(error) => {
                println!("{error}");
                ExitCode::from(1)
            }
        };
    }
    let report = match orlop::check(folder) {
        Ok(report) => report,
        Err(error) => return ended(Err(error.into())),
    };
    for finding in &report.findings {
        println!("{finding}");
    }
    if report.more > 0 {
        println!("and {} more", report.more);
    }
    if report.torn {
        println!("a write at the end was never finished; opening cuts it off");
    }
    let store = report
        .store
        .map_or("unknown".to_owned(), |id| id.to_string());
    let format = report
        .format
        .map_or("unknown".to_owned(), |format| format.to_string());
    println!(
        "store {store}, format {format}: {} segments, {} frames, {} records folded, last {}; \
         {} checkpoints, {} exports, {} rows, {} blobs; {} findings",
        report.segments,
        report.frames,
        report.records,
        report.last,
        report.checkpoints,
        report.exports,
        report.rows,
        report.blobs,
        report.findings.len() as u64 + report.more,
    );
    let audit = report
        .store
        .map_or(ExitCode::from(1), |store| check_audit(arguments, store));
    if report.is_sound() {
        audit
    } else {
        ExitCode::from(1)
    }
}

/// Verifies the audit trail of a store or a backup.
fn check_audit(arguments: &Check, store: StoreId) -> ExitCode {
    let seen = |number, entry: &AuditEntry| {
        if arguments.audit {
            println!(
                "{number} {} lsn {} {:?}",
                entry.at.get(),
                entry.lsn,
                entry.event
            );
        }
    };
    match orlop::verify_audit(&arguments.folder, store, arguments.audit_head, seen) {
        Ok(trail) => {
            println!("audit trail: head {}, {} pruned", trail.head, trail.pruned);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("audit trail: {error}");
            ExitCode::from(1)
        }
    }
}

/// Opens a store that is there, for as long as `with` takes.
fn open<T>(
    folder: &Path,
    upgrade: bool,
    with: impl FnOnce(&Store, &Recovered) -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let options = StoreOptions {
        create: false,
        upgrade,
        ..StoreOptions::default()
    };
    let clock = Arc::new(SystemClock::default());
    let (store, recovered) = Store::open(folder, options, clock, Arc::new(Unobserved))?;
    let done = with(&store, &recovered)?;
    store.close(PATIENCE)?;
    Ok(done)
}

fn describe(backup: &orlop::Backup) -> String {
    format!(
        "store {} up to record {}, incarnation {}, {} bytes of rows, {} blobs of {} bytes",
        backup.store,
        backup.lsn,
        backup.incarnation,
        backup.export_bytes,
        backup.blobs,
        backup.blob_bytes
    )
}

/// Backs a closed store up.
pub(crate) fn backup(arguments: &Backup) -> ExitCode {
    let backed_up = open(&arguments.store, false, |store, _| {
        Ok(store.backup(&arguments.into)?)
    });
    ended(backed_up.map(|backup| println!("backed up and read back: {}", describe(&backup))))
}

type Make = fn(&Path, &Path, RestoreOptions) -> Result<Restored, RestoreError>;

fn make(arguments: &Restore, make: Make) -> ExitCode {
    let options = RestoreOptions {
        incarnation_min: arguments.incarnation_min.map(Incarnation::new),
        ..RestoreOptions::default()
    };
    let made = make(&arguments.backup, &arguments.into, options);
    let said = made.map(|made| {
        println!(
            "store {} as it was at record {}, above incarnation {}",
            made.store, made.backup.lsn, made.incarnation
        );
    });
    ended(said.map_err(Into::into))
}

/// Makes the store of a backup again.
pub(crate) fn restore(arguments: &Restore) -> ExitCode {
    make(arguments, |from, into, options| {
        orlop::restore(from, into, options)
    })
}

/// Makes another store of a backup.
pub(crate) fn clone(arguments: &Restore) -> ExitCode {
    make(arguments, |from, into, options| {
        orlop::clone_store(from, into, options)
    })
}

/// Moves a store on to the newest format.
pub(crate) fn upgrade(arguments: &Upgrade) -> ExitCode {
    let upgraded = open(&arguments.store, true, |_, recovered| Ok(recovered.format));
    ended(upgraded.map(|format| println!("it is in format {format}")))
}
