use super::*;

const NOW: WallMillis = WallMillis::new(77);

fn created(path: &Path) -> Folder {
    let folder = Folder::open(path, true, NOW).unwrap();
    assert!(folder.is_fresh());
    folder.finish().unwrap();
    folder
}

#[test]
fn a_store_keeps_its_id_and_a_second_opener_in_the_process_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a/b");
    let first = created(&path);
    let store = first.store();
    // Through another spelling of the same path.
    let refused = Folder::open(&path.join("../b"), true, NOW).unwrap_err();
    assert!(
        matches!(&refused, FolderError::OpenHere { path } if path == first.path()),
        "{refused}"
    );
    drop(first);
    let again = Folder::open(&path, false, NOW).unwrap();
    assert_eq!((again.store(), again.is_fresh()), (store, false));
}

#[test]
fn the_holder_of_the_lock_is_named() {
    let temp = tempfile::tempdir().unwrap();
    drop(created(temp.path()));
    // A lock belongs to the open file, so another opening of it stands for another process.
    let mut other = take_lock(temp.path()).unwrap();
    let holder = Holder {
        pid: 4_000_123,
        since: WallMillis::new(5),
    };
    write_holder(&mut other, holder).unwrap();
    let refused = Folder::open(temp.path(), true, NOW).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "{} is open in process 4000123 since 5 ms; nothing was opened; end it first",
            temp.path().canonicalize().unwrap().display()
        )
    );
    drop(other);
    assert!(Folder::open(temp.path(), true, NOW).is_ok());
}

#[test]
fn a_folder_with_other_files_is_no_store_and_stays_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("precious"), b"data").unwrap();
    let refused = Folder::open(temp.path(), true, NOW).unwrap_err();
    assert!(
        matches!(&refused, FolderError::NotAStore { entry, .. } if entry == "precious"),
        "{refused}"
    );
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_only_looks_like_a_store_is_not_emptied() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join(LOG)).unwrap();
    let refused = Folder::open(temp.path(), true, NOW).unwrap_err();
    assert!(
        matches!(refused, FolderError::NotAStore { .. }),
        "{refused}"
    );
    assert!(temp.path().join(LOG).is_dir());
}

#[test]
fn missing_folders_and_files_are_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let missing = Folder::open(&temp.path().join("no"), false, NOW).unwrap_err();
    assert!(matches!(missing, FolderError::Missing { .. }), "{missing}");
    let file = temp.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let refused = Folder::open(&path, true, NOW).unwrap_err();
        assert!(
            matches!(refused, FolderError::NotADirectory { .. }),
            "{refused}"
        );
    }
}

#[test]
fn a_newer_format_and_a_damaged_one_are_refused_and_kept() {
    let temp = tempfile::tempdir().unwrap();
    drop(created(temp.path()));
    let format = temp.path().join(FORMAT);
    let sound = std::fs::read(&format).unwrap();
    let newer = sealed::Kind { version: 9, ..KIND };
    std::fs::write(&format, sealed::seal(newer, &[1; 16])).unwrap();
    let refused = Folder::open(temp.path(), true, NOW).unwrap_err();
    assert!(
        matches!(
            refused,
            FolderError::Newer {
                format: 9,
                format_max: 3,
                ..
            }
        ),
        "{refused}"
    );
    std::fs::write(&format, &sound[..20]).unwrap();
    let refused = Folder::open(temp.path(), true, NOW).unwrap_err();
    assert!(matches!(refused, FolderError::Damaged { .. }), "{refused}");
    std::fs::write(&format, &sound).unwrap();
    assert!(Folder::open(temp.path(), true, NOW).is_ok());
}

#[test]
fn a_creation_that_did_not_end_is_begun_again() {
    let temp = tempfile::tempdir().unwrap();
    let first = Folder::open(temp.path(), true, NOW).unwrap();
    let abandoned = first.store();
    std::fs::create_dir(first.log()).unwrap();
    std::fs::write(first.log().join("segment"), b"half").unwrap();
    drop(first);
    let second = Folder::open(temp.path(), true, NOW).unwrap();
    assert!(second.is_fresh());
    assert_ne!(second.store(), abandoned);
    assert!(!second.log().exists());
}

#[test]
fn what_an_upgrade_left_does_not_make_a_store_that_lost_its_format_look_new() {
    let temp = tempfile::tempdir().unwrap();
    drop(created(temp.path()));
    std::fs::create_dir(temp.path().join(LOG)).unwrap();
    std::fs::write(temp.path().join(FORMAT_NEW), b"cut off").unwrap();
    drop(Folder::open(temp.path(), true, NOW).unwrap());
    std::fs::remove_file(temp.path().join(FORMAT)).unwrap();
    let refused = Folder::open(temp.path(), true, NOW).unwrap_err();
    assert!(
        matches!(refused, FolderError::NotAStore { .. }),
        "{refused}"
    );
    assert!(temp.path().join(LOG).is_dir());
}

#[test]
fn a_forked_child_is_refused_and_does_not_unlock() {
    let temp = tempfile::tempdir().unwrap();
    let parent = std::process::id() + 1;
    assert_eq!(
        check_process(parent),
        Err(Forked {
            opened_by: parent,
            pid: std::process::id()
        })
    );
    let folder = created(temp.path());
    let shared = folder.lock.try_clone().unwrap();
    // As in a child: what it drops must leave the lock, which the parent's file still has.
    drop(folder.opened_by(parent));
    assert!(matches!(
        take_lock(&temp.path().canonicalize().unwrap()),
        Err(FolderError::Locked { .. })
    ));
    drop(shared);
}
