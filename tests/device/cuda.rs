//! An engine on a CUDA device: on the one that is there, and over a driver of our own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use orlop::{Backend, Blake3, Choice, Crc32c, CudaOptions, Engine, Noop, OpenError, Origin};

/// Where a passing test's own output is not swallowed.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The name under which this test is run once more, with another driver.
const ANSWERS: &str = "an_engine_on_a_cuda_device_answers_as_the_host_does";

#[test]
fn an_engine_on_a_cuda_device_answers_as_the_host_does() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let backend = Backend::Cuda(CudaOptions::default());
        let builder = Engine::builder(folder.path().join("store")).backend(backend);
        builder.open_blocking()
    };
    let engine = match open() {
        Ok(engine) => engine,
        Err(OpenError::Device(why)) => {
            return say(&format!("skipped: no CUDA device will do: {why}"));
        }
        Err(error) => panic!("{error}"),
    };
    assert!(matches!(engine.device_choice(), Choice::Cuda { .. }));
    say(&format!("ran on {}", engine.device_choice()));
    let inputs: Vec<Vec<u8>> = [0_usize, 1, 1025, 70_000]
        .map(|length| {
            (0..length)
                .map(|at| (at * 7 % 251).to_le_bytes()[0])
                .collect()
        })
        .to_vec();
    let tenant = engine.blocking().tenant("acme").unwrap();
    for input in &inputs {
        let digest = orlop::wait(tenant.submit(Blake3, input.clone())).unwrap();
        assert_eq!(digest.origin, Origin::Ran);
        assert_eq!(digest.output.as_bytes(), blake3::hash(input).as_bytes());
        let sum = orlop::wait(tenant.submit(Crc32c, input.clone())).unwrap();
        assert_eq!(sum.output, crc32c::crc32c(input));
    }
    orlop::wait(tenant.submit(Noop, 1_u64)).unwrap();
    let counts = engine.snapshot().device;
    assert_eq!((counts.done, counts.outstanding), (9, 0));
    orlop::wait(engine.close()).unwrap();
    // What was done is not done again.
    let engine = open().unwrap();
    let tenant = engine.blocking().tenant("acme").unwrap();
    for input in &inputs {
        let again = orlop::wait(tenant.submit(Blake3, input.clone())).unwrap();
        assert_eq!(again.origin, Origin::Replayed);
        assert_eq!(again.output.as_bytes(), blake3::hash(input).as_bytes());
    }
    orlop::wait(engine.close()).unwrap();
}

/// A folder with the driver that runs the kernel's source on this machine.
fn driver(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/kernel/fake_driver.cpp");
    let asked = std::env::var("CXX").ok();
    for compiler in asked.as_deref().into_iter().chain(["g++", "clang++"]) {
        let mut command = Command::new(compiler);
        command
            .args(["-std=c++17", "-O1", "-fno-strict-aliasing"])
            .args(["-ffp-contract=off", "-DORLOP_TEST_OPS", "-fPIC"])
            .args(["-shared", "-pthread", "-o"])
            .arg(folder.join("libcuda.so"))
            .arg(&source);
        if let Ok(said) = command.output() {
            let text = String::from_utf8_lossy(&said.stderr);
            assert!(said.status.success(), "{compiler}: {text}");
            return Some(folder.to_owned());
        }
    }
    say("skipped: no C++ compiler, so no engine ran over a driver of our own");
    None
}

#[test]
fn over_a_driver_of_our_own_it_is_the_same_and_everything_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(driver) = driver(folder.path()) else {
        return;
    };
    let report = folder.path().join("report");
    let named = module_path!().split_once("::").map(|(_, path)| path);
    let test = named.map_or(ANSWERS.to_owned(), |path| format!("{path}::{ANSWERS}"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env("LD_LIBRARY_PATH", driver)
        .env("ORLOP_FAKE_REPORT", &report)
        .env_remove("CUDA_LAUNCH_BLOCKING")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ran on CUDA device 0, Shim"), "{text}");
    let report = std::fs::read_to_string(report).unwrap();
    for held in [
        "contexts 0",
        "registered 0",
        "allocated 0",
        "streams 0",
        "modules 0",
    ] {
        assert!(report.lines().any(|line| line == held), "{held}: {report}");
    }
}
