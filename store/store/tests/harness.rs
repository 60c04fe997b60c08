//! What the tests of the store share: events, a clock, a store on simulated parts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use orlop_saga::amount::BusyNanos;
use orlop_saga::canonical::Payload;
use orlop_saga::effect::{CodeRef, EffectEvent, EffectId, Request, Settlement};
use orlop_saga::event::Event;
use orlop_saga::id::{Attempt, Fence, Incarnation, Lsn, SagaId, StoreId, TenantId};
use orlop_saga::key::{Fingerprint, Key};
use orlop_saga::outcome::Outcome;
use orlop_saga::saga::{SagaEvent, SagaStart};
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::{Clock, Monotonic, WallMillis};
use orlop_saga::trace::TraceContext;
use parking_lot::Mutex;

use crate::disk::{Disk, SimDisk};
use crate::log::{AppendError, Lane, LogOptions, LsnRange, Purpose, SimLogDisk};
use crate::projection::Retained;
use crate::projector::{Projected, ProjectorError, ProjectorOptions};
use crate::store::{OpenError, Parts, Recovered, Store};
use crate::tables::{SimHome, TablesError, sim::SimShelf};

pub(super) const STORE: StoreId = StoreId::new([9; 16]);
/// When the clock of the tests starts, and how long outcomes are kept.
pub(super) const START_MS: u64 = 1_000_000;
pub(super) const RETENTION_MS: u64 = 60_000;

/// A clock that moves when it is told to.
#[derive(Debug, Default)]
pub(super) struct TestClock {
    wall_ms: AtomicU64,
    passed_ms: AtomicU64,
}

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        let clock = Self::default();
        clock.wall_ms.store(START_MS, Ordering::Relaxed);
        Arc::new(clock)
    }

    pub(super) fn pass(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
        self.passed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(super) fn jump_to(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> WallMillis {
        WallMillis::new(self.wall_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::new(self.passed_ms.load(Ordering::Relaxed) * 1_000_000)
    }
}

/// Remembers every key that was announced.
#[derive(Default)]
pub(super) struct Announced(pub(super) Mutex<BTreeSet<(TenantId, Key)>>);

impl Projected for Announced {
    fn projected(&self, keys: &[(TenantId, Key)], _lsn: Lsn) {
        self.0.lock().extend(keys.iter().copied());
    }
}

pub(super) fn tenant() -> TenantId {
    TenantId::new(3, 1)
}

pub(super) fn key(n: u64) -> Key {
    Key::named(&n.to_string())
}

pub(super) fn id(n: u64) -> EffectId {
    EffectId {
        tenant: tenant(),
        key: key(n),
    }
}

fn fingerprint(n: u64) -> Fingerprint {
    Fingerprint::of("work", 1, &Payload::new(n.to_le_bytes().to_vec()))
}

fn fence() -> Fence {
    Fence::new(Incarnation::new(1), Attempt::new(1))
}

pub(super) fn settlement(n: u64, at_ms: u64) -> Settlement {
    Settlement {
        fingerprint: fingerprint(n),
        code: CodeRef::new("work", 1),
        saga: None,
        fence: fence(),
        outcome: Outcome::Done(Payload::new(vec![0xab; usize::try_from(n % 97).unwrap()])),
        cost: BusyNanos::new(n),
        audit: AuditTag::default(),
        at: WallMillis::new(at_ms),
        expires_at: WallMillis::new(at_ms + RETENTION_MS),
    }
}

/// An outcome that needed no intent.
pub(super) fn settled(n: u64) -> Event {
    settled_at(n, START_MS)
}

pub(super) fn settled_at(n: u64, at_ms: u64) -> Event {
    Event::Effect {
        id: id(n),
        event: EffectEvent::Settled(Box::new(settlement(n, at_ms))),
    }
}

/// An intent: it stays in the fold.
pub(super) fn accepted(n: u64) -> Event {
    Event::Effect {
        id: id(n),
        event: EffectEvent::Accepted(Box::new(Request {
            fingerprint: fingerprint(n),
            code: CodeRef::new("work", 1),
            external: false,
            input: Payload::new(n.to_le_bytes().to_vec()),
            class: Class::Standard,
            audit: AuditTag::default(),
            trace: TraceContext::default(),
            at: WallMillis::new(START_MS),
            deadline: None,
            retention_ms: RETENTION_MS,
        })),
    }
}

/// A whole saga without steps.
pub(super) fn saga(n: u64) -> Vec<Event> {
    let start = SagaStart {
        id: id(n),
        fingerprint: fingerprint(n),
        code: CodeRef::new("evict", 1),
        input: Payload::new(vec![1]),
        class: Class::Standard,
        audit: AuditTag::default(),
        trace: TraceContext::default(),
        at: WallMillis::new(START_MS),
        retention_ms: RETENTION_MS,
        paused: false,
        deadline: None,
        parent: None,
    };
    let events = [
        SagaEvent::Started(Box::new(start)),
        SagaEvent::Completed {
            output: Payload::new(vec![2]),
            at: WallMillis::new(START_MS),
        },
    ];
    let id = SagaId::new(n);
    events
        .into_iter()
        .map(|event| Event::Saga { id, event })
        .collect()
}

/// Appends and waits.
pub(super) fn append(store: &Store, events: &[Event]) -> Result<LsnRange, AppendError> {
    let (sender, receiver) = mpsc::channel();
    let ack = move |result| sender.send(result).unwrap();
    store
        .append(Lane(3), Purpose::Settle, events, Box::new(ack))
        .unwrap();
    receiver.recv().unwrap_or(Err(AppendError::Closed))
}

pub(super) fn lookup(store: &Store, n: u64) -> Result<Option<Retained>, TablesError> {
    let (sender, receiver) = mpsc::channel();
    let answer = move |result| sender.send(result).unwrap();
    store.lookup(tenant(), key(n), Box::new(answer));
    receiver.recv().unwrap()
}

pub(super) fn checkpoint(store: &Store) -> Result<Lsn, ProjectorError> {
    let (sender, receiver) = mpsc::channel();
    store.checkpoint(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

pub(super) fn export(store: &Store) -> Result<Lsn, ProjectorError> {
    let (sender, receiver) = mpsc::channel();
    store.export(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

/// The simulated machine: everything that survives a crash.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) log: SimLogDisk,
    pub(super) disk: SimDisk,
    pub(super) shelf: SimShelf,
    pub(super) clock: Arc<TestClock>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            log: SimLogDisk::new(),
            disk: SimDisk::new(),
            shelf: SimShelf::new(),
            clock: TestClock::new(),
        }
    }

    pub(super) fn open(&self, options: ProjectorOptions) -> Result<(Store, Recovered), OpenError> {
        self.open_told(options, Arc::new(Announced::default()))
    }

    pub(super) fn open_told(
        &self,
        options: ProjectorOptions,
        projected: Arc<dyn Projected>,
    ) -> Result<(Store, Recovered), OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let parts = Parts {
            store: STORE,
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        };
        Store::open_with(parts, options, self.clock.clone(), projected)
    }

    /// The power fails: first where it can do no harm to be earlier, last in the journal.
    pub(super) fn crash(&self, seed: u64) -> Self {
        self.disk.power_off_after(0);
        self.shelf.crash(seed);
        let disk = self.disk.crash(seed);
        Self {
            log: self.log.crash(seed),
            disk,
            shelf: self.shelf.clone(),
            clock: self.clock.clone(),
        }
    }

    /// The names of files of one kind.
    pub(super) fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let paths = self.disk.list(Path::new("/")).unwrap();
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(prefix)
        };
        paths.into_iter().filter(named).collect()
    }
}
