//! Cancels and deadlines: what they end, and where.

use super::*;

#[test]
fn a_cancel_ends_what_waits_what_is_queued_and_what_runs_at_a_tile_boundary() {
    let (op, starts, go) = gated(USER, 3);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    let publish = |opcode| {
        device
            .publish(Task::new(opcode, ALICE), Arc::clone(&done))
            .unwrap()
    };
    let running = publish(Opcode::new(USER));
    starts.recv_timeout(LIMIT).unwrap();
    let on_ring: Vec<_> = (0..15).map(|_| publish(Noop::OPCODE)).collect();
    let waiting = publish(Noop::OPCODE);
    assert_eq!(device.snapshot().waiting, 1);
    assert_eq!(device.cancel(waiting), Cancel::Withdrawn);
    let completed = next(&completions);
    assert_eq!(
        (completed.ticket, completed.status),
        (waiting, Status::Cancelled)
    );
    assert_eq!(device.cancel(waiting), Cancel::Unknown);
    assert_eq!(device.cancel(on_ring[7]), Cancel::Requested);
    assert_eq!(device.cancel(running), Cancel::Requested);
    go.send(()).unwrap();
    let ends: HashMap<_, _> = (0..16)
        .map(|_| next(&completions))
        .map(|c| (c.ticket, c.status))
        .collect();
    assert_eq!(ends[&running], Status::Cancelled);
    assert_eq!(ends[&on_ring[7]], Status::Cancelled);
    assert_eq!(
        ends.values()
            .filter(|status| **status == Status::Done)
            .count(),
        14
    );
    assert!(
        starts.try_recv().is_err(),
        "a tile started after the cancel"
    );
    assert_eq!(device.cancel(running), Cancel::Unknown);
    quiet(&device);
}

#[test]
fn a_passed_deadline_ends_an_operation_before_it_starts_and_at_a_tile_boundary() {
    let (op, starts, go) = gated(USER, 3);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    let mut late = Task::new(Noop::OPCODE, ALICE);
    late.deadline = Some(Duration::ZERO);
    device.publish(late, Arc::clone(&done)).unwrap();
    assert_eq!(next(&completions).status, Status::Expired);

    let mut slow = Task::new(Opcode::new(USER), ALICE);
    slow.deadline = Some(Duration::from_millis(200));
    let (begun, ticket) = (
        std::time::Instant::now(),
        device.publish(slow, Arc::clone(&done)).unwrap(),
    );
    // The first tile starts in time on any machine that is not stalled; then the time passes.
    if starts.recv_timeout(LIMIT).is_ok() {
        while begun.elapsed() < Duration::from_millis(201) {
            std::hint::spin_loop();
        }
        go.send(()).unwrap();
    }
    let completed = next(&completions);
    assert_eq!(
        (completed.ticket, completed.status),
        (ticket, Status::Expired)
    );
    assert!(
        starts.try_recv().is_err(),
        "a tile started after the deadline"
    );
    let mut timely = Task::new(Noop::OPCODE, ALICE);
    timely.deadline = Some(Duration::MAX);
    device.publish(timely, done).unwrap();
    assert_eq!(next(&completions).status, Status::Done);
    quiet(&device);
}
