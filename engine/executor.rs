//! The executor: takes one attempt through admission to where it runs, and hears its end.
//!
//! Invariants
//! - A permit is settled when its slot is observed done, before the attempt's owner hears of it.
//! - An owner hears exactly once how an attempt that was launched ended.
//! - A panic in code of the embedder is the failure of one attempt and of nothing else.

mod allow;
mod bell;
mod busy;
mod device;
#[cfg(feature = "testkit")]
pub(crate) mod turnstile;
mod waited;
mod waiting;
mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use orlop_admission::{
    Bulkhead, BulkheadId, ExclusionId, HeldScope, Lane, Permit, Refusal, TenantAccount, WaitingRoom,
};
use orlop_gpu::Epochs;
use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::canonical::Payload;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::{Failure, clip};
use orlop_saga::step::Prior;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::time::{Clock, Monotonic};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::busy::Busy;
use self::busy::BusyGuard;
use crate::audit::Auditor;
use crate::budget::{Charge, Fee, Treasury};
use crate::buffer::{BufferSource, Cache};
use crate::course::Ending;
use crate::host::{Attempt, Reconciled};
use crate::lease::Bounds;
use crate::meter::Meters;
use crate::registry::{Binding, Code, UndoEntry};
use crate::runtime::OwnRuntime;

pub(crate) use self::bell::{Bell, Rope};
pub(crate) use self::waiting::{Admitted, Ticket};

/// What an attempt does.
#[derive(Clone)]
pub(crate) enum Action {
    /// Runs a computation.
    Run { code: Arc<Code>, input: Payload },
    /// Asks what became of one.
    Reconcile { code: Arc<Code>, input: Payload },
    /// Removes what attempts of one left under names of their own.
    Sweep { code: Arc<Code> },
    /// Undoes a step.
    Undo {
        entry: Arc<UndoEntry>,
        argument: Payload,
        step_key: RemoteKey,
        prior: Prior,
    },
}

/// On whose behalf, and how urgent.
#[derive(Clone)]
pub(crate) struct Demand {
    pub(crate) account: Arc<TenantAccount>,
    pub(crate) audit: AuditTag,
    pub(crate) class: Class,
    pub(crate) lane: Lane,
    pub(crate) deadline: Option<Monotonic>,
    /// Whether it was promised: it waits for what it is refused for to pass, and is finished while
    /// the tenant is draining.
    pub(crate) patient: bool,
    /// What it writes to the journal before it runs, as far as that is not counted yet.
    pub(crate) journal: ByteCount,
}

/// How an attempt ended and what it cost.
pub(crate) struct Ended {
    pub(crate) ending: Ending,
    pub(crate) fee: Fee,
}

/// Who launched an attempt.
pub(crate) trait Owner: Send + Sync + 'static {
    /// Called once, on any thread, with no lock held.
    fn ended(self: Arc<Self>, ended: Ended);
}

/// See the module.
pub(crate) struct Executor {
    pub(crate) bulkheads: HashMap<Box<str>, Gate>,
    /// Where accepted work waits that a bulkhead refuses for now.
    pub(crate) room: WaitingRoom,
    pub(crate) device: Arc<Epochs>,
    pub(crate) runtime: Arc<OwnRuntime>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) source: Option<Arc<dyn BufferSource>>,
    /// The buffers on the device that nobody holds.
    pub(crate) cache: Cache,
    pub(crate) treasury: Arc<Treasury>,
    pub(crate) output_max: usize,
    pub(crate) busy: Arc<Busy>,
    pub(crate) audit: Arc<Auditor>,
    /// Where attempts wait for a simulation to let them through.
    #[cfg(feature = "testkit")]
    pub(crate) turnstile: Option<Arc<dyn turnstile::Turnstile>>,
}

/// A bulkhead and when its next waiter runs out of time.
pub(crate) struct Gate {
    bulkhead: Arc<Bulkhead>,
    armed: Arc<AtomicU64>,
    pub(crate) meters: Arc<Meters>,
}

impl Gate {
    pub(crate) fn new(bulkhead: Bulkhead) -> Self {
        Self {
            bulkhead: Arc::new(bulkhead),
            armed: Arc::new(AtomicU64::new(u64::MAX)),
            meters: Arc::default(),
        }
    }

    pub(crate) fn bulkhead(&self) -> &Arc<Bulkhead> {
        &self.bulkhead
    }
}

/// The name of the device's bulkhead.
pub(crate) const DEVICE: &str = "device";

impl Action {
    fn bulkhead(&self) -> &str {
        match self {
            Self::Run { code, .. } => &code.bulkhead,
            // A question is I/O, wherever the computation itself runs.
            Self::Reconcile { .. } | Self::Sweep { .. } => crate::host::HOST_IO,
            Self::Undo { entry, .. } => &entry.bulkhead,
        }
    }

    fn is_external(&self) -> bool {
        match self {
            Self::Run { code, .. } => code.external,
            Self::Reconcile { .. } | Self::Sweep { .. } | Self::Undo { .. } => true,
        }
    }

    fn ordinal(&self) -> u32 {
        match self {
            Self::Run { code, .. } | Self::Reconcile { code, .. } | Self::Sweep { code } => {
                code.ordinal
            }
            Self::Undo { entry, .. } => entry.ordinal,
        }
    }

    /// What it must not run beside. What finds out or takes back is never held up.
    fn exclusion(&self) -> Option<ExclusionId> {
        match self {
            Self::Run { code, .. } => code.exclusion.as_ref()?.id,
            Self::Reconcile { .. } | Self::Sweep { .. } | Self::Undo { .. } => None,
        }
    }

    /// How large its input is: work of about the same size is expected to cost the same.
    fn size(&self) -> ByteCount {
        ByteCount::of(match self {
            Self::Run { input, .. } | Self::Reconcile { input, .. } => input.as_bytes(),
            Self::Sweep { .. } => &[],
            Self::Undo { argument, .. } => argument.as_bytes(),
        })
    }

    /// How many kernels it occupies: one, if it runs on the device.
    fn kernels(&self) -> u64 {
        match self {
            Self::Run { code, .. } => match code.binding {
                Binding::Device(_) => 1,
                Binding::Async(_) | Binding::Blocking(_) => 0,
            },
            Self::Reconcile { .. } | Self::Sweep { .. } | Self::Undo { .. } => 0,
        }
    }

    fn staging(&self) -> ByteCount {
        match self {
            Self::Run { code, input } => match code.binding {
                Binding::Device(_) => ByteCount::of(input.as_bytes()),
                Binding::Async(_) | Binding::Blocking(_) => ByteCount::default(),
            },
            Self::Reconcile { .. } | Self::Sweep { .. } | Self::Undo { .. } => ByteCount::default(),
        }
    }
}

impl Executor {
    /// Sees to it that waiters whose time is over are refused in time.
    fn arm(self: &Arc<Self>, bulkhead: &Arc<Bulkhead>, armed: &Arc<AtomicU64>) {
        let Some(next) = bulkhead.next_expiry() else {
            return;
        };
        if armed.fetch_min(next.get(), Ordering::AcqRel) <= next.get() {
            return;
        }
        let wait = next.since(self.clock.monotonic());
        let (executor, bulkhead, armed) = (
            Arc::downgrade(self),
            Arc::clone(bulkhead),
            Arc::clone(armed),
        );
        self.runtime.after(wait, move || {
            armed.store(u64::MAX, Ordering::Release);
            if let Some(executor) = executor.upgrade() {
                bulkhead.expire(executor.clock.monotonic());
                executor.arm(&bulkhead, &armed);
            }
        });
    }

    /// Whether this thread runs work that holds a permit of the bulkhead of `action`.
    pub(crate) fn is_nested(&self, action: &Action) -> Option<Refusal> {
        let gate = self.bulkheads.get(action.bulkhead())?;
        let bulkhead = Arc::clone(gate.bulkhead.name());
        HeldScope::is_inside(gate.bulkhead.id()).then_some(Refusal::Nested { bulkhead })
    }

    /// Starts an attempt under its permit.
    pub(crate) fn launch(
        self: &Arc<Self>,
        action: Action,
        attempt: Attempt,
        bounds: Bounds,
        permit: Permit,
        owner: Arc<dyn Owner>,
    ) {
        #[cfg(feature = "testkit")]
        if let Some(turnstile) = &self.turnstile {
            turnstile.arrive(turnstile::Launch {
                executor: Arc::clone(self),
                action,
                attempt,
                bounds,
                permit: Some(permit),
                owner,
            });
            return;
        }
        self.start(action, attempt, bounds, Some(permit), owner);
    }

    fn start(
        self: &Arc<Self>,
        action: Action,
        attempt: Attempt,
        bounds: Bounds,
        permit: Option<Permit>,
        owner: Arc<dyn Owner>,
    ) {
        let external = action.is_external();
        let gate = self.bulkheads.get(action.bulkhead());
        let slot = Slot {
            permit,
            meters: gate.map(|gate| Arc::clone(&gate.meters)),
            owner: Owned::new(owner),
            treasury: Arc::clone(&self.treasury),
            _busy: self.busy.begin(self.runtime.timers().work()),
        };
        let run = Running {
            slot: Some(slot),
            external,
        };
        if let (Some(lease), Some(owner)) = (bounds.lease, run.owner()) {
            self.watch(lease, &attempt, owner);
        }
        let timeout = bounds.timeout;
        match action {
            Action::Run { code, input } => match &code.binding {
                Binding::Device(device) => {
                    self.launch_device(Arc::clone(device), &input, attempt, timeout, run);
                }
                Binding::Async(function) => {
                    let call = Arc::clone(function).call(attempt, input, self.output_max);
                    let call = call.map(Ending::of_result);
                    self.launch_future(call, timeout, code.external, &code.bulkhead, run);
                }
                Binding::Blocking(_) => self.launch_blocking(code, input, attempt, timeout, run),
            },
            Action::Reconcile { code, input } => match &code.reconcile {
                Some(reconcile) => {
                    let ask = Arc::clone(reconcile).ask(attempt, input, self.output_max);
                    let ask = ask.map(Ending::of_reconciled);
                    self.launch_future(ask, timeout, true, crate::host::HOST_IO, run);
                }
                None => run.end(
                    Ending::Unknown("the computation cannot be reconciled".to_owned()),
                    BusyNanos::default(),
                ),
            },
            Action::Sweep { code } => match &code.reconcile {
                Some(reconcile) => {
                    let sweep = Arc::clone(reconcile).sweep(attempt).map(Ending::of_sweep);
                    self.launch_future(sweep, timeout, true, crate::host::HOST_IO, run);
                }
                None => run.end(
                    Ending::Unknown("the computation has no sweep".to_owned()),
                    BusyNanos::default(),
                ),
            },
            Action::Undo {
                entry,
                argument,
                step_key,
                prior,
            } => {
                let call = Arc::clone(&entry.code).call(attempt, argument, step_key, prior);
                let call = call.map(|result| match result {
                    Ok(()) => Ending::Undone,
                    Err(failure) => Ending::Failed(failure),
                });
                self.launch_future(call, timeout, true, &entry.bulkhead, run);
            }
        }
    }

    fn launch_future(
        &self,
        call: impl Future<Output = Ending> + Send + 'static,
        timeout: Option<Duration>,
        external: bool,
        bulkhead: &str,
        run: Running,
    ) {
        let held = self.bulkheads.get(bulkhead).map(|gate| gate.bulkhead.id());
        let clock = Arc::clone(&self.clock);
        let timers = self.runtime.timers().clone();
        self.runtime.spawn(async move {
            let start = clock.monotonic();
            let call = AssertUnwindSafe(Held {
                bulkhead: held,
                future: Box::pin(call),
            });
            let caught = call.catch_unwind();
            let bounded = async {
                match timeout {
                    Some(timeout) => timers.timeout(timeout, caught).await,
                    None => Some(caught.await),
                }
            };
            let released = run.released();
            let result = match select(pin!(bounded), pin!(released)).await {
                Either::Left((result, _)) => result,
                // It was given up: what it would say is not heard any more.
                Either::Right(_) => None,
            };
            let ending = match result {
                Some(Ok(ending)) => ending,
                Some(Err(panic)) => Ending::lost(external, &panic_text(&*panic)),
                None => Ending::lost(external, "it took longer than its time-out"),
            };
            run.end(ending, clock.monotonic().since(start).into());
        });
    }

    fn launch_blocking(
        &self,
        code: Arc<Code>,
        input: Payload,
        attempt: Attempt,
        timeout: Option<Duration>,
        run: Running,
    ) {
        if let (Some(timeout), Some(owner)) = (timeout, run.owner()) {
            // The thread cannot be stopped and keeps its slot; its owner need not wait for it.
            self.runtime.after(timeout, move || {
                let late = Ending::lost(false, "it took longer than its time-out");
                tell(&owner, late, Fee::FREE);
            });
        }
        let held = self
            .bulkheads
            .get(&code.bulkhead)
            .map(|gate| gate.bulkhead.id());
        let (clock, output_max) = (Arc::clone(&self.clock), self.output_max);
        self.runtime.spawn_blocking(move || {
            let start = clock.monotonic();
            let Binding::Blocking(function) = &code.binding else {
                return;
            };
            let entered = held.map(HeldScope::enter);
            let call = || function.call(&attempt, &input, output_max);
            let ending = match std::panic::catch_unwind(AssertUnwindSafe(call)) {
                Ok(result) => Ending::of_result(result),
                Err(panic) => Ending::lost(false, &panic_text(&*panic)),
            };
            drop(entered);
            run.end(ending, clock.monotonic().since(start).into());
        });
    }
}

/// An attempt that owns its slot. Dropped without an end, it ends as lost: its owner always hears.
struct Running {
    slot: Option<Slot>,
    external: bool,
}

struct Slot {
    /// None for what a simulation does once more than was asked for.
    permit: Option<Permit>,
    meters: Option<Arc<Meters>>,
    owner: Owned,
    treasury: Arc<Treasury>,
    _busy: BusyGuard,
}

/// The owner of an attempt, taken by whoever tells it first: the end, a time-out, a watchdog.
#[derive(Clone)]
struct Owned(Arc<Owning>);

struct Owning {
    owner: Mutex<Option<Arc<dyn Owner>>>,
    given_up: Notify,
}

impl Owned {
    fn new(owner: Arc<dyn Owner>) -> Self {
        Self(Arc::new(Owning {
            owner: Mutex::new(Some(owner)),
            given_up: Notify::new(),
        }))
    }

    fn is_told(&self) -> bool {
        self.0.owner.lock().is_none()
    }

    /// Nobody waits for the attempt: it may end where it is.
    fn release(&self) {
        self.0.given_up.notify_one();
    }
}

impl Running {
    fn end(mut self, ending: Ending, cost: BusyNanos) {
        self.finish(ending, cost);
    }

    fn finish(&mut self, ending: Ending, cost: BusyNanos) {
        let Some(slot) = self.slot.take() else {
            return;
        };
        let charge = slot.permit.and_then(|permit| {
            if let Some(meters) = &slot.meters {
                meters.settled(permit.lane(), cost, permit.estimate());
            }
            Charge::settle(&slot.treasury, permit, cost)
        });
        tell(&slot.owner, ending, Fee(charge));
    }

    /// Who pays.
    fn audit(&self) -> AuditTag {
        let permit = self.slot.as_ref().and_then(|slot| slot.permit.as_ref());
        permit.map(Permit::audit).unwrap_or_default()
    }

    /// Whose work it is.
    fn account(&self) -> Option<&Arc<TenantAccount>> {
        let permit = self.slot.as_ref()?.permit.as_ref()?;
        Some(permit.tenant())
    }

    fn owner(&self) -> Option<Owned> {
        self.slot.as_ref().map(|slot| slot.owner.clone())
    }

    /// Once nobody waits for it any more.
    fn released(&self) -> impl Future<Output = ()> + use<> {
        let owner = self.owner();
        async move {
            match owner {
                Some(owner) => owner.0.given_up.notified().await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let lost = Ending::lost(self.external, "its end was lost");
        self.finish(lost, BusyNanos::default());
    }
}

/// Tells an owner, unless it was told before.
fn tell(owner: &Owned, ending: Ending, fee: Fee) {
    let owner = owner.0.owner.lock().take();
    if let Some(owner) = owner {
        owner.ended(Ended { ending, fee });
    }
}

impl Ending {
    fn of_result(result: Result<Payload, Failure>) -> Self {
        match result {
            Ok(output) => Self::Output(output),
            Err(failure) => Self::Failed(failure),
        }
    }

    fn of_reconciled(reconciled: Reconciled<Payload>) -> Self {
        match reconciled {
            Reconciled::Done(output) => Self::Output(output),
            Reconciled::NotDone => Self::NotDone,
            Reconciled::Unknown(reason) => Self::Unknown(reason),
        }
    }

    fn of_sweep(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Swept,
            Err(failure) => Self::Failed(failure),
        }
    }

    /// An attempt whose end nobody saw.
    fn lost(external: bool, reason: &str) -> Self {
        let failure = if external {
            Failure::in_doubt(reason)
        } else {
            Failure::retryable(reason)
        };
        Self::Failed(failure)
    }
}

/// Runs code of the embedder; a panic in it is a failure of its input.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => Err(Failure::permanent(panic_text(&*panic))),
    }
}

/// The text of a panic's payload.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    clip(format!(
        "it panicked: {}",
        text.unwrap_or("with no message")
    ))
}

/// A future that runs under a permit, and whose own submissions are told so.
struct Held<F> {
    bulkhead: Option<BulkheadId>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let _held = self.bulkhead.map(HeldScope::enter);
        self.future.as_mut().poll(context)
    }
}
