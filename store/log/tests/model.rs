//! Random appends on several lanes, crashes, deaths, closes and forgetting, against a model.

use std::collections::BTreeMap;

use orlop_saga::id::Lsn;
use proptest::prelude::*;

use super::rig::{Answer, append, batch, no_sink, open_sim};
use crate::disk::SimDisk;
use crate::log::{FileLog, Log, OpenedLog, Purpose};

/// One batch to be: its lane, how many records, how many bytes each has beside its name.
type Handed = (u32, u8, usize);

#[derive(Clone, Debug)]
enum Action {
    /// Batches of (lane, records, bytes of each), handed over without waiting; then all answers.
    Append(Vec<Handed>),
    /// The same, with the power going after so many operations.
    Cut(Vec<Handed>, u64, u64),
    /// Frees what lies below this share of the lsns, in percent.
    Forget(u64),
    /// The process dies; the cache lives.
    Die,
    /// Closes cleanly.
    Close,
}

fn burst() -> impl Strategy<Value = Vec<Handed>> {
    prop::collection::vec((0_u32..3, 1_u8..4, 0_usize..1800), 1..8)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => burst().prop_map(Action::Append),
        3 => (burst(), 0_u64..40, any::<u64>()).prop_map(|(burst, cut, seed)| {
            Action::Cut(burst, cut, seed)
        }),
        1 => (0_u64..100).prop_map(Action::Forget),
        1 => Just(Action::Die),
        1 => Just(Action::Close),
    ]
}

/// A record names its batch: lane, ordinal on the lane, index in the batch, records of the batch.
fn records(lane: u32, ordinal: u64, count: u8, bytes: usize) -> Vec<Vec<u8>> {
    let record = |index| {
        let mut record = Vec::new();
        record.extend_from_slice(&lane.to_le_bytes());
        record.extend_from_slice(&ordinal.to_le_bytes());
        record.extend_from_slice(&[index, count]);
        record.resize(record.len() + bytes, 7);
        record
    };
    (0..count).map(record).collect()
}

#[derive(Default)]
struct Model {
    /// What must be there: acknowledged, or found by an open.
    known: BTreeMap<u64, Vec<u8>>,
    forgotten: u64,
    ordinals: BTreeMap<u32, u64>,
}

impl Model {
    fn burst(&mut self, log: &FileLog, burst: &[Handed]) -> Vec<(Vec<Vec<u8>>, Answer)> {
        let hand_over = |(lane, count, bytes): &Handed| {
            let ordinal = self.ordinals.entry(*lane).or_default();
            *ordinal += 1;
            let records = records(*lane, *ordinal, *count, *bytes);
            let answer = append(log, *lane, Purpose::Settle, batch(&records));
            (records, answer)
        };
        burst.iter().map(hand_over).collect()
    }

    /// Waits for the answers and learns what was acknowledged. Whether all were.
    fn learn(&mut self, handed: Vec<(Vec<Vec<u8>>, Answer)>) -> bool {
        let mut all = true;
        for (records, answer) in handed {
            let Ok(range) = answer.recv().unwrap() else {
                all = false;
                continue;
            };
            let lsns = range.first.get()..=range.last.get();
            assert_eq!(lsns.clone().count(), records.len());
            for (lsn, record) in lsns.zip(records) {
                assert_eq!(
                    self.known.insert(lsn, record),
                    None,
                    "an lsn was given twice"
                );
            }
        }
        all
    }

    /// Checks what an open found, and takes it for known from now on.
    fn found(&mut self, opened: &OpenedLog) {
        let first = opened.first_lsn().get();
        assert!(
            first <= self.forgotten + 1,
            "{first} > {}",
            self.forgotten + 1
        );
        let mut found = BTreeMap::new();
        let mut collect = |lsn: Lsn, record: &[u8]| {
            found.insert(lsn.get(), record.to_vec());
            Ok(())
        };
        opened.replay(opened.first_lsn(), &mut collect).unwrap();
        let lsns: Vec<u64> = found.keys().copied().collect();
        let expected: Vec<u64> = (first..=opened.last_lsn().get()).collect();
        assert_eq!(lsns, expected);
        for (lsn, record) in self.known.range(first..) {
            assert_eq!(found.get(lsn), Some(record), "lsn {lsn} was acknowledged");
        }
        let all: Vec<&Vec<u8>> = found.values().collect();
        let mut last: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        // The oldest segment begins with a frame, and a frame with a batch.
        let mut at = 0;
        while at < all.len() {
            let count = usize::from(all[at][13]);
            let lane = all[at][..4].to_vec();
            let ordinal: Vec<u8> = all[at][4..12].iter().rev().copied().collect();
            for index in 0..count {
                let record = all.get(at + index).expect("the batch is whole");
                assert_eq!(
                    (&record[..12], usize::from(record[12])),
                    (&all[at][..12], index)
                );
            }
            let before = last.insert(lane, ordinal.clone());
            assert!(
                before.is_none_or(|before| before < ordinal),
                "order within a lane"
            );
            at += count;
        }
        self.known = found;
    }
}

fn play(actions: Vec<Action>) {
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let mut log = open_sim(&disk).unwrap().start(no_sink()).unwrap();
    for action in actions {
        match action {
            Action::Append(burst) => {
                let handed = model.burst(&log, &burst);
                assert!(model.learn(handed), "nothing failed");
                continue;
            }
            Action::Forget(percent) => {
                let below = model.known.last_key_value().map_or(0, |(lsn, _)| *lsn) * percent / 100;
                model.forgotten = model.forgotten.max(below);
                log.forget_before(Lsn::new(below + 1)).unwrap();
                continue;
            }
            Action::Cut(burst, cut, seed) => {
                disk.power_off_after(cut);
                let handed = model.burst(&log, &burst);
                model.learn(handed);
                drop(log);
                disk = disk.crash(seed);
            }
            Action::Die => drop(log),
            Action::Close => log.close().unwrap(),
        }
        let opened = open_sim(&disk).unwrap();
        model.found(&opened);
        log = opened.start(no_sink()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn whatever_happens_the_log_holds_what_was_acknowledged_and_whole_batches(
        actions in prop::collection::vec(action(), 1..25)
    ) {
        play(actions);
    }
}
