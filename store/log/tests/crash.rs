//! Power cuts and failures at every operation of the disk, also during the recovery from them.

use orlop_saga::id::Lsn;

use super::rig::{Workload, append, batch, no_sink, open_sim};
use crate::disk::{Failure, Occurrence, SimDisk};
use crate::log::{AppendError, Log, Purpose};

/// What a run promised before its disk failed it.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    /// The last lsn acknowledged.
    last: u64,
    /// Up to where it asked to forget.
    forgotten: u64,
    /// Whether nothing failed.
    whole: bool,
}

fn workload() -> Workload {
    Workload::new(&[2, 1, 3, 1, 1, 2, 1, 2, 1, 1, 3, 1, 1, 2], 1500)
}

/// Opens, appends everything one after the other, frees some, closes; ends at the first failure.
fn run(disk: &SimDisk, workload: &Workload) -> Promised {
    let mut promised = Promised::default();
    let Ok(opened) = open_sim(disk) else {
        return promised;
    };
    let done = opened.last_lsn().get();
    promised.last = done;
    let log = opened.start(no_sink()).unwrap();
    for (index, records) in workload.batches.iter().enumerate() {
        if workload.last(index) < done {
            continue;
        }
        match append(&log, 0, Purpose::New, batch(records))
            .recv()
            .unwrap()
        {
            Ok(range) => promised.last = range.last.get(),
            Err(AppendError::Unresolved | AppendError::Poisoned | AppendError::Full) => {
                return promised;
            }
            Err(other) => panic!("an answer that fits no fault: {other}"),
        }
        if index == 8 {
            promised.forgotten = workload.last(5);
            if log.forget_before(Lsn::new(promised.forgotten + 1)).is_err() {
                return promised;
            }
        }
    }
    promised.whole = log.close().is_ok();
    promised
}

/// A copy: everything on a disk that has just crashed is durable.
fn copy(disk: &SimDisk) -> SimDisk {
    disk.crash(0)
}

fn check(disk: &SimDisk, workload: &Workload, promised: Promised, context: &str) -> u64 {
    let opened = open_sim(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let oldest_max = promised.forgotten + 1;
    workload.check(&opened, promised.last, oldest_max, context);
    opened.last_lsn().get()
}

/// Checks the image, then every recovery of it that is cut off by another crash.
fn check_twice(image: &SimDisk, workload: &Workload, promised: Promised, context: &str) {
    let whole = copy(image);
    check(&whole, workload, promised, context);
    let operations = whole.operations();
    for cut in 0..operations {
        let second = copy(image);
        second.power_off_after(cut);
        let context = format!("{context}, recovery cut after {cut} operations");
        // The last operations are the check's own reads, after what the open answered.
        let answered = open_sim(&second).map(|opened| opened.last_lsn().get());
        let answered = answered.unwrap_or(promised.last);
        let promised = Promised {
            last: promised.last.max(answered),
            ..promised
        };
        check(&second.crash(cut ^ 0x5eed), workload, promised, &context);
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged_nor_does_a_second_one() {
    let workload = workload();
    for cut in 0.. {
        let disk = SimDisk::new();
        disk.power_off_after(cut);
        let promised = run(&disk, &workload);
        for seed in 0..4 {
            let context = format!("cut after {cut} operations, seed {seed}");
            check_twice(&disk.crash(seed), &workload, promised, &context);
        }
        if promised.whole {
            assert!(cut > 40, "the workload does too little: {cut} operations");
            return;
        }
    }
}

#[test]
fn a_log_goes_on_after_a_power_cut_where_it_ended() {
    let workload = workload();
    for cut in (10..90).step_by(3) {
        let disk = SimDisk::new();
        disk.power_off_after(cut);
        let promised = run(&disk, &workload);
        let crashed = disk.crash(cut);
        let again = run(&crashed, &workload);
        assert!(again.whole && again.last >= promised.last, "{again:?}");
        assert_eq!(again.last, workload.last(workload.batches.len()));
        let forgotten = promised.forgotten.max(again.forgotten);
        let both = Promised { forgotten, ..again };
        check(&crashed.crash(cut), &workload, both, "gone on");
    }
}

/// Fails one operation, reopens in the same life of the machine, then cuts the power.
fn fail_everywhere(failure: Failure) {
    let workload = workload();
    for index in 0.. {
        let disk = SimDisk::new();
        disk.fail(None, Occurrence::Only(index), failure);
        let promised = run(&disk, &workload);
        let reached = disk.operations() > index;
        disk.heal();
        let context = format!("{failure:?} at operation {index}");
        for seed in 0..3 {
            check(&disk.crash(seed), &workload, promised, &context);
        }
        // Pages that failed to sync are in the cache, clean: what the open answers from them
        // must be on the disk all the same.
        let answered = Promised {
            last: check(&disk, &workload, promised, &context),
            ..promised
        };
        for seed in 0..6 {
            let context = format!("{context}, reopened, seed {seed}");
            check(&disk.crash(seed), &workload, answered, &context);
        }
        if !reached {
            assert!(
                index > 40,
                "the workload does too little: {index} operations"
            );
            return;
        }
    }
}

#[test]
fn a_device_error_at_any_operation_loses_nothing_acknowledged() {
    fail_everywhere(Failure::Device);
}

#[test]
fn a_short_write_at_any_operation_loses_nothing_acknowledged() {
    fail_everywhere(Failure::Short);
}

#[test]
fn a_full_disk_at_any_operation_loses_nothing_acknowledged() {
    fail_everywhere(Failure::NoSpace);
}
