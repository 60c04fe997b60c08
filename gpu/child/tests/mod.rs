//! What a device in a process of its own promises. This binary is the embedder's: it is entered
//! once more, by the one test that calls `DeviceMain::enter`.
#![cfg(target_os = "linux")]
#![allow(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use orlop_saga::id::TenantId;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

mod ends;
mod waits;

use super::{ChildOptions, DeviceHost, DeviceMain, HostError};
use crate::completion::CompletionEntry;
use crate::ring::Ring;
use crate::tests::{ALICE, BOB, options};
use crate::*;

const LIMIT: Duration = Duration::from_mins(2);
const WHO: Opcode = Opcode::new(0x4000_0001);
const ABORT: Opcode = Opcode::new(0x4000_0002);
const HANG: Opcode = Opcode::new(0x4000_0003);

/// Answers which process runs it, aborts that, or never ends.
struct Planted(Opcode);

impl HostOp for Planted {
    fn opcode(&self) -> Opcode {
        self.0
    }
    fn name(&self) -> &'static str {
        match self.0 {
            WHO => "who",
            ABORT => "abort",
            _ => "hang",
        }
    }
    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        match self.0 {
            ABORT => std::process::abort(),
            HANG => loop {
                std::thread::park();
            },
            _ => Ok(Partial::EMPTY),
        }
    }
    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        out.write(&std::process::id().to_le_bytes())
    }
}

const PLANTED: [Opcode; 3] = [WHO, ABORT, HANG];

fn ops() -> Vec<Arc<dyn HostOp>> {
    let op = |opcode| Arc::new(Planted(opcode)) as Arc<dyn HostOp>;
    PLANTED.map(op).to_vec()
}

#[test]
fn entering_returns_in_any_process_but_a_devices() {
    let main = PLANTED
        .into_iter()
        .fold(DeviceMain::new(), |main, opcode| main.op(Planted(opcode)));
    main.enter();
    assert!(!super::main::is_device());
}

fn re_entered(test: &str) -> ChildOptions {
    ChildOptions {
        args: ["--exact", test].map(Into::into).to_vec(),
        start_max: LIMIT,
        ..ChildOptions::default()
    }
}

fn epochs(bounds: impl FnOnce(&mut ChildOptions)) -> Epochs {
    let test = "child::tests::entering_returns_in_any_process_but_a_devices";
    let mut child = re_entered(test);
    child.silence_max = LIMIT;
    child.tile_max = LIMIT;
    bounds(&mut child);
    let options = DeviceOptions {
        host: DeviceHost::Child(child),
        ..options(2)
    };
    let epochs = Epochs::open(&options, ops()).unwrap();
    for tenant in [ALICE, BOB] {
        epochs.register_tenant_generation(tenant).unwrap();
    }
    epochs
}

#[derive(Debug)]
enum Word {
    Early,
    Last(Completed),
}

struct Told(Mutex<Sender<Word>>);

impl Completion for Told {
    fn completed(self: Arc<Self>, completed: Completed) {
        let _ = self.0.lock().send(Word::Last(completed));
    }
    fn lost(&self, _: bool) {
        let _ = self.0.lock().send(Word::Early);
    }
}

fn publish(device: &Device, task: Task) -> Receiver<Word> {
    let (told, words) = channel();
    device
        .publish(task, Arc::new(Told(Mutex::new(told))))
        .unwrap();
    words
}

fn last(words: &Receiver<Word>) -> Completed {
    loop {
        match words.recv_timeout(LIMIT).expect("a completion comes") {
            Word::Early => {}
            Word::Last(completed) => return completed,
        }
    }
}

/// The epoch after `device`, once it is there.
fn next(epochs: &Epochs, device: &Arc<Device>) -> Arc<Device> {
    loop {
        let current = epochs.current();
        if !Arc::ptr_eq(&current, device) {
            return current;
        }
        std::thread::yield_now();
    }
}

fn send(device: &Device, signal: Signal) -> u32 {
    let process = device.process().expect("it has a process");
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
    process
}

/// Stops the device's process, and waits until all of it stands still.
fn stop(device: &Device) -> u32 {
    let process = send(device, Signal::STOP);
    let tasks = format!("/proc/{process}/task");
    let still = || {
        std::fs::read_dir(&tasks).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            let state = stat.rsplit_once(')').unwrap().1.trim_start();
            state.starts_with('T')
        })
    };
    while !still() {
        std::thread::yield_now();
    }
    process
}

fn exists(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

fn answers(device: &Device, tenant: TenantId) {
    let content = crate::ops::testing::bytes(70_000);
    let id = device.buffers().put(tenant, &content).unwrap();
    let mut task = Task::new(Blake3::OPCODE, tenant);
    task.windows
        .push(device.buffers().read(tenant, id).unwrap());
    let completed = last(&publish(device, task));
    assert_eq!(completed.status, Status::Done);
    assert_eq!(*completed.result, *blake3::hash(&content).as_bytes());
    device.buffers().free(tenant, id).unwrap();
}

#[test]
fn operations_run_in_another_process_and_answer_as_in_this_one() {
    let epochs = epochs(|_| {});
    let device = epochs.current();
    answers(&device, ALICE);
    answers(&device, BOB);
    let completed = last(&publish(&device, Task::new(WHO, ALICE)));
    let process = u32::from_le_bytes((*completed.result).try_into().unwrap());
    assert_eq!(Some(process), device.process());
    assert_ne!(process, std::process::id());
    device.drain(LIMIT).unwrap();
    let snapshot = device.snapshot();
    assert_eq!((snapshot.credits, snapshot.permits), (16, 64));
    epochs.close();
    assert!(!exists(process), "it is left behind");
    assert_eq!(epochs.losses(), 0, "a close is no loss");
}

#[test]
fn an_abort_of_an_operation_ends_it_as_lost_and_the_next_epoch_goes_on() {
    let epochs = epochs(|_| {});
    let device = epochs.current();
    let completed = last(&publish(&device, Task::new(ABORT, ALICE)));
    assert_eq!(completed.status, Status::Lost { running: true });
    assert_eq!(device.lost(), Some(DeviceLost::Died));
    let refused = device.publish(Task::new(Noop::OPCODE, ALICE), Arc::new(|_| {}));
    assert_eq!(refused, Err(PublishRefused::Lost));
    let successor = next(&epochs, &device);
    let snapshot = device.snapshot();
    assert_eq!((snapshot.credits, snapshot.permits), (16, 64));
    assert_eq!((snapshot.outstanding, snapshot.lost), (0, 1));
    answers(&successor, ALICE);
    answers(&successor, BOB);
    assert_eq!(epochs.losses(), 1);
}

#[test]
fn a_tile_past_its_bound_is_to_blame_and_what_waits_behind_it_is_not() {
    let epochs = epochs(|child| child.tile_max = Duration::from_secs(2));
    let device = epochs.current();
    let hung = [(); 2].map(|()| publish(&device, Task::new(HANG, ALICE)));
    let run = |beat: &Heartbeat| beat.ticket != 0;
    while !device.snapshot().workers.iter().all(run) {
        std::thread::yield_now();
    }
    let behind = publish(&device, Task::new(WHO, BOB));
    let ended: Vec<_> = hung.iter().map(|words| last(words).status).collect();
    let stuck = device.lost();
    assert!(matches!(stuck, Some(DeviceLost::Stuck { .. })), "{stuck:?}");
    // One of the two was found first; the other one only ran.
    let blamed = ended
        .iter()
        .filter(|s| **s == Status::Lost { running: true });
    assert_eq!(blamed.count(), 1, "{ended:?}");
    assert_eq!(last(&behind).status, Status::Lost { running: false });
    answers(&next(&epochs, &device), BOB);
}

/// Hears both words, with a closure for each.
struct Observed<E, L>(E, L);
impl<E: Fn() + Send + Sync, L: Fn(Status) + Send + Sync> Completion for Observed<E, L> {
    fn completed(self: Arc<Self>, completed: Completed) {
        (self.1)(completed.status);
    }
    fn lost(&self, _: bool) {
        (self.0)();
    }
}

#[test]
fn permits_come_back_when_the_process_is_reaped_and_the_word_of_the_loss_before() {
    let epochs = epochs(|child| child.silence_max = Duration::from_secs(3));
    let device = epochs.current();
    answers(&device, ALICE);
    let process = stop(&device);
    let (told, words) = channel();
    let (early, late) = (told.clone(), told);
    let watched = Arc::downgrade(&device);
    let first = move || {
        let permits = watched.upgrade().unwrap().snapshot().permits;
        early.send((exists(process), permits, None)).unwrap();
    };
    let watched = Arc::downgrade(&device);
    let second = move |status| {
        let permits = watched.upgrade().unwrap().snapshot().permits;
        late.send((exists(process), permits, Some(status))).unwrap();
    };
    let done = Arc::new(Observed(first, second));
    device.publish(Task::new(WHO, ALICE), done).unwrap();
    assert_eq!(words.recv_timeout(LIMIT).unwrap(), (true, 63, None));
    let status = Status::Lost { running: false };
    assert_eq!(
        words.recv_timeout(LIMIT).unwrap(),
        (false, 64, Some(status))
    );
    let silent = device.lost();
    assert!(
        matches!(silent, Some(DeviceLost::Silent { .. })),
        "{silent:?}"
    );
    answers(&next(&epochs, &device), ALICE);
}

#[test]
fn a_late_writer_of_a_lost_epoch_does_not_reach_the_next_one() {
    let epochs = epochs(|child| child.silence_max = Duration::from_secs(3));
    let old = epochs.current();
    let process = stop(&old);
    let words = publish(&old, Task::new(WHO, ALICE));
    let Word::Early = words.recv_timeout(LIMIT).unwrap() else {
        panic!("it was stopped");
    };
    // If it is still there it goes on, and is late.
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    let _ = kill_process(pid, Signal::CONT);
    let ended = last(&words);
    // It may have been quick enough to post its end before it was killed.
    let over = matches!(ended.status, Status::Lost { .. } | Status::Done);
    assert!(over, "{ended:?}");
    let new = next(&epochs, &old);
    assert!(new.hub.layout == old.hub.layout);
    let content = crate::ops::testing::bytes(100_000);
    let id = new.buffers().put(ALICE, &content).unwrap();
    let words = publish(&new, Task::new(HANG, ALICE));
    // What a writer that nobody could stop would do, to every byte that it knows: completions of
    // tickets of both epochs, results, and the whole arena.
    let (hub, layout) = (&old.hub, &old.hub.layout);
    let slots = layout.sizes.entry_slots;
    let posted = Ring::new(Arc::clone(&hub.region), layout.completions, slots).unwrap();
    for position in 0..u64::from(slots) {
        for epoch in [ended.ticket.epoch(), ended.ticket.epoch() + 1] {
            let ticket = u64::from(epoch) << 32 | (ended.ticket.wire() & 0xffff_ffff);
            let cost = orlop_saga::amount::BusyNanos::new(1);
            let late = CompletionEntry::bare(ticket, 1, Status::Done, cost);
            posted.write(position, &late.encode());
        }
    }
    let junk = vec![0xa5; usize::try_from(layout.sizes.arena_bytes).unwrap()];
    // SAFETY: nothing runs in this epoch and nobody reads its buffers.
    #[allow(unsafe_code)]
    let written = unsafe { hub.region.write(layout.arena, &junk) };
    assert!(written);
    hub.reap();
    new.hub.reap();
    assert!(
        words.try_recv().is_err(),
        "it was completed by another epoch"
    );
    assert_eq!(*new.buffers().read(ALICE, id).unwrap(), *content);
    assert_eq!(new.snapshot().stale_completions, 0);
    answers(&new, BOB);
    // What never ends need not be waited for.
    send(&new, Signal::KILL);
    let ended = last(&words);
    assert_eq!(ended.status, Status::Lost { running: true });
}

#[test]
fn a_process_killed_while_it_does_nothing_is_followed_by_another_one() {
    let epochs = epochs(|_| {});
    let mut device = epochs.current();
    for losses in 1..=3 {
        let process = send(&device, Signal::KILL);
        let successor = next(&epochs, &device);
        assert!(!exists(process), "it is left as a zombie");
        answers(&successor, ALICE);
        assert_eq!(epochs.losses(), losses);
        device = successor;
    }
}

fn refused(child: ChildOptions, ops: Vec<Arc<dyn HostOp>>) -> HostError {
    let options = DeviceOptions {
        host: DeviceHost::Child(child),
        ..options(1)
    };
    match Device::open(&options, ops) {
        Err(OpenError::Host(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_binary_that_does_not_enter_is_told_apart_from_one_with_other_operations() {
    let ended = refused(re_entered("no test has this name"), ops());
    assert!(matches!(ended, HostError::Ended), "{ended:?}");
    let test = "child::tests::entering_returns_in_any_process_but_a_devices";
    let other = refused(re_entered(test), Vec::new());
    assert!(matches!(other, HostError::Operations), "{other:?}");
}

#[test]
fn what_is_not_there_in_another_process_is_refused() {
    let epochs = epochs(|_| {});
    let device = epochs.current();
    let op: Arc<dyn HostOp> = Arc::new(Planted(Opcode::new(0x4000_0009)));
    assert_eq!(
        device.register_op(Arc::clone(&op)),
        Err(RegisterError::Elsewhere)
    );
    let own = [(LocalOpcode::new(0), op)];
    assert_eq!(
        device.install_ops(ALICE, 1, &own),
        Err(InstallError::Elsewhere)
    );
    assert_eq!(device.opcode_window(ALICE), None);
}
