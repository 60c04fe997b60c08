//! The committed corpus of the fuzz targets, through the very same code, on every toolchain.

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

/// Runs every input; the most that any of them had accepted.
fn most(target: &str, run: impl Fn(&[u8]) -> usize) -> usize {
    let inputs = corpus(target);
    let all = inputs.iter().map(|(name, input)| {
        println!("{target}/{name}");
        run(input)
    });
    all.max().unwrap_or_default()
}

#[test]
fn the_corpus_of_frames_is_read_or_refused_and_read_again_as_the_same() {
    let records = most("frames", |input| {
        decoders::frames::run(input).unwrap_or_default()
    });
    assert!(records > 10, "{records} records at most");
    let refused = corpus("frames")
        .iter()
        .filter(|(_, input)| decoders::frames::run(input).is_none())
        .count();
    assert!(refused > 0, "nothing is refused");
}

#[test]
fn the_corpus_of_records_folds_or_is_refused_and_survives_a_checkpoint() {
    let folded = most("records", decoders::records::run);
    assert!(folded > 10, "{folded} events at most");
}

#[test]
fn the_corpus_of_files_is_read_or_refused() {
    for which in [
        decoders::files::CHECKPOINT,
        decoders::files::EXPORT,
        decoders::files::ROWS,
    ] {
        let accepted = corpus("files")
            .iter()
            .filter(|(_, input)| input.first().is_some_and(|first| first % 3 == which))
            .filter(|(_, input)| decoders::files::run(input))
            .count();
        assert!(accepted > 0, "no input of kind {which} is accepted");
    }
}

#[test]
fn the_corpus_of_histories_is_read_or_refused_and_read_again_as_the_same() {
    let accepted = most("histories", |input| {
        usize::from(decoders::histories::run(input))
    });
    assert_eq!(accepted, 1, "none is accepted");
}
