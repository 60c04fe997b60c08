//! `orlop`: measures the engine on the machine at hand, and tortures it.

mod bench;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Durable GPU work for databases: measure it here, and see what it survives.
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
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Torture(arguments) => torture::run(&arguments),
    }
}
