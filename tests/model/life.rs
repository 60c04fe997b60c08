//! Lives: processes that open an engine, use it, and end in one way or another.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, join_all, select};
use orlop::{
    CancelError, Engine, Key, Origin, Reply, SagaTicket, SubmitError, Tenant, TenantError, Ticket,
    Unavailable,
};
use tokio::sync::oneshot;

use crate::chain::{Chain, Plan};
use crate::clock::JumpingClock;
use crate::disks::{Disks, Shape};
use crate::oracle::{Note, Oracle, Seen, Truth};
use crate::outside::{Outside, Put, Remove, Worth, worth};
use crate::plan::{End, Fault, KeyOf, Life, Op, Slot, Task, Then, Work};
use crate::racer::Racer;

/// How long a round may take before it counts as hung.
const PATIENCE: Duration = Duration::from_mins(1);

/// A machine, what is outside of it, and what is known of both.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) disks: Disks,
    pub(crate) outside: Outside,
    pub(crate) oracle: Oracle,
    pub(crate) clock: JumpingClock,
    pub(crate) processes: u64,
}

/// What all callers of a round write down.
#[derive(Clone, Default)]
struct Notebook {
    notes: Arc<Mutex<Vec<Note>>>,
    callers: Arc<AtomicUsize>,
    /// Whether the journal fails under what is written down here.
    sync_fails: bool,
}

/// One caller's page.
struct Page {
    book: Notebook,
    caller: usize,
    slot: Slot,
    work: Work,
}

impl Notebook {
    fn page(&self, slot: Slot, work: Work) -> Page {
        let page = Page {
            book: self.clone(),
            caller: self.callers.fetch_add(1, Ordering::Relaxed),
            slot,
            work,
        };
        page.write(Seen::Began);
        page
    }

    fn read(&self) -> Vec<Note> {
        self.notes.lock().unwrap().clone()
    }
}

impl Page {
    fn write(&self, seen: Seen) {
        self.book.notes.lock().unwrap().push(Note {
            caller: self.caller,
            slot: self.slot.clone(),
            work: self.work.clone(),
            seen,
        });
    }

    fn replied<T: Into<Outputs>>(&self, reply: Result<Reply<T>, SubmitError>) {
        let reply = reply.map(|reply| (reply.output.into().0, reply.origin));
        // What the engine's end interrupts may have happened or not.
        if matches!(reply, Err(SubmitError::Interrupted { .. })) {
            return;
        }
        let unresolved = matches!(
            reply,
            Err(SubmitError::Unresolved { .. } | SubmitError::Unavailable(Unavailable::Poisoned))
        );
        if unresolved && self.book.sync_fails {
            return;
        }
        self.write(Seen::Replied(reply));
        self.write(Seen::Ended);
    }
}

/// The output of any work.
struct Outputs(Vec<u64>);

impl From<u64> for Outputs {
    fn from(output: u64) -> Self {
        Self(vec![output])
    }
}

impl From<Vec<u64>> for Outputs {
    fn from(outputs: Vec<u64>) -> Self {
        Self(outputs)
    }
}

fn key_of(slot: &Slot) -> Option<Key> {
    match &slot.key {
        KeyOf::Named(key) => Some(Key::named(&format!("key {key}"))),
        KeyOf::Derived(_) => None,
    }
}

pub(crate) async fn tenant_of(engine: &Engine, tenant: u8) -> Result<Tenant, TenantError> {
    engine.tenant(&format!("tenant {tenant}")).await
}

fn slot_of(op: &Op, work: &Work) -> Slot {
    let key = match (op.key, work) {
        (None, Work::Worth(name)) => KeyOf::Derived(name.clone()),
        (key, _) => KeyOf::Named(key.unwrap_or_default()),
    };
    Slot {
        tenant: op.tenant,
        key,
    }
}

/// One caller.
async fn play(engine: Engine, op: Op, book: Notebook) {
    let Ok(tenant) = tenant_of(&engine, op.tenant).await else {
        return;
    };
    match &op.task {
        Task::Ephemeral(name) => ephemeral(&tenant, op.key, name, book.sync_fails).await,
        Task::Batch(names) => batch(&tenant, op.tenant, names, &book).await,
        Task::Submit(work) => {
            let page = book.page(slot_of(&op, work), work.clone());
            submit(&tenant, &page).await;
        }
        Task::Abandon(work) => {
            let page = book.page(slot_of(&op, work), work.clone());
            // One poll enters; dropping what it was leaves.
            let _ = submit(&tenant, &page).now_or_never();
        }
        Task::Enqueue(work, then) => {
            let page = book.page(slot_of(&op, work), work.clone());
            enqueue(&tenant, &page, *then).await;
        }
    }
}

async fn ephemeral(tenant: &Tenant, key: Option<u8>, name: &str, sync_fails: bool) {
    let key = Key::named(&format!("key {}", key.unwrap_or_default()));
    let submission = tenant.submit(Worth, name).key(key).ephemeral();
    match submission.await {
        Ok(reply) => {
            assert_eq!(reply.output, worth(name));
            assert_ne!(
                reply.origin,
                Origin::Replayed,
                "an ephemeral outcome was kept"
            );
        }
        Err(SubmitError::Exhausted(_) | SubmitError::Failed(_)) => {}
        // Two callers with two names under one key, at once.
        Err(SubmitError::Conflict { .. } | SubmitError::Interrupted { .. }) => {}
        Err(SubmitError::Unavailable(Unavailable::Poisoned)) if sync_fails => {}
        Err(error) => panic!("ephemeral {name}: {error}"),
    }
}

async fn batch(tenant: &Tenant, number: u8, names: &[String], book: &Notebook) {
    let pages: Vec<Page> = names
        .iter()
        .map(|name| {
            let slot = Slot {
                tenant: number,
                key: KeyOf::Derived(name.clone()),
            };
            book.page(slot, Work::Worth(name.clone()))
        })
        .collect();
    let replies = tenant
        .submit_batch(Worth, names.iter().map(String::as_str))
        .await
        .unwrap();
    assert_eq!(replies.len(), names.len());
    for (page, reply) in pages.iter().zip(replies) {
        page.replied(reply);
    }
}

async fn submit(tenant: &Tenant, page: &Page) {
    match (&page.work, key_of(&page.slot)) {
        (Work::Worth(name), None) => page.replied(tenant.submit(Worth, name.as_str()).await),
        (Work::Worth(name), Some(key)) => {
            page.replied(tenant.submit(Worth, name.as_str()).key(key).await);
        }
        (Work::Put(name), Some(key)) => {
            page.replied(tenant.submit(Put, name.as_str()).key(key).await);
        }
        (Work::Chain(_), Some(_)) => enqueue(tenant, page, Then::Await).await,
        (Work::Put(_) | Work::Chain(_), None) => unreachable!("these have keys"),
    }
}

async fn enqueue(tenant: &Tenant, page: &Page, then: Then) {
    match (&page.work, key_of(&page.slot)) {
        (Work::Worth(name), None) => {
            ticket(tenant.enqueue(Worth, name.as_str()).await, page, then).await;
        }
        (Work::Worth(name), Some(key)) => {
            let ticketed = tenant.enqueue(Worth, name.as_str()).key(key).await;
            ticket(ticketed, page, then).await;
        }
        (Work::Put(name), Some(key)) => {
            let ticketed = tenant.enqueue(Put, name.as_str()).key(key).await;
            ticket(ticketed, page, then).await;
        }
        (Work::Chain(plan), Some(key)) => {
            let started = tenant.start::<Chain>(key, Plan::clone(plan)).await;
            saga_ticket(started, page, then).await;
        }
        (Work::Put(_) | Work::Chain(_), None) => unreachable!("these have keys"),
    }
}

async fn ticket(ticketed: Result<Ticket<u64>, SubmitError>, page: &Page, then: Then) {
    let ticket = match ticketed {
        Ok(ticket) => ticket,
        Err(error) => return page.replied::<u64>(Err(error)),
    };
    page.write(Seen::Accepted);
    match then {
        Then::Leave => {}
        Then::Await => page.replied(ticket.await),
        Then::Cancel => {
            page.write(Seen::Cancelled(ticket.cancel()));
            page.replied(ticket.await);
        }
    }
}

async fn saga_ticket(started: Result<SagaTicket<Vec<u64>>, SubmitError>, page: &Page, then: Then) {
    let ticket = match started {
        Ok(ticket) => ticket,
        Err(error) => return page.replied::<Vec<u64>>(Err(error)),
    };
    page.write(Seen::Accepted);
    match then {
        Then::Leave => {}
        Then::Await => page.replied(ticket.await),
        Then::Cancel => {
            match ticket.cancel().await {
                Err(CancelError::NotRecorded { .. }) if page.book.sync_fails => {}
                cancelled => page.write(Seen::SagaCancelled(cancelled)),
            }
            page.replied(ticket.await);
        }
    }
}

/// Runs callers at once until all have ended or the power is off; true if all have ended.
pub(crate) fn together(
    callers: Vec<BoxFuture<'_, ()>>,
    off: &mut oneshot::Receiver<()>,
    engine: &Engine,
) -> bool {
    let (hung, is_hung) = oneshot::channel::<()>();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if is_done.recv_timeout(PATIENCE).is_err() {
            let _ = hung.send(());
        }
    });
    let ended = select(join_all(callers), select(off, is_hung));
    let all = match pollster::block_on(ended) {
        Either::Left(_) => true,
        Either::Right((Either::Left(_), _)) => false,
        Either::Right((Either::Right(_), _)) => panic!("hung: {:?}", engine.snapshot()),
    };
    let _ = done.send(());
    watch.join().unwrap();
    all
}

impl World {
    /// Opens an engine as a process of its own.
    pub(crate) fn open(&mut self, shape: Shape) -> Result<Engine, orlop::OpenError> {
        self.processes += 1;
        let view = self.outside.view(self.processes);
        let clock = Arc::new(self.clock.clone());
        self.disks.open(shape, |builder| {
            builder
                .clock(clock)
                .pure(Worth, view.clone())
                .external(Put, view.clone())
                .undo(Remove, view.clone())
                .saga(Chain)
                .saga(Racer)
        })
    }

    /// The machine crashes and has power again.
    pub(crate) fn crash(&mut self, seed: u64, lingers: bool) {
        if !lingers {
            self.outside.kill(self.processes);
        }
        self.disks = self.disks.crash(seed);
    }

    /// Lives one life, and crashes whatever its end was.
    pub(crate) fn live(&mut self, life: &Life) {
        let shape = life.shape;
        for (fault, seed) in life.faults.iter().zip(life.seed..) {
            self.faulty_opening(shape, *fault, seed);
        }
        let engine = self.open(shape).unwrap();
        let mut off = self.disks.power_off();
        match life.end {
            End::PowerOff { groups } => self.disks.log.power_off_after(groups),
            End::SyncFails { groups } => self.disks.log.fail_sync_after(groups),
            End::Close | End::Drop => {}
        }
        let sync_fails = matches!(life.end, End::SyncFails { .. });
        for round in &life.rounds {
            if !self.round(&engine, round, &mut off, !life.lingers, sync_fails) {
                break;
            }
        }
        match life.end {
            End::Close => close(&engine),
            End::Drop | End::PowerOff { .. } | End::SyncFails { .. } => {}
        }
        if !life.lingers {
            self.outside.kill(self.processes);
        }
        drop(engine);
        self.crash(life.seed, life.lingers);
    }

    /// Runs callers at once and compares; false once the power is off.
    pub(crate) fn round(
        &mut self,
        engine: &Engine,
        ops: &[Op],
        off: &mut oneshot::Receiver<()>,
        counts: bool,
        sync_fails: bool,
    ) -> bool {
        let book = Notebook {
            sync_fails,
            ..Notebook::default()
        };
        let mut callers: Vec<BoxFuture<'_, ()>> = Vec::new();
        for op in ops {
            for (name, weather) in &op.weather {
                self.outside.forecast(name, weather);
            }
            if let Task::Ephemeral(name) = &op.task {
                self.oracle.uncounted(name);
            }
            callers.push(play(engine.clone(), op.clone(), book.clone()).boxed());
        }
        let all = together(callers, off, engine);
        self.oracle
            .digest(&book.read(), &self.outside, counts && all);
        all
    }

    pub(crate) fn faulty_opening(&mut self, shape: Shape, fault: Fault, seed: u64) {
        match fault {
            Fault::Sync => self.disks.log.fail_sync_after(0),
            Fault::Disk { operations } => self.disks.disk.power_off_after(operations),
            Fault::Tables { operations } => self.disks.shelf.fail_after(operations),
            Fault::Power => {}
        }
        // It opens or it does not; in either case the machine crashes at once.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| self.open(shape))).unwrap();
        self.outside.kill(self.processes);
        drop(opened);
        self.crash(seed, false);
    }

    /// Brings every key to its end and compares; then once more, with everything only replayed.
    pub(crate) fn conclude(&mut self, seed: u64) {
        let shape = Shape::AMPLE;
        let engine = self.open(shape).unwrap();
        let mut off = self.disks.power_off();
        for (slot, truth) in self.oracle.truths() {
            let works: Vec<Work> = match truth {
                Truth::Free => continue,
                Truth::Maybe(works) => works.into_iter().collect(),
                Truth::Accepted(work) | Truth::Settled(work, _) => vec![work, other(&slot)],
            };
            for work in works {
                self.resubmit(&engine, &slot, &work, &mut off);
            }
        }
        close(&engine);
        drop(engine);
        self.oracle.check_outside(&self.outside);
        self.crash(seed, false);
        let engine = self.open(shape).unwrap();
        let recovery = engine.recovery();
        assert_eq!((recovery.effects, recovery.sagas), (0, 0));
        let mut off = self.disks.power_off();
        for (slot, truth) in self.oracle.truths() {
            if let Truth::Settled(work, _) = truth {
                self.resubmit(&engine, &slot, &work, &mut off);
                self.resubmit(&engine, &slot, &other(&slot), &mut off);
            }
        }
        close(&engine);
        self.oracle.check_outside(&self.outside);
    }

    fn resubmit(
        &mut self,
        engine: &Engine,
        slot: &Slot,
        work: &Work,
        off: &mut oneshot::Receiver<()>,
    ) {
        if matches!((&slot.key, work), (KeyOf::Derived(name), Work::Worth(work)) if name != work) {
            return;
        }
        // A weather that was never met may make an attempt fail: it is tried until it does not.
        for _ in 0..16 {
            let book = Notebook::default();
            let again = async {
                let tenant = tenant_of(engine, slot.tenant).await.unwrap();
                let page = book.page(slot.clone(), work.clone());
                submit(&tenant, &page).await;
            };
            assert!(together(vec![again.boxed()], off, engine));
            let notes = book.read();
            self.oracle.digest(&notes, &self.outside, true);
            let exhausted = notes
                .iter()
                .any(|note| matches!(note.seen, Seen::Replied(Err(SubmitError::Exhausted(_)))));
            if !exhausted {
                return;
            }
        }
        panic!("{slot:?} {work:?} never ends");
    }
}

/// Something that a key does not stand for.
fn other(slot: &Slot) -> Work {
    Work::Worth(format!("another than {} {:?}", slot.tenant, slot.key))
}

/// Closes, after which no permit is held.
pub(crate) fn close(engine: &Engine) {
    engine.blocking().close().unwrap();
    let snapshot = engine.snapshot();
    for bulkhead in &snapshot.bulkheads {
        for lane in [&bulkhead.ordinary, &bulkhead.reserved] {
            let held = (lane.in_flight, lane.queued, lane.slots);
            assert_eq!(held, (0, 0, 0), "{}", bulkhead.name);
        }
    }
    assert!(snapshot.store.projector.is_none(), "{:?}", snapshot.store);
}
