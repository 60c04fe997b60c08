//! Tests of this side of CUDA: each in a process of its own, over a driver of our own that runs the
//! kernel's source on the shim (`kernel/fake_driver.cpp`).
//!
//! What is proven is everything but the chip: what is called, in which order, what becomes of what
//! a call says, and that both ends agree on memory, launches and their ends.

mod faults;
mod probes;
mod roles;
mod work;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::kernel::compiler::{Watch, program, say};

/// How a process ended that had the fake driver.
struct Told {
    output: Output,
    counts: HashMap<String, u64>,
}

impl Told {
    /// What the role printed behind this word, up to the end of the line.
    fn line(&self, word: &str) -> String {
        let text = String::from_utf8_lossy(&self.output.stdout).into_owned();
        let begin = format!("{word}: ");
        let line = text.lines().find_map(|line| line.split_once(&begin));
        let line = line.map(|(_, rest)| rest.to_owned());
        line.unwrap_or_else(|| panic!("no {word} in {text}"))
    }

    fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// What the driver was left with.
    fn held(&self) -> [u64; 5] {
        ["contexts", "registered", "allocated", "streams", "modules"].map(|name| self.count(name))
    }

    fn assert_success(&self, about: &str) {
        assert!(
            self.output.status.success(),
            "{about}: {}\n{}\n{}",
            self.output.status,
            String::from_utf8_lossy(&self.output.stdout),
            String::from_utf8_lossy(&self.output.stderr)
        );
    }
}

/// The folder of the fake driver; `None` if there is no compiler.
fn driver(extra: &[&str]) -> Option<PathBuf> {
    let flags: Vec<&str> = ["-fPIC", "-shared", "-pthread"]
        .into_iter()
        .chain(extra.iter().copied())
        .collect();
    let library = program("fake_driver", Watch::Nothing, &flags)?;
    let folder = library.with_extension("d");
    std::fs::create_dir_all(&folder).unwrap();
    // The first name that is looked for, so that a real driver is not found before it.
    let name = folder.join("libcuda.so");
    if !name.exists() {
        let scratch = folder.join(std::process::id().to_string());
        std::fs::copy(&library, &scratch).unwrap();
        std::fs::rename(&scratch, &name).unwrap();
    }
    Some(folder)
}

/// Runs a role in a process with the driver in `folder`, told these variables.
fn run(role: &str, folder: &std::path::Path, variables: &[(&str, &str)]) -> Told {
    let report = tempfile_name(role);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("cuda::tests::roles::{role}")])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", folder)
        .env("ORLOP_FAKE_ROLE", role)
        .env("ORLOP_FAKE_REPORT", &report)
        .env_remove("CUDA_LAUNCH_BLOCKING")
        .env_remove("CUDA_MODULE_LOADING")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in variables {
        command.env(name, value);
    }
    let child = command.spawn().unwrap();
    let id = child.id();
    let (told, ended) = channel();
    std::thread::spawn(move || told.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(Duration::from_mins(5)) else {
        // Its parent is the thread above, which goes on waiting; this test has failed.
        let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        panic!("{role} with {variables:?} hangs");
    };
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let _ = std::fs::remove_file(&report);
    let counts = text.lines().filter_map(|line| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    Told {
        output: output.unwrap(),
        counts: counts.collect(),
    }
}

fn tempfile_name(role: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let own = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let beside = std::env::current_exe().unwrap();
    beside.with_file_name(format!("orlop-fake-{role}-{}-{}", own.0, own.1))
}
