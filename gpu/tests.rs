//! What the device promises an embedder, through its public face.
#![allow(clippy::wildcard_enum_match_arm, clippy::single_match_else)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use parking_lot::Mutex;

use crate::*;

pub(crate) const ALICE: TenantId = TenantId::new(0, 1);
pub(crate) const BOB: TenantId = TenantId::new(1, 1);
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) fn options(workers: u32) -> DeviceOptions {
    DeviceOptions {
        entry_slots: 16,
        tickets_max: 64,
        workers,
        arena_bytes: 8 << 20,
        buffer_slots: 64,
        ..DeviceOptions::default()
    }
}

pub(crate) fn device(workers: u32, ops: Vec<Arc<dyn HostOp>>) -> Device {
    let device = Device::open(&options(workers), ops).unwrap();
    device.register_tenant_generation(ALICE).unwrap();
    device.register_tenant_generation(BOB).unwrap();
    device
}

pub(crate) fn listener() -> (Arc<dyn Completion>, Receiver<Completed>) {
    let (sender, receiver): (Sender<Completed>, _) = channel();
    let sender = Mutex::new(sender);
    let done = move |completed| drop(sender.lock().send(completed));
    (Arc::new(done), receiver)
}

fn next(receiver: &Receiver<Completed>) -> Completed {
    receiver.recv_timeout(LIMIT).expect("a completion comes")
}

/// An operation that tells when a tile starts and ends it when told so.
struct Gated {
    opcode: u32,
    tiles: u32,
    started: Mutex<Sender<u32>>,
    go: Mutex<Receiver<()>>,
    owner: Option<TenantId>,
}

fn gated(opcode: u32, tiles: u32) -> (Arc<Gated>, Receiver<u32>, Sender<()>) {
    let (started, starts) = channel();
    let (go, gate) = channel();
    let op = Gated {
        opcode,
        tiles,
        started: Mutex::new(started),
        go: Mutex::new(gate),
        owner: None,
    };
    (Arc::new(op), starts, go)
}

const USER: u32 = 0x4000_0000;

impl HostOp for Gated {
    fn opcode(&self) -> Opcode {
        Opcode::new(self.opcode)
    }
    fn name(&self) -> &'static str {
        "gated"
    }
    fn owner(&self) -> Option<TenantId> {
        self.owner
    }
    fn tiles(&self, _: &TaskArgs<'_>) -> Result<u32, OpError> {
        Ok(self.tiles)
    }
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>) -> Result<Partial, OpError> {
        // The first argument tells tasks apart, if there is one.
        let tag = task.arg(0).unwrap_or(tile);
        let _ = self.started.lock().send(tag);
        // A closed gate stands open, so that a failing test ends.
        let _ = self.go.lock().recv();
        Ok(Partial::EMPTY)
    }
    fn reduce(&self, _: &TaskArgs<'_>, p: &[Partial], out: &mut Output<'_>) -> Result<(), OpError> {
        out.write(&u32::try_from(p.len()).unwrap().to_le_bytes())
    }
}

/// An operation made of closures.
struct Free<T, R>(u32, T, R);

impl<T, R> HostOp for Free<T, R>
where
    T: Fn(&TaskArgs<'_>) -> Result<u32, OpError> + Send + Sync + 'static,
    R: Fn(u32, &TaskArgs<'_>, Option<&mut Output<'_>>) -> Result<Partial, OpError>
        + Send
        + Sync
        + 'static,
{
    fn opcode(&self) -> Opcode {
        Opcode::new(self.0)
    }
    fn name(&self) -> &'static str {
        "free"
    }
    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        (self.1)(task)
    }
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>) -> Result<Partial, OpError> {
        (self.2)(tile, task, None)
    }
    fn reduce(&self, t: &TaskArgs<'_>, _: &[Partial], o: &mut Output<'_>) -> Result<(), OpError> {
        (self.2)(u32::MAX, t, Some(o)).map(drop)
    }
}

fn quiet(device: &Device) {
    device.drain(LIMIT).unwrap();
    let snapshot = device.snapshot();
    assert_eq!(snapshot.credits, 16, "credits held = credits counted");
    assert_eq!(snapshot.permits, 64, "permits held = permits counted");
    assert_eq!(
        (snapshot.outstanding, snapshot.waiting, snapshot.active),
        (0, 0, 0)
    );
    assert_eq!(snapshot.stale_completions, 0);
    device.resume();
}

#[test]
fn a_noop_is_done_and_costs_time() {
    let device = device(1, vec![]);
    let (done, completions) = listener();
    let ticket = device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    let completed = next(&completions);
    assert_eq!((completed.ticket, completed.status), (ticket, Status::Done));
    assert!(completed.cost.get() > 0);
    assert!(completed.result.is_empty());
    quiet(&device);
}

#[test]
fn a_tiled_digest_of_a_buffer_equals_its_name() {
    let device = device(2, vec![]);
    let content: Vec<u8> = (0..=255_u8).cycle().take(3_000_001).collect();
    let id = device.buffers().put(ALICE, &content).unwrap();
    let digest = Digest::of(&content);
    let (done, completions) = listener();
    for (offset, length) in [(0, 3_000_001), (5, 2_999_990), (3_000_001, 0)] {
        let name = BufferRef {
            digest,
            offset,
            length,
        };
        let mut task = Task::new(Blake3::OPCODE, ALICE);
        task.windows
            .push(device.buffers().bind(ALICE, &name).unwrap());
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Done);
        let (offset, length) = (
            usize::try_from(offset).unwrap(),
            usize::try_from(length).unwrap(),
        );
        let expected = Digest::of(&content[offset..offset + length]);
        assert_eq!(*completed.result, *expected.as_bytes());
    }
    assert_eq!(device.buffers().free(ALICE, id), Ok(Freed::Now));
    quiet(&device);
    assert_eq!(device.buffers().available(), device.buffers().capacity());
}

#[test]
fn thousands_of_entries_of_every_length_wrap_the_ring_with_one_completion_each() {
    let echo = Free(
        USER,
        |_: &TaskArgs<'_>| Ok(1),
        |_, task: &TaskArgs<'_>, out: Option<&mut Output<'_>>| {
            if let Some(out) = out {
                let sum = task
                    .args()
                    .iter()
                    .fold(0_u32, |sum, arg| sum.wrapping_add(*arg));
                out.write(&sum.to_le_bytes())?;
            }
            Ok(Partial::EMPTY)
        },
    );
    let device = device(2, vec![Arc::new(echo)]);
    let threads = 4;
    let each = 2_000_u32;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let device = &device;
            scope.spawn(move || {
                let (done, completions) = listener();
                let mut expected = HashMap::new();
                let mut random = fastrand_lite(thread);
                let mut published = 0;
                while published < each {
                    let mut task = Task::new(Opcode::new(USER), ALICE);
                    let args = (random() % 120) as usize;
                    task.args = (0..args).map(|_| random()).collect();
                    let sum = task
                        .args
                        .iter()
                        .fold(0_u32, |sum, arg| sum.wrapping_add(*arg));
                    match device.publish(task, Arc::clone(&done)) {
                        Ok(ticket) => {
                            expected.insert(ticket, sum);
                            published += 1;
                        }
                        Err(PublishRefused::Full { tickets_max: 64 }) => {
                            // Other threads may hold all permits, then none of ours is due.
                            if let Ok(completed) = completions.try_recv() {
                                check(&mut expected, &completed);
                            } else {
                                std::thread::yield_now();
                            }
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                while !expected.is_empty() {
                    check(&mut expected, &next(&completions));
                }
                assert!(completions.try_recv().is_err(), "a second completion");
            });
        }
    });
    quiet(&device);
    assert_eq!(device.snapshot().done, u64::from(threads * each));
}

fn check(expected: &mut HashMap<Ticket, u32>, completed: &Completed) {
    let sum = expected
        .remove(&completed.ticket)
        .expect("one completion per ticket");
    assert_eq!(completed.status, Status::Done);
    assert_eq!(*completed.result, sum.to_le_bytes());
}

fn fastrand_lite(seed: u32) -> impl FnMut() -> u32 {
    let mut state = u64::from(seed) * 2 + 1;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap()
    }
}

#[test]
fn a_large_result_is_read_through_a_guard_that_holds_its_permit() {
    let large = Free(
        USER,
        |_: &TaskArgs<'_>| Ok(0),
        |_, task: &TaskArgs<'_>, out: Option<&mut Output<'_>>| {
            if let Some(out) = out {
                for _ in 0..task.arg(0)? {
                    out.write(&[7])?;
                }
            }
            Ok(Partial::EMPTY)
        },
    );
    let device = device(1, vec![Arc::new(large)]);
    let (done, completions) = listener();
    for (length, held) in [(32, 0), (33, 1), (65_536, 1)] {
        let mut task = Task::new(Opcode::new(USER), ALICE);
        task.args.push(length);
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Done);
        assert_eq!(*completed.result, vec![7; length as usize]);
        assert_eq!(device.snapshot().permits, 64 - held);
        drop(completed);
        assert_eq!(device.snapshot().permits, 64);
    }
    let mut task = Task::new(Opcode::new(USER), ALICE);
    task.args.push(65_537);
    device.publish(task, done).unwrap();
    let code = OpError::RESULT_TOO_LONG.code;
    assert_eq!(next(&completions).status, Status::Failed { code });
    quiet(&device);
}

#[test]
fn a_panic_in_any_part_of_an_operation_faults_its_task_and_spares_the_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("planted in the payload's drop");
        }
    }
    let panics = Free(
        USER,
        |task: &TaskArgs<'_>| match task.arg(0)? {
            0 => panic!("planted in tiles"),
            1 => Ok(1),
            2 => Ok(5),
            3 => Ok(0),
            _ => std::panic::panic_any(Bomb),
        },
        |tile, task: &TaskArgs<'_>, _: Option<&mut Output<'_>>| {
            assert!(task.arg(0)? == 2 && tile != 3, "planted {}", "x".repeat(40));
            Ok(Partial::EMPTY)
        },
    );
    let device = device(1, vec![Arc::new(panics)]);
    let (done, completions) = listener();
    let texts = [
        "planted in tiles",
        "planted xxxx",
        "planted xxxx",
        "planted xxxx",
        "a panic",
    ];
    for (which, text) in (0..).zip(texts) {
        let mut task = Task::new(Opcode::new(USER), ALICE);
        task.args.push(which);
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Faulted);
        let said = String::from_utf8(completed.result.to_vec()).unwrap();
        assert!(said.starts_with(text), "{said}");
    }
    device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    assert_eq!(next(&completions).status, Status::Done);
    quiet(&device);
}

#[test]
fn a_panicking_callback_is_counted_and_spares_the_worker() {
    let device = device(1, vec![]);
    let bad: Arc<dyn Completion> = Arc::new(|_| panic!("planted"));
    device.publish(Task::new(Noop::OPCODE, ALICE), bad).unwrap();
    let (done, completions) = listener();
    device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    assert_eq!(next(&completions).status, Status::Done);
    quiet(&device);
    assert_eq!(device.snapshot().callback_panics, 1);
}

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

#[test]
fn the_device_refuses_unknown_opcodes_stale_tenants_and_too_many_tiles() {
    let (mut op, _starts, _go) = gated(USER, 1_000_000);
    Arc::get_mut(&mut op).unwrap().owner = Some(BOB);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    let refused = |opcode, tenant| {
        device
            .publish(Task::new(opcode, tenant), Arc::clone(&done))
            .unwrap();
        next(&completions).status
    };
    let user = Opcode::new(USER);
    let unknown = Status::Refused(RefusedWhy::UnknownOpcode);
    assert_eq!(refused(Opcode::new(99), ALICE), unknown);
    assert_eq!(
        refused(user, ALICE),
        unknown,
        "another tenant's opcode is simply unknown"
    );
    assert_eq!(
        refused(user, BOB),
        Status::Refused(RefusedWhy::TooManyTiles)
    );
    let reborn = TenantId::new(0, 2);
    let stale = Status::Refused(RefusedWhy::StaleTenant);
    assert_eq!(refused(Noop::OPCODE, reborn), stale);
    device.register_tenant_generation(reborn).unwrap();
    assert_eq!(refused(Noop::OPCODE, ALICE), stale);
    assert_eq!(refused(Noop::OPCODE, reborn), Status::Done);
    let error = TenantError::Stale { tenant: ALICE };
    assert_eq!(device.revoke_tenant_generation(ALICE), Err(error));
    device.revoke_tenant_generation(reborn).unwrap();
    assert_eq!(refused(Noop::OPCODE, reborn), stale);
    quiet(&device);
}

#[test]
fn a_pad_cannot_be_published_as_an_operation() {
    let device = device(1, vec![]);
    let (done, _completions) = listener();
    let refused = device.publish(Task::new(Opcode::PAD, ALICE), done);
    assert_eq!(refused, Err(PublishRefused::Pad));
    quiet(&device);
}

#[test]
fn a_revoked_tenant_publishes_no_more_but_what_was_on_the_ring_runs() {
    let (op, starts, go) = gated(USER, 1);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    for _ in 0..3 {
        device
            .publish(Task::new(Opcode::new(USER), ALICE), Arc::clone(&done))
            .unwrap();
    }
    starts.recv_timeout(LIMIT).unwrap();
    device.revoke_tenant_generation(ALICE).unwrap();
    device
        .publish(Task::new(Opcode::new(USER), ALICE), done)
        .unwrap();
    drop(go);
    let mut ends: Vec<_> = (0..4).map(|_| next(&completions)).collect();
    ends.sort_by_key(|completed| completed.ticket.serial);
    let ends: Vec<_> = ends.iter().map(|completed| completed.status).collect();
    let stale = Status::Refused(RefusedWhy::StaleTenant);
    assert_eq!(ends, [Status::Done, Status::Done, Status::Done, stale]);
    quiet(&device);
}

#[test]
fn a_window_of_another_tenant_or_device_is_refused_at_publish() {
    let (device, other) = (device(1, vec![]), device(1, vec![]));
    let (done, _completions) = listener();
    let foreign = |pinned| {
        let mut task = Task::new(Noop::OPCODE, ALICE);
        task.windows.push(pinned);
        device.publish(task, Arc::clone(&done)).unwrap_err()
    };
    let expected = PublishRefused::ForeignWindow {
        window: 0,
        tenant: ALICE,
    };
    assert_eq!(
        foreign(device.buffers().stage(BOB, b"x").unwrap()),
        expected
    );
    assert_eq!(
        foreign(other.buffers().stage(ALICE, b"x").unwrap()),
        expected
    );
    quiet(&device);
    assert_eq!(device.buffers().available(), device.buffers().capacity());
}

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
fn an_opcode_is_registered_once_and_only_in_the_user_range() {
    let (op, ..) = gated(USER, 1);
    let (low, ..) = gated(USER - 1, 1);
    let device = device(1, vec![op.clone()]);
    let taken = RegisterError::Taken {
        opcode: USER,
        by: "gated",
    };
    assert_eq!(device.register_op(op), Err(taken));
    assert_eq!(
        device.register_op(low),
        Err(RegisterError::Reserved { opcode: USER - 1 })
    );
    let (later, ..) = gated(USER + 1, 0);
    device.register_op(later).unwrap();
    let (done, completions) = listener();
    device
        .publish(Task::new(Opcode::new(USER + 1), ALICE), done)
        .unwrap();
    assert_eq!(next(&completions).status, Status::Done);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let open = |change: fn(&mut DeviceOptions)| {
        let mut options = options(1);
        change(&mut options);
        match Device::open(&options, vec![]) {
            Err(OpenError::Option { option, .. }) => option,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(open(|o| o.entry_slots = 8), "entry_slots");
    assert_eq!(open(|o| o.entry_slots = 48), "entry_slots");
    assert_eq!(open(|o| o.tickets_max = 0), "tickets_max");
    assert_eq!(open(|o| o.result_bytes_max = 100), "result_bytes_max");
    assert_eq!(open(|o| o.workers = 257), "workers");
    assert_eq!(open(|o| o.arena_bytes = 0), "arena_bytes");
    assert_eq!(open(|o| o.arena_bytes = 1 << 40), "arena_bytes");
    assert_eq!(open(|o| o.buffer_slots = 0), "buffer_slots");
    assert_eq!(open(|o| o.tiles_max = 0), "tiles_max");
    assert_eq!(open(|o| o.spin = Duration::from_secs(1)), "spin");
    assert_eq!(open(|o| o.epoch = 0), "epoch");
}

#[test]
fn a_batch_is_accepted_item_by_item() {
    let device = device(1, vec![]);
    let (done, completions) = listener();
    let task = |args: usize| {
        let mut task = Task::new(Noop::OPCODE, ALICE);
        task.args = (0..120).take(args).collect();
        (task, Arc::clone(&done))
    };
    let results = device.publish_batch([task(0), task(120), task(119)]);
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(results[1], Err(PublishRefused::Encode(_))));
    let ends = [next(&completions).ticket, next(&completions).ticket];
    assert_eq!(ends, [results[0].unwrap(), results[2].unwrap()]);
    quiet(&device);
    assert_eq!(device.snapshot().published, 2);
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
    while !(0..2).all(|worker| device.hub.kernel.says_it_sleeps(worker)) {
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
