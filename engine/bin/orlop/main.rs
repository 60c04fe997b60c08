//! `orlop`: measures the engine on the machine at hand, tortures it, and looks after its stores.

mod bench;
mod torture;
mod vault;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Durable GPU work for databases: measure it here, see what it survives, look after its stores.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures, and prints every figure beside what it is measured against. Exits with 1 if a
    /// target is missed, with 2 if something could not be measured.
    Bench(bench::Arguments),
    /// Kills processes that work, and checks against a ledger kept outside that nothing was lost,
    /// done twice, left behind or forgotten. Exits with 1 if something was, with 2 if it could not
    /// be tried.
    Torture(torture::Arguments),
    /// Reads everything in the folder of a closed store, or in a backup, and compares it; changes
    /// nothing. Exits with 1 if something is wrong, with 2 if it could not be looked at.
    Check(vault::Check),
    /// Backs up a closed store into a new or empty folder. An open one is backed up by the program
    /// that has it open.
    Backup(vault::Backup),
    /// Makes the store of a backup again. It keeps its id: never open the original again.
    Restore(vault::Restore),
    /// Makes another store of a backup, with an id of its own. What the original goes on with waits
    /// for an operator in it.
    Clone(vault::Restore),
    /// Moves a closed store on to the newest format. Older versions cannot open it from then on.
    Upgrade(vault::Upgrade),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Torture(arguments) => torture::run(&arguments),
        Command::Check(arguments) => vault::check(&arguments),
        Command::Backup(arguments) => vault::backup(&arguments),
        Command::Restore(arguments) => vault::restore(&arguments),
        Command::Clone(arguments) => vault::clone(&arguments),
        Command::Upgrade(arguments) => vault::upgrade(&arguments),
    }
}
