//! The parent: starts children, kills them, and compares what they said with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use orlop::wait;

use crate::child::{FOLDER, MARK, WAVE, WAVE_ITEMS, item, writes};
use crate::code::builder;
use crate::ledger::Ledger;

/// Everything that children were told.
#[derive(Debug, Default)]
struct Told {
    accepted: BTreeSet<u64>,
    done: BTreeMap<u64, String>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (what, number) = (words.next().unwrap(), words.next());
        let number = number.and_then(|number| number.parse::<u64>().ok());
        match (what, number) {
            ("opening" | "open" | "closing" | "closed", None) => {}
            ("accepted", Some(number)) => {
                self.accepted.insert(number);
            }
            ("done", Some(number)) => {
                let outcome = words.next().unwrap().to_owned();
                let before = self.done.insert(number, outcome.clone());
                let same = before.as_ref().is_none_or(|before| *before == outcome);
                assert!(same, "item {number} was {before:?} and is {outcome}");
            }
            _ => panic!("a child says {line:?}"),
        }
    }
}

fn start(folder: &Path, wave: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child::child", "--nocapture"])
        .env(FOLDER, folder)
        .env(WAVE, wave.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a child until it has said `lines` lines, kills it, and hears the rest of what it said;
/// true if it had closed by itself.
fn run(folder: &Path, wave: u64, lines: u64, spins: u32, told: &mut Told) -> bool {
    let mut child = start(folder, wave);
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut heard = 0;
    let mut closed = false;
    for line in output.lines() {
        let Ok(line) = line else { break };
        let Some(line) = line.strip_prefix(MARK) else {
            continue;
        };
        told.hear(line);
        closed |= line == "closed";
        heard += 1;
        if heard == lines {
            // Varies where the child is by then; nothing waits for it.
            (0..spins).for_each(|_| std::hint::spin_loop());
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    assert!(killed || (status.success() && closed), "{status}");
    closed
}

fn asked(name: &str, default: u64) -> u64 {
    let asked = std::env::var(name).ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// After the last kill: everything acknowledged is as it was said, everything accepted ends.
fn verify(folder: &Path, items: u64, told: &Told) {
    let ledger = Ledger::open(folder);
    let engine = builder(folder, &ledger).open_blocking().unwrap();
    for number in 0..items {
        let label = format!("tenant {}", number % 3);
        let tenant = engine.blocking().tenant(&label).unwrap();
        let outcome = wait(item(&tenant, number, || ())).unwrap();
        if let Some(said) = told.done.get(&number) {
            assert_eq!(*said, outcome, "item {number}");
        }
    }
    engine.blocking().close().unwrap();
    let known = ledger.known();
    for number in 0..items {
        for (name, expected) in writes(number) {
            let named: Vec<_> = known.values().filter(|known| known.name == name).collect();
            let puts: u32 = named.iter().map(|known| known.puts).sum();
            let removes: u32 = named.iter().map(|known| known.removes).sum();
            assert!(puts <= 1, "{name} was written {puts} times");
            assert_eq!(puts - removes, expected, "{name}");
        }
    }
}

#[test]
fn whatever_moment_a_process_is_killed_at_no_acknowledged_outcome_is_lost_and_none_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let kills = asked("ORLOP_CRASH_KILLS", 30);
    let mut random = fastrand::Rng::with_seed(asked("ORLOP_CRASH_SEED", 1));
    let mut told = Told::default();
    let (mut killed, mut wave) = (0, 0);
    while killed < kills {
        let lines = random.u64(1..=26);
        let spins = random.u32(0..200_000);
        if run(folder.path(), wave, lines, spins, &mut told) {
            wave += 1;
        } else {
            killed += 1;
        }
        // Whoever is killed early goes on with the same wave a few times, and then with the next.
        if random.u8(0..4) == 0 {
            wave += 1;
        }
    }
    verify(folder.path(), (wave + 1) * WAVE_ITEMS, &told);
    assert!(
        told.done.len() > 10,
        "too little was acknowledged: {told:?}"
    );
    assert!(!told.accepted.is_empty());
}
