//! The faults of earlier code for many tenants on one device, each with the test that keeps it out:
//! the table of `docs/faults.md`, and those of its tests that are nowhere else.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use orlop::testkit::SimClock;
use orlop::{
    Attempt, AuditTag, BlockingFunction, BufferError, BulkheadOptions, BusyNanos, ByteCount,
    Computation, Engine, Failure, Limits, Options, Pure, Quotas, Rate, Refusal, RetryPolicy,
    SubmitError, TenantError, TenantManager, TenantRegisterError, TenantState, wait,
};
use tempfile::tempdir;

use crate::hall::{Hall, NARROW, Turn, Turns, until};
use crate::support::{Double, Two, builder, patient};

/// How many faults each part of the page has.
const PARTS: [(&str, usize); 3] = [
    ("Many tenants on one megakernel", 10),
    ("A registry of tenants by message", 11),
    ("A contract for remote effects", 22),
];

/// The file and the test of every row of one part.
fn tests_of<'a>(page: &'a str, part: &str) -> Vec<(&'a str, &'a str)> {
    let begin = page.find(&format!("## {part}\n")).unwrap();
    let part = page[begin..].split("\n## ").next().unwrap();
    let rows = part.lines().filter(|line| line.starts_with("| ")).skip(2);
    let test = |row: &'a str| {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim_matches([' ', '`']))
            .collect();
        let ["", fault, file, test, ""] = cells[..] else {
            panic!("{row}");
        };
        assert!(!fault.is_empty(), "{row}");
        (file, test)
    };
    rows.map(test).collect()
}

#[test]
fn every_fault_of_the_page_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/faults.md")).unwrap();
    for (part, count) in PARTS {
        let tests = tests_of(&page, part);
        assert_eq!(tests.len(), count, "{part}");
        for (file, test) in tests {
            let source = std::fs::read_to_string(root.join(file)).unwrap();
            let lines: Vec<&str> = source.lines().map(str::trim).collect();
            let is_defined =
                |pair: &[&str]| pair[0] == "#[test]" && pair[1].starts_with(&format!("fn {test}("));
            assert!(lines.windows(2).any(is_defined), "no {test} in {file}");
        }
    }
}

/// How many of many threads' submissions pass at this instant; all others are told to wait.
fn admitted(hall: &Hall, ada: &TenantManager, numbers: &AtomicU64) -> usize {
    let submit = || {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let turn = ada.tenant().submit(Turn, ("ada".to_owned(), number));
        match wait(turn.ephemeral()) {
            Ok(_) => 1,
            Err(SubmitError::Refused(Refusal::RateLimited { .. })) => 0,
            Err(other) => panic!("{other}"),
        }
    };
    hall.turns.let_go(80);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..10).map(|_| submit()).sum::<usize>()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    })
}

#[test]
fn neither_an_edge_of_time_nor_a_race_admits_more_than_the_rate() {
    let clock = SimClock::new(1);
    let turns = Turns::gated(&clock);
    let wide = BulkheadOptions {
        in_flight_max: 256,
        ..BulkheadOptions::new(NARROW)
    };
    let hall = Hall::with(clock, turns, wide);
    let ada = hall.manager("ada");
    let quotas = Quotas {
        rate: Rate::new(10, 10),
        ..Quotas::UNLIMITED
    };
    wait(ada.set_quotas(quotas)).unwrap();
    let numbers = AtomicU64::new(0);
    // Ten at once, and one each tenth of a second from then on, whatever second it is.
    assert_eq!(admitted(&hall, &ada, &numbers), 10);
    for (millis, passed) in [(99, 0), (1, 1), (899, 8), (1, 1), (99, 0), (1_901, 10)] {
        hall.clock.advance(Duration::from_millis(millis));
        assert_eq!(admitted(&hall, &ada, &numbers), passed, "after {millis} ms");
    }
    hall.engine.blocking().close().unwrap();
}

const fn tag(organisation: u64, engagement: u64) -> AuditTag {
    AuditTag {
        organisation,
        engagement,
    }
}

#[test]
fn equal_engagements_of_two_organisations_are_two_bills() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let (north, south) = (tag(1, 7), tag(2, 7));
    let mut costs = [BusyNanos::default(); 2];
    for (number, audit) in [(1_u64, north), (2, south), (3, south)] {
        let reply = wait(two.alice.tenant().submit(Double, number).audit(audit)).unwrap();
        let cost = &mut costs[usize::from(audit == south)];
        *cost = cost.saturating_add(reply.cost);
    }
    let totals = wait(two.engine.ledger().totals()).unwrap();
    let bills: Vec<_> = totals.iter().map(|bill| (bill.audit, bill.spent)).collect();
    assert_eq!(bills, [(north, costs[0]), (south, costs[1])]);
    assert!(costs.iter().all(|cost| *cost > BusyNanos::default()));
    two.close();
}

#[test]
fn registering_again_wipes_no_bill_also_over_a_restart() {
    let folder = tempdir().unwrap();
    let audit = tag(1, 7);
    let mut expected = Vec::new();
    for life in 1..4_u64 {
        let engine = builder(folder.path(), patient()).open_blocking().unwrap();
        assert_eq!(wait(engine.ledger().lines()).unwrap(), expected);
        let acme = wait(engine.register("acme", Quotas::UNLIMITED)).unwrap();
        wait(acme.tenant().submit(Double, life).audit(audit)).unwrap();
        let lines = wait(engine.ledger().lines()).unwrap();
        assert_eq!(lines[..expected.len()], expected, "a bill was changed");
        let [line] = &lines[expected.len()..] else {
            panic!("{lines:?}");
        };
        assert_eq!((line.tenant, line.outcomes), (acme.tenant().id(), 1));
        wait(acme.revoke()).unwrap();
        wait(acme.unregister()).unwrap();
        assert_eq!(wait(engine.ledger().lines()).unwrap(), lines);
        expected = lines;
        engine.blocking().close().unwrap();
    }
}

/// Blocks its thread until it is let go.
struct Gated(Mutex<mpsc::Receiver<()>>);

#[derive(Clone, Copy)]
struct Outlast;

impl Computation for Outlast {
    const NAME: &'static str = "outlast";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

impl BlockingFunction<Outlast> for Gated {
    fn run(&self, _: &Attempt, input: u64) -> Result<u64, Failure> {
        let gone = self.0.lock().unwrap().recv();
        gone.map_err(Failure::permanent)?;
        Ok(input)
    }
}

#[test]
fn what_runs_on_after_its_tenant_was_unregistered_is_held_and_billed_by_the_old_life_alone() {
    let folder = tempdir().unwrap();
    let (let_go, gate) = mpsc::channel();
    let options = Options {
        audit: patient(),
        limits: Limits {
            attempt_timeout: Some(Duration::from_millis(1)),
            retry: RetryPolicy {
                attempts_max: 1,
                ..RetryPolicy::default()
            },
            ..Limits::default()
        },
        ..Options::default()
    };
    let engine = Engine::builder(folder.path().join("store"))
        .options(options)
        .blocking(Outlast, Gated(Mutex::new(gate)))
        .open_blocking()
        .unwrap();
    let old = wait(engine.manage("acme")).unwrap();
    let failed = wait(old.tenant().submit(Outlast, 1_u64));
    assert!(
        matches!(failed, Err(SubmitError::Exhausted(_))),
        "{failed:?}"
    );
    // The caller knows that it failed; the attempt runs on.
    wait(old.revoke()).unwrap();
    wait(old.unregister()).unwrap();
    assert_eq!(old.snapshot().ordinary.in_flight, 1);
    // Until it has ended nobody gets the slot or the label.
    let taken = wait(engine.manage("acme")).unwrap_err();
    let (holder, state) = (old.tenant().id(), TenantState::Unregistered);
    let label_taken = TenantRegisterError::LabelTaken { holder, state };
    assert_eq!(taken, TenantError::Register(label_taken));
    let other = wait(engine.manage("bolt")).unwrap();
    assert_ne!(other.tenant().id().slot(), holder.slot());
    let_go.send(()).unwrap();
    until(|| old.snapshot().ordinary.in_flight == 0);
    let new = wait(engine.manage("acme")).unwrap();
    assert_eq!(new.tenant().id().slot(), holder.slot());
    assert_eq!(new.tenant().id().generation(), holder.generation() + 1);
    assert_eq!(new.snapshot().ordinary.in_flight, 0);
    assert_eq!(new.snapshot().settled, 0);
    let of_old = wait(engine.ledger().lines_of(old.tenant().id())).unwrap();
    assert!(of_old[0].spent > BusyNanos::default(), "{of_old:?}");
    let of_new = wait(engine.ledger().lines_of(new.tenant().id())).unwrap();
    assert!(of_new.is_empty(), "{of_new:?}");
    engine.blocking().close().unwrap();
}

#[test]
fn device_memory_is_refused_beyond_the_quota_and_given_back_with_the_buffer() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let quotas = Quotas {
        buffers_max: 2,
        device_bytes_max: ByteCount::new(10_000),
        ..Quotas::UNLIMITED
    };
    wait(two.mallory.set_quotas(quotas)).unwrap();
    let put = |byte: u8, length: usize| two.mallory.tenant().buffer(&vec![byte; length]);
    assert!(matches!(
        put(1, 10_001),
        Err(BufferError::Refused(Refusal::NeverFits { cap: 10_000, .. }))
    ));
    let first = put(1, 6_000).unwrap();
    assert!(matches!(
        put(2, 6_000),
        Err(BufferError::Refused(Refusal::QuotaExceeded {
            used: 6_000,
            cap: 10_000,
            ..
        }))
    ));
    let second = put(2, 1).unwrap();
    assert!(matches!(
        put(3, 1),
        Err(BufferError::Refused(Refusal::QuotaExceeded {
            used: 2,
            cap: 2,
            ..
        }))
    ));
    assert_eq!(two.mallory.snapshot().kept.buffers, 2);
    // The other one is bound by its own alone.
    let _hers = two.alice.tenant().buffer(&vec![9; 50_000]).unwrap();
    drop(first);
    let third = put(3, 9_999).unwrap();
    drop((second, third));
    assert_eq!(two.mallory.snapshot().kept.device, ByteCount::default());
    two.close();
}

#[test]
fn a_tenant_that_is_suspended_or_gone_puts_nothing_onto_the_device() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let mallory = &two.mallory;
    let refusal = || match mallory.tenant().buffer(b"bytes") {
        Err(BufferError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let tenant = mallory.tenant().id();
    wait(mallory.suspend()).unwrap();
    assert_eq!(refusal(), Refusal::Suspended { tenant });
    wait(mallory.resume()).unwrap();
    drop(mallory.tenant().buffer(b"bytes").unwrap());
    wait(mallory.revoke()).unwrap();
    assert_eq!(refusal(), Refusal::Revoked { tenant });
    wait(mallory.unregister()).unwrap();
    assert_eq!(refusal(), Refusal::StaleTenant { tenant });
    two.close();
}
