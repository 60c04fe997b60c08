use orlop_saga::event::Event;
use orlop_saga::id::Incarnation;

use super::*;
use crate::disk::SimDisk;

const STORE: StoreId = StoreId::new([5; 16]);

/// A checkpoint whose fold stands at `lsn`.
fn checkpoint_at(lsn: u64) -> Checkpoint {
    let mut live = Live::default();
    for n in 1..=lsn {
        let event = Event::Opened {
            incarnation: Incarnation::new(n),
            at: WallMillis::new(n),
        };
        live.apply(Lsn::new(n), &event).unwrap();
    }
    Checkpoint {
        store: STORE,
        at: WallMillis::new(lsn),
        unexported_bytes: lsn,
        live,
    }
}

fn root() -> &'static Path {
    Path::new("/")
}

#[test]
fn the_two_newest_checkpoints_are_kept_and_the_newest_is_found() {
    let disk = SimDisk::new();
    assert!(find(&disk, root(), STORE).unwrap().newest.is_none());
    for lsn in 1..=4 {
        write(&disk, root(), &checkpoint_at(lsn), Format::NEWEST).unwrap();
    }
    assert_eq!(oldest(&disk, root()).unwrap(), Some(Lsn::new(3)));
    assert_eq!(list(&disk, root()).unwrap().len(), 2);
    let found = find(&disk, root(), STORE).unwrap();
    assert_eq!(found.newest, Some(checkpoint_at(4)));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let disk = SimDisk::new();
    write(&disk, root(), &checkpoint_at(1), Format::NEWEST).unwrap();
    write(&disk, root(), &checkpoint_at(2), Format::NEWEST).unwrap();
    let newest = PathBuf::from("/checkpoint-0000000000000002");
    let length = disk.open(&newest).unwrap().len().unwrap();
    for offset in 0..length {
        disk.flip(&newest, offset, 0x10).unwrap();
        let found = find(&disk, root(), STORE).unwrap();
        assert_eq!(found.newest, Some(checkpoint_at(1)), "{offset}");
        assert_eq!(found.damaged, std::slice::from_ref(&newest), "{offset}");
        disk.flip(&newest, offset, 0x10).unwrap();
    }
}

#[test]
fn a_checkpoint_of_another_store_is_refused() {
    let disk = SimDisk::new();
    write(&disk, root(), &checkpoint_at(1), Format::NEWEST).unwrap();
    let refused = find(&disk, root(), StoreId::new([6; 16])).unwrap_err();
    assert!(
        matches!(refused, CheckpointError::OtherStore { found, .. } if found == STORE),
        "{refused}"
    );
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_old_or_the_new_checkpoint() {
    let mut written = false;
    for operations in 0..60 {
        let disk = SimDisk::new();
        for lsn in 1..=3 {
            write(&disk, root(), &checkpoint_at(lsn), Format::NEWEST).unwrap();
        }
        disk.power_off_after(operations);
        let result = write(&disk, root(), &checkpoint_at(4), Format::NEWEST);
        for seed in 0..8 {
            let found = find(&disk.crash(seed), root(), STORE).unwrap();
            let newest = found.newest.map(|found| found.live.lsn().get());
            assert!(
                newest == Some(4) || (newest == Some(3) && result.is_err()),
                "{newest:?}"
            );
        }
        written |= result.is_ok();
    }
    assert!(written);
}
