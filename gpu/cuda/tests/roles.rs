//! Roles: what runs in a process that has the fake driver. Ignored unless its parent starts it.
#![allow(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use orlop_saga::id::TenantId;

use crate::backend::{Backend, Choice};
use crate::cuda::options::CudaOptions;
use crate::device::{Cancel, Device, PublishRefused};
use crate::entry::Opcode;
use crate::ops::{Blake3, Crc32c, Noop};
use crate::options::DeviceOptions;
use crate::status::Status;
use crate::task::{Completed, Completion, Task, Ticket};

const ALICE: TenantId = TenantId::new(0, 1);
const BOB: TenantId = TenantId::new(1, 4);
const LIMIT: Duration = Duration::from_mins(4);

fn is_told(role: &str) -> bool {
    std::env::var("ORLOP_FAKE_ROLE").is_ok_and(|told| told == role)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn cuda() -> CudaOptions {
    let linger = std::env::var("ORLOP_ROLE_LINGER").unwrap_or_default();
    CudaOptions {
        ordinal: number("ORLOP_ROLE_ORDINAL").and_then(|ordinal| u32::try_from(ordinal).ok()),
        linger: match linger.as_str() {
            "for ever" => Duration::MAX,
            millis => Duration::from_millis(millis.parse().unwrap_or(0)),
        },
        hang_after: Duration::from_millis(number("ORLOP_ROLE_HANG").unwrap_or(240_000)),
        tenant_slots: 16,
        pool_pages: 64,
    }
}

fn options(backend: Backend) -> DeviceOptions {
    DeviceOptions {
        entry_slots: 64,
        tickets_max: 64,
        result_bytes_max: 4096,
        workers: number("ORLOP_ROLE_WORKERS").map_or(3, |workers| u32::try_from(workers).unwrap()),
        arena_bytes: 4 << 20,
        buffer_slots: 64,
        tiles_max: 64,
        backend,
        ..DeviceOptions::default()
    }
}

fn open() -> Device {
    let device = Device::open(&options(Backend::Cuda(cuda())), Vec::new()).unwrap();
    assert!(matches!(device.choice(), Choice::Cuda { .. }));
    for tenant in [ALICE, BOB] {
        device.register_tenant_generation(tenant).unwrap();
    }
    device
}

fn publish(
    device: &Device,
    task: Task,
    done: impl Fn(Completed) + Send + Sync + 'static,
) -> Result<Ticket, PublishRefused> {
    device.publish(task, Arc::new(done))
}

/// One operation, awaited.
fn ask(
    device: &Device,
    opcode: Opcode,
    content: &[u8],
) -> Result<(Status, Vec<u8>), PublishRefused> {
    let id = device.buffers().put(ALICE, content).unwrap();
    let mut task = Task::new(opcode, ALICE);
    task.windows.push(device.buffers().read(ALICE, id).unwrap());
    let (told, ended) = channel();
    publish(device, task, move |completed: Completed| {
        told.send((completed.status, completed.result.to_vec()))
            .unwrap();
    })?;
    let ended = ended.recv_timeout(LIMIT).expect("a completion");
    device.buffers().free(ALICE, id).unwrap();
    Ok(ended)
}

fn assert_answers(device: &Device, content: &[u8]) {
    let digest = blake3::hash(content).as_bytes().to_vec();
    let sum = crc32c::crc32c(content).to_le_bytes().to_vec();
    for (opcode, answer) in [
        (Noop::OPCODE, vec![]),
        (Blake3::OPCODE, digest),
        (Crc32c::OPCODE, sum),
    ] {
        assert_eq!(ask(device, opcode, content), Ok((Status::Done, answer)));
    }
}

/// Opens what was asked for, says why not, and then runs on whatever `Auto` finds.
#[test]
#[ignore = "its parent starts it"]
fn opens() {
    if !is_told("opens") {
        return;
    }
    match Device::open(&options(Backend::Cuda(cuda())), Vec::new()) {
        Ok(device) => {
            println!("opened: {}", device.choice());
            device.close();
        }
        Err(error) => println!("refused: {error}"),
    }
    let device = Device::open(&options(Backend::Auto(cuda())), Vec::new()).unwrap();
    println!("chose: {}", device.choice());
    device.register_tenant_generation(ALICE).unwrap();
    assert_answers(&device, &[7; 5000]);
    device.close();
}

/// The work of a day, with answers as the host's.
#[test]
#[ignore = "its parent starts it"]
fn works() {
    if !is_told("works") {
        return;
    }
    let device = open();
    let lengths = [0, 1, 1024, 1025, 65_537, 300_001];
    let contents = lengths.map(crate::ops::testing::bytes);
    for content in &contents {
        assert_answers(&device, content);
    }
    let (told, ended) = channel();
    let mut expected = Vec::new();
    for round in 0..8 {
        let content = &contents[round % contents.len()];
        let tenant = if round % 2 == 0 { ALICE } else { BOB };
        let id = device.buffers().put(tenant, content).unwrap();
        for number in 0..6 {
            let mut task = Task::new([Blake3::OPCODE, Crc32c::OPCODE][number % 2], tenant);
            task.windows
                .push(device.buffers().read(tenant, id).unwrap());
            let (told, index) = (told.clone(), expected.len());
            expected.push(match number % 2 {
                0 => blake3::hash(content).as_bytes().to_vec(),
                _ => crc32c::crc32c(content).to_le_bytes().to_vec(),
            });
            let ticket = publish(&device, task, move |completed| {
                told.send((index, completed.status, completed.result.to_vec()))
                    .unwrap();
            });
            if expected.len() % 7 == 0 {
                let (Cancel::Withdrawn | Cancel::Requested | Cancel::Unknown) =
                    device.cancel(ticket.unwrap());
            }
        }
        // The windows are pinned; the device lets go of them when it is done.
        device.buffers().free(tenant, id).unwrap();
        device.hand_over();
    }
    device.drain(LIMIT).unwrap();
    drop(told);
    let mut done = 0;
    let all: Vec<_> = ended.iter().collect();
    assert_eq!(all.len(), expected.len(), "each has one completion");
    for (index, status, result) in all {
        match status {
            Status::Done => {
                assert_eq!(result, expected[index]);
                done += 1;
            }
            other => assert_eq!(other, Status::Cancelled),
        }
    }
    assert!(done > expected.len() / 2);
    device.resume();
    device.revoke_tenant_generation(BOB).unwrap();
    let (told, ended) = channel();
    publish(&device, Task::new(Noop::OPCODE, BOB), move |c| {
        told.send(c.status).unwrap();
    })
    .unwrap();
    let refused = Status::Refused(crate::RefusedWhy::StaleTenant);
    assert_eq!(ended.recv_timeout(LIMIT), Ok(refused));
    assert_eq!(device.buffers().available(), device.buffers().capacity());
    println!("launches: {}", device.launches());
    device.close();
    device.close();
    let after = publish(&device, Task::new(Noop::OPCODE, ALICE), |_| ());
    assert_eq!(after, Err(PublishRefused::Closed));
    // Nobody is there who would answer an order: it is not given.
    assert!(device.register_tenant_generation(ALICE).is_err());
}

/// Threads, each of which waits for its own before the next, until the kernel has been launched as
/// often as is asked for: most are about to leave when something comes.
#[test]
#[ignore = "its parent starts it"]
fn bursts() {
    if !is_told("bursts") {
        return;
    }
    let device = open();
    let launches = number("ORLOP_ROLE_LAUNCHES").unwrap();
    loop {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..40 {
                        let (told, ended) = channel();
                        let task = Task::new(Noop::OPCODE, ALICE);
                        publish(&device, task, move |c| told.send(c.status).unwrap()).unwrap();
                        assert_eq!(ended.recv_timeout(LIMIT), Ok(Status::Done));
                    }
                });
            }
        });
        if device.launches() >= launches {
            break;
        }
    }
    println!("launches: {}", device.launches());
    device.close();
}

/// The kernel leaves when it is asked to, and comes back.
#[test]
#[ignore = "its parent starts it"]
fn quiesces() {
    if !is_told("quiesces") {
        return;
    }
    let device = open();
    assert_answers(&device, b"first");
    let before = device.launches();
    device.quiesce(LIMIT).unwrap();
    let refused = publish(&device, Task::new(Noop::OPCODE, ALICE), |_| ());
    assert_eq!(refused, Err(PublishRefused::Draining));
    device.resume();
    assert_answers(&device, b"second");
    println!("launches: {} {}", before, device.launches());
    // Dropped where it cannot wait for its own thread.
    let hub = Arc::downgrade(&device.hub);
    let device = Arc::new(device);
    let (own, (told, ended)) = (Arc::clone(&device), channel());
    let own = parking_lot::Mutex::new(Some(own));
    publish(&device, Task::new(Noop::OPCODE, ALICE), move |_| {
        drop(own.lock().take());
        told.send(()).unwrap();
    })
    .unwrap();
    drop(device);
    ended.recv_timeout(LIMIT).unwrap();
    // Its threads have it until they have given everything back.
    while hub.strong_count() > 0 {
        std::thread::yield_now();
    }
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Early { running: bool },
    Over(Status),
}

struct Told(std::sync::mpsc::Sender<Ending>);

impl Completion for Told {
    fn completed(self: Arc<Self>, completed: Completed) {
        self.0.send(Ending::Over(completed.status)).unwrap();
    }

    fn lost(&self, running: bool) {
        self.0.send(Ending::Early { running }).unwrap();
    }
}

/// Works until the device is lost, and says how everything ended.
#[test]
#[ignore = "its parent starts it"]
fn is_lost() {
    if !is_told("is_lost") {
        return;
    }
    let device = open();
    let (told, ended) = channel();
    let done: Arc<dyn Completion> = Arc::new(Told(told));
    let (mut accepted, mut answers, mut early, mut lost) = (0_u32, 0_u32, 0_u32, 0_u32);
    let refused = loop {
        // One in flight at a time, so that the device gets to where it is lost.
        match device.publish(Task::new(Noop::OPCODE, ALICE), Arc::clone(&done)) {
            Ok(_) => accepted += 1,
            Err(PublishRefused::Full { .. }) => continue,
            Err(error) => break error,
        }
        match ended.recv_timeout(LIMIT).expect("a word") {
            Ending::Over(Status::Done) => answers += 1,
            Ending::Over(Status::Lost { .. }) => lost += 1,
            Ending::Early { .. } => early += 1,
            other @ Ending::Over(_) => panic!("{other:?}"),
        }
    };
    if number("ORLOP_ROLE_SETTLES").is_some() {
        assert!(device.hub.wait_quiet(std::time::Instant::now() + LIMIT));
    }
    println!("refused: {refused:?}");
    println!("lost: {}", device.lost().unwrap());
    println!("outstanding: {}", device.snapshot().outstanding);
    assert!(device.register_tenant_generation(ALICE).is_err());
    assert!(device.buffers().put(ALICE, b"late").is_err());
    device.close();
    assert_eq!(device.snapshot().outstanding, 0);
    for ending in ended.try_iter() {
        assert!(
            matches!(ending, Ending::Over(Status::Lost { .. })),
            "{ending:?}"
        );
        lost += 1;
    }
    println!("ends: {}", accepted - answers);
    assert_eq!(
        (early <= 1, lost, accepted),
        (true, 1, answers + 1),
        "each has one completion"
    );
}
