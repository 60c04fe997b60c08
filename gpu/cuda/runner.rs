//! Runner: the megakernel on a chip, for the pump and the hub of this process.
//!
//! Two threads: one watches the chip (see `watch`), the other takes completions off the ring and
//! calls back. They are two, since a callback may wait for an order's reply.
//!
//! Invariants
//! - Whoever wrote something and then sees `live` need not wake the watch: it was written before
//!   the watch looked whether the kernel may leave.
//! - Callbacks run on one thread of this runner, and on threads that publish or cancel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use orlop_saga::id::TenantId;
use parking_lot::{Condvar, Mutex};

use super::chip::{Chip, Limits};
use super::error::CudaError;
use super::found::CudaFound;
use super::options::CudaOptions;
use super::reap::reap;
use super::watch::Watch;
use crate::control::Doorbell;
use crate::entry::Opcode;
use crate::hub::Hub;
use crate::layout::Layout;
use crate::memory::Region;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow};
use crate::ops::{HostOp, RegisterError};
use crate::runner::Runner;

/// What both threads and the doorbells share.
#[derive(Default)]
pub(super) struct Shared {
    /// A kernel is there and stays while something is to be done.
    pub(super) live: AtomicBool,
    /// `Stop` was ordered and answered: the kernel leaves, and so do the threads.
    pub(super) stopping: AtomicBool,
    /// The kernel has left for good, or was lost.
    pub(super) over: AtomicBool,
    /// Kernels launched.
    pub(super) launches: AtomicU64,
    /// Hand-overs asked for.
    pub(super) handovers: AtomicU64,
    /// Whether an idle kernel is to leave at once, and whether one is there at all.
    pub(super) quiet: Mutex<Quiet>,
    pub(super) left: Condvar,
    watch: OnceLock<Thread>,
    reaper: OnceLock<Thread>,
    woken: AtomicU64,
    hub: OnceLock<Weak<Hub>>,
}

/// See [`Shared::quiet`].
#[derive(Debug, Default)]
pub(super) struct Quiet {
    pub(super) wanted: bool,
    pub(super) there: bool,
}

impl Shared {
    pub(super) fn wake_watch(&self) {
        if let Some(thread) = self.watch.get() {
            thread.unpark();
        }
    }

    pub(super) fn wake_reaper(&self) {
        if let Some(thread) = self.reaper.get() {
            thread.unpark();
        }
    }
}

/// What is opened on a chip.
pub(super) struct Plan {
    pub(super) found: CudaFound,
    pub(super) options: CudaOptions,
    pub(super) layout: Layout,
    pub(super) limits: Limits,
}

/// See the module.
pub(crate) struct CudaRunner {
    shared: Arc<Shared>,
    /// For the hub, once there is one; the watch waits for it.
    hub: Mutex<Option<Sender<Arc<Hub>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl CudaRunner {
    /// Takes what the kernel needs of the chip. Nothing runs before [`CudaRunner::start`]; dropped
    /// before that, it gives everything back.
    pub(super) fn open(plan: Plan, region: &Arc<Region>) -> Result<Self, CudaError> {
        let shared = Arc::new(Shared::default());
        let (ready, opened) = channel();
        let (hub, given) = channel::<Arc<Hub>>();
        let own = Arc::clone(region);
        let watched = Arc::clone(&shared);
        let thread = spawn("orlop-cuda-watch", move || {
            let Plan {
                found,
                options,
                layout,
                limits,
            } = plan;
            let chip = match Chip::open(&found, own, &layout, limits) {
                Ok(chip) => chip,
                Err(error) => {
                    // Whoever opens waits for this.
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            // Whoever opens waits for this.
            let _ = ready.send(Ok(()));
            if let Ok(hub) = given.recv() {
                Watch::new(chip, hub, watched, &options).run();
            }
        })?;
        let _ = shared.watch.set(thread.thread().clone());
        let gone = Err(CudaError::Thread {
            kind: std::io::ErrorKind::BrokenPipe,
        });
        if let Err(error) = opened.recv().unwrap_or(gone) {
            let _ = thread.join();
            return Err(error);
        }
        Ok(Self {
            shared,
            hub: Mutex::new(Some(hub)),
            threads: Mutex::new(vec![thread]),
        })
    }

    /// From now on the kernel is launched when there is something to do.
    pub(super) fn start(&self, hub: &Arc<Hub>) -> Result<(), CudaError> {
        let _ = self.shared.hub.set(Arc::downgrade(hub));
        let (own, shared) = (Arc::clone(hub), Arc::clone(&self.shared));
        let thread = spawn("orlop-cuda-reap", move || reap(&own, &shared))?;
        let _ = self.shared.reaper.set(thread.thread().clone());
        self.threads.lock().push(thread);
        if let Some(give) = self.hub.lock().take() {
            // The watch waits for nothing else.
            let _ = give.send(Arc::clone(hub));
        }
        Ok(())
    }

    /// Has another launch of the kernel take over from the one that runs, if one does.
    pub(crate) fn hand_over(&self) {
        self.shared.handovers.fetch_add(1, Ordering::SeqCst);
        self.shared.wake_watch();
    }

    /// Kernels launched so far.
    pub(crate) fn launches(&self) -> u64 {
        self.shared.launches.load(Ordering::SeqCst)
    }

    /// Has the kernel leave as soon as nothing is to be done, and waits for that; `false` if
    /// `until` passed first. An idle kernel lingers again after [`CudaRunner::linger`].
    pub(crate) fn quiesce(&self, until: Instant) -> bool {
        let mut quiet = self.shared.quiet.lock();
        quiet.wanted = true;
        self.shared.wake_watch();
        while quiet.there {
            if self.shared.left.wait_until(&mut quiet, until).timed_out() {
                return !quiet.there;
            }
        }
        true
    }

    /// Takes back what [`CudaRunner::quiesce`] asked for.
    pub(crate) fn linger(&self) {
        self.shared.quiet.lock().wanted = false;
    }
}

impl std::fmt::Debug for CudaRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaRunner")
            .field("launches", &self.launches())
            .finish_non_exhaustive()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, CudaError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(run)
        .map_err(|error| CudaError::Thread { kind: error.kind() })
}

impl Doorbell for CudaRunner {
    fn entries_written(&self) {
        self.shared.wake_reaper();
        // Pairs with the fence of the watch between saying that the kernel leaves and looking
        // whether something is to be done.
        fence(Ordering::SeqCst);
        if !self.shared.live.load(Ordering::SeqCst) {
            self.shared.woken.fetch_add(1, Ordering::Relaxed);
            self.shared.wake_watch();
        }
    }

    fn orders_written(&self) {
        // Replies are the watch's to look for, whether or not a kernel is there.
        self.shared.wake_watch();
    }
}

impl Runner for CudaRunner {
    /// The kernel knows no such window, and would leave in it what was there before.
    fn fills_result_windows(&self) -> bool {
        false
    }

    fn register(&self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        Err(RegisterError::HostOnly { name: op.name() })
    }

    fn install(
        &self,
        _: TenantId,
        _: OpcodeWindow,
        ops: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError> {
        match ops.first() {
            None => Ok(()),
            Some((_, op)) => Err(InstallError::HostOnly { name: op.name() }),
        }
    }

    fn uninstall(&self, _: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>> {
        Vec::new()
    }

    fn owner(&self, _: Opcode) -> Option<TenantId> {
        None
    }

    /// On the ring and not known to be over: what the chip has fetched of that it does not say.
    fn active(&self) -> u64 {
        let hub = self.shared.hub.get().and_then(Weak::upgrade);
        hub.map_or(0, |hub| {
            hub.outstanding().saturating_sub(hub.pump.waiting())
        })
    }

    fn wakes(&self) -> u64 {
        self.shared.woken.load(Ordering::Relaxed)
    }

    fn runs_here(&self) -> bool {
        let own = std::thread::current().id();
        let threads = [self.shared.watch.get(), self.shared.reaper.get()];
        threads
            .into_iter()
            .flatten()
            .any(|thread| thread.id() == own)
    }

    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake_watch();
        self.shared.wake_reaper();
    }

    fn end(&self) {
        // Should it never have been started, the watch ends with this.
        drop(self.hub.lock().take());
        // Held while joining, so that a second closer waits for the first.
        let mut threads = self.threads.lock();
        for thread in threads.drain(..) {
            // Neither has a panic of its own to report.
            let _ = thread.join();
        }
    }
}

impl Drop for CudaRunner {
    fn drop(&mut self) {
        self.stop();
        if !self.runs_here() {
            self.end();
        }
    }
}

/// How long to sleep when nothing was found `times` times in a row.
pub(super) fn nap(times: u32) -> Duration {
    Duration::from_micros(20 << times.min(4)).min(Duration::from_micros(200))
}
