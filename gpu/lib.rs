//! The ring protocol of `orlop`, its host megakernel, buffers and device operations.
//!
//! Host and device share one memory (`memory`) in which every byte has its place (`layout`).
//! Submitters write entries onto a ring (`pump`), a megakernel (`host`, or a chip's through `cuda`) consumes
//! exactly those bytes, runs operations (`ops`) on windows of buffers (`buffer`), and posts completions.
//! [`Device`] is what an embedder holds.
//!
//! Invariants
//! - Each accepted operation has exactly one completion.
//! - Host and device only load and store each other's words; no read-modify-write crosses sides.
//! - A stale slot, window, tenant or ticket is refused, never served.

mod backend;
mod baton;
mod buffer;
mod child;
pub mod completion;
mod control;
mod cuda;
mod device;
pub mod entry;
mod epochs;
mod host;
mod hub;
pub mod kernel;
pub mod layout;
mod lost;
pub mod memory;
mod opcodes;
mod ops;
mod options;
pub mod placement;
mod pump;
mod ring;
mod runner;
pub mod slot;
mod snapshot;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod ticket;

pub use backend::{Backend, Choice};
pub use buffer::error::{
    AccessError, BindError, CreateError, FreeError, PutError, SealError, Stale, WriteError,
};
pub use buffer::{
    BufferId, BufferRef, BufferWriter, Buffers, Evicted, Freed, Header, KeepError, MemoryClass,
    Named, PinnedWindow, ResultBuffer, ResultWindow, Room,
};
#[cfg(target_os = "linux")]
pub use child::DeviceMain;
pub use child::{ChildOptions, DeviceHost, HostError, device_main};
pub use control::{Order, Reply};
pub use cuda::error::{CallFailed, CudaError};
pub use cuda::found::CudaFound;
pub use cuda::options::CudaOptions;
pub use device::{Cancel, Device, DrainError, PublishRefused, TenantError};
pub use entry::{Opcode, Window};
pub use epochs::Epochs;
pub use lost::DeviceLost;
pub use opcodes::{
    InstallError, LocalOpcode, OpcodeWindow, PinnedOpcode, TranslateError, WINDOWED_OPCODES_MAX,
};
pub use ops::{
    Blake3, Blake3Many, Crc32c, Crc32cPages, FilterAggregate, HostOp, Noop, OpError, Output,
    PARTIAL_BYTES_MAX, Partial, RegisterError, SCRATCH_WORDS_MAX, Scratch, TaskArgs, VectorTopk,
    aggregate, topk,
};
pub use options::{DeviceOptions, OpenError};
pub use snapshot::{DeviceSnapshot, Heartbeat};
pub use status::{RefusedWhy, Status};
pub use task::{Completed, Completion, ResultBytes, Task, Ticket};
