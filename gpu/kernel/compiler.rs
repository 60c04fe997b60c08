//! Compiler: the kernel's source as a program of this machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// What a program is watched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Nothing,
    Threads,
    Memory,
}

impl Watch {
    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &["-O2"],
            Self::Threads => &["-O1", "-g", "-fsanitize=thread"],
            Self::Memory => &["-O1", "-g", "-fsanitize=address,undefined", FATAL],
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no sanitizer",
            Self::Threads => "ThreadSanitizer",
            Self::Memory => "AddressSanitizer and UBSan",
        }
    }
}

const FATAL: &str = "-fno-sanitize-recover=all";
const COMMON: [&str; 7] = [
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-DORLOP_TEST_OPS",
];

/// Says it where a passing test's own output is not swallowed.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel")
}

fn compilers() -> Vec<String> {
    let asked = std::env::var("CXX").ok();
    let usual = ["g++", "clang++"].map(str::to_owned);
    asked.into_iter().chain(usual).collect()
}

/// The first C++ compiler that answers. Where there is none the proofs cannot run, and that is said.
pub(super) fn compiler() -> Option<String> {
    let found = compilers().into_iter().find(|compiler| {
        let asked = Command::new(compiler).arg("--version").output();
        asked.is_ok_and(|said| said.status.success())
    });
    if found.is_none() {
        say("skipped: no C++ compiler, so the kernel was not run on the host shim");
    }
    found
}

/// Every source of the kernel, in order of name.
pub(super) fn sources() -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let kinds = ["cuh", "cu", "h", "cpp"];
    let mut paths: Vec<_> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|e| kinds.iter().any(|k| e == *k))
        })
        .collect();
    paths.sort();
    paths
}

fn digest(compiler: &str, flags: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for path in sources() {
        hasher.update(&std::fs::read(path).unwrap());
    }
    hasher.update(compiler.as_bytes());
    for flag in COMMON.iter().chain(flags) {
        hasher.update(flag.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Held while something is compiled, so that tests of one process do not compile the same twice.
static COMPILING: Mutex<()> = Mutex::new(());

/// The program `name`, compiled beside this test's own; `None` if there is no compiler.
pub(crate) fn program(name: &str, watch: Watch, extra: &[&str]) -> Option<PathBuf> {
    let compiler = compiler()?;
    let flags: Vec<&str> = watch.flags().iter().chain(extra).copied().collect();
    let beside = std::env::current_exe()
        .unwrap()
        .with_file_name("orlop-kernel");
    std::fs::create_dir_all(&beside).unwrap();
    let _compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    let made = beside.join(format!("{name}-{}", digest(&compiler, &flags)));
    if made.exists() {
        return Some(made);
    }
    let scratch = made.with_extension(std::process::id().to_string());
    let mut command = Command::new(&compiler);
    command.args(COMMON).args(&flags).arg("-o").arg(&scratch);
    command.arg(folder().join(format!("{name}.cpp")));
    let said = command.output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success(),
        "{compiler} refused {name}.cpp:\n{text}"
    );
    // Whole or not at all: another process may compile the same.
    std::fs::rename(&scratch, &made).unwrap();
    Some(made)
}

/// Runs a program to its end. Address space randomisation is off where that can be said:
/// `ThreadSanitizer` of some compilers does not start with as much of it as some kernels give.
pub(super) fn run(program: &Path, arguments: &[String]) -> Output {
    let plain = |command: &mut Command| command.args(arguments).output().unwrap();
    let fixed = Command::new("setarch")
        .args(["-R", "true"])
        .output()
        .is_ok_and(|said| said.status.success());
    if fixed {
        plain(Command::new("setarch").arg("-R").arg(program))
    } else {
        plain(&mut Command::new(program))
    }
}
