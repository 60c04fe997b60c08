//! The contract, proved for every kind of log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use orlop_saga::id::Lsn;
use parking_lot::Mutex;

use super::rig::{OPTIONS, Workload, append, batch, no_sink, open_sim, places};
use crate::disk::SimDisk;
use crate::log::{
    AppendError, Batch, DurableSink, Lane, LogError, LogHealth, LsnRange, Purpose, ReplayLogError,
};

/// Holds the log's thread inside the sink: says that it is there, then waits to be let go.
struct Gate {
    entered: Sender<Lsn>,
    released: Receiver<()>,
}

impl DurableSink for Gate {
    fn durable(&mut self, first: Lsn, _: &Batch) {
        self.entered.send(first).unwrap();
        // A closed channel lets everything through.
        let _ = self.released.recv();
    }
}

fn gate() -> (Box<Gate>, Receiver<Lsn>, Sender<()>) {
    let (entered, entries) = unbounded();
    let (release, released) = bounded(0);
    (Box::new(Gate { entered, released }), entries, release)
}

#[test]
fn answers_come_in_lsn_order_after_the_sink_and_every_lane_keeps_its_order() {
    for place in places() {
        let seen = Arc::new(Mutex::new(0_u64));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let seen = Arc::clone(&seen);
            move |first: Lsn, batch: &Batch| {
                let mut seen = seen.lock();
                assert_eq!(first.get(), *seen + 1, "the sink sees lsns without a gap");
                *seen += u64::from(batch.len());
            }
        };
        let log = place.open().start(Box::new(sink)).unwrap();
        thread::scope(|scope| {
            for lane in 0..3_u8 {
                let (log, seen, answers) = (&log, &seen, &answers);
                scope.spawn(move || {
                    for turn in 0..40_u8 {
                        let (seen, answers) = (Arc::clone(seen), Arc::clone(answers));
                        let records = vec![vec![lane, turn]; 1 + usize::from(turn) % 3];
                        let ack = move |result: Result<LsnRange, AppendError>| {
                            let range = result.unwrap();
                            assert!(*seen.lock() >= range.last.get(), "acknowledged unseen");
                            answers.lock().push((range, lane, turn));
                        };
                        log.append(
                            Lane(lane.into()),
                            Purpose::Settle,
                            batch(&records),
                            Box::new(ack),
                        );
                    }
                });
            }
        });
        log.close().unwrap();
        let answers = answers.lock();
        assert_eq!(answers.len(), 120);
        let mut next = 1;
        let mut turns = BTreeMap::new();
        for (range, lane, turn) in answers.iter() {
            assert_eq!(range.first.get(), next);
            next = range.last.get() + 1;
            let expected = turns.entry(*lane).or_insert(0);
            assert_eq!(turn, expected);
            *expected += 1;
        }
        assert_eq!(log.watermark().get(), next - 1);
    }
}

#[test]
fn what_was_acknowledged_is_replayed_after_every_reopening() {
    let workload = Workload::new(&[1, 3, 2, 1, 4, 1, 1, 2, 1, 1, 1, 5], 500);
    for place in places() {
        for (index, records) in workload.batches.iter().enumerate() {
            let opened = place.open();
            let promised = workload.last(index);
            workload.check(opened.as_ref(), promised, 1, "reopened");
            assert_eq!(opened.last_lsn().get(), promised);
            let log = opened.start(no_sink()).unwrap();
            let answer = append(log.as_ref(), 0, Purpose::New, batch(records));
            let range = answer.recv().unwrap().unwrap();
            assert_eq!(range.first.get(), promised + 1);
            log.close().unwrap();
        }
    }
}

#[test]
fn a_closed_log_refuses_and_answers_the_same_to_every_close() {
    for place in places() {
        let log = place.open().start(no_sink()).unwrap();
        assert_eq!(log.health(), LogHealth::Healthy);
        assert_eq!(log.close(), Ok(()));
        assert_eq!(log.close(), Ok(()));
        assert_eq!(log.health(), LogHealth::Closed);
        let answer = append(log.as_ref(), 0, Purpose::Settle, batch(&[vec![1]]));
        assert_eq!(answer.recv().unwrap(), Err(AppendError::Closed));
        assert_eq!(log.forget_before(Lsn::new(1)), Err(LogError::Closed));
    }
}

#[test]
fn batches_without_records_and_too_large_ones_are_refused() {
    for place in places() {
        let log = place.open().start(no_sink()).unwrap();
        let answer = append(log.as_ref(), 0, Purpose::New, Batch::new());
        assert_eq!(answer.recv().unwrap(), Err(AppendError::Empty));
        let most = usize::try_from(OPTIONS.batch_bytes_max).unwrap() - 4;
        let answer = append(log.as_ref(), 0, Purpose::New, batch(&[vec![1; most + 1]]));
        let refusal = AppendError::TooLarge {
            bytes: OPTIONS.batch_bytes_max + 1,
            bytes_max: OPTIONS.batch_bytes_max,
        };
        assert_eq!(answer.recv().unwrap(), Err(refusal));
        let answer = append(log.as_ref(), 0, Purpose::New, batch(&[vec![1; most]]));
        assert_eq!(answer.recv().unwrap().unwrap().last, Lsn::new(1));
    }
}

#[test]
fn a_refusal_is_not_delivered_inside_append() {
    for place in places() {
        let log = place.open().start(no_sink()).unwrap();
        let (sender, receiver) = bounded(1);
        let ack = move |_: Result<LsnRange, AppendError>| {
            sender.send(thread::current().id()).unwrap();
        };
        log.append(Lane(0), Purpose::New, Batch::new(), Box::new(ack));
        assert_ne!(receiver.recv().unwrap(), thread::current().id());
    }
}

#[test]
fn an_acknowledgement_may_append_and_may_not_close() {
    for place in places() {
        let log = place.open().start(no_sink()).unwrap();
        let (sender, receiver) = unbounded();
        let inner = Arc::clone(&log);
        let ack = move |_: Result<LsnRange, AppendError>| {
            let closed = inner.close();
            let again = append(inner.as_ref(), 0, Purpose::New, batch(&[vec![2]]));
            sender.send((closed, again)).unwrap();
        };
        log.append(Lane(0), Purpose::New, batch(&[vec![1]]), Box::new(ack));
        let (closed, again) = receiver.recv().unwrap();
        assert_eq!(closed, Err(LogError::OwnThread));
        assert_eq!(again.recv().unwrap().unwrap().first, Lsn::new(2));
    }
}

#[test]
fn dropping_a_log_answers_every_batch_and_acknowledges_none_falsely() {
    for place in places() {
        let (gate, entered, release) = gate();
        let log = place.open().start(gate).unwrap();
        let written = append(log.as_ref(), 0, Purpose::New, batch(&[vec![1]]));
        entered.recv().unwrap();
        let waits = append(log.as_ref(), 0, Purpose::New, batch(&[vec![2]]));
        let dropper = thread::spawn(move || drop(log));
        drop(release);
        dropper.join().unwrap();
        assert_eq!(written.recv().unwrap().unwrap().last, Lsn::new(1));
        let last = match waits.recv().unwrap() {
            // The drop may come after the second batch was composed.
            Ok(range) => range.last,
            Err(error) => {
                assert_eq!(error, AppendError::Closed);
                Lsn::new(1)
            }
        };
        assert_eq!(place.open().last_lsn(), last);
    }
}

#[test]
fn at_the_bound_new_work_is_refused_before_outcomes_and_room_comes_back() {
    for place in places() {
        let (gate, entered, release) = gate();
        let log = place.open().start(gate).unwrap();
        let first = append(log.as_ref(), 0, Purpose::New, batch(&[vec![0]]));
        entered.recv().unwrap();
        let hand = |lane, purpose| append(log.as_ref(), lane, purpose, batch(&[vec![0; 4092]]));
        // 16 KiB may wait. Lane 1 is left 8 KiB of it, being the only one.
        let mut accepted = vec![first, hand(1, Purpose::New), hand(1, Purpose::New)];
        let greedy = hand(1, Purpose::New);
        accepted.push(hand(2, Purpose::New));
        accepted.push(hand(3, Purpose::New));
        let late = hand(4, Purpose::New);
        accepted.extend((0..4).map(|_| hand(1, Purpose::Settle)));
        let last = hand(1, Purpose::Settle);
        drop(release);
        for (refused, bytes, bytes_max) in [(greedy, 8, 16), (late, 16, 16), (last, 32, 32)] {
            let (bytes, bytes_max) = (bytes << 10, bytes_max << 10);
            let expected = AppendError::Backlogged { bytes, bytes_max };
            assert_eq!(refused.recv().unwrap(), Err(expected));
        }
        for answer in accepted {
            answer.recv().unwrap().unwrap();
        }
        hand(4, Purpose::New).recv().unwrap().unwrap();
    }
}

#[test]
fn a_refusal_does_not_wait_for_a_stalled_log_on_files() {
    let (gate, entered, release) = gate();
    let log = open_sim(&SimDisk::new()).unwrap().start(gate).unwrap();
    let first = append(&log, 0, Purpose::New, batch(&[vec![0]]));
    entered.recv().unwrap();
    let refused = append(&log, 0, Purpose::New, Batch::new());
    assert_eq!(refused.recv().unwrap(), Err(AppendError::Empty));
    drop(release);
    first.recv().unwrap().unwrap();
}

#[test]
fn a_lane_waits_for_one_batch_of_a_flooding_lane() {
    for place in places() {
        let (gate, entered, release) = gate();
        let log = place.open().start(gate).unwrap();
        let _first = append(log.as_ref(), 9, Purpose::New, batch(&[vec![0]]));
        entered.recv().unwrap();
        for _ in 0..50 {
            let _flood = append(log.as_ref(), 9, Purpose::Settle, batch(&[vec![0; 100]]));
        }
        let quiet = append(log.as_ref(), 1, Purpose::New, batch(&[vec![1]]));
        drop(release);
        assert_eq!(quiet.recv().unwrap().unwrap().first, Lsn::new(3));
    }
}

#[test]
fn what_is_forgotten_is_refused_by_replay_and_the_rest_stays() {
    let workload = Workload::new(&[1; 40], 3000);
    for place in places() {
        let log = place.open().start(no_sink()).unwrap();
        for records in &workload.batches {
            let answer = append(log.as_ref(), 0, Purpose::New, batch(records));
            answer.recv().unwrap().unwrap();
        }
        log.forget_before(Lsn::new(20)).unwrap();
        log.forget_before(Lsn::new(20)).unwrap();
        log.close().unwrap();
        let opened = place.open();
        let first = opened.first_lsn();
        assert!((2..=20).contains(&first.get()), "{first}");
        workload.check(opened.as_ref(), 40, 20, "forgotten");
        let mut nothing = |_: Lsn, _: &[u8]| panic!("a record was handed over");
        let refused = opened.replay(Lsn::new(first.get() - 1), &mut nothing);
        assert!(
            matches!(refused, Err(ReplayLogError::Forgotten { first: at, .. }) if at == first),
            "{refused:?}"
        );
        // Everything may be forgotten: the lsn goes on all the same.
        let log = opened.start(no_sink()).unwrap();
        log.forget_before(Lsn::new(41)).unwrap();
        log.close().unwrap();
        assert_eq!(place.open().last_lsn(), Lsn::new(40));
    }
}
