//! Entering the key table: run, join, replay or conflict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::mapref::entry::Entry;
use orlop_admission::{Refusal, TenantAccount};
use orlop_saga::effect::{Effect, EffectId, Request};
use orlop_saga::id::{Lsn, SagaId};
use orlop_saga::key::Fingerprint;
use orlop_saga::saga::SagaStart;
use orlop_saga::time::Monotonic;
use tokio::sync::oneshot;

use super::progress::{Counted, Entry as Counting};
use super::record::acceptances;
use super::wait::{self, Letter, Mailbox, Waiters};
use super::{Arrival, Durability, Flight, Intent, Phase, Plain, State, Subject};
use crate::core::Core;
use crate::course::Course;
use crate::driver::Birth;
use crate::error::SubmitError;
use crate::executor::Action;
use crate::halfway;
use crate::lease::Bounds;
use crate::options::RetryPolicy;
use crate::registry::Code;

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The outcome.
    Outcome,
    /// The promise that there will be one.
    Acceptance,
}

/// What is submitted under a key.
#[derive(Clone)]
pub(crate) enum Work {
    /// A computation.
    Effect {
        request: Box<Request>,
        code: Arc<Code>,
        retry: RetryPolicy,
        bounds: Bounds,
    },
    /// A saga.
    Saga(Box<Birth>),
}

impl Work {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Effect { request, .. } => request.fingerprint,
            Self::Saga(birth) => birth.start.fingerprint,
        }
    }

    pub(super) fn retention_ms(&self) -> u64 {
        match self {
            Self::Effect { request, .. } => request.retention_ms,
            Self::Saga(birth) => birth.start.retention_ms,
        }
    }
}

/// One submission on its way in.
pub(crate) struct Entrance {
    pub(crate) id: EffectId,
    pub(crate) account: Arc<TenantAccount>,
    pub(crate) durability: Durability,
    pub(crate) work: Work,
    /// When the caller stops waiting for the outcome.
    pub(crate) deadline: Option<Monotonic>,
}

/// A caller's place at a flight. Dropping it leaves.
pub(crate) struct Seat {
    pub(crate) flight: Arc<Flight>,
    pub(crate) joined: bool,
    pub(crate) outcome: Mailbox,
    pub(crate) acceptance: Option<Mailbox>,
    pub(super) numbers: [Option<u64>; 2],
}

impl Drop for Seat {
    fn drop(&mut self) {
        for number in self.numbers.into_iter().flatten() {
            self.flight.leave(number);
        }
    }
}

impl Core {
    /// Enters the key table.
    pub(crate) fn enter(
        self: &Arc<Self>,
        entrance: Entrance,
        want: Want,
    ) -> Result<Seat, SubmitError> {
        self.check_open()?;
        self.check_tenant(&entrance)?;
        let mut entrance = entrance;
        loop {
            let nested = self.nested(&entrance.work);
            let (seat, found) = match self.table(entrance.durability).entry(entrance.id) {
                Entry::Occupied(occupied) => {
                    let flight = Arc::clone(occupied.get());
                    drop(occupied);
                    match flight.join(self, &entrance, want, nested)? {
                        Some(seat) => return Ok(seat),
                        // It was just leaving the table; look again.
                        None => continue,
                    }
                }
                Entry::Vacant(vacant) => {
                    // Counted first: whoever drains the tenant cannot look past it.
                    let counted = Counting::new(&entrance.account);
                    let known = match self.check_entry(&entrance) {
                        Ok(known) => known,
                        Err(error) => {
                            drop((vacant, counted));
                            self.tenures.stir(entrance.id.tenant);
                            return Err(error);
                        }
                    };
                    let flight = Arc::new(Flight::new(self, &entrance, known, counted));
                    if let Some(plain) = flight.state.lock().plain() {
                        plain.nested = nested;
                    }
                    let seat = flight.seat(&entrance, want, false);
                    vacant.insert(flight);
                    self.count_in(&entrance.account);
                    (seat, known)
                }
            };
            let flight = Arc::clone(&seat.flight);
            let work = &mut entrance.work;
            if found {
                let waiting = Arc::clone(&flight);
                let birth = match work {
                    Work::Saga(birth) => Some(birth.clone()),
                    Work::Effect { .. } => None,
                };
                self.store.lookup(
                    entrance.id,
                    Box::new(move |row| waiting.looked_up(row, birth)),
                );
            } else {
                let birth = match work {
                    Work::Saga(birth) => Some(birth.clone()),
                    Work::Effect { .. } => None,
                };
                flight.begin(self, birth);
            }
            if self.has_ended() {
                // Whoever ended the engine may have looked at the table before this was in it.
                flight.interrupt();
            }
            return Ok(seat);
        }
    }

    /// Whether something that is not in the table may enter it, and if so, whether the tables may
    /// have its outcome.
    fn check_entry(&self, entrance: &Entrance) -> Result<bool, SubmitError> {
        // Again: nothing may enter once a drain has returned.
        self.check_tenant(entrance)?;
        self.check_room(entrance)?;
        if entrance.durability == Durability::Ephemeral {
            return Ok(false);
        }
        let known = self.store.maybe_retained(entrance.id);
        if !known {
            self.check_retained(&entrance.account)?;
        }
        Ok(known)
    }

    /// Whether the tenant may submit this.
    fn check_tenant(&self, entrance: &Entrance) -> Result<(), SubmitError> {
        let account = &entrance.account;
        let executor = &self.executor;
        let allowed = || match &entrance.work {
            Work::Effect { request, code, .. } => executor.check_code(account, code, request.audit),
            // What its steps run is asked about one by one.
            Work::Saga(birth) => account.check_engagement(birth.start.audit),
        };
        account.check().and_then(|()| allowed()).map_err(|refusal| {
            self.executor.audit.refused(entrance.id.tenant, &refusal);
            SubmitError::Refused(refusal)
        })
    }

    /// Whether the caller runs under a permit of the bulkhead that the work would wait for.
    fn nested(&self, work: &Work) -> Option<Refusal> {
        match work {
            Work::Effect { request, code, .. } => self.executor.is_nested(&Action::Run {
                code: Arc::clone(code),
                input: request.input.clone(),
            }),
            Work::Saga(_) => None,
        }
    }
}

impl Subject {
    pub(super) fn of(core: &Core, work: &Work) -> Self {
        match work {
            Work::Effect {
                request,
                code,
                retry,
                bounds,
            } => Subject::Effect(Box::new(Plain {
                request: Request::clone(request),
                code: Arc::clone(code),
                course: core.course(code, *retry),
                fence: core.fence_before(),
                fresh: true,
                records: code.external,
                cancelled: false,
                nested: None,
                counted: false,
                refusals: 0,
                bounds: *bounds,
            })),
            Work::Saga(birth) => Subject::Saga {
                fingerprint: birth.start.fingerprint,
                id: SagaId::default(),
            },
        }
    }
}

impl Flight {
    fn new(core: &Arc<Core>, entrance: &Entrance, looking: bool, counted: Counting) -> Self {
        let subject = Subject::of(core, &entrance.work);
        Self {
            core: Arc::downgrade(core),
            id: entrance.id,
            account: Arc::clone(&entrance.account),
            cancel: Arc::new(AtomicBool::new(false)),
            state: Counted::new(
                counted,
                State {
                    phase: if looking {
                        Phase::Looking
                    } else {
                        Phase::Admitting(None)
                    },
                    subject,
                    durability: entrance.durability,
                    intent: Intent::None,
                    waiters: Waiters::default(),
                    retention_ms: entrance.work.retention_ms(),
                    settled_at: Lsn::default(),
                    withdrawal: None,
                    farewell: None,
                    rivals: Vec::new(),
                    journaled: None,
                    round: 0,
                    asked: None,
                },
            ),
        }
    }

    /// A flight found unfinished at open: nobody waits for it yet.
    pub(crate) fn recovered(
        core: &Arc<Core>,
        id: EffectId,
        account: Arc<TenantAccount>,
        effect: Effect,
        code: Arc<Code>,
        course: Course,
    ) -> Arc<Self> {
        let request = effect.request().clone();
        let retention_ms = request.retention_ms;
        let plain = Plain {
            request,
            code,
            course,
            fence: effect.fence().unwrap_or_default(),
            fresh: true,
            records: true,
            cancelled: false,
            nested: None,
            counted: true,
            refusals: 0,
            bounds: core.limits.bounds(),
        };
        let subject = Subject::Effect(Box::new(plain));
        let flight = Self::found(core, id, account, subject, retention_ms);
        flight.state.lock().journaled = Some(effect);
        flight
    }

    /// A flight found unfinished at open whose code is gone: it waits for an engine that has it.
    pub(crate) fn recovered_without_code(
        core: &Arc<Core>,
        id: EffectId,
        account: Arc<TenantAccount>,
        request: &Request,
        reason: &Arc<str>,
    ) {
        let subject = Subject::Orphan {
            fingerprint: request.fingerprint,
        };
        Self::found(core, id, account, subject, request.retention_ms).hold(reason);
    }

    /// A saga found unfinished at open.
    pub(crate) fn recovered_saga(
        core: &Arc<Core>,
        account: Arc<TenantAccount>,
        id: SagaId,
        start: &SagaStart,
    ) -> Arc<Self> {
        let subject = Subject::Saga {
            fingerprint: start.fingerprint,
            id,
        };
        let flight = Self::found(core, start.id, account, subject, start.retention_ms);
        flight.state.lock().phase = Phase::Driven;
        flight
    }

    /// A child that is about to be started; `None` if its key stands for something else.
    pub(crate) fn child(
        core: &Arc<Core>,
        account: Arc<TenantAccount>,
        start: &SagaStart,
    ) -> Option<Arc<Self>> {
        let Entry::Vacant(vacant) = core.flights.entry(start.id) else {
            return None;
        };
        let subject = Subject::Saga {
            fingerprint: start.fingerprint,
            id: SagaId::default(),
        };
        let flight = Self::made(core, start.id, account, subject, start.retention_ms);
        let mut state = flight.state.lock();
        (state.phase, state.intent) = (Phase::Driven, Intent::None);
        drop(state);
        vacant.insert(Arc::clone(&flight));
        core.count_in(&flight.account);
        Some(flight)
    }

    fn found(
        core: &Arc<Core>,
        id: EffectId,
        account: Arc<TenantAccount>,
        subject: Subject,
        retention_ms: u64,
    ) -> Arc<Self> {
        let flight = Self::made(core, id, account, subject, retention_ms);
        core.flights.insert(id, Arc::clone(&flight));
        core.count_in(&flight.account);
        flight
    }

    fn made(
        core: &Arc<Core>,
        id: EffectId,
        account: Arc<TenantAccount>,
        subject: Subject,
        retention_ms: u64,
    ) -> Arc<Self> {
        let counted = Counting::new(&account);
        Arc::new(Self {
            core: Arc::downgrade(core),
            id,
            account,
            cancel: Arc::new(AtomicBool::new(false)),
            state: Counted::new(
                counted,
                State {
                    phase: Phase::Admitting(None),
                    subject,
                    durability: Durability::Accepted,
                    intent: Intent::Durable,
                    waiters: Waiters::default(),
                    retention_ms,
                    settled_at: Lsn::default(),
                    withdrawal: None,
                    farewell: None,
                    rivals: Vec::new(),
                    journaled: None,
                    round: 0,
                    asked: None,
                },
            ),
        })
    }

    fn seat(self: &Arc<Self>, entrance: &Entrance, want: Want, joined: bool) -> Seat {
        let mut state = self.state.lock();
        self.seat_locked(&mut state, entrance, want, joined)
    }

    fn seat_locked(
        self: &Arc<Self>,
        state: &mut State,
        entrance: &Entrance,
        want: Want,
        joined: bool,
    ) -> Seat {
        let (fingerprint, deadline) = (entrance.work.fingerprint(), entrance.deadline);
        let (to_outcome, outcome) = oneshot::channel();
        let mut numbers = [None, None];
        let acceptance = match want {
            Want::Outcome => None,
            Want::Acceptance => {
                let (to_acceptance, acceptance) = oneshot::channel();
                numbers[0] = Some(state.waiters.sit(fingerprint, want, None, to_acceptance));
                Some(Mailbox::new(acceptance))
            }
        };
        let waiters = &mut state.waiters;
        numbers[1] = Some(waiters.sit(fingerprint, Want::Outcome, deadline, to_outcome));
        Seat {
            flight: Arc::clone(self),
            joined,
            outcome: Mailbox::new(outcome),
            acceptance,
            numbers,
        }
    }

    /// Joins what is in flight, or replays what is done; `None` if the flight is gone.
    fn join(
        self: &Arc<Self>,
        core: &Arc<Core>,
        entrance: &Entrance,
        want: Want,
        nested: Option<Refusal>,
    ) -> Result<Option<Seat>, SubmitError> {
        let fingerprint = entrance.work.fingerprint();
        let mut state = self.state.lock();
        // While the tables are asked, what the key stands for is not known yet.
        let looking = matches!(state.phase, Phase::Looking);
        if matches!(state.phase, Phase::Gone) {
            drop(state);
            self.remove(core);
            return Ok(None);
        }
        if matches!(state.phase, Phase::Settled) && Self::expired(core, &state) {
            state.phase = Phase::Gone;
            drop(state);
            self.remove(core);
            return Ok(None);
        }
        if !looking && state.fingerprint() != fingerprint {
            return Err(SubmitError::Conflict { key: self.id.key });
        }
        if let (Some(refusal), false) = (nested, matches!(state.phase, Phase::Settled)) {
            // What it would wait for may wait for the very slot that the caller holds.
            return Err(SubmitError::Refused(refusal));
        }
        if state.waiters.len() >= core.limits.joiners_max {
            return Err(SubmitError::Overloaded {
                what: "callers of one effect",
                count: state.waiters.len(),
                count_max: core.limits.joiners_max,
            });
        }
        let strengthened = state.durability < entrance.durability;
        let passed = state.intent == Intent::None && !looking;
        if strengthened && passed && entrance.durability == Durability::Accepted {
            self.write_later(core, &mut state)
                .map_err(SubmitError::Refused)?;
        }
        let (count, count_max) = (state.waiters.len(), core.limits.joiners_max);
        halfway::size(&core.marks.joiners, "limits.joiners_max", count, count_max);
        let seat = self.seat_locked(&mut state, entrance, want, true);
        if let Some(plain) = state.plain()
            && plain.cancelled
        {
            // Somebody wants it again: an earlier cancel was not theirs.
            plain.cancelled = false;
            self.cancel.store(false, Ordering::Relaxed);
        }
        if state.fingerprint() != fingerprint {
            // The tables are being asked: it may be this one that they know, or that runs.
            state.rival(entrance);
            return Ok(Some(seat));
        }
        // The strongest durability and the most urgent class of all joiners count. Of deadlines it
        // is the latest: the work goes on for whoever waits longest.
        let urged = state.urge(&entrance.work);
        if strengthened {
            state.durability = entrance.durability;
            // What is promised now must not end where the first caller would have given up.
            if let (Work::Effect { retry, .. }, Some(plain)) = (&entrance.work, state.plain()) {
                plain.course.be_patient(*retry);
            }
        }
        let letters = self.news(&mut state);
        drop(state);
        wait::send(letters);
        if urged {
            self.queue_anew(core);
        }
        self.wait_longer();
        if strengthened {
            self.record_acceptance(core);
        }
        Ok(Some(seat))
    }

    fn expired(core: &Core, state: &State) -> bool {
        match &state.subject {
            Subject::Known(settlement) => settlement.expires_at <= core.retention.now(),
            Subject::Effect(_) | Subject::Saga { .. } | Subject::Orphan { .. } => false,
        }
    }

    /// What those who just sat down can be told at once.
    pub(super) fn news(&self, state: &mut State) -> Vec<Letter> {
        match (&state.phase, &state.subject) {
            (Phase::Settled, Subject::Known(settlement)) => {
                let settlement = Arc::clone(settlement);
                let reply = Ok(Arrival::Settled {
                    settlement,
                    replayed: true,
                });
                state.waiters.answer_all(&reply)
            }
            (Phase::Stuck(reason), _) => {
                let reason = Arc::clone(reason);
                self.stuck_letters(state, &reason)
            }
            // It has its outcome, or loses its promise, in a moment: both answer all.
            (Phase::Settling, _) => Vec::new(),
            (Phase::Broken(error), _) => {
                let reply = Err(error.clone());
                state.waiters.answer_all(&reply)
            }
            (
                Phase::Looking
                | Phase::Admitting(_)
                | Phase::Recording(_)
                | Phase::Running
                | Phase::BackingOff
                | Phase::Driven
                | Phase::Settled
                | Phase::Gone,
                _,
            ) => match state.intent {
                Intent::Durable => acceptances(state),
                Intent::None | Intent::Appended => Vec::new(),
            },
        }
    }

    /// A stuck effect is accepted and has no outcome: a ticket is given, and says so.
    pub(super) fn stuck_letters(&self, state: &mut State, reason: &Arc<str>) -> Vec<Letter> {
        let key = self.id.key;
        state.waiters.answer(|waiter| {
            Some(match waiter.want {
                Want::Acceptance => Ok(Arrival::Accepted),
                Want::Outcome => Err(SubmitError::Stuck {
                    key,
                    reason: Arc::clone(reason),
                }),
            })
        })
    }

    /// Leaves the table, unless another flight has taken the key since.
    pub(super) fn remove(self: &Arc<Self>, core: &Core) {
        for table in [&core.flights, &core.ephemeral] {
            if table
                .remove_if(&self.id, |_, flight| Arc::ptr_eq(flight, self))
                .is_some()
            {
                core.count_out(&self.account);
            }
        }
        core.tenures.stir(self.id.tenant);
    }
}
