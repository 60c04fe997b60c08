//! `orlop`: measures the engine on the machine at hand.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Durable GPU work for databases: measure it here.
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
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Bench(arguments) => bench::run(&arguments),
    }
}
