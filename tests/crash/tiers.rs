//! The reference sagas, crashed at every point there is: nothing is lost, nothing is there twice,
//! and nothing is left of what was taken back.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use orlop::testkit::{CrashSweep, Ending, SweepReport};
use orlop::tiered::{
    Compaction, CompactionPublish, Evict, Evicted, Eviction, LocalSegments, Published, Segment,
    SegmentName, TableName, Tiered, TieredOptions,
};
use orlop::{Digest, EngineBuilder, Saga, Tenant, TenantId, wait};

use crate::remote::{Fault, Remote};

/// The segments that there are at first, all of them on the own disk.
const SEGMENTS: [(&str, &[u8]); 2] = [
    ("one", b"four score and seven rows"),
    ("two", b"and some more of them"),
];

/// Segments on the own disk, in memory.
#[derive(Debug, Default)]
struct Local(Mutex<BTreeMap<SegmentName, Vec<u8>>>);

impl LocalSegments for Local {
    fn read(&self, _tenant: TenantId, name: &SegmentName) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    fn restore(&self, _tenant: TenantId, name: &SegmentName, content: &[u8]) -> io::Result<()> {
        let mut segments = self.0.lock().unwrap();
        segments.insert(name.clone(), content.to_vec());
        Ok(())
    }

    fn remove(&self, _tenant: TenantId, name: &SegmentName) -> io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

/// Both tiers: what outlives every process.
struct Tiers {
    local: Arc<Local>,
    remote: Remote,
    tenant: OnceLock<TenantId>,
}

fn name(name: &str) -> SegmentName {
    SegmentName::new(name).unwrap()
}

fn table() -> TableName {
    TableName::new("orders").unwrap()
}

impl Tiers {
    fn new(remote: Remote) -> Self {
        let segments = SEGMENTS.map(|(at, content)| (name(at), content.to_vec()));
        Self {
            local: Arc::new(Local(Mutex::new(segments.into()))),
            remote,
            tenant: OnceLock::new(),
        }
    }

    fn tiered(&self) -> Tiered {
        let local: Arc<dyn LocalSegments> = Arc::<Local>::clone(&self.local);
        let remote = Arc::new(self.remote.clone());
        Tiered::new(remote, local, TieredOptions::default())
    }

    fn bind(&self, builder: EngineBuilder) -> EngineBuilder {
        self.tiered().bind(builder)
    }

    fn tenant(&self) -> TenantId {
        *self.tenant.get().expect("the saga was started")
    }

    /// Whether these are the segments that are on the own disk, all as they were.
    fn local_has(&self, expected: &[&str]) -> Result<(), String> {
        let local = self.local.0.lock().unwrap();
        let expected: BTreeMap<SegmentName, Vec<u8>> = SEGMENTS
            .iter()
            .filter(|(at, _)| expected.contains(at))
            .map(|(at, content)| (name(at), content.to_vec()))
            .collect();
        if *local == expected {
            return Ok(());
        }
        Err(format!("{local:?} are local, not {expected:?}"))
    }

    /// Whether the ledger has these contents, each once, and nothing else.
    fn remote_has(&self, expected: &[&[u8]], others: usize) -> Result<(), String> {
        let things = self.remote.things();
        let count = |content: &[u8]| things.values().filter(|thing| *thing == content).count();
        let once = expected.iter().all(|content| count(content) == 1);
        if once && things.len() == expected.len() + others {
            return Ok(());
        }
        let names: Vec<_> = things.keys().collect();
        Err(format!(
            "{names:?} are remote, not {} segments and {others} others",
            expected.len()
        ))
    }
}

/// What is held is held for what failed after its pivot, and for nothing else.
fn held_after_pivot(reason: &str) -> Result<(), String> {
    if reason.contains("after its pivot") {
        return Ok(());
    }
    Err(format!("held: {reason}"))
}

fn eviction_holds(tiers: &Tiers, ending: &Ending<Evicted>) -> Result<(), String> {
    let content = SEGMENTS[0].1;
    match ending {
        Ending::Completed(evicted) => {
            tiers.local_has(&["two"])?;
            tiers.remote_has(&[content], 0)?;
            let path = tiers.tiered().path(tiers.tenant(), &evicted.object);
            if !tiers.remote.things().contains_key(path.as_ref()) {
                return Err(format!("{path} is not remote"));
            }
            Ok(())
        }
        Ending::Compensated(_) => {
            tiers.local_has(&["one", "two"])?;
            tiers.remote_has(&[], 0)
        }
        Ending::Held(reason) => {
            held_after_pivot(reason)?;
            tiers.local_has(&["one", "two"])?;
            tiers.remote_has(&[content], 0)
        }
    }
}

fn publication_holds(tiers: &Tiers, ending: &Ending<Published>) -> Result<(), String> {
    let contents = SEGMENTS.map(|(_, content)| content);
    let located = wait(tiers.tiered().locate(tiers.tenant(), &table()));
    let located = located.map_err(|error| error.to_string())?;
    let current = located.and_then(|located| located.manifest);
    match ending {
        Ending::Completed(published) => {
            tiers.local_has(&[])?;
            // The manifest besides.
            tiers.remote_has(&contents, 1)?;
            if current.as_ref() != Some(&published.manifest) {
                return Err(format!("{current:?} is current"));
            }
            Ok(())
        }
        Ending::Compensated(_) => {
            tiers.local_has(&["one", "two"])?;
            tiers.remote_has(&[], 0)?;
            current.map_or(Ok(()), |current| Err(format!("{current:?} is current")))
        }
        Ending::Held(reason) => {
            held_after_pivot(reason)?;
            // It was the first or the second copy that did not go.
            tiers
                .local_has(&["one", "two"])
                .or_else(|_| tiers.local_has(&["two"]))?;
            tiers.remote_has(&contents, 1)?;
            current
                .map(|_| ())
                .ok_or_else(|| "nothing is current".to_owned())
        }
    }
}

fn evictions(fault: Option<(u32, Fault)>) -> CrashSweep<Evict, Tiers> {
    let input = |tiers: &Tiers, tenant: &Tenant| {
        tiers.tenant.set(tenant.id()).unwrap();
        let (at, content) = SEGMENTS[0];
        Eviction {
            name: name(at),
            epoch: 1,
            content: content.into(),
        }
    };
    CrashSweep::new(
        move |_| Tiers::new(Remote::with_fault(fault)),
        Tiers::bind,
        input,
        eviction_holds,
    )
}

fn publications(fault: Option<(u32, Fault)>) -> CrashSweep<CompactionPublish, Tiers> {
    let input = |tiers: &Tiers, tenant: &Tenant| {
        tiers.tenant.set(tenant.id()).unwrap();
        let stage = SEGMENTS.map(|(at, content)| Segment {
            name: name(at),
            epoch: 1,
            digest: Digest::of(content),
        });
        Compaction {
            table: table(),
            base: 0,
            keep: Vec::new(),
            stage: stage.to_vec(),
            notes: b"level 1".to_vec(),
            retire: true,
        }
    };
    CrashSweep::new(
        move |_| Tiers::new(Remote::with_fault(fault)),
        Tiers::bind,
        input,
        publication_holds,
    )
}

fn swept<S: Saga>(sweep: CrashSweep<S, Tiers>, depth: u32) -> SweepReport {
    let report = sweep.seed(1).depth(depth).run();
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert!(report.endings.iter().all(|count| *count > 0), "{report}");
    for counts in [report.forward, report.unwinding] {
        assert_eq!(counts.total() > 0, depth > 0, "{report}");
    }
    report
}

/// Shows what a sweep went through, also where the harness keeps to itself what tests print.
fn say(report: &SweepReport) {
    let text = format!("\n{report}\n");
    io::stdout().write_all(text.as_bytes()).unwrap();
}

/// How many crashes in a row the longer of the two sagas is swept with: without optimisation one,
/// so that the tests of the whole workspace stay short.
fn depth() -> u32 {
    if cfg!(debug_assertions) { 1 } else { 2 }
}

#[test]
fn an_eviction_survives_a_crash_at_every_point_and_another_while_it_recovers() {
    let report = swept(evictions(None), 2);
    say(&report);
    assert!(report.again_forward.total() > 0, "{report}");
    assert!(report.again_unwinding.total() > 0, "{report}");
}

#[test]
fn a_publication_survives_a_crash_at_every_point_and_another_while_it_recovers() {
    let report = swept(publications(None), depth());
    say(&report);
}

#[test]
fn a_write_that_is_lost_or_late_changes_nothing_of_that() {
    for fault in [Fault::LostRequest, Fault::LostReply, Fault::AppliedAtTheEnd] {
        for nth in 0..2 {
            let report = swept(evictions(Some((nth, fault))), 1);
            assert!(report.crashes() > 0, "{report}");
        }

        for nth in 0..5 {
            let runs = swept(publications(Some((nth, fault))), 0).runs;
            assert!(runs > 0);
        }
    }
}
