//! Seeds: what the fuzz targets begin with, taken from stores that an engine wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop::store::disk::{Disk, FileDisk, SimDisk};
use orlop::store::log::{FileLog, LogOptions};
use orlop::store::tables::Change;
use orlop::store::tables::export::{ExportEnd, ExportWriter};
use orlop::{Engine, Key, Options, SignalId, StoreId, StoreOptions, WallMillis};
use orlop_saga::compat::Format;
use orlop_saga::history::History;
use orlop_saga::id::Lsn;
use orlop_saga::live::Live;
use orlop_store::checkpoint::{self, Checkpoint};
use orlop_store::projection;

use crate::chain::{Chain, Link, Plan, SIGNAL, TOLD};
use crate::decoders::{self, STORE, files, frames, joined};
use crate::outside::{Outside, Put, Remove, Weather, Worth};

const PAGE: usize = 4096;

/// A store with effects, and sagas that completed and unwound.
fn live(path: &Path) {
    let outside = Outside::default();
    let view = outside.view(1);
    let weather = [Weather::Retryable, Weather::DoubtAfter];
    outside.forecast("forward/0", &weather);
    let engine = Engine::builder(path)
        .options(options())
        .pure(Worth, view.clone())
        .external(Put, view.clone())
        .undo(Remove, view)
        .saga(Chain)
        .open_blocking()
        .unwrap();
    pollster::block_on(async {
        let tenant = engine.tenant("seed").await.unwrap();
        tenant.submit(Worth, "first").await.unwrap();
        let put = tenant.submit(Put, "second").key(Key::named("second"));
        put.await.unwrap();
        let all = [
            Link::PUT,
            Link::pair(),
            Link::Nap,
            Link::Note,
            Link::Signal,
            Link::WORTH,
        ];
        for (name, gives_up) in [("forward", false), ("backward", true)] {
            let plan = Plan {
                name: name.to_owned(),
                before: all.to_vec(),
                after: Some(vec![Link::PUT]),
                gives_up,
            };
            let key = Key::named(name);
            let starting = tenant.start::<Chain>(key, plan);
            let ticket = starting
                .finish_within(Duration::from_mins(9))
                .await
                .unwrap();
            let id = SignalId::named("once");
            tenant.signal(key, SIGNAL, id, &TOLD).await.unwrap();
            let _ = ticket.await;
        }
    });
    engine.blocking().close().unwrap();
}

fn options() -> Options {
    let mut store = StoreOptions::default();
    store.log.reserve_bytes = 0;
    Options {
        store,
        ..Options::default()
    }
}

/// The frames of a segment without the zeros at their ends, as pieces.
fn frames_of(segment: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = PAGE;
    while segment.get(at..at + 4) == Some(b"OFRM") {
        let length = u32::from_le_bytes(segment[at + 8..at + 12].try_into().unwrap());
        let whole = 32 + usize::try_from(length).unwrap();
        frames.push(segment[at..at + whole].to_vec());
        at += whole.next_multiple_of(PAGE);
    }
    frames
}

/// An input of a target, and the name of its file.
struct Seed {
    target: &'static str,
    name: String,
    input: Vec<u8>,
}

fn seed(target: &'static str, name: impl Into<String>, input: &[u8]) -> Seed {
    Seed {
        target,
        name: name.into(),
        input: input.to_vec(),
    }
}

fn read_all(folder: &Path, prefix: &str, suffix: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        })
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// The bodies of an export's frames behind their kinds.
fn export_frames(export: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &export[28..];
    let mut frames = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap();
        frames.push(after[..=length].to_vec());
        rest = &after[length + 1 + 16..];
    }
    frames
}

/// All bytes of a file on a simulated disk.
fn file(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn slices(pieces: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    pieces.iter().map(Vec::as_slice)
}

fn seed_frames(segments: &[Vec<Vec<u8>>], seeds: &mut Vec<Seed>) {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for (index, frames) in segments.iter().enumerate() {
        if index > 0 {
            pieces.push(Vec::new());
        }
        pieces.extend(frames.iter().cloned());
    }
    let whole = joined(slices(&pieces));
    for flags in [0, frames::SIGNED, frames::SIGNED | frames::MEASURED] {
        let input = [&[flags][..], &whole].concat();
        seeds.push(seed("frames", format!("store-{flags}"), &input));
    }
    let short: Vec<Vec<u8>> = segments[0].iter().take(3).cloned().collect();
    let input = [&[frames::SIGNED][..], &joined(slices(&short))].concat();
    seeds.push(seed("frames", "begun", &input));
}

/// What the store had written had it been told to in the middle of its records.
fn seed_files(records: &[Vec<u8>], seeds: &mut Vec<Seed>) {
    let mut live = Live::default();
    let mut all = Vec::new();
    let mut rows = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let event = orlop_saga::record::decode(record).unwrap();
        let finished = live.apply(live.lsn().next(), &event).unwrap();
        let mut changes = Vec::new();
        projection::project(Format::NEWEST, &event, finished.as_ref(), &mut changes).unwrap();
        for change in changes {
            rows.push([&change.key()[..1], change.value().unwrap_or_default()].concat());
            rows.push(change.key().to_vec());
            all.push(change);
        }
        if index % 9 == 8 {
            seeds.push(seed_checkpoint(index, &live));
            seeds.push(seed_export(index, &live, &all));
            seed_histories(index, &live, seeds);
        }
    }
    let input = [&[files::ROWS][..], &joined(slices(&rows))].concat();
    seeds.push(seed("files", "rows", &input));
}

fn seed_checkpoint(index: usize, live: &Live) -> Seed {
    let (disk, folder) = (SimDisk::new(), Path::new("/"));
    let checkpoint = Checkpoint {
        store: STORE,
        at: WallMillis::new(1),
        unexported_bytes: 7,
        live: live.clone(),
    };
    checkpoint::write(&disk, folder, &checkpoint, Format::NEWEST).unwrap();
    let sealed = file(&disk, &disk.list(folder).unwrap()[0]);
    let input = [&[files::CHECKPOINT][..], &sealed[20..sealed.len() - 32]].concat();
    seed("files", format!("checkpoint-{index}"), &input)
}

fn seed_histories(index: usize, live: &Live, seeds: &mut Vec<Seed>) {
    for (saga, state) in live.sagas() {
        let history = History {
            store: STORE,
            saga: *saga,
            exported_at: WallMillis::new(2),
            state: state.clone(),
        };
        let sealed = history.encode().unwrap();
        let body = &sealed[20..sealed.len() - 32];
        seeds.push(seed("histories", format!("saga-{saga}-{index}"), body));
    }
}

fn seed_export(index: usize, live: &Live, rows: &[Change]) -> Seed {
    let (disk, name) = (SimDisk::new(), Path::new("/export"));
    let mut export =
        ExportWriter::create(&disk, PathBuf::from("/export.new"), STORE, Format::NEWEST).unwrap();
    export.changes(rows).unwrap();
    let end = ExportEnd {
        lsn: live.lsn(),
        rows: rows.len() as u64,
        bytes: 0,
        checksums: 0,
        live: live.clone(),
    };
    export.finish(&disk, name, STORE, &end).unwrap();
    let frames = export_frames(&file(&disk, name));
    let input = [&[files::EXPORT][..], &joined(slices(&frames))].concat();
    seed("files", format!("export-{index}"), &input)
}

/// What a real store holds, for every target.
fn seeds() -> Vec<Seed> {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    live(&store);
    let segments: Vec<Vec<Vec<u8>>> = read_all(&store.join("log"), "", ".log")
        .iter()
        .map(|segment| frames_of(segment))
        .filter(|frames| !frames.is_empty())
        .collect();
    let id = read_all(&store, "FORMAT", "")[0][20..36]
        .try_into()
        .unwrap();
    let disk = Arc::new(FileDisk);
    let options = LogOptions {
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    let opened = FileLog::open(disk, &store.join("log"), options, StoreId::new(id)).unwrap();
    let mut records = Vec::new();
    let mut take = |_: Lsn, record: &[u8]| {
        records.push(record.to_vec());
        Ok(())
    };
    opened.replay(Lsn::new(1), &mut take).unwrap();
    let mut seeds = vec![seed("records", "store", &joined(slices(&records)))];
    for (index, few) in records.chunks(24).enumerate().take(4) {
        let input = joined(slices(few));
        seeds.push(seed("records", format!("some-{index}"), &input));
    }
    seed_frames(&segments, &mut seeds);
    seed_files(&records, &mut seeds);
    seeds
}

#[test]
fn every_fuzz_target_accepts_what_a_real_store_holds() {
    let (mut records, mut events, mut others) = (0, 0, 0);
    for Seed {
        target,
        name,
        input,
    } in seeds()
    {
        match target {
            "frames" => records = records.max(frames::run(&input).unwrap_or_default()),
            "records" => events = events.max(decoders::records::run(&input)),
            "files" => {
                assert!(files::run(&input), "{name}");
                others += 1;
            }
            "histories" => {
                assert!(decoders::histories::run(&input), "{name}");
                others += 1;
            }
            other => panic!("no target {other}"),
        }
    }
    assert!(events > 30 && records >= events, "{records}, {events}");
    assert!(
        others > 10,
        "{others} checkpoints, exports, rows, histories"
    );
}

#[test]
#[ignore = "adds seeds of today's format to the corpus"]
fn seeds_are_written_from_a_real_store() {
    for Seed {
        target,
        name,
        input,
    } in seeds()
    {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/corpus")
            .join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), input).unwrap();
    }
}
