//! What waits for a device's process, and may not wait for one that never answers.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;

#[test]
fn a_callback_that_gives_an_order_as_the_process_dies_is_not_left_waiting() {
    let epochs = epochs(|_| {});
    let device = epochs.current();
    // The thread that hears of completions is kept busy, so that another one finds the next.
    let (busy, is_busy) = channel();
    let (free, is_free) = channel::<()>();
    let (busy, is_free) = (Mutex::new(busy), Mutex::new(is_free));
    let keep = move |_: Completed| {
        busy.lock().send(()).unwrap();
        let _ = is_free.lock().recv();
    };
    device
        .publish(Task::new(WHO, ALICE), Arc::new(keep))
        .unwrap();
    is_busy.recv_timeout(LIMIT).unwrap();
    let (told, answer) = channel();
    let told = Mutex::new(told);
    let held = Arc::downgrade(&device);
    let order = move |completed: Completed| {
        let device = held.upgrade().unwrap();
        let ordered = device.revoke_tenant_generation(BOB);
        told.lock().send((completed.status, ordered)).unwrap();
    };
    device
        .publish(Task::new(WHO, ALICE), Arc::new(order))
        .unwrap();
    let (hub, layout) = (&device.hub, &device.hub.layout);
    let slots = layout.sizes.entry_slots;
    let posted = Ring::new(Arc::clone(&hub.region), layout.completions, slots).unwrap();
    while posted.read(1).is_none() {
        std::thread::yield_now();
    }
    send(&device, Signal::KILL);
    let (status, ordered) = answer.recv_timeout(LIMIT).expect("it is left waiting");
    assert_eq!(
        status,
        Status::Done,
        "what was posted before the end counts"
    );
    assert_eq!(ordered, Err(TenantError::Stale { tenant: BOB }));
    free.send(()).unwrap();
    answers(&next(&epochs, &device), ALICE);
}

/// Where a device's process that is not to become ready says so: it parks if the file is there.
fn switch(embedder: u32) -> PathBuf {
    std::env::temp_dir().join(format!("orlop-parks-{embedder}"))
}

#[test]
fn entering_is_put_off_while_the_embedder_says_so() {
    if crate::child::main::is_device() {
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        let file = switch(parent.unsigned_abs());
        if file.exists() {
            std::fs::write(&file, "parked").unwrap();
            loop {
                std::thread::park();
            }
        }
    }
    entering_returns_in_any_process_but_a_devices();
}

struct Switch(PathBuf);

impl Switch {
    fn on(file: PathBuf) -> Self {
        std::fs::write(&file, "").unwrap();
        Self(file)
    }
    fn said(&self) -> bool {
        let file: &Path = &self.0;
        std::fs::read(file).unwrap() == b"parked"
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_close_does_not_wait_for_a_next_process_that_never_becomes_ready() {
    let test = "child::tests::waits::entering_is_put_off_while_the_embedder_says_so";
    let epochs = epochs(|child| {
        child.args = ["--exact", test].map(Into::into).to_vec();
        child.start_max = LIMIT * 5;
    });
    let switch = Switch::on(switch(std::process::id()));
    send(&epochs.current(), Signal::KILL);
    let began = Instant::now();
    while !switch.said() {
        assert!(began.elapsed() < LIMIT, "no process follows");
        std::thread::yield_now();
    }
    let (told, closed) = channel();
    let closer = std::thread::spawn(move || {
        epochs.close();
        told.send(()).unwrap();
    });
    closed.recv_timeout(LIMIT).expect("it waits for the start");
    closer.join().unwrap();
}
