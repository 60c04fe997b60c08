//! Plans: what is done to an engine, and how its lives end.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::chain::{Link, Plan};
use crate::disks::Shape;
use crate::outside::Weather;

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// A `Pure` computation of a name.
    Worth(String),
    /// An `External` write of a name.
    Put(String),
    /// A saga.
    Chain(Plan),
}

/// The key that work is submitted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyOf {
    /// The caller's.
    Named(u8),
    /// Derived from the input, which is this name.
    Derived(String),
}

/// A tenant and a key of its.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) tenant: u8,
    pub(crate) key: KeyOf,
}

/// What the caller does with a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Waits for the outcome.
    Await,
    /// Drops it.
    Leave,
    /// Cancels, and waits for what comes of it.
    Cancel,
}

/// How work is submitted.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Awaited.
    Submit(Work),
    /// Awaited, and kept nowhere.
    Ephemeral(String),
    /// Polled once and dropped.
    Abandon(Work),
    /// Accepted.
    Enqueue(Work, Then),
    /// Several names at once, under derived keys.
    Batch(Vec<String>),
}

/// One caller's doing.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) tenant: u8,
    pub(crate) key: Option<u8>,
    pub(crate) task: Task,
    /// What befalls the calls for these names.
    pub(crate) weather: Vec<(String, Vec<Weather>)>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The engine is closed.
    Close,
    /// It is dropped in the middle of what it does.
    Drop,
    /// The power goes after so many more groups of the journal.
    PowerOff { groups: u64 },
    /// The sync of a group of the journal fails, so many groups later, and it is dropped then.
    SyncFails { groups: u64 },
}

/// What happens to an opening that is no life yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The sync of the raised incarnation fails.
    Sync,
    /// The disk of the checkpoints is gone after so many operations.
    Disk { operations: u64 },
    /// The tables fail after so many operations.
    Tables { operations: u64 },
    /// The power goes right after.
    Power,
}

/// One process: rounds of callers who run at once, and an end.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Openings that crash before it.
    pub(crate) faults: Vec<Fault>,
    pub(crate) rounds: Vec<Vec<Op>>,
    pub(crate) end: End,
    /// Whether attempts that run when the engine ends still reach the outside.
    pub(crate) lingers: bool,
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
}

fn weather(names: Vec<(String, bool)>) -> impl Strategy<Value = Vec<(String, Vec<Weather>)>> {
    let of_name = |(name, forward): (String, bool)| {
        let any = prop_oneof![
            1 => Just(Weather::Permanent),
            3 => Just(Weather::Retryable),
            3 => Just(Weather::DoubtBefore),
            4 => Just(Weather::DoubtAfter),
            1 => Just(Weather::PanicBefore),
            1 => Just(Weather::PanicAfter),
        ];
        let any = any.prop_map(move |weather| match weather {
            // After its pivot a saga that cannot go on is stuck, which ends no case.
            Weather::Permanent if forward => Weather::Retryable,
            weather => weather,
        });
        let calls = prop_oneof![5 => vec(any.clone(), 0..1), 2 => vec(any, 1..3)];
        (
            calls,
            proptest::option::weighted(0.1, Just(Weather::Retryable)),
        )
            .prop_map(move |(calls, asked)| {
                let asked = asked.map(|weather| (format!("ask {name}"), vec![weather]));
                let calls = (!calls.is_empty()).then(|| (name.clone(), calls));
                calls.into_iter().chain(asked).collect::<Vec<_>>()
            })
    };
    names
        .into_iter()
        .map(of_name)
        .collect::<Vec<_>>()
        .prop_map(|all| all.into_iter().flatten().collect())
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![
        4 => Just(Then::Await),
        2 => Just(Then::Leave),
        2 => Just(Then::Cancel),
    ]
}

fn effect(tenant: u8, key: u8) -> impl Strategy<Value = Work> {
    (any::<bool>(), 0..2_u8).prop_map(move |(external, variant)| {
        let name = format!("t{tenant}k{key}v{variant}");
        if external {
            Work::Put(format!("put {name}"))
        } else {
            Work::Worth(format!("worth {name}"))
        }
    })
}

fn link() -> impl Strategy<Value = Link> {
    prop_oneof![
        2 => Just(Link::WORTH),
        5 => Just(Link::PUT),
        3 => Just(Link::pair()),
        1 => Just(Link::Nap),
        1 => Just(Link::Note),
    ]
}

fn chain(tenant: u8, key: u8) -> impl Strategy<Value = Plan> {
    let after = proptest::option::of(vec(link(), 0..3));
    (vec(link(), 0..4), after, proptest::bool::weighted(0.3)).prop_map(
        move |(before, after, gives_up)| {
            let mut hasher = DefaultHasher::new();
            format!("{before:?}{after:?}{gives_up}").hash(&mut hasher);
            let name = format!("t{tenant}k{key}c{:04x}", hasher.finish() & 0xffff);
            Plan {
                name,
                before,
                after,
                gives_up,
            }
        },
    )
}

/// The names that a chain calls code with, and whether only forward helps there.
fn names_of(plan: &Plan) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    for placed in plan.steps() {
        if placed.has_undo() {
            names.push((format!("undo {}", placed.name), true));
        }
        names.push((placed.name, placed.pivoted));
    }
    names
}

fn op() -> impl Strategy<Value = Op> {
    (0..2_u8, 0..3_u8, proptest::bool::weighted(0.2)).prop_flat_map(|(tenant, key, derived)| {
        let task = prop_oneof![
            4 => effect(tenant, key).prop_map(Task::Submit),
            1 => effect(tenant, key).prop_map(|work| Task::Ephemeral(match work {
                Work::Worth(name) | Work::Put(name) => name,
                Work::Chain(plan) => plan.name,
            })),
            2 => effect(tenant, key).prop_map(Task::Abandon),
            5 => (effect(tenant, key), then())
                .prop_map(|(work, then)| Task::Enqueue(work, then)),
            1 => vec(0..4_u8, 1..6).prop_map(move |names| Task::Batch(
                names.iter().map(|n| format!("batch t{tenant}d{n}")).collect()
            )),
            5 => (chain(tenant, key), then())
                .prop_map(|(plan, then)| Task::Enqueue(Work::Chain(plan), then)),
        ];
        task.prop_flat_map(move |task| {
            let task = if derived { derive(task) } else { task };
            let (names, pure) = match &task {
                Task::Submit(work) | Task::Abandon(work) | Task::Enqueue(work, _) => match work {
                    Work::Worth(name) => (vec![(name.clone(), false)], true),
                    Work::Put(name) => (vec![(name.clone(), false)], false),
                    Work::Chain(plan) => (names_of(plan), false),
                },
                Task::Ephemeral(_) | Task::Batch(_) => (Vec::new(), true),
            };
            weather(names).prop_map(move |weather| Op {
                tenant,
                key: (!(derived && pure)).then_some(key),
                task: task.clone(),
                weather,
            })
        })
    })
}

/// The same under a derived key, with a name of its own: calls are counted by name.
fn derive(task: Task) -> Task {
    let own = |work: Work| match work {
        Work::Worth(name) => Work::Worth(format!("derived {name}")),
        Work::Put(_) | Work::Chain(_) => work,
    };
    match task {
        Task::Submit(work) => Task::Submit(own(work)),
        Task::Abandon(work) => Task::Abandon(own(work)),
        Task::Enqueue(work, then) => Task::Enqueue(own(work), then),
        Task::Ephemeral(_) | Task::Batch(_) => task,
    }
}

pub(crate) fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => Just(End::Close),
        2 => Just(End::Drop),
        6 => (0..40_u64).prop_map(|groups| End::PowerOff { groups }),
        2 => (0..20_u64).prop_map(|groups| End::SyncFails { groups }),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Sync),
        (0..8_u64).prop_map(|operations| Fault::Disk { operations }),
        (0..6_u64).prop_map(|operations| Fault::Tables { operations }),
        Just(Fault::Power),
    ]
}

pub(crate) fn faults() -> impl Strategy<Value = Vec<Fault>> {
    prop_oneof![3 => vec(fault(), 0..1), 1 => vec(fault(), 1..3)]
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    let bytes = prop_oneof![Just(512_u64), Just(4096), Just(1 << 20)];
    let slots = prop_oneof![Just(1_u32), Just(3), Just(64)];
    let resident = prop_oneof![Just(0_usize), Just(1), Just(1 << 14)];
    (bytes, slots, resident).prop_map(|(checkpoint_bytes, slots, resident_max)| Shape {
        checkpoint_bytes,
        slots,
        resident_max,
    })
}

/// Any life.
pub(crate) fn life() -> impl Strategy<Value = Life> {
    let rounds = vec(vec(op(), 1..6), 1..4);
    let all = (
        faults(),
        rounds,
        end(),
        any::<bool>(),
        shape(),
        any::<u64>(),
    );
    all.prop_map(|(faults, rounds, end, lingers, shape, seed)| Life {
        faults,
        rounds,
        end,
        lingers,
        shape,
        seed,
    })
}
