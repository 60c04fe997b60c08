//! Roles: what a process of this program is to do when another one of it starts it.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

use super::Failed;
use super::kills::child;

/// What a process is to do, told to it on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Work until it is killed.
    Kill(child::Order),
}

/// Starts a process for a role. Its standard output is for the caller to read.
pub(crate) fn start(role: &Role, errors: File) -> Result<Child, Failed> {
    let program = std::env::current_exe().map_err(|e| Failed::of("this program is gone", &e))?;
    let mut child = Command::new(program)
        .args(["torture", "--role"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|e| Failed::of("a child cannot be started", &e))?;
    let told = serde_json::to_vec(role).map_err(|e| Failed::of("a role cannot be told", &e))?;
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(&told);
        written.map_err(|e| Failed::of("a child does not listen", &e))?;
    }
    Ok(child)
}

/// Plays the role that is told on the standard input.
pub(crate) fn play() -> ExitCode {
    let role = serde_json::from_reader(std::io::stdin());
    let played = match role {
        Ok(Role::Kill(order)) => child::work(&order),
        Err(error) => Err(Failed::of("no role", &error)),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("orlop: {failed}");
            ExitCode::from(2)
        }
    }
}
