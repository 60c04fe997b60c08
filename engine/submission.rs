//! Submissions: one piece of work on its way in, and its ticket.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use orlop_saga::amount::BusyNanos;
use orlop_saga::canonical;
use orlop_saga::effect::{EffectId, Request, Settlement};
use orlop_saga::key::{Fingerprint, Key};
use orlop_saga::outcome::Outcome;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::Monotonic;
use orlop_saga::trace::TraceContext;
use serde::de::DeserializeOwned;

use crate::computation::{Computation, Pure};
use crate::core::Core;
use crate::error::{SubmitError, Unavailable};
use crate::flight::{Arrival, Durability, Entrance, Mailbox, Reply as Answer, Seat, Want, Work};
use crate::handle::Handle;
use crate::lease::{Bounds, Lease};
use crate::options::RetryPolicy;
use crate::tenant::Tenant;
use crate::ticket::Ticket;

/// The caller waits for the outcome.
#[derive(Clone, Copy, Debug)]
pub enum Awaited {}
/// The caller waits for acceptance and gets a ticket.
#[derive(Clone, Copy, Debug)]
pub enum Enqueued {}

/// A key was given.
#[derive(Clone, Copy, Debug)]
pub enum Keyed {}

/// An outcome and how the caller came by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T> {
    /// The output.
    pub output: T,
    /// How the caller came by it.
    pub origin: Origin,
    /// The key it is kept under.
    pub key: Key,
    /// What it cost when it ran.
    pub cost: BusyNanos,
}

/// How a caller came by an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It ran for this caller.
    Ran,
    /// It was in flight for another caller.
    Joined,
    /// It was done before.
    Replayed,
}

/// What every submission may set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) class: Class,
    pub(crate) audit: AuditTag,
    pub(crate) trace: TraceContext,
    pub(crate) deadline: Option<Duration>,
    pub(crate) bounds: Bounds,
}

/// One submission; awaited, it is made. `K` is the computation's kind, or [`Keyed`] once a key is
/// given: a submission of kind [`External`](crate::External) cannot be awaited.
#[must_use = "nothing is submitted until this is awaited"]
pub struct Submission<C: Computation, K, M> {
    tenant: Tenant,
    input: C::Input,
    key: Option<Key>,
    terms: Terms,
    durability: Durability,
    retry: Option<RetryPolicy>,
    how: PhantomData<fn() -> (K, M)>,
}

impl<C: Computation, K, M> Submission<C, K, M> {
    pub(crate) fn new(tenant: Tenant, computation: C, input: C::Input) -> Self {
        let _ = computation;
        Self {
            tenant,
            input,
            key: None,
            terms: Terms::default(),
            durability: Durability::Outcome,
            retry: None,
            how: PhantomData,
        }
    }

    /// The key it is recognised by: the same for every retry of the same work. [`Key::fresh`]
    /// says "again, whatever was done before".
    pub fn key(self, key: Key) -> Submission<C, Keyed, M> {
        Submission {
            tenant: self.tenant,
            input: self.input,
            key: Some(key),
            terms: self.terms,
            durability: self.durability,
            retry: self.retry,
            how: PhantomData,
        }
    }

    /// How urgent it is among the tenant's own work.
    pub fn class(mut self, class: Class) -> Self {
        self.terms.class = class;
        self
    }

    /// Who pays.
    pub fn audit(mut self, audit: AuditTag) -> Self {
        self.terms.audit = audit;
        self
    }

    /// The trace it belongs to; persisted with it.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.terms.trace = trace;
        self
    }

    /// How long this caller waits for the outcome, or, of [`enqueue`](Tenant::enqueue), for the
    /// acceptance. Binds no other caller of the same key.
    ///
    /// Work that only callers with deadlines wait for is refused as
    /// [`Refusal::PredictedLate`](crate::Refusal::PredictedLate) if by what is known it would be
    /// done too late for the most patient of them, when it is submitted and once more when it
    /// would start. Accepted work has no deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.terms.deadline = Some(deadline);
        self
    }

    /// How long one attempt may take, until the process ends. An `External` attempt that takes
    /// longer is in doubt, a `Pure` one has failed and may be tried again.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.bounds.timeout = Some(timeout);
        self
    }

    /// How long one attempt may go without a [`heartbeat`](crate::Attempt::heartbeat), and what
    /// follows if it does; until the process ends.
    pub fn lease(mut self, lease: Lease) -> Self {
        self.terms.bounds.lease = Some(lease);
        self
    }

    /// How often failures without effect are tried again. By default an awaited submission tries
    /// once and an enqueued one as the options say.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(retry);
        self
    }

    pub(crate) fn entrance(&self, accepted: bool) -> Result<Entrance, SubmitError> {
        let core = &self.tenant.core;
        let code = core
            .registry
            .code(C::NAME)
            .filter(|code| core.check_seen(&self.tenant.account, self.terms.audit, code))
            .ok_or(SubmitError::Unregistered { name: C::NAME })?;
        let input = core.encode(&self.input, C::NAME)?;
        let fingerprint = Fingerprint::of(C::NAME, C::INPUT_SCHEMA, &input);
        let tenant = self.tenant.id();
        let key = self
            .key
            .unwrap_or_else(|| Key::derived(tenant, &fingerprint));
        let at = core.clock.wall();
        let request = Request {
            fingerprint,
            code: code.reference.clone(),
            external: code.external,
            input,
            class: self.terms.class,
            audit: self.terms.audit,
            trace: self.terms.trace,
            at,
            deadline: None,
            retention_ms: u64::try_from(code.retention.as_millis()).unwrap_or(u64::MAX),
        };
        let (durability, retry) = if accepted {
            (Durability::Accepted, core.limits.retry)
        } else {
            (self.durability, RetryPolicy::NONE)
        };
        Ok(Entrance {
            id: EffectId { tenant, key },
            account: Arc::clone(&self.tenant.account),
            durability,
            deadline: self
                .terms
                .deadline
                // A ticket may be asked for as long as its holder likes.
                .filter(|_| !accepted)
                .map(|deadline| core.clock.monotonic().after(deadline)),
            work: Work::Effect {
                request: Box::new(request),
                code,
                retry: self.retry.unwrap_or(retry),
                bounds: self.terms.bounds.or(core.limits.bounds()),
            },
        })
    }
}

impl<C: Computation<Kind = Pure>, K> Submission<C, K, Awaited> {
    /// Keeps nothing: the outcome lives in memory until it is told. In a namespace of its own, so
    /// that it never meets a durable submission of the same key.
    pub fn ephemeral(mut self) -> Self {
        self.durability = Durability::Ephemeral;
        self
    }
}

impl<C: Computation, K> Submission<C, K, Awaited> {
    /// Enters the key table, now.
    pub(crate) fn enter(self) -> Result<Submitted<C>, SubmitError> {
        let seat = self
            .tenant
            .core
            .enter(self.entrance(false)?, Want::Outcome)?;
        let deadline = self.terms.deadline;
        Ok(Submitted {
            core: self.tenant.core.clone(),
            seat,
            deadline,
            output: PhantomData,
        })
    }

    async fn submit(self) -> Result<Reply<C::Output>, SubmitError> {
        self.enter()?.outcome().await
    }
}

/// A submission that has entered. Dropping it leaves.
pub(crate) struct Submitted<C> {
    /// Keeps the engine open until the outcome is there.
    core: Handle,
    seat: Seat,
    deadline: Option<Duration>,
    output: PhantomData<fn() -> C>,
}

impl<C: Computation> Submitted<C> {
    /// The outcome, waited for from `began` on.
    pub(crate) async fn outcome_since(
        mut self,
        began: Monotonic,
    ) -> Result<Reply<C::Output>, SubmitError> {
        let gone = self.core.clock.monotonic().since(began);
        self.deadline = self.deadline.map(|all| all.saturating_sub(gone));
        self.outcome().await
    }

    pub(crate) async fn outcome(mut self) -> Result<Reply<C::Output>, SubmitError> {
        let arrival = wait(
            &self.core,
            self.seat.flight.id.key,
            &mut self.seat.outcome,
            self.deadline,
        )
        .await?;
        reply(arrival, self.seat.flight.id.key, self.seat.joined)
    }
}

impl<C: Computation, K> Submission<C, K, Enqueued> {
    async fn enqueue(self) -> Result<Ticket<C::Output>, SubmitError> {
        let core = Arc::clone(&self.tenant.core);
        let mut seat = core.enter(self.entrance(true)?, Want::Acceptance)?;
        let Some(mut acceptance) = seat.acceptance.take() else {
            return Err(Unavailable::Closed.into());
        };
        wait(
            &core,
            seat.flight.id.key,
            &mut acceptance,
            self.terms.deadline,
        )
        .await?;
        Ok(Ticket::new(self.tenant, seat))
    }
}

/// Waits for an answer, at most as long as this caller wants to.
pub(crate) async fn wait(
    core: &Core,
    key: Key,
    mailbox: &mut Mailbox,
    deadline: Option<Duration>,
) -> Answer {
    // In a fork nobody is left who could answer.
    core.check_process()?;
    let told = mailbox.reply();
    let answer = match deadline {
        None => told.await,
        Some(deadline) => {
            let sleep = core.executor.runtime.sleep(deadline);
            match select(pin!(told), pin!(sleep)).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => return Err(SubmitError::Expired),
            }
        }
    };
    answer.unwrap_or(Err(SubmitError::Interrupted { key }))
}

/// What an answer means to a caller.
pub(crate) fn reply<T: DeserializeOwned>(
    arrival: Arrival,
    key: Key,
    joined: bool,
) -> Result<Reply<T>, SubmitError> {
    let (settlement, origin) = match arrival {
        Arrival::Settled {
            settlement,
            replayed: true,
        } => (settlement, Origin::Replayed),
        Arrival::Settled {
            settlement,
            replayed: false,
        } if joined => (settlement, Origin::Joined),
        Arrival::Settled {
            settlement,
            replayed: false,
        } => (settlement, Origin::Ran),
        // A seat for the outcome is never told of an acceptance.
        Arrival::Accepted => return Err(Unavailable::Closed.into()),
    };
    read(&settlement, key, origin)
}

fn read<T: DeserializeOwned>(
    settlement: &Settlement,
    key: Key,
    origin: Origin,
) -> Result<Reply<T>, SubmitError> {
    match &settlement.outcome {
        Outcome::Done(output) => {
            let output = canonical::decode(output)?;
            Ok(Reply {
                output,
                origin,
                key,
                cost: settlement.cost,
            })
        }
        Outcome::Failed(failure) => Err(SubmitError::Failed(failure.clone())),
        // The store gives the bytes wherever it is asked.
        Outcome::Blob(blob) => Err(SubmitError::Damaged {
            key,
            reason: format!("blob {blob} was not read").into(),
        }),
    }
}

macro_rules! awaitable {
    ($kind:ty) => {
        impl<C: Computation> IntoFuture for Submission<C, $kind, Awaited> {
            type Output = Result<Reply<C::Output>, SubmitError>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.submit())
            }
        }

        impl<C: Computation> IntoFuture for Submission<C, $kind, Enqueued> {
            type Output = Result<Ticket<C::Output>, SubmitError>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.enqueue())
            }
        }
    };
}

awaitable!(Pure);
awaitable!(Keyed);
