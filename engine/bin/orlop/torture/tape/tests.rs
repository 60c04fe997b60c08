use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Write};
use std::os::unix::fs::FileExt;

use super::*;

/// There is one tape in a process.
static ALONE: Mutex<()> = Mutex::new(());

fn name(name: &str) -> String {
    name.to_owned()
}

#[test]
fn every_change_of_the_folder_is_on_the_tape_in_order_and_none_of_another() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let (root, other) = (folder.path().join("root"), folder.path().join("other"));
    fs::create_dir(&root).unwrap();
    record(&root, Vec::new());
    let file = File::create(root.join("a")).unwrap();
    file.write_all_at(b"one", 7).unwrap();
    (&file).write_all(b"two").unwrap();
    let written = (&file).write_vectored(&[IoSlice::new(b""), IoSlice::new(b"three")]);
    assert_eq!(written.unwrap(), 5);
    file.write_all_at(&[0; 9], 0).unwrap();
    file.set_len(4).unwrap();
    file.sync_data().unwrap();
    fs::create_dir(root.join("b")).unwrap();
    fs::rename(root.join("a"), root.join("b/c")).unwrap();
    // A file keeps its number when its name is moved.
    file.sync_all().unwrap();
    fs::hard_link(root.join("b/c"), root.join("d")).unwrap();
    File::open(&root).unwrap().sync_all().unwrap();
    fs::write(&other, b"not recorded").unwrap();
    note(Event::Said(Ack::Accepted(1)));
    drop(
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(root.join("d")),
    );
    fs::remove_file(root.join("d")).unwrap();
    fs::remove_dir_all(root.join("b")).unwrap();
    let wrote = |offset, data: &[u8]| Event::Wrote {
        node: 1,
        offset,
        data: data.to_vec(),
    };
    let removed = |folder, text| Event::Removed {
        folder,
        name: name(text),
    };
    let expected = [
        Event::CreatedFile {
            folder: 0,
            name: name("a"),
            node: 1,
        },
        wrote(7, b"one"),
        wrote(0, b"two"),
        wrote(3, b"three"),
        Event::WroteZeros {
            node: 1,
            offset: 0,
            bytes: 9,
        },
        Event::SetLength { node: 1, bytes: 4 },
        Event::Synced { node: 1 },
        Event::CreatedFolder {
            folder: 0,
            name: name("b"),
            node: 2,
        },
        Event::Renamed {
            from: (0, name("a")),
            to: (2, name("c")),
            node: 1,
        },
        Event::Synced { node: 1 },
        Event::Linked {
            folder: 0,
            name: name("d"),
            node: 1,
        },
        Event::Synced { node: 0 },
        Event::Said(Ack::Accepted(1)),
        Event::SetLength { node: 1, bytes: 0 },
        removed(0, "d"),
        removed(2, "c"),
        removed(0, "b"),
    ];
    assert_eq!(stop().events, expected);
}

#[test]
fn the_change_that_was_chosen_fails_as_asked_for_once_or_from_then_on() {
    let _alone = ALONE.lock();
    let errors = |fault, lasting| {
        let folder = tempfile::tempdir().unwrap();
        let at = 3;
        fail(folder.path(), Some(Faults { at, fault, lasting }));
        let file = File::create(folder.path().join("a")).unwrap();
        let told = vec![
            file.write_at(b"first", 0).map_err(|e| e.kind()),
            file.write_at(b"second", 0).map_err(|e| e.kind()),
            file.sync_data().map(|()| 0).map_err(|e| e.kind()),
            file.write_at(b"fourth", 0).map_err(|e| e.kind()),
        ];
        let stopped = stop();
        assert_eq!(stopped.changes, 5);
        (told, stopped.failed)
    };
    let io = std::io::Error::from_raw_os_error(libc::EIO).kind();
    let (full, all) = (Err(ErrorKind::StorageFull), Ok(6));
    let first = Ok(5);
    assert_eq!(
        errors(Fault::Io, false),
        (vec![first, Err(io), Ok(0), all], 1)
    );
    let after = vec![first, Err(io), Err(io), Err(io)];
    assert_eq!(errors(Fault::Io, true), (after, 3));
    assert_eq!(
        errors(Fault::NoSpace, true),
        (vec![first, full, full, full], 3)
    );
    assert_eq!(
        errors(Fault::Short, false),
        (vec![first, Ok(3), Ok(0), all], 1)
    );
    assert_eq!(
        errors(Fault::Short, true),
        (vec![first, Ok(3), Ok(0), Ok(3)], 2)
    );
}
