//! The device: publish operations, hear how they ended.
//!
//! Invariants
//! - Every accepted operation gets exactly one completion, also across cancel, drain and close.
//! - After `drain` or `close` returned, no publish lands.
//! - Callbacks run with no lock held.

mod open;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orlop_saga::id::TenantId;

#[cfg(any(test, all(feature = "cuda", target_os = "linux")))]
pub(crate) use self::open::write_header;
use crate::backend::Choice;
use crate::buffer::{Buffers, ResultWindow};
use crate::control::{Order, Reply};
#[cfg(all(feature = "cuda", target_os = "linux"))]
use crate::cuda::runner::CudaRunner;
use crate::entry::{EncodeError, Opcode};
use crate::hub::{Hub, beats};
use crate::lost::DeviceLost;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow, PinnedOpcode, TranslateError};
use crate::ops::{HostOp, RegisterError};
use crate::pump::Gate;
use crate::slot::join;
use crate::snapshot::{DeviceSnapshot, Heartbeat};
use crate::status::Status;
use crate::task::{Completion, Task, Ticket};

/// Why an operation was not published. Its completion will not be called, and its windows are
/// unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishRefused {
    /// Every permit is taken. Retry when an operation is over or a held result is dropped.
    #[error("all {tickets_max} permits are taken")]
    Full {
        /// Permits in all.
        tickets_max: u32,
    },
    /// A drain is under way or done. Retry after `resume`.
    #[error("the device is draining")]
    Draining,
    /// The device is lost. Retry on the next epoch, if there is to be one.
    #[error("the device is lost")]
    Lost,
    /// The device is closed, for good.
    #[error("the device is closed")]
    Closed,
    /// Opcode zero is the ring's pad and names no operation.
    #[error("opcode zero names no operation")]
    Pad,
    /// The operation does not fit in an entry.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The device leaves no results in buffers. Ask for a result within `result_bytes_max`.
    #[error("the device leaves no results in buffers")]
    NoResultWindows,
    /// A window belongs to another tenant, or to another device.
    #[error("window {window} does not belong to tenant {tenant} on this device")]
    ForeignWindow {
        /// Its index in the task.
        window: usize,
        /// The task's tenant.
        tenant: TenantId,
    },
}

impl PublishRefused {
    /// Whether the same operation may be accepted later.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Full { .. } | Self::Draining | Self::Lost => true,
            Self::Closed
            | Self::Pad
            | Self::Encode(_)
            | Self::NoResultWindows
            | Self::ForeignWindow { .. } => false,
        }
    }
}

/// What a cancel did. The completion comes in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// It had not reached the ring; its completion was called with `Cancelled`.
    Withdrawn,
    /// The device was told. It ends `Cancelled`, unless it has one tile and that already runs.
    Requested,
    /// It is over, all its tiles were already claimed, or it was never published here.
    Unknown,
}

/// Why a drain did not end. The device refuses publishes until it is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// Something still runs. Drain again, cancel, or resume.
    #[error("{outstanding} operations are not over after {waited:?}")]
    TimedOut {
        /// Accepted and not yet over.
        outstanding: u64,
        /// How long it waited.
        waited: Duration,
    },
}

/// Why a tenant's generation was not set or revoked. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TenantError {
    /// The slot has another generation, or none.
    #[error("tenant {tenant} is not registered on the device")]
    Stale {
        /// Who was named.
        tenant: TenantId,
    },
}

/// A device and who runs its megakernel. Dropping it closes it.
#[derive(Debug)]
pub struct Device {
    pub(crate) hub: Arc<Hub>,
    buffers: Buffers,
    choice: Choice,
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    cuda: Option<Arc<CudaRunner>>,
    drains: AtomicU64,
    drain_timeouts: AtomicU64,
    drain_waited: AtomicU64,
}

impl Device {
    /// What the megakernel runs on, and why.
    pub const fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Workers: threads of the host, or blocks of a chip.
    pub fn workers(&self) -> u32 {
        self.hub.layout.sizes.workers
    }

    /// With the runner that its hub has, for what only that can do.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(crate) fn with_cuda(mut self, runner: Arc<CudaRunner>) -> Self {
        self.cuda = Some(runner);
        self
    }

    /// Drains, and has the kernel leave the chip, so that the embedder may wait for the whole
    /// device or load code. Publishes stay refused, and no kernel runs, until [`Device::resume`].
    /// On threads of the host it is a drain. Blocks; as [`Device::drain`].
    ///
    /// # Errors
    /// [`DrainError`]: something still runs; publishes stay refused.
    pub fn quiesce(&self, limit: Duration) -> Result<(), DrainError> {
        let start = Instant::now();
        self.drain(limit)?;
        if self.has_left(start + limit) {
            return Ok(());
        }
        Err(DrainError::TimedOut {
            outstanding: 0,
            waited: start.elapsed(),
        })
    }

    /// Whether no kernel is on a chip, now or before `until`.
    fn has_left(&self, until: Instant) -> bool {
        #[cfg(all(feature = "cuda", target_os = "linux"))]
        if let Some(runner) = &self.cuda {
            return runner.quiesce(until);
        }
        let _ = until;
        true
    }

    /// Has another launch of the kernel take over from the one that runs; what is in flight goes
    /// on. Without effect on threads of the host. Does not wait.
    pub fn hand_over(&self) {
        #[cfg(all(feature = "cuda", target_os = "linux"))]
        if let Some(runner) = &self.cuda {
            runner.hand_over();
        }
    }

    /// Kernels launched on a chip so far; none on threads of the host.
    pub fn launches(&self) -> u64 {
        #[cfg(all(feature = "cuda", target_os = "linux"))]
        if let Some(runner) = &self.cuda {
            return runner.launches();
        }
        0
    }

    /// The longest result that a permit's area takes; a longer one is given a buffer.
    pub fn result_bytes_max(&self) -> u64 {
        self.hub.layout.sizes.result_bytes.into()
    }

    /// The device's buffers.
    pub const fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Registers another operation.
    ///
    /// # Errors
    /// [`RegisterError`]: the table is unchanged.
    pub fn register_op(&self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        self.hub.runner.register(op)
    }

    /// Gives this life of a tenant a window of `count` opcodes, numbered from zero, with these
    /// operations in it. [`HostOp::opcode`] and [`HostOp::owner`] of these are not asked: an
    /// operation has the opcode that stands beside it, and this life alone sees it.
    ///
    /// The window is the life's until another generation of its slot is registered or this one is
    /// revoked, and nothing translated through it is in flight any more.
    ///
    /// # Errors
    /// [`InstallError`]: it has no window, and the table is unchanged.
    pub fn install_ops(
        &self,
        tenant: TenantId,
        count: u32,
        ops: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<OpcodeWindow, InstallError> {
        let mut opcodes = self.hub.opcodes.write();
        let removed = self.hub.runner.uninstall(&opcodes.reclaim());
        let given = opcodes.give(tenant, count).and_then(|window| {
            let installed = self.hub.runner.install(tenant, window, ops);
            if installed.is_err() {
                opcodes.take_back(tenant);
            }
            installed.map(|()| window)
        });
        // What an embedder's operation does when it is dropped, it does with no lock held.
        drop(opcodes);
        drop(removed);
        given
    }

    /// The opcode of a tenant's own as the device knows it, to publish with. Keep what is returned
    /// until the operation is over.
    ///
    /// # Errors
    /// [`TranslateError`]: it names nothing.
    pub fn translate(
        &self,
        tenant: TenantId,
        local: LocalOpcode,
    ) -> Result<PinnedOpcode, TranslateError> {
        self.hub.opcodes.read().translate(tenant, local)
    }

    /// The opcodes that this life of a tenant has to itself.
    pub fn opcode_window(&self, tenant: TenantId) -> Option<OpcodeWindow> {
        self.hub.opcodes.read().window(tenant)
    }

    /// Whose an operation is; `None` where it is everybody's or there is none.
    pub fn opcode_owner(&self, opcode: Opcode) -> Option<TenantId> {
        self.hub.runner.owner(opcode)
    }

    /// From now on the device accepts this generation of the tenant's slot, and no other.
    ///
    /// # Errors
    /// [`TenantError`]: nothing changed.
    pub fn register_tenant_generation(&self, tenant: TenantId) -> Result<(), TenantError> {
        self.order(Order::SetTenant(tenant), tenant)?;
        self.hub.opcodes.write().succeed(tenant);
        Ok(())
    }

    /// From now on the device refuses the tenant's publishes; those already on the ring still run.
    ///
    /// # Errors
    /// [`TenantError`]: another generation is registered, or none; nothing changed.
    pub fn revoke_tenant_generation(&self, tenant: TenantId) -> Result<(), TenantError> {
        self.order(Order::ClearTenant(tenant), tenant)?;
        self.hub.opcodes.write().leave(tenant);
        Ok(())
    }

    fn order(&self, order: Order, tenant: TenantId) -> Result<(), TenantError> {
        match self.hub.control.call(order, None) {
            Some(Reply::Done) => Ok(()),
            Some(Reply::Stale | Reply::Unknown | Reply::Malformed) | None => {
                Err(TenantError::Stale { tenant })
            }
        }
    }

    /// Publishes one operation. Never blocks on the device; `done` is called exactly once.
    ///
    /// # Errors
    /// [`PublishRefused`]: `done` will not be called.
    pub fn publish(&self, task: Task, done: Arc<dyn Completion>) -> Result<Ticket, PublishRefused> {
        let mut results = self.publish_batch([(task, done)]);
        results.pop_front().unwrap_or(Err(PublishRefused::Closed))
    }

    /// Publishes many with one pass over the ring and one wake-up; each is accepted or refused for
    /// itself, in order.
    pub fn publish_batch(
        &self,
        tasks: impl IntoIterator<Item = (Task, Arc<dyn Completion>)>,
    ) -> VecDeque<Result<Ticket, PublishRefused>> {
        self.publish_all(tasks, false)
    }

    /// The same of operations that take microseconds: while all workers sleep, this thread runs
    /// them itself, and `done` is called on it before this returns. It runs nothing for longer
    /// than one of them takes, or some 20 us.
    pub fn publish_short(
        &self,
        tasks: impl IntoIterator<Item = (Task, Arc<dyn Completion>)>,
    ) -> VecDeque<Result<Ticket, PublishRefused>> {
        self.publish_all(tasks, true)
    }

    fn publish_all(
        &self,
        tasks: impl IntoIterator<Item = (Task, Arc<dyn Completion>)>,
        short: bool,
    ) -> VecDeque<Result<Ticket, PublishRefused>> {
        let tasks = tasks.into_iter().map(|(task, done)| {
            self.check(&task)?;
            Ok((task, done))
        });
        self.hub.publish(tasks, short)
    }

    fn check(&self, task: &Task) -> Result<(), PublishRefused> {
        if task.opcode == Opcode::PAD {
            return Err(PublishRefused::Pad);
        }
        let result = task.result.as_ref().map(ResultWindow::pinned);
        if result.is_some() && !self.hub.runner.fills_result_windows() {
            return Err(PublishRefused::NoResultWindows);
        }
        let windows = task.windows.len() + usize::from(result.is_some());
        crate::entry::slots_needed(task.args.len(), windows)?;
        let tenant = task.tenant;
        for (window, pinned) in task.windows.iter().chain(result).enumerate() {
            if pinned.tenant() != tenant || !self.buffers.same_as(pinned) {
                return Err(PublishRefused::ForeignWindow { window, tenant });
            }
        }
        Ok(())
    }

    /// Asks that an operation end early. Its completion comes in every case.
    pub fn cancel(&self, ticket: Ticket) -> Cancel {
        self.hub.cancel(ticket)
    }

    /// Refuses publishes, and waits until everything accepted is over and its callback returned.
    /// Publishes stay refused until [`Device::resume`]. Blocks; not to be called from a callback
    /// or an async thread.
    ///
    /// # Errors
    /// [`DrainError`]: something still runs; publishes stay refused.
    pub fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        let start = Instant::now();
        let until = start + limit;
        self.drains.fetch_add(1, Ordering::Relaxed);
        self.hub.pump.set_gate(Gate::Draining);
        let drained = self.hub.wait_quiet(until)
            && self.hub.control.call(Order::Drain, Some(until)).is_some();
        let waited = start.elapsed();
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.drain_waited.fetch_add(nanos, Ordering::Relaxed);
        if drained {
            return Ok(());
        }
        self.drain_timeouts.fetch_add(1, Ordering::Relaxed);
        let outstanding = self.hub.outstanding();
        Err(DrainError::TimedOut {
            outstanding,
            waited,
        })
    }

    /// Why this device answers no longer, if it is lost.
    pub fn lost(&self) -> Option<DeviceLost> {
        self.hub.lost().map(|lost| lost.why)
    }

    /// The process that runs it, if that is another one than this and lives.
    pub fn process(&self) -> Option<u32> {
        self.hub.runner.process()
    }

    /// Who is told of a loss; see [`Hub::when_lost`].
    pub(crate) fn when_lost(&self, tell: Box<dyn Fn() + Send + Sync>) {
        self.hub.when_lost(tell);
    }

    /// Whether it was lost and nothing of it runs any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.hub.is_settled()
    }

    /// Whether this process is a fork of the one that opened it.
    pub(crate) fn is_forked(&self) -> bool {
        self.hub.control.is_forked()
    }

    /// Accepts publishes again after a drain; without effect on a closed or lost device.
    pub fn resume(&self) {
        #[cfg(all(feature = "cuda", target_os = "linux"))]
        if let Some(runner) = &self.cuda {
            runner.linger();
        }
        self.hub.pump.set_gate(Gate::Open);
    }

    /// Counters.
    pub fn snapshot(&self) -> DeviceSnapshot {
        let mut snapshot = DeviceSnapshot::default();
        self.snapshot_into(&mut snapshot);
        snapshot
    }

    /// Counters, into the caller's storage; allocates only to grow the list of workers.
    pub fn snapshot_into(&self, into: &mut DeviceSnapshot) {
        self.hub.count_into(into);
        into.drains = self.drains.load(Ordering::Relaxed);
        into.drain_timeouts = self.drain_timeouts.load(Ordering::Relaxed);
        into.drain_waited_nanos = self.drain_waited.load(Ordering::Relaxed);
        into.buffers_available = self.buffers.available();
        into.workers.clear();
        let beats = beats(&self.hub.region, &self.hub.layout);
        into.workers.extend(beats.map(|words| Heartbeat {
            ticket: join(words[0], words[1]),
            since_nanos: join(words[2], words[3]),
            tile: words[4],
        }));
    }

    /// Refuses publishes; cancels what has not started, ends what runs at a tile boundary; waits
    /// for the workers. Idempotent. From a callback it does all but wait for its own thread.
    ///
    /// To let work finish, drain first.
    pub fn close(&self) {
        if self.hub.control.is_forked() {
            // The workers are the parent's, and so is the memory.
            return;
        }
        // Ordered once: what has stopped answers no second time.
        match self.hub.pump.set_gate(Gate::Closed) {
            Gate::Open | Gate::Draining => {
                self.hub.pump.retire(Status::Cancelled);
                self.hub.pump(false);
                self.hub.control.call(Order::Stop, None);
            }
            Gate::Lost | Gate::Closed => {}
        }
        self.hub.runner.stop();
        if self.hub.runner.runs_here() {
            // It cannot wait for itself; it ends once its callback has returned.
            return;
        }
        self.hub.runner.end();
        self.hub.reap();
        self.hub.sweep();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.close();
    }
}
