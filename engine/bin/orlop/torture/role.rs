//! Roles: what a process of this program is to do when another one of it starts it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Failed;
use super::errors::work;
use super::kills::child;
use super::power::{check, record};

/// What a process is to do, told to it on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Work until it is killed.
    Kill(child::Order),
    /// Record a store at work.
    Record(record::Order),
    /// Check images.
    Images(check::Order),
    /// Work on a failing disk.
    Errors(work::Order),
}

/// How long a process may say nothing at all.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The file that children of one folder complain into.
pub(crate) fn errors(folder: &Path) -> Result<File, Failed> {
    let path = folder.join("stderr");
    let file = File::options().create(true).append(true).open(path);
    file.map_err(|e| Failed::of("no file for what children complain of", &e))
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

/// How a process ended that was heard to its end.
pub(crate) enum Heard {
    /// By itself, and well.
    Ended,
    /// Otherwise.
    Died(ExitStatus),
    /// It was killed, because it had said nothing for so many seconds.
    Silent(u64),
}

/// Starts a process for a role and hears every line of it.
pub(crate) fn hear<L: DeserializeOwned + Send>(
    role: &Role,
    folder: &Path,
    mut hear: impl FnMut(L),
) -> Result<Heard, Failed> {
    let mut child = start(role, errors(folder)?)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(Failed::new("a child has no standard output"));
    };
    let (tell, told) = crossbeam_channel::unbounded();
    let heard = std::thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str::<L>(&line)
                    && tell.send(line).is_err()
                {
                    return;
                }
            }
        });
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(line) => hear(line),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    // Dead already is as good.
                    let _ = child.kill();
                    return Some(Heard::Silent(PATIENCE.as_secs()));
                }
            }
        }
    });
    let status = child
        .wait()
        .map_err(|e| Failed::of("a child has no end", &e))?;
    Ok(match heard {
        Some(silent) => silent,
        None if status.success() => Heard::Ended,
        None => Heard::Died(status),
    })
}

/// Says a line to whoever has started this process.
pub(crate) fn say(line: &impl Serialize) -> Result<(), Failed> {
    let mut text = serde_json::to_string(line).map_err(|e| Failed::of("a line", &e))?;
    text.push('\n');
    let mut stdout = std::io::stdout();
    let said = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    said.map_err(|e| Failed::of("nobody listens", &e))
}

/// Plays the role that is told on the standard input.
pub(crate) fn play() -> ExitCode {
    let role = serde_json::from_reader(std::io::stdin());
    let played = match role {
        Ok(Role::Kill(order)) => child::work(&order),
        Ok(Role::Record(order)) => record::record(&order),
        Ok(Role::Images(order)) => check::check(&order),
        Ok(Role::Errors(order)) => work::work(&order),
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
