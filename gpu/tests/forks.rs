//! A forked child shares the memory and has none of the threads.
#![cfg(unix)]
#![allow(
    unsafe_code,
    reason = "the standard library forks for nobody who does not ask so"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use super::*;

#[test]
fn a_forked_child_that_frees_and_closes_leaves_its_parents_device_as_it_was() {
    let device = Arc::new(device(2, Vec::new()));
    let kept = device.buffers().put(ALICE, b"kept").unwrap();
    let orders = device.hub.control.orders();
    let childs = Arc::clone(&device);
    let mut child = Command::new("true");
    let touch = move || {
        // In the child: its copies of the locks are free, since no other thread holds one now.
        let _ = childs.buffers().free(ALICE, kept);
        childs.close();
        Ok(())
    };
    // SAFETY: runs between fork and exec in a process whose only other threads, the device's
    // workers, sleep and hold no lock and no allocation in progress; it frees one table entry
    // and returns early from the rest.
    unsafe { child.pre_exec(touch) };
    assert!(child.status().unwrap().success());
    assert_eq!(
        device.hub.control.orders(),
        orders,
        "the child wrote the parent's ring"
    );
    assert_eq!(&*device.buffers().read(ALICE, kept).unwrap(), b"kept");
    device.buffers().put(ALICE, b"and goes on").unwrap();
    device.close();
}

#[test]
fn a_forked_child_writes_nothing_into_its_parents_buffers() {
    let device = Arc::new(device(2, Vec::new()));
    let childs = Arc::clone(&device);
    let mut child = Command::new("true");
    let touch = move || {
        let put = childs.buffers().put(ALICE, b"childs");
        put.err()
            .map(drop)
            .ok_or_else(|| std::io::ErrorKind::Other.into())
    };
    // SAFETY: as above; it takes one table entry and gives it back, with the allocator's locks
    // free for the same reason.
    unsafe { child.pre_exec(touch) };
    assert!(child.status().unwrap().success(), "the child put something");
    // Where the parent's next one lies.
    let next = device.buffers().result(ALICE, 6).unwrap();
    assert_eq!(&**next.pinned(), &[0; 6], "the child wrote there");
    drop(next);
    device.close();
}
