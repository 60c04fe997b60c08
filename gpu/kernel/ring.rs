//! Ring: this side's own pump, control and buffers over a memory whose other end is the kernel's
//! source in another process.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use orlop_saga::id::TenantId;

use super::compiler::{Watch, program, say};
use super::script::{ALICE, BOB};
use crate::control::Doorbell;
use crate::device::{Cancel, PublishRefused};
use crate::entry::Opcode;
use crate::host::Listener;
use crate::hub::Hub;
use crate::layout::{Layout, Sizes, header_word};
use crate::memory::Region;
use crate::ops::{Blake3, Crc32c, HostOp, Noop, RegisterError};
use crate::runner::Runner;
use crate::status::{RefusedWhy, Status};
use crate::task::{Completed, Task};
use crate::{Device, DeviceOptions, InstallError, LocalOpcode, OpcodeWindow};

const BUFFER_SLOTS: u32 = 64;

/// The other end looks at the rings by itself, and has the operations it was compiled with.
struct Silent;

impl Doorbell for Silent {
    fn entries_written(&self) {}
    fn orders_written(&self) {}
}

impl Runner for Silent {
    fn fills_result_windows(&self) -> bool {
        false
    }

    fn register(&self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        Err(RegisterError::HostOnly { name: op.name() })
    }
    fn install(
        &self,
        _: TenantId,
        _: OpcodeWindow,
        _: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError> {
        Ok(())
    }
    fn uninstall(&self, _: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>> {
        Vec::new()
    }
    fn owner(&self, _: Opcode) -> Option<TenantId> {
        None
    }
    fn active(&self) -> u64 {
        0
    }
    fn wakes(&self) -> u64 {
        0
    }
    fn runs_here(&self) -> bool {
        false
    }
    fn stop(&self) {}
    fn end(&self) {}
}

struct Peer {
    device: Device,
    child: Child,
    reapers: Vec<std::thread::JoinHandle<()>>,
    over: Arc<AtomicBool>,
    generation: u64,
}

fn shared(layout: &Layout) -> (Arc<Region>, File) {
    let (region, file) = Region::shared(layout.total).unwrap();
    crate::device::write_header(&region, layout, 1);
    (Arc::new(region), file)
}

impl Peer {
    /// Over the hub that a device has; in place of its workers there is a process, and a thread
    /// that looks for what that posted.
    fn new(watch: Watch, seed: u32) -> Option<Self> {
        let program = program("serve", watch, &[])?;
        let sizes = Sizes {
            entry_slots: 64,
            tickets: 64,
            result_bytes: 4096,
            workers: 3,
            arena_bytes: 4 << 20,
        };
        let layout = Layout::of(sizes).unwrap();
        let (region, file) = shared(&layout);
        let device_options = DeviceOptions {
            entry_slots: sizes.entry_slots,
            tickets_max: sizes.tickets,
            result_bytes_max: sizes.result_bytes,
            workers: sizes.workers,
            arena_bytes: sizes.arena_bytes,
            buffer_slots: BUFFER_SLOTS,
            ..DeviceOptions::default()
        };
        let device = Device::assemble(region, layout, &device_options, Arc::new(Silent)).unwrap();
        let hub = Arc::clone(&device.hub);
        let mut command = Command::new("setarch");
        command
            .arg("-R")
            .arg(program)
            .args(["3", "64", "16", "4096", "64"]);
        let child = command
            .arg(seed.to_string())
            .stdin(file)
            .stdout(Stdio::piped());
        let child = child.stderr(Stdio::piped()).spawn().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        // A callback that frees a window waits for a reply, so who looks for those is another.
        let reaper = |look| reap(Arc::downgrade(&hub), Arc::clone(&over), look);
        let reapers = vec![reaper(Hub::completions_posted), reaper(Hub::replies_posted)];
        let mut peer = Self {
            device,
            child,
            reapers,
            over,
            generation: 0,
        };
        peer.replace();
        for tenant in [ALICE, BOB] {
            peer.device.register_tenant_generation(tenant).unwrap();
        }
        Some(peer)
    }

    /// Has the next generation of the kernel take over.
    fn replace(&mut self) {
        self.generation += 1;
        let header = self.device.hub.region.slots(0, 2).unwrap();
        let word = header[1].word(header_word::GENERATION).unwrap();
        word.store(self.generation, Ordering::Release);
    }

    /// Stops the kernel, and what its process said of itself.
    fn end(self) -> String {
        self.device.close();
        self.over.store(true, Ordering::Release);
        for reaper in self.reapers {
            reaper.join().unwrap();
        }
        let said = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "the kernel's process: {text}");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }
}

fn reap(hub: Weak<Hub>, over: Arc<AtomicBool>, look: fn(&Hub)) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !over.load(Ordering::Acquire) {
            if let Some(hub) = hub.upgrade() {
                look(&hub);
            }
            std::thread::yield_now();
        }
    })
}

fn task(opcode: Opcode, tenant: TenantId) -> Task {
    Task::new(opcode, tenant)
}

fn both_ends_meet(watch: Watch, seed: u32) {
    let Some(mut peer) = Peer::new(watch, seed) else {
        return;
    };
    let lengths = [
        0, 1, 100, 1024, 1025, 4097, 65_536, 65_537, 200_000, 700_001,
    ];
    let contents = lengths.map(crate::ops::testing::bytes);
    let buffers = peer.device.buffers().clone();
    let (told, endings) = channel::<(usize, Completed)>();
    let mut expected = Vec::new();
    for round in 0..12 {
        let content = &contents[round % contents.len()];
        let tenant = if round % 2 == 0 { ALICE } else { BOB };
        let id = buffers.put(tenant, content).unwrap();
        let tasks = (0..10).map(|number| {
            let opcode = [Noop::OPCODE, Blake3::OPCODE, Crc32c::OPCODE][number % 3];
            let answer = match number % 3 {
                0 => Vec::new(),
                1 => blake3::hash(content).as_bytes().to_vec(),
                _ => crc32c::crc32c(content).to_le_bytes().to_vec(),
            };
            let mut task = task(opcode, tenant);
            let window = buffers.read(tenant, id).unwrap();
            task.windows.push(window);
            let told = told.clone();
            let index = expected.len();
            expected.push((tenant, answer));
            let done = move |completed: Completed| told.send((index, completed)).unwrap();
            (task, Arc::new(done) as Arc<dyn crate::Completion>)
        });
        for accepted in peer.device.publish_batch(tasks.collect::<Vec<_>>()) {
            let ticket = accepted.unwrap();
            if ticket.wire() % 7 == 0 {
                let (Cancel::Withdrawn | Cancel::Requested | Cancel::Unknown) =
                    peer.device.cancel(ticket);
            }
        }
        // Freed while it is pinned; its bytes are used again once the kernel has let go.
        buffers.free(tenant, id).unwrap();
        if round % 4 == 3 {
            peer.replace();
        } else {
            peer.device.drain(Duration::from_mins(5)).unwrap();
            peer.device.resume();
        }
    }
    peer.device.drain(Duration::from_mins(5)).unwrap();
    drop(told);
    let mut answers = 0;
    for (index, completed) in endings.iter().take(expected.len()) {
        match completed.status {
            Status::Done => {
                assert_eq!(&*completed.result, &*expected[index].1, "operation {index}");
                answers += 1;
            }
            Status::Cancelled => {}
            other @ (Status::Failed { .. }
            | Status::Expired
            | Status::Refused(_)
            | Status::Faulted
            | Status::Lost { .. }) => panic!("operation {index} ended as {other:?}"),
        }
    }
    assert!(
        answers > expected.len() / 2,
        "{answers} of {} answered",
        expected.len()
    );
    refusals_come_from_the_device(&peer.device);
    peer.device.drain(Duration::from_mins(5)).unwrap();
    let snapshot = peer.device.snapshot();
    assert_eq!((snapshot.outstanding, snapshot.credits), (0, 64));
    assert_eq!(
        buffers.available(),
        buffers.capacity(),
        "a window was not unmapped"
    );
    let said = peer.end();
    say(&format!(
        "kernel behind the real ring, {}: {answers} answers, {said}",
        watch.name()
    ));
    let launches = said.split_whitespace().nth(1).unwrap();
    assert!(
        launches.parse::<u32>().unwrap() > 1,
        "no kernel was replaced"
    );
}

fn refusals_come_from_the_device(device: &Device) {
    device.resume();
    // The kernel knows no window for a result: it would show what was there before.
    let mut large = task(Noop::OPCODE, ALICE);
    large.result = Some(device.buffers().result(ALICE, 4096).unwrap());
    let refused = device.publish(large, Arc::new(|_: Completed| ()));
    assert_eq!(refused, Err(PublishRefused::NoResultWindows));
    device.revoke_tenant_generation(BOB).unwrap();
    for (opcode, tenant, why) in [
        (Noop::OPCODE, BOB, RefusedWhy::StaleTenant),
        (Opcode::new(99), ALICE, RefusedWhy::UnknownOpcode),
    ] {
        let (told, ending) = channel();
        let done = move |completed: Completed| told.send(completed.status).unwrap();
        device
            .publish(task(opcode, tenant), Arc::new(done))
            .unwrap();
        let status = ending.recv_timeout(Duration::from_mins(5)).unwrap();
        assert_eq!(status, Status::Refused(why));
    }
}

#[test]
fn the_pump_of_this_side_and_the_kernel_of_the_other_agree() {
    both_ends_meet(Watch::Nothing, 1);
}

#[test]
fn the_kernel_behind_the_real_ring_races_with_nobody() {
    both_ends_meet(Watch::Threads, 2);
}
