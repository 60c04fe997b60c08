//! The end of the embedder's process: its device's process ends with it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

/// The embedder: says which process its device has, and never ends. Run by the test below.
#[test]
#[ignore = "the process that the test kills"]
fn embedder() {
    let epochs = epochs(|_| {});
    answers(&epochs.current(), ALICE);
    let device = epochs.current().process().unwrap();
    std::thread::spawn(move || {
        let mut fork = Command::new("true");
        let stay = move || {
            // The fork is a copy with everything that the embedder had open.
            let own = rustix::process::getpid().as_raw_nonzero();
            let line = format!("\ndevice {device} fork {own}\n");
            rustix::io::write(rustix::stdio::stdout(), line.as_bytes())?;
            loop {
                std::thread::park();
            }
        };
        fork_and_stay(&mut fork, stay);
    });
    loop {
        std::thread::park();
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library forks for nobody who does not ask so"
)]
fn fork_and_stay(
    command: &mut Command,
    stay: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: it writes one line and sleeps; nothing else runs in the fork, which is killed.
    unsafe { command.pre_exec(stay) };
    let _ = command.status();
}

#[test]
fn the_device_ends_with_the_embedder_also_where_a_fork_of_that_lives_on() {
    let mut embedder = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "child::tests::ends::embedder",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(embedder.stdout.take().unwrap()).lines();
    let line = said
        .map(Result::unwrap)
        .find(|line| line.starts_with("device "))
        .expect("the embedder came that far");
    let words: Vec<&str> = line.split(' ').collect();
    let (device, fork): (u32, u32) = (words[1].parse().unwrap(), words[3].parse().unwrap());
    assert!(runs(device) && runs(fork));
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    let began = Instant::now();
    while runs(device) {
        assert!(began.elapsed() < LIMIT, "it outlives its embedder");
        std::thread::yield_now();
    }
    assert!(runs(fork), "the fork did not live on");
    let fork = Pid::from_raw(i32::try_from(fork).unwrap()).unwrap();
    kill_process(fork, Signal::KILL).unwrap();
}

/// Whether the process runs; one that ended and that nobody waited for does not.
fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    let state = stat.ok().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        rest.trim_start().chars().next()
    });
    state.is_some_and(|state| state != 'Z' && state != 'X')
}
