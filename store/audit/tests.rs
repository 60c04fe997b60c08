//! Trails on disks that lose what was not synced, and under hands that change them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_saga::audit::{Actor, AuditEntry, AuditEvent, ChainHead, Denial, Object, Operation};
use orlop_saga::id::{Lsn, SagaId, StoreId, TenantId};
use orlop_saga::tenant::AuditTag;
use orlop_saga::time::WallMillis;
use proptest::prelude::*;

use super::{AUDIT, Trail, TrailError, TrailOptions, Verified, VerifyError, copy, verify};
use crate::checkpoint::read_file;
use crate::disk::{Disk, Failure, Occurrence, Operation as DiskOperation, SimDisk};

const STORE: StoreId = StoreId::new([7; 16]);

fn folder() -> &'static Path {
    Path::new("/store")
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(folder()).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn small() -> TrailOptions {
    TrailOptions {
        segment_bytes: 8192,
        retained_bytes_max: 16384,
    }
}

fn open(disk: &SimDisk, options: TrailOptions) -> Result<Trail, TrailError> {
    Trail::open(Arc::new(disk.clone()), folder(), STORE, options)
}

fn entry(number: u64) -> AuditEntry {
    AuditEntry {
        at: WallMillis::new(number),
        lsn: Lsn::new(number),
        event: AuditEvent::Denied(Denial {
            who: Actor {
                tenant: TenantId::default(),
                label: "mallory".into(),
                tag: AuditTag::default(),
            },
            operation: Operation::Cancel,
            object: Object::Saga(SagaId::new(number)),
            owner: Some(TenantId::default()),
        }),
    }
}

fn read(
    disk: &SimDisk,
    exported: Option<ChainHead>,
) -> Result<(Verified, Vec<AuditEntry>), VerifyError> {
    let mut entries = Vec::new();
    let mut seen = |_, entry: &AuditEntry| entries.push(entry.clone());
    let verified = verify(disk, folder(), STORE, exported, &mut seen)?;
    Ok((verified, entries))
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.list(&folder().join(AUDIT)).unwrap()
}

#[test]
fn a_trail_that_nothing_was_told_to_takes_no_file() {
    let disk = disk();
    let mut trail = open(&disk, TrailOptions::default()).unwrap();
    trail.append(&[]).unwrap();
    assert!(!disk.exists(&folder().join(AUDIT)).unwrap());
    assert_eq!(read(&disk, None).unwrap().0.head, ChainHead::genesis(STORE));
}

#[test]
fn a_trail_goes_on_where_it_ended() {
    let disk = disk();
    for number in 0..5 {
        let mut trail = open(&disk, TrailOptions::default()).unwrap();
        assert_eq!(trail.head().entries, number);
        trail.append(&[entry(number)]).unwrap();
    }
    let (verified, entries) = read(&disk, None).unwrap();
    assert_eq!((verified.head.entries, verified.torn), (5, false));
    assert_eq!(entries, (0..5).map(entry).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn what_was_acknowledged_survives_every_loss_of_power_twice_in_a_row(
        batches in prop::collection::vec(1_u64..4, 1..12),
        operations in 0_u64..60,
        again in 0_u64..20,
        seed in any::<u64>(),
        kept in prop::bool::ANY,
    ) {
        let options = if kept {
            TrailOptions { segment_bytes: 8192, ..TrailOptions::default() }
        } else {
            small()
        };
        let mut disk = disk();
        let (mut written, mut acknowledged) = (0, None);
        for (crash, operations) in [operations, again].into_iter().enumerate() {
            disk.power_off_after(operations);
            if let Ok(mut trail) = open(&disk, options) {
                for batch in &batches {
                    let entries: Vec<_> = (written..written + batch).map(entry).collect();
                    written += batch;
                    match trail.append(&entries) {
                        Ok(head) => acknowledged = Some((written, head)),
                        Err(_) => break,
                    }
                }
            }
            disk = disk.crash(seed.wrapping_add(crash as u64));
            let mut trail = open(&disk, options).unwrap();
            if let Some((_, head)) = acknowledged {
                prop_assert!(trail.head().entries >= head.entries);
            }
            acknowledged = Some((written, trail.append(&[entry(9999)]).unwrap()));
            let head = acknowledged.map(|(_, head)| head);
            let (verified, _) = read(&disk, head).unwrap();
            prop_assert_eq!(Some(verified.head), head);
        }
    }
}

#[test]
fn nothing_is_appended_after_a_failed_sync_until_it_is_opened_again() {
    let disk = disk();
    let mut trail = open(&disk, TrailOptions::default()).unwrap();
    let head = trail.append(&[entry(0)]).unwrap();
    disk.fail(
        Some(DiskOperation::Sync),
        Occurrence::Only(0),
        Failure::Device,
    );
    assert!(matches!(
        trail.append(&[entry(1)]),
        Err(TrailError::Io { .. })
    ));
    assert!(matches!(trail.append(&[entry(2)]), Err(TrailError::Failed)));
    disk.heal();
    let mut trail = open(&disk, TrailOptions::default()).unwrap();
    let end = trail.append(&[entry(3)]).unwrap();
    let crashed = disk.crash(1);
    let (verified, _) = read(&crashed, Some(head)).unwrap();
    assert_eq!(verified.head, end);
}

#[test]
fn a_trail_is_bounded_and_says_what_was_removed() {
    let disk = disk();
    let mut trail = open(&disk, small()).unwrap();
    let first = trail.append(&[entry(0)]).unwrap();
    for number in 1..40 {
        trail.append(&[entry(number)]).unwrap();
        assert!(trail.bytes() <= 16384 + 8192, "{}", trail.bytes());
    }
    let (verified, entries) = read(&disk, Some(trail.head())).unwrap();
    assert!(verified.pruned > 0);
    assert!(
        entries
            .iter()
            .any(|entry| matches!(entry.event, AuditEvent::Pruned { through } if through.entries == verified.pruned))
    );
    assert!(matches!(
        read(&disk, Some(first)),
        Err(VerifyError::Pruned { .. })
    ));
    // It goes on after that, too.
    let end = open(&disk, small()).unwrap().append(&[entry(41)]).unwrap();
    read(&disk, Some(end)).unwrap();
}

#[test]
fn every_changed_byte_of_an_entry_is_found() {
    let disk = disk();
    let mut trail = open(&disk, TrailOptions::default()).unwrap();
    trail.append(&[entry(0)]).unwrap();
    trail.append(&[entry(1)]).unwrap();
    let head = trail.head();
    for offset in 0..160 {
        let changed = disk.crash(0);
        changed.flip(&files(&disk)[0], offset, 1).unwrap();
        assert!(read(&changed, Some(head)).is_err(), "byte {offset}");
    }
}

#[test]
fn a_trail_whose_end_was_cut_off_does_not_reach_an_exported_head() {
    let disk = disk();
    let mut trail = open(&disk, TrailOptions::default()).unwrap();
    let early = trail.append(&[entry(0)]).unwrap();
    let late = trail.append(&[entry(1)]).unwrap();
    let file = disk.open(&files(&disk)[0]).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(read(&disk, Some(early)).unwrap().0.head, early);
    assert!(matches!(
        read(&disk, Some(late)),
        Err(VerifyError::Short { .. })
    ));
}

#[test]
fn a_trail_written_anew_with_other_entries_has_another_head() {
    let (honest, forged) = (disk(), disk());
    let head = open(&honest, TrailOptions::default())
        .unwrap()
        .append(&[entry(0), entry(1)])
        .unwrap();
    open(&forged, TrailOptions::default())
        .unwrap()
        .append(&[entry(0), entry(2)])
        .unwrap();
    assert!(read(&forged, None).is_ok());
    assert!(matches!(
        read(&forged, Some(head)),
        Err(VerifyError::Changed { .. })
    ));
}

#[test]
fn a_trail_whose_beginning_was_removed_by_hand_is_damaged() {
    let disk = disk();
    let options = TrailOptions {
        segment_bytes: 4096,
        ..TrailOptions::default()
    };
    let mut trail = open(&disk, options).unwrap();
    for number in 0..4 {
        trail.append(&[entry(number)]).unwrap();
    }
    disk.remove(&files(&disk)[0]).unwrap();
    assert!(matches!(
        read(&disk, None),
        Err(VerifyError::Trail(TrailError::Damaged { .. }))
    ));
}

#[test]
fn a_file_that_is_missing_in_the_middle_breaks_the_chain() {
    let disk = disk();
    let options = TrailOptions {
        segment_bytes: 4096,
        ..TrailOptions::default()
    };
    let mut trail = open(&disk, options).unwrap();
    for number in 0..4 {
        trail.append(&[entry(number)]).unwrap();
    }
    disk.remove(&files(&disk)[1]).unwrap();
    assert!(matches!(
        read(&disk, None),
        Err(VerifyError::Trail(TrailError::Damaged { .. }))
    ));
    assert!(matches!(
        open(&disk, options),
        Err(TrailError::Damaged { .. })
    ));
}

#[test]
fn nothing_is_appended_behind_damage() {
    let disk = disk();
    let mut trail = open(&disk, TrailOptions::default()).unwrap();
    trail.append(&[entry(0)]).unwrap();
    trail.append(&[entry(1)]).unwrap();
    disk.flip(&files(&disk)[0], 100, 1).unwrap();
    let before = read_file(&disk, &files(&disk)[0]).unwrap();
    assert!(matches!(
        open(&disk, TrailOptions::default()),
        Err(TrailError::Damaged { offset: 0, .. })
    ));
    assert_eq!(read_file(&disk, &files(&disk)[0]).unwrap(), before);
}

#[test]
fn a_copy_of_a_trail_has_the_same_head() {
    let (from, into) = (disk(), disk());
    let mut trail = open(&from, small()).unwrap();
    for number in 0..9 {
        trail.append(&[entry(number)]).unwrap();
    }
    assert!(copy(&from, folder(), &into, folder()).unwrap() > 0);
    let (verified, _) = read(&into, Some(trail.head())).unwrap();
    assert_eq!(verified.head, trail.head());
}
