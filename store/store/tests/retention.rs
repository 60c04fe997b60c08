//! Retention: the set of retained keys never lies, and space comes back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_saga::blob::BlobRef;
use orlop_saga::canonical::Payload;
use orlop_saga::compat::{self, Format};
use orlop_saga::effect::{EffectEvent, Settlement};
use orlop_saga::event::Event;
use orlop_saga::outcome::Outcome;
use orlop_saga::time::Clock;
use proptest::prelude::*;

use super::harness::*;
use crate::log::{LogOptions, Purpose};
use crate::projection::outcome_key;
use crate::projector::ProjectorOptions;
use crate::store::{Store, StoreOptions};
use crate::tables::SledOptions;

const SOON: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
enum Step {
    Settle(u64),
    Pass(u64),
    Jump(i64),
    Checkpoint,
    Export,
    Reopen,
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..20_u64).prop_map(Step::Settle),
        3 => (1..RETENTION_MS).prop_map(Step::Pass),
        1 => (-100_000..100_000_i64).prop_map(Step::Jump),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Export),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rebuild),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A key that the set does not know has no outcome; and once retention has had its way, one
    /// that it knows has one. Whatever the clock does, and across restarts and rebuilt tables.
    #[test]
    fn the_set_of_retained_keys_never_lies(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let machine = Machine::new();
        let options = ProjectorOptions { expired_rows_max: 3, ..ProjectorOptions::default() };
        let (mut store, _) = machine.open(options).unwrap();
        for step in steps {
            match step {
                Step::Settle(n) => {
                    append(&store, &[settled_at(n, machine.clock.wall().get())]).unwrap();
                }
                Step::Pass(ms) => machine.clock.pass(ms),
                Step::Jump(by) => {
                    let wall = machine.clock.wall().get();
                    machine.clock.jump_to(wall.saturating_add_signed(by));
                }
                Step::Checkpoint => drop(checkpoint(&store).unwrap()),
                Step::Export => drop(export(&store).unwrap()),
                Step::Reopen | Step::Rebuild => {
                    store.close(SOON).unwrap();
                    if matches!(step, Step::Rebuild) {
                        machine.shelf.lose_all();
                    }
                    store = machine.open(options).unwrap().0;
                }
            }
            for n in 1..20 {
                // It is announced later than it is acknowledged: found first, known from then on.
                let found = lookup(&store, n).unwrap().is_some();
                let known = store.maybe_retained(tenant(), key(n));
                prop_assert!(known || !found, "{n} is found and not known");
            }
            if matches!(step, Step::Checkpoint) {
                for n in 1..20 {
                    let known = store.maybe_retained(tenant(), key(n));
                    let found = lookup(&store, n).unwrap().is_some();
                    prop_assert_eq!(known, found, "{}", n);
                }
                let rows = (1..20).filter_map(|n| lookup(&store, n).unwrap());
                let bytes = rows.map(|row| row_bytes(&row)).sum::<u64>();
                prop_assert_eq!(store.outcome_bytes(tenant()), bytes);
            }
        }
    }
}

/// The bytes of an outcome's row, by its own encoding.
fn row_bytes(row: &Settlement) -> u64 {
    let key = outcome_key(id(1)).len();
    let value = compat::encode(Format::NEWEST, row).unwrap().len();
    u64::try_from(key + value).unwrap()
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            // What is removed meanwhile takes no room.
            match entry.metadata() {
                Ok(found) if found.is_dir() => bytes_in(&entry.path()),
                Ok(found) => found.len(),
                Err(_) => 0,
            }
        })
        .sum()
}

/// Outcomes of a round, a batch of 40 at a time; every fortieth is long enough for a blob.
fn round(store: &Store, first: u64, at_ms: u64) -> u64 {
    let mut live = 0;
    for batch in 0..25 {
        let events: Vec<Event> = (0..40)
            .map(|index| {
                let n = first + batch * 40 + index;
                let bytes = if index == 0 { 20_000 } else { 1_000 };
                let mut content = vec![0x5a; bytes];
                content[..8].copy_from_slice(&n.to_le_bytes());
                let output = Payload::new(content);
                live += BlobRef::of(&output).bytes;
                let mut settlement = settlement(n, at_ms);
                settlement.outcome = Outcome::Done(output);
                Event::Effect {
                    id: id(n),
                    event: EffectEvent::Settled(Box::new(settlement)),
                }
            })
            .collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        let ack = move |result| sender.send(result).unwrap();
        let sent = store.append_of(tenant(), Purpose::Settle, &events, Box::new(ack));
        sent.unwrap();
        receiver.recv().unwrap().unwrap();
    }
    live
}

#[test]
fn a_store_that_churns_stays_under_twenty_times_its_live_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let options = StoreOptions {
        log: LogOptions {
            segment_bytes: 512 << 10,
            first_segment_bytes: 64 << 10,
            group_bytes_max: 128 << 10,
            batch_bytes_max: 256 << 10,
            backlog_bytes_max: 1 << 20,
            reserve_bytes: 0,
        },
        sled: SledOptions {
            cache_bytes: 1 << 20,
            bloated_bytes_min: 1 << 20,
            ..SledOptions::default()
        },
        projector: ProjectorOptions {
            checkpoint_bytes: 256 << 10,
            export_bytes_min: 512 << 10,
            blobs: crate::blob::BlobOptions {
                bytes_min: 16 << 10,
                ..crate::blob::BlobOptions::default()
            },
            ..ProjectorOptions::default()
        },
        ..StoreOptions::default()
    };
    let told = Arc::new(Announced::default());
    let (store, _) = Store::open(folder.path(), options, clock.clone(), told).unwrap();
    let mut most = 0;
    let mut live = 0;
    for number in 0..24 {
        // What a round leaves expires before the next but one.
        live = 2 * round(&store, number * 1_000 + 1, clock.wall().get());
        checkpoint(&store).unwrap();
        clock.pass(RETENTION_MS / 2 + 1);
        if number >= 4 {
            most = most.max(bytes_in(folder.path()));
        }
    }
    assert!(most < 20 * live, "{most} bytes for {live} live ones");
    clock.pass(RETENTION_MS);
    checkpoint(&store).unwrap();
    append(&store, &[accepted(1)]).unwrap();
    export(&store).unwrap();
    assert_eq!(store.health().retained_keys, 0);
    assert_eq!(store.blob_bytes(tenant()).0, 0);
    let left: u64 = bytes_in(&folder.path().join("blobs"));
    assert_eq!(left, 0);
    store.close(SOON).unwrap();
}
