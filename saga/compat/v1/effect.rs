//! Effects of version 1.

use serde::{Deserialize, Serialize};

use super::super::NotInFormat;
use super::Frozen;
use crate::amount::BusyNanos;
use crate::canonical::Payload;
use crate::effect::{self as today, CodeRef};
use crate::id::{Fence, SagaId};
use crate::key::Fingerprint;
use crate::outcome::{self, Failure};
use crate::tenant::{AuditTag, Class};
use crate::time::WallMillis;
use crate::trace::TraceContext;

#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    fingerprint: Fingerprint,
    code: CodeRef,
    external: bool,
    input: Payload,
    class: Class,
    audit: AuditTag,
    trace: TraceContext,
    at: WallMillis,
    deadline: Option<WallMillis>,
    retention_ms: u64,
}

impl Frozen<Request> for today::Request {
    fn freeze(&self) -> Result<Request, NotInFormat> {
        let Self {
            fingerprint,
            code,
            external,
            input,
            class,
            audit,
            trace,
            at,
            deadline,
            retention_ms,
        } = self;
        Ok(Request {
            fingerprint: *fingerprint,
            code: code.clone(),
            external: *external,
            input: input.clone(),
            class: *class,
            audit: *audit,
            trace: *trace,
            at: *at,
            deadline: *deadline,
            retention_ms: *retention_ms,
        })
    }

    fn thaw(frozen: Request) -> Self {
        Self {
            fingerprint: frozen.fingerprint,
            code: frozen.code,
            external: frozen.external,
            input: frozen.input,
            class: frozen.class,
            audit: frozen.audit,
            trace: frozen.trace,
            at: frozen.at,
            deadline: frozen.deadline,
            retention_ms: frozen.retention_ms,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Outcome {
    Done(Payload),
    Failed(Failure),
}

impl Frozen<Outcome> for outcome::Outcome {
    fn freeze(&self) -> Result<Outcome, NotInFormat> {
        Ok(match self {
            Self::Done(output) => Outcome::Done(output.clone()),
            Self::Failed(failure) => Outcome::Failed(failure.clone()),
            Self::Blob(_) => return Err(NotInFormat::since_v2("an outcome in a blob")),
        })
    }

    fn thaw(frozen: Outcome) -> Self {
        match frozen {
            Outcome::Done(output) => Self::Done(output),
            Outcome::Failed(failure) => Self::Failed(failure),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Settlement {
    fingerprint: Fingerprint,
    code: CodeRef,
    saga: Option<SagaId>,
    fence: Fence,
    outcome: Outcome,
    cost: BusyNanos,
    audit: AuditTag,
    at: WallMillis,
    expires_at: WallMillis,
}

impl Frozen<Settlement> for today::Settlement {
    fn freeze(&self) -> Result<Settlement, NotInFormat> {
        let Self {
            fingerprint,
            code,
            saga,
            fence,
            outcome,
            cost,
            audit,
            at,
            expires_at,
        } = self;
        Ok(Settlement {
            fingerprint: *fingerprint,
            code: code.clone(),
            saga: *saga,
            fence: *fence,
            outcome: outcome.freeze()?,
            cost: *cost,
            audit: *audit,
            at: *at,
            expires_at: *expires_at,
        })
    }

    fn thaw(frozen: Settlement) -> Self {
        Self {
            fingerprint: frozen.fingerprint,
            code: frozen.code,
            saga: frozen.saga,
            fence: frozen.fence,
            outcome: outcome::Outcome::thaw(frozen.outcome),
            cost: frozen.cost,
            audit: frozen.audit,
            at: frozen.at,
            expires_at: frozen.expires_at,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Withdrawal {
    Cancelled,
    Expired,
    Refused,
    Exhausted,
}

impl Frozen<Withdrawal> for today::Withdrawal {
    fn freeze(&self) -> Result<Withdrawal, NotInFormat> {
        Ok(match self {
            Self::Cancelled => Withdrawal::Cancelled,
            Self::Expired => Withdrawal::Expired,
            Self::Refused => Withdrawal::Refused,
            Self::Exhausted => Withdrawal::Exhausted,
        })
    }

    fn thaw(frozen: Withdrawal) -> Self {
        match frozen {
            Withdrawal::Cancelled => Self::Cancelled,
            Withdrawal::Expired => Self::Expired,
            Withdrawal::Refused => Self::Refused,
            Withdrawal::Exhausted => Self::Exhausted,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum EffectEvent {
    Accepted(Box<Request>),
    Launched { fence: Fence, asks: bool },
    Settled(Box<Settlement>),
    Withdrawn { reason: Withdrawal },
    Stuck { reason: String },
    Resumed,
}

impl Frozen<EffectEvent> for today::EffectEvent {
    fn freeze(&self) -> Result<EffectEvent, NotInFormat> {
        Ok(match self {
            Self::Accepted(request) => EffectEvent::Accepted(Box::new(request.freeze()?)),
            Self::Launched { fence, asks } => EffectEvent::Launched {
                fence: *fence,
                asks: *asks,
            },
            Self::Settled(settlement) => EffectEvent::Settled(Box::new(settlement.freeze()?)),
            Self::Withdrawn { reason } => EffectEvent::Withdrawn {
                reason: reason.freeze()?,
            },
            Self::Stuck { reason } => EffectEvent::Stuck {
                reason: reason.clone(),
            },
            Self::Resumed => EffectEvent::Resumed,
        })
    }

    fn thaw(frozen: EffectEvent) -> Self {
        match frozen {
            EffectEvent::Accepted(request) => {
                Self::Accepted(Box::new(today::Request::thaw(*request)))
            }
            EffectEvent::Launched { fence, asks } => Self::Launched { fence, asks },
            EffectEvent::Settled(settlement) => {
                Self::Settled(Box::new(today::Settlement::thaw(*settlement)))
            }
            EffectEvent::Withdrawn { reason } => Self::Withdrawn {
                reason: today::Withdrawal::thaw(reason),
            },
            EffectEvent::Stuck { reason } => Self::Stuck { reason },
            EffectEvent::Resumed => Self::Resumed,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Effect {
    Accepted {
        request: Box<Request>,
    },
    Launched {
        request: Box<Request>,
        fence: Fence,
        runs: u32,
    },
    Stuck {
        request: Box<Request>,
        fence: Fence,
        reason: String,
    },
}

impl Frozen<Effect> for today::Effect {
    fn freeze(&self) -> Result<Effect, NotInFormat> {
        Ok(match self {
            Self::Accepted { request } => Effect::Accepted {
                request: Box::new(request.freeze()?),
            },
            Self::Launched {
                request,
                fence,
                runs,
                // Counts and forgives; version 1 does not.
                asking: _,
                lost_asks: _,
                lost_runs: _,
            } => Effect::Launched {
                request: Box::new(request.freeze()?),
                fence: *fence,
                runs: *runs,
            },
            Self::Stuck {
                request,
                fence,
                reason,
            } => Effect::Stuck {
                request: Box::new(request.freeze()?),
                fence: *fence,
                reason: reason.clone(),
            },
        })
    }

    fn thaw(frozen: Effect) -> Self {
        let thaw = |request: Box<Request>| Box::new(today::Request::thaw(*request));
        match frozen {
            Effect::Accepted { request } => Self::Accepted {
                request: thaw(request),
            },
            Effect::Launched {
                request,
                fence,
                runs,
            } => Self::Launched {
                request: thaw(request),
                fence,
                runs,
                asking: false,
                lost_asks: 0,
                lost_runs: 0,
            },
            Effect::Stuck {
                request,
                fence,
                reason,
            } => Self::Stuck {
                request: thaw(request),
                fence,
                reason,
            },
        }
    }
}
