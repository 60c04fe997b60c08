//! Placement against figures that are planted, and over two devices that really run the work.

use std::collections::HashMap;
use std::sync::mpsc;

use orlop_saga::digest::Digest;
use proptest::prelude::*;

use super::*;
use crate::tests::{ALICE, listener, options};
use crate::{
    BufferRef, Completed, Device, HostOp, OpError, Output, Partial, Status, Task, TaskArgs,
};

const OP: Opcode = Opcode::USER_FIRST;

fn placer(parallel: &[u32]) -> Placer {
    let executor = |(at, parallel): (usize, &u32)| Executor {
        name: format!("executor {at}"),
        parallel: *parallel,
    };
    Placer::new(parallel.iter().enumerate().map(executor).collect())
}

fn ask(bytes: u64, cold: &[u64]) -> Ask<'_> {
    let opcode = OP;
    Ask {
        opcode,
        bytes,
        cold,
    }
}

/// Measures an executor that was not yet: it is the one that is tried.
fn measure(placer: &Placer, at: usize, bytes: u64, nanos: u64, link: (u64, u64)) {
    let tried = placer.place(ask(bytes, &[])).unwrap();
    assert_eq!(tried.decision().executor, at);
    tried.uploaded(link.0, link.1);
    tried.ran(nanos);
}

proptest! {
    /// By an oracle of its own: the one that is chosen costs no more than any other.
    #[test]
    fn it_never_chooses_the_dearer_one_by_its_own_figures(
        sides in proptest::collection::vec(
            (1_u64..1_000_000, 1_u64..100_000, 0_u64..1 << 20, 1_u32..5), 2..5),
        asks in proptest::collection::vec(proptest::collection::vec(0_u64..1 << 20, 5), 1..20),
    ) {
        let bytes = 1 << 20;
        let parallel: Vec<u32> = sides.iter().map(|side| side.3).collect();
        let placer = placer(&parallel);
        for (at, (nanos, per_mib, _, _)) in sides.iter().enumerate() {
            measure(&placer, at, bytes, *nanos, (1 << 20, *per_mib));
        }
        let mut out = vec![0_u64; sides.len()];
        let mut placed = Vec::new();
        for cold in asks {
            let costs = sides.iter().enumerate().map(|(at, (nanos, per_mib, _, parallel))| {
                let picos = per_mib * 1000 / (1 << 20);
                let upload = (picos * cold[at]).div_ceil(1000);
                (out[at] / u64::from(*parallel), upload + nanos)
            });
            let costs: Vec<(u64, u64)> = costs.collect();
            let cheapest = costs.iter().map(|(wait, work)| wait + work).min().unwrap();
            let one = placer.place(ask(bytes, &cold)).unwrap();
            let at = one.decision().executor;
            prop_assert_eq!(one.decision().why, Why::Cheapest);
            prop_assert_eq!(costs[at].0 + costs[at].1, cheapest);
            prop_assert_eq!(one.decision().estimates[at].total(), Some(cheapest));
            out[at] += costs[at].1;
            placed.push(one);
        }
        // Nothing is out any more: nobody waits.
        placed.clear();
        let idle = placer.place(ask(bytes, &[])).unwrap();
        prop_assert!(idle.decision().estimates.iter().all(|estimate| estimate.wait == 0));
    }

    #[test]
    fn of_two_that_are_equal_the_one_that_has_the_bytes_is_chosen(
        nanos in 0_u64..1_000_000,
        per_mib in 1_000_u64..10_000_000,
        bytes in 1_000_000_u64..1 << 40,
        resident in 0..2_usize,
    ) {
        let placer = placer(&[1, 1]);
        for at in 0..2 {
            measure(&placer, at, bytes, nanos, (1 << 20, per_mib));
        }
        let mut cold = [bytes; 2];
        cold[resident] = 0;
        let placed = placer.place(ask(bytes, &cold)).unwrap();
        prop_assert_eq!(placed.decision().executor, resident);
    }

    #[test]
    fn it_follows_what_work_takes_until_the_other_one_is_cheaper(
        first in 1_000_u64..1_000_000, second in 1_000_u64..1_000_000,
    ) {
        let placer = placer(&[1, 1]);
        measure(&placer, 0, 4096, first, (0, 0));
        measure(&placer, 1, 4096, second, (0, 0));
        let fast = usize::from(second < first);
        let slower = 4 * first.max(second);
        for _ in 0..64 {
            let placed = placer.place(ask(4096, &[])).unwrap();
            if placed.decision().executor != fast {
                return Ok(());
            }
            placed.ran(slower);
        }
        prop_assert!(false, "it did not notice");
    }
}

#[test]
fn what_was_not_measured_is_tried_by_one_operation_at_a_time_and_a_failed_trial_is_repeated() {
    let placer = placer(&[1, 1]);
    let first = placer.place(ask(1, &[])).unwrap();
    let second = placer.place(ask(1, &[])).unwrap();
    let tried = [&first, &second].map(|one| (one.decision().executor, one.decision().why));
    assert_eq!(tried, [(0, Why::Unmeasured), (1, Why::Unmeasured)]);
    first.ran(100);
    // The other is being tried: meanwhile what is known is used.
    let known = placer.place(ask(1, &[])).unwrap();
    assert_eq!(
        (known.decision().executor, known.decision().why),
        (0, Why::Cheapest)
    );
    drop(second);
    let again = placer.place(ask(1, &[])).unwrap();
    assert_eq!(
        (again.decision().executor, again.decision().why),
        (1, Why::Unmeasured)
    );
    again.ran(50);
    drop(known);
    // A link that was never used is to be measured as well.
    let cold = placer.place(ask(1, &[0, 10])).unwrap();
    assert_eq!(
        (cold.decision().executor, cold.decision().why),
        (1, Why::Unmeasured)
    );
    cold.uploaded(10, 10_000);
    drop(cold);
    let decided = placer.place(ask(1, &[0, 10])).unwrap();
    let said = decided.decision().to_string();
    let expected = "executor 0 (cheapest); executor 0: wait 0 ns, upload 0 ns, run 100 ns; \
                    executor 1: wait 0 ns, upload 10000 ns, run 50 ns";
    assert_eq!(said, expected);
    assert!(Placer::new(Vec::new()).place(ask(1, &[])).is_none());
    let alone = super::tests::placer(&[4]).place(ask(1, &[])).unwrap();
    assert_eq!(alone.decision().why, Why::Only);
}

/// Says, as its result, what it would have taken on a device of this speed.
struct Planted {
    nanos_per_byte: u64,
}

impl HostOp for Planted {
    fn opcode(&self) -> Opcode {
        OP
    }

    fn name(&self) -> &'static str {
        "planted"
    }

    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        Ok(Partial::EMPTY)
    }

    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let nanos = task.window(0)?.len() as u64 * self.nanos_per_byte;
        out.write(&nanos.to_le_bytes())
    }
}

struct Host {
    device: Device,
    done: std::sync::Arc<dyn crate::Completion>,
    completions: mpsc::Receiver<Completed>,
    link_nanos_per_byte: u64,
}

impl Host {
    fn new(nanos_per_byte: u64, link_nanos_per_byte: u64) -> Self {
        let op = Planted { nanos_per_byte };
        let device = Device::open(&options(1), vec![std::sync::Arc::new(op)]).unwrap();
        device.register_tenant_generation(ALICE).unwrap();
        let (done, completions) = listener();
        Self {
            device,
            done,
            completions,
            link_nanos_per_byte,
        }
    }

    /// Uploads what is absent, runs, and gives what both took.
    fn run(&self, content: &[u8]) -> (u64, u64) {
        let buffers = self.device.buffers();
        let digest = Digest::of(content);
        let length = content.len() as u64;
        let mut sent = 0;
        if buffers.find(ALICE, &digest).is_none() {
            buffers.put(ALICE, content).unwrap();
            sent = length * self.link_nanos_per_byte;
        }
        let offset = 0;
        let name = BufferRef {
            digest,
            offset,
            length,
        };
        let mut task = Task::new(OP, ALICE);
        task.windows.push(buffers.bind(ALICE, &name).unwrap());
        let done = std::sync::Arc::clone(&self.done);
        self.device.publish(task, done).unwrap();
        let completed = self.completions.recv().unwrap();
        assert_eq!(completed.status, Status::Done);
        let nanos = <[u8; 8]>::try_from(&*completed.result).unwrap();
        (sent, u64::from_le_bytes(nanos))
    }
}

#[test]
fn over_two_devices_cold_data_goes_where_it_costs_least_and_what_is_resident_stays() {
    // The second is four times as fast, over a link that costs more than that saves.
    let hosts = [Host::new(8, 0), Host::new(2, 20)];
    let placer = placer(&[1, 1]);
    let mut ran: HashMap<(usize, u8), u32> = HashMap::new();
    let mut run = |number: u8| {
        let content = vec![number; 10_000];
        let digest = Digest::of(&content);
        let cold = hosts.each_ref().map(|host| {
            let is_there = host.device.buffers().find(ALICE, &digest).is_some();
            if is_there { 0 } else { content.len() as u64 }
        });
        let placed = placer.place(ask(content.len() as u64, &cold)).unwrap();
        let at = placed.decision().executor;
        let (sent, nanos) = hosts[at].run(&content);
        placed.uploaded(cold[at], sent);
        placed.ran(nanos);
        *ran.entry((at, number)).or_default() += 1;
        at
    };
    // Both are measured once; then what is cold on both goes where no upload is to be paid.
    assert_eq!([run(0), run(1)], [0, 1]);
    for number in 2..20 {
        assert_eq!(run(number), 0);
    }
    // What lies on the fast one runs there for good.
    for _ in 0..5 {
        assert_eq!(run(1), 1);
    }
    assert_eq!(ran[&(1, 1)], 6);
}
