//! What is decided about tenants, cut off after each group of the journal, twice in a row: it holds
//! from the moment it was acknowledged, whatever the machine finds afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::FutureExt;
use orlop::store::tables::sim::SimShelf;
use orlop::{Engine, Quotas, TenantId, TenantState};

use crate::disks::{Disks, Shape};
use crate::life::{close, together};

#[derive(Clone, Copy, Debug)]
enum Decision {
    /// With so many slots, or as many as it likes.
    Register(Option<u64>),
    Quotas(u64),
    /// These by name, or all.
    Allow(Option<&'static [&'static str]>),
    Suspend,
    Resume,
    Drain,
    Revoke,
    Unregister,
}

use Decision::{Allow, Drain, Quotas as Bound, Register, Resume, Revoke, Suspend, Unregister};

const SCRIPT: [(&str, Decision); 20] = [
    ("ada", Register(Some(3))),
    ("ada", Allow(Some(&["digest", "upload"]))),
    ("ada", Suspend),
    ("bob", Register(None)),
    ("bob", Bound(0)),
    ("bob", Drain),
    ("ada", Revoke),
    ("bob", Resume),
    ("ada", Unregister),
    // In the place of the one who has gone, whose revocation is not its own.
    ("ada", Register(None)),
    ("bob", Revoke),
    ("ada", Allow(Some(&[]))),
    ("ada", Allow(None)),
    ("ada", Bound(7)),
    ("bob", Bound(9)),
    ("ada", Suspend),
    ("ada", Unregister),
    ("eve", Register(Some(0))),
    ("bob", Unregister),
    ("eve", Drain),
];

/// What is known of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: TenantId,
    state: TenantState,
    slots_max: u64,
    allowed: Option<BTreeSet<Box<str>>>,
}

type Truth = BTreeMap<&'static str, Known>;

fn quotas(slots_max: u64) -> Quotas {
    Quotas {
        slots_max,
        ..Quotas::UNLIMITED
    }
}

fn names(allowed: Option<&[&str]>) -> Option<BTreeSet<Box<str>>> {
    allowed.map(|names| names.iter().map(|name| Box::from(*name)).collect())
}

/// What is true before the first decision, and after each.
fn truths() -> Vec<Truth> {
    let mut truth = Truth::new();
    let mut generations = [0; 3];
    let mut truths = vec![truth.clone()];
    for (label, decision) in SCRIPT {
        if let Register(slots_max) = decision {
            let taken: BTreeSet<u32> = truth.values().map(|known| known.id.slot()).collect();
            let slot = (0..u32::MAX).find(|slot| !taken.contains(slot)).unwrap();
            generations[slot as usize] += 1;
            let known = Known {
                id: TenantId::new(slot, generations[slot as usize]),
                state: TenantState::Active,
                slots_max: slots_max.unwrap_or(u64::MAX),
                allowed: None,
            };
            assert!(truth.insert(label, known).is_none());
        }
        let known = truth.get_mut(label).unwrap();
        match decision {
            Register(_) => {}
            Bound(slots_max) => known.slots_max = slots_max,
            Allow(allowed) => known.allowed = names(allowed),
            Suspend => known.state = TenantState::Suspended,
            Resume => known.state = TenantState::Active,
            Drain => known.state = TenantState::Draining,
            Revoke => known.state = TenantState::Revoked,
            Unregister => drop(truth.remove(label)),
        }
        truths.push(truth.clone());
    }
    truths
}

async fn decide(engine: &Engine, label: &str, decision: Decision) {
    if let Register(slots_max) = decision {
        match slots_max {
            Some(slots_max) => drop(engine.register(label, quotas(slots_max)).await.unwrap()),
            None => drop(engine.tenant(label).await.unwrap()),
        }
        return;
    }
    let manager = engine.manage(label).await.unwrap();
    match decision {
        Register(_) => {}
        Bound(slots_max) => manager.set_quotas(quotas(slots_max)).await.unwrap(),
        Allow(Some(names)) => manager.allow_only(names.iter().copied()).await.unwrap(),
        Allow(None) => manager.allow_all().await.unwrap(),
        Suspend => manager.suspend().await.unwrap(),
        Resume => manager.resume().await.unwrap(),
        Drain => {
            let drained = manager.drain(Duration::from_mins(1)).await.unwrap();
            assert_eq!((drained.moving, drained.held), (0, 0));
        }
        Revoke => manager.revoke().await.unwrap(),
        Unregister => manager.unregister().await.unwrap(),
    }
}

/// What an engine shows of whom the truth knows; the number is of all that it has.
fn shown(engine: &Engine, truth: &Truth) -> (usize, Truth) {
    let tenants = engine.snapshot().tenants;
    let mut shown = Truth::new();
    for (label, known) in truth {
        // Whoever asks for a label that is not there registers it.
        let Some(snapshot) = tenants.iter().find(|tenant| tenant.id == known.id) else {
            continue;
        };
        let manager = orlop::wait(engine.manage(label)).unwrap();
        assert_eq!(manager.tenant().id(), known.id);
        assert_eq!(snapshot.quotas, quotas(snapshot.quotas.slots_max));
        let known = Known {
            id: snapshot.id,
            state: snapshot.state,
            slots_max: snapshot.quotas.slots_max,
            allowed: manager.allowed().map(|allowed| (*allowed).clone()),
        };
        shown.insert(label, known);
    }
    (tenants.len(), shown)
}

fn shows(engine: &Engine, truth: &Truth) -> bool {
    shown(engine, truth) == (truth.len(), truth.clone())
}

struct Machine {
    disks: Disks,
    truths: Vec<Truth>,
    /// How many decisions were acknowledged, or found.
    at: usize,
}

impl Machine {
    /// Opens; the decision that was under way when the power went was taken or not, whole.
    fn open(&mut self, shape: Shape, what: &str) -> Engine {
        let engine = self.disks.open(shape, |builder| builder).unwrap();
        let next = (self.at + 1).min(SCRIPT.len());
        let found = [self.at, next];
        let found = found
            .into_iter()
            .find(|&at| shows(&engine, &self.truths[at]));
        let Some(at) = found else {
            let before = &self.truths[self.at];
            panic!("{what}: {before:?}, but {:?}", shown(&engine, before));
        };
        self.at = at;
        engine
    }

    /// Decides until all is decided or the power goes after `groups` more groups; true if all is.
    fn live(&mut self, shape: Shape, groups: u64, what: &str) -> bool {
        let engine = self.open(shape, what);
        let mut off = self.disks.power_off();
        self.disks.log.power_off_after(groups);
        while let Some((label, decision)) = SCRIPT.get(self.at) {
            let deciding = decide(&engine, label, *decision).boxed();
            if !together(vec![deciding], &mut off, &engine) {
                return false;
            }
            self.at += 1;
            assert!(
                shows(&engine, &self.truths[self.at]),
                "{what}: {label} {decision:?}"
            );
        }
        true
    }
}

#[test]
fn what_was_decided_about_tenants_holds_after_every_prefix_of_the_journal() {
    let truths = truths();
    let far = u64::MAX / 2;
    let mut prefixes = 0;
    loop {
        let mut done = false;
        // From the bare journal, and from checkpoints and exports.
        for (seed, checkpoint_bytes) in [(prefixes * 2, 1 << 20), (prefixes * 2 + 1, 64)] {
            let what = format!("{prefixes} groups, a checkpoint after {checkpoint_bytes} bytes");
            let shape = Shape {
                checkpoint_bytes,
                ..Shape::AMPLE
            };
            let mut machine = Machine {
                disks: Disks::default(),
                truths: truths.clone(),
                at: 0,
            };
            done = machine.live(shape, prefixes, &what);
            machine.disks = machine.disks.crash(seed);
            machine.live(shape, seed % 5, &what);
            machine.disks = machine.disks.crash(seed + 1);
            assert!(
                machine.live(shape, far, &what),
                "nothing cuts this life off"
            );
            machine.disks = machine.disks.crash(seed + 2);
            // The tables are gone too.
            machine.disks.shelf = SimShelf::default();
            assert_eq!(machine.at, SCRIPT.len());
            close(&machine.open(shape, &what));
            drop(machine.open(shape, &what));
        }
        prefixes += 1;
        if done {
            break;
        }
    }
    assert!(prefixes > SCRIPT.len() as u64, "only {prefixes} prefixes");
}
