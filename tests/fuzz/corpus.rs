//! The committed corpus of the fuzz targets, through the very same code, on every toolchain.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod decoders;

use std::path::PathBuf;

/// The inputs of a target, each with its file's name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap();
    let mut inputs: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs every input; a finding is a panic, under the name that was printed last.
fn go_through<T>(target: &str, run: impl Fn(&[u8]) -> T) {
    let inputs = corpus(target);
    assert!(inputs.len() >= 3, "{} inputs of {target}", inputs.len());
    for (name, input) in inputs {
        println!("{target}/{name}");
        run(&input);
    }
}

#[test]
fn the_corpus_of_frames_is_read_or_refused_and_read_again_as_the_same() {
    go_through("frames", decoders::frames::run);
}

#[test]
fn the_corpus_of_records_folds_or_is_refused_and_survives_a_checkpoint() {
    go_through("records", decoders::records::run);
}

#[test]
fn the_corpus_of_files_is_read_or_refused() {
    go_through("files", decoders::files::run);
}

#[test]
fn the_corpus_of_histories_is_read_or_refused_and_read_again_as_the_same() {
    go_through("histories", decoders::histories::run);
}
