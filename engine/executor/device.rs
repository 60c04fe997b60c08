//! Device work: from a plan to an entry of the ring, and from its completion to an ending.
//!
//! Invariants
//! - What a thread collects is published however the collecting ends, also while it unwinds.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::Duration;

use orlop_admission::Reservation;
use orlop_gpu::{
    Completed, Completion, Device, OpError, Opcode, OpcodeWindow, PinnedOpcode, PublishRefused,
    RefusedWhy, Status, Task, TranslateError,
};
use orlop_saga::amount::BusyNanos;
use orlop_saga::audit::{Object, Operation};
use orlop_saga::canonical::Payload;
use orlop_saga::id::TenantId;
use orlop_saga::outcome::Failure;
use orlop_saga::tenant::AuditTag;
use parking_lot::Mutex;

use super::{Executor, Running, guarded};
use crate::audit::Auditor;
use crate::budget::Fee;
use crate::buffer::{self, Buffer, Desk, ResultRoom};
use crate::course::Ending;
use crate::device::{DeviceCode, Plan};
use crate::host::Attempt;

impl Executor {
    pub(super) fn launch_device(
        self: &Arc<Self>,
        code: Arc<dyn DeviceCode>,
        input: &Payload,
        attempt: Attempt,
        timeout: Option<Duration>,
        run: Running,
    ) {
        let plan = match guarded(|| code.plan(input)) {
            Ok(plan) => plan,
            Err(failure) => return run.end(Ending::Failed(failure), BusyNanos::default()),
        };
        let launch = DeviceLaunch {
            device: self.device.current(),
            code,
            attempt,
            timeout,
            plan,
        };
        let tenant = launch.attempt.tenant;
        match buffer::bind(&launch.device, &self.cache, tenant, &launch.plan.sources) {
            Ok(windows) => self.publish(launch, windows, Vec::new(), run),
            Err(buffer::BindPlanError::Absent(reference)) => {
                let executor = Arc::clone(self);
                // The source may block, and whoever launches may not.
                self.runtime.spawn_blocking(move || {
                    executor.publish_after_load(launch, reference, run);
                });
            }
            Err(buffer::BindPlanError::Failed(failure)) => launch.failed(failure, run),
        }
    }

    /// Brings absent buffers back from the embedder's source, one after the other.
    fn publish_after_load(&self, launch: DeviceLaunch, absent: orlop_gpu::BufferRef, run: Running) {
        let tenant = launch.attempt.tenant;
        let mut absent = absent;
        let mut brought = Vec::new();
        let account = run.account().cloned();
        for _ in 0..=launch.plan.sources.len() {
            let desk = Desk {
                device: &launch.device,
                cache: &self.cache,
                tenant,
                account: account.as_ref(),
            };
            match buffer::load(desk, self.source.as_deref(), &absent.digest, true) {
                // Held until the operation is over: it is the tenant's memory all that time.
                Ok(buffer) => brought.push(buffer),
                Err(error) => {
                    if error.is_gone() {
                        let object = Object::Buffer(absent.digest);
                        self.audit.suspect(tenant, Operation::Run, object);
                    }
                    let failure = Failure::retryable(error.0);
                    return launch.failed(failure, run);
                }
            }
            match buffer::bind(&launch.device, &self.cache, tenant, &launch.plan.sources) {
                Ok(windows) => return self.publish(launch, windows, brought, run),
                Err(buffer::BindPlanError::Absent(reference)) => absent = reference,
                Err(buffer::BindPlanError::Failed(failure)) => {
                    return launch.failed(failure, run);
                }
            }
        }
        let failure = Failure::retryable("the buffers do not fit onto the device together");
        launch.failed(failure, run);
    }

    /// Room for a result that is longer than a permit's area, if the plan has one.
    fn result_room(
        &self,
        launch: &DeviceLaunch,
        run: &Running,
    ) -> Result<Option<ResultRoom>, Failure> {
        let bytes = launch.plan.result_bytes_max;
        if bytes <= launch.device.result_bytes_max() {
            return Ok(None);
        }
        let desk = Desk {
            device: &launch.device,
            cache: &self.cache,
            tenant: launch.attempt.tenant,
            account: run.account(),
        };
        buffer::result(desk, bytes)
            .map(Some)
            .map_err(Failure::retryable)
    }

    fn publish(
        &self,
        launch: DeviceLaunch,
        windows: buffer::Windows,
        brought: Vec<Buffer>,
        run: Running,
    ) {
        let (result, reserved) = match self.result_room(&launch, &run) {
            Ok(room) => room.unzip(),
            Err(failure) => return launch.failed(failure, run),
        };
        let DeviceLaunch {
            device,
            code,
            attempt,
            timeout,
            plan,
        } = launch;
        let translated = code
            .local()
            .map(|local| device.translate(attempt.tenant, local))
            .transpose();
        let pinned = match translated {
            Ok(pinned) => pinned,
            Err(error) => {
                drop(brought);
                return self.not_translated(&device, attempt.tenant, error, run);
            }
        };
        let opcode = pinned
            .as_ref()
            .map_or_else(|| code.opcode(), PinnedOpcode::get);
        let short = is_short(opcode, &run);
        let task = Task {
            opcode,
            tenant: attempt.tenant,
            attempt: attempt.fence.attempt.get(),
            deadline: timeout,
            tiles_max: 0,
            args: plan.args,
            windows,
            result,
        };
        let job = Arc::new(DeviceJob {
            code,
            opcode,
            output_max: self.output_max,
            tenant: attempt.tenant,
            tag: run.audit(),
            audit: Arc::clone(&self.audit),
            device: Arc::downgrade(&device),
            run: Mutex::new(Some((
                run,
                Kept {
                    brought,
                    pinned,
                    reserved: reserved.flatten(),
                },
            ))),
        });
        let uncorked = CORK.with_borrow_mut(|cork| match cork {
            Some(corked) => {
                corked.short &= short;
                corked.work.push((Arc::clone(&device), task, job));
                None
            }
            None => Some((task, job)),
        });
        if let Some(work) = uncorked {
            publish(&device, vec![work], short);
        }
    }

    /// Ends an attempt whose opcode is none of its tenant's.
    fn not_translated(
        &self,
        device: &Device,
        tenant: TenantId,
        error: TranslateError,
        run: Running,
    ) {
        let (object, owner) = match error {
            TranslateError::OutOfRange { asked, .. } => {
                let window = device.opcode_window(tenant);
                let first = window.map_or(Opcode::PAD, OpcodeWindow::first);
                let opcode = Opcode::new(first.get().saturating_add(asked));
                let owner = device.opcode_owner(opcode);
                (Object::Opcode(opcode.get()), owner)
            }
            TranslateError::NoWindow { .. } => (Object::Life(tenant), None),
            _ => (Object::Life(tenant), None),
        };
        let (tag, operation) = (run.audit(), Operation::Run);
        self.audit.denied(tenant, tag, operation, object, owner);
        // The tenant's state, not the input's: the key must not remember it.
        let failure = Failure::retryable("the device refused it: UnknownOpcode");
        run.end(Ending::Failed(failure), BusyNanos::default());
    }

    /// Collects what `work` publishes on this thread into one run of ring entries with one wake.
    #[expect(
        clippy::unused_self,
        reason = "what is collected is published by an executor"
    )]
    pub(crate) fn corked<T>(&self, work: impl FnOnce() -> T) -> T {
        let cork = Cork {
            outer: CORK.replace(Some(Corked::default())),
        };
        let value = work();
        drop(cork);
        value
    }
}

/// Publishes, when dropped, what the thread has collected; also while it unwinds.
struct Cork {
    outer: Option<Corked>,
}

/// What was collected, and whether all of it is short.
struct Corked {
    work: Vec<(Arc<Device>, Task, Arc<DeviceJob>)>,
    short: bool,
}

impl Default for Corked {
    fn default() -> Self {
        Self {
            work: Vec::new(),
            short: true,
        }
    }
}

impl Drop for Cork {
    fn drop(&mut self) {
        let corked = CORK.replace(self.outer.take()).unwrap_or_default();
        let mut work = corked.work.into_iter().peekable();
        // Of several epochs only where a device was lost in between.
        while let Some((device, task, job)) = work.next() {
            let mut run = vec![(task, job)];
            while let Some((_, task, job)) = work.next_if(|(other, ..)| Arc::ptr_eq(other, &device))
            {
                run.push((task, job));
            }
            publish(&device, run, corked.short);
        }
    }
}

/// One run of entries with one wake-up, or none if this thread runs them.
fn publish(device: &Device, work: Vec<(Task, Arc<DeviceJob>)>, short: bool) {
    let jobs: Vec<Arc<DeviceJob>> = work.iter().map(|(_, job)| Arc::clone(job)).collect();
    let tasks = work
        .into_iter()
        .map(|(task, job)| (task, job as Arc<dyn Completion>));
    let results = if short {
        device.publish_short(tasks)
    } else {
        device.publish_batch(tasks)
    };
    for (job, result) in jobs.iter().zip(results) {
        if let Err(refused) = result {
            job.refused(&refused);
        }
    }
}

/// Whether whoever publishes it may run it: it is expected to take less than waking another thread,
/// and it is no code of the embedder's, which may block whatever was measured of it.
fn is_short(opcode: Opcode, run: &Running) -> bool {
    let permit = run.slot.as_ref().and_then(|slot| slot.permit.as_ref());
    !opcode.is_user() && permit.is_some_and(|permit| permit.estimate() <= SHORT)
}

/// The most that short work is expected to take.
const SHORT: BusyNanos = BusyNanos::new(10_000);

thread_local! {
    /// What this thread has launched and not yet published, while it collects a batch.
    static CORK: RefCell<Option<Corked>> = const { RefCell::new(None) };
}

struct DeviceLaunch {
    device: Arc<Device>,
    code: Arc<dyn DeviceCode>,
    attempt: Attempt,
    timeout: Option<Duration>,
    plan: Plan,
}

impl DeviceLaunch {
    /// Ends an attempt that was not published. What a lost device does not take is no fault of it.
    fn failed(&self, failure: Failure, run: Running) {
        let ending = match self.device.lost() {
            Some(_) => Ending::Lost { running: false },
            None => Ending::Failed(failure),
        };
        run.end(ending, BusyNanos::default());
    }
}

/// What is held for an attempt until it has ended.
struct Kept {
    /// The buffers that were brought back for it.
    #[expect(dead_code, reason = "held, and not read")]
    brought: Vec<Buffer>,
    /// What keeps its opcode its tenant's.
    #[expect(dead_code, reason = "held, and not read")]
    pinned: Option<PinnedOpcode>,
    /// What its result counts as.
    #[expect(dead_code, reason = "held, and not read")]
    reserved: Option<Reservation>,
}

/// An attempt on the ring: what its entry's record owns.
struct DeviceJob {
    code: Arc<dyn DeviceCode>,
    opcode: Opcode,
    output_max: usize,
    tenant: TenantId,
    tag: AuditTag,
    audit: Arc<Auditor>,
    device: Weak<Device>,
    run: Mutex<Option<(Running, Kept)>>,
}

impl DeviceJob {
    fn end(&self, ending: Ending, cost: BusyNanos) {
        let run = self.run.lock().take();
        if let Some((run, kept)) = run {
            // Whoever hears of the end may want the room, or have the window given away.
            drop(kept);
            run.end(ending, cost);
        }
    }

    /// The device says that it is none of this tenant's.
    fn denied(&self, object: Object, owner: Option<TenantId>) {
        self.audit
            .denied(self.tenant, self.tag, Operation::Run, object, owner);
    }

    fn refused_by_device(&self, why: RefusedWhy) {
        match why {
            RefusedWhy::UnknownOpcode => {
                let device = self.device.upgrade();
                let owner = device.and_then(|device| device.opcode_owner(self.opcode));
                self.denied(Object::Opcode(self.opcode.get()), owner);
            }
            RefusedWhy::StaleTenant => self.denied(Object::Life(self.tenant), None),
            RefusedWhy::StaleWindow | RefusedWhy::WindowBounds | RefusedWhy::ForeignWindow => {
                self.denied(Object::Window(None), None);
            }
            RefusedWhy::Malformed | RefusedWhy::TooManyTiles => {}
        }
    }

    fn refused(&self, refused: &PublishRefused) {
        if let PublishRefused::ForeignWindow { window, .. } = refused {
            self.denied(Object::Window(u32::try_from(*window).ok()), None);
        }
        let ending = match refused {
            PublishRefused::Lost => Ending::Lost { running: false },
            PublishRefused::Closed | PublishRefused::Draining => Ending::Interrupted,
            PublishRefused::Pad | PublishRefused::Encode(_) => {
                Ending::Failed(Failure::permanent(refused))
            }
            // The device's state, not the input's: the key must not remember it.
            PublishRefused::Full { .. } | PublishRefused::ForeignWindow { .. } => {
                Ending::Failed(Failure::retryable(refused))
            }
            PublishRefused::NoResultWindows | _ => Ending::Failed(Failure::retryable(refused)),
        };
        self.end(ending, BusyNanos::default());
    }
}

impl Completion for DeviceJob {
    fn completed(self: Arc<Self>, completed: Completed) {
        let Completed {
            status,
            cost,
            result,
            ..
        } = completed;
        let ending = match status {
            Status::Done => {
                let result = result.as_ref();
                Ending::of_result(guarded(|| self.code.output(result, self.output_max)))
            }
            Status::Failed { code } => Ending::Failed(Failure::permanent(OpError::new(code))),
            // Nothing here cancels on the device but its close.
            Status::Cancelled => Ending::Interrupted,
            Status::Expired => {
                Ending::Failed(Failure::retryable("it took longer than its time-out"))
            }
            Status::Refused(why) => {
                self.refused_by_device(why);
                Ending::Failed(Failure::retryable(format!(
                    "the device refused it: {why:?}"
                )))
            }
            Status::Lost { running } => Ending::Lost { running },
            Status::Faulted => {
                let text = String::from_utf8_lossy(result.as_ref()).into_owned();
                Ending::Failed(Failure::retryable(format!("the operation faulted: {text}")))
            }
        };
        // Whoever hears of the end may want the room.
        drop(result);
        self.end(ending, cost);
    }

    fn lost(&self, running: bool) {
        let run = self.run.lock();
        let owner = run.as_ref().and_then(|(run, _)| run.owner());
        drop(run);
        if let Some(owner) = owner {
            // It goes on where it can; the permit comes back with the completion.
            super::tell(&owner, Ending::Lost { running }, Fee::FREE);
        }
    }
}

#[cfg(test)]
mod tests;
