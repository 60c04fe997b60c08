//! Figures that another process measures: one that starts afresh, or one with other crates in it.

use std::path::Path;
use std::process::{Command, ExitStatus};

use super::BenchError;
use super::figure::Figure;

/// Runs a program that writes its figures to the file that it is told with `--json`.
pub(crate) fn measure(program: &Path, arguments: &[&str]) -> Result<Vec<Figure>, BenchError> {
    let folder = tempfile::tempdir().map_err(BenchError::Folder)?;
    let file = folder.path().join("figures.json");
    let status = Command::new(program)
        .args(arguments)
        .arg("--json")
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(BenchError::Program)?;
    read(&file, status)
}

fn read(file: &Path, status: ExitStatus) -> Result<Vec<Figure>, BenchError> {
    // A target that it missed is in the figures.
    let text = match std::fs::read(file) {
        Ok(text) if matches!(status.code(), Some(0 | 1)) => text,
        _ => return Err(BenchError::Ended { status }),
    };
    serde_json::from_slice(&text).map_err(|_| BenchError::Ended { status })
}
