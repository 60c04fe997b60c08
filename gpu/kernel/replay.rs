//! Replay: the kernel on the host shim against a peer that writes late, out of order and wrong.

use std::path::PathBuf;

use super::compiler::{Watch, program, run, say};
use super::script::Script;

/// How many scripts, and how many interleavings of each.
const SCRIPTS: u64 = 3;
const SEEDS: u64 = 2;

/// A folder of this run's own: the tests run at the same time. Gone with the test, even a failed one.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn scripts(watch: Watch) -> (Folder, Vec<PathBuf>) {
    let name = format!("orlop-scripts-{}-{watch:?}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&folder.0).unwrap();
    let written = (0..SCRIPTS).map(|seed| {
        let path = folder.0.join(format!("{seed}"));
        std::fs::write(&path, Script::whole(seed + 1).bytes()).unwrap();
        path
    });
    let written = written.collect();
    (folder, written)
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
    let Some(program) = program("replay", watch, &[]) else {
        return;
    };
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
    let (_folder, scripts) = scripts(watch);
    for (first, script) in (1..).step_by(1000).zip(scripts) {
        let arguments = [
            script.to_str().unwrap().to_owned(),
            first.to_string(),
            seeds.to_string(),
        ];
        let said = run(&program, &arguments);
        let line = String::from_utf8_lossy(&said.stdout);
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{arguments:?}: {line}\n{text}");
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
