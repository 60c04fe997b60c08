//! Workers: whose tile is next, who sleeps, who tells what runs.

use super::*;
use crate::layout::worker_slot;

#[test]
fn tiles_are_claimed_round_robin_over_tenants() {
    let (op, starts, go) = gated(USER, 4);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    let publish = |tenant, tag| {
        let mut task = Task::new(Opcode::new(USER), tenant);
        task.args.push(tag);
        device.publish(task, Arc::clone(&done)).unwrap();
    };
    publish(ALICE, 1);
    let first = starts.recv_timeout(LIMIT).unwrap();
    publish(ALICE, 2);
    publish(BOB, 3);
    let mut order = vec![first];
    for _ in 0..11 {
        go.send(()).unwrap();
        order.push(starts.recv_timeout(LIMIT).unwrap());
    }
    go.send(()).unwrap();
    (0..3).for_each(|_| assert_eq!(next(&completions).status, Status::Done));
    // In order within a tenant, and Bob never waits for more than one tile of Alice's.
    let alice: Vec<_> = order.iter().copied().filter(|tag| *tag != 3).collect();
    assert_eq!(alice, [1, 1, 1, 1, 2, 2, 2, 2]);
    let bob: Vec<_> = (0..order.len()).filter(|i| order[*i] == 3).collect();
    assert_eq!(bob.len(), 4);
    assert!(
        bob[0] <= 3 && bob.windows(2).all(|pair| pair[1] - pair[0] <= 2),
        "{order:?}"
    );
    quiet(&device);
}

pub(super) fn says_it_sleeps(device: &Device, worker: usize) -> bool {
    let (at, lines) = (device.hub.layout.workers, 2 * worker_slot::COUNT);
    let slots = device.hub.region.slots(at, lines).unwrap();
    let line = worker * usize::try_from(worker_slot::COUNT).unwrap();
    let slot = &slots[line + usize::try_from(worker_slot::SLEEPING).unwrap()];
    slot.word(0).unwrap().load(Ordering::Relaxed) != 0
}

#[test]
fn idle_workers_sleep() {
    let device = device(2, vec![]);
    let (done, completions) = listener();
    device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    next(&completions);
    // Every worker says so itself; nothing but a doorbell ends that.
    while !(0..2).all(|worker| says_it_sleeps(&device, worker)) {
        std::thread::yield_now();
    }
    assert_eq!(device.snapshot().workers, [Heartbeat::default(); 2]);
}

#[test]
fn a_heartbeat_names_the_running_ticket_and_tile() {
    let (op, starts, go) = gated(USER, 1);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    let ticket = device
        .publish(Task::new(Opcode::new(USER), ALICE), done)
        .unwrap();
    starts.recv_timeout(LIMIT).unwrap();
    let beat = device.snapshot().workers[0];
    assert_eq!((beat.ticket, beat.tile), (ticket.wire(), 0));
    assert!(beat.since_nanos > 0);
    go.send(()).unwrap();
    next(&completions);
}
