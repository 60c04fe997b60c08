//! Tenants: two of them with quotas, a budget and an audit, and one that behaves badly.
//!
//! ```sh
//! cargo run --release --example 03_tenants
//! ```
//!
//! `flood` asks for a hundred times as much as it may have, on the budget of one engagement, and
//! then for what is the other one's. `steady` asks for what it needs and gets it. What was refused
//! to whom and why, who pays for what, and what was tried, is told at the end.

use std::collections::BTreeMap;
use std::thread;

use orlop::{
    AuditEvent, AuditOptions, AuditTag, Blake3, BufferError, BusyNanos, ByteCount, Engine, Key,
    MemorySink, Options, Quotas, Share, SubmitError, TenantManager, Weight, wait,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAGE_BYTES: usize = 64 << 10;
const STEADY: AuditTag = AuditTag {
    organisation: 1,
    engagement: 7,
};
const FLOOD: AuditTag = AuditTag {
    organisation: 2,
    engagement: 7,
};

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let told = MemorySink::new(1024);
    let mut options = Options {
        audit: AuditOptions {
            tracing: false,
            ..AuditOptions::default()
        },
        ..Options::default()
    };
    options.budgets.enforced = true;
    let engine = Engine::builder(folder.path().join("store"))
        .options(options)
        .audit_sink(told.clone())
        .open_blocking()?;

    let steady = wait(engine.register("steady", Quotas::UNLIMITED))?;
    let few = Quotas {
        slots_max: 8,
        device_bytes_max: ByteCount::new(1 << 20),
        share: Share {
            weight: Weight::new(1).ok_or("a weight")?,
            ..Share::ORDINARY
        },
        ..Quotas::UNLIMITED
    };
    let flood = wait(engine.register("flood", few))?;
    // What each may cost in all: ten seconds, and a hundredth of one.
    wait(
        engine
            .budgets()
            .grant(STEADY, BusyNanos::new(10_000_000_000)),
    )?;
    wait(engine.budgets().grant(FLOOD, BusyNanos::new(10_000_000)))?;

    let (of_steady, of_flood) = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|part| {
                let flood = &flood;
                scope.spawn(move || work(flood, FLOOD, part * 200, 200))
            })
            .collect();
        let of_steady = work(&steady, STEADY, 0, 100);
        let mut of_flood = BTreeMap::new();
        for counts in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            for (ended, count) in counts {
                *of_flood.entry(ended).or_insert(0) += count;
            }
        }
        (of_steady, of_flood)
    });
    println!("of 100 that steady asked for:\n{}", list(&of_steady));
    println!("of 3200 that flood asked for:\n{}", list(&of_flood));
    assert_eq!(of_steady.get("done"), Some(&100));
    assert!(of_flood.len() > 1, "something was refused");

    trespass(&steady, &flood)?;
    wait(engine.flush_audit());
    println!("what was tried:");
    let mut tried = 0;
    for entry in told.entries() {
        if let AuditEvent::Denied(denial) = entry.event {
            tried += 1;
            let (who, owner) = (&denial.who.label, denial.owner);
            println!(
                "  {who}: {:?} {:?} of {owner:?}",
                denial.operation, denial.object
            );
        }
    }
    assert_eq!(tried, 2, "each attempt is told");

    println!("who pays, as it is exported:");
    wait(engine.ledger().export_csv(std::io::stdout().lock()))?;
    for budget in engine.budgets().list() {
        println!(
            "engagement {} of organisation {}: {} of {} spent, {} drawn",
            budget.audit.engagement,
            budget.audit.organisation,
            budget.spent,
            budget.limit,
            budget.drawn
        );
        assert!(budget.drawn >= budget.spent);
    }
    engine.blocking().close()?;
    println!("verified");
    Ok(())
}

/// Submits digests of pages, and counts how they ended.
fn work(of: &TenantManager, audit: AuditTag, from: u32, count: u32) -> BTreeMap<String, u32> {
    let mut ended = BTreeMap::new();
    for number in from..from + count {
        let page = number.to_le_bytes().repeat(PAGE_BYTES / 4);
        let how = match wait(of.tenant().submit(Blake3, page).audit(audit)) {
            Ok(_) => "done".to_owned(),
            Err(SubmitError::Refused(refusal)) => refusal.reason().name().to_owned(),
            Err(other) => other.to_string(),
        };
        *ended.entry(how).or_insert(0) += 1;
    }
    ended
}

/// What is another tenant's is not there, whoever asks; and a quota is a quota.
fn trespass(steady: &TenantManager, flood: &TenantManager) -> Result<()> {
    let key = Key::named("a report");
    wait(
        steady
            .tenant()
            .submit(Blake3, "mine")
            .key(key)
            .audit(STEADY),
    )?;
    assert!(!flood.retry(key), "there is no such key for anybody else");
    let bills = wait(flood.ledger().lines_of(steady.tenant().id()));
    println!(
        "flood asks for the ledger of steady: {}",
        bills.err().ok_or("no line of it")?
    );
    let large = flood.tenant().buffer(&vec![0; 2 << 20]);
    let Err(BufferError::Refused(refusal)) = large else {
        return Err("more than its quota was put onto the device".into());
    };
    println!("flood puts 2 MiB onto the device: {refusal}");
    Ok(())
}

fn list(counts: &BTreeMap<String, u32>) -> String {
    let lines = counts
        .iter()
        .map(|(ended, count)| format!("  {count:>5} {ended}\n"));
    lines.collect()
}
