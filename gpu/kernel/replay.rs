//! Replay: the kernel on the host shim against a peer that writes late, out of order and wrong.

use std::path::PathBuf;

use super::compiler::{Watch, program, run, say};
use super::script::Script;
use super::starved;

/// How many scripts, and how many interleavings of each.
const SCRIPTS: u64 = 3;
const SEEDS: u64 = 2;

/// A folder of this run's own: the tests run at the same time. Gone with the test, even a failed one.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let name = format!("orlop-scripts-{}-{name}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Plays a script, `seeds` times from seed `first` on; what the program counted, unless there is no
/// compiler.
pub(super) fn play(
    folder: &Folder,
    script: &Script,
    watch: Watch,
    first: u64,
    seeds: u64,
) -> Option<String> {
    let program = program("replay", watch, &[])?;
    let path = folder.0.join(first.to_string());
    std::fs::write(&path, script.bytes()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let arguments = [path, first.to_string(), seeds.to_string()];
    let said = run(&program, &arguments);
    let line = String::from_utf8_lossy(&said.stdout);
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{arguments:?}: {line}\n{text}");
    Some(line.into_owned())
}

/// What the program counted under this name.
fn count(line: &str, name: &str) -> u64 {
    let mut words = line.split_whitespace();
    words.find(|word| *word == name);
    words
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn replay(watch: Watch) {
    let seeds: u64 = std::env::var("ORLOP_KERNEL_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(SEEDS);
    let names = [
        "interleavings",
        "ops",
        "results",
        "slots",
        "switches",
        "launches",
        "damaged",
        "ended-early",
    ];
    let mut totals = [0; 8];
    let folder = Folder::new(&format!("{watch:?}"));
    for script in 0..SCRIPTS {
        let (seed, first) = (script + 1, script * 1000 + 1);
        let Some(line) = play(&folder, &Script::whole(seed), watch, first, seeds) else {
            return;
        };
        for (total, name) in totals.iter_mut().zip(names) {
            *total += count(&line, name);
        }
    }
    let told = names
        .iter()
        .zip(totals)
        .map(|(name, total)| format!("{name} {total}"));
    say(&format!(
        "kernel on the host shim, {}: {}",
        watch.name(),
        told.collect::<Vec<_>>().join(", ")
    ));
    let [
        interleavings,
        ops,
        results,
        _,
        switches,
        launches,
        damaged,
        early,
    ] = totals;
    assert_eq!(interleavings, SCRIPTS * seeds);
    assert!(
        ops > interleavings * 20 && results > interleavings * 5,
        "few ran"
    );
    assert!(launches > interleavings, "no kernel was ever replaced");
    assert!(
        switches > ops && damaged > 0 && early > 0,
        "too kind a peer"
    );
}

#[test]
fn no_interleaving_with_a_bad_peer_races_or_changes_an_answer() {
    replay(Watch::Threads);
}

#[test]
fn no_interleaving_with_a_bad_peer_leaves_its_memory_or_the_language() {
    replay(Watch::Memory);
}

#[test]
fn a_task_that_needs_all_pages_is_not_starved_by_a_stream_of_small_ones() {
    let folder = Folder::new("pages");
    for seed in 1..4 {
        play(
            &folder,
            &starved::of_pages(seed),
            Watch::Nothing,
            4 * seed,
            3,
        );
    }
}

#[test]
fn every_operation_answers_as_this_side_does() {
    let folder = Folder::new("operations");
    for script in 1..13 {
        let seed = 7919 * script;
        // Of three interleavings one is stopped early; these are the other two.
        let first = 3 * script + 1;
        play(
            &folder,
            &Script::of_operations(seed),
            Watch::Nothing,
            first,
            2,
        );
    }
}
