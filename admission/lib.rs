//! Admission control of `orlop`: who may run what, and when.
//!
//! One [`Bulkhead`] per resource (a device, the host's I/O, its processors) hands out [`Permit`]s
//! for slots, to tenants in fair order, within the quotas of [`Tenants`]. The core is not async:
//! whoever waits is a [`Grantee`] and is told; [`Bulkhead::acquire_async`] is an adapter over it.
//! Nothing here sleeps, polls or starts a thread.
//!
//! Invariants
//! - Held equals counted, at every step; zero when quiet.
//! - FIFO within (tenant, class); no tenant with something queued waits without bound; no idle
//!   capacity while somebody waits whose turn it is and who fits.
//! - A refusal has no side effect beyond its count.
//! - Nothing is admitted after a drain began, so nothing runs after it ended.
//! - Lock order: registry, bulkhead, ledger. Grantees, wakers, alarms and their drops run with
//!   none of them held.

mod acquire;
mod allow;
mod audit;
mod batch;
mod bulkhead;
mod classes;
mod conflicts;
mod contention;
mod credits;
mod drain;
mod engagement;
mod estimate;
mod exclusion;
mod expiry;
mod extent;
mod fast;
mod held;
mod lift;
mod line;
mod links;
mod options;
mod outbox;
mod permit;
mod pool;
mod prediction;
mod queue;
mod rate;
mod reason;
mod refusal;
mod request;
mod reservation;
mod seat;
mod share;
mod snapshot;
mod state;
mod sync;
mod tenant;
mod tenants;
mod ticket;
mod together;
mod turns;
mod unfinished;
mod waiting;
mod writing;

#[cfg(test)]
mod interleavings;

pub use acquire::Acquire;
pub use audit::{AuditSink, MemorySink, SinkError, TracingSink};
pub use bulkhead::{Acquired, Alarm, Bulkhead};
pub use classes::ClassWeights;
pub use conflicts::{ConflictError, ConflictMatrix, ExclusionId};
pub use drain::{Drain, DrainError, Queued};
pub use engagement::{Payer, Purse, PurseSnapshot};
pub use held::{BulkheadId, HeldScope};
pub use options::{BulkheadOptions, OptionsError};
pub use permit::Permit;
pub use rate::{ByteRate, Rate};
pub use reason::Reason;
pub use refusal::{Dimension, Refusal, RefusalCounts, Scope};
pub use request::{ComputationId, CostVector, Grantee, Lane, Request};
pub use reservation::{Kept, ReleaseError, Reservation};
pub use share::{GroupId, Share};
pub use snapshot::{BulkheadSnapshot, LaneSnapshot};
pub use tenant::{Holding, Quotas, TenantAccount, TenantCommand, TenantSnapshot, TenantState};
pub use tenants::{CapacityError, RegisterError, TenantError, Tenants};
pub use ticket::QueueTicket;
pub use together::{Together, TogetherError};
pub use turns::Weight;
pub use unfinished::{Pace, Paces};
pub use waiting::{Patient, WaitingRoom, WaitingTicket};
