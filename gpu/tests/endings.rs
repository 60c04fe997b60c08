//! Drain and close: nothing is lost, nothing lands after.

use super::*;

#[test]
fn no_publish_lands_after_a_drain_returned_and_none_is_lost_before() {
    let device = device(2, vec![]);
    let stop = AtomicBool::new(false);
    let ended = Arc::new(AtomicU32::new(0));
    let accepted = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let counter = Arc::clone(&ended);
                let done: Arc<dyn Completion> = Arc::new(move |_: Completed| {
                    counter.fetch_add(1, Ordering::SeqCst);
                });
                while !stop.load(Ordering::SeqCst) {
                    match device.publish(Task::new(Noop::OPCODE, ALICE), Arc::clone(&done)) {
                        Ok(_) => drop(accepted.fetch_add(1, Ordering::SeqCst)),
                        Err(PublishRefused::Draining | PublishRefused::Full { .. }) => {
                            std::thread::yield_now();
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
        for _ in 0..50 {
            device.drain(LIMIT).unwrap();
            let after = ended.load(Ordering::SeqCst);
            assert_eq!(device.snapshot().outstanding, 0);
            std::thread::yield_now();
            assert_eq!(
                ended.load(Ordering::SeqCst),
                after,
                "a publish landed after the drain"
            );
            device.resume();
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
    });
    quiet(&device);
    assert_eq!(
        ended.load(Ordering::SeqCst),
        accepted.load(Ordering::SeqCst)
    );
    assert_eq!(device.snapshot().drains, 51);
}

#[test]
fn a_drain_that_runs_into_its_limit_says_how_much_is_left_and_is_counted() {
    let (op, starts, go) = gated(USER, 1);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    device
        .publish(Task::new(Opcode::new(USER), ALICE), Arc::clone(&done))
        .unwrap();
    starts.recv_timeout(LIMIT).unwrap();
    let timed_out = device.drain(Duration::from_millis(1));
    assert!(matches!(
        timed_out,
        Err(DrainError::TimedOut { outstanding: 1, .. })
    ));
    let refused = device.publish(Task::new(Noop::OPCODE, ALICE), Arc::clone(&done));
    assert_eq!(refused, Err(PublishRefused::Draining));
    go.send(()).unwrap();
    assert_eq!(next(&completions).status, Status::Done);
    quiet(&device);
    let snapshot = device.snapshot();
    assert_eq!((snapshot.drains, snapshot.drain_timeouts), (2, 1));
    assert!(snapshot.drain_waited_nanos >= 1_000_000);
}

#[test]
fn close_completes_everything_once_and_refuses_the_rest_and_may_be_repeated() {
    let (op, starts, go) = gated(USER, 8);
    let device = Arc::new(device(2, vec![op]));
    let (done, completions) = listener();
    for _ in 0..40 {
        device
            .publish(Task::new(Opcode::new(USER), ALICE), Arc::clone(&done))
            .unwrap();
    }
    starts.recv_timeout(LIMIT).unwrap();
    let closing = Arc::clone(&device);
    let closer = std::thread::spawn(move || closing.close());
    drop(go);
    closer.join().unwrap();
    device.close();
    let ends: HashMap<_, _> = completions
        .try_iter()
        .map(|c| (c.ticket, c.status))
        .collect();
    assert_eq!(ends.len(), 40);
    assert!(
        ends.values()
            .all(|status| matches!(status, Status::Done | Status::Cancelled))
    );
    let refused = device.publish(Task::new(Noop::OPCODE, ALICE), done);
    assert_eq!(refused, Err(PublishRefused::Closed));
    device.resume();
    let snapshot = device.snapshot();
    assert_eq!(
        (snapshot.credits, snapshot.permits, snapshot.outstanding),
        (16, 64, 0)
    );
    assert_eq!(snapshot.done + snapshot.cancelled, 40);
}

#[test]
fn a_device_may_be_closed_and_dropped_from_a_callback_and_buffers_outlive_it() {
    let device = Arc::new(device(2, vec![]));
    let buffers = device.buffers().clone();
    let id = buffers.put(ALICE, b"outlives").unwrap();
    let (sender, receiver) = channel();
    let held = Mutex::new(Some(Arc::clone(&device)));
    let done: Arc<dyn Completion> = Arc::new(move |_: Completed| {
        let device = held.lock().take().unwrap();
        device.close();
        drop(device);
        let _ = sender.send(());
    });
    let waiting = Arc::downgrade(&device);
    device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    drop(device);
    receiver.recv_timeout(LIMIT).unwrap();
    assert!(waiting.upgrade().is_none());
    let pinned = buffers.read(ALICE, id).unwrap();
    assert_eq!(*pinned, *b"outlives");
    assert!(matches!(
        buffers.free(ALICE, id),
        Ok(Freed::WhenUnpinned { pins: 1 })
    ));
    drop(pinned);
    assert_eq!(buffers.available(), buffers.capacity());
}
