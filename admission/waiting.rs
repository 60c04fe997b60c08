//! Waiting rooms: where accepted work waits that its bulkhead refuses for now.
//!
//! In front of each bulkhead there is a line for each (tenant, class), and payer where budgets are
//! asked for. Whoever is first in it is asked for again when what it was refused for may have
//! lifted: something was given back, time has passed, the tenant was changed, a budget was raised.
//! Nothing is polled.
//!
//! Invariants
//! - FIFO within a line: only its head is asked for, and what the bulkhead gives back (it was
//!   suspended while it queued) takes its old place again.
//! - No lost wake-up: a place is counted before it is asked for, and whoever gives something back
//!   looks at the count after it has; one of the two sees the other.
//! - No barging: while a line is blocked, later requests of its tenant and class are refused as
//!   its head was.
//! - A grantee hears once, and not at all once its place was cancelled.
//! - The room's lock is taken with no other lock held, but for the bulkhead's and the ledger's
//!   never being taken inside it; grantees are called without it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};

use orlop_saga::id::TenantId;
use orlop_saga::tenant::AuditTag;
use orlop_saga::time::{Clock, Monotonic};

use crate::bulkhead::{Acquired, Alarm, Bulkhead, Core};
use crate::held::{BulkheadId, Unheld};
use crate::lift::Lift;
use crate::line::{Blocked, Line, LineKey, Lines};
use crate::outbox::{Delivery, Outbox};
use crate::permit::Permit;
use crate::refusal::{Refusal, Scope};
use crate::request::{Grantee, Request};
use crate::sync::{Mutex, MutexGuard};
use crate::ticket::QueueTicket;

/// Whoever waits for a permit however long it takes.
pub trait Patient: Grantee {
    /// What it asks for: the same tenant, lane and class every time.
    fn request(&self) -> Request<'_>;

    /// The bulkhead was asked; it waits for `refusal` to pass, if there is one. With no lock held.
    fn answered(&self, refusal: Option<&Refusal>) {
        let _ = refusal;
    }
}

/// How far a place has come.
enum Stage {
    /// It waits in its line.
    Listed,
    /// It is the head, and the bulkhead is being asked.
    Asking,
    /// It waits in the bulkhead's queue.
    Queued(QueueTicket),
    /// It was granted, refused for good or cancelled.
    Over,
}

/// One that waits.
pub(crate) struct Place {
    room: Weak<Shared>,
    key: LineKey,
    serial: u64,
    patient: Arc<dyn Patient>,
    /// Only looked at under the room's lock.
    stage: Mutex<Stage>,
}

struct State {
    lines: Lines,
    serial: u64,
    closed: bool,
    /// How often something was given back.
    freed: u64,
    /// When the alarm was asked to ring.
    armed: Option<Monotonic>,
}

pub(crate) struct Shared {
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    places_max: usize,
    /// Places in lines.
    places: AtomicUsize,
    state: Mutex<State>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct WaitingRoom {
    shared: Arc<Shared>,
}

/// A place in a waiting room. Dropping it changes nothing; clones name the same place.
#[derive(Clone)]
pub struct WaitingTicket {
    place: Arc<Place>,
}

impl WaitingRoom {
    /// A room for up to `places_max` that wait. `alarm` is told when [`Self::ring`] is to be
    /// called, if it is to be called earlier than it was told before.
    pub fn new(places_max: usize, clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                alarm,
                places_max,
                places: AtomicUsize::new(0),
                state: Mutex::new(State {
                    lines: Lines::default(),
                    serial: 0,
                    closed: false,
                    freed: 0,
                    armed: None,
                }),
            }),
        }
    }

    /// Has `bulkhead` tell this room when something in it is given back. To be called once, before
    /// anything waits.
    pub fn serve(&self, bulkhead: &Bulkhead) {
        bulkhead.served_by(&self.shared);
    }

    /// Has `patient` wait for a permit, behind those of its tenant and class that wait already. It
    /// is called on another thread maybe before this returns.
    ///
    /// # Errors
    /// [`Refusal::QueueFull`] if the room is full, [`Refusal::Draining`] if it is closed: it does
    /// not wait and is not called.
    pub fn wait(
        &self,
        bulkhead: &Bulkhead,
        patient: Arc<dyn Patient>,
    ) -> Result<WaitingTicket, Refusal> {
        let shared = &self.shared;
        let key = LineKey::of(bulkhead.id(), &patient.request());
        let mut state = shared.state.lock();
        if state.closed {
            let scope = Scope::Bulkhead;
            return Err(Refusal::Draining { scope });
        }
        let places = shared.places.load(Ordering::Relaxed);
        if places >= shared.places_max {
            let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
            return Err(Refusal::QueueFull {
                scope: Scope::Bulkhead,
                queued: number(places),
                queued_max: number(shared.places_max),
            });
        }
        state.serial = state.serial.wrapping_add(1);
        let place = Arc::new(Place {
            room: Arc::downgrade(shared),
            key,
            serial: state.serial,
            patient,
            stage: Mutex::new(Stage::Listed),
        });
        let line = state.lines.get_or_new(key, bulkhead.core());
        line.places.insert(place.serial, Arc::clone(&place));
        // Its head waits for something that is watched for already.
        let behind = line.blocked.is_some();
        shared.places.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        drop(state);
        if !behind {
            shared.pump(key);
        }
        Ok(WaitingTicket { place })
    }

    /// Why `request` would overtake, if it would: what the head of its line was refused for.
    pub fn check(&self, bulkhead: &Bulkhead, request: &Request<'_>) -> Option<Refusal> {
        if self.shared.places.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = self.shared.clock.monotonic();
        let key = LineKey::of(bulkhead.id(), request);
        let mut state = self.shared.state.lock();
        let blocked = state.lines.get(key)?.blocked.as_ref()?;
        Some(match (&blocked.refusal, blocked.at) {
            (Refusal::RateLimited { .. }, Some(at)) => Refusal::RateLimited {
                retry_after: at.since(now),
            },
            (refusal, _) => refusal.clone(),
        })
    }

    /// The tenant was changed: resumed, revoked, given other quotas.
    pub fn changed(&self, tenant: TenantId) {
        let keys = self.shared.state.lock().lines.of_tenant(tenant, |_| true);
        for key in keys {
            self.shared.pump(key);
        }
    }

    /// Something came into the purse of `audit`, or it has one now.
    pub fn budget_changed(&self, audit: AuditTag) {
        let shared = &self.shared;
        if !shared.is_waited_in() {
            return;
        }
        let keys = {
            let mut state = shared.state.lock();
            // Whoever is being asked for may be refused for what is there now.
            state.freed = state.freed.wrapping_add(1);
            state.lines.of_purse(audit)
        };
        for key in keys {
            shared.pump(key);
        }
    }

    /// Something changed that may let anybody pass.
    pub fn all_changed(&self) {
        let keys = self.shared.state.lock().lines.keys();
        for key in keys {
            self.shared.pump(key);
        }
    }

    /// Asks again for those whose time has come.
    pub fn ring(&self) {
        let shared = &self.shared;
        let now = shared.clock.monotonic();
        loop {
            let mut state = shared.state.lock();
            if state.armed.is_some_and(|at| at <= now) {
                state.armed = None;
            }
            let Some(key) = state.lines.take_alarm(now) else {
                shared.arm(state);
                return;
            };
            drop(state);
            shared.pump(key);
        }
    }

    /// Lets nobody wait any more: who does is refused, as the bulkheads' drains refuse.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let places = state.lines.take_all();
        self.shared.places.store(0, Ordering::SeqCst);
        let mut outbox = Outbox::default();
        for place in places {
            if !place.end() {
                continue;
            }
            let scope = Scope::Bulkhead;
            let grantee: Arc<dyn Grantee> = Arc::<dyn Patient>::clone(&place.patient);
            outbox.push(Delivery::Refuse(grantee, Refusal::Draining { scope }));
        }
        drop(state);
        outbox.deliver();
    }

    /// How many wait in lines, and not in a bulkhead's queue.
    pub fn len(&self) -> usize {
        self.shared.places.load(Ordering::SeqCst)
    }

    /// Whether nobody waits in a line.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for WaitingRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingRoom")
            .field("places", &self.len())
            .field("places_max", &self.shared.places_max)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Whether somebody waits in a line. To be asked after something was given back.
    pub(crate) fn is_waited_in(&self) -> bool {
        // With the count in `wait`: either it is seen here, or what was given back is seen there.
        fence(Ordering::SeqCst);
        self.places.load(Ordering::SeqCst) > 0
    }

    /// Something of `tenant` was given back in a bulkhead.
    pub(crate) fn freed(self: &Arc<Self>, bulkhead: BulkheadId, tenant: TenantId) {
        let turns = {
            let mut state = self.state.lock();
            // Whoever is being asked for may be refused for what is there now.
            state.freed = state.freed.wrapping_add(1);
            state.lines.turns(bulkhead)
        };
        // In turn, and before the tenant whose work has ended: or it would take every place that
        // it leaves. Who is asked for by another thread is passed over: that one asks again.
        let mut after = None;
        for _ in 0..turns {
            let next = self.state.lock().lines.next_of(bulkhead, after);
            let Some((turn, key)) = next else {
                break;
            };
            after = Some(turn);
            self.pump(key);
            let mut state = self.state.lock();
            let line = state.lines.get(key).filter(|line| !line.asking);
            let blocked = line.and_then(|line| line.blocked.as_ref());
            if blocked.is_some_and(Blocked::is_for_all) {
                break;
            }
        }
        let (keys, poorest) = {
            let state = self.state.lock();
            let keys = state.lines.of_tenant(tenant, Line::waits_for_tenant);
            (keys, state.lines.poorest(bulkhead))
        };
        // What ended may have shown that a budget covers more than was thought: one at a time.
        for key in keys.into_iter().chain(poorest) {
            self.pump(key);
        }
    }

    /// Asks for the head of a line, and for the next, until one is refused.
    fn pump(self: &Arc<Self>, key: LineKey) {
        {
            let mut state = self.state.lock();
            let Some(line) = state.lines.get(key) else {
                return;
            };
            line.again = true;
            if line.asking {
                return;
            }
            line.asking = true;
        }
        // What is asked here is not asked by the work that this thread may be in.
        let _unheld = Unheld::enter();
        while let Some((bulkhead, place)) = self.next(key) {
            let grantee: Arc<dyn Grantee> = Arc::<Place>::clone(&place);
            let request = place.patient.request();
            let asked = bulkhead.acquire(&request, &mut Some(|| grantee));
            self.answered(&place, asked);
        }
    }

    /// The head of a line, if it is to be asked for now.
    fn next(&self, key: LineKey) -> Option<(Arc<Core>, Arc<Place>)> {
        let mut state = self.state.lock();
        let freed = state.freed;
        let line = state.lines.get(key)?;
        let missed = line.asked_at != freed && line.waits_for_room();
        if line.blocked.is_some() && !line.again && !missed {
            line.asking = false;
            return None;
        }
        line.again = false;
        line.asked_at = freed;
        let head = line.head().cloned().zip(line.bulkhead.upgrade());
        let Some((place, bulkhead)) = head else {
            let places = line.places.len();
            self.places.fetch_sub(places, Ordering::SeqCst);
            state.lines.forget(key);
            return None;
        };
        *place.stage.lock_nested() = Stage::Asking;
        Some((bulkhead, place))
    }

    /// Books what the bulkhead said about the head of a line.
    fn answered(&self, place: &Arc<Place>, asked: Result<Acquired, Refusal>) {
        let mut outbox = Outbox::default();
        let mut state = self.state.lock();
        let mut stage = place.stage.lock_nested();
        let before = std::mem::replace(&mut *stage, Stage::Over);
        let is_over = matches!(before, Stage::Over);
        let grantee: Arc<dyn Grantee> = Arc::<dyn Patient>::clone(&place.patient);
        let mut unwanted = None;
        match asked {
            Ok(Acquired::Granted(permit)) if is_over => unwanted = Some(Acquired::Granted(permit)),
            Ok(Acquired::Granted(permit)) => outbox.push(Delivery::Grant(grantee, permit)),
            Ok(Acquired::Queued(ticket)) if is_over => unwanted = Some(Acquired::Queued(ticket)),
            Ok(Acquired::Queued(_)) if matches!(before, Stage::Listed) => {
                // Swept out of the queue again in the meantime: it is in its place still.
                *stage = before;
            }
            Ok(Acquired::Queued(ticket)) => *stage = Stage::Queued(ticket),
            Err(_) if is_over => {}
            Err(refusal) => match refusal.lift() {
                None => outbox.push(Delivery::Refuse(grantee, refusal)),
                Some(lift) => {
                    *stage = Stage::Listed;
                    drop(stage);
                    self.block(state, place.key, refusal.clone(), lift);
                    place.patient.answered(Some(&refusal));
                    return;
                }
            },
        }
        let stays = matches!(*stage, Stage::Listed);
        drop(stage);
        if let Some(line) = state.lines.get(place.key) {
            line.blocked = None;
            if !stays {
                self.unlist(line, place.serial);
            }
        }
        drop(state);
        match unwanted {
            None => {}
            Some(Acquired::Granted(permit)) => drop(permit),
            Some(Acquired::Queued(ticket)) => {
                let _ = ticket.cancel();
            }
        }
        place.patient.answered(None);
        outbox.deliver();
    }

    fn unlist(&self, line: &mut Line, serial: u64) {
        if line.places.remove(&serial).is_some() {
            self.places.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn block(&self, mut state: MutexGuard<'_, State>, key: LineKey, refusal: Refusal, lift: Lift) {
        let at = match lift {
            Lift::After(wait) => Some(self.clock.monotonic().after(wait)),
            Lift::Bulkhead | Lift::Tenant | Lift::Command | Lift::Budget(_) => None,
        };
        state.lines.block(key, Blocked { refusal, lift, at });
        self.arm(state);
    }

    /// Sees to it that the alarm rings for whoever waits for time to pass.
    fn arm(&self, mut state: MutexGuard<'_, State>) {
        let Some(next) = state.lines.next_alarm() else {
            return;
        };
        if state.armed.is_some_and(|at| at <= next) {
            return;
        }
        state.armed = Some(next);
        drop(state);
        self.alarm.earlier(next);
    }
}

impl Place {
    /// It hears no more; false if it has heard. Called under the room's lock.
    fn end(&self) -> bool {
        let before = std::mem::replace(&mut *self.stage.lock_nested(), Stage::Over);
        !matches!(before, Stage::Over)
    }
}

impl Grantee for Place {
    fn granted(self: Arc<Self>, permit: Permit) {
        let wanted = match self.room.upgrade() {
            Some(room) => {
                let _state = room.state.lock();
                self.end()
            }
            None => self.end(),
        };
        if wanted {
            Arc::<dyn Patient>::clone(&self.patient).granted(permit);
        }
    }

    fn refused(self: Arc<Self>, refusal: Refusal) {
        let room = self.room.upgrade();
        let Some((room, _)) = room.zip(refusal.lift()) else {
            let wanted = match self.room.upgrade() {
                Some(room) => {
                    let _state = room.state.lock();
                    self.end()
                }
                None => self.end(),
            };
            if wanted {
                Arc::<dyn Patient>::clone(&self.patient).refused(refusal);
            }
            return;
        };
        let mut state = room.state.lock();
        if state.closed {
            let wanted = self.end();
            drop(state);
            if wanted {
                Arc::<dyn Patient>::clone(&self.patient).refused(refusal);
            }
            return;
        }
        let mut stage = self.stage.lock_nested();
        let core = match std::mem::replace(&mut *stage, Stage::Listed) {
            Stage::Over => {
                *stage = Stage::Over;
                return;
            }
            Stage::Queued(ticket) => Some(ticket.into_core()),
            // It is in its line still.
            Stage::Asking | Stage::Listed => None,
        };
        drop(stage);
        if let Some(core) = &core {
            let line = state.lines.get_or_new(self.key, core);
            if line.places.insert(self.serial, Arc::clone(&self)).is_none() {
                room.places.fetch_add(1, Ordering::SeqCst);
            }
        }
        drop(state);
        // Also where the line is blocked: it may be its head now.
        room.pump(self.key);
    }
}

impl WaitingTicket {
    /// Gives the place up, wherever it is. `true`: the grantee will never be called. `false`: it
    /// was called, or is about to be.
    pub fn cancel(&self) -> bool {
        let place = &self.place;
        let Some(room) = place.room.upgrade() else {
            return place.end();
        };
        let mut state = room.state.lock();
        let before = std::mem::replace(&mut *place.stage.lock_nested(), Stage::Over);
        match before {
            Stage::Over => false,
            // Whoever asks for it finds it over.
            Stage::Asking => true,
            Stage::Queued(ticket) => {
                drop(state);
                let _ = ticket.cancel();
                true
            }
            Stage::Listed => {
                let mut was_head = false;
                if let Some(line) = state.lines.get(place.key) {
                    was_head = line.head().is_some_and(|head| Arc::ptr_eq(head, place));
                    room.unlist(line, place.serial);
                }
                drop(state);
                if was_head {
                    room.pump(place.key);
                }
                true
            }
        }
    }
}

impl fmt::Debug for WaitingTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingTicket")
            .field("line", &self.place.key)
            .finish_non_exhaustive()
    }
}
