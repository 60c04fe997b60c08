//! The kernel alone: what it makes of the bytes on its rings, whoever wrote them.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use orlop_saga::amount::BusyNanos;
use orlop_saga::id::TenantId;
use parking_lot::Mutex;

use super::{HostKernel, KernelOptions};
use crate::completion::CompletionEntry;
use crate::control::{Control, Doorbell, Order, Reply};
use crate::entry::{Entry, EntryWords, Opcode, Window};
use crate::layout::{CONTROL_SLOTS, Layout, Sizes};
use crate::memory::Region;
use crate::ops::{Crc32c, HostOp, Noop, OpError, OpTable, Output, Partial, TaskArgs};
use crate::ring::Ring;
use crate::status::{RefusedWhy, Status};
use crate::tests::{ALICE, BOB, device};

struct Held(
    Mutex<std::sync::mpsc::Sender<()>>,
    Mutex<std::sync::mpsc::Receiver<()>>,
);

const HELD: Opcode = Opcode::USER_FIRST;

impl HostOp for Held {
    fn opcode(&self) -> Opcode {
        HELD
    }
    fn name(&self) -> &'static str {
        "held"
    }
    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        let _ = self.0.lock().send(());
        let _ = self.1.lock().recv();
        Ok(Partial::EMPTY)
    }
    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        _: &mut Output<'_>,
    ) -> Result<(), OpError> {
        Ok(())
    }
}

struct Bench {
    kernel: Arc<HostKernel>,
    control: Control,
    entries: Ring,
    completions: Ring,
    written: u64,
    read: u64,
}

impl Bench {
    fn new(ops: OpTable) -> Self {
        let sizes = Sizes {
            entry_slots: 16,
            tickets: 16,
            result_bytes: 64,
            workers: 1,
            arena_bytes: 4096,
        };
        let layout = Layout::of(sizes).unwrap();
        let region = Arc::new(Region::new(layout.total).unwrap());
        let options = KernelOptions {
            tiles_max: 64,
            buffer_slots: 4,
            spin: Duration::ZERO,
        };
        let kernel = Arc::new(HostKernel::new(&region, layout, ops, &options).unwrap());
        let ring = |at, slots| Ring::new(Arc::clone(&region), at, slots).unwrap();
        let doorbell = Arc::clone(&kernel) as Arc<dyn Doorbell>;
        let (orders, replies) = (layout.control, layout.control_done);
        Self {
            control: Control::new(
                ring(orders, CONTROL_SLOTS),
                ring(replies, CONTROL_SLOTS),
                doorbell,
            ),
            entries: ring(layout.entries, 16),
            completions: ring(layout.completions, 16),
            kernel,
            written: 0,
            read: 0,
        }
    }

    fn put(&mut self, words: &EntryWords) {
        for slot in words.iter() {
            self.entries.write(self.written, slot);
            self.written += 1;
        }
        self.kernel.entries_written();
    }

    fn entry(&mut self, opcode: Opcode, tenant: TenantId, windows: &[Window]) {
        let entry = Entry {
            opcode,
            flags: 0,
            tenant,
            ticket: self.written + 100,
            attempt: 1,
            tiles_max: 0,
            deadline_us: 0,
            args: crate::entry::Args::new(),
            windows: windows.into(),
        };
        self.put(&entry.encode().unwrap());
    }

    fn next(&mut self) -> CompletionEntry {
        let start = Instant::now();
        loop {
            if let Some(words) = self.completions.read(self.read) {
                self.read += 1;
                return CompletionEntry::decode(&words).unwrap();
            }
            assert!(
                start.elapsed() < Duration::from_mins(1),
                "a completion comes"
            );
            std::thread::yield_now();
        }
    }

    fn call(&self, order: Order) -> Reply {
        self.control.call(order, None).unwrap()
    }

    fn map(&self, slot: u32, generation: u32, length: u64) -> Reply {
        self.call(Order::Map {
            slot,
            generation,
            offset: 256,
            length,
            tenant: ALICE,
        })
    }
}

fn with_worker(ops: OpTable, test: impl FnOnce(&mut Bench)) {
    let mut bench = Bench::new(ops);
    let kernel = Arc::clone(&bench.kernel);
    let worker = std::thread::spawn(move || kernel.run(0));
    bench.call(Order::SetTenant(ALICE));
    bench.call(Order::SetTenant(BOB));
    test(&mut bench);
    assert_eq!(bench.call(Order::Stop), Reply::Done);
    bench.kernel.wake_all();
    worker.join().unwrap();
}

#[test]
fn an_unmap_replies_only_when_the_last_pin_is_gone_and_refuses_new_entries_meanwhile() {
    let (started, starts) = channel();
    let (go, gate) = channel();
    let mut ops = OpTable::built_in();
    ops.register(Arc::new(Held(Mutex::new(started), Mutex::new(gate))))
        .unwrap();
    with_worker(ops, |bench| {
        let window = Window {
            slot: 2,
            generation: 7,
            offset: 0,
            length: 100,
        };
        assert_eq!(bench.map(2, 7, 100), Reply::Done);
        assert_eq!(bench.map(2, 8, 100), Reply::Stale, "mapped twice");
        bench.entry(HELD, ALICE, &[window]);
        starts.recv_timeout(Duration::from_mins(1)).unwrap();
        let unmap = Order::Unmap {
            slot: 2,
            generation: 7,
        };
        let soon = Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(
            bench.control.call(unmap, soon),
            None,
            "replied while pinned"
        );
        assert_eq!(bench.call(unmap), Reply::Stale, "unmapped twice");
        bench.entry(Noop::OPCODE, ALICE, &[window]);
        go.send(()).unwrap();
        assert_eq!(bench.next().status, Status::Done);
        assert_eq!(
            bench.next().status,
            Status::Refused(RefusedWhy::StaleWindow)
        );
        assert_eq!(bench.call(Order::Drain), Reply::Done);
        assert_eq!(bench.map(2, 8, 100), Reply::Done, "the slot is free again");
    });
}

#[test]
fn a_window_is_used_only_when_mapped_in_this_generation_by_its_owner_within_bounds() {
    with_worker(OpTable::built_in(), |bench| {
        let window = |generation, offset, length| Window {
            slot: 1,
            generation,
            offset,
            length,
        };
        assert_eq!(bench.map(1, 5, 4000), Reply::Malformed, "beyond the arena");
        assert_eq!(bench.map(9, 5, 100), Reply::Unknown);
        let refused = Status::Refused;
        let cases = [
            (ALICE, window(5, 0, 10), refused(RefusedWhy::StaleWindow)),
            (ALICE, window(5, 0, 100), Status::Done),
            (ALICE, window(4, 0, 10), refused(RefusedWhy::StaleWindow)),
            (ALICE, window(5, 1, 100), refused(RefusedWhy::WindowBounds)),
            (
                ALICE,
                window(5, u64::MAX, 2),
                refused(RefusedWhy::WindowBounds),
            ),
            (BOB, window(5, 0, 10), refused(RefusedWhy::ForeignWindow)),
            (
                ALICE,
                Window {
                    slot: u32::MAX,
                    ..window(5, 0, 1)
                },
                refused(RefusedWhy::StaleWindow),
            ),
        ];
        for (index, (tenant, window, expected)) in cases.into_iter().enumerate() {
            bench.entry(Crc32c::OPCODE, tenant, &[window]);
            assert_eq!(bench.next().status, expected, "case {index}");
            if index == 0 {
                assert_eq!(bench.map(1, 5, 100), Reply::Done);
            }
        }
    });
}

#[test]
fn a_malformed_entry_is_refused_once_and_the_next_one_runs() {
    with_worker(OpTable::built_in(), |bench| {
        let mut slot = [0; 16];
        slot[0] = Noop::OPCODE.get();
        slot[1] = 9;
        slot[4] = 77;
        let mut words = EntryWords::empty();
        words.push(&slot);
        bench.put(&words);
        let completion = bench.next();
        assert_eq!(completion.status, Status::Refused(RefusedWhy::Malformed));
        assert_eq!(completion.ticket, 77);
        bench.put(&EntryWords::pad(3));
        bench.entry(Noop::OPCODE, ALICE, &[]);
        assert_eq!(bench.next().status, Status::Done);
    });
}

#[test]
fn a_late_completion_of_an_older_epoch_or_life_is_refused() {
    let device = device(1, vec![]);
    let (hub, layout) = (&device.hub, &device.hub.layout);
    let posted = Ring::new(
        Arc::clone(&hub.region),
        layout.completions,
        layout.sizes.entry_slots,
    );
    let posted = posted.unwrap();
    for (position, ticket) in (0..).zip([1 << 32 | 64, 9 << 32 | 1, 0]) {
        let late = CompletionEntry::bare(ticket, 1, Status::Done, BusyNanos::new(1));
        posted.write(position, &late.encode());
    }
    hub.reap();
    let snapshot = device.snapshot();
    assert_eq!((snapshot.stale_completions, snapshot.done), (3, 0));
    assert_eq!(
        (snapshot.credits, snapshot.permits),
        (16, 64),
        "nothing was given back twice"
    );
}
