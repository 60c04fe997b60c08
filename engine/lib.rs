//! Durable GPU work for databases.
//!
//! A database embeds `orlop` to run its tenants' GPU work so that it survives crashes. Work is
//! submitted as named [computations](Computation) under idempotency [keys](Key); bulkheads admit
//! it, a journal makes it durable, [sagas](Saga) chain it with compensation, and a persistent
//! megakernel runs it, or host threads that speak the same ring protocol.
//!
//! ```
//! use orlop::{Blake3, Engine, Origin};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("store");
//! # pollster::block_on(async {
//! let engine = Engine::builder(&path).open().await?;
//! let tenant = engine.tenant("acme").await?;
//!
//! let first = tenant.submit(Blake3, "a page of data").await?;
//! assert_eq!(first.origin, Origin::Ran);
//!
//! // The same work again, in this process or after a crash, is not done again.
//! let again = tenant.submit(Blake3, "a page of data").await?;
//! assert_eq!(again.origin, Origin::Replayed);
//! assert_eq!(again.output, first.output);
//! engine.close().await?;
//! # Ok(())
//! # })
//! # }
//! ```

mod audit;
mod backup;
mod batch;
mod blocking;
mod budget;
mod buffer;
mod builder;
mod clock;
mod close;
mod computation;
mod core;
mod counter;
mod course;
mod device;
mod driver;
mod engine;
mod error;
mod executor;
mod flight;
mod halfway;
mod handle;
mod host;
mod lease;
mod ledger;
mod manage;
mod meter;
#[cfg(feature = "metrics")]
mod metrics;
mod opcodes;
mod open;
mod operator;
mod options;
mod recover;
mod registry;
#[cfg(doctest)]
mod rules;
mod runtime;
mod saga;
mod signal;
mod start;
mod submission;
mod tenant;
mod tenure;
mod terms;
#[cfg(feature = "testkit")]
pub mod testkit;
mod ticket;
#[cfg(feature = "tiered")]
pub mod tiered;
mod timers;

pub use audit::AuditCounts;
pub use backup::{RestoreOptions, check, clone_store, restore, verify_audit, verify_backup};
pub use batch::Batch;
pub use blocking::{BlockingEngine, wait};
pub use budget::{BudgetError, BudgetOptions, Budgets};
pub use buffer::{Buffer, BufferError, BufferSource, BufferUse, Eviction, SourceBytes};
pub use builder::EngineBuilder;
pub use clock::SystemClock;
pub use close::CloseError;
pub use computation::{Computation, External, Kind, Pure, Undo};
pub use counter::{CounterSaga, Original, RollBackError};
pub use device::{
    Aggregate, Aggregated, AnswerValue, Asked, Blake3, Blake3Many, ColumnOf, ColumnValue, Crc32c,
    Crc32cPages, DeviceFunction, DeviceValue, FilterAggregate, Items, Neighbour, Noop, Pages, Plan,
    Source, TopK, VectorTopk, le_bytes,
};
pub use driver::{CancelError, SagaCounts};
pub use engine::{Engine, EngineSnapshot};
pub use error::{OptionError, RegisterError, SubmitError, Unavailable};
pub use flight::Cancelled;
pub use host::{
    Attempt, BlockingFunction, Found, HOST_CPU, HOST_IO, HostFunction, Late, Reconcile, Reconciled,
    UndoFunction, Undoing,
};
pub use lease::{Escalation, Lease};
pub use ledger::{Ledger, LedgerError, LedgerLine, LedgerTotal};
pub use manage::TenantDrained;
pub use meter::{BulkheadMeter, LaneMeter};
#[cfg(feature = "metrics")]
pub use metrics::{METRICS, Metric, MetricKind, MetricsPublisher};
pub use open::OpenError;
pub use operator::{
    AbandonError, Abandoned, CallRecord, DrainError, Drained, ForkError, Forking, ListError,
    Notice, Operator, PauseError, ResidueRecord, ResumeError, RetryError, SagaPage, SagaQuery,
    SagaRecord, SagaSummary, ShowError, SkipError, SkipUndoError, SubscribeError, Subscription,
};
pub use options::{AuditOptions, Limits, Options, RetryPolicy};
pub use recover::Recovery;
pub use saga::{
    Branches, ChildCall, ChildOf, ForwardContext, Saga, SagaContext, SagaError, Select, Selected,
    SignalWait, Sleep, StepCall, StepError, StepFuture,
};
pub use signal::{SagaRef, SignalError, Signalled};
pub use start::SagaStarting;
pub use submission::{Awaited, Enqueued, Keyed, Origin, Reply, Submission};
pub use tenant::{Tenant, TenantError, TenantManager};
pub use tenure::DrainCounts;
pub use ticket::{SagaTicket, Ticket};

pub use orlop_admission::{
    AuditSink, BulkheadOptions, BulkheadSnapshot, ByteRate, ClassWeights, ConflictError,
    ConflictMatrix, Dimension, ExclusionId, GroupId, Kept, MemorySink, PurseSnapshot, Quotas, Rate,
    Reason, Refusal, RegisterError as TenantRegisterError, Share, SinkError,
    TenantError as TenantStateError, TenantSnapshot, TenantState, Together, TogetherError,
    TracingSink, Weight,
};
#[cfg(target_os = "linux")]
pub use orlop_gpu::DeviceMain;
pub use orlop_gpu::topk::query::{ElementType, VectorMetric};
pub use orlop_gpu::{
    Backend, BufferRef, CallFailed, ChildOptions, Choice, CudaError, CudaFound, CudaOptions,
    DeviceHost, DeviceLost, DeviceOptions, DeviceSnapshot, HostError, HostOp, InstallError,
    LocalOpcode, Opcode, OpcodeWindow, TranslateError, device_main,
};
pub use orlop_saga::amount::{BusyNanos, ByteCount};
pub use orlop_saga::audit::{
    Actor, AuditEntry, AuditEvent, ChainHead, Denial, NoChainHead, Object, Operation,
};
pub use orlop_saga::canonical::{DecodeError, EncodeError, Payload};
pub use orlop_saga::compat::{Format, NotInFormat};
pub use orlop_saga::digest::Digest;
pub use orlop_saga::histogram::Histogram;
pub use orlop_saga::history::{History, HistoryError};
pub use orlop_saga::id::{Fence, Incarnation, SagaId, StoreId, TenantId};
pub use orlop_saga::key::{Key, RemoteKey};
pub use orlop_saga::outcome::{Disposition, Failure};
pub use orlop_saga::path::{PathError, StepPath};
pub use orlop_saga::saga::{NoFork, PauseReason, Remains, SagaStatus, SignalId, StatusKind};
pub use orlop_saga::tenant::{AuditTag, Class};
pub use orlop_saga::time::{Clock, Monotonic, Simulated, WallMillis};
pub use orlop_saga::trace::TraceContext;
pub use orlop_store::audit::{TrailError, TrailOptions, Verified, VerifyError};
pub use orlop_store::backup::{Backup, BackupError, RestoreError, Restored};
pub use orlop_store::check::{CheckError, Finding, Report};
pub use orlop_store::projector::ProjectorError;
pub use orlop_store::store::{OpenError as StoreOpenError, Parts, StoreHealth, StoreOptions};

/// What an embedder's own megakernel operation is written against.
pub mod op {
    pub use orlop_gpu::{OpError, Output, Partial, Scratch, TaskArgs};
}

/// What a [`History`] and a [`SagaRecord`] are made of.
pub mod history {
    pub use orlop_saga::effect::{CodeRef, EffectId};
    pub use orlop_saga::history::{EncodeHistoryError, History, HistoryError};
    pub use orlop_saga::outcome::Outcome;
    pub use orlop_saga::saga::{
        Bond, Call, CallKind, Cause, Delivery, Hold, Origin, Parent, Phase, SagaStart, SagaState,
        Signal, Trail, UndoIntent,
    };
    pub use orlop_saga::step::{Prior, Step, StepOutcome};
}

/// The journal and the tables, for embedders that bring their own and for tests.
pub mod store {
    pub use orlop_store::{blob, disk, folder, log, projector, store, tables};
}

/// The page that a reader sees first, compiled and run with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The page on testing, whose example finds what it says.
#[cfg(doctest)]
#[doc = include_str!("../docs/testing.md")]
pub struct Testing;
