//! Lending: who runs a short operation, and when nobody does on the publisher's behalf.

use std::thread::{self, ThreadId};

use super::*;

/// Publishes a `noop` as short and gives the thread that its completion was told on.
fn told_on(device: &Device) -> ThreadId {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let done = move |_: Completed| {
        // The receiver waits for it.
        let _ = sender.lock().send(thread::current().id());
    };
    let task = Task::new(Noop::OPCODE, ALICE);
    let done: Arc<dyn Completion> = Arc::new(done);
    for published in device.publish_short([(task, done)]) {
        published.unwrap();
    }
    receiver.recv_timeout(LIMIT).unwrap()
}

fn wait_until_all_sleep(device: &Device, count: usize) {
    while !(0..count).all(|worker| workers::says_it_sleeps(device, worker)) {
        thread::yield_now();
    }
}

#[test]
fn a_short_operation_is_run_by_who_publishes_it_while_all_workers_sleep() {
    let device = device(2, vec![]);
    wait_until_all_sleep(&device, 2);
    let before = device.snapshot();
    assert_eq!(told_on(&device), thread::current().id());
    let after = device.snapshot();
    assert_eq!((after.lends, after.wakes), (before.lends + 1, before.wakes));
    assert_eq!((after.done, after.active), (before.done + 1, 0));
    quiet(&device);
}

#[test]
fn a_short_operation_is_left_to_the_workers_while_one_of_them_runs_something() {
    let (op, starts, go) = gated(USER, 1);
    let device = device(2, vec![op]);
    let (done, completions) = listener();
    let task = Task::new(Opcode::new(USER), BOB);
    device.publish(task, done).unwrap();
    starts.recv_timeout(LIMIT).unwrap();
    assert_ne!(told_on(&device), thread::current().id());
    assert_eq!(device.snapshot().lends, 0);
    go.send(()).unwrap();
    next(&completions);
    quiet(&device);
}

#[test]
fn what_a_callback_publishes_on_a_lent_thread_is_left_to_the_workers() {
    let device = Arc::new(device(1, vec![]));
    wait_until_all_sleep(&device, 1);
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let inner = Arc::clone(&device);
    let done = move |_: Completed| {
        let (done, completions) = listener();
        let task = Task::new(Noop::OPCODE, ALICE);
        inner.publish_short([(task, done)]);
        drop(sender.lock().send((thread::current().id(), completions)));
    };
    let done: Arc<dyn Completion> = Arc::new(done);
    device.publish_short([(Task::new(Noop::OPCODE, ALICE), done)]);
    let (outer, completions) = receiver.recv_timeout(LIMIT).unwrap();
    assert_eq!(outer, thread::current().id());
    assert_eq!(next(&completions).status, Status::Done);
    // Lent once, though it published twice.
    assert_eq!(device.snapshot().lends, 1);
}
