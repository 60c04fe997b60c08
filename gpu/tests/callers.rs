//! Callers: callbacks that call back, and many threads at once.

use super::*;

#[test]
fn callbacks_may_publish_and_cancel() {
    let device = Arc::new(device(1, vec![]));
    let (done, completions) = listener();
    let again = Arc::downgrade(&device);
    let first: Arc<dyn Completion> = Arc::new(move |completed: Completed| {
        let device = again.upgrade().unwrap();
        assert_eq!(device.cancel(completed.ticket), Cancel::Unknown);
        let mut task = Task::new(Blake3::OPCODE, ALICE);
        task.windows
            .push(device.buffers().stage(ALICE, b"again").unwrap());
        device.publish(task, Arc::clone(&done)).unwrap();
    });
    device
        .publish(Task::new(Noop::OPCODE, ALICE), first)
        .unwrap();
    assert_eq!(*next(&completions).result, *Digest::of(b"again").as_bytes());
    quiet(&device);
    assert_eq!(device.buffers().available(), device.buffers().capacity());
}

#[test]
fn many_threads_publish_cancel_and_free_at_once_and_everything_comes_back() {
    let device = device(2, vec![]);
    let barrier = Barrier::new(3);
    std::thread::scope(|scope| {
        for (thread, tenant) in [(0_u32, ALICE), (1, BOB), (2, ALICE)] {
            let (device, barrier) = (&device, &barrier);
            scope.spawn(move || {
                let (done, completions) = listener();
                let mut random = fastrand_lite(thread);
                let mut open = 0;
                barrier.wait();
                for _ in 0..600 {
                    let content =
                        vec![u8::try_from(thread).unwrap(); (random() % 200_000) as usize];
                    let mut task = Task::new(Blake3::OPCODE, tenant);
                    if random().is_multiple_of(2) {
                        let Ok(id) = device.buffers().put(tenant, &content) else {
                            continue;
                        };
                        task.windows
                            .push(device.buffers().read(tenant, id).unwrap());
                        device.buffers().free(tenant, id).unwrap();
                    } else {
                        let Ok(window) = device.buffers().stage(tenant, &content) else {
                            continue;
                        };
                        task.windows.push(window);
                    }
                    let expected = Digest::of(&content);
                    let inner = Arc::clone(&done);
                    let checked: Arc<dyn Completion> = Arc::new(move |completed: Completed| {
                        if completed.status == Status::Done {
                            assert_eq!(*completed.result, *expected.as_bytes());
                        }
                        Arc::clone(&inner).completed(completed);
                    });
                    if let Ok(ticket) = device.publish(task, checked) {
                        open += 1;
                        if random().is_multiple_of(4) {
                            device.cancel(ticket);
                        }
                    }
                }
                for _ in 0..open {
                    let status = next(&completions).status;
                    assert!(
                        matches!(status, Status::Done | Status::Cancelled),
                        "{status:?}"
                    );
                }
            });
        }
    });
    quiet(&device);
    assert_eq!(device.snapshot().callback_panics, 0);
    assert_eq!(device.buffers().available(), device.buffers().capacity());
}
