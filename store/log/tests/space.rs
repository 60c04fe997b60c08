//! Disks that fill up and disks that fail: who is refused, with what, and what stays true.

use std::sync::Arc;

use orlop_saga::id::Lsn;

use super::rig::{OPTIONS, STORE, Workload, append, batch, dir, no_sink, open_sim};
use crate::disk::{Disk, Failure, Occurrence, Operation, SimDisk};
use crate::log::{
    AppendError, FileLog, Log, LogError, LogHealth, LogOptions, OpenLogError, Opened, Purpose,
    SimLogDisk,
};

const WITH_RESERVE: LogOptions = LogOptions {
    reserve_bytes: 32 << 10,
    ..OPTIONS
};

fn full_log(disk: &SimDisk, space_for: u64) -> FileLog {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let occurrence = Occurrence::From(space_for);
    disk.fail(Some(Operation::Preallocate), occurrence, Failure::NoSpace);
    let opened = FileLog::create(shared, &dir(), WITH_RESERVE, STORE).unwrap();
    opened.start(no_sink()).unwrap()
}

fn one(log: &FileLog, purpose: Purpose, record: &[u8]) -> Result<u64, AppendError> {
    let answer = append(log, 0, purpose, batch(&[record.to_vec()]));
    answer.recv().unwrap().map(|range| range.last.get())
}

#[test]
fn a_full_disk_refuses_new_work_then_lives_on_the_reserve_then_recovers() {
    let disk = SimDisk::new();
    // Space for the first segment, the next one and the reserve.
    let log = full_log(&disk, 3);
    let mut accepted = 0;
    let refusal = loop {
        match one(&log, Purpose::New, b"new") {
            Ok(lsn) => accepted = lsn,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, AppendError::Full);
    assert_eq!(log.health(), LogHealth::Full);
    let before = accepted;
    let refusal = loop {
        match one(&log, Purpose::Settle, b"settle") {
            Ok(lsn) => accepted = lsn,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, AppendError::Full);
    assert!(
        accepted >= before + 6,
        "the reserve was not used: {before} to {accepted}"
    );
    assert_eq!(one(&log, Purpose::New, b"new"), Err(AppendError::Full));

    // Nothing that was accepted depends on what was refused.
    let image = disk.crash(1);
    assert_eq!(open_sim(&image).unwrap().last_lsn().get(), accepted);

    disk.heal();
    log.forget_before(Lsn::new(accepted)).unwrap();
    while log.health() == LogHealth::Full {
        // A refusal makes the janitor look again.
        let _ = one(&log, Purpose::New, b"new");
    }
    let lsn = one(&log, Purpose::New, b"new").unwrap();
    assert!(lsn > accepted);
    log.close().unwrap();
    assert_eq!(open_sim(&disk).unwrap().last_lsn().get(), lsn);
}

#[test]
fn what_was_accepted_ends_once_there_is_space_though_nobody_asks_for_new_work() {
    let disk = SimDisk::new();
    let log = full_log(&disk, 3);
    while one(&log, Purpose::Settle, b"settle").is_ok() {}
    assert_eq!(
        one(&log, Purpose::Settle, b"settle"),
        Err(AppendError::Full)
    );
    disk.heal();
    let began = std::time::Instant::now();
    while one(&log, Purpose::Settle, b"settle").is_err() {
        assert!(began.elapsed().as_secs() < 20, "the space is never found");
    }
    log.close().unwrap();
}

#[test]
fn without_space_for_the_reserve_new_work_is_refused() {
    let disk = SimDisk::new();
    let log = full_log(&disk, 2);
    let refusal = loop {
        if let Err(error) = one(&log, Purpose::New, b"new") {
            break error;
        }
    };
    assert_eq!(refusal, AppendError::Full);
    assert!(one(&log, Purpose::Settle, b"settle").is_ok());
}

#[test]
fn a_log_opens_out_of_its_reserve_on_a_full_disk_and_what_was_accepted_ends() {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let open = |disk: &Arc<dyn Disk>| FileLog::open(disk.clone(), &dir(), WITH_RESERVE, STORE);
    let log = FileLog::create(shared.clone(), &dir(), WITH_RESERVE, STORE).unwrap();
    let log = log.start(no_sink()).unwrap();
    let last = one(&log, Purpose::New, b"accepted").unwrap();
    while !disk.exists(&dir().join("reserve")).unwrap() {
        std::thread::yield_now();
    }
    drop(log);
    disk.fail(
        Some(Operation::Preallocate),
        Occurrence::From(0),
        Failure::NoSpace,
    );
    let opened = open(&shared).unwrap();
    assert_eq!(opened.last_lsn().get(), last);
    let log = opened.start(no_sink()).unwrap();
    while log.health() != LogHealth::Full {
        std::thread::yield_now();
    }
    assert_eq!(one(&log, Purpose::New, b"new"), Err(AppendError::Full));
    let settled = one(&log, Purpose::Settle, b"settle").unwrap();
    assert_eq!(settled, last + 1);
    drop(log);
    // The reserve is used up: whoever opens it now is told.
    assert!(matches!(open(&shared), Err(OpenLogError::Io { .. })));
    disk.heal();
    assert_eq!(open(&shared).unwrap().last_lsn().get(), settled);
}

#[test]
fn a_failed_sync_leaves_its_group_unresolved_and_nothing_is_synced_again() {
    let disk = SimDisk::new();
    let log = open_sim(&disk).unwrap().start(no_sink()).unwrap();
    one(&log, Purpose::New, b"before").unwrap();
    disk.fail(Some(Operation::Sync), Occurrence::From(0), Failure::Device);
    // The janitor may meet the fault first: then nothing of the batch was written.
    let failed = one(&log, Purpose::New, b"unresolved").unwrap_err();
    assert!(matches!(
        failed,
        AppendError::Unresolved | AppendError::Poisoned
    ));
    assert_eq!(
        one(&log, Purpose::Settle, b"after"),
        Err(AppendError::Poisoned)
    );
    assert_eq!(log.health(), LogHealth::Poisoned);
    disk.heal();
    assert_eq!(log.close(), Err(LogError::Poisoned));
    assert_eq!(log.watermark(), Lsn::new(1));
    let operations = disk.operations();
    assert_eq!(log.forget_before(Lsn::new(1)), Err(LogError::Poisoned));
    assert_eq!(log.close(), Err(LogError::Poisoned));
    drop(log);
    assert_eq!(disk.operations(), operations);
    // Had the close written its mark, a reopened log would have trusted all before it.
    let last = open_sim(&disk).unwrap().last_lsn().get();
    assert!((1..=2).contains(&last), "{last}");
}

#[test]
fn options_out_of_bounds_are_named_before_the_disk_is_touched() {
    let cases = [
        (
            "segment_bytes",
            LogOptions {
                segment_bytes: 4096,
                ..OPTIONS
            },
        ),
        (
            "segment_bytes",
            LogOptions {
                segment_bytes: (32 << 10) + 1,
                ..OPTIONS
            },
        ),
        (
            "first_segment_bytes",
            LogOptions {
                first_segment_bytes: 64 << 10,
                ..OPTIONS
            },
        ),
        (
            "batch_bytes_max",
            LogOptions {
                batch_bytes_max: 32 << 10,
                ..OPTIONS
            },
        ),
        (
            "group_bytes_max",
            LogOptions {
                group_bytes_max: 0,
                ..OPTIONS
            },
        ),
        (
            "backlog_bytes_max",
            LogOptions {
                backlog_bytes_max: 1,
                ..OPTIONS
            },
        ),
        (
            "reserve_bytes",
            LogOptions {
                reserve_bytes: 8 << 10,
                ..OPTIONS
            },
        ),
    ];
    let disk = SimDisk::new();
    for (name, options) in cases {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let refused = FileLog::create(shared, &dir(), options, STORE);
        assert!(
            matches!(&refused, Err(OpenLogError::Options { option, .. }) if *option == name),
            "{name}: {refused:?}"
        );
    }
    assert_eq!(disk.operations(), 0);
    assert!(LogOptions::default().check().is_ok());
}

#[test]
fn a_simulated_log_loses_power_between_any_two_groups_and_keeps_whole_batches() {
    let workload = Workload::new(&[1, 2, 3, 1, 2], 10);
    for groups in 0..5 {
        let disk = SimLogDisk::new();
        disk.power_off_after(groups);
        let log = disk.open(OPTIONS).start_manual(no_sink());
        let mut answers = Vec::new();
        for records in &workload.batches {
            answers.push(append(&log, 0, Purpose::New, batch(records)));
            log.step();
        }
        let acknowledged = answers
            .iter()
            .filter(|answer| answer.try_recv().is_ok())
            .count();
        assert_eq!(acknowledged as u64, groups);
        assert_eq!(log.close(), Err(LogError::Poisoned));
        let mut survivors = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let opened = disk.crash(seed).open(OPTIONS);
            workload.check(&opened, workload.last(acknowledged), 1, "power off");
            survivors.insert(opened.last_lsn());
        }
        assert_eq!(
            survivors.len(),
            2,
            "the group in flight survives or does not"
        );
        let exact = disk.crash_at(groups).open(OPTIONS);
        assert_eq!(exact.last_lsn().get(), workload.last(acknowledged));
    }
}

#[test]
fn a_simulated_log_is_poisoned_by_a_failed_sync_and_refuses_new_work_when_full() {
    let disk = SimLogDisk::new();
    let log = disk.open(OPTIONS).start_manual(no_sink());
    let answer = |purpose| {
        let answer = append(&log, 0, purpose, batch(&[vec![1]]));
        log.step();
        answer.recv().unwrap()
    };
    disk.set_full(true);
    assert_eq!(answer(Purpose::New), Err(AppendError::Full));
    assert!(answer(Purpose::Settle).is_ok());
    disk.set_full(false);
    assert!(answer(Purpose::New).is_ok());
    disk.fail_sync_after(0);
    assert_eq!(answer(Purpose::New), Err(AppendError::Unresolved));
    assert_eq!(answer(Purpose::Settle), Err(AppendError::Poisoned));
    assert_eq!(log.health(), LogHealth::Poisoned);
}
